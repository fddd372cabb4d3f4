//! What is around an engine: it performs batches as the driver must, can die at any point of that, and remembers what the
//! laws need.

mod laws;
mod link;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use iotdm_agent::engine::{
    Batch, Effect, Engine, Input, KeyHash, Now, PublishId, Settings, Task, TaskMoment,
};
use iotdm_agent::journal::{Class, Journal, Write};
use iotdm_agent::store::{MemoryDisk, StoreSource};
use iotdm_core::{BootId, Phases, ReqId, Subject};
use serde_json::value::RawValue;

use self::laws::{Stored, note};
use self::settings::{MAX_KEPT, MAX_RUNNING, SETTINGS};

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
        self.link = Link::Down;
        self.in_flight.clear();
        self.own.clear();
        self.tasks.clear();
        self.crash_in = None;
        self.now.monotonic = Duration::ZERO;
        self.records.clear();
        // The store before it goes with the process.
        self.journal = None;
        let boot = BootId(format!("boot-{}", self.boot).into());
        let settings = Settings { boot, seed: self.seed, ..SETTINGS.clone() };
        let Self { engine, records, .. } = self;
        // A first commit may be the one that was to fail.
        let opened = (0..2).find_map(|_| {
            *engine = Engine::new(settings.clone());
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

    /// An answer that is kept no longer leaves memory before it leaves the journal. Asked for again before that, its
    /// request is another one, and the journal hears of both at once.
    fn may_be_another(&mut self, key: KeyHash, writes: &[Write]) {
        let class = self.records.get(&key).and_then(Stored::class);
        let Some(class) = class.filter(|_| self.begun.contains(&key)) else { return };
        let stored = self.records.iter().map(|(key, stored)| (*key, stored.class()));
        let written = writes.iter().filter_map(|write| match write {
            Write::Done(key, request) => Some((*key, Some(request.class))),
            _ => None,
        });
        let is_other = |(other, its): &(KeyHash, Option<Class>)| *other != key && *its == Some(class);
        let others: BTreeSet<(KeyHash, Option<Class>)> = stored.chain(written).filter(is_other).collect();
        let kept = match class {
            Class::Executed => SETTINGS.limits.kept_executed,
            Class::Refused => SETTINGS.limits.kept_refused,
            Class::Passing => 0,
        };
        assert!(others.len() >= kept, "an answer is forgotten too early");
        self.begun.remove(&key);
        self.arrived.remove(&key);
    }

    /// False when the process died in the middle.
    fn perform_batch(&mut self, batch: Batch) -> bool {
        if !batch.writes.is_empty() {
            let journal = self.journal.as_mut().expect("it is absent only while it is opened");
            if is_over(&mut self.crash_in) || journal.commit(&batch.writes).is_err() {
                return false;
            }
            for write in &batch.writes {
                if let Write::Open(key, _) = write {
                    self.may_be_another(*key, &batch.writes);
                }
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
            Effect::PublishEvent { .. } => unreachable!("nothing publishes an event here"),
            Effect::Start(task) => self.started(task),
            Effect::Cancel(_)
            | Effect::Attributes(_)
            | Effect::Confirm(_)
            | Effect::Decline(..)
            | Effect::Replaced(_)
            | Effect::Announce(_) => {}
        }
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

/// How many of the device's own requests the platform may still answer.
const MAX_OWN: usize = 5;

const IDENTITY: &str = "d:org:type:id";

/// 2026-11-09.
const EPOCH: Duration = Duration::from_secs(1_794_182_400);
