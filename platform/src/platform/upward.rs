//! What devices ask of the platform (`docs/protocol.md` §4).

use iotdm_core::{AttributeValue, Envelope, Report, UpRoute};
use serde::Deserialize;
use serde_json::Value;

use super::event::Happening;
use crate::track::ManageBody;

/// A request of a device, read.
pub(super) enum Upward {
    Manage(ManageBody),
    Unmanage,
    Report(Report),
    Notify(Vec<AttributeValue>),
}

impl Upward {
    pub(super) fn happening(&self) -> Happening {
        match self {
            Self::Manage(body) => Happening::Managed(body.clone()),
            Self::Unmanage => Happening::Unmanaged,
            Self::Report(report) => Happening::Reported(report.clone()),
            Self::Notify(fields) => Happening::Notified(fields.clone()),
        }
    }

    pub(super) fn read(route: UpRoute, envelope: &Envelope) -> Option<Self> {
        let d: Option<Value> = match &envelope.d {
            Some(raw) => Some(serde_json::from_str(raw.get()).ok()?),
            None => None,
        };
        Some(match route {
            UpRoute::Manage => Self::Manage(ManageBody::read(d.as_ref())?),
            UpRoute::Unmanage => Self::Unmanage,
            UpRoute::Location => Self::Report(Report::Location(read(d)?)),
            UpRoute::AddErrorCode => Self::Report(Report::AddErrorCode(read::<ErrorCode>(d)?.error_code)),
            UpRoute::ClearErrorCodes => Self::Report(Report::ClearErrorCodes),
            UpRoute::AddLog => Self::Report(Report::AddLog(read(d)?)),
            UpRoute::ClearLog => Self::Report(Report::ClearLog),
            UpRoute::Notify => Self::Notify(match read(d)? {
                Notified::Many { fields } => fields,
                Notified::One(field) => vec![field],
            }),
            UpRoute::Response => return None,
        })
    }
}

fn read<T: for<'de> Deserialize<'de>>(d: Option<Value>) -> Option<T> {
    serde_json::from_value(d?).ok()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorCode {
    error_code: i32,
}

/// Both shapes of notify (`docs/protocol.md` §9 point 3).
#[derive(Deserialize)]
#[serde(untagged)]
enum Notified {
    Many { fields: Vec<AttributeValue> },
    One(AttributeValue),
}
