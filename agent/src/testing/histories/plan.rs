//! What is done to a device in one history, as data: a failing plan is made shorter by leaving steps out.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use crate::store::CrashOutcome;

use super::machine::Fate;

/// One thing that is done to the device or its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The platform sends a request under a reqId of its own.
    Send { id: u32, what: usize },
    /// The platform sends a request once more, under its reqId.
    Replay { id: u32 },
    /// The platform sends another request under a reqId that was used.
    Reuse { id: u32, what: usize },
    /// Somebody sends what is no request of this device.
    Junk { id: u32, which: usize },
    /// Time passes.
    Pause(Duration),
    /// Everybody gets so many turns, and no time passes.
    Turns(u32),
    /// The connection breaks.
    Flap,
    /// The broker cannot be reached for so long.
    Outage(Duration),
    /// The broker forgets the session and what waits in it.
    SessionLost,
    /// The broker keeps its acknowledgements back for so long.
    PubacksHeld(Duration),
    /// The platform answers manage with 409, or not at all, for so long.
    ManageUnanswered { time: Duration, silent: bool },
    /// `kill -9`; the process is started again after so long.
    Kill { down: Duration },
    /// The power goes and comes back after so long; the wall clock may start at zero.
    PowerCut { down: Duration, clock_lost: bool },
    /// What becomes of the next restart that is asked for.
    NextRestart(Fate),
    /// The disk is full for so long.
    DiskFull(Duration),
    /// The n-th commit from here fails.
    FailedCommit(u64),
    /// The power goes in the n-th commit from here, as far as the disk is concerned.
    CrashAtCommit(u64, CrashOutcome),
    /// The process is killed and its journal damaged.
    JournalDamaged,
}

/// The steps of a seed. `weights` are those of the product's requests.
pub(super) fn plan(seed: u64, weights: &[u32]) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let mut next_id = 0;
    let length = rng.usize(MIN_STEPS..=MAX_STEPS);
    // Some histories go wrong all the time, others hardly ever: each finds what the other hides.
    let trouble = rng.u32(5..=60);
    let mut steps = Vec::with_capacity(2 * length);
    for _ in 0..length {
        let step = if rng.u32(0..100) < trouble {
            misfortune(&mut rng)
        } else {
            request(&mut rng, &mut next_id, weights)
        };
        steps.push(step);
        match rng.u32(0..10) {
            0..=2 => steps.push(Step::Pause(Duration::from_millis(rng.u64(1..2000)))),
            3..=4 => steps.push(Step::Pause(Duration::from_secs(rng.u64(1..90)))),
            5 => steps.push(Step::Pause(Duration::from_secs(rng.u64(60..4000)))),
            6..=7 => steps.push(Step::Turns(rng.u32(1..8))),
            _ => {}
        }
    }
    steps
}

/// The same steps with neighbouring pauses in one.
pub(super) fn merge_pauses(steps: &[Step]) -> Vec<Step> {
    let mut merged: Vec<Step> = Vec::new();
    for step in steps {
        match (merged.last_mut(), step) {
            (Some(Step::Pause(before)), Step::Pause(time)) => *before += *time,
            _ => merged.push(step.clone()),
        }
    }
    merged
}

fn request(rng: &mut Rng, next_id: &mut u32, weights: &[u32]) -> Step {
    let id = *next_id;
    let earlier = rng.u32(0..id.max(1));
    match rng.u32(0..100) {
        0..=19 if id > 0 => Step::Replay { id: earlier },
        20..=23 if id > 0 => Step::Reuse { id: earlier, what: chosen(rng, weights) },
        24..=29 => {
            *next_id += 1;
            Step::Junk { id, which: rng.usize(..) }
        }
        _ => {
            *next_id += 1;
            Step::Send { id, what: chosen(rng, weights) }
        }
    }
}

fn chosen(rng: &mut Rng, weights: &[u32]) -> usize {
    let mut drawn = rng.u32(0..weights.iter().sum::<u32>().max(1));
    for (index, weight) in weights.iter().enumerate() {
        if drawn < *weight {
            return index;
        }
        drawn -= weight;
    }
    0
}

fn misfortune(rng: &mut Rng) -> Step {
    let seconds = |rng: &mut Rng, most: u64| Duration::from_secs(rng.u64(0..=most));
    match rng.u32(0..100) {
        0..=13 => Step::Flap,
        14..=21 => Step::Outage(outage(rng)),
        22..=24 => Step::SessionLost,
        25..=32 => Step::PubacksHeld(seconds(rng, 300)),
        33..=36 => Step::ManageUnanswered { time: seconds(rng, 3600), silent: rng.bool() },
        37..=53 => Step::Kill { down: seconds(rng, 5) },
        54..=67 => Step::PowerCut { down: seconds(rng, 120), clock_lost: rng.u32(0..3) == 0 },
        68..=73 => Step::NextRestart(match rng.u32(0..4) {
            0 => Fate::Never,
            1 => Fate::Refused,
            _ => Fate::After(seconds(rng, 240)),
        }),
        74..=80 => Step::DiskFull(seconds(rng, 900)),
        81..=86 => Step::FailedCommit(rng.u64(1..5)),
        87..=95 => {
            let outcome = if rng.bool() { CrashOutcome::Applied } else { CrashOutcome::NotApplied };
            Step::CrashAtCommit(rng.u64(1..5), outcome)
        }
        _ => Step::JournalDamaged,
    }
}

/// Minutes, hours, or days.
fn outage(rng: &mut Rng) -> Duration {
    let longest = [10 * 60, 5 * 3600, 5 * 24 * 3600][rng.usize(0..3)];
    Duration::from_secs(rng.u64(1..longest))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send { id, what } => write!(f, "send request {what} as {id}"),
            Self::Replay { id } => write!(f, "send {id} again"),
            Self::Reuse { id, what } => write!(f, "send request {what} under the reqId of {id}"),
            Self::Junk { id, .. } => write!(f, "send what is no request of this device, as {id}"),
            Self::Pause(time) => write!(f, "{time:?} pass"),
            Self::Turns(turns) => write!(f, "{turns} turns"),
            Self::Flap => f.write_str("the connection breaks"),
            Self::Outage(time) => write!(f, "the broker cannot be reached for {time:?}"),
            Self::SessionLost => f.write_str("the broker forgets the session"),
            Self::PubacksHeld(time) => write!(f, "the broker acknowledges nothing for {time:?}"),
            Self::ManageUnanswered { time, silent: true } => {
                write!(f, "the platform answers manage with silence for {time:?}")
            }
            Self::ManageUnanswered { time, .. } => {
                write!(f, "the platform answers manage with 409 for {time:?}")
            }
            Self::Kill { down } => write!(f, "kill -9; started again after {down:?}"),
            Self::PowerCut { down, clock_lost } => {
                let clock = if *clock_lost { ", with the clock at zero" } else { "" };
                write!(f, "the power goes for {down:?}{clock}")
            }
            Self::NextRestart(Fate::Never) => f.write_str("the next restart will never come"),
            Self::NextRestart(Fate::Refused) => f.write_str("the next restart will be refused"),
            Self::NextRestart(Fate::Begun) => f.write_str("the next restart is on its way"),
            Self::NextRestart(Fate::After(pause)) => write!(f, "the next restart will take {pause:?}"),
            Self::DiskFull(time) => write!(f, "the disk is full for {time:?}"),
            Self::FailedCommit(n) => write!(f, "the {n}. commit from here fails"),
            Self::CrashAtCommit(n, outcome) => write!(f, "a crash at the {n}. commit from here: {outcome:?}"),
            Self::JournalDamaged => f.write_str("kill -9, and the journal is damaged"),
        }
    }
}

/// Fewest steps of a plan that are no pauses.
const MIN_STEPS: usize = 5;

/// Most steps of a plan that are no pauses: what goes wrong needs few, and a run of fewer is faster.
const MAX_STEPS: usize = 50;
