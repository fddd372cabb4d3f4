//! What the platform may ask.

use serde_json::{Value, json};

/// A request without its reqId.
#[derive(Clone, Debug)]
pub(in crate::engine::tests) struct Ask {
    pub(in crate::engine::tests) topic: String,
    pub(in crate::engine::tests) d: Option<Value>,
}

impl Ask {
    pub(in crate::engine::tests) fn new(suffix: &str) -> Self {
        Self { topic: format!("iotdm-1/{suffix}"), d: None }
    }

    pub(in crate::engine::tests) fn body(self, d: Value) -> Self {
        Self { d: Some(d), ..self }
    }

    pub(in crate::engine::tests) fn payload(&self, req_id: &Value) -> Vec<u8> {
        let mut message = json!({ "reqId": req_id });
        if let Some(d) = &self.d {
            message["d"] = d.clone();
        }
        message.to_string().into_bytes()
    }
}

pub(in crate::engine::tests) fn reboot() -> Ask {
    Ask::new("mgmt/initiate/device/reboot")
}

pub(in crate::engine::tests) fn reset() -> Ask {
    Ask::new("mgmt/initiate/device/factory_reset")
}

pub(in crate::engine::tests) fn download() -> Ask {
    Ask::new("mgmt/initiate/firmware/download")
}

/// Work, then 200; a crash in the middle must not repeat it.
pub(in crate::engine::tests) fn once() -> Ask {
    Ask::new("mgmt/custom/lamp/once")
}

/// Work, then 200; a crash in the middle may repeat it.
pub(in crate::engine::tests) fn again() -> Ask {
    Ask::new("mgmt/custom/lamp/again")
}

/// 202, then work that does not restart the device.
pub(in crate::engine::tests) fn after() -> Ask {
    Ask::new("mgmt/custom/lamp/after")
}

/// Work, then 200; refused when it may be older than 15 minutes.
pub(in crate::engine::tests) fn fresh() -> Ask {
    Ask::new("mgmt/custom/lamp/fresh")
}

pub(in crate::engine::tests) fn observe(field: &str) -> Ask {
    Ask::new("observe").body(json!({ "fields": [{ "field": field }] }))
}

pub(in crate::engine::tests) fn cancel(field: &str) -> Ask {
    Ask::new("cancel").body(json!({ "fields": [{ "field": field }] }))
}

pub(in crate::engine::tests) fn update(field: &str, value: Value) -> Ask {
    Ask::new("device/update").body(json!({ "fields": [{ "field": field, "value": value }] }))
}
