//! A request: what is asked, how far it is, how it ended.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use iotdm_core::{Code, ReqId, Route, UpdateStatus};
use tokio::time::Instant;

use super::{DEVICES_LIMIT, Key, OPEN_LIMIT};
use crate::space::DeviceName;

/// One request as far as it has come.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tracked {
    /// What was asked for.
    pub route: Route,
    /// The attributes it names: those of observe and cancel.
    pub fields: Vec<String>,
    /// How far it has come.
    pub stage: Stage,
    /// When it was initiated.
    pub initiated: Instant,
    /// The first answer.
    pub answer: Option<Answer>,
    /// How many answers came, the first among them.
    pub answers: u32,
    /// How many of them are not, byte for byte, the first. An observe may be answered with another value each time.
    pub differing_answers: u32,
    pub(super) deadline: Option<Instant>,
}

/// An answer of a device.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Answer {
    /// Its code.
    pub rc: Code,
    /// Its text.
    pub message: Option<String>,
    /// The whole payload.
    pub payload: Bytes,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Sent; the answer is awaited.
    Initiated,
    /// Answered 202; for a restart the manage is awaited, for firmware the notify.
    Answered,
    /// The notify told the wanted firmware state; the 200 to a cancel is awaited.
    Reached,
    /// It is over.
    Ended(Outcome),
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// As wanted.
    Complete,
    /// The device said no, or could not.
    Failed(Failure),
    /// It was not complete in its time. The device does not learn of it.
    TimedOut,
    /// The platform gave it up, or another request took its place. The device does not learn of it.
    GivenUp,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was answered with another code than the one that goes with the action.
    Answered(Code),
    /// A notify told how the firmware step ended.
    Firmware(UpdateStatus),
}

impl Tracked {
    /// Whether it has not ended.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Ended(_))
    }

    /// How it ended, once it has.
    #[must_use]
    pub const fn outcome(&self) -> Option<Outcome> {
        match self.stage {
            Stage::Ended(outcome) => Some(outcome),
            Stage::Initiated | Stage::Answered | Stage::Reached => None,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initiated => f.write_str("initiated"),
            Self::Answered => f.write_str("answered"),
            Self::Reached => f.write_str("reached"),
            Self::Ended(outcome) => outcome.fmt(f),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::Failed(Failure::Answered(rc)) => write!(f, "refused with {rc}"),
            Self::Failed(Failure::Firmware(status)) => write!(f, "failed: {status:?}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::GivenUp => f.write_str("given up"),
        }
    }
}

/// A request to be tracked.
#[derive(Clone, Debug)]
pub struct Initiation {
    /// For which device, and under which id.
    pub key: Key,
    /// What is asked for.
    pub route: Route,
    /// The attributes it names, for observe and cancel.
    pub fields: Vec<String>,
    /// How long it may take; `None` for ever.
    pub timeout: Option<Duration>,
    /// Whether a pending firmware request of the device is given up for this one (`docs/protocol.md` §6.3).
    pub overriding: bool,
    /// Whether it is made though the device is not managed, which the service never does.
    pub even_unmanaged: bool,
}

/// Why a request was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InitiateError {
    /// The platform makes no requests of devices that are not managed.
    #[error("{0} is not managed")]
    NotManaged(DeviceName),
    /// A firmware request is pending, and this one does not override it.
    #[error("{device} has a pending firmware request, {pending}")]
    FirmwarePending {
        /// The device.
        device: DeviceName,
        /// Its pending request.
        pending: ReqId,
    },
    /// The id is in use for this device.
    #[error("the reqId {0} is in use")]
    ReqIdInUse(ReqId),
    /// [`OPEN_LIMIT`] requests are open.
    #[error("{OPEN_LIMIT} requests are open")]
    TooManyOpen,
    /// Too many messages wait to be sent.
    #[error("{0} messages wait to be sent")]
    QueueFull(usize),
    /// One request is for at most [`DEVICES_LIMIT`] devices.
    #[error("a request for {0} devices; at most {DEVICES_LIMIT} are allowed")]
    TooManyDevices(usize),
    /// A firmware update is for devices of one type.
    #[error("a firmware update is for devices of one type")]
    SeveralTypes,
    /// The payload is larger than the service allows.
    #[error("a payload of {0} bytes")]
    PayloadTooLarge(usize),
}

pub(super) const fn is_restart(route: &Route) -> bool {
    matches!(route, Route::Reboot | Route::FactoryReset)
}

pub(super) const fn is_firmware(route: &Route) -> bool {
    matches!(route, Route::FirmwareDownload | Route::FirmwareUpdate)
}

/// Whether the code is the one that goes with the action (`docs/protocol.md` §2).
pub(super) fn is_documented(route: &Route, rc: Code) -> bool {
    match route {
        Route::Reboot | Route::FactoryReset | Route::FirmwareDownload | Route::FirmwareUpdate => {
            rc == Code::ACCEPTED
        }
        Route::DeviceUpdate => rc == Code::CHANGED,
        Route::Observe | Route::Cancel | Route::Custom { .. } => rc == Code::OK,
        Route::Response | Route::Command { .. } | Route::Unknown(_) => rc.is_success(),
    }
}
