//! Turns what happens into lines of the timeline.

use std::collections::BTreeMap;

use iotdm_core::{AttributeValue, Firmware, ReqId, attribute};
use serde_json::Value;

use super::screen::Who;
use crate::{Event, Failure, Happening, ManageBody, Outcome, Stage};

/// Remembers which request an answer belongs to.
#[derive(Default)]
pub(super) struct Narrator {
    suffixes: BTreeMap<ReqId, String>,
}

impl Narrator {
    /// The line for an event; some are not worth one.
    pub(super) fn tell(&mut self, event: &Event) -> Option<(Who, String)> {
        Some(match &event.happening {
            Happening::Managed(body) => (Who::Up, manage(body)),
            Happening::Unmanaged => (Who::Up, "unmanage".into()),
            Happening::Reported(report) => (Who::Up, format!("{}", report.route())),
            Happening::Notified(fields) => {
                (Who::Up, format!("notify {}", fields.iter().map(field).collect::<Vec<_>>().join(", ")))
            }
            Happening::Sent { suffix, req_id, payload } => {
                if let Some(req_id) = req_id {
                    self.remember(req_id, suffix);
                }
                (Who::Down, format!("{suffix} {}", body(payload)).trim_end().into())
            }
            Happening::Answered { req_id, rc, message, number } => {
                let elsewhere = || format!("reqId {req_id}, which another client sent");
                let what = self.suffixes.get(req_id).cloned().unwrap_or_else(elsewhere);
                let again = if *number > 1 { ", again" } else { "" };
                let message = message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
                (Who::Up, format!("{rc} to {what}{again}{message}"))
            }
            Happening::Advanced { req_id, stage: Stage::Ended(outcome) } => {
                let what = self.suffixes.get(req_id)?;
                match outcome {
                    // Where the answer is the end, it was told just above.
                    Outcome::Failed(Failure::Answered(_)) => return None,
                    Outcome::Complete if !what.starts_with("mgmt/initiate/") => return None,
                    Outcome::Complete => (Who::Result, format!("{what}: {outcome}")),
                    Outcome::Failed(_) | Outcome::TimedOut | Outcome::GivenUp => {
                        (Who::Failure, format!("{what}: {outcome}"))
                    }
                }
            }
            Happening::Strange { topic, reason } => (Who::Up, format!("{topic}: {reason}")),
            Happening::Disconnected { reason } => {
                (Who::Machine, format!("the platform is disconnected: {reason}"))
            }
            Happening::Connected | Happening::Replied { .. } | Happening::Advanced { .. } => return None,
        })
    }

    fn remember(&mut self, req_id: &ReqId, suffix: &str) {
        // Old answers would only lose their name.
        if self.suffixes.len() >= REMEMBERED_LIMIT {
            self.suffixes.clear();
        }
        self.suffixes.insert(req_id.clone(), suffix.into());
    }
}

fn manage(body: &ManageBody) -> String {
    let actions = [("deviceActions", body.device_actions), ("firmwareActions", body.firmware_actions)];
    let actions = actions.iter().filter(|(_, on)| *on).map(|(name, _)| *name);
    let supports: Vec<&str> = actions.chain(body.bundles.iter().map(String::as_str)).collect();
    let version = body.device_info.as_ref().and_then(|info| info.fw_version.as_deref()).unwrap_or("unknown");
    format!("manage: firmware {version}, supports {}", supports.join(", "))
}

fn field(field: &AttributeValue) -> String {
    if field.field == attribute::FIRMWARE
        && let Ok(firmware) = serde_json::from_value::<Firmware>(field.value.clone())
    {
        let Firmware { state, update_status: status, .. } = firmware;
        let (number, code) = (u8::from(state), u8::from(status));
        return format!("mgmt.firmware: state {number} ({state:?}), updateStatus {code} ({status:?})");
    }
    format!("{} = {}", field.field, field.value)
}

/// A request's fields in short; bytes that are no request as they are.
fn body(payload: &[u8]) -> String {
    let Ok(request) = serde_json::from_slice::<Value>(payload) else {
        return String::from_utf8_lossy(payload).into_owned();
    };
    let d = &request["d"];
    let Some(fields) = d["fields"].as_array() else {
        return if d.is_null() { String::new() } else { d.to_string() };
    };
    let field = |field: &Value| {
        let name = field["field"].as_str().unwrap_or("?");
        match &field["value"] {
            Value::Null => name.to_owned(),
            Value::Object(value) => match value.get("version") {
                Some(version) => {
                    format!("{name} = version {version} at {}", value.get("uri").unwrap_or(&Value::Null))
                }
                None => format!("{name} = {}", field["value"]),
            },
            value => format!("{name} = {value}"),
        }
    };
    fields.iter().map(field).collect::<Vec<_>>().join(", ")
}

/// Requests whose names are remembered.
const REMEMBERED_LIMIT: usize = 4_096;
