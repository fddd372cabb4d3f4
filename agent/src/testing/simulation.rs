//! The life of a device, over and over, with everything failing that can: the proof of the promises.
//!
//! The real engine on the real journal stands in a model world: a broker (durable session, window, redelivery, loss,
//! reordering), a platform (replays, reused reqIds, refusals, silence), a disk (full, torn, rotten), a machine (boots,
//! restarts that do not come, a lost clock, firmware slots) and time that jumps. Because the engine's writes and
//! effects are data, a crash can come between any two of them.
//!
//! A [`Plan`] is a life as data, drawn from a seed or from bytes. [`Plan::run`] lives it and checks every [`Law`] at
//! every step; when everything works again at its end, nothing may be lost, unanswered, repeated or restless.
//! [`Plan::shrink`] leaves out what a violation does not need.
//!
//! It judges this agent, not a product: for handlers of your own there is [`histories`](super::histories).
//!
//! ```
//! use iotdm_agent::testing::simulation::Plan;
//!
//! for seed in 0..20 {
//!     let life = Plan::from_seed(seed).run();
//!     assert!(life.violation.is_none(), "seed {seed}: {}", life.violation.unwrap());
//! }
//! ```

mod arrive;
pub(crate) mod ask;
mod attributes;
pub(crate) mod broker;
mod calm;
mod device;
mod events;
pub(crate) mod laws;
mod life;
mod plan;
pub(crate) mod settings;
mod story;
pub(crate) mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use self::life::Life;

pub use self::plan::{Act, Plan, Step};

/// What must hold: the promises P1 to P10 as a device's surroundings can tell, and that the device comes to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Law {
    /// P1.
    AcceptedIsKept,
    /// P2.
    NoReplayRuns,
    /// P3.
    EveryDeliveryIsAnswered,
    /// P4.
    AnswersAreKept,
    /// P5.
    AnswerBeforeDisruption,
    /// P6.
    NoLoop,
    /// P7.
    NothingWaits,
    /// P8.
    EverythingIsBounded,
    /// P9.
    LateIsADecision,
    /// P10.
    DamageDoesNotBrick,
    /// An event that was confirmed arrives, or is counted as dropped by the bound; oldest first on each connection.
    EventsAreKept,
    /// A command that was accepted ends once; one that waits for its handler is acknowledged after it.
    CommandsEndOnce,
    /// PUBACKs leave in the order of arrival.
    AcknowledgedInOrder,
    /// When everything works again, the device is managed and comes to rest.
    Quiet,
    /// Nothing panics.
    NoPanic,
}

impl Law {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::AcceptedIsKept,
        Self::NoReplayRuns,
        Self::EveryDeliveryIsAnswered,
        Self::AnswersAreKept,
        Self::AnswerBeforeDisruption,
        Self::NoLoop,
        Self::NothingWaits,
        Self::EverythingIsBounded,
        Self::LateIsADecision,
        Self::DamageDoesNotBrick,
        Self::EventsAreKept,
        Self::CommandsEndOnce,
        Self::AcknowledgedInOrder,
        Self::Quiet,
        Self::NoPanic,
    ];
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AcceptedIsKept => "P1, nothing accepted is lost",
            Self::NoReplayRuns => "P2, a replay never runs twice",
            Self::EveryDeliveryIsAnswered => "P3, every delivery is answered",
            Self::AnswersAreKept => "P4, an answer is kept until the broker has it",
            Self::AnswerBeforeDisruption => "P5, a disruptive action starts after its answer, and is judged",
            Self::NoLoop => "P6, no loop",
            Self::NothingWaits => "P7, nothing waits for what it need not",
            Self::EverythingIsBounded => "P8, everything is bounded",
            Self::LateIsADecision => "P9, late is a decision",
            Self::DamageDoesNotBrick => "P10, a damaged journal does not brick the device",
            Self::EventsAreKept => "an event is kept until the broker has it",
            Self::CommandsEndOnce => "a command ends once",
            Self::AcknowledgedInOrder => "PUBACKs leave in the order of arrival",
            Self::Quiet => "the device comes to rest",
            Self::NoPanic => "nothing panics",
        })
    }
}

/// A law that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Which.
    pub law: Law,
    /// What happened.
    pub what: String,
}

impl Violation {
    /// Whether both are the same but for what they name.
    fn is_like(&self, other: &Self) -> bool {
        let words =
            |what: &str| what.chars().filter(|c| !c.is_ascii_digit()).take(LIKE_CHARS).collect::<String>();
        self.law == other.law && words(&self.what) == words(&other.what)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.law, self.what)
    }
}

/// How a life went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// The first law that did not hold.
    pub violation: Option<Violation>,
    /// What happened, line by line, each with its time in seconds; empty unless the plan was [told](Plan::tell).
    pub story: Vec<String>,
    /// What the life was made of.
    pub counts: Counts,
}

/// What lives were made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Steps taken.
    pub steps: u64,
    /// Virtual time, in seconds.
    pub seconds: u64,
    /// Copies of requests that the platform sent.
    pub requests: u64,
    /// Handlers that were started.
    pub starts: u64,
    /// Commits of the journal.
    pub commits: u64,
    /// Processes of the agent.
    pub processes: u64,
    /// Journals that were set aside.
    pub set_aside: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.seconds += other.seconds;
        self.requests += other.requests;
        self.starts += other.starts;
        self.commits += other.commits;
        self.processes += other.processes;
        self.set_aside += other.set_aside;
    }
}

impl Plan {
    /// Lives this life, to its end or to the first violation.
    pub fn run(&self) -> Outcome {
        self.live(false)
    }

    /// The same with its story.
    pub fn tell(&self) -> Outcome {
        self.live(true)
    }

    fn live(&self, told: bool) -> Outcome {
        let mut life = Life::new(self, told);
        let lived = catch_unwind(AssertUnwindSafe(|| life.go()));
        let mut outcome = life.outcome();
        if let Err(panic) = lived {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            let what = text.unwrap_or_else(|| "a panic without words".into());
            outcome.violation = Some(Violation { law: Law::NoPanic, what });
        }
        outcome
    }

    /// A plan of fewer steps that breaks the same law, found within so many runs; itself when it breaks none.
    #[must_use]
    pub fn shrink(&self, runs: usize) -> Self {
        let Some(violation) = self.run().violation else { return self.clone() };
        let mut best = self.clone();
        let mut left = runs;
        let mut size = best.steps.len().div_ceil(2);
        while size > 0 && left > 0 {
            let mut from = 0;
            let before = best.steps.len();
            while from < best.steps.len() && left > 0 {
                let mut shorter = best.clone();
                shorter.steps.drain(from..(from + size).min(best.steps.len()));
                left -= 1;
                if shorter.run().violation.is_some_and(|found| found.is_like(&violation)) {
                    best = shorter;
                } else {
                    from += size;
                }
            }
            if size == 1 && best.steps.len() == before {
                break;
            }
            size = if size == 1 { 1 } else { size.div_ceil(2) };
        }
        best
    }
}

/// How much of what happened two violations must share to be one.
const LIKE_CHARS: usize = 40;

#[cfg(test)]
mod tests;
