use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use iotdm_agent::Limits;
use iotdm_agent::engine::{
    AttributeRules, Delivered, Delivery, Effect, Engine, Input, KeyHash, Now, PublishId, Settings, TaskMoment,
};
use iotdm_agent::journal::Journal;
use iotdm_agent::store::{MemoryDisk, StoreSource};
use iotdm_core::{
    Acknowledge, BootId, Code, Decision, Interrupted, Late, Manage, Phases, Policy, ReplyParts, Route, Topic,
};
use serde_json::{Value, json};

/// The route of the one action here. What it starts goes on until [`Bench::finish`].
pub(crate) const WORK: Route = Route::custom("flood", "work");

/// The real engine and journal between a broker with a window and handlers that stand still. It keeps nothing of what
/// it has seen but counts, so that a million requests can pass.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) disk: MemoryDisk,
    journal: Journal,
    now: Duration,
    next_packet: u16,
    /// Deliveries that were not acknowledged.
    pub(crate) in_flight: usize,
    pub(crate) acknowledged: usize,
    /// Whether the broker keeps its acknowledgements back.
    pub(crate) holds_pubacks: bool,
    pubacks: VecDeque<PublishId>,
    /// How many answers of each code were published.
    pub(crate) answered: BTreeMap<u64, usize>,
    /// The last answer.
    pub(crate) last: Value,
    started: Vec<KeyHash>,
    pub(crate) disconnects: usize,
}

impl Bench {
    /// Connected and managed; the fence is lifted.
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        let mut disk = MemoryDisk::new();
        let mut engine = Engine::new(settings(limits));
        let store = disk.open().expect("an empty disk opens");
        let opened = Journal::open(store, "d:org:type:id", |entry| engine.restore(entry));
        let (journal, _) = opened.expect("an empty journal opens");
        let mut bench = Self {
            engine,
            disk,
            journal,
            now: Duration::ZERO,
            next_packet: 1,
            in_flight: 0,
            acknowledged: 0,
            holds_pubacks: false,
            pubacks: VecDeque::new(),
            answered: BTreeMap::new(),
            last: Value::Null,
            started: Vec::new(),
            disconnects: 0,
        };
        bench.engine.start(bench.clock());
        bench.engine.handle_timeout(bench.clock());
        bench.settle();
        bench.input(Input::Connected { session_present: false });
        bench.settle();
        bench.input(Input::Subscribed { granted: true });
        bench.settle();
        assert!(bench.engine.is_managed());
        bench
    }

    fn clock(&self) -> Now {
        Now { monotonic: self.now, uptime: self.now, wall: EPOCH + self.now }
    }

    pub(crate) fn pass(&mut self, span: Duration) {
        self.now += span;
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.engine.handle(self.clock(), input);
    }

    /// Delivers at QoS 1, whatever the window says.
    pub(crate) fn deliver(&mut self, topic: &str, payload: impl Into<Bytes>) {
        let packet = self.next_packet;
        self.next_packet = packet.checked_add(1).unwrap_or(1);
        self.in_flight += 1;
        self.give(Some(Delivery { epoch: 1, packet }), topic, payload.into());
    }

    /// Delivers at QoS 0, which knows no window.
    pub(crate) fn deliver_at_most_once(&mut self, topic: &str, payload: impl Into<Bytes>) {
        self.give(None, topic, payload.into());
    }

    fn give(&mut self, delivery: Option<Delivery>, topic: &str, payload: Bytes) {
        let topic = topic.into();
        self.input(Input::Delivered(Delivered { delivery, topic, payload, retained: false, waited: None }));
    }

    /// Asks at QoS 1 and lets follow what follows from it.
    pub(crate) fn ask(&mut self, route: Route, body: &Value) {
        self.deliver(&Topic::own(route).to_string(), body.to_string());
        self.settle();
    }

    /// What the driver does: writes, one commit, effects; until nothing is left.
    pub(crate) fn settle(&mut self) {
        loop {
            while let Some(batch) = self.engine.poll() {
                if !batch.writes.is_empty() {
                    self.journal.commit(&batch.writes).expect("this disk does not fail");
                }
                batch.effects.into_iter().for_each(|effect| self.perform(effect));
            }
            if self.holds_pubacks || self.pubacks.is_empty() {
                return;
            }
            for id in std::mem::take(&mut self.pubacks) {
                self.input(Input::Acknowledged(id));
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Acknowledge(_) => {
                self.in_flight -= 1;
                self.acknowledged += 1;
            }
            Effect::Publish { id, topic, payload } => {
                self.pubacks.push_back(id);
                let body: Value = serde_json::from_slice(&payload).expect("the device publishes JSON");
                if topic == "iotdevice-1/response" {
                    let rc = body["rc"].as_u64().expect("an answer has a code");
                    *self.answered.entry(rc).or_default() += 1;
                    self.last = body;
                } else {
                    let answer = json!({ "rc": 200, "reqId": body["reqId"] });
                    self.deliver("iotdm-1/response", answer.to_string());
                }
            }
            Effect::Start(task) => {
                assert_eq!(task.moment, TaskMoment::Handle);
                self.started.push(task.key);
            }
            Effect::Disconnect => self.disconnects += 1,
            _ => {}
        }
    }

    /// Lets every handler that was started return, and those that get their places, until none is left.
    pub(crate) fn finish(&mut self) {
        while let Some(key) = self.started.pop() {
            let reply = ReplyParts { rc: Code::OK, d: None };
            self.input(Input::Decided(key, Decision::Replied(reply)));
            self.input(Input::Ended(key));
            self.settle();
        }
    }

    /// Bytes of the journal.
    pub(crate) fn stored_bytes(&self) -> usize {
        self.disk.entries().iter().map(|(key, value)| key.len() + value.len()).sum()
    }
}

fn settings(limits: Limits) -> Settings {
    let policy = Policy {
        phases: Phases::WorkThenAnswer,
        budget: Duration::from_secs(3600),
        perform_budget: Duration::from_secs(3600),
        late: Late::Run,
        interrupted: Interrupted::Refuse,
        attempts: 1,
        acknowledge: Acknowledge::Durable,
    };
    Settings {
        subject: iotdm_core::Subject::Connected,
        gateway: None,
        policies: BTreeMap::from([(WORK, policy)]),
        manage: Manage::default(),
        configured: vec![("deviceInfo".into(), json!({})), ("metadata".into(), json!({}))],
        attributes: AttributeRules::default(),
        limits,
        unnoticed: Duration::from_secs(120),
        events_only: false,
        boot: BootId("boot-1".into()),
        seed: 0,
    }
}

/// When it begins, since the Unix epoch: 2026-11-09.
const EPOCH: Duration = Duration::from_secs(1_794_182_400);
