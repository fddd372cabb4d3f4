use std::collections::{BTreeMap, BTreeSet};

use iotdm_core::{Code, Envelope, Incoming, ReqId, Response, Subject};

use crate::config::Limits;
use crate::journal::Class;

use super::key::{Fingerprint, KeyHash};
use super::request::Request;

/// The answers of finished requests, kept so that a replay gets the same one.
///
/// Retention is by count and bytes, never by age: no clock decides whether something runs twice. An answer that waits
/// to be sent is never dropped.
#[derive(Debug, Default)]
pub(super) struct Answers {
    by_key: BTreeMap<KeyHash, Answer>,
    by_sequence: BTreeMap<(Class, u64), KeyHash>,
    counts: BTreeMap<Class, usize>,
    bytes: usize,
    /// Those that may become shorter. What cannot, because its reqId alone is long, is found out once and not tried, and
    /// written, again with every further answer.
    long: BTreeSet<(Class, u64)>,
}

/// One finished request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) subject: Subject,
    pub(super) fingerprint: Fingerprint,
    pub(super) sequence: u64,
    pub(super) class: Class,
    pub(super) body: Body,
    pub(super) failure: Option<Box<str>>,
}

/// What a replay gets.
#[derive(Debug)]
pub(super) enum Body {
    /// These bytes.
    Stored(Box<[u8]>),
    /// The current values of these attributes.
    Observed { req_id: ReqId, fields: Vec<String> },
}

/// What retention did to an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pruned {
    /// It is forgotten.
    Forgotten(KeyHash),
    /// Its data is gone; that it was carried out, and how it ended, is still known.
    Shortened(KeyHash),
}

impl Answers {
    pub(super) fn get(&self, key: &KeyHash) -> Option<&Answer> {
        self.by_key.get(key)
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn insert(&mut self, key: KeyHash, answer: Answer) {
        self.remove(&key);
        self.bytes += answer.body.bytes();
        if answer.body.bytes() > SHORT_ANSWER_BYTES {
            self.long.insert((answer.class, answer.sequence));
        }
        *self.counts.entry(answer.class).or_default() += 1;
        self.by_sequence.insert((answer.class, answer.sequence), key);
        self.by_key.insert(key, answer);
    }

    pub(super) fn remove(&mut self, key: &KeyHash) -> Option<Answer> {
        let answer = self.by_key.remove(key)?;
        self.bytes -= answer.body.bytes();
        *self.counts.get_mut(&answer.class).expect("what was inserted was counted") -= 1;
        self.by_sequence.remove(&(answer.class, answer.sequence));
        self.long.remove(&(answer.class, answer.sequence));
        Some(answer)
    }

    /// Brings the kept answers back within their bounds; `waiting` tells which must stay.
    pub(super) fn prune(&mut self, limits: &Limits, waiting: impl Fn(&KeyHash) -> bool) -> Vec<Pruned> {
        let mut pruned = Vec::new();
        for (class, limit) in [(Class::Executed, limits.kept_executed), (Class::Refused, limits.kept_refused)]
        {
            let range = (class, 0)..=(class, u64::MAX);
            // Only the front can be in excess. One that waits to be sent stays, beyond the limit: a newer one must not
            // go in its place, for it is among those that are promised to be known.
            let excess = self.count(class).saturating_sub(limit);
            let oldest: Vec<KeyHash> = self
                .by_sequence
                .range(range)
                .take(excess)
                .map(|(_, key)| *key)
                .filter(|key| !waiting(key))
                .collect();
            for key in oldest {
                self.remove(&key);
                pruned.push(Pruned::Forgotten(key));
            }
        }
        if self.bytes > limits.kept_bytes {
            self.shorten(limits.kept_bytes, waiting, &mut pruned);
        }
        pruned
    }

    fn count(&self, class: Class) -> usize {
        self.counts.get(&class).copied().unwrap_or(0)
    }

    fn shorten(&mut self, limit: usize, waiting: impl Fn(&KeyHash) -> bool, pruned: &mut Vec<Pruned>) {
        let mut tried = Vec::new();
        for place in &self.long {
            if self.bytes <= limit {
                break;
            }
            let key = self.by_sequence[place];
            if waiting(&key) {
                continue;
            }
            tried.push(*place);
            let answer = self.by_key.get_mut(&key).expect("the index names answers");
            let short = answer.body.without_data();
            if short.bytes() < answer.body.bytes() {
                self.bytes -= answer.body.bytes() - short.bytes();
                answer.body = short;
                pruned.push(Pruned::Shortened(key));
            }
        }
        for place in tried {
            self.long.remove(&place);
        }
    }
}

impl Answer {
    /// The answer of a request that is finished.
    pub(super) fn of(request: &Request, class: Class, body: Body, failure: Option<String>) -> Self {
        Self {
            subject: request.subject.clone(),
            fingerprint: request.fingerprint,
            sequence: request.sequence,
            class,
            body,
            failure: failure.map(Into::into),
        }
    }
}

impl Body {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Stored(bytes) => bytes.len(),
            Self::Observed { req_id, fields } => {
                req_id.as_json().len() + fields.iter().map(String::len).sum::<usize>()
            }
        }
    }

    fn without_data(&self) -> Self {
        let bytes = match self {
            Self::Stored(bytes) => bytes,
            Self::Observed { req_id, .. } => {
                return Self::Stored(Response::new(&req_id.to_raw(), Code::OK).to_bytes().into());
            }
        };
        let envelope = Envelope::parse(bytes).ok();
        let short = envelope.as_ref().and_then(Incoming::from_envelope).map(|response| {
            let message = "this was answered before; the data of the answer is no longer kept";
            Response::new(&response.req_id.to_raw(), response.rc).message(Some(message)).to_bytes()
        });
        Self::Stored(short.map_or_else(|| bytes.clone(), Into::into))
    }
}

/// Answers up to this size are not worth shortening, in bytes: reqId, code and a sentence.
const SHORT_ANSWER_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sequence: u64, class: Class, data: usize) -> (KeyHash, Answer) {
        let text = format!(r#"{{"rc":200,"d":"{}","reqId":"{sequence}"}}"#, "x".repeat(data));
        let answer = Answer {
            subject: Subject::Connected,
            fingerprint: Fingerprint([0; 16]),
            sequence,
            class,
            body: Body::Stored(text.into_bytes().into()),
            failure: None,
        };
        (key(sequence), answer)
    }

    fn key(sequence: u64) -> KeyHash {
        KeyHash(u128::from(sequence).to_be_bytes())
    }

    fn limits(executed: usize, refused: usize, bytes: usize) -> Limits {
        Limits { kept_executed: executed, kept_refused: refused, kept_bytes: bytes, ..Limits::default() }
    }

    #[test]
    fn a_flood_of_refusals_evicts_no_executed_request() {
        let mut answers = Answers::default();
        for sequence in 0..10 {
            let class = if sequence < 2 { Class::Executed } else { Class::Refused };
            let (key, answer) = answer(sequence, class, 0);
            answers.insert(key, answer);
        }
        let pruned = answers.prune(&limits(2, 3, 1 << 20), |_| false);
        assert_eq!(pruned, (2..7).map(|n| Pruned::Forgotten(key(n))).collect::<Vec<_>>());
        assert!(answers.get(&key(0)).is_some());
    }

    #[test]
    fn an_answer_that_waits_to_be_sent_is_never_dropped() {
        let mut answers = Answers::default();
        for sequence in 0..3 {
            let (key, answer) = answer(sequence, Class::Executed, 0);
            answers.insert(key, answer);
        }
        let pruned = answers.prune(&limits(1, 1, 1 << 20), |k| *k == key(0));
        assert_eq!(pruned, [Pruned::Forgotten(key(1))]);
        assert_eq!(answers.prune(&limits(1, 1, 1 << 20), |_| false), [Pruned::Forgotten(key(0))]);
    }

    /// Else a replay of the newest would run again, as long as older answers wait for a broker.
    #[test]
    fn an_answer_that_waits_to_be_sent_costs_no_newer_one_its_place() {
        let mut answers = Answers::default();
        for sequence in 0..3 {
            let (key, answer) = answer(sequence, Class::Executed, 0);
            answers.insert(key, answer);
        }
        assert_eq!(answers.prune(&limits(2, 1, 1 << 20), |k| *k == key(0) || *k == key(1)), []);
        assert!(answers.get(&key(2)).is_some());
    }

    #[test]
    fn beyond_the_bytes_the_oldest_lose_their_data_and_never_their_fact() {
        let mut answers = Answers::default();
        for sequence in 0..3 {
            let (key, answer) = answer(sequence, Class::Executed, 10_000);
            answers.insert(key, answer);
        }
        assert_eq!(
            answers.prune(&limits(10, 10, 15_000), |_| false),
            [Pruned::Shortened(key(0)), Pruned::Shortened(key(1))]
        );
        let Body::Stored(bytes) = &answers.get(&key(0)).unwrap().body else { panic!("stored") };
        let text = String::from_utf8_lossy(bytes);
        assert!(text.starts_with(r#"{"rc":200,"message":""#) && text.ends_with(r#""reqId":"0"}"#), "{text}");
        assert!(answers.bytes <= 15_000, "{}", answers.bytes);
    }

    /// Else every further answer would write thousands of records again, for nothing.
    #[test]
    fn what_cannot_become_shorter_is_written_no_second_time() {
        let mut answers = Answers::default();
        let long_id = "i".repeat(1000);
        for sequence in 0..100 {
            let (key, answer) = answer(sequence, Class::Executed, 0);
            let text = format!(r#"{{"rc":200,"reqId":"{long_id}{sequence}"}}"#);
            answers.insert(key, Answer { body: Body::Stored(text.into_bytes().into()), ..answer });
        }
        let limits = limits(1000, 10, 50_000);
        assert_eq!(answers.prune(&limits, |_| false), []);
        let (key, data) = answer(100, Class::Executed, 10_000);
        answers.insert(key, data);
        assert_eq!(answers.prune(&limits, |_| false), [Pruned::Shortened(key)]);
        assert_eq!(answers.prune(&limits, |_| false), []);
    }
}
