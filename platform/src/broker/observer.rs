//! Who watches the broker, and what there is to see.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rumqttc::mqttbytes::v4::Publish;

/// What happened between the broker and one of its clients; topics are the client's own, without its mount.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sighting {
    /// The client.
    pub client_id: String,
    /// What happened.
    pub what: Seen,
}

/// The kinds of a [`Sighting`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seen {
    /// CONNACK 0 was queued.
    Connected {
        /// Whether the broker had its session.
        session_present: bool,
    },
    /// Its connection ended, whoever ended it.
    Disconnected,
    /// Its subscription was taken.
    Subscribed {
        /// The filter as it wrote it.
        filter: String,
    },
    /// A message of it came in: from here on the broker has it.
    Published {
        /// Where to.
        topic: String,
        /// The payload.
        payload: Bytes,
    },
    /// A QoS 1 message for it was queued for its connection.
    Delivered {
        /// The packet id.
        packet_id: u16,
        /// The topic.
        topic: String,
        /// The payload.
        payload: Bytes,
        /// Whether it was delivered before, whatever DUP says.
        again: bool,
    },
    /// It acknowledged a delivery that was in flight.
    Acknowledged {
        /// The packet id.
        packet_id: u16,
        /// The topic.
        topic: String,
        /// The payload.
        payload: Bytes,
    },
}

impl Seen {
    pub(super) fn delivered(publish: &Publish, again: bool) -> Self {
        let (topic, payload) = (publish.topic.clone(), publish.payload.clone());
        Self::Delivered { packet_id: publish.pkid, topic, payload, again }
    }
}

/// Sees everything that happens in a broker, in order; nobody unless there is one.
///
/// # Guarantees
/// It is called after the step that it tells of, outside the broker's lock, so that it may ask the broker things. On a
/// current-thread runtime the calls come in the order of the steps.
#[derive(Clone, Default)]
pub struct Observer(Option<ObserverRule>);

/// The function inside [`Observer`].
pub type ObserverRule = Arc<dyn Fn(Sighting) + Send + Sync>;

impl Observer {
    /// Calls `see` for everything that happens.
    pub fn new(see: impl Fn(Sighting) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(see)))
    }

    /// Whether anybody watches.
    pub(super) const fn is_there(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn see(&self, sightings: Vec<Sighting>) {
        if let Some(see) = &self.0 {
            sightings.into_iter().for_each(|sighting| see(sighting));
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_there() { "Observer(..)" } else { "Observer(nobody)" })
    }
}

/// What a step has to tell; kept only when somebody watches.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    pub(super) wanted: bool,
    kept: Vec<Sighting>,
}

impl Sightings {
    pub(super) fn note(&mut self, client_id: &str, what: impl FnOnce() -> Seen) {
        if self.wanted {
            self.kept.push(Sighting { client_id: client_id.to_owned(), what: what() });
        }
    }

    pub(super) fn take(&mut self) -> Vec<Sighting> {
        std::mem::take(&mut self.kept)
    }
}
