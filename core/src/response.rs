use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::envelope::{Correlation, Envelope};
use crate::req_id::ReqId;

/// A response code of the protocol (`docs/protocol.md` §2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(u16);

impl Code {
    /// Done.
    pub const OK: Self = Self(200);
    /// Accepted; the work goes on.
    pub const ACCEPTED: Self = Self(202);
    /// Changed.
    pub const CHANGED: Self = Self(204);
    /// The request is wrong, or comes in a state that does not allow it.
    pub const BAD_REQUEST: Self = Self(400);
    /// `supports` claims a bundle that the organization does not have.
    pub const FORBIDDEN: Self = Self(403);
    /// The topic or the attribute is not known.
    pub const NOT_FOUND: Self = Self(404);
    /// Something else is going on, or the request comes too late; it may be made again.
    pub const CONFLICT: Self = Self(409);
    /// The attempt failed.
    pub const FAILED: Self = Self(500);
    /// The device does not offer this.
    pub const UNSUPPORTED: Self = Self(501);

    /// A code of any value, as it stands on the wire.
    pub const fn from_u16(code: u16) -> Self {
        Self(code)
    }

    /// The number on the wire.
    pub const fn as_u16(self) -> u16 {
        self.0
    }

    /// 200 to 299; also 0, which one old sample of the envelope uses (`docs/protocol.md` §9 point 5).
    pub const fn is_success(self) -> bool {
        self.0 == 0 || (self.0 >= 200 && self.0 < 300)
    }

    /// 400 to 599.
    pub const fn is_refusal(self) -> bool {
        self.0 >= 400 && self.0 < 600
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An answer that leaves this side (`docs/protocol.md` §2).
#[derive(Debug, Serialize)]
pub struct Response<'a> {
    rc: Code,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<&'a RawValue>,
    #[serde(rename = "reqId")]
    req_id: &'a RawValue,
}

impl<'a> Response<'a> {
    /// An answer to the request with this `reqId`, copied as it came.
    pub fn new(req_id: &'a RawValue, rc: Code) -> Self {
        Self { rc, message: None, d: None, req_id }
    }

    /// With a text for people.
    pub fn message(self, message: Option<&'a str>) -> Self {
        Self { message, ..self }
    }

    /// With data.
    pub fn data(self, d: Option<&'a RawValue>) -> Self {
        Self { d, ..self }
    }

    /// The bytes to publish.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a response holds only text and raw JSON")
    }
}

/// An answer that the other side gave.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Which request it answers.
    pub req_id: ReqId,
    /// Its code.
    pub rc: Code,
    /// Its text, if it is one.
    pub message: Option<String>,
    /// Its data.
    pub d: Option<Box<RawValue>>,
}

impl Incoming {
    /// Reads a response; `None` when it has no usable reqId or code. The code may be an integer or a decimal string
    /// (`docs/protocol.md` §9 point 4).
    pub fn from_envelope(envelope: &Envelope) -> Option<Self> {
        let Correlation::Id(req_id) = &envelope.correlation else { return None };
        let rc = envelope.rc.as_deref()?.get();
        let rc = rc.strip_prefix('"').and_then(|rc| rc.strip_suffix('"')).unwrap_or(rc);
        let message = envelope.message.as_deref().and_then(|raw| serde_json::from_str(raw.get()).ok());
        Some(Self { req_id: req_id.clone(), rc: Code(rc.parse().ok()?), message, d: envelope.d.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming(text: &str) -> Option<Incoming> {
        Incoming::from_envelope(&Envelope::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn an_answer_has_an_integer_code_and_the_req_id_as_it_came() {
        let req_id = RawValue::from_string("7".into()).unwrap();
        let d = RawValue::from_string("{\"a\":1}".into()).unwrap();
        let text = |response: Response<'_>| String::from_utf8(response.to_bytes()).unwrap();
        assert_eq!(text(Response::new(&req_id, Code::ACCEPTED)), r#"{"rc":202,"reqId":7}"#);
        let full = Response::new(&req_id, Code::OK).message(Some("fine")).data(Some(&d));
        assert_eq!(text(full), r#"{"rc":200,"message":"fine","d":{"a":1},"reqId":7}"#);
    }

    #[test]
    fn a_code_is_read_as_a_number_or_a_decimal_string() {
        assert_eq!(incoming(r#"{"rc":200,"reqId":"r"}"#).unwrap().rc, Code::OK);
        assert_eq!(incoming(r#"{"rc":"409","reqId":"r"}"#).unwrap().rc, Code::CONFLICT);
        for text in
            [r#"{"rc":"response_code","reqId":"r"}"#, r#"{"rc":1.5,"reqId":"r"}"#, r#"{"rc":200}"#, "{}"]
        {
            assert!(incoming(text).is_none(), "{text}");
        }
    }

    #[test]
    fn zero_counts_as_success() {
        assert!(incoming(r#"{"rc":0,"message":"success","reqId":"r"}"#).unwrap().rc.is_success());
        assert!(!Code::CONFLICT.is_success());
    }
}
