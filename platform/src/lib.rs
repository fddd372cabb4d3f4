//! The platform's side of the Device Management Protocol, for sandboxes and tests.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use iotdm_platform::broker::{Broker, BrokerOptions};
//!
//! let broker = Broker::start(BrokerOptions::default()).await?;
//! println!("devices connect to mqtt://{}", broker.local_addr());
//! broker.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! * [`broker`]: a small MQTT 3.1.1 broker in this process, deterministic under tokio's paused clock. Never a
//!   production broker.
//! * [`proxy`]: a loopback proxy that cuts, delays and swallows what passes through it.

pub mod broker;
pub mod proxy;
