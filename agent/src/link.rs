//! The connection to a broker, reduced to what the driver needs of it.
//!
//! Each connection is made afresh: what was not acknowledged on one is known to the engine alone, and dies with the
//! connection here. Architecture invariant: rumqttc is named in `link/mqtt.rs` and nowhere else.

mod mqtt;
mod prefix;
mod tls;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::engine::{Lost, PublishId};

pub use self::mqtt::MqttLink;
pub(crate) use self::prefix::PrefixedLink;
pub use self::tls::TlsError;

/// Makes connections to one broker, as one client.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a link to a broker",
    note = "`MqttLink` is one, and for tests `testing::Platform::link`"
)]
pub trait Link: fmt::Debug + Send {
    /// Begins a connection. It reports how that goes as its first event.
    fn open(&mut self) -> Box<dyn Connection>;
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
        /// Whether every filter was granted.
        granted: bool,
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
    },
    /// PUBACK of a publish.
    Published(PublishId),
    /// The connection is gone, or never was. The last event.
    Lost(Lost, String),
}
