//! What an agent needs to know: who it is, where the broker is, and its bounds.

mod endpoint;

use std::fmt;
use std::time::Duration;

use iotdm_core::{DeviceInfo, Identity, Name, TopicPrefix};
use serde_json::Value;

pub use endpoint::{ClientFiles, Pin, PinError, Proxy, TlsVersion, Transport};

/// An agent's configuration. The builder checks it; a program reads it from wherever it likes.
///
/// ```
/// use std::time::Duration;
///
/// use iotdm_agent::{Broker, Config, Limits, Secret};
/// use iotdm_core::{DeviceInfo, Identity};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let identity = Identity::device("abc123", "lamp", "lamp-17")?;
/// let config = Config {
///     broker: Broker::of_watson(&identity.org),
///     identity,
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

/// Where the broker is and how it is reached. Host, port, transport and TLS are independent of each other
/// (`docs/protocol.md` §1.1).
#[derive(Clone, Debug)]
pub struct Broker {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What carries MQTT.
    pub transport: Transport,
    /// The HTTP proxy in between; `None` connects to the broker itself.
    pub proxy: Option<Proxy>,
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
    /// The version of MQTT, and what it alone has.
    pub protocol: Protocol,
}

impl Broker {
    /// The broker of an organization of Watson IoT Platform: `<org>.messaging.internetofthings.ibmcloud.com`, port 8883,
    /// with TLS.
    pub fn of_watson(org: &Name) -> Self {
        let tls = Some(Tls::default());
        Self { tls, ..Self::at(format!("{org}.messaging.internetofthings.ibmcloud.com"), 8883) }
    }

    /// The broker of a workspace of Maximo Application Suite: `<org>.messaging.iot.<domain>`, port 443, with TLS.
    pub fn of_maximo(org: &Name, domain: &str) -> Self {
        Self { tls: Some(Tls::default()), ..Self::at(format!("{org}.messaging.iot.{domain}"), 443) }
    }

    /// A broker without encryption, a keep-alive of a minute, a durable session, the service's user name, and no topic
    /// prefix.
    pub fn at(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            transport: Transport::Tcp,
            proxy: None,
            tls: None,
            keep_alive: Duration::from_secs(60),
            durable_session: true,
            protocol: Protocol::default(),
            user_name: None,
            topic_prefix: None,
        }
    }
}

/// The version of MQTT that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1, which every broker of this protocol speaks (`docs/protocol.md` §1.5).
    #[default]
    Mqtt311,
    /// MQTT 5.
    Mqtt5(Mqtt5),
}

/// What MQTT 5 has beside 3.1.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mqtt5 {
    /// How long the broker keeps the session, and the requests in it, after the device has gone; whole seconds. `None`:
    /// for ever, as with 3.1.1. The broker may shorten it. Without a durable session it has no meaning.
    pub session_expiry: Option<Duration>,
    /// The message expiry that the platform gives to **every** request; whole seconds. The broker hands a request over
    /// with what is left of it, so that the time it waited is known to the second, and a request that was kept for two
    /// minutes is not refused because the device was away for a day. `None`: ages are told by the order of the queue
    /// alone. A platform that gives more than this would make requests look younger than they are.
    pub request_expiry: Option<Duration>,
}

/// Encryption of the connection: TLS 1.2 or 1.3, with the broker's name in the first message (SNI). The broker's chain
/// and name are verified unless [`insecure_skip_verify`](Self::insecure_skip_verify) says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The authorities that may vouch for the broker, as a PEM chain; the system's when absent.
    pub ca_pem: Option<Vec<u8>>,
    /// The device's own certificate chain and key, PEM.
    pub client_pem: Option<(Vec<u8>, Secret)>,
    /// Where that pair is read again when it has changed; without it the pair stays for the life of the agent.
    pub client_files: Option<ClientFiles>,
    /// The only version to be offered; both when absent.
    pub version: Option<TlsVersion>,
    /// Unless empty, the broker's key must be one of these, *in addition* to a chain and a name that are verified.
    pub pins: Vec<Pin>,
    /// Takes whoever answers for the broker and gives them the token, too. For a test bench: it is logged as an error at
    /// each connection, and refused together with [`pins`](Self::pins).
    pub insecure_skip_verify: bool,
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
    /// How many events wait for the broker.
    pub events: EventLimits,
}

/// Bounds of the store of events. What it holds is in memory and in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventLimits {
    /// What the stored events may weigh in all, in bytes. Each weighs its payload, its topic, and 128 bytes: that is
    /// what it costs in memory.
    pub bytes: usize,
    /// How many may be stored.
    pub count: usize,
    /// Which event gives way at the bound.
    pub policy: DropPolicy,
}

impl EventLimits {
    /// 1 MiB, 10 000 events, and the oldest gives way.
    pub const DEFAULT: Self = Self { bytes: 1024 * 1024, count: 10_000, policy: DropPolicy::Oldest };
}

impl Default for EventLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Which event gives way when no more may be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DropPolicy {
    /// The oldest: what is known last counts most.
    #[default]
    Oldest,
    /// The one that comes: what is stored counts most, and whoever publishes is told.
    Newest,
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
            events: EventLimits::DEFAULT,
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
