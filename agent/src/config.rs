//! What an agent needs to know: who it is, where the broker is, and its bounds.

use std::fmt;
use std::time::Duration;

use iotdm_core::{DeviceInfo, Identity, TopicPrefix};
use serde_json::Value;

/// An agent's configuration. The builder checks it; a program reads it from wherever it likes.
///
/// ```
/// use std::time::Duration;
///
/// use iotdm_agent::{Broker, Config, Limits, Secret, Tls};
/// use iotdm_core::{DeviceInfo, Identity};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config {
///     identity: Identity::device("abc123", "lamp", "lamp-17")?,
///     broker: Broker {
///         tls: Some(Tls::default()),
///         ..Broker::at("abc123.messaging.internetofthings.ibmcloud.com", 8883)
///     },
///     token: std::env::var("IOTDM_TOKEN").ok().map(Secret::new),
///     lifetime: Duration::from_secs(3600),
///     device_info: DeviceInfo { fw_version: Some("1.4.0".into()), ..DeviceInfo::default() },
///     metadata: None,
///     limits: Limits::default(),
/// };
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this device is.
    pub identity: Identity,
    /// Where the broker is and how it is reached.
    pub broker: Broker,
    /// The token that proves the identity; none for a broker that asks for none.
    pub token: Option<Secret>,
    /// How long the platform may hear nothing before it counts the device as dormant; zero: never. At least an hour
    /// otherwise (`docs/protocol.md` §4.1).
    pub lifetime: Duration,
    /// What the device is; sent with manage.
    pub device_info: DeviceInfo,
    /// Free-form data; sent with manage.
    pub metadata: Option<Value>,
    /// The bounds.
    pub limits: Limits,
}

/// Where the broker is and how it is reached.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Encryption; `None` sends everything, the token included, in clear.
    pub tls: Option<Tls>,
    /// How often the connection shows a sign of life; a dead one is noticed within twice this time.
    pub keep_alive: Duration,
    /// Whether the broker keeps requests while the device is away (`clean_session = false`).
    pub durable_session: bool,
    /// The user name that goes with the token; `None` is the service's own, `use-token-auth`, which tells no devices
    /// apart. A broker that many share needs one for each.
    pub user_name: Option<String>,
    /// Where this device's topics lie on a broker whose tree many share; `None` where the broker gives each device a
    /// tree of its own, as the service does.
    pub topic_prefix: Option<TopicPrefix>,
}

impl Broker {
    /// A broker without encryption, a keep-alive of a minute, a durable session, the service's user name, and no topic
    /// prefix.
    pub fn at(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            tls: None,
            keep_alive: Duration::from_secs(60),
            durable_session: true,
            user_name: None,
            topic_prefix: None,
        }
    }
}

/// Encryption of the connection. The broker's name is always verified.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The authorities that may vouch for the broker, as a PEM chain; the system's when absent.
    pub ca_pem: Option<Vec<u8>>,
    /// The device's own certificate chain and key, PEM.
    pub client_pem: Option<(Vec<u8>, Secret)>,
}

/// Bounds of an agent; each default suits a small device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many handlers run at once.
    pub running: usize,
    /// How many requests wait or run; the next is answered 409.
    pub pending: usize,
    /// How many executed requests are kept for replays.
    pub kept_executed: usize,
    /// How many refused (409) requests are kept for replays.
    pub kept_refused: usize,
    /// How many bytes the kept answers may have in all. Beyond it the oldest lose their `d`, never their fact.
    pub kept_bytes: usize,
    /// How many answers wait to be sent. At the bound, requests are no longer acknowledged.
    pub outbox: usize,
    /// How long running handlers may go on after the agent was told to stop.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            running: 64,
            pending: 1024,
            kept_executed: 10_000,
            kept_refused: 1024,
            kept_bytes: 4 * 1024 * 1024,
            outbox: 4096,
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

/// A value that never shows: not in logs, not in `Debug`, not in errors.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Keeps a value.
    pub fn new(value: impl Into<Box<str>>) -> Self {
        Self(value.into())
    }

    /// The value, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_in_debug() {
        assert!(!format!("{:?}", Secret::new("s3cr3t")).contains("s3cr3t"));
    }
}
