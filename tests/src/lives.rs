//! Random lives of a device, hours to days each, of the whole agent with its real link and its real journal.
//!
//! A [`Plan`] is made from a seed: requests of all kinds, replays, faults of network, broker, platform and machine,
//! ends of the agent. [`live`] lets it happen on a paused clock of its own and writes down everything that can be seen
//! from outside; [`broken`] judges that. The same plan gives the same life, to the byte and the nanosecond.
//!
//! ```no_run
//! use iotdm_tests::lives::{Plan, broken, live};
//!
//! let life = live(&Plan::from_seed(7));
//! assert_eq!(broken(&life), [] as [&str; 0]);
//! ```
//!
//! # Assumptions
//! One thread owns agent, broker, proxy and clock. Loopback delivers at once what is written to it; with TCP_NODELAY
//! and few small packets in flight nothing waits for a timer of the kernel.

mod census;
mod chronicle;
mod hold;
mod laws;
mod make;
mod plan;
mod product;
mod steps;
mod world;

use tokio::runtime::Builder;

pub use census::Census;
pub use chronicle::{Entry, Moment, What};
pub use laws::{LAWS, broken};
pub use plan::{Ask, Ends, Event, Fate, Kind, Mood, OBSERVED, Plan, Step, Work};
pub use world::Life;

/// Lives a plan, on a runtime and a paused clock of its own.
///
/// # Panics
/// Loopback or the temporary folder cannot be used.
#[must_use]
pub fn live(plan: &Plan) -> Life {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime can be made").block_on(world::live(plan))
}

/// The first difference between two lives of one plan, or `None`.
#[must_use]
pub fn difference(one: &Life, other: &Life) -> Option<String> {
    let pairs = one.entries.iter().map(Some).chain(std::iter::repeat(None));
    let others = other.entries.iter().map(Some).chain(std::iter::repeat(None));
    let longest = one.entries.len().max(other.entries.len());
    let text = |entry: Option<&Entry>| entry.map_or_else(|| "nothing".into(), ToString::to_string);
    let mut differing = pairs.zip(others).take(longest).enumerate().filter(|(_, (one, other))| one != other);
    differing.next().map(|(place, (one, other))| format!("{place}: {} / {}", text(one), text(other)))
}

/// Lives the plan of a seed; what is broken, with the story of the shortest plan that breaks it too.
///
/// # Errors
/// The story.
pub fn check(seed: u64) -> Result<Life, String> {
    let plan = Plan::from_seed(seed);
    let life = live(&plan);
    let Some(first) = broken(&life).into_iter().next() else { return Ok(life) };
    let law = |text: &str| text.split(':').next().map(ToOwned::to_owned);
    let shrunk = plan.shrunk(|plan| broken(&live(plan)).iter().any(|text| law(text) == law(&first)));
    Err(story(seed, &shrunk))
}

/// A life as it is told: what is broken, and everything that was seen.
#[must_use]
pub fn story(seed: u64, plan: &Plan) -> String {
    let life = live(plan);
    let mut lines = vec![format!("seed {seed}, {} steps:", plan.steps.len())];
    lines.extend(life.entries.iter().map(ToString::to_string));
    lines.extend(broken(&life).into_iter().map(|law| format!("BROKEN {law}")));
    lines.join("\n")
}
