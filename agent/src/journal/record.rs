use std::sync::Arc;

use bytes::Bytes;
use iotdm_core::Report;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::engine::{Age, Fingerprint, KeyHash, Moment};

/// One change to the journal, and, when it is read back, one thing that stands in it.
#[derive(Clone, Debug)]
pub enum Write {
    /// A request that is not finished, as it stands.
    Open(KeyHash, Box<OpenRequest>),
    /// A finished request, or an answer to something that was never one.
    Done(KeyHash, Box<DoneRequest>),
    /// Nothing is known of this request any more.
    Forget(KeyHash),
    /// Something waits to be sent, at this place of the queue.
    Queue(u64, Queued),
    /// Nothing waits there any more.
    Unqueue(u64),
    /// An attribute has this value.
    Attribute(String, Value),
    /// An attribute has no value any more.
    Unset(String),
    /// An attribute is observed, under this generation.
    Observe(String, u64),
    /// An attribute is observed no longer.
    Unobserve(String),
    /// An event is stored, at this place.
    Event(u64, Box<EventRecord>),
    /// No event is stored there any more.
    EventGone(u64),
    /// Whether everything that may not be repeated is refused until the first fence is lifted.
    Quarantine(bool),
    /// When this device was last known to have nothing old waiting on the broker.
    Mark(Moment),
}

/// A request that is not finished.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenRequest {
    /// The order of arrival.
    #[serde(rename = "n")]
    pub sequence: u64,
    /// Whose request: the part of its topic between first level and suffix.
    #[serde(rename = "p", default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// Its reqId.
    #[serde(rename = "i")]
    pub req_id: Box<RawValue>,
    /// Its topic's suffix.
    #[serde(rename = "r")]
    pub route: String,
    /// Its body.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub d: Option<Box<RawValue>>,
    /// Hash of route and body.
    #[serde(rename = "f", with = "hex16")]
    pub fingerprint: [u8; 16],
    /// Which start of the work is under way or next.
    #[serde(rename = "a")]
    pub attempt: u32,
    /// When it arrived.
    #[serde(rename = "m")]
    pub arrived: Moment,
    /// How old it may have been when it arrived.
    #[serde(rename = "g")]
    pub age: Age,
    /// Whether the handler, where it was started, does the work before the answer; absent when it only decides, or when
    /// it was not started.
    #[serde(rename = "w", default, skip_serializing_if = "std::ops::Not::not")]
    pub works: bool,
    /// How far it is.
    #[serde(rename = "s")]
    pub stage: StageRecord,
}

/// How far an unfinished request is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum StageRecord {
    /// Accepted, and started or waiting for a place.
    #[serde(rename = "r")]
    Recorded {
        /// Whether the handler was started.
        #[serde(rename = "s")]
        started: bool,
    },
    /// Its 202 is stored; the work waits until the broker has it.
    #[serde(rename = "s")]
    Settled {
        /// The 202.
        #[serde(rename = "r")]
        response: Box<RawValue>,
        /// The boot it was stored in.
        #[serde(rename = "b")]
        boot: Box<str>,
    },
    /// The work after the 202 has begun.
    #[serde(rename = "p")]
    Performing {
        /// The 202.
        #[serde(rename = "r")]
        response: Box<RawValue>,
        /// The boot it began in.
        #[serde(rename = "b")]
        boot: Box<str>,
    },
}

/// A finished request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DoneRequest {
    /// The order of arrival.
    #[serde(rename = "n")]
    pub sequence: u64,
    /// Whose request it was.
    #[serde(rename = "p", default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// Hash of route and body.
    #[serde(rename = "f", with = "hex16")]
    pub fingerprint: [u8; 16],
    /// How long it is kept.
    #[serde(rename = "c")]
    pub class: Class,
    /// What a replay gets.
    #[serde(rename = "r")]
    pub answer: AnswerRecord,
    /// How work after a 202 ended, in words; absent when it went well or there was none.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// How long a finished request is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// It was carried out: while it is among the newest of its kind.
    #[serde(rename = "e")]
    Executed,
    /// It was refused with 409: while it is among the newest of its kind.
    #[serde(rename = "r")]
    Refused,
    /// Nothing ran: until the broker has the answer.
    #[serde(rename = "p")]
    Passing,
}

/// What a replay of a finished request gets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum AnswerRecord {
    /// These bytes.
    #[serde(rename = "s")]
    Stored(Box<RawValue>),
    /// The current values of the attributes it named.
    #[serde(rename = "o")]
    Observed {
        /// Its reqId.
        #[serde(rename = "i")]
        req_id: Box<RawValue>,
        /// The attributes.
        #[serde(rename = "f")]
        fields: Vec<String>,
    },
}

/// Something that waits to be sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Queued {
    /// The answer of this request.
    #[serde(rename = "a")]
    Answer(#[serde(with = "hex16")] [u8; 16]),
    /// The value of an observed attribute.
    #[serde(rename = "n")]
    Notify {
        /// The attribute.
        #[serde(rename = "f")]
        field: String,
        /// The observation it belongs to.
        #[serde(rename = "g")]
        generation: u64,
    },
    /// A report of the device.
    #[serde(rename = "r")]
    Report(Report),
}

/// An event that the broker may not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its topic.
    #[serde(rename = "t")]
    pub topic: String,
    /// Its bytes.
    #[serde(rename = "p", with = "payload")]
    pub payload: Bytes,
    /// Whether it is sent at QoS 0; absent at QoS 1.
    #[serde(rename = "z", default, skip_serializing_if = "std::ops::Not::not")]
    pub at_most_once: bool,
}

impl From<Fingerprint> for [u8; 16] {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.0
    }
}

/// The raw JSON of a body that several places share.
pub(crate) fn shared(d: Option<Box<RawValue>>) -> Option<Arc<RawValue>> {
    d.map(Arc::from)
}

/// Any bytes: as text where they are, as base64 otherwise.
mod payload {
    use std::borrow::Cow;

    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    enum Payload<'a> {
        #[serde(rename = "t")]
        Text(Cow<'a, str>),
        #[serde(rename = "b")]
        Base64(Cow<'a, str>),
    }

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        // JSON spends six bytes on a control character.
        let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control));
        let payload = match text {
            Some(text) => Payload::Text(text.into()),
            None => Payload::Base64(BASE64_STANDARD.encode(bytes).into()),
        };
        payload.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        match Payload::deserialize(deserializer)? {
            Payload::Text(text) => Ok(text.into_owned().into()),
            Payload::Base64(text) => {
                BASE64_STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(D::Error::custom)
            }
        }
    }
}

mod hex16 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", u128::from_be_bytes(*bytes)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 16], D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map(u128::to_be_bytes).map_err(D::Error::custom)
    }
}
