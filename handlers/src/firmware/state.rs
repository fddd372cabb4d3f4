//! The attribute `mgmt.firmware`: read from and written to the agent's durable model, nowhere else.

use iotdm_core::{
    Context, Declined, Failure, Firmware as Attribute, FirmwareState, UpdateStatus, attribute, iso8601,
};
use serde_json::{Map, Value, json};

/// A step that cannot be completed: what the platform reads in `updateStatus`, and what people read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) status: UpdateStatus,
    pub(super) reason: String,
}

impl Fault {
    pub(super) fn new(status: UpdateStatus, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

/// What the model has; the initial value when it has nothing.
pub(super) fn current(cx: &Context) -> Attribute {
    cx.attribute(attribute::FIRMWARE).unwrap_or_default()
}

/// Moves to another state. One call, so that an observer gets one notify (`docs/protocol.md` §6.3).
pub(super) async fn change(
    cx: &Context,
    state: FirmwareState,
    update_status: UpdateStatus,
) -> Result<(), Declined> {
    cx.set_attributes(vec![moved(cx, state, update_status)]).await
}

/// Back to idle with the reason, as every failure of a download or an install ends (`docs/protocol.md` §6.3).
pub(super) async fn fail(cx: &Context, fault: &Fault) -> Failure {
    tracing::warn!(update_status = u8::from(fault.status), reason = fault.reason, "firmware: failed");
    match change(cx, FirmwareState::Idle, fault.status).await {
        Ok(()) => Failure::new(fault.reason.clone()),
        Err(gone) => gone.into(),
    }
}

/// Installed: back to idle with success, and `deviceInfo.fwVersion` becomes the image's version, in one durable step.
pub(super) async fn installed(cx: &Context, version: Option<String>) -> Result<(), Declined> {
    let mut changes = vec![moved(cx, FirmwareState::Idle, UpdateStatus::Success)];
    if let Some(version) = version {
        // Kept as an object: members that this program does not know stay.
        let mut info: Map<String, Value> = cx.attribute(attribute::DEVICE_INFO).unwrap_or_default();
        info.insert("fwVersion".into(), json!(version));
        changes.push((attribute::DEVICE_INFO.into(), Value::Object(info)));
    }
    cx.set_attributes(changes).await
}

fn moved(cx: &Context, state: FirmwareState, update_status: UpdateStatus) -> (String, Value) {
    let updated_date_time = Some(iso8601(cx.system().wall_clock()));
    let value = Attribute { state, update_status, updated_date_time, ..current(cx) };
    (attribute::FIRMWARE.into(), json!(value))
}
