//! The engines of one connection: a device's, or a gateway's and those of the devices that it speaks for.
//!
//! Pure as they are, and spoken to as they are: what happens goes in with the time, writes and effects come out, each with
//! the name of its device. Each engine keeps every promise for its own device; here is only what they share:
//!
//! * **The connection.** The gateway's engine leads: it connects, subscribes and backs off. The others are told.
//! * **Deliveries.** A topic names its device. What names none that is attached goes to the gateway's engine, which
//!   answers 404. Acknowledgements leave in the order of arrival, whichever engine they come from.
//! * **Publishes.** The engines number theirs alike; on the connection each has a number of its own, and as many are on
//!   their way as one device may have.
//! * **The commit.** One batch takes what all engines have to write: a burst over many devices costs what it costs one.
//! * **The gateway's restart**, which takes the work of all with it: it waits for all of it, and nothing starts meanwhile.
//!
//! Architecture invariant: an effect that is not named here passes through. A device that speaks for itself alone is a hub
//! of one engine, and everything passes through.

mod publishes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use iotdm_core::{Route, Subject, Topic};
use tracing::Span;

use crate::engine::{Delivered, Effect, Engine, GatewayRestart, Input, Lost, Now, PublishId};
use crate::journal::Write;

use self::publishes::{Arrivals, Publishes, Waiting};

/// The engines of one connection.
#[derive(Debug)]
pub(crate) struct Hub {
    subject: Subject,
    /// Whether other engines may share the connection.
    shared: bool,
    leader: Engine,
    span: Span,
    attached: BTreeMap<Subject, Attached>,
    /// Whose engines may have something to say.
    touched: BTreeSet<Subject>,
    arrivals: Arrivals,
    publishes: Publishes,
    restart: GatewayRestart,
    others_run: bool,
    /// Whether an engine defers what it was handed.
    defers: bool,
    /// When the broker answered a publish last.
    moved_at: Duration,
}

#[derive(Debug)]
struct Attached {
    engine: Engine,
    span: Span,
    runs: bool,
    defers: bool,
}

/// Apply the writes, make them durable once, then perform the effects in order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) writes: Vec<(Subject, Write)>,
    pub(crate) effects: Vec<(Subject, Effect)>,
}

impl Hub {
    /// A hub of one engine; others are [attached](Self::attach).
    pub(crate) fn new(subject: Subject, leader: Engine) -> Self {
        let (span, shared) = (span_of(&subject), subject != Subject::Connected);
        Self {
            subject,
            shared,
            leader,
            span,
            attached: BTreeMap::new(),
            touched: BTreeSet::new(),
            arrivals: Arrivals::default(),
            publishes: Publishes::default(),
            restart: GatewayRestart::None,
            others_run: false,
            defers: false,
            moved_at: Duration::ZERO,
        }
    }

    /// Begins: attached devices first, so that none of them misses the connection.
    pub(crate) fn start(&mut self, now: Now) {
        for of in self.names() {
            self.with(&of, |engine| engine.start(now));
        }
        let leader = self.subject.clone();
        self.with(&leader, |engine| engine.start(now));
        self.settle(now, &leader);
    }

    /// Adds the engine of a device; [`start`](Self::start) follows.
    pub(crate) fn add(&mut self, of: Subject, engine: Engine) {
        let span = span_of(&of);
        self.attached.insert(of, Attached { engine, span, runs: false, defers: false });
    }

    /// Adds the engine of a device while the others run. It takes part in the connection from here on: what the broker
    /// keeps for it counts as having waited.
    pub(crate) fn attach(&mut self, now: Now, of: Subject, engine: Engine) {
        self.add(of.clone(), engine);
        let (joins, up) = (self.is_joined(), self.leader.is_up());
        let (restart, defers) = (self.restart, self.defers);
        self.with(&of, |engine| {
            engine.start(now);
            engine.gateway_restarts(now, restart);
            engine.others_withhold(now, defers);
            if joins {
                engine.handle(now, Input::Connected { session_present: true });
            }
            if up {
                engine.handle(now, Input::Subscribed { granted: true });
            }
        });
        self.settle(now, &of);
    }

    /// Takes the engine of a device away, as a crash would. What it has not accepted is acknowledged all the same: it
    /// would stand in the way of the others.
    pub(crate) fn detach(&mut self, now: Now, of: &Subject) {
        self.attached.remove(of);
        self.touched.remove(of);
        self.publishes.forget(of);
        self.arrivals.accept_all_of(of);
        self.touched.insert(self.subject.clone());
        self.watch_tasks(now);
        self.watch_window(now);
    }

    pub(crate) fn has(&self, of: &Subject) -> bool {
        *of == self.subject || self.attached.contains_key(of)
    }

    pub(crate) fn engine(&self, of: &Subject) -> Option<&Engine> {
        if *of == self.subject { Some(&self.leader) } else { self.attached.get(of).map(|one| &one.engine) }
    }

    /// Takes one thing that happened to one device.
    pub(crate) fn handle(&mut self, now: Now, of: &Subject, input: Input) {
        self.with(of, |engine| engine.handle(now, input));
        self.settle(now, of);
    }

    /// Takes one thing that happened on the connection.
    pub(crate) fn link(&mut self, now: Now, input: Input) {
        let leader = self.subject.clone();
        if !self.shared {
            return self.handle(now, &leader, input);
        }
        match input {
            Input::Connected { session_present } => {
                self.with(&leader, |engine| engine.handle(now, Input::Connected { session_present }));
                if self.is_joined() {
                    self.tell_all(now, &|| Input::Connected { session_present });
                }
                if self.leader.is_up() {
                    // For events alone nothing is subscribed to.
                    self.tell_all(now, &|| Input::Subscribed { granted: true });
                }
            }
            Input::Subscribed { granted } => {
                self.with(&leader, |engine| engine.handle(now, Input::Subscribed { granted }));
                if self.leader.is_up() {
                    self.tell_all(now, &|| Input::Subscribed { granted: true });
                }
            }
            Input::Disconnected(lost) => {
                self.with(&leader, |engine| engine.handle(now, Input::Disconnected(lost)));
            }
            Input::Delivered(delivered) => return self.deliver(now, delivered),
            Input::Acknowledged(id) => return self.published(now, id, Input::Acknowledged),
            Input::Refused(id, reason) => return self.published(now, id, |id| Input::Refused(id, reason)),
            other => return self.handle(now, &leader, other),
        }
        self.settle(now, &leader);
    }

    /// The agent is to stop: no engine starts anything more.
    pub(crate) fn stop(&mut self, now: Now) {
        self.tell_all(now, &|| Input::Stop);
        self.handle(now, &self.subject.clone(), Input::Stop);
    }

    /// Lets time pass.
    pub(crate) fn handle_timeout(&mut self, now: Now) {
        let is_due = |engine: &Engine| engine.poll_timeout().is_some_and(|at| at <= now.monotonic);
        // The gateway's last: what its restart cuts short is cut short before the restart.
        for of in self.names_of(|one| is_due(&one.engine)) {
            self.pass(now, &of);
        }
        if is_due(&self.leader) {
            self.pass(now, &self.subject.clone());
        }
    }

    fn pass(&mut self, now: Now, of: &Subject) {
        let moved_at = self.moved_at;
        self.with(of, |engine| {
            engine.connection_moved(moved_at);
            engine.handle_timeout(now);
        });
        self.settle(now, of);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let attached = self.attached.values().filter_map(|one| one.engine.poll_timeout());
        attached.chain(self.leader.poll_timeout()).min()
    }

    /// What is to be made durable and done; `None` when there is nothing.
    pub(crate) fn poll(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        while let Some(of) = self.touched.pop_first() {
            let polled = if of == self.subject {
                self.leader.poll()
            } else {
                self.attached.get_mut(&of).and_then(|one| one.engine.poll())
            };
            let Some(polled) = polled else { continue };
            batch.writes.extend(polled.writes.into_iter().map(|write| (of.clone(), write)));
            for effect in polled.effects {
                self.route(&of, effect, &mut batch.effects);
            }
        }
        self.arrivals.acknowledge(&mut batch.effects);
        self.publishes.send(&mut batch.effects);
        (!batch.writes.is_empty() || !batch.effects.is_empty()).then_some(batch)
    }

    /// The lazy writes that no commit has carried yet.
    pub(crate) fn poll_rest(&mut self) -> Vec<(Subject, Write)> {
        let mut rest: Vec<(Subject, Write)> = Vec::new();
        for (of, one) in &mut self.attached {
            rest.extend(one.engine.poll_rest().into_iter().map(|write| (of.clone(), write)));
        }
        rest.extend(self.leader.poll_rest().into_iter().map(|write| (self.subject.clone(), write)));
        rest
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.leader.is_quiet() && self.attached.values().all(|one| one.engine.is_quiet())
    }

    fn deliver(&mut self, now: Now, delivered: Delivered) {
        let named = Topic::<Route>::parse(&delivered.topic).map(|topic| topic.subject);
        let of = named.filter(|of| self.attached.contains_key(of)).unwrap_or_else(|| self.subject.clone());
        // What an engine that has given the connection up is handed comes again on the next; what it has already, and may
        // not acknowledge yet, is acknowledged once.
        let takes = |engine: &Engine| engine.is_connected() && !engine.has(&delivered);
        if self.engine(&of).is_some_and(takes)
            && let Some(delivery) = delivered.delivery
        {
            self.arrivals.push(delivery, of.clone());
        }
        self.handle(now, &of, Input::Delivered(delivered));
    }

    /// The broker has answered a publish.
    fn published(&mut self, now: Now, id: PublishId, input: impl FnOnce(PublishId) -> Input) {
        let Some((of, id)) = self.publishes.acknowledged(id) else { return };
        self.moved_at = now.monotonic;
        self.touched.insert(self.subject.clone());
        self.handle(now, &of, input(id));
    }

    /// What is shared takes its way; everything else passes.
    fn route(&mut self, of: &Subject, effect: Effect, effects: &mut Vec<(Subject, Effect)>) {
        if !self.shared {
            return effects.push((of.clone(), effect));
        }
        // What belongs to a connection that was given up goes with it: on the next one it would be out of its turn.
        let connected = self.is_joined();
        match effect {
            Effect::Acknowledge(_) | Effect::Publish { .. } | Effect::PublishEvent { .. } if !connected => {}
            Effect::Acknowledge(delivery) => {
                self.arrivals.accept(delivery);
                self.arrivals.acknowledge(effects);
            }
            Effect::Publish { id, topic, payload } => {
                self.publishes.push(Waiting { of: of.clone(), id, topic, payload, event: None });
                self.publishes.send(effects);
            }
            Effect::PublishEvent { id, topic, payload, qos } => {
                self.publishes.push(Waiting { of: of.clone(), id, topic, payload, event: Some(qos) });
                self.publishes.send(effects);
            }
            other => effects.push((of.clone(), other)),
        }
    }

    /// What follows for the others from what one engine has taken.
    fn settle(&mut self, now: Now, of: &Subject) {
        if !self.shared {
            return;
        }
        // An engine that gives the connection up gives it up for all.
        let gave_up = *of != self.subject
            && self.is_joined()
            && self.attached.get(of).is_some_and(|one| !one.engine.is_connected());
        if gave_up {
            let leader = self.subject.clone();
            self.with(&leader, |engine| engine.handle(now, Input::Disconnected(Lost::Other)));
        }
        if !self.is_joined() {
            self.arrivals.clear();
            self.publishes.clear();
            let joined = |one: &Attached| one.engine.is_connected();
            let left: Vec<Subject> = self.names_of(joined);
            for of in left {
                self.with(&of, |engine| engine.handle(now, Input::Disconnected(Lost::Other)));
            }
        }
        self.watch_tasks(now);
        let restart = self.leader.restart();
        if restart != self.restart {
            self.restart = restart;
            for of in self.names() {
                self.with(&of, |engine| engine.gateway_restarts(now, restart));
            }
            self.watch_tasks(now);
        }
        self.watch_window(now);
    }

    /// Tells all when one defers what it was handed, and when none does any more.
    fn watch_window(&mut self, now: Now) {
        let defers = self.leader.defers() || self.attached.values().any(|one| one.defers);
        if std::mem::replace(&mut self.defers, defers) != defers {
            for of in self.names().into_iter().chain([self.subject.clone()]) {
                self.with(&of, |engine| engine.others_withhold(now, defers));
            }
        }
    }

    /// Tells the gateway's engine when the first task of an attached device has begun, and when the last has ended.
    fn watch_tasks(&mut self, now: Now) {
        let run = self.attached.values().any(|one| one.runs);
        if run != self.others_run {
            self.others_run = run;
            let leader = self.subject.clone();
            self.with(&leader, |engine| engine.others_run(now, run));
            self.restart = self.leader.restart();
        }
    }

    fn tell_all(&mut self, now: Now, input: &dyn Fn() -> Input) {
        for of in self.names() {
            self.with(&of, |engine| engine.handle(now, input()));
        }
    }

    /// Whether there is a connection that attached devices take part in.
    fn is_joined(&self) -> bool {
        self.leader.is_subscribing() || self.leader.is_up()
    }

    fn names(&self) -> Vec<Subject> {
        self.names_of(|_| true)
    }

    fn names_of(&self, are: impl Fn(&Attached) -> bool) -> Vec<Subject> {
        self.attached.iter().filter(|(_, one)| are(one)).map(|(of, _)| of.clone()).collect()
    }

    /// Every call of an engine goes through here: in its span, and noticed.
    fn with(&mut self, of: &Subject, call: impl FnOnce(&mut Engine)) {
        if *of == self.subject {
            let _entered = self.span.clone().entered();
            call(&mut self.leader);
        } else if let Some(one) = self.attached.get_mut(of) {
            let _entered = one.span.clone().entered();
            call(&mut one.engine);
            (one.runs, one.defers) = (one.engine.has_tasks(), one.engine.defers());
        } else {
            return;
        }
        self.touched.insert(of.clone());
    }
}

/// Log lines of a device that shares its connection name it. One that is alone needs no name.
fn span_of(subject: &Subject) -> Span {
    match subject {
        Subject::Connected => Span::none(),
        Subject::Named { type_id, device_id } => {
            tracing::info_span!("device", device = %format_args!("{type_id}/{device_id}"))
        }
    }
}

#[cfg(test)]
mod tests;
