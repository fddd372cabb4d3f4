use std::fmt;

use iotdm_core::{ReqId, Route, Subject};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// A request's identity, hashed: the store's key for it. 128 bits of SHA-256 over whose request it is and the exact
/// text of its reqId; long keys would make the store write files that it never syncs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub [u8; 16]);

/// What a request asks for, hashed: route and body. One reqId with two fingerprints is a mistake of the sender.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 16]);

impl KeyHash {
    /// The key of a request that is recorded.
    pub fn of_request(subject: &Subject, req_id: &ReqId) -> Self {
        Self(digest(&[b"request", subject.to_string().as_bytes(), req_id.as_json().as_bytes()]))
    }

    /// The key of a command, under the reqId that the agent gave it: no request of the platform can have it.
    pub fn of_command(req_id: &ReqId) -> Self {
        Self(digest(&[b"command", req_id.as_json().as_bytes()]))
    }

    /// The key of an answer to something that is never recorded, such as an unknown topic. It is apart from the
    /// requests' keys, so that such an answer never stands in the way of a request with the same reqId.
    pub fn of_passing_answer(subject: &Subject, req_id: &RawValue, fingerprint: Fingerprint) -> Self {
        let subject = subject.to_string();
        Self(digest(&[b"passing", subject.as_bytes(), req_id.get().as_bytes(), &fingerprint.0]))
    }
}

impl Fingerprint {
    /// The fingerprint of a request. Bodies that mean the same have the same: member order and white space do not
    /// count. One that cannot be decoded counts as its text.
    pub fn of(route: &Route, d: Option<&RawValue>) -> Self {
        let canonical = d.map(|d| match serde_json::from_str::<Value>(d.get()) {
            Ok(value) => value.to_string(),
            Err(_) => d.get().to_owned(),
        });
        let body = canonical.as_deref().unwrap_or_default();
        Self(digest(&[b"fingerprint", route.to_string().as_bytes(), body.as_bytes()]))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(super) fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        // Lengths first: no two lists of parts may run together to the same bytes.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(d: &str) -> Fingerprint {
        Fingerprint::of(&Route::Reboot, Some(&RawValue::from_string(d.into()).unwrap()))
    }

    #[test]
    fn a_body_means_the_same_in_any_member_order_and_spacing() {
        assert_eq!(fingerprint(r#"{"a":1,"b":[2]}"#), fingerprint(r#"{ "b":[ 2 ], "a":1 }"#));
        assert_ne!(fingerprint(r#"{"a":1}"#), fingerprint(r#"{"a":2}"#));
        assert_ne!(fingerprint(r#"{"a":1}"#), Fingerprint::of(&Route::FactoryReset, None));
    }

    #[test]
    fn a_body_that_cannot_be_decoded_counts_as_its_text() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(fingerprint(&deep(500)), fingerprint(&deep(500)));
        assert_ne!(fingerprint(&deep(500)), fingerprint(&deep(501)));
        assert_ne!(fingerprint("1e999999"), fingerprint("1e999998"));
    }

    #[test]
    fn two_devices_may_share_a_req_id() {
        let named = Subject::Named { type_id: "T".parse().unwrap(), device_id: "d".parse().unwrap() };
        let id = ReqId::from_text("r");
        assert_ne!(KeyHash::of_request(&Subject::Connected, &id), KeyHash::of_request(&named, &id));
    }
}
