//! What the tests of the engine add to the simulation's world: shorthands, and what can be seen.

use std::collections::BTreeSet;

use bytes::Bytes;
use iotdm_core::{Decision, Failure, Performed, Recovery, Refusal, ReqId, Route, Subject};
use serde_json::{Value, json};

use crate::engine::{Engine, Fingerprint, Input, KeyHash, Settings, TaskMoment};
use crate::testing::simulation::broker::{Broker, Message, Received};
use crate::testing::simulation::laws::Copy;

pub(super) use crate::testing::simulation::ask::*;
pub(super) use crate::testing::simulation::settings::*;
pub(super) use crate::testing::simulation::world::World;

impl World {
    /// A device that was connected and managed a moment ago.
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    /// The same, set up otherwise.
    pub(super) fn with(set_up: impl FnOnce(&mut Settings)) -> Self {
        let mut world = Self::off(set_up);
        world.start();
        assert!(world.engine().is_managed());
        world
    }

    /// Starts the agent on what the disk holds, and lets everything happen that happens at once.
    pub(super) fn start(&mut self) {
        self.boot_up();
        self.run();
    }

    /// The process dies and is started again.
    pub(super) fn restart(&mut self) {
        self.crash();
        self.start();
    }

    /// The machine is restarted, and the agent with it.
    pub(super) fn reboot(&mut self) {
        self.power_off();
        self.start();
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.agent.as_ref().expect("the agent runs").engine
    }

    // --- the link

    /// The platform asks for something; whatever follows at once follows.
    pub(super) fn deliver(&mut self, req_id: &str, ask: Ask) {
        self.send(req_id, ask);
        self.run();
    }

    /// The platform asks for something, and the laws know when.
    pub(super) fn send_known(&mut self, req_id: &str, ask: Ask) {
        let copy = Copy {
            req_id: ReqId::from_text(req_id),
            fingerprint: Fingerprint::of(&Route::custom("lamp", "fresh"), None),
            sent_at: self.elapsed,
            delivered_at: None,
            acked: false,
            excused: false,
        };
        let number = self.send(req_id, ask);
        self.laws.sent(number, copy, Kind::Fresh);
    }

    /// These bytes arrive on this topic.
    pub(super) fn deliver_raw(&mut self, topic: &str, payload: impl AsRef<[u8]>) {
        self.broker.route(topic, payload.as_ref().to_vec());
        self.run();
    }

    /// The connection breaks, and the next one comes up.
    pub(super) fn flap(&mut self) {
        self.cut();
        self.pass(secs(600));
        assert!(self.broker.is_connected());
    }

    /// The connection breaks, and the broker is out of reach until [`reconnect`](Self::reconnect).
    pub(super) fn go_offline(&mut self) {
        self.broker.reachable = false;
        self.cut();
        self.run();
    }

    /// The broker can be reached again, and the agent finds out.
    pub(super) fn reconnect(&mut self) {
        self.broker.reachable = true;
        for _ in 0..1000 {
            if self.broker.is_connected() {
                return self.run();
            }
            self.pass(secs(1));
        }
        panic!("it does not connect");
    }

    // --- the handlers

    /// The handler of a request returns from `handle`.
    pub(super) fn decide(&mut self, req_id: &str, decision: Decision) {
        let key = key(req_id);
        self.input(Input::Decided(key, decision));
        self.end(req_id);
    }

    /// The handler of a request returns from `after_ack`.
    pub(super) fn performed(&mut self, req_id: &str, result: Result<Performed, Failure>) {
        self.input(Input::Performed(key(req_id), result));
        self.end(req_id);
    }

    /// The handler of a request returns from `recover`.
    pub(super) fn recovered(&mut self, req_id: &str, recovery: Recovery) {
        self.input(Input::Recovered(key(req_id), recovery));
        self.end(req_id);
    }

    /// The task of a request ends.
    pub(super) fn end(&mut self, req_id: &str) {
        self.end_task(key(req_id));
        self.run();
    }

    // --- what can be seen

    pub(super) fn count(&self, req_id: &str, moment: TaskMoment) -> usize {
        self.starts.iter().filter(|s| s.req_id == ReqId::from_text(req_id) && s.moment == moment).count()
    }

    /// How often `handle` was started for a request.
    pub(super) fn runs(&self, req_id: &str) -> usize {
        self.count(req_id, TaskMoment::Handle)
    }

    /// How often `after_ack` was started for a request.
    pub(super) fn performs(&self, req_id: &str) -> usize {
        self.count(req_id, TaskMoment::AfterAck)
    }

    /// How often `recover` was started for a request.
    pub(super) fn recovers(&self, req_id: &str) -> usize {
        self.count(req_id, TaskMoment::Recover)
    }

    pub(super) fn is_running(&self, req_id: &str) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.tasks.contains_key(&key(req_id)))
    }

    /// Every answer of the connected device with this reqId that reached the platform.
    pub(super) fn answers(&self, req_id: &str) -> Vec<Bytes> {
        self.broker.answers(&json!(req_id))
    }

    /// Whether every copy of a request was acknowledged.
    pub(super) fn is_acked(&self, req_id: &str) -> bool {
        !self.broker.keeps(&json!(req_id))
    }

    pub(super) fn codes(&self, req_id: &str) -> Vec<u16> {
        let code = |answer: &Bytes| {
            let value: Value = serde_json::from_slice(answer).unwrap();
            u16::try_from(value["rc"].as_u64().unwrap()).unwrap()
        };
        self.answers(req_id).iter().map(code).collect()
    }

    /// Exactly one answer reached the platform, with this code.
    #[track_caller]
    pub(super) fn assert_answer(&self, req_id: &str, rc: u16) {
        assert_eq!(self.codes(req_id), [rc], "answers to {req_id}: {:?}", self.answers(req_id));
    }

    #[track_caller]
    pub(super) fn assert_unanswered(&self, req_id: &str) {
        assert_eq!(self.codes(req_id), [0; 0]);
    }

    /// All answers to a request are the same bytes; which.
    #[track_caller]
    pub(super) fn assert_same_answers(&self, req_id: &str, count: usize) {
        let answers = self.answers(req_id);
        let distinct: BTreeSet<&Bytes> = answers.iter().collect();
        assert_eq!((answers.len(), distinct.len()), (count, 1), "{answers:?}");
    }

    /// It was answered, always with the same bytes, and this code. A restart may repeat an answer whose removal from
    /// the queue was still to be written.
    #[track_caller]
    pub(super) fn assert_only(&self, req_id: &str, rc: u16) {
        let answers: BTreeSet<Bytes> = self.answers(req_id).into_iter().collect();
        assert_eq!((answers.len(), self.codes(req_id)[0]), (1, rc), "{answers:?}");
    }

    /// The text of the last answer.
    pub(super) fn message(&self, req_id: &str) -> String {
        let answers = self.answers(req_id);
        let value: Value = serde_json::from_slice(answers.last().expect("it was answered")).unwrap();
        value["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Broker {
    /// What reached the platform on a topic, by suffix.
    pub(super) fn on(&self, suffix: &str) -> Vec<Value> {
        let topic = format!("iotdevice-1/{suffix}");
        self.received.iter().filter(|received| received.topic == topic).map(Received::json).collect()
    }

    pub(super) fn answers(&self, req_id: &Value) -> Vec<Bytes> {
        let on_response = self.received.iter().filter(|received| received.topic == "iotdevice-1/response");
        on_response
            .filter(|answer| &answer.json()["reqId"] == req_id)
            .map(|answer| answer.payload.clone())
            .collect()
    }

    /// How many messages the platform sent that were not acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    /// Whether a request waits here, unsent or unacknowledged.
    pub(super) fn keeps(&self, req_id: &Value) -> bool {
        let is_it = |message: &Message| {
            serde_json::from_slice::<Value>(&message.payload).is_ok_and(|value| &value["reqId"] == req_id)
        };
        self.queue.iter().any(is_it) || self.in_flight.iter().any(|(_, message)| is_it(message))
    }
}

pub(super) fn key(req_id: &str) -> KeyHash {
    KeyHash::of_request(&Subject::Connected, &ReqId::from_text(req_id))
}

/// The handler says yes.
pub(super) fn yes(rc: u16) -> Decision {
    Decision::Replied(iotdm_core::ReplyParts { rc: iotdm_core::Code::from_u16(rc), d: None })
}

/// The handler says no.
pub(super) fn no(refusal: Refusal) -> Decision {
    Decision::Refused(refusal)
}
