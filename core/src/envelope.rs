use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::req_id::ReqId;

/// Largest payload either side may send, in bytes (`docs/protocol.md` §1.5).
pub const MAX_PAYLOAD_BYTES: usize = 131_072;

/// A message of the platform, opened just far enough to be recorded and answered.
///
/// `d` stays raw: only the dispatch table decodes it, after the request is durable, so that a body that kills a
/// decoder is counted as an attempt.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Who wants an answer, and under which identifier.
    pub correlation: Correlation,
    /// The body; `null` counts as absent.
    pub d: Option<Box<RawValue>>,
    /// `rc`, where the message is a response.
    pub(crate) rc: Option<Box<RawValue>>,
    /// `message`, where the message is a response.
    pub(crate) message: Option<Box<RawValue>>,
}

/// What stands in a message's `reqId` (`docs/protocol.md` §2 and §8).
#[derive(Clone, Debug)]
pub enum Correlation {
    /// Nothing, or `null`: no answer is wanted.
    Absent,
    /// An identifier.
    Id(ReqId),
    /// An object, an array or more than 1 KiB: answered 400 with the text copied, nothing is kept.
    Refused(Box<RawValue>),
}

/// Why no reqId can be read from a payload: it is logged, counted and acknowledged, never answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// More than [`MAX_PAYLOAD_BYTES`].
    #[error("the payload has {0} bytes; the limit is {MAX_PAYLOAD_BYTES}")]
    TooLarge(usize),
    /// Not UTF-8.
    #[error("the payload is not UTF-8")]
    NotUtf8,
    /// Not JSON, not an object, or a top-level key stands twice.
    #[error("{0}")]
    NotAnEnvelope(String),
}

impl Envelope {
    /// Opens a payload. Nesting costs no stack: values are skipped, not built.
    pub fn parse(payload: &[u8]) -> Result<Self, Unreadable> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Unreadable::TooLarge(payload.len()));
        }
        let text = std::str::from_utf8(payload).map_err(|_| Unreadable::NotUtf8)?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let envelope = deserializer
            .deserialize_map(EnvelopeVisitor)
            .and_then(|envelope| deserializer.end().map(|()| envelope))
            .map_err(|error| Unreadable::NotAnEnvelope(error.to_string()))?;
        Ok(envelope)
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with reqId and d")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Envelope, A::Error> {
        let mut members: BTreeMap<String, &'de RawValue> = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
            // Which of two reqIds is meant cannot be known, and another reader may take the other one.
            if members.contains_key(&key) {
                let key: String = key.chars().take(32).collect();
                return Err(serde::de::Error::custom(format_args!("the key {key:?} stands twice")));
            }
            members.insert(key, value);
        }
        let mut take =
            |key: &str| members.remove(key).filter(|raw| raw.get() != "null").map(RawValue::to_owned);
        let correlation = match take("reqId") {
            None => Correlation::Absent,
            Some(raw) => ReqId::from_raw(&raw).map_or(Correlation::Refused(raw), Correlation::Id),
        };
        Ok(Envelope { correlation, d: take("d"), rc: take("rc"), message: take("message") })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::response::{Code, Incoming, Response};

    use super::*;

    fn req_id(payload: &[u8]) -> String {
        match Envelope::parse(payload).unwrap().correlation {
            Correlation::Id(id) => id.as_json().into(),
            Correlation::Absent => "absent".into(),
            Correlation::Refused(raw) => format!("refused {raw}"),
        }
    }

    #[test]
    fn the_documented_sample_opens() {
        let envelope = Envelope::parse(br#"{ "d": {"a": [1]}, "reqId": "b53e" , "extra": 1}"#).unwrap();
        assert_eq!(envelope.d.unwrap().get(), r#"{"a": [1]}"#);
        assert!(matches!(envelope.correlation, Correlation::Id(id) if id.as_json() == "\"b53e\""));
    }

    #[test]
    fn a_req_id_is_a_scalar_or_absent_or_refused() {
        assert_eq!(req_id(br#"{"reqId":12345}"#), "12345");
        assert_eq!(req_id(br#"{"reqId":""}"#), "\"\"");
        assert_eq!(req_id(br#"{"reqId":null}"#), "absent");
        assert_eq!(req_id(b"{}"), "absent");
        assert_eq!(req_id(br#"{"reqId":{"a":1}}"#), r#"refused {"a":1}"#);
        let long = format!("{{\"reqId\":\"{}\"}}", "x".repeat(10_000));
        assert!(req_id(long.as_bytes()).starts_with("refused"));
    }

    #[test]
    fn a_body_too_deep_to_decode_still_yields_its_req_id() {
        let deep = format!("{{\"d\":{}{},\"reqId\":\"r\"}}", "[".repeat(60_000), "]".repeat(60_000));
        assert_eq!(req_id(deep.as_bytes()), "\"r\"");
    }

    #[test]
    fn what_no_req_id_can_be_read_from_is_unreadable() {
        for payload in [
            &b""[..],
            b"hello",
            b"[]",
            b"\"x\"",
            b"null",
            b"{\"reqId\":\"r\",\"d\":{",
            b"{\"reqId\":\"r\",\"x\":\"\xff\xfe\"}",
            b"{\"reqId\":\"r\",\"reqId\":\"s\"}",
            b"{\"reqId\":\"r\",\"req\\u0049d\":\"s\"}",
            b"{\"reqId\":\"r\"} trailing",
            b"\0\0\0\0",
        ] {
            assert!(Envelope::parse(payload).is_err(), "{:?}", String::from_utf8_lossy(payload));
        }
        assert!(Envelope::parse("[".repeat(20_000).as_bytes()).is_err());
    }

    #[test]
    fn the_size_limit_is_the_services() {
        let body = |n: usize| format!("{{\"reqId\":\"r\",\"d\":\"{}\"}}", "x".repeat(n - 20));
        assert_eq!(body(MAX_PAYLOAD_BYTES).len(), MAX_PAYLOAD_BYTES);
        assert_eq!(req_id(body(MAX_PAYLOAD_BYTES).as_bytes()), "\"r\"");
        let error = Envelope::parse(body(MAX_PAYLOAD_BYTES + 1).as_bytes()).unwrap_err();
        assert_eq!(error, Unreadable::TooLarge(MAX_PAYLOAD_BYTES + 1));
    }

    /// JSON texts, not only those that this side would write.
    fn json_text() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("true".to_owned()),
            "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,4})?",
            any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
            Just(r#""\ud83d\u0000\/""#.to_owned()),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[ {} ]", all.join(" ,"))),
                prop::collection::vec(inner, 0..4).prop_map(|all| {
                    let member = |(at, value): (usize, &String)| format!("\"k{at}\":{value}");
                    format!("{{{}}}", all.iter().enumerate().map(member).collect::<Vec<_>>().join(",\n"))
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_envelope_gives_back_what_was_put_in_it(
            id in json_text(),
            d in json_text(),
            order in any::<bool>(),
            blank in "[ \\t\\r\\n]{0,3}",
        ) {
            let (one, other) = (format!("\"reqId\"{blank}:{blank}{id}"), format!("\"d\":{blank}{d}{blank}"));
            let (one, other) = if order { (one, other) } else { (other, one) };
            let envelope = Envelope::parse(format!("{{{one},{blank}\"more\":1,{other}}}").as_bytes()).unwrap();
            prop_assert_eq!(envelope.d.as_deref().map(RawValue::get), Some(&*d));
            let kept = match &envelope.correlation {
                Correlation::Id(kept) => kept.as_json(),
                Correlation::Refused(raw) => raw.get(),
                Correlation::Absent => "absent",
            };
            prop_assert_eq!(kept, id);
        }

        #[test]
        fn an_answer_is_read_as_it_was_written(
            id in json_text(),
            rc in any::<u16>(),
            message in prop::option::of(any::<String>()),
            d in prop::option::of(json_text()),
        ) {
            let raw = |text: &String| RawValue::from_string(text.clone()).unwrap();
            let (id, d) = (raw(&id), d.as_ref().map(raw));
            let rc = Code::from_u16(rc);
            let bytes = Response::new(&id, rc).message(message.as_deref()).data(d.as_deref()).to_bytes();
            let read = Incoming::from_envelope(&Envelope::parse(&bytes).unwrap());
            match ReqId::from_raw(&id) {
                None => prop_assert!(read.is_none()),
                Some(req_id) => {
                    let read = read.unwrap();
                    prop_assert_eq!((read.req_id, read.rc, read.message), (req_id, rc, message));
                    prop_assert_eq!(read.d.as_deref().map(RawValue::get), d.as_deref().map(RawValue::get));
                }
            }
        }

        #[test]
        fn a_req_id_is_its_text(text in any::<String>()) {
            let req_id = ReqId::from_text(&text);
            prop_assert_eq!(serde_json::from_str::<String>(req_id.as_json()).unwrap(), text);
            let again = ReqId::from_raw(&req_id.to_raw());
            prop_assert_eq!(again, (req_id.as_json().len() <= 1024).then_some(req_id.clone()));
            prop_assert!(!req_id.to_string().contains(char::is_control));
        }

        #[test]
        fn any_bytes_are_opened_or_declined(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Err(error) = Envelope::parse(&bytes) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
