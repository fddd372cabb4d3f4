//! What can be chosen when a broker starts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::observer::Observer;
use super::topic;

/// How a broker listens, whom it admits, and where its limits are.
///
/// The defaults behave like the service: 131 072 bytes of payload, 5 000 waiting messages
/// (`docs/protocol.md` §1.5), and a topic space of its own for every device.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// The port on 127.0.0.1; 0 takes a free one, see [`Broker::local_addr`](super::Broker::local_addr).
    pub port: u16,
    /// How many QoS 1 deliveries one client may have unacknowledged; 0 counts as 1.
    pub window: u16,
    /// How many QoS 1 messages one session keeps beyond its window; past it the oldest is dropped.
    pub queue_limit: usize,
    /// The largest payload in bytes; a larger PUBLISH closes its connection.
    pub payload_limit: usize,
    /// Which part of the topic tree a client sees.
    pub mount: Mount,
    /// Who may connect.
    pub authentication: Authentication,
    /// Which subscriptions are answered with the failure code 0x80.
    pub subscriptions: Subscriptions,
    /// Who sees everything that happens.
    pub observer: Observer,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        Self {
            port: 0,
            window: WINDOW,
            queue_limit: QUEUE_LIMIT,
            payload_limit: PAYLOAD_LIMIT_BYTES,
            mount: Mount::default(),
            authentication: Authentication::default(),
            subscriptions: Subscriptions::default(),
            observer: Observer::default(),
        }
    }
}

/// Who asks to be connected: what is in the CONNECT packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applicant<'a> {
    /// The client id, for a device `d:ORG:TYPE:ID`.
    pub client_id: &'a str,
    /// The user name, for a device `use-token-auth`.
    pub username: Option<&'a str>,
    /// The password, for a device its token.
    pub password: Option<&'a str>,
}

impl<'a> Applicant<'a> {
    pub(super) const fn new(
        client_id: &'a str,
        username: Option<&'a str>,
        password: Option<&'a str>,
    ) -> Self {
        Self { client_id, username, password }
    }
}

/// The prefix under which a client's topics live in the broker.
///
/// It is put before every topic the client publishes or subscribes to and taken off what is delivered to it, so
/// that `iotdm-1/#` means "mine", as on the service.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Mount {
    /// One topic tree for everybody, as on a plain MQTT broker.
    Off,
    /// A device `d:ORG:TYPE:ID` lives under `devices/TYPE/ID/`, everybody else sees the whole tree. A client id
    /// that begins with `d:` and is not of that form is refused.
    #[default]
    Devices,
    /// A rule of the caller: the prefix, or `None` for the whole tree. See [`Mount::custom`].
    Custom(MountRule),
}

/// The function inside [`Mount::Custom`].
pub type MountRule = Arc<dyn Fn(&Applicant<'_>) -> Option<String> + Send + Sync>;

impl Mount {
    /// Mounts each client where `rule` says.
    pub fn custom(rule: impl Fn(&Applicant<'_>) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::Custom(Arc::new(rule))
    }

    /// The prefix of this client, empty for the whole tree.
    pub(super) fn of(&self, applicant: &Applicant<'_>) -> Result<String, topic::InvalidDeviceId> {
        match self {
            Self::Off => Ok(String::new()),
            Self::Devices => topic::device_mount(applicant.client_id),
            Self::Custom(rule) => Ok(rule(applicant).unwrap_or_default()),
        }
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "Off",
            Self::Devices => "Devices",
            Self::Custom(_) => "Custom(..)",
        })
    }
}

/// Who may connect; anybody else gets CONNACK 4, "bad user name or password".
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Authentication {
    /// Everybody.
    #[default]
    Anyone,
    /// Users with their passwords.
    Users(BTreeMap<String, String>),
    /// A rule of the caller, see [`Authentication::custom`].
    Custom(AuthenticationRule),
}

/// The function inside [`Authentication::Custom`].
pub type AuthenticationRule = Arc<dyn Fn(&Applicant<'_>) -> bool + Send + Sync>;

impl Authentication {
    /// Admits those for whom `rule` is true.
    pub fn custom(rule: impl Fn(&Applicant<'_>) -> bool + Send + Sync + 'static) -> Self {
        Self::Custom(Arc::new(rule))
    }

    pub(super) fn admits(&self, applicant: &Applicant<'_>) -> bool {
        match self {
            Self::Anyone => true,
            Self::Users(users) => match (applicant.username, applicant.password) {
                (Some(name), Some(password)) => users.get(name).is_some_and(|known| known == password),
                _ => false,
            },
            Self::Custom(rule) => rule(applicant),
        }
    }
}

impl fmt::Debug for Authentication {
    // Passwords never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("Anyone"),
            Self::Users(users) => write!(f, "Users({})", users.len()),
            Self::Custom(_) => f.write_str("Custom(..)"),
        }
    }
}

/// Which subscriptions are granted.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Subscriptions {
    /// Every well-formed one, at QoS 1 at most.
    #[default]
    All,
    /// Those for which the rule of the caller is true, see [`Subscriptions::custom`].
    Custom(SubscriptionRule),
}

/// The function inside [`Subscriptions::Custom`]: client id and filter as the client wrote it.
pub type SubscriptionRule = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

impl Subscriptions {
    /// Grants what `rule(client_id, filter)` allows; the filter is the one the client wrote, without its mount.
    pub fn custom(rule: impl Fn(&str, &str) -> bool + Send + Sync + 'static) -> Self {
        Self::Custom(Arc::new(rule))
    }

    pub(super) fn allows(&self, client_id: &str, filter: &str) -> bool {
        match self {
            Self::All => true,
            Self::Custom(rule) => rule(client_id, filter),
        }
    }
}

impl fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "All",
            Self::Custom(_) => "Custom(..)",
        })
    }
}

/// Unacknowledged QoS 1 deliveries per client: mosquitto's default, the reference for a device's broker.
pub const WINDOW: u16 = 20;

/// Messages a session keeps beyond its window: the service's buffer (`docs/protocol.md` §1.5).
pub const QUEUE_LIMIT: usize = 5_000;

/// Largest payload in bytes: the service's limit (`docs/protocol.md` §1.5).
pub const PAYLOAD_LIMIT_BYTES: usize = 131_072;
