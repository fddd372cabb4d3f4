use std::time::Duration;

use bytes::Bytes;
use iotdm_core::{AttributeValue, Direction, ReqId, Route};
use serde_json::{Value, json};

/// Something to ask of a device (`docs/protocol.md` §5).
#[derive(Clone, Debug)]
pub struct Request {
    route: Route,
    body: Body,
    /// Where it was given, for one that is asked twice under one id.
    req_id: Option<ReqId>,
    timeout: Option<Duration>,
    overriding: bool,
    even_unmanaged: bool,
}

#[derive(Clone, Debug)]
enum Body {
    None,
    /// The names in observe and cancel.
    Names(Vec<String>),
    /// The fields of device/update and custom actions.
    Values(Vec<AttributeValue>),
    /// Bytes that are sent as they stand.
    Raw(Bytes),
}

impl Request {
    /// Restart.
    #[must_use]
    pub const fn reboot() -> Self {
        Self::new(Route::Reboot, Body::None)
    }

    /// Return to the delivery state.
    #[must_use]
    pub const fn factory_reset() -> Self {
        Self::new(Route::FactoryReset, Body::None)
    }

    /// Fetch the image; one step of [`Platform::firmware_download`](crate::Platform::firmware_download).
    #[must_use]
    pub const fn download() -> Self {
        Self::new(Route::FirmwareDownload, Body::None)
    }

    /// Install the image; one step of [`Platform::firmware_update`](crate::Platform::firmware_update).
    #[must_use]
    pub const fn update() -> Self {
        Self::new(Route::FirmwareUpdate, Body::None)
    }

    /// Observe attributes.
    #[must_use]
    pub fn observe(fields: &[&str]) -> Self {
        Self::new(Route::Observe, Body::Names(fields.iter().map(|&field| field.into()).collect()))
    }

    /// Observe attributes no longer.
    #[must_use]
    pub fn cancel(fields: &[&str]) -> Self {
        Self::new(Route::Cancel, Body::Names(fields.iter().map(|&field| field.into()).collect()))
    }

    /// Set attributes.
    #[must_use]
    pub fn device_update(values: &[AttributeValue]) -> Self {
        Self::new(Route::DeviceUpdate, Body::Values(values.to_vec()))
    }

    /// A custom action; its parameters follow with [`field`](Self::field).
    #[must_use]
    pub fn custom(bundle: &str, action: &str) -> Self {
        let (bundle, action) = (bundle.to_owned().into(), action.to_owned().into());
        Self::new(Route::Custom { bundle, action }, Body::None)
    }

    /// Any bytes on any topic below `iotdm-1/`, tracked by the reqId that is in them. Any success completes it where the
    /// topic is not one of the protocol's.
    #[must_use]
    pub fn raw(suffix: &str, req_id: ReqId, payload: impl Into<Bytes>) -> Self {
        let route = <Route as Direction>::from_suffix(suffix).unwrap_or(Route::Unknown(suffix.into()));
        Self { req_id: Some(req_id), ..Self::new(route, Body::Raw(payload.into())) }
    }

    /// With a parameter of a custom action.
    #[must_use]
    pub fn field(mut self, field: &str, value: impl Into<Value>) -> Self {
        let value = AttributeValue { field: field.into(), value: value.into() };
        match &mut self.body {
            Body::Values(values) => values.push(value),
            body => *body = Body::Values(vec![value]),
        }
        self
    }

    /// Under this reqId instead of a fresh one.
    #[must_use]
    pub fn req_id(self, req_id: ReqId) -> Self {
        Self { req_id: Some(req_id), ..self }
    }

    /// Timed out when it is not complete by then. By default a request stays open for ever.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// A pending firmware request of the device is given up for this one (`docs/protocol.md` §6.3).
    #[must_use]
    pub fn overriding(self) -> Self {
        Self { overriding: true, ..self }
    }

    /// Made though the device is not managed, which the service never does.
    #[must_use]
    pub fn even_unmanaged(self) -> Self {
        Self { even_unmanaged: true, ..self }
    }

    /// What is asked for.
    #[must_use]
    pub const fn route(&self) -> &Route {
        &self.route
    }

    const fn new(route: Route, body: Body) -> Self {
        Self { route, body, req_id: None, timeout: None, overriding: false, even_unmanaged: false }
    }

    /// The initiation to track, and the bytes to send, under a reqId.
    pub(super) fn parts(&self, fresh: impl FnOnce() -> ReqId) -> (RequestParts, Bytes) {
        let req_id = self.req_id.clone().unwrap_or_else(fresh);
        let fields = match &self.body {
            Body::Names(names) => names.clone(),
            Body::None | Body::Values(_) | Body::Raw(_) => Vec::new(),
        };
        let payload = self.payload(&req_id);
        let parts = RequestParts {
            req_id,
            fields,
            timeout: self.timeout,
            overriding: self.overriding,
            even_unmanaged: self.even_unmanaged,
        };
        (parts, payload)
    }

    fn payload(&self, req_id: &ReqId) -> Bytes {
        let fields = match &self.body {
            Body::Raw(payload) => return payload.clone(),
            Body::None => return format!("{{\"reqId\":{}}}", req_id.as_json()).into(),
            Body::Names(names) => names.iter().map(|name| json!({ "field": name })).collect(),
            Body::Values(values) => json!(values),
        };
        format!("{{\"d\":{{\"fields\":{fields}}},\"reqId\":{}}}", req_id.as_json()).into()
    }
}

/// What of a request is tracked.
pub(super) struct RequestParts {
    pub(super) req_id: ReqId,
    pub(super) fields: Vec<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) overriding: bool,
    pub(super) even_unmanaged: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(request: &Request, payload: &str) {
        assert_eq!(request.payload(&ReqId::from_text("r")), payload);
    }

    #[test]
    fn requests_have_the_documented_bodies() {
        check(&Request::reboot(), r#"{"reqId":"r"}"#);
        check(
            &Request::observe(&["mgmt.firmware"]),
            r#"{"d":{"fields":[{"field":"mgmt.firmware"}]},"reqId":"r"}"#,
        );
        check(
            &Request::custom("lamp", "on").field("seq", "1"),
            r#"{"d":{"fields":[{"field":"seq","value":"1"}]},"reqId":"r"}"#,
        );
    }

    #[test]
    fn raw_bytes_stay_as_they_are() {
        let request = Request::raw("nonsense", ReqId::from_text("r"), "{oops");
        check(&request, "{oops");
        assert_eq!(request.route(), &Route::Unknown("nonsense".into()));
    }
}
