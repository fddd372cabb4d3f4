//! What the example programs have in common: the command line of a device on a plain broker, and its configuration.
//!
//! * [`Options`]: where the broker and the journal are, and how long to serve.
//! * [`mod@bench`]: custom actions that tell a driver how often they ran.
//! * [`crash`]: the end of the process at a named moment.
//! * [`machine`]: restarts that the agent takes for real.
//! * [`floor`]: what an agent costs that keeps no promises.
//! * [`lamp`]: something to act upon.

pub mod bench;
pub mod crash;
pub mod floor;
pub mod lamp;
pub mod machine;

use std::path::PathBuf;
use std::time::Duration;

use iotdm_agent::{Broker, Config, Limits};
use iotdm_core::{DeviceInfo, Identity, IdentityError};
use tokio::signal::unix::{SignalKind, signal};

/// The command line of an example that serves.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Host name or address of the broker.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port of the broker; the connection is not encrypted.
    #[arg(long, default_value_t = 1883)]
    pub port: u16,
    /// Folder of the journal, made when it is absent; its parent must exist.
    #[arg(long, value_name = "DIR")]
    pub journal: PathBuf,
    /// End after this many seconds; without it, at SIGTERM or SIGINT.
    #[arg(long, value_name = "N")]
    pub for_seconds: Option<u64>,
}

impl Options {
    /// The configuration of the lamp `d:org001:TYPE:ID`.
    ///
    /// # Errors
    /// A part of the identity is outside the grammar of `docs/protocol.md` §1.3.
    pub fn config(&self, type_id: &str, device_id: &str) -> Result<Config, IdentityError> {
        Ok(Config {
            identity: Identity::device("org001", type_id, device_id)?,
            broker: Broker::at(&self.host, self.port),
            token: None,
            lifetime: Duration::from_secs(3600),
            device_info: DeviceInfo {
                serial_number: Some("SN-0001".into()),
                model: Some("lamp".into()),
                fw_version: Some("1.0.0".into()),
                ..DeviceInfo::default()
            },
            metadata: None,
            limits: Limits::default(),
        })
    }

    /// Waits until the program is to end.
    ///
    /// # Panics
    /// Outside a tokio runtime with signals and time.
    pub async fn ended(self) {
        tokio::select! {
            () = told_to_end() => {}
            () = after(self.for_seconds) => {}
        }
    }
}

/// Waits for SIGTERM or SIGINT.
///
/// # Panics
/// Outside a tokio runtime with signals.
pub async fn told_to_end() {
    let on = |kind| signal(kind).expect("a runtime with signals can listen for TERM and INT");
    let (mut terminate, mut interrupt) = (on(SignalKind::terminate()), on(SignalKind::interrupt()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Never, without a number of seconds.
async fn after(seconds: Option<u64>) {
    match seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => std::future::pending().await,
    }
}
