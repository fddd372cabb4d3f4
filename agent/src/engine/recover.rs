//! From what was stored to a running engine.

use iotdm_core::{Interrupted, Phases, ReqId, Route, Topic};
use serde_json::Value;
use tracing::{info, warn};

use crate::journal::{AnswerRecord, Class, DoneRequest, OpenRequest, Queued, StageRecord, Write, shared};

use super::Engine;
use super::answers::{Answer, Body};
use super::attributes::as_it_comes_back;
use super::event::{Effect, Timer};
use super::key::{Fingerprint, KeyHash};
use super::outbox::Item;
use super::request::{LANE_WAIT, Request, Stage, takes_lane};
use super::run::resumes;
use super::time::Now;

impl Engine {
    /// Takes one thing that stands in the journal, in any order, before [`start`](Self::start).
    pub fn restore(&mut self, entry: Write) {
        match entry {
            Write::Open(key, record) => self.restore_open(key, *record),
            Write::Done(key, record) => self.restore_done(key, *record),
            Write::Queue(place, Queued::Answer(key)) => {
                self.outbox.restore(place, Item::Answer(KeyHash(key)))
            }
            Write::Queue(place, Queued::Notify { field, generation }) => {
                self.seen(generation);
                self.outbox.restore(place, Item::Notify { field, generation });
            }
            Write::Queue(place, Queued::Report(report)) => self.outbox.restore(place, Item::Report(report)),
            Write::Attribute(name, value) => {
                if !self.thresholds.restore(&name, &value) {
                    self.model.restore_attribute(name, value);
                }
            }
            Write::Observe(field, generation) => {
                self.seen(generation);
                self.model.restore_observation(field, generation);
            }
            Write::Event(place, record) => self.events.restore(place, *record),
            Write::Quarantine(on) => self.quarantine = on,
            Write::Mark(mark) => self.mark = Some(mark),
            // These take things away; nothing of the kind stands in a journal.
            Write::Forget(_)
            | Write::Unqueue(_)
            | Write::Unobserve(_)
            | Write::Unset(_)
            | Write::EventGone(_) => {}
        }
    }

    /// Begins: interrupted requests are judged or answered, then the engine connects.
    pub fn start(&mut self, now: Now) {
        self.now = now;
        self.watch_observed();
        self.configure();
        if self.quarantine {
            warn!(
                "no journal was found: until it is known that nothing old waits, what may not be repeated is refused"
            );
        }
        let mut open: Vec<(u64, KeyHash)> =
            self.requests.iter().map(|(key, request)| (request.sequence, *key)).collect();
        open.sort_unstable();
        if !open.is_empty() {
            info!(requests = open.len(), "unfinished requests were found");
        }
        for (_, key) in open {
            self.resume(key);
        }
        // Entries of the queue may have been restored before the answers that they name.
        for key in self.outbox.answer_keys() {
            self.weigh(key);
        }
        self.prune();
        self.trim_events();
        self.open_session();
        self.settle_down();
    }

    /// Each configured attribute replaces the stored one if it was configured differently before: what an update or
    /// the platform changed since stays.
    fn configure(&mut self) {
        for (name, value) in std::mem::take(&mut self.settings.configured) {
            let memory = format!("{CONFIGURED}{name}");
            // Otherwise what the platform changed could be undone at every start.
            if self.model.read(&memory) != Some(&as_it_comes_back(&value)) {
                self.set_attributes(vec![(memory, value.clone()), (name, value)], None);
            }
        }
        let all: Vec<(String, Value)> =
            self.model.attributes().map(|(name, value)| (name.clone(), value.clone())).collect();
        self.effect(Effect::Attributes(all));
    }

    fn resume(&mut self, key: KeyHash) {
        let request = &self.requests[&key];
        let Some(policy) = self.policy(&request.route) else {
            return self.resume_unsupported(key);
        };
        let lane = takes_lane(&request.route).then(|| request.subject.clone());
        match &request.stage {
            Stage::Deciding
                if resumes(policy) && !(request.works && policy.interrupted == Interrupted::Refuse) =>
            {
                self.requests.get_mut(&key).expect("it was there a moment ago").attempt += 1;
                self.requeue(key);
            }
            Stage::Deciding => {
                let refusal = iotdm_core::Refusal::failed("interrupted; it may have happened");
                self.finish_refused(key, Class::Executed, &refusal);
            }
            Stage::Queued => self.requeue(key),
            Stage::Settled { boot, .. }
                if request.route == Route::Reboot && **boot != *self.settings.boot.0 =>
            {
                info!(reqId = %request.req_id, "the device was restarted meanwhile");
                self.finish_performed(key, None);
            }
            Stage::Settled { .. } if policy.phases == Phases::WorkThenAnswer => {
                // Nobody would do the work, and it would count as done.
                self.finish_performed(key, Some("this device no longer does that after its answer".into()));
            }
            Stage::Settled { .. } => {
                if !self.outbox.holds_answer(&key) {
                    self.answer_arrived(key);
                }
                if let Some(subject) = lane {
                    self.lanes.entry(subject).or_default().holder = Some(key);
                }
            }
            Stage::Judging { .. } | Stage::Performing { .. } => {
                if let Some(subject) = lane {
                    self.lanes.entry(subject).or_default().holder = Some(key);
                }
            }
        }
    }

    fn resume_unsupported(&mut self, key: KeyHash) {
        if self.requests[&key].response().is_some() {
            return self.finish_performed(key, Some("this device no longer offers that action".into()));
        }
        let request = &self.requests[&key];
        let refusal = if request.works && matches!(request.stage, Stage::Deciding) {
            iotdm_core::Refusal::failed("interrupted; it may have happened")
        } else {
            iotdm_core::Refusal::unsupported("this device no longer offers that action")
        };
        self.finish_refused(key, Class::Executed, &refusal);
    }

    fn requeue(&mut self, key: KeyHash) {
        let request = self.requests.get_mut(&key).expect("only unfinished requests are queued");
        request.stage = Stage::Queued;
        if takes_lane(&request.route) {
            self.lanes.entry(request.subject.clone()).or_default().waiting.push_back(key);
            self.timers.set(Timer::Lane(key), self.now.monotonic + LANE_WAIT);
        } else {
            self.waiting.push_back(key);
        }
    }

    fn restore_open(&mut self, key: KeyHash, record: OpenRequest) {
        self.seen(record.sequence);
        let Some(topic) = Topic::<Route>::parse(&format!("iotdm-1/{}{}", record.subject, record.route))
        else {
            unreachable!("every suffix below iotdm-1/ is a topic");
        };
        let Some(req_id) = ReqId::from_raw(&record.req_id) else {
            return warn!("a stored request has no usable reqId; it is dropped");
        };
        let stage = match record.stage {
            StageRecord::Recorded { started: false } => Stage::Queued,
            StageRecord::Recorded { started: true } => Stage::Deciding,
            StageRecord::Settled { response, boot } => {
                let boot = self.boot_of_record(boot);
                Stage::Settled { response: bytes(&response), boot, acknowledged: false, resumes: false }
            }
            StageRecord::Performing { response, boot } => {
                Stage::Judging { response: bytes(&response), boot: self.boot_of_record(boot) }
            }
        };
        self.requests.insert(
            key,
            Request {
                subject: topic.subject,
                req_id,
                route: match topic.route {
                    // No unknown topic was ever recorded.
                    Route::Unknown(suffix) => {
                        Route::command_from_suffix(&suffix).unwrap_or(Route::Unknown(suffix))
                    }
                    known => known,
                },
                d: shared(record.d),
                fingerprint: Fingerprint(record.fingerprint),
                sequence: record.sequence,
                attempt: record.attempt,
                arrived: record.arrived,
                age: record.age,
                works: record.works,
                handled: None,
                stage,
            },
        );
    }

    fn restore_done(&mut self, key: KeyHash, record: DoneRequest) {
        self.seen(record.sequence);
        let topic = Topic::<Route>::parse(&format!("iotdm-1/{}response", record.subject));
        let body = match record.answer {
            AnswerRecord::Stored(raw) => Body::Stored(raw.get().as_bytes().into()),
            AnswerRecord::Observed { req_id, fields } => match ReqId::from_raw(&req_id) {
                Some(req_id) => Body::Observed { req_id, fields },
                None => return warn!("a stored answer has no usable reqId; it is dropped"),
            },
        };
        self.answers.insert(
            key,
            Answer {
                subject: topic.map_or(iotdm_core::Subject::Connected, |topic| topic.subject),
                fingerprint: Fingerprint(record.fingerprint),
                sequence: record.sequence,
                class: record.class,
                body,
                failure: record.failure.map(Into::into),
            },
        );
    }

    fn seen(&mut self, sequence: u64) {
        self.next_sequence = self.next_sequence.max(sequence + 1);
    }
}

fn bytes(raw: &serde_json::value::RawValue) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(raw.get().as_bytes())
}

/// Before the name of an attribute: as it was configured last.
const CONFIGURED: &str = "agent.configured/";
