//! What the platform may ask.

use std::time::Duration;

use iotdm_core::Route;
use serde_json::{Value, json};

use super::settings::FRESH_FOR;

/// What the platform asks for, as far as the laws tell one from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Reboot,
    Reset,
    Download,
    Update,
    Once,
    Again,
    After,
    Late,
    Fresh,
    Observe,
    Cancel,
    DeviceUpdate,
    /// A topic that the protocol does not have.
    UnknownTopic,
    /// A bundle that this device does not have.
    UnknownAction,
    /// A body that the handler's action cannot decode.
    BadBody,
    /// A command that must not be repeated by the device; one that may; one that may be late; one that is acknowledged
    /// when its handler has ended. Commands have no reqId, so that none is among [`ALL`](Self::ALL).
    CommandOnce,
    CommandAgain,
    CommandFresh,
    CommandHeld,
    /// The platform moves the device. Each has a place of its own, so that none is among [`ALL`](Self::ALL).
    Place,
}

impl Kind {
    /// Plans that were kept name a kind by its place here.
    pub(crate) const ALL: [Self; 15] = [
        Self::Reboot,
        Self::Reset,
        Self::Download,
        Self::Update,
        Self::Once,
        Self::Again,
        Self::After,
        Self::Late,
        Self::Fresh,
        Self::Observe,
        Self::Cancel,
        Self::DeviceUpdate,
        Self::UnknownTopic,
        Self::UnknownAction,
        Self::BadBody,
    ];

    pub(crate) fn ask(self) -> Ask {
        match self {
            Self::Reboot => reboot(),
            Self::Reset => reset(),
            Self::Download => download(),
            Self::Update => Ask::new("mgmt/initiate/firmware/update"),
            Self::Once => once(),
            Self::Again => again(),
            Self::After => after(),
            Self::Late => Ask::new("mgmt/custom/lamp/late"),
            Self::Fresh => fresh(),
            Self::Observe => observe("level"),
            Self::Cancel => cancel("level"),
            Self::DeviceUpdate => update("metadata", json!({"a": 1})),
            Self::UnknownTopic => Ask::new("nonsense"),
            Self::UnknownAction => Ask::new("mgmt/custom/kettle/boil"),
            Self::BadBody => once().body(json!(BAD_BODY)),
            Self::Place => place(0),
            command => unreachable!("{command:?} is no request"),
        }
    }

    /// Which kind a task works on; a body that cannot be decoded never works.
    pub(crate) fn of(route: &Route, d: Option<&str>) -> Self {
        let action = match route {
            Route::Reboot => return Self::Reboot,
            Route::FactoryReset => return Self::Reset,
            Route::FirmwareDownload => return Self::Download,
            Route::FirmwareUpdate => return Self::Update,
            Route::Custom { action, .. } => action,
            Route::Command { id, .. } => return Self::of_command(id),
            other => unreachable!("{other} has no handler"),
        };
        match &**action {
            "once" if d.is_some_and(|d| d.contains(BAD_BODY)) => Self::BadBody,
            "once" => Self::Once,
            "again" => Self::Again,
            "after" => Self::After,
            "late" => Self::Late,
            _ => Self::Fresh,
        }
    }

    /// Which kind of command has this id.
    pub(crate) fn of_command(id: &str) -> Self {
        match id {
            "once" => Self::CommandOnce,
            "again" => Self::CommandAgain,
            "fresh" => Self::CommandFresh,
            _ => Self::CommandHeld,
        }
    }

    /// Whether a handler does it.
    pub(crate) fn is_work(self) -> bool {
        !matches!(
            self,
            Self::Observe
                | Self::Cancel
                | Self::DeviceUpdate
                | Self::Place
                | Self::UnknownTopic
                | Self::UnknownAction
        )
    }

    /// Whether nobody is answered.
    pub(crate) fn is_command(self) -> bool {
        matches!(self, Self::CommandOnce | Self::CommandAgain | Self::CommandFresh | Self::CommandHeld)
    }

    /// Whether the answer comes first, and the work after it.
    pub(crate) fn works_after(self) -> bool {
        matches!(self, Self::Reboot | Self::Reset | Self::Download | Self::Update | Self::After | Self::Late)
    }

    pub(crate) fn takes_lane(self) -> bool {
        matches!(self, Self::Reboot | Self::Reset | Self::Download | Self::Update)
    }

    /// Whether the platform takes the next manage for its end.
    pub(crate) fn holds_manage(self) -> bool {
        matches!(self, Self::Reboot | Self::Reset)
    }

    pub(crate) fn may_run_again(self) -> bool {
        matches!(self, Self::Again | Self::CommandAgain | Self::CommandHeld)
    }

    pub(crate) fn refused_after(self) -> Option<Duration> {
        matches!(self, Self::Fresh | Self::Late | Self::CommandFresh).then_some(FRESH_FOR)
    }

    /// Whether an answer to it may carry this code (`docs/protocol.md` §3).
    pub(crate) fn may_answer(self, rc: u16) -> bool {
        match self {
            Self::Observe => matches!(rc, 200 | 404),
            Self::Cancel => rc == 200,
            Self::DeviceUpdate | Self::Place => rc == 204,
            Self::UnknownTopic => rc == 404,
            Self::UnknownAction => rc == 501,
            Self::BadBody => matches!(rc, 400 | 409 | 500),
            work if work.works_after() => matches!(rc, 202 | 409 | 500),
            _ => matches!(rc, 200 | 409 | 500),
        }
    }
}

/// A request without its reqId.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) topic: String,
    pub(crate) d: Option<Value>,
}

impl Ask {
    pub(crate) fn new(suffix: &str) -> Self {
        Self { topic: format!("iotdm-1/{suffix}"), d: None }
    }

    pub(crate) fn body(self, d: Value) -> Self {
        Self { d: Some(d), ..self }
    }

    pub(crate) fn payload(&self, req_id: &Value) -> Vec<u8> {
        let mut message = json!({ "reqId": req_id });
        if let Some(d) = &self.d {
            message["d"] = d.clone();
        }
        message.to_string().into_bytes()
    }
}

pub(crate) fn reboot() -> Ask {
    Ask::new("mgmt/initiate/device/reboot")
}

pub(crate) fn reset() -> Ask {
    Ask::new("mgmt/initiate/device/factory_reset")
}

pub(crate) fn download() -> Ask {
    Ask::new("mgmt/initiate/firmware/download")
}

/// Work, then 200; a crash in the middle must not repeat it.
pub(crate) fn once() -> Ask {
    Ask::new("mgmt/custom/lamp/once")
}

/// Work, then 200; a crash in the middle may repeat it.
pub(crate) fn again() -> Ask {
    Ask::new("mgmt/custom/lamp/again")
}

/// 202, then work that does not restart the device.
pub(crate) fn after() -> Ask {
    Ask::new("mgmt/custom/lamp/after")
}

/// Work, then 200; refused when it may be older than 15 minutes.
pub(crate) fn fresh() -> Ask {
    Ask::new("mgmt/custom/lamp/fresh")
}

pub(crate) fn observe(field: &str) -> Ask {
    Ask::new("observe").body(json!({ "fields": [{ "field": field }] }))
}

pub(crate) fn cancel(field: &str) -> Ask {
    Ask::new("cancel").body(json!({ "fields": [{ "field": field }] }))
}

pub(crate) fn update(field: &str, value: Value) -> Ask {
    Ask::new("device/update").body(json!({ "fields": [{ "field": field, "value": value }] }))
}

/// The device is at a place of its own, by its number.
pub(crate) fn place(number: u64) -> Ask {
    update("location", location(number))
}

/// The location of that number.
pub(crate) fn location(number: u64) -> Value {
    json!({ "latitude": 0.5, "longitude": number as f64 / PLACES_A_DEGREE })
}

/// The number of a location.
pub(crate) fn number_of(location: &Value) -> Option<u64> {
    location["longitude"].as_f64().map(|longitude| (longitude * PLACES_A_DEGREE).round() as u64)
}

/// How many places there are in a degree: more than a life has steps, in all.
const PLACES_A_DEGREE: f64 = 128.0;

/// The body that nobody can decode.
const BAD_BODY: &str = "what is that?";
