//! Envelopes and responses: any payload is opened or declined, what is copied from it is its own text, and an answer made
//! of it can be read by the other side.
#![no_main]

use iotdm_core::{Code, Correlation, Envelope, Incoming, MAX_PAYLOAD_BYTES, ReqId, Response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let envelope = match Envelope::parse(payload) {
        Ok(envelope) => envelope,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let text = str::from_utf8(payload).expect("only text is an envelope");
    let d = envelope.d.as_deref();
    assert!(d.is_none_or(|d| text.contains(d.get())), "the body is not copied as it stands");
    match &envelope.correlation {
        Correlation::Absent => {}
        Correlation::Refused(raw) => {
            assert!(text.contains(raw.get()));
            assert!(ReqId::from_raw(raw).is_none());
        }
        Correlation::Id(req_id) => {
            assert!(text.contains(req_id.as_json()));
            let raw = req_id.to_raw();
            assert_eq!(ReqId::from_raw(&raw).as_ref(), Some(req_id));
            assert!(!req_id.to_string().contains(char::is_control), "a reqId breaks a log line");
            let message = text.chars().rev().take(50).collect::<String>();
            let answer = Response::new(&raw, Code::OK).message(Some(&message)).data(d).to_bytes();
            if answer.len() <= MAX_PAYLOAD_BYTES {
                let answer = Envelope::parse(&answer).expect("our own answers are envelopes");
                let answer = Incoming::from_envelope(&answer).expect("our own answers are responses");
                assert_eq!((&answer.req_id, answer.rc), (req_id, Code::OK));
                assert_eq!(answer.message, Some(message));
                assert_eq!(answer.d.as_deref().map(|d| d.get()), d.map(|d| d.get()));
            }
        }
    }
    if let Some(answer) = Incoming::from_envelope(&envelope) {
        let _ = (answer.rc.is_success(), answer.rc.is_refusal());
    }
});
