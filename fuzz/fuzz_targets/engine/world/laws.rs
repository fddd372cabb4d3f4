//! What every publish and every start is looked at for: it follows from what is durable.

use std::collections::BTreeMap;

use bytes::Bytes;
use iotdm_agent::engine::{KeyHash, PublishId, Task, TaskMoment};
use iotdm_agent::journal::{AnswerRecord, Class, StageRecord, Write};
use iotdm_core::{Interrupted, MAX_PAYLOAD_BYTES, Phases, ReqId, Subject, Topic, UpRoute};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::settings::SETTINGS;
use super::{Link, MAX_OWN, Published, World};

/// A record, as far as the laws need it.
pub(super) enum Stored {
    Recorded { started: bool },
    Promised { response: Box<RawValue>, performing: bool },
    Answered(Class, Box<RawValue>),
    Observed(Class, Box<RawValue>),
}

impl Stored {
    /// Of an answer: for how long it is kept.
    pub(super) fn class(&self) -> Option<Class> {
        match self {
            Self::Answered(class, _) | Self::Observed(class, _) => Some(*class),
            Self::Recorded { .. } | Self::Promised { .. } => None,
        }
    }
}

impl World {
    pub(super) fn published(&mut self, id: PublishId, topic: &str, payload: &Bytes) {
        assert!(matches!(self.link, Link::Up(_)), "publishes on {:?}", self.link);
        assert!(payload.len() <= MAX_PAYLOAD_BYTES, "{} bytes on {topic}", payload.len());
        let topic = Topic::<UpRoute>::parse(topic).expect("it is a topic of devices");
        let message: Message<'_> = serde_json::from_slice(payload).expect("it is an object");
        assert!(self.in_flight.iter().all(|other| other.id != id), "an id twice");
        let mut req_id = None;
        if topic.route == UpRoute::Response {
            let raw = message.req_id.expect("an answer has a reqId");
            assert!(message.rc.is_some(), "an answer has a code");
            self.answered(raw, payload);
            req_id = ReqId::from_raw(raw).filter(|_| topic.subject == Subject::Connected);
        } else if let Some(own) = message.req_id {
            self.own.push(own.get().to_owned());
            if self.own.len() > MAX_OWN {
                self.own.remove(0);
            }
        }
        self.in_flight.push(Published { id, req_id });
    }

    /// An answer is durable before it leaves.
    fn answered(&self, req_id: &RawValue, payload: &[u8]) {
        let is_stored = self.records.values().any(|stored| match stored {
            Stored::Recorded { .. } => false,
            Stored::Promised { response, .. } | Stored::Answered(_, response) => {
                response.get().as_bytes() == payload
            }
            Stored::Observed(_, observed) => observed.get() == req_id.get(),
        });
        assert!(is_stored, "an answer that is not durable: {}", String::from_utf8_lossy(payload));
    }

    pub(super) fn started(&mut self, task: Task) {
        let key = task.key;
        let policy = &SETTINGS.policies[&task.route];
        assert!(task.attempt <= policy.attempts, "attempt {} of {:?}", task.attempt, task.req_id);
        let record = self.records.get(&key);
        match task.moment {
            TaskMoment::Handle => {
                assert!(
                    matches!(record, Some(Stored::Recorded { started: true })),
                    "started before it is written"
                );
                let again = !self.begun.insert(key);
                let may_again =
                    policy.interrupted == Interrupted::RunAgain || policy.phases == Phases::AnswerThenWork;
                assert!(!again || may_again, "{:?} is started twice", task.req_id);
            }
            TaskMoment::AfterAck => {
                let performing = matches!(record, Some(Stored::Promised { performing: true, .. }));
                assert!(performing, "the work begins before that is written");
                assert!(self.arrived.contains(&key), "the work begins before the broker has the 202");
            }
            TaskMoment::Recover => {
                assert!(matches!(record, Some(Stored::Promised { performing: true, .. })));
            }
        }
        assert!(self.tasks.insert(key, task).is_none(), "a task is started while the one before it runs");
    }
}

pub(super) fn note(records: &mut BTreeMap<KeyHash, Stored>, write: &Write) {
    match write {
        Write::Open(key, request) => {
            let stored = match &request.stage {
                StageRecord::Recorded { started } => Stored::Recorded { started: *started },
                StageRecord::Settled { response, .. } => {
                    Stored::Promised { response: response.clone(), performing: false }
                }
                StageRecord::Performing { response, .. } => {
                    Stored::Promised { response: response.clone(), performing: true }
                }
            };
            records.insert(*key, stored);
        }
        Write::Done(key, request) => {
            let stored = match &request.answer {
                AnswerRecord::Stored(response) => Stored::Answered(request.class, response.clone()),
                AnswerRecord::Observed { req_id, .. } => Stored::Observed(request.class, req_id.clone()),
            };
            records.insert(*key, stored);
        }
        Write::Forget(key) => drop(records.remove(key)),
        _ => {}
    }
}

/// A message of the device.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(rename = "reqId", borrow)]
    req_id: Option<&'a RawValue>,
    rc: Option<u16>,
}
