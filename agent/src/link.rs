//! The connection to a broker, reduced to what the driver needs of it.
//!
//! Each connection is made afresh: what was not acknowledged on one is known to the engine alone, and dies with the
//! connection here. Architecture invariant: rumqttc is named below `link/` and nowhere else.

mod endpoint;
pub(crate) mod host;
mod mqtt;
mod mqtt5;
mod prefix;
mod tls;
mod trouble;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::config::{Config, Protocol};
use crate::engine::{Lost, PublishId};

pub use self::mqtt::MqttLink;
pub use self::mqtt5::Mqtt5Link;
pub(crate) use self::prefix::PrefixedLink;
pub use self::tls::{TlsError, another_device, certificate_names};

/// Makes connections to one broker, as one client.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a link to a broker",
    note = "`MqttLink` and `Mqtt5Link` are two, and for tests there is `testing::Platform::link`"
)]
pub trait Link: fmt::Debug + Send {
    /// Begins a connection. It reports how that goes as its first event.
    fn open(&mut self) -> Box<dyn Connection>;
}

/// The link that a configuration describes, by the version of MQTT that it names.
///
/// # Errors
/// [`TlsError`] for what the encryption is to be made of.
pub fn of(config: &Config) -> Result<Box<dyn Link>, TlsError> {
    Ok(match config.broker.protocol {
        Protocol::Mqtt311 => Box::new(MqttLink::new(config)?),
        Protocol::Mqtt5(_) => Box::new(Mqtt5Link::new(config)?),
    })
}

/// One connection. Dropping it ends it at once and without DISCONNECT.
#[async_trait]
pub trait Connection: fmt::Debug + Send {
    /// What happens next. Cancel safe. After [`LinkEvent::Lost`] it is not called again.
    async fn next(&mut self) -> LinkEvent;

    /// What has already happened, without waiting.
    fn try_next(&mut self) -> Option<LinkEvent>;

    /// Subscribes to these filters at QoS 1, in one packet.
    fn subscribe(&mut self, filters: &[String]);

    /// Sends PUBACK; in the order in which the messages came.
    fn acknowledge(&mut self, packet: u16);

    /// Publishes at QoS 1, not retained.
    fn publish(&mut self, id: PublishId, topic: String, payload: Bytes);

    /// Publishes at QoS 0, not retained. [`LinkEvent::Published`] says that it was written to the connection.
    fn publish_once(&mut self, id: PublishId, topic: String, payload: Bytes);

    /// Sends DISCONNECT; [`LinkEvent::Lost`] follows.
    fn disconnect(&mut self);
}

/// What happens on a connection.
#[derive(Debug)]
pub enum LinkEvent {
    /// CONNACK.
    Connected {
        /// Whether the broker had this client's session.
        session_present: bool,
    },
    /// SUBACK.
    Subscribed {
        /// Whether the first filter was granted: that of the requests.
        granted: bool,
        /// Which others were not, by their place among the filters.
        refused: Vec<usize>,
    },
    /// PUBLISH.
    Message {
        /// The packet identifier to acknowledge; none for QoS 0.
        packet: Option<u16>,
        /// The topic.
        topic: String,
        /// The bytes.
        payload: Bytes,
        /// Whether the broker had it stored.
        retained: bool,
        /// How long the broker says that it has kept it; see [`Delivered::waited`](crate::engine::Delivered::waited).
        waited: Option<Duration>,
    },
    /// PUBACK of a publish at QoS 1; one at QoS 0 was written to the connection.
    Published(PublishId),
    /// PUBACK that says the broker did not take a publish, and why. Only MQTT 5 has that.
    Refused(PublishId, String),
    /// The connection is gone, or never was. The last event.
    Lost(Lost, String),
}
