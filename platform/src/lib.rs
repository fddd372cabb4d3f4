//! The platform's side of the Device Management Protocol, for sandboxes and tests.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use iotdm_platform::broker::{Broker, BrokerOptions};
//! use iotdm_platform::{DeviceName, Platform, PlatformOptions, Request};
//!
//! let broker = Broker::start(BrokerOptions::default()).await?;
//! let platform = Platform::connect(PlatformOptions::new(broker.local_addr())).await?;
//! let pump = DeviceName::new("pump", "p-1")?;
//! platform.managed(&pump).await;
//! println!("{}", platform.initiate(&pump, &Request::reboot())?.completed().await);
//! # Ok(())
//! # }
//! ```
//!
//! * [`Platform`] is connected to a broker, answers what devices send, and makes requests of them.
//! * [`Request`] is what it asks for; a [`RequestHandle`] tells how one request fares.
//! * [`track`]: the rules behind it, pure: what completes a request, on each device (`docs/protocol.md` §7).
//! * [`broker`]: a small MQTT 3.1.1 broker in this process, deterministic under tokio's paused clock. Never a
//!   production broker.
//! * [`images`]: a server of one large image that breaks where it is told to.
//! * [`proxy`]: a loopback proxy that cuts, delays and swallows what passes through it.
//! * [`sandbox`]: all of it in one process with a device, and a tour of what they promise.

pub mod broker;
pub mod images;
pub mod proxy;
pub mod sandbox;
pub mod track;

mod client;
mod platform;
mod space;

pub use platform::{
    ConnectError, EVENTS_LIMIT, Event, FirmwareError, FirmwareRequest, FirmwareStep, Happening, Image,
    Platform, PlatformOptions, Replies, Reply, Request, RequestHandle,
};
pub use space::{DeviceName, Space, SpaceError};
pub use track::{Answer, DeviceView, Failure, InitiateError, ManageBody, Outcome, Stage, Tracked};
