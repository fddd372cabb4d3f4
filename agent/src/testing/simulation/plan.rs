//! A life as data.

use std::fmt;

/// A device's life: how it is set up, and what happens, step by step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The set-up: see [`Plan::from_bytes`].
    pub set_up: [u8; 4],
    /// What happens. Any of them may be left out; the others keep their meaning.
    pub steps: Vec<Step>,
}

/// One thing that happens, and two numbers that say which or how much.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub act: Act,
    /// Which, or how much.
    pub a: u8,
    /// Which, or how much.
    pub b: u8,
}

macro_rules! acts {
    ($($(#[$doc:meta])* $act:ident = $weight:literal,)+) => {
        /// What can happen. Plans that were kept name an act by its place here: add at the end, take none away.
        #[non_exhaustive]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Act {
            $($(#[$doc])* $act,)+
        }

        impl Act {
            /// Each act, and how many of 256 steps it is.
            const WEIGHTS: &[(Self, u16)] = &[$((Self::$act, $weight)),+];
        }
    };
}

acts! {
    /// The platform asks for something.
    Ask = 24,
    /// The platform sends a request once more.
    Replay = 14,
    /// The platform uses a reqId for another request.
    Reuse = 2,
    /// The platform sends many requests that nobody knows.
    Flood = 1,
    /// The broker delivers a message.
    Deliver = 26,
    /// The broker delivers an unacknowledged message again, on the same connection.
    Redeliver = 4,
    /// A message of the agent reaches the broker.
    Arrive = 26,
    /// The agent takes what waits for it.
    Take = 22,
    /// A handler returns.
    Return = 26,
    /// Everything happens that happens at once.
    Rest = 14,
    /// The link is cut; some of what was on its way still arrives.
    Cut = 6,
    /// The broker can be reached, or cannot.
    Reach = 3,
    /// The session is lost, or another client takes it.
    LoseSession = 2,
    /// The broker holds its PUBACKs back, or sends them.
    Pubacks = 3,
    /// The platform answers manage otherwise, or not at all.
    ManageCode = 3,
    /// The platform answers reports otherwise, or not at all.
    ReportCode = 1,
    /// The process dies after so many commits and effects.
    Crash = 6,
    /// The power goes.
    PowerOff = 2,
    /// The machine restarts, if a handler has asked for it.
    Restart = 6,
    /// The agent is stopped as a service manager does it.
    Stop = 1,
    /// The disk is full, or has room.
    DiskFull = 4,
    /// A commit fails, with any outcome.
    CommitFails = 4,
    /// A bit on the disk flips, and the process dies.
    Rot = 1,
    /// The clock is lost, or found.
    Clock = 2,
    /// Seconds pass.
    Seconds = 14,
    /// Minutes, hours or days pass.
    Long = 5,
    /// Time passes and nothing gets through, unnoticed.
    Stall = 3,
    /// The product sets an attribute.
    SetAttribute = 6,
    /// The product reports something.
    Report = 5,
    /// The product wants the device to be managed, or not.
    WantManaged = 2,
    /// A message that is no request arrives.
    Garbage = 1,
    /// A retained request arrives.
    Retained = 1,
    /// The product publishes an event.
    Event = 7,
    /// The product publishes many events.
    Events = 2,
    /// An application commands something.
    Command = 7,
}

impl Act {
    fn of_number(number: u8) -> Option<Self> {
        Self::WEIGHTS.get(usize::from(number)).map(|(act, _)| *act)
    }

    /// The act for a byte.
    fn from_byte(byte: u8) -> Self {
        let mut left = u16::from(byte);
        for (act, weight) in Self::WEIGHTS {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return *act,
            }
        }
        unreachable!("the weights sum up to 256")
    }
}

impl Plan {
    /// The plan of a line of hexadecimal digits, as [`Display`](fmt::Display) writes it. Acts have their numbers there
    /// and not their weights, so that a line that was kept stays the same life when the weights change.
    pub fn from_hex(line: &str) -> Option<Self> {
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let (pairs, rest) = line.trim().as_bytes().as_chunks::<2>();
        let bytes: Vec<u8> = pairs.iter().map(byte).collect::<Option<_>>().filter(|_| rest.is_empty())?;
        let (set_up, steps) = bytes.split_first_chunk()?;
        let step = |[act, a, b]: &[u8; STEP]| Some(Step { act: Act::of_number(*act)?, a: *a, b: *b });
        let (steps, rest) = steps.as_chunks::<STEP>();
        let steps = steps.iter().map(step).collect::<Option<_>>().filter(|_| rest.is_empty())?;
        Some(Self { set_up: *set_up, steps })
    }

    /// The life of a seed.
    pub fn from_seed(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let steps = random.usize(SHORTEST..=LONGEST);
        let mut bytes = vec![0; SET_UP + STEP * steps];
        random.fill(&mut bytes);
        Self::from_bytes(&bytes)
    }

    /// The life that these bytes say: four for the set-up, then three for each step; what is missing is zero.
    ///
    /// The set-up: how many answers are kept, how many requests may wait, run and be unsent; the broker's window;
    /// whether it keeps order and counts how long messages wait, and whether handlers obey their cancellation.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut set_up = [0; SET_UP];
        let (header, steps) = bytes.split_at(bytes.len().min(SET_UP));
        set_up[..header.len()].copy_from_slice(header);
        let step = |bytes: &[u8; STEP]| Step { act: Act::from_byte(bytes[0]), a: bytes[1], b: bytes[2] };
        let (steps, _) = steps.as_chunks::<STEP>();
        Self { set_up, steps: steps.iter().take(MOST_STEPS).map(step).collect() }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.steps.iter().flat_map(|step| [step.act as u8, step.a, step.b]);
        self.set_up.into_iter().chain(steps).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({}, {})", self.act, self.a, self.b)
    }
}

/// Bytes of the set-up.
const SET_UP: usize = 4;

/// Bytes of a step.
const STEP: usize = 3;

/// Steps of the shortest and of the longest life that a seed gives.
const SHORTEST: usize = 10;
const LONGEST: usize = 100;

/// Steps that are taken of longer input.
const MOST_STEPS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_sum_up_to_256() {
        assert_eq!(Act::WEIGHTS.iter().map(|(_, weight)| weight).sum::<u16>(), 256);
    }

    #[test]
    fn every_act_has_a_byte() {
        for (act, _) in Act::WEIGHTS {
            assert!((0..=255).any(|byte| Act::from_byte(byte) == *act), "{act:?}");
        }
    }

    #[test]
    fn a_plan_is_written_down_and_read_back() {
        for seed in 0..20 {
            let plan = Plan::from_seed(seed);
            assert_eq!(Plan::from_hex(&plan.to_string()), Some(plan));
        }
        assert_eq!(Plan::from_hex("0g"), None);
        assert_eq!(Plan::from_hex("012"), None);
        assert_eq!(Plan::from_hex("00000000ff0000"), None);
    }

    #[test]
    fn a_seed_gives_one_plan() {
        assert_eq!(Plan::from_seed(7), Plan::from_seed(7));
        assert_ne!(Plan::from_seed(7), Plan::from_seed(8));
    }
}
