use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::Serialize;

use crate::envelope::MAX_PAYLOAD_BYTES;
use crate::handler::Declined;
use crate::reply::{Failure, Refusal};
use crate::topic::{Subject, named_subject};

/// Something that the device tells whoever listens (`docs/connect/events.md`): a reading, a state, a picture.
///
/// It leaves on `iot-2/evt/{id}/fmt/{format}`, at QoS 1 unless it says otherwise, and is never retained. One at QoS 1 is
/// durable before it is sent, and is kept until the broker has acknowledged it.
///
/// ```
/// use iotdm_core::Event;
/// use serde::Serialize;
///
/// #[derive(Serialize)]
/// struct Reading {
///     celsius: f64,
/// }
///
/// # fn main() -> Result<(), iotdm_core::EventError> {
/// let reading = Event::json("temperature", &Reading { celsius: 21.5 })?;
/// assert_eq!(reading.topic().to_string(), "iot-2/evt/temperature/fmt/json");
/// let frame = Event::bytes("camera", "jpeg", vec![0xff, 0xd8])?.at_most_once();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    topic: EventTopic,
    payload: Bytes,
    qos: Qos,
    is_stored: bool,
}

/// How often a message arrives (`docs/protocol.md` §1.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Qos {
    /// QoS 0: once or not at all.
    AtMostOnce,
    /// QoS 1: once or more.
    AtLeastOnce,
}

impl Event {
    /// An event in JSON, the one format that the platform's historian stores.
    ///
    /// # Errors
    /// The id is outside the grammar, the body is no JSON, or it is larger than a message may be.
    pub fn json(id: &str, body: &impl Serialize) -> Result<Self, EventError> {
        let payload = serde_json::to_vec(body).map_err(|error| EventError::Json(error.to_string()))?;
        Self::bytes(id, JSON, payload)
    }

    /// An event in any format.
    ///
    /// # Errors
    /// The id or the format is outside the grammar, or the payload is larger than a message may be.
    pub fn bytes(id: &str, format: &str, payload: impl Into<Bytes>) -> Result<Self, EventError> {
        let payload = payload.into();
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(EventError::TooLarge { bytes: payload.len() });
        }
        let topic = EventTopic {
            subject: Subject::Connected,
            event: id.parse().map_err(EventError::Id)?,
            format: format.parse().map_err(EventError::Format)?,
        };
        Ok(Self { topic, payload, qos: Qos::AtLeastOnce, is_stored: true })
    }

    /// At QoS 0: it is sent if there is a connection, and dropped and counted if there is none.
    #[must_use]
    pub fn at_most_once(mut self) -> Self {
        self.qos = Qos::AtMostOnce;
        self.is_stored = false;
        self
    }

    /// Durable until it was sent, at QoS 0 too; behind what was stored before it.
    #[must_use]
    pub fn stored(mut self) -> Self {
        self.is_stored = true;
        self
    }

    /// An event of a device that a gateway speaks for.
    #[must_use]
    pub fn of(mut self, subject: Subject) -> Self {
        self.topic.subject = subject;
        self
    }

    /// Its topic.
    pub fn topic(&self) -> &EventTopic {
        &self.topic
    }

    /// Its bytes.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// How often it arrives.
    pub fn qos(&self) -> Qos {
        self.qos
    }

    /// Whether it is durable until it was sent.
    pub fn is_stored(&self) -> bool {
        self.is_stored
    }
}

/// The topic of an event: `iot-2/evt/{event}/fmt/{format}`; a gateway names the device that it speaks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTopic {
    /// Whose event.
    pub subject: Subject,
    /// Which event.
    pub event: TopicLevel,
    /// The format of its payload.
    pub format: TopicLevel,
}

impl EventTopic {
    /// Parses a topic name; `None` when it is not one of an event.
    pub fn parse(topic: &str) -> Option<Self> {
        let rest = topic.strip_prefix(ROOT)?;
        let (subject, rest) = named_subject(rest).unwrap_or((Subject::Connected, rest));
        let (event, format) = rest.strip_prefix("evt/")?.split_once("/fmt/")?;
        Some(Self { subject, event: event.parse().ok()?, format: format.parse().ok()? })
    }
}

impl fmt::Display for EventTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ROOT}{}evt/{}/fmt/{}", self.subject, self.event, self.format)
    }
}

/// One level of a topic: 1 to 255 bytes of whatever MQTT permits there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicLevel(Box<str>);

impl TopicLevel {
    /// The level as it stands in topics.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicLevel {
    type Err = TopicLevelError;

    fn from_str(text: &str) -> Result<Self, TopicLevelError> {
        if text.is_empty() {
            return Err(TopicLevelError::Empty);
        }
        let misfit = |(position, found)| misfit(found).map(|reason| (position + 1, found, reason));
        if let Some((position, found, reason)) = text.chars().enumerate().find_map(misfit) {
            return Err(TopicLevelError::Character { text: text.into(), position, found, reason });
        }
        if text.len() > MAX_LEVEL_BYTES {
            return Err(TopicLevelError::TooLong { bytes: text.len() });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TopicLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no level of a topic; each message points at what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicLevelError {
    /// There is no text.
    #[error("is empty; 1 to {MAX_LEVEL_BYTES} bytes are needed")]
    Empty,
    /// There are more bytes than are allowed.
    #[error("has {bytes} bytes; at most {MAX_LEVEL_BYTES} are allowed")]
    TooLong {
        /// How many bytes there are.
        bytes: usize,
    },
    /// A character cannot stand there.
    #[error("`{}` has {found:?} as character {position}: {reason}", text.escape_debug())]
    Character {
        /// The whole text.
        text: String,
        /// Where the character stands, from 1.
        position: usize,
        /// The character.
        found: char,
        /// Why it cannot stand there.
        reason: &'static str,
    },
}

/// Why an event cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The id is outside the grammar.
    #[error("the id of the event {0}")]
    Id(TopicLevelError),
    /// The format is outside the grammar.
    #[error("the format of the event {0}")]
    Format(TopicLevelError),
    /// The body cannot be written as JSON.
    #[error("the body of the event is no JSON: {0}")]
    Json(String),
    /// The payload is larger than a message may be.
    #[error("the event has {bytes} bytes; a message may have {MAX_PAYLOAD_BYTES}")]
    TooLarge {
        /// How large it is.
        bytes: usize,
    },
}

/// Why an event was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// It cannot be made.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The agent did not take it.
    #[error(transparent)]
    Declined(#[from] Declined),
    /// The quickstart organization takes QoS 0 alone, and keeps nothing.
    #[error("the quickstart organization takes events at QoS 0 only, and not stored: use `at_most_once`")]
    QuickstartQos,
    /// The quickstart organization takes one event a second.
    #[error("the quickstart organization takes one event a second, and the last one was sooner than that")]
    QuickstartRate,
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        Self::failed(error.to_string())
    }
}

/// Why a character cannot stand in a level of a topic, if it cannot (MQTT 3.1.1 §1.5.3 and §4.7).
fn misfit(c: char) -> Option<&'static str> {
    match c {
        '/' => Some("it would begin another level of the topic"),
        '+' | '#' => Some("it is a wildcard, and topics that are published on have none"),
        '\0' => Some("MQTT has no such character"),
        // A broker may end the connection for these, and some do: the event would be sent for ever.
        _ if c.is_control() => Some("brokers end the connection for a control character"),
        _ if is_noncharacter(c) => Some("brokers end the connection for what is no character of Unicode"),
        _ => None,
    }
}

fn is_noncharacter(c: char) -> bool {
    matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe
}

/// The first level of a topic of an event, with its slash.
const ROOT: &str = "iot-2/";

/// The format of an event in JSON.
const JSON: &str = "json";

/// Longest id of an event, and longest format, in bytes. No limit is documented; custom actions
/// have the same, and a topic of two such levels is far below the 65 535 bytes of MQTT.
const MAX_LEVEL_BYTES: usize = 255;

#[cfg(test)]
mod tests;
