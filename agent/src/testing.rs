//! A product's test bench: no broker, no disk, no waiting.
//!
//! [`Platform`] sends requests and sees what the device publishes; it tracks nothing. [`MemoryDisk`] is a journal that
//! survives the agent and can fail. [`TestSystem`] is a machine whose clock is tokio's, so that on the paused clock
//! ninety seconds cost nothing, and which restarts when it is told to.
//!
//! ```
//! use std::time::Duration;
//!
//! use iotdm_agent::testing::{MemoryDisk, Platform, TestSystem, start};
//! use iotdm_core::{Accepted, Context, Empty, Failure, Handler, Performed, Reboot, Refusal, Restart, Route};
//! use serde_json::json;
//!
//! struct Luminaire;
//!
//! impl Handler<Reboot> for Luminaire {
//!     async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
//!         Ok(Accepted)
//!     }
//!     async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
//!         cx.system().restart(Restart::Reboot).await.map_err(|error| Failure::new(error.to_string()))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let (platform, disk, system) = (Platform::new(), MemoryDisk::new(), TestSystem::new());
//! let agent = start(&platform, &disk, &system, |builder| builder.on::<Reboot>(Luminaire));
//! platform.managed(1).await;
//! platform.send(Route::Reboot, json!({"reqId": "7f0c"}));
//! assert_eq!(platform.response("7f0c").await["rc"], 202);
//!
//! tokio::time::sleep(Duration::from_secs(90)).await; // takes no time
//! agent.kill().await;
//! system.next_boot();
//! let agent = start(&platform, &disk, &system, |builder| builder.on::<Reboot>(Luminaire));
//! platform.managed(2).await;
//! platform.send(Route::Reboot, json!({"reqId": "7f0c"})); // the same one again
//! assert_eq!(platform.response("7f0c").await["rc"], 202);
//! assert_eq!(system.restarts(), [Restart::Reboot]);
//! agent.stop().await.expect("it was told to stop");
//! # }
//! ```
//!
//! One line proves what an action of the product's own declares, crashes and lateness included: [`action`].
//!
//! Those are the histories that somebody has thought of. [`histories`] makes others, at random, and judges them: about
//! ten lines put a product's own handlers through crashes, power cuts, outages and damaged journals, and a failure is
//! printed as its shortest story.
//!
//! A product's `Cargo.toml` has this for its tests, and each test is `#[tokio::test(start_paused = true)]`:
//!
//! ```toml
//! [dev-dependencies]
//! iotdm-agent = { path = "../iotdm/agent", default-features = false, features = ["testing"] }
//! serde_json = "1"
//! tokio = { version = "1", features = ["macros", "rt", "test-util"] }
//! ```

pub mod action;
pub mod histories;
mod link;
mod platform;
pub mod simulation;
mod system;

use std::sync::Arc;
use std::time::Duration;

use iotdm_core::{DeviceInfo, Identity, System, Table};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Agent, Broker, Builder, Config, Device, Limits, RunError};

pub use self::platform::{Platform, Published};
pub use self::system::TestSystem;
pub use crate::store::{CrashOutcome, MemoryDisk};

/// The configuration of a test device, `d:org001:lamp:lamp1`.
pub fn config() -> Config {
    Config {
        identity: Identity::device("org001", "lamp", "lamp1").expect("the identity keeps the grammar"),
        broker: Broker::at("memory", 1883),
        token: None,
        lifetime: Duration::from_secs(3600),
        device_info: DeviceInfo { fw_version: Some("1.0.0".into()), ..DeviceInfo::default() },
        metadata: None,
        limits: Limits::default(),
    }
}

/// Starts an agent on these, with the handlers that `product` registers.
///
/// # Panics
/// When the agent cannot be built.
pub fn start(
    platform: &Platform,
    disk: &MemoryDisk,
    system: &TestSystem,
    product: impl FnOnce(Builder) -> Builder,
) -> Running {
    let machine = Arc::new(system.clone());
    start_on(platform, disk, machine, system.next_seed(), product, |_| {})
}

/// [`start`] for a gateway, `g:org001:gw:g7`: the devices that it speaks for are attached in `product`.
///
/// # Panics
/// When the agent cannot be built.
pub fn start_gateway(
    platform: &Platform,
    disk: &MemoryDisk,
    system: &TestSystem,
    product: impl FnOnce(Builder) -> Builder,
) -> Running {
    let identity = Identity::gateway("org001", "gw", "g7").expect("the identity keeps the grammar");
    let machine = Arc::new(system.clone());
    let config = Config { identity, ..config() };
    start_as(config, platform, disk, machine, system.next_seed(), product, |_| {})
}

/// [`start`], on any machine and with something around the handlers.
fn start_on(
    platform: &Platform,
    disk: &MemoryDisk,
    system: Arc<dyn System>,
    seed: u64,
    product: impl FnOnce(Builder) -> Builder,
    prepare: impl FnOnce(&mut Table),
) -> Running {
    start_as(config(), platform, disk, system, seed, product, prepare)
}

fn start_as(
    config: Config,
    platform: &Platform,
    disk: &MemoryDisk,
    system: Arc<dyn System>,
    seed: u64,
    product: impl FnOnce(Builder) -> Builder,
    prepare: impl FnOnce(&mut Table),
) -> Running {
    let builder = Agent::builder(config).link(platform.link()).store(disk.clone()).system(system).seed(seed);
    let mut agent = product(builder).build().expect("the agent can be built");
    prepare(agent.table_mut());
    let (device, attached) = (agent.device(), agent.all_attached());
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move { agent.run_until(stopped.cancelled()).await });
    Running { device, attached, stop, task }
}

/// An agent that runs.
#[derive(Debug)]
pub struct Running {
    device: Device,
    attached: Vec<Device>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    /// The device as the product sees it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// An attached device as the product sees it, where it was attached from the start.
    pub fn attached(&self, type_id: &str, device_id: &str) -> Option<Device> {
        let name = Some(format!("{type_id}/{device_id}"));
        self.attached.iter().find(|device| device.attached_as() == name).cloned()
    }

    /// Ends the agent as `kill -9` does: nothing is finished, nothing is said.
    pub async fn kill(self) {
        self.task.abort();
        // An aborted task gives an error, and that is what was asked for.
        let _ = self.task.await;
    }

    /// Ends the agent as SIGTERM does.
    ///
    /// # Errors
    /// What the run ended with.
    ///
    /// # Panics
    /// When the agent panicked.
    pub async fn stop(self) -> Result<(), RunError> {
        self.stop.cancel();
        self.ended().await
    }

    /// Waits until the agent ends by itself.
    ///
    /// # Errors
    /// What the run ended with.
    ///
    /// # Panics
    /// When the agent panicked.
    pub async fn ended(self) -> Result<(), RunError> {
        self.task.await.expect("the agent does not panic")
    }
}
