//! A device-management agent for the Watson IoT / Maximo IoT Device Management Protocol over MQTT.
//!
//! ```no_run
//! use iotdm_agent::{Agent, Config};
//! use iotdm_core::{Accepted, Context, Empty, Failure, Handler, Performed, Reboot, Refusal, Restart};
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
//! # async fn run(config: Config) -> Result<(), Box<dyn std::error::Error>> {
//! Agent::builder(config).journal("/var/lib/lumen/journal").on::<Reboot>(Luminaire).build()?.run_until(async {
//!     let _ = tokio::signal::ctrl_c().await;
//! }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! * **Running**: [`Agent`], its [`Builder`], and [`Device`] for the product's side of it.
//! * **Configuration**: [`Config`].
//! * **Attributes**: [`Builder::attribute`] declares a type, [`Device::subscribe`] follows the values, [`Threshold`] says
//!   which changes are notified.
//! * **The journal**: [`journal`] on [`store`]: what must not be forgotten.
//! * **The engine**: [`engine`], pure: inputs and time in, writes and effects out.
//! * **The link**: [`link`], the one place that knows rumqttc.
//! * **The machine**: [`system`].
//! * **Testing** (feature `testing`): a memory link, a memory store and a thin platform on the paused clock.
//!
//! ```text
//!  broker ─▶ link ─▶ topic + envelope ─▶ engine ──writes──▶ journal ──flush──▶ PUBACK, dispatch ─▶ handler
//!                                          ▲                                                        │ reply | refusal
//!         after_ack ◀── journal ◀── engine ◀── PUBACK of the response ◀── publish ◀── flush ◀── journal ◀── engine
//! ```

mod agent;
pub mod config;
mod driver;
pub mod engine;
mod hub;
pub mod journal;
pub mod link;
pub mod store;
mod subscription;
pub mod system;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

// The reference agent's configuration belongs to the program. Its fuzz target reaches it here, as part of the library,
// and only where cargo-fuzz builds it.
#[cfg(all(fuzzing, feature = "binary"))]
extern crate self as iotdm_agent;
#[cfg(all(fuzzing, feature = "binary"))]
#[allow(
    dead_code,
    unreachable_patterns,
    reason = "here the program is no crate of its own, and little of it is used"
)]
mod program;
#[cfg(all(fuzzing, feature = "binary"))]
pub use program::fuzzing;

pub use agent::events::Events;
pub use agent::{Agent, Attached, BuildError, Builder, Device, ReplaceError, State};
pub use config::{Broker, Config, DropPolicy, EventLimits, Limits, Mqtt5, Protocol, Secret, Tls, Transport};
pub use driver::{AttachError, MAX_ATTACHED, RunError};
pub use engine::{EventCounters, Misfit, Threshold};
pub use subscription::Subscription;
