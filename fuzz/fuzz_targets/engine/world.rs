//! What is around an engine: it performs batches as the driver must, can die at any point of that, and remembers what the
//! laws need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use iotdm_agent::Limits;
use iotdm_agent::engine::{
    Batch, Delivered, Delivery, Effect, Engine, Input, KeyHash, Lost, Now, PublishId, Settings, Task,
    TaskMoment,
};
use iotdm_agent::journal::{AnswerRecord, Journal, StageRecord, Write};
use iotdm_agent::store::{MemoryDisk, StoreSource};
use iotdm_core::{
    BootId, Interrupted, Late, MAX_PAYLOAD_BYTES, Manage, Phases, Policy, ReqId, Route, Subject, Supports,
    Topic, UpRoute,
};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

/// A device, its disk and its link.
pub struct World {
    disk: MemoryDisk,
    engine: Engine,
    journal: Option<Journal>,
    /// Since the agent started, since this boot, and since the Unix epoch.
    now: Now,
    boot: u64,
    seed: u64,
    link: Link,
    packet: u16,
    /// Published on this connection and not acknowledged.
    in_flight: Vec<Published>,
    /// The reqIds of the device's own requests, by the newest.
    own: Vec<String>,
    tasks: BTreeMap<KeyHash, Task>,
    /// Commits and effects until the process dies.
    crash_in: Option<u32>,
    /// What is durable.
    records: BTreeMap<KeyHash, Stored>,
    /// Requests whose work has begun, while the journal knows them.
    begun: BTreeSet<KeyHash>,
    /// Requests whose answer the broker has, while the journal knows them.
    arrived: BTreeSet<KeyHash>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    Connecting(u64),
    Connected(u64),
    Subscribing(u64),
    Up(u64),
}

struct Published {
    id: PublishId,
    req_id: Option<ReqId>,
}

/// A record, as far as the laws need it.
enum Stored {
    Recorded { started: bool },
    Promised { response: Box<RawValue>, performing: bool },
    Answered(Box<RawValue>),
    Observed(Box<RawValue>),
}

/// A message of the device.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(rename = "reqId", borrow)]
    req_id: Option<&'a RawValue>,
    rc: Option<u16>,
}

impl World {
    /// A device that was never switched on before, as its agent has started.
    pub fn new() -> Self {
        let mut world = Self {
            disk: MemoryDisk::new(),
            engine: Engine::new(SETTINGS.clone()),
            journal: None,
            now: Now { wall: EPOCH, ..Now::default() },
            boot: 1,
            seed: 0,
            link: Link::Down,
            packet: 0,
            in_flight: Vec::new(),
            own: Vec::new(),
            tasks: BTreeMap::new(),
            crash_in: None,
            records: BTreeMap::new(),
            begun: BTreeSet::new(),
            arrived: BTreeSet::new(),
        };
        world.crash();
        world
    }

    pub fn key(req_id: &str) -> KeyHash {
        let raw = RawValue::from_string(req_id.to_owned()).expect("a reqId is JSON");
        let req_id = ReqId::from_raw(&raw).expect("a reqId is a scalar");
        KeyHash::of_request(&Subject::Connected, &req_id)
    }

    /// What must hold at any time, beside what each effect is looked at for.
    pub fn look(&self) {
        let kept = self.engine.kept();
        assert!(kept <= MAX_KEPT, "{kept} requests are kept");
        assert!(self.records.len() <= MAX_KEPT, "{} requests are stored", self.records.len());
        assert!(self.tasks.len() <= MAX_RUNNING, "{} tasks run", self.tasks.len());
        let _ = (self.engine.is_quiet(), self.engine.is_managed(), self.engine.counters().len());
    }

    // --- the machine

    /// The process dies where it stands, and is started again.
    pub fn crash(&mut self) {
        self.seed += 1;
        let boot = BootId(format!("boot-{}", self.boot).into());
        self.engine = Engine::new(Settings { boot, seed: self.seed, ..SETTINGS.clone() });
        self.link = Link::Down;
        self.in_flight.clear();
        self.own.clear();
        self.tasks.clear();
        self.crash_in = None;
        self.now.monotonic = Duration::ZERO;
        self.records.clear();
        // The store before it goes with the process.
        self.journal = None;
        let Self { engine, records, .. } = self;
        // A first commit may be the one that was to fail.
        let opened = (0..2).find_map(|_| {
            *engine = Engine::new(Settings {
                boot: BootId(format!("boot-{}", self.boot).into()),
                seed: self.seed,
                ..SETTINGS.clone()
            });
            let store = self.disk.open().expect("the disk can be opened");
            Journal::open(store, IDENTITY, |write| {
                note(records, &write);
                engine.restore(write);
            })
            .ok()
        });
        self.journal = Some(opened.expect("a commit fails once").0);
        // What was told and lost with a commit is forgotten with it.
        self.begun.retain(|key| self.records.contains_key(key));
        self.arrived.retain(|key| self.records.contains_key(key));
        self.engine.start(self.now);
        self.perform();
    }

    pub fn power_off(&mut self) {
        self.boot += 1;
        self.now.uptime = Duration::ZERO;
        self.crash();
    }

    pub fn crash_after(&mut self, points: u32) {
        self.crash_in = Some(points);
    }

    pub fn disk(&self) -> &MemoryDisk {
        &self.disk
    }

    pub fn pass(&mut self, span: Duration) {
        self.now.monotonic += span;
        self.now.uptime += span;
        self.now.wall += span;
        self.engine.handle_timeout(self.now);
        self.perform();
    }

    pub fn pass_to_deadline(&mut self) {
        if let Some(at) = self.engine.poll_timeout() {
            self.pass(at.saturating_sub(self.now.monotonic));
        }
    }

    pub fn set_clock(&mut self, since_epoch: Duration) {
        self.now.wall = since_epoch;
    }

    // --- the driver

    pub fn input(&mut self, input: Input) {
        self.engine.handle(self.now, input);
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(batch) = self.engine.poll() {
            if !self.perform_batch(batch) {
                return self.crash();
            }
        }
    }

    /// False when the process died in the middle.
    fn perform_batch(&mut self, batch: Batch) -> bool {
        if !batch.writes.is_empty() {
            let journal = self.journal.as_mut().expect("it is absent only while it is opened");
            if is_over(&mut self.crash_in) || journal.commit(&batch.writes).is_err() {
                return false;
            }
            for write in &batch.writes {
                note(&mut self.records, write);
                if let Write::Forget(key) = write {
                    self.begun.remove(key);
                    self.arrived.remove(key);
                }
            }
        }
        for effect in batch.effects {
            if is_over(&mut self.crash_in) {
                return false;
            }
            self.effect(effect);
        }
        true
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Connect { epoch } => {
                assert_eq!(self.link, Link::Down, "a second connection");
                self.link = Link::Connecting(epoch);
            }
            Effect::Subscribe => {
                let Link::Connected(epoch) = self.link else { panic!("subscribes on {:?}", self.link) };
                self.link = Link::Subscribing(epoch);
            }
            Effect::Disconnect => self.link_is_down(),
            Effect::Acknowledge(delivery) => {
                assert!(self.epoch().is_some_and(|epoch| delivery.epoch <= epoch), "{delivery:?}");
            }
            Effect::Publish { id, topic, payload } => self.published(id, &topic, &payload),
            Effect::Start(task) => self.started(task),
            Effect::Cancel(_)
            | Effect::Attributes(_)
            | Effect::Confirm(_)
            | Effect::Decline(_)
            | Effect::Announce(_) => {}
        }
    }

    fn published(&mut self, id: PublishId, topic: &str, payload: &Bytes) {
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
            Stored::Promised { response, .. } | Stored::Answered(response) => {
                response.get().as_bytes() == payload
            }
            Stored::Observed(observed) => observed.get() == req_id.get(),
        });
        assert!(is_stored, "an answer that is not durable: {}", String::from_utf8_lossy(payload));
    }

    fn started(&mut self, task: Task) {
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

    // --- the handlers

    pub fn running(&self, which: usize) -> Option<Task> {
        self.tasks.values().nth(which % self.tasks.len().max(1)).cloned()
    }

    pub fn runs(&self, key: KeyHash, moment: TaskMoment) -> bool {
        self.tasks.get(&key).is_some_and(|task| task.moment == moment)
    }

    pub fn phases(&self, task: &Task) -> Phases {
        SETTINGS.policies[&task.route].phases
    }

    pub fn end(&mut self, key: KeyHash) {
        // It may have died with its process.
        if self.tasks.remove(&key).is_some() {
            self.input(Input::Ended(key));
        }
    }

    // --- the link

    pub fn come_up(&mut self, session_present: bool) {
        if self.link == Link::Down {
            self.pass_to_deadline();
        }
        self.connected(session_present);
        self.subscribed(true);
        for _ in 0..2 {
            self.acknowledge_all();
            self.answer(0, 200);
        }
    }

    pub fn connected(&mut self, session_present: bool) {
        if let Link::Connecting(epoch) = self.link {
            self.link = Link::Connected(epoch);
            self.input(Input::Connected { session_present });
        }
    }

    pub fn subscribed(&mut self, granted: bool) {
        if let Link::Subscribing(epoch) = self.link {
            self.link = Link::Up(epoch);
            self.input(Input::Subscribed { granted });
        }
    }

    pub fn disconnected(&mut self, lost: Lost) {
        if self.link != Link::Down {
            self.link_is_down();
            self.input(Input::Disconnected(lost));
        }
    }

    pub fn deliver(&mut self, topic: &str, payload: Bytes, at_least_once: bool, retained: bool) {
        let Some(epoch) = self.epoch() else { return };
        self.packet = self.packet.wrapping_add(1).max(1);
        let delivery = at_least_once.then_some(Delivery { epoch, packet: self.packet });
        self.input(Input::Delivered(Delivered { delivery, topic: topic.to_owned(), payload, retained }));
    }

    /// The platform answers one of the device's last requests.
    pub fn answer(&mut self, which: usize, rc: u16) {
        let Some(req_id) = self.own.iter().rev().nth(which % MAX_OWN) else { return };
        let payload = format!("{{\"rc\":{rc},\"reqId\":{req_id}}}");
        self.deliver("iotdm-1/response", Bytes::from(payload), true, false);
    }

    pub fn acknowledge(&mut self, which: usize) {
        if self.in_flight.is_empty() {
            return;
        }
        let published = self.in_flight.remove(which % self.in_flight.len());
        if let Some(req_id) = published.req_id {
            self.arrived.insert(KeyHash::of_request(&Subject::Connected, &req_id));
        }
        self.input(Input::Acknowledged(published.id));
    }

    pub fn acknowledge_all(&mut self) {
        for _ in 0..self.in_flight.len() {
            self.acknowledge(0);
        }
    }

    fn epoch(&self) -> Option<u64> {
        match self.link {
            Link::Down | Link::Connecting(_) => None,
            Link::Connected(epoch) | Link::Subscribing(epoch) | Link::Up(epoch) => Some(epoch),
        }
    }

    fn link_is_down(&mut self) {
        self.link = Link::Down;
        self.in_flight.clear();
    }
}

fn note(records: &mut BTreeMap<KeyHash, Stored>, write: &Write) {
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
                AnswerRecord::Stored(response) => Stored::Answered(response.clone()),
                AnswerRecord::Observed { req_id, .. } => Stored::Observed(req_id.clone()),
            };
            records.insert(*key, stored);
        }
        Write::Forget(key) => drop(records.remove(key)),
        _ => {}
    }
}

fn is_over(crash_in: &mut Option<u32>) -> bool {
    match crash_in {
        None => false,
        Some(0) => true,
        Some(points) => {
            *points -= 1;
            false
        }
    }
}

static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let policy = |phases, interrupted, late| Policy {
        phases,
        budget: Duration::from_secs(30),
        perform_budget: Duration::from_secs(30 * 60),
        late,
        interrupted,
        attempts: 3,
    };
    let refuse = |phases| policy(phases, Interrupted::Refuse, Late::Run);
    let lamp = |action: &'static str| Route::custom("lamp", action);
    let quarter = Late::RefuseAfter(Duration::from_secs(15 * 60));
    Settings {
        policies: BTreeMap::from([
            (Route::Reboot, refuse(Phases::AnswerThenWork)),
            (Route::FactoryReset, policy(Phases::AnswerThenWork, Interrupted::Refuse, quarter)),
            (Route::FirmwareDownload, refuse(Phases::AnswerThenWork)),
            (Route::FirmwareUpdate, refuse(Phases::AnswerThenWork)),
            (lamp("once"), refuse(Phases::WorkThenAnswer)),
            (lamp("again"), policy(Phases::WorkThenAnswer, Interrupted::RunAgain, Late::Run)),
            (lamp("after"), refuse(Phases::AnswerThenWork)),
            (lamp("fresh"), policy(Phases::WorkThenAnswer, Interrupted::Refuse, quarter)),
        ]),
        manage: Manage { lifetime: 3600, supports: Supports::default(), ..Manage::default() },
        configured: vec![("deviceInfo".into(), json!({"model": "m"})), ("level".into(), json!(1))],
        limits: LIMITS,
        unnoticed: Duration::from_secs(120),
        boot: BootId("boot-1".into()),
        seed: 0,
    }
});

/// Small, so that short histories come to them.
const LIMITS: Limits = Limits {
    running: 2,
    pending: 4,
    kept_executed: 6,
    kept_refused: 2,
    kept_bytes: 12_000,
    outbox: 4,
    shutdown_grace: Duration::from_secs(10),
};

/// What waits, what is kept for replays, and answers that wait to be sent: at their bound requests are still finished.
const MAX_KEPT: usize = 2 * LIMITS.pending + LIMITS.kept_executed + LIMITS.kept_refused + LIMITS.outbox;

/// The places and the one lane; what overran keeps its task, and gives up its place when that has ended.
const MAX_RUNNING: usize = LIMITS.running + 1;

/// How many of the device's own requests the platform may still answer.
const MAX_OWN: usize = 5;

const IDENTITY: &str = "d:org:type:id";

/// 2026-11-09.
const EPOCH: Duration = Duration::from_secs(1_794_182_400);
