//! The pure machine: what happens goes in with the time, writes and effects come out.
//!
//! * [`Engine::handle`] takes one thing that happened; [`Engine::handle_timeout`] lets time pass.
//! * [`Engine::poll`] gives a [`Batch`]: apply its writes, make them durable once, then perform its effects in order.
//!   Call it until it gives none.
//! * [`Engine::poll_timeout`] says when `handle_timeout` is due. Time never goes back.
//!
//! Because writes and effects are data, a crash can be placed between any two of them.
//!
//! # Flow
//! ```text
//! Recorded ──▶ Done                                    work, then 200 or 204
//! Recorded ──▶ Settled ──PUBACK──▶ Performing ──▶ Done   202, then work
//! ```
//! Architecture invariant: nothing here does I/O, reads a clock, spawns a task, or iterates in an order that differs
//! between two runs of the same inputs.

mod accept;
mod acknowledge;
mod age;
mod answers;
mod attached;
mod attributes;
mod command;
mod event;
mod events;
mod finish;
mod judge;
mod key;
mod location;
mod mark;
mod model;
mod noise;
mod notify;
mod outbox;
mod recover;
mod refused;
mod replace;
mod request;
mod rules;
mod run;
mod send;
mod session;
mod thresholds;
mod time;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use iotdm_core::{BootId, Declined, Manage, Policy, Report, Route, Subject};
use serde_json::Value;

use crate::config::Limits;
use crate::journal::Write;

use self::acknowledge::Withheld;
use self::answers::{Answers, Pruned};
use self::attached::Others;
use self::events::Events;
use self::noise::Noise;
use self::outbox::Outbox;
use self::request::Request;
use self::run::{Lane, RunningTask};
use self::session::Session;
use self::thresholds::Thresholds;
pub(crate) use self::time::EARLIEST_WALL_MS;
use self::time::Timers;

pub use self::attached::GatewayRestart;
pub use self::event::{
    Announcement, Delivered, Delivery, Effect, Input, Lost, Moment as TaskMoment, Offer, PublishId, Task,
    Ticket,
};
pub use self::events::EventCounters;
pub(crate) use self::events::MAX_BYTES_ON_THEIR_WAY;
pub use self::key::{Fingerprint, KeyHash};
pub use self::model::Model;
pub(crate) use self::outbox::{EVENTS_WINDOW, WINDOW};
pub(crate) use self::rules::decode;
pub use self::rules::{AttributeRules, Declared, Misfit};
pub use self::thresholds::Threshold;
pub use self::time::{Age, Moment, Now};

use self::event::Timer;

/// The engine of one connection: its requests, its outbox, its session and its device model.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    rng: fastrand::Rng,
    now: Now,
    timers: Timers,
    out: Pending,

    requests: BTreeMap<KeyHash, Request>,
    answers: Answers,
    next_sequence: u64,
    waiting: VecDeque<KeyHash>,
    lanes: BTreeMap<Subject, Lane>,
    running: BTreeMap<KeyHash, RunningTask>,
    restarting: Option<KeyHash>,
    /// What it knows of the other engines on its connection.
    others: Others,
    stopping: bool,

    outbox: Outbox,
    events: Events,
    /// Deliveries that wait for room in the outbox, and when they arrived.
    deferred: VecDeque<(Moment, Delivered)>,
    withheld: Withheld,
    session: Session,
    quarantine: bool,
    mark: Option<Moment>,
    /// When this run of the agent moved the mark last.
    mark_written: Option<Duration>,
    model: Model,
    thresholds: Thresholds,
    noise: Noise,
    steps: Noise,
}

/// What an engine is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose engine it is: whose topics it knows, and on whose it speaks.
    pub subject: Subject,
    /// Where a gateway speaks for this device, which boot of the gateway this is: the clocks are the gateway's, and so is
    /// the connection. This engine is then told of connections, and makes none.
    pub gateway: Option<BootId>,
    /// The rules of every action that has a handler.
    pub policies: BTreeMap<Route, Policy>,
    /// The body of manage; device info and metadata are taken from the model.
    pub manage: Manage,
    /// Attributes as they are configured: each replaces the stored one when the configuration changed.
    pub configured: Vec<(String, Value)>,
    /// What attributes may hold, and which of their changes are notified.
    pub attributes: AttributeRules,
    /// The bounds.
    pub limits: Limits,
    /// How long a dead connection may go unnoticed: twice the keep-alive. The online mark is wrong by this much.
    pub unnoticed: Duration,
    /// Whether the service takes events and nothing else: nothing is subscribed to, and nobody manages the device.
    pub events_only: bool,
    /// Which boot of the device this is. Empty where nobody knows: then it was never restarted.
    pub boot: BootId,
    /// Where request ids and jitter come from.
    pub seed: u64,
}

/// Apply the writes, make them durable once, then perform the effects in order.
#[derive(Debug, Default)]
pub struct Batch {
    /// What must be durable before any of the effects.
    pub writes: Vec<Write>,
    /// What to do then.
    pub effects: Vec<Effect>,
}

/// What the next batch will hold.
#[derive(Debug, Default)]
struct Pending {
    /// Requests whose record is written as it stands when the batch is made: several changes, one write.
    dirty: BTreeSet<KeyHash>,
    writes: Vec<Write>,
    effects: Vec<Effect>,
    /// Whether the effects may only follow a commit. Lazy writes alone wait for the next one.
    due: bool,
}

impl Engine {
    /// An engine with an empty journal; give it what was stored with [`restore`](Self::restore), then
    /// [`start`](Self::start) it.
    pub fn new(settings: Settings) -> Self {
        let outbox = if settings.is_attached() { Outbox::of_many() } else { Outbox::default() };
        Self {
            rng: fastrand::Rng::with_seed(settings.seed),
            settings,
            now: Now::default(),
            timers: Timers::default(),
            out: Pending::default(),
            requests: BTreeMap::new(),
            answers: Answers::default(),
            next_sequence: 0,
            waiting: VecDeque::new(),
            lanes: BTreeMap::new(),
            running: BTreeMap::new(),
            restarting: None,
            others: Others::default(),
            stopping: false,
            outbox,
            events: Events::default(),
            deferred: VecDeque::new(),
            withheld: Withheld::default(),
            session: Session::default(),
            quarantine: false,
            mark: None,
            mark_written: None,
            model: Model::default(),
            thresholds: Thresholds::default(),
            noise: Noise::of_troubles(),
            steps: Noise::of_steps(),
        }
    }

    /// Takes one thing that happened. Time never goes back.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.advance(now);
        match input {
            Input::Connected { session_present } => self.connected(session_present),
            Input::Subscribed { granted } => self.subscribed(granted),
            Input::Disconnected(lost) => self.disconnected(lost),
            Input::Delivered(delivered) => self.delivered(delivered),
            Input::Acknowledged(id) => self.acknowledged(id),
            Input::Refused(id, reason) => self.publish_refused(id, &reason),
            Input::Decided(key, decision) => self.decided(key, decision),
            Input::Performed(key, result) => self.performed(key, result),
            Input::Recovered(key, recovery) => self.recovered(key, recovery),
            Input::Ended(key) => self.ended(key),
            Input::SetAttributes(changes, ticket) => self.set_attributes(changes, ticket),
            Input::Report(_, ticket) if self.settings.events_only => {
                self.settle_ticket(ticket, Err(Declined::Unsupported));
            }
            Input::Report(Report::Location(location), ticket) => self.set_location(&location, ticket),
            Input::Report(report, ticket) => self.report(report, ticket),
            Input::Publish(event, ticket) => self.publish(&event, ticket),
            Input::WantManaged(wanted) => self.want_managed(wanted),
            Input::Replace(offer, ticket) => self.replace(offer, ticket),
            Input::Booted(boot, ticket) => self.booted(boot, ticket),
            Input::Stop => self.stopping = true,
        }
        self.settle_down();
    }

    /// Lets time pass: every deadline up to `now` takes effect.
    pub fn handle_timeout(&mut self, now: Now) {
        self.advance(now);
        while let Some(timer) = self.timers.pop_due(now.monotonic) {
            self.timeout(timer);
        }
        self.settle_down();
    }

    /// What is to be made durable and done; `None` when there is nothing.
    pub fn poll(&mut self) -> Option<Batch> {
        if !self.out.due && self.out.effects.is_empty() {
            return None;
        }
        let effects = std::mem::take(&mut self.out.effects);
        if !std::mem::take(&mut self.out.due) {
            return Some(Batch { writes: Vec::new(), effects });
        }
        Some(Batch { writes: self.take_writes(), effects })
    }

    /// The lazy writes that no commit has carried yet, for the last commit before a clean stop.
    pub fn poll_rest(&mut self) -> Vec<Write> {
        self.take_writes()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, on the monotonic clock.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// The device model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Whether the platform answered manage with 200 on this connection.
    pub fn is_managed(&self) -> bool {
        self.session.is_managed()
    }

    /// Whether no task runs and everything that could be sent was acknowledged.
    pub fn is_quiet(&self) -> bool {
        let answers_wait = self.session.is_up() && self.outbox.answers() > 0;
        self.running.is_empty() && self.requests.values().all(|request| request.is_parked()) && !answers_wait
    }

    /// How many requests are kept, unfinished ones included.
    pub fn kept(&self) -> usize {
        self.requests.len() + self.answers.len()
    }

    /// How many requests have no outcome yet.
    pub fn unfinished(&self) -> usize {
        self.requests.len()
    }

    /// How often each kind of thing that is not answered occurred: unreadable payloads, foreign topics and the like.
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        self.noise.totals().collect()
    }

    fn advance(&mut self, now: Now) {
        assert!(now.monotonic >= self.now.monotonic, "time went back");
        self.now = now;
    }

    /// What follows from any input: freed places are taken, and what can be sent is sent.
    fn settle_down(&mut self) {
        self.take_deferred();
        self.start_waiting();
        self.watch_withheld();
        self.flush_outbox();
        self.flush_events();
        self.watch_window();
    }

    fn timeout(&mut self, timer: Timer) {
        match timer {
            Timer::Task(key) if self.handled_waited_too_long(key) => {}
            Timer::Task(key) => self.task_overran(key),
            Timer::Lane(key) => self.lane_wait_over(key),
            Timer::Restart(key) => self.restart_never_came(key),
            Timer::Drain => self.drain_over(),
            Timer::Connect => self.connect(),
            Timer::Establish => self.establish_overran(),
            Timer::Manage => self.manage_due(),
            Timer::Fence => self.fence_overran(),
            Timer::Report(place) => self.report_due(place),
            Timer::Window => self.window_stayed_closed(),
            Timer::Mark => self.mark_due(),
            Timer::Notify(field) => self.notify_due(field),
            Timer::Events => self.events_held_long_enough(),
            Timer::EventsStuck => self.events_stuck(),
        }
    }

    fn take_writes(&mut self) -> Vec<Write> {
        let mut writes = std::mem::take(&mut self.out.writes);
        for key in std::mem::take(&mut self.out.dirty) {
            writes.push(self.record_of(key));
        }
        if self.mark_may_move() && self.mark_is_stale(mark::RIDES_AFTER) {
            writes.push(self.move_mark());
        }
        writes
    }

    fn record_of(&self, key: KeyHash) -> Write {
        if let Some(request) = self.requests.get(&key) {
            return Write::Open(key, Box::new(request.to_record()));
        }
        match self.answers.get(&key) {
            Some(answer) => Write::Done(key, Box::new(answer.to_record())),
            None => Write::Forget(key),
        }
    }

    /// The record of this request must be durable before anything that follows from it. A handled command has none.
    fn write_due(&mut self, key: KeyHash) {
        if self.requests.get(&key).is_some_and(|request| request.handled.is_some()) {
            return;
        }
        self.out.dirty.insert(key);
        self.out.due = true;
    }

    /// The record of this request may be lost: losing it only repeats an answer.
    fn write_lazily(&mut self, key: KeyHash) {
        self.out.dirty.insert(key);
    }

    fn effect(&mut self, effect: Effect) {
        self.out.effects.push(effect);
    }

    fn prune(&mut self) {
        let outbox = &self.outbox;
        for pruned in self.answers.prune(&self.settings.limits, |key| outbox.holds_answer(key)) {
            match pruned {
                Pruned::Forgotten(key) | Pruned::Shortened(key) => self.write_lazily(key),
            }
        }
    }
}

#[cfg(test)]
mod tests;
