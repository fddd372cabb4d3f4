//! A world around an engine: it applies batches as the driver must, and anything in it can fail at any point.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use iotdm_core::{
    BootId, Code, Decision, Failure, Interrupted, Late, Manage, Performed, Phases, Policy, Recovery, Refusal,
    ReplyParts, ReqId, Route, Subject, Supports,
};
use serde_json::{Value, json};

use crate::config::Limits;
use crate::engine::{
    Announcement, Effect, Engine, Input, KeyHash, Lost, Now, Settings, Task, TaskMoment, Ticket,
};
use crate::journal::Journal;
use crate::store::{MemoryDisk, StoreSource};

pub(super) use self::ask::*;
pub(super) use self::broker::Broker;

mod ask;
mod broker;

/// Everything around one device.
pub(super) struct World {
    pub(super) disk: MemoryDisk,
    pub(super) settings: Settings,
    pub(super) broker: Broker,
    pub(super) agent: Option<Agent>,
    /// Every task that was started, across restarts.
    pub(super) starts: Vec<Started>,
    pub(super) confirmed: Vec<Ticket>,
    pub(super) announced: Vec<Announcement>,
    /// Whether a cancelled task ends at once; blocking work does not.
    pub(super) obeys_cancel: bool,
    /// Batches with writes that became durable.
    pub(super) commits: u64,
    /// Commits and effects so far; at `crash_at` the process dies instead.
    pub(super) points: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) story: Vec<String>,
    /// Since the world began.
    pub(super) elapsed: Duration,
    /// What the wall clock is wrong by: it shows the uptime alone.
    pub(super) clock_lost: bool,
    pub(super) boot: u64,
    booted_at: Duration,
    seed: u64,
}

/// A process of the agent.
pub(super) struct Agent {
    pub(super) engine: Engine,
    pub(super) tasks: BTreeMap<KeyHash, Task>,
    pub(super) inputs: VecDeque<Input>,
    journal: Journal,
    started_at: Duration,
}

/// A task that was started.
#[derive(Clone, Debug)]
pub(super) struct Started {
    pub(super) req_id: ReqId,
    pub(super) moment: TaskMoment,
    pub(super) attempt: u32,
    pub(super) rebooted: bool,
    pub(super) at: Duration,
}

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

    /// A device that was never switched on.
    pub(super) fn off(set_up: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        set_up(&mut settings);
        Self {
            disk: MemoryDisk::new(),
            settings,
            broker: Broker::default(),
            agent: None,
            starts: Vec::new(),
            confirmed: Vec::new(),
            announced: Vec::new(),
            obeys_cancel: true,
            commits: 0,
            points: 0,
            crash_at: None,
            story: Vec::new(),
            elapsed: Duration::ZERO,
            clock_lost: false,
            boot: 1,
            booted_at: Duration::ZERO,
            seed: 7,
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.agent.as_ref().expect("the agent runs").engine
    }

    pub(super) fn tell(&mut self, what: impl Into<String>) {
        self.story.push(format!("{:>9.1} {}", self.elapsed.as_secs_f64(), what.into()));
    }

    // --- the machine

    /// Starts the agent on what the disk holds, and lets everything happen that happens at once.
    pub(super) fn start(&mut self) {
        self.boot_up();
        self.run();
    }

    /// Starts the agent and performs its first batches, nothing more. False while the disk refuses.
    pub(super) fn boot_up(&mut self) -> bool {
        if self.agent.is_some() {
            return true;
        }
        self.seed += 1;
        let mut settings = self.settings.clone();
        settings.boot = BootId(format!("boot-{}", self.boot).into());
        settings.seed = self.seed;
        let opened = (0..2).find_map(|_| {
            let mut engine = Engine::new(settings.clone());
            let opened = self
                .disk
                .open()
                .map_err(Into::into)
                .and_then(|store| Journal::open(store, "d:org:type:id", |entry| engine.restore(entry)));
            match opened {
                Ok((journal, _)) => Some((engine, journal)),
                Err(error) if error.is_damage() => {
                    self.disk.set_aside().unwrap();
                    None
                }
                Err(error) => {
                    self.tell(format!("no start: {error}"));
                    None
                }
            }
        });
        let Some((engine, journal)) = opened else { return false };
        self.tell(format!("the agent starts in boot {}", self.boot));
        let started_at = self.elapsed;
        self.agent =
            Some(Agent { engine, journal, started_at, tasks: BTreeMap::new(), inputs: VecDeque::new() });
        let now = self.now();
        self.engine_mut().start(now);
        self.perform_batches();
        self.fire();
        true
    }

    /// The process dies where it stands.
    pub(super) fn crash(&mut self) {
        self.tell("the process dies");
        self.agent = None;
        self.crash_at = None;
        self.broker.cut();
    }

    /// The process dies and is started again.
    pub(super) fn restart(&mut self) {
        self.crash();
        self.start();
    }

    /// The machine loses its power.
    pub(super) fn power_off(&mut self) {
        self.crash();
        self.boot += 1;
        self.booted_at = self.elapsed;
        self.tell(format!("the machine is restarted: boot {}", self.boot));
    }

    /// The machine is restarted, and the agent with it.
    pub(super) fn reboot(&mut self) {
        self.power_off();
        self.start();
    }

    pub(super) fn now(&self) -> Now {
        let uptime = self.elapsed - self.booted_at;
        let started_at = self.agent.as_ref().map_or(Duration::ZERO, |agent| agent.started_at);
        let wall = if self.clock_lost { uptime } else { Duration::from_secs(T0) + self.elapsed };
        Now { monotonic: self.elapsed - started_at, uptime, wall }
    }

    /// Lets time pass; every deadline takes effect at its time.
    pub(super) fn pass(&mut self, span: Duration) {
        let end = self.elapsed + span;
        for _ in 0..1_000_000 {
            self.run();
            let next = self
                .agent
                .as_ref()
                .and_then(|agent| agent.engine.poll_timeout().map(|timeout| agent.started_at + timeout));
            let Some(next) = next.filter(|next| *next <= end) else {
                self.elapsed = end;
                return;
            };
            self.elapsed = next.max(self.elapsed);
            self.fire();
        }
        panic!("time does not pass");
    }

    // --- the driver

    /// Deadlines that are due.
    pub(super) fn fire(&mut self) {
        let now = self.now();
        if let Some(agent) = &mut self.agent
            && agent.engine.poll_timeout().is_some_and(|at| at <= now.monotonic)
        {
            agent.engine.handle_timeout(now);
            self.perform_batches();
        }
    }

    /// Lets everything happen that happens at once.
    pub(super) fn run(&mut self) {
        for _ in 0..1_000_000 {
            if !self.take_input() && !self.broker_up() && !self.broker_down() {
                self.fire();
                let idle = self.agent.as_ref().is_none_or(|agent| agent.inputs.is_empty());
                if idle && !self.broker.has_work() {
                    return;
                }
            }
        }
        panic!("the world does not come to rest");
    }

    /// One input that waits at the agent.
    pub(super) fn take_input(&mut self) -> bool {
        let Some(input) = self.agent.as_mut().and_then(|agent| agent.inputs.pop_front()) else {
            return false;
        };
        self.input(input);
        true
    }

    /// One message on its way to the broker arrives there.
    pub(super) fn broker_up(&mut self) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        self.broker.take_up(&mut agent.inputs)
    }

    /// The broker delivers one message.
    pub(super) fn broker_down(&mut self) -> bool {
        let Some(delivered) = self.broker.next_down() else { return false };
        self.input(Input::Delivered(delivered));
        true
    }

    pub(super) fn input(&mut self, input: Input) {
        let now = self.now();
        self.engine_mut().handle(now, input);
        self.perform_batches();
    }

    fn perform_batches(&mut self) {
        while let Some(agent) = &mut self.agent {
            let Some(batch) = agent.engine.poll() else { return };
            if !batch.writes.is_empty() {
                if self.is_crash_point() {
                    return;
                }
                let agent = self.agent.as_mut().expect("the agent runs");
                if let Err(error) = agent.journal.commit(&batch.writes) {
                    self.tell(format!("a commit fails: {error}"));
                    return self.crash();
                }
                self.commits += 1;
            }
            for effect in batch.effects {
                if self.is_crash_point() {
                    return;
                }
                self.perform(effect);
            }
        }
    }

    fn is_crash_point(&mut self) -> bool {
        self.points += 1;
        if self.crash_at != Some(self.points) {
            return false;
        }
        self.crash();
        true
    }

    fn perform(&mut self, effect: Effect) {
        let agent = self.agent.as_mut().expect("only a running agent has effects");
        match effect {
            Effect::Connect { epoch } => agent.inputs.push_back(self.broker.connect(epoch)),
            Effect::Subscribe => agent.inputs.push_back(self.broker.subscribe()),
            Effect::Disconnect => {
                self.broker.cut();
                agent.inputs.retain(is_of_a_task);
                agent.inputs.push_back(Input::Disconnected(Lost::Other));
            }
            Effect::Acknowledge(delivery) => self.broker.acknowledge(delivery),
            Effect::Publish { id, topic, payload } => self.broker.publish(id, topic, payload),
            Effect::Start(task) => {
                let started = Started {
                    req_id: task.req_id.clone(),
                    moment: task.moment,
                    attempt: task.attempt,
                    rebooted: task.rebooted,
                    at: self.elapsed,
                };
                let before = agent.tasks.insert(task.key, task);
                assert!(before.is_none(), "a task is started while the one before it runs");
                self.tell(format!(
                    "{:?} of {} starts, attempt {}",
                    started.moment, started.req_id, started.attempt
                ));
                self.starts.push(started);
            }
            Effect::Cancel(key) => {
                if self.obeys_cancel && agent.tasks.remove(&key).is_some() {
                    agent.inputs.push_back(Input::Ended(key));
                }
            }
            Effect::Attributes(_) => {}
            Effect::Confirm(ticket) => self.confirmed.push(ticket),
            Effect::Decline(_) => {}
            Effect::Announce(announcement) => self.announced.push(announcement),
        }
    }

    fn engine_mut(&mut self) -> &mut Engine {
        &mut self.agent.as_mut().expect("the agent runs").engine
    }

    // --- the link

    /// The platform asks for something; whatever follows at once follows.
    pub(super) fn deliver(&mut self, req_id: &str, ask: Ask) {
        self.send(req_id, ask);
        self.run();
    }

    /// The platform asks for something; it waits on the broker.
    pub(super) fn send(&mut self, req_id: &str, ask: Ask) -> u64 {
        let payload = ask.payload(&json!(req_id));
        self.tell(format!("the platform sends {} as {req_id}", ask.topic));
        self.broker.route(&ask.topic, payload)
    }

    /// These bytes arrive on this topic.
    pub(super) fn deliver_raw(&mut self, topic: &str, payload: impl AsRef<[u8]>) {
        self.broker.route(topic, payload.as_ref().to_vec());
        self.run();
    }

    /// The connection breaks; what was on its way is lost.
    pub(super) fn cut(&mut self) {
        if self.broker.is_connected() {
            self.tell("the link is cut");
            self.broker.cut();
            self.link_lost();
        }
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

    /// The broker acknowledges everything it has held back, and goes on doing so.
    pub(super) fn puback(&mut self) {
        self.broker.pubacks = true;
        if let Some(agent) = &mut self.agent {
            self.broker.release_pubacks(&mut agent.inputs);
        }
        self.run();
    }

    fn link_lost(&mut self) {
        if let Some(agent) = &mut self.agent {
            agent.inputs.retain(is_of_a_task);
            agent.inputs.push_back(Input::Disconnected(Lost::Other));
        }
        self.run_inputs();
    }

    fn run_inputs(&mut self) {
        while self.take_input() {}
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

    pub(super) fn end_task(&mut self, key: KeyHash) {
        if self.agent.as_mut().is_some_and(|agent| agent.tasks.remove(&key).is_some()) {
            self.input(Input::Ended(key));
        }
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

fn is_of_a_task(input: &Input) -> bool {
    matches!(input, Input::Decided(..) | Input::Performed(..) | Input::Recovered(..) | Input::Ended(_))
}

pub(super) fn key(req_id: &str) -> KeyHash {
    KeyHash::of_request(&Subject::Connected, &ReqId::from_text(req_id))
}

pub(super) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(super) fn minutes(minutes: u64) -> Duration {
    secs(minutes * 60)
}

/// The handler says yes.
pub(super) fn yes(rc: u16) -> Decision {
    Decision::Replied(ReplyParts { rc: Code::from_u16(rc), d: None })
}

/// The handler says no.
pub(super) fn no(refusal: Refusal) -> Decision {
    Decision::Refused(refusal)
}

pub(super) fn policy(phases: Phases, interrupted: Interrupted) -> Policy {
    Policy {
        phases,
        budget: secs(30),
        perform_budget: minutes(30),
        late: Late::Run,
        interrupted,
        attempts: 3,
    }
}

fn settings() -> Settings {
    let refuse = |phases| policy(phases, Interrupted::Refuse);
    let lamp = |action: &'static str| Route::custom("lamp", action);
    let fresh = Policy { late: Late::RefuseAfter(minutes(15)), ..refuse(Phases::WorkThenAnswer) };
    let policies = BTreeMap::from([
        (Route::Reboot, refuse(Phases::AnswerThenWork)),
        (Route::FactoryReset, refuse(Phases::AnswerThenWork)),
        (Route::FirmwareDownload, refuse(Phases::AnswerThenWork)),
        (Route::FirmwareUpdate, refuse(Phases::AnswerThenWork)),
        (lamp("once"), refuse(Phases::WorkThenAnswer)),
        (lamp("again"), policy(Phases::WorkThenAnswer, Interrupted::RunAgain)),
        (lamp("after"), refuse(Phases::AnswerThenWork)),
        (lamp("fresh"), fresh),
    ]);
    let supports = Supports {
        device_actions: true,
        firmware_actions: true,
        bundles: BTreeMap::from([("lamp".into(), true)]),
    };
    Settings {
        policies,
        manage: Manage { lifetime: 0, supports, ..Manage::default() },
        configured: vec![
            ("deviceInfo".into(), json!({"model": "m"})),
            ("metadata".into(), json!({})),
            ("mgmt.firmware".into(), json!({"state": 0, "updateStatus": 0})),
            ("level".into(), json!(1)),
        ],
        limits: Limits::default(),
        unnoticed: secs(120),
        boot: BootId("boot-1".into()),
        seed: 0,
    }
}

/// When the world begins, in seconds since the Unix epoch: 2026-11-09.
const T0: u64 = 1_794_182_400;
