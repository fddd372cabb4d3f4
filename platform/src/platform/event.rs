use bytes::Bytes;
use iotdm_core::{AttributeValue, Code, Report, ReqId};
use tokio::time::Instant;

use crate::space::DeviceName;
use crate::track::{ManageBody, Stage};

/// Something the platform noticed or did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// When.
    pub at: Instant,
    /// Which device it concerns.
    pub device: Option<DeviceName>,
    /// What.
    pub happening: Happening,
}

/// What an [`Event`] tells.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Happening {
    /// Connected and subscribed.
    Connected,
    /// A connection ended, or an attempt at one.
    Disconnected {
        /// What the client said.
        reason: String,
    },
    /// A manage was taken.
    Managed(ManageBody),
    /// An unmanage was taken.
    Unmanaged,
    /// A location, error code or log entry was taken.
    Reported(Report),
    /// A notify came.
    Notified(Vec<AttributeValue>),
    /// A request of the device was answered; silence and requests without reqId are not.
    Replied {
        /// The suffix of the request's topic.
        suffix: String,
        /// The code.
        rc: Code,
    },
    /// A message to the device was handed to the connection.
    Sent {
        /// The suffix of its topic.
        suffix: String,
        /// Its reqId; raw messages have none that is known.
        req_id: Option<ReqId>,
        /// What it carries.
        payload: Bytes,
    },
    /// The device answered.
    Answered {
        /// The request.
        req_id: ReqId,
        /// The code.
        rc: Code,
        /// The text for people.
        message: Option<String>,
        /// Which answer to this request it is, from 1; 0 when the request is not known.
        number: u32,
    },
    /// A request came further.
    Advanced {
        /// The request.
        req_id: ReqId,
        /// How far.
        stage: Stage,
    },
    /// Something came that the protocol does not have: a topic, or a payload that cannot be read.
    Strange {
        /// The full topic.
        topic: String,
        /// What is wrong with it.
        reason: String,
    },
}
