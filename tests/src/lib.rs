//! End-to-end tests, and what holds for the repository as a whole.
//!
//! Nothing is here that a unit test of one crate could prove. `ARCHITECTURE.md`, section "Test layers", says which
//! layer a test belongs to. One that needs mosquitto is in `tests/mosquitto`, marked `#[ignore = "needs mosquitto"]`,
//! and run by `.ci/run`; one that needs root and loop devices is in `tests/violence`.
//!
//! * [`mosquitto`]: the broker, as a process of the test's.
//! * [`application`]: the platform's side of it, reduced to messages.
//! * [`device`]: an agent in this process, on a machine that the test restarts.
//! * [`lives`]: random lives of a device, and what must hold of them.
//! * [`vectors`]: plays `docs/vectors`.
//! * [`wire`]: the packets themselves, as they pass.

pub mod application;
pub mod device;
pub mod lives;
pub mod mosquitto;
pub mod vectors;
pub mod wire;

use std::time::Duration;

use tokio::time::timeout;

/// Waits for what has to happen on a real broker, and says what it was when it does not.
///
/// # Panics
/// After [`PATIENCE`].
pub async fn within<T>(what: &str, happens: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, happens).await {
        Ok(value) => value,
        Err(_) => panic!("within {PATIENCE:?} there was no {what}"),
    }
}

/// How long anything may take in real time: far above what it takes on a busy machine, so that only what never comes
/// runs into it.
pub const PATIENCE: Duration = Duration::from_secs(60);
