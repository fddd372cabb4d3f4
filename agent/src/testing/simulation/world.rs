//! A world around an engine: it applies batches as the driver must, and anything in it can fail at any point.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use iotdm_core::{BootId, Declined, ReqId};
use serde_json::json;

use crate::engine::{Announcement, Effect, Engine, Input, KeyHash, Now, Settings, Task, TaskMoment, Ticket};
use crate::journal::Journal;
use crate::store::{MemoryDisk, StoreSource};

use super::ask::Ask;
use super::broker::Broker;
use super::laws::Laws;
use super::settings::settings;
use super::story::{Story, shown};

/// Everything around one device.
pub(crate) struct World {
    pub(crate) disk: MemoryDisk,
    pub(crate) settings: Settings,
    pub(crate) broker: Broker,
    pub(crate) agent: Option<Agent>,
    pub(crate) laws: Laws,
    /// Every task that was started, across restarts.
    pub(crate) starts: Vec<Started>,
    pub(crate) confirmed: Vec<Ticket>,
    pub(crate) declined: Vec<(Ticket, Declined)>,
    pub(crate) announced: Vec<Announcement>,
    /// Whether a cancelled task ends at once; blocking work does not.
    pub(crate) obeys_cancel: bool,
    /// Batches with writes that became durable.
    pub(crate) commits: u64,
    /// Commits and effects so far; at `crash_at` the process dies instead.
    pub(crate) points: u64,
    pub(crate) crash_at: Option<u64>,
    pub(crate) story: Story,
    pub(crate) elapsed: Duration,
    /// Up to when everything that was on its way got through.
    pub(crate) rested_at: Duration,
    /// What the wall clock is wrong by: it shows the uptime alone.
    pub(crate) clock_lost: bool,
    pub(crate) boot: u64,
    booted_at: Duration,
    seed: u64,
}

/// A process of the agent.
pub(crate) struct Agent {
    pub(crate) engine: Engine,
    pub(crate) tasks: BTreeMap<KeyHash, Task>,
    pub(crate) inputs: VecDeque<Input>,
    journal: Journal,
    started_at: Duration,
}

/// A task that was started.
#[derive(Clone, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "the tests of the engine look at all of it"))]
pub(crate) struct Started {
    pub(crate) req_id: ReqId,
    pub(crate) moment: TaskMoment,
    pub(crate) attempt: u32,
    pub(crate) rebooted: bool,
    pub(crate) at: Duration,
}

impl World {
    /// A device that was never switched on.
    pub(crate) fn off(set_up: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        set_up(&mut settings);
        Self {
            disk: MemoryDisk::new(),
            laws: Laws::new(&settings),
            settings,
            broker: Broker::default(),
            agent: None,
            starts: Vec::new(),
            confirmed: Vec::new(),
            declined: Vec::new(),
            announced: Vec::new(),
            obeys_cancel: true,
            commits: 0,
            points: 0,
            crash_at: None,
            story: Story::told(),
            elapsed: Duration::ZERO,
            rested_at: Duration::ZERO,
            clock_lost: false,
            boot: 1,
            booted_at: Duration::ZERO,
            seed: 7,
        }
    }

    pub(crate) fn tell(&mut self, what: impl FnOnce() -> String) {
        self.story.tell(self.elapsed, what);
    }

    // --- the machine

    /// Starts the agent and performs its first batches, nothing more. False while the disk refuses.
    pub(crate) fn boot_up(&mut self) -> bool {
        if self.agent.is_some() {
            return true;
        }
        self.seed += 1;
        let mut settings = self.settings.clone();
        settings.boot = BootId(format!("boot-{}", self.boot).into());
        settings.seed = self.seed;
        let opened = (0..2).find_map(|_| {
            let mut engine = Engine::new(settings.clone());
            let was_empty = self.disk.pairs() == 0;
            let opened = self
                .disk
                .open()
                .map_err(Into::into)
                .and_then(|store| Journal::open(store, "d:org:type:id", |entry| engine.restore(entry)));
            match opened {
                Ok((journal, _)) => {
                    was_empty.then(|| self.laws.journal_is_empty());
                    Some((engine, journal))
                }
                Err(error) if error.is_damage() => {
                    self.tell(|| format!("the journal is set aside: {error}"));
                    self.disk.set_aside().expect("the disk in memory can always set aside");
                    self.laws.journal_is_empty();
                    None
                }
                Err(error) => {
                    self.tell(|| format!("no start: {error}"));
                    None
                }
            }
        });
        let Some((engine, journal)) = opened else { return false };
        let (boot, started_at) = (self.boot, self.elapsed);
        self.tell(|| format!("the agent starts in boot {boot}"));
        self.agent =
            Some(Agent { engine, journal, started_at, tasks: BTreeMap::new(), inputs: VecDeque::new() });
        self.laws.agent_started(started_at, boot);
        let now = self.now();
        self.engine_mut().start(now);
        self.perform_batches();
        self.fire();
        true
    }

    /// The process dies where it stands.
    pub(crate) fn crash(&mut self) {
        self.tell(|| "the process dies".into());
        self.laws.events_counted(self.agent.take().map(|agent| agent.engine.events()).unwrap_or_default());
        self.crash_at = None;
        self.broker.cut();
        self.laws.agent_died(self.elapsed);
    }

    /// The agent ends as it does when it was told to: what is lazy is written, and the connection is ended.
    pub(crate) fn stop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let rest = agent.engine.poll_rest();
            // Without the last commit answers are repeated, no more.
            let _ = agent.journal.commit(&rest);
            self.crash();
        }
    }

    /// The machine loses its power.
    pub(crate) fn power_off(&mut self) {
        self.crash();
        (self.boot, self.booted_at) = (self.boot + 1, self.elapsed);
        let boot = self.boot;
        self.tell(|| format!("the machine is restarted: boot {boot}"));
    }

    pub(crate) fn now(&self) -> Now {
        let uptime = self.elapsed - self.booted_at;
        let started_at = self.agent.as_ref().map_or(Duration::ZERO, |agent| agent.started_at);
        let wall = if self.clock_lost { uptime } else { Duration::from_secs(T0) + self.elapsed };
        Now { monotonic: self.elapsed - started_at, uptime, wall }
    }

    /// Lets time pass; every deadline takes effect at its time. How many there were.
    pub(crate) fn pass(&mut self, span: Duration) -> u64 {
        let end = self.elapsed + span;
        for deadlines in 0..1_000_000 {
            self.run();
            let Some(next) = self.next_deadline().filter(|next| *next <= end) else {
                (self.elapsed, self.rested_at) = (end, end);
                return deadlines;
            };
            self.elapsed = next.max(self.elapsed);
            self.fire();
        }
        panic!("time does not pass");
    }

    /// When the engine wants to be woken.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let agent = self.agent.as_ref()?;
        agent.engine.poll_timeout().map(|timeout| agent.started_at + timeout)
    }

    // --- the driver

    /// Deadlines that are due.
    pub(crate) fn fire(&mut self) {
        let now = self.now();
        if let Some(agent) = &mut self.agent
            && agent.engine.poll_timeout().is_some_and(|at| at <= now.monotonic)
        {
            agent.engine.handle_timeout(now);
            self.perform_batches();
        }
    }

    /// Lets everything happen that happens at once.
    pub(crate) fn run(&mut self) {
        for _ in 0..1_000_000 {
            if !self.take_input() && !self.broker_up() && !self.broker_down() {
                self.fire();
                let idle = self.agent.as_ref().is_none_or(|agent| agent.inputs.is_empty());
                if idle && !self.broker.has_work() {
                    self.rested_at = self.elapsed;
                    return;
                }
            }
        }
        panic!("the world does not come to rest");
    }

    /// One input that waits at the agent.
    pub(crate) fn take_input(&mut self) -> bool {
        let Some(input) = self.agent.as_mut().and_then(|agent| agent.inputs.pop_front()) else {
            return false;
        };
        self.input(input);
        true
    }

    /// One message on its way to the broker arrives there.
    pub(crate) fn broker_up(&mut self) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        self.broker.take_up(&mut agent.inputs, &mut self.laws)
    }

    /// The broker delivers one message, after what it sent before; but a session that is resumed delivers before SUBACK.
    pub(crate) fn broker_down(&mut self) -> bool {
        let overtaken = |input: &Input| is_of_a_task(input) || matches!(input, Input::Subscribed { .. });
        while self.agent.as_ref().is_some_and(|agent| !agent.inputs.iter().all(overtaken)) {
            self.take_input();
        }
        let next = self.agent.as_ref().and_then(|_| self.broker.next_down());
        let Some((number, delivered)) = next else { return false };
        self.tell(|| format!("a message on {} is delivered: {}", delivered.topic, shown(&delivered.payload)));
        self.arrive(number, delivered);
        true
    }

    pub(crate) fn input(&mut self, input: Input) {
        let now = self.now();
        self.laws.input(&input, self.elapsed);
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
                self.laws.wrote(&batch.writes, false);
                let agent = self.agent.as_mut().expect("the agent runs");
                if let Err(error) = agent.journal.commit(&batch.writes) {
                    self.tell(|| format!("a commit fails: {error}"));
                    return self.crash();
                }
                self.commits += 1;
                self.laws.wrote(&batch.writes, true);
            }
            self.count_dropped();
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
        let is_one = self.crash_at == Some(self.points);
        is_one.then(|| self.crash());
        is_one
    }

    fn perform(&mut self, effect: Effect) {
        self.laws.effect(&effect, self.elapsed, &self.disk, &self.broker);
        let agent = self.agent.as_mut().expect("only a running agent has effects");
        match effect {
            Effect::Connect { epoch } => {
                let input = self.broker.connect(epoch);
                self.story.tell(self.elapsed, || format!("the agent connects: {input:?}"));
                agent.inputs.push_back(input);
            }
            Effect::Subscribe => agent.inputs.push_back(self.broker.subscribe()),
            Effect::Disconnect => {
                self.story.tell(self.elapsed, || "the agent ends the connection".into());
                self.broker.cut();
                // Nothing of a connection that was given up is heard any more.
                agent.inputs.retain(is_of_a_task);
            }
            Effect::Acknowledge(delivery) => self.broker.acknowledge(delivery),
            Effect::Publish { id, topic, payload } => {
                self.tell_publish(&topic, &payload);
                self.broker.publish(id, topic, payload);
            }
            Effect::PublishEvent { id, topic, payload, qos } => self.publish_event(id, topic, payload, qos),
            Effect::Start(task) => self.start_task(task),
            Effect::Cancel(key) => {
                if self.obeys_cancel && agent.tasks.remove(&key).is_some() {
                    agent.inputs.push_back(Input::Ended(key));
                }
            }
            Effect::Confirm(ticket) => self.confirmed.push(ticket),
            Effect::Decline(ticket, declined) => self.declined.push((ticket, declined)),
            Effect::Attributes(_) | Effect::Replaced(_) => {}
            Effect::Announce(announcement) => self.announced.push(announcement),
        }
    }

    fn start_task(&mut self, task: Task) {
        let started = Started {
            req_id: task.req_id.clone(),
            moment: task.moment,
            attempt: task.attempt,
            rebooted: task.rebooted,
            at: self.elapsed,
        };
        self.story.tell(self.elapsed, || {
            format!("{:?} of {} starts, attempt {}", started.moment, started.req_id, started.attempt)
        });
        self.starts.push(started);
        let agent = self.agent.as_mut().expect("only a running agent has effects");
        let before = agent.tasks.insert(task.key, task);
        assert!(before.is_none(), "a task is started while the one before it runs");
    }

    fn engine_mut(&mut self) -> &mut Engine {
        &mut self.agent.as_mut().expect("the agent runs").engine
    }

    /// The task with this key ends.
    pub(crate) fn end_task(&mut self, key: KeyHash) {
        if self.agent.as_mut().is_some_and(|agent| agent.tasks.remove(&key).is_some()) {
            self.input(Input::Ended(key));
        }
    }

    // --- the link

    /// The platform asks for something; it waits on the broker.
    pub(crate) fn send(&mut self, req_id: &str, ask: Ask) -> u64 {
        let payload = ask.payload(&json!(req_id));
        self.tell(|| format!("the platform sends {} as {req_id}", ask.topic));
        self.broker.route(&ask.topic, payload)
    }

    /// The connection breaks; what was on its way is lost.
    pub(crate) fn cut(&mut self) {
        if self.broker.is_connected() {
            self.tell(|| "the link is cut".into());
            self.broker.cut();
            if let Some(agent) = &mut self.agent {
                agent.inputs.retain(is_of_a_task);
                agent.inputs.push_back(Input::Disconnected(self.broker.loss()));
            }
            while self.take_input() {}
        }
    }
}

fn is_of_a_task(input: &Input) -> bool {
    matches!(input, Input::Decided(..) | Input::Performed(..) | Input::Recovered(..) | Input::Ended(_))
}

/// When the world begins, in seconds since the Unix epoch: 2026-11-09.
const T0: u64 = 1_794_182_400;
