//! `iotdm sandbox`: a broker, the platform and a device in one process, and a tour of what they promise.
//!
//! Everything is on loopback, on free ports, in one temporary folder that is removed at the end. The device is the
//! agent of `iotdm-agent` with its real journal and its real MQTT connection; only its machine is played: a reboot ends
//! the agent without a word and starts it again on the same journal, and no process of the host is ever started.
//!
//! The table and the promises at the end are made of what was observed: answers from the platform's tracking, runs from
//! counters in the handlers, bytes from the image server.

mod device;
mod machine;
mod narrator;
mod screen;
mod tour;
mod world;

use std::io::{self, Write};

use screen::{Look, Screen};
use tour::Tour;
use world::World;

/// How the sandbox runs.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SandboxOptions {
    /// Whether it stays up after the tour, until it is interrupted.
    pub stay: bool,
    /// Whether colours, symbols and a moving bar are shown.
    pub terminal: bool,
}

impl SandboxOptions {
    /// Plain lines, and the end with the tour's.
    #[must_use]
    pub const fn plain() -> Self {
        Self { stay: false, terminal: false }
    }
}

/// How a sandbox ended that was not broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxEnd {
    /// The tour is over, and every promise was shown.
    Shown,
    /// It was interrupted.
    Interrupted,
}

/// Why a sandbox did not show what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// Loopback, the temporary folder or the output cannot be used.
    #[error("the sandbox cannot run: {0}")]
    Io(#[from] io::Error),
    /// The platform is not connected to the sandbox's own broker.
    #[error(transparent)]
    Connect(#[from] crate::ConnectError),
    /// A step of the tour did not end.
    #[error("`{0}` did not end within its time")]
    Overdue(&'static str),
    /// A step of the tour ended otherwise.
    #[error("`{step}`: {reason}")]
    Failed {
        /// The step.
        step: &'static str,
        /// What happened.
        reason: String,
    },
    /// Promises that the tour did not show.
    #[error("not shown: {}", .0.join("; "))]
    Broken(Vec<String>),
}

/// Plays the tour, writing to `out`, until it is over or `interrupted` is.
///
/// # Errors
/// The first step that did not go as it should, or every promise that was not shown.
pub async fn run(
    options: SandboxOptions,
    out: Box<dyn Write + Send>,
    interrupted: impl Future<Output = ()>,
) -> Result<SandboxEnd, SandboxError> {
    let look = if options.terminal { Look::Terminal } else { Look::Plain };
    let (world, sources) = World::start().await?;
    let mut tour = Tour::new(world, sources, Screen::new(out, look));
    let played = tokio::select! {
        biased;
        () = interrupted => None,
        played = play(&mut tour, options.stay) => Some(played),
    };
    // Whatever happened, nothing is left behind.
    let (mut screen, cleaned) = tour.end().await;
    match played {
        None => {
            screen.plain("\nstopped")?;
            Ok(SandboxEnd::Interrupted)
        }
        Some(Err(error)) => Err(error),
        Some(Ok(mut broken)) => {
            let text = "nothing is left on the host";
            let evidence = "the temporary folder is gone, and no process was started";
            screen.promise(cleaned, text, evidence)?;
            broken.extend((!cleaned).then(|| text.to_owned()));
            if broken.is_empty() { Ok(SandboxEnd::Shown) } else { Err(SandboxError::Broken(broken)) }
        }
    }
}

/// The tour and what comes after it; the promises that were not shown.
async fn play(tour: &mut Tour, stay: bool) -> Result<Vec<String>, SandboxError> {
    tour.play().await?;
    let broken = tour.conclude()?;
    if stay {
        tour.stay().await?;
    }
    Ok(broken)
}
