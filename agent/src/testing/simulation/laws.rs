//! What must hold at every step, judged from outside the engine: by what it tells its driver to do.

mod answers;
mod attributes;
mod commands;
pub(crate) mod events;
mod rest;
mod starts;
mod track;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use iotdm_core::{Decision, Performed, Recovery, ReqId};
use serde::Deserialize;

use crate::config::Limits;
use crate::engine::{Delivered, Effect, Input, KeyHash, PublishId, Settings, Ticket};
use crate::store::MemoryDisk;

use super::ask::Kind;
use super::broker::Broker;
use super::{Law, Violation};

use self::answers::ticket_in;
use self::attributes::{Attributes, level_in, place_in};
use self::commands::Commands;
pub(crate) use self::commands::topic_of;
use self::events::Events;
pub(crate) use self::track::Copy;
use self::track::{Running, Track};

/// The laws, and what they must remember. The first violation stays.
#[derive(Debug)]
pub(crate) struct Laws {
    pub(crate) violation: Option<Violation>,
    /// Whether the broker keeps order: P9 holds only then.
    pub(crate) ordered: bool,
    limits: Limits,
    attempts: u32,
    /// How long a dead connection may go unnoticed.
    unnoticed: Duration,
    now: Duration,
    boot: u64,
    tracks: BTreeMap<ReqId, Track>,
    copies: BTreeMap<u64, Copy>,
    /// What the agent published and heard nothing of yet.
    publishes: BTreeMap<PublishId, Published>,
    running: BTreeMap<KeyHash, Running>,
    /// Requests that were executed under this journal, by the order they came in.
    executed: BTreeSet<u64>,
    arrivals: u64,
    /// How many messages the platform has received.
    received: u64,
    pub(crate) journals: u64,
    /// The journal is empty, and no fence was passed since.
    quarantine: bool,
    manage_ids: Vec<ReqId>,
    connected_at: Option<Duration>,
    /// A handler has said that the machine is about to restart.
    restart: Option<(ReqId, Duration)>,
    /// Requests whose 202 the platform has, and after which it takes a manage for their end.
    promised: BTreeSet<ReqId>,
    /// Acknowledged, not answered and not started.
    waiting: BTreeSet<ReqId>,
    /// When a restart, or a judgement, was last under way.
    held_at: Duration,
    started_at: Duration,
    reports: BTreeMap<Ticket, Report>,
    pub(crate) attributes: Attributes,
    events: Events,
    pub(crate) commands: Commands,
}

#[derive(Debug)]
enum Published {
    Answer { req_id: ReqId, rc: u16, level: Option<i64> },
    Manage,
    Report(Ticket),
    Notify(Option<i64>),
    Location(Option<u64>),
    Other,
}

/// A report of the product.
#[derive(Debug, Default)]
struct Report {
    confirmed: bool,
    received: bool,
    excused: bool,
}

/// What the laws read of an answer.
#[derive(Deserialize)]
struct Message {
    rc: Option<u16>,
    #[serde(rename = "reqId")]
    req_id: serde_json::Value,
    #[serde(default)]
    message: String,
    d: Option<serde_json::Value>,
}

impl Laws {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            violation: None,
            ordered: true,
            limits: settings.limits,
            attempts: settings.policies.values().map(|policy| policy.attempts).max().unwrap_or(1),
            unnoticed: settings.unnoticed,
            now: Duration::ZERO,
            boot: 0,
            tracks: BTreeMap::new(),
            copies: BTreeMap::new(),
            publishes: BTreeMap::new(),
            running: BTreeMap::new(),
            executed: BTreeSet::new(),
            arrivals: 0,
            received: 0,
            journals: 0,
            quarantine: false,
            manage_ids: Vec::new(),
            connected_at: None,
            restart: None,
            promised: BTreeSet::new(),
            waiting: BTreeSet::new(),
            held_at: Duration::ZERO,
            started_at: Duration::ZERO,
            reports: BTreeMap::new(),
            attributes: Attributes::of(settings),
            events: Events::default(),
            commands: Commands::default(),
        }
    }

    pub(super) fn broken(&mut self, law: Law, what: String) {
        self.violation.get_or_insert(Violation { law, what });
    }

    /// The platform has sent a copy of a request.
    pub(crate) fn sent(&mut self, number: u64, copy: Copy, kind: Kind) {
        self.tracks.entry(copy.req_id.clone()).or_default().sent(kind, copy.sent_at);
        self.copies.insert(number, copy);
    }

    /// The broker has lost messages; nobody will answer them.
    pub(crate) fn dropped(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.copies.remove(number);
        }
        self.commands.lost(numbers);
        self.attributes.believed_place = None;
    }

    /// The broker has handed a message to the agent.
    pub(crate) fn delivered(&mut self, number: u64, delivered: &Delivered, at: Duration) {
        self.now = at;
        if !self.commands.delivered(number, delivered.delivery) {
            return;
        }
        self.attributes.delivered(number, delivered);
        if let Some(copy) = self.copies.get_mut(&number) {
            copy.delivered_at = Some(self.received);
            let track = self.tracks.get_mut(&copy.req_id).expect("a copy is tracked");
            self.arrivals += 1;
            track.delivered(copy.sent_at, delivered.waited);
            let req_id = copy.req_id.clone();
            let may_be_forgotten = self.tracks[&req_id].is_recorded() && self.may_be_forgotten(&req_id);
            let track = self.tracks.get_mut(&req_id).expect("a copy is tracked");
            track.arrived(self.arrivals, may_be_forgotten);
        } else if self.quarantine && delivered.topic.ends_with("/response") {
            let message: Option<Message> = serde_json::from_slice(&delivered.payload).ok();
            let is_manage =
                |id: &ReqId| message.as_ref().is_some_and(|m| m.req_id == id.as_json().trim_matches('"'));
            self.quarantine = !self.manage_ids.iter().any(is_manage);
        }
    }

    /// The broker has the PUBACK of a delivery.
    pub(crate) fn acknowledged(&mut self, number: u64) {
        self.commands.acknowledged(number);
        let Some(copy) = self.copies.get_mut(&number) else { return };
        copy.acked = true;
        let track = self.tracks.get_mut(&copy.req_id).expect("a copy is tracked");
        if !track.accepted.contains(&copy.fingerprint) {
            track.accepted.push(copy.fingerprint);
        }
        if track.answer.is_none() && track.starts == 0 && !track.lost {
            track.acked_at.get_or_insert(self.now);
            self.waiting.insert(copy.req_id.clone());
        }
    }

    /// A message of the agent has reached the platform.
    pub(crate) fn received(&mut self, id: PublishId) {
        self.received += 1;
        match self.publishes.get(&id) {
            Some(Published::Answer { req_id, rc, level }) => {
                let (req_id, rc, level) = (req_id.clone(), *rc, *level);
                self.attributes.level_seen(level);
                self.answer_received(req_id, rc);
            }
            Some(Published::Manage) => self.manage_received(),
            Some(Published::Notify(level)) => self.attributes.level_seen(*level),
            Some(Published::Location(place)) => self.attributes.believed_place = *place,
            Some(Published::Report(ticket)) => {
                if let Some(report) = self.reports.get_mut(ticket) {
                    report.received = true;
                }
            }
            Some(Published::Other) | None => {}
        }
    }

    /// The machine restarts, because the handler of this request asked it to while this journal was in use.
    pub(crate) fn restarted(&mut self, req_id: &ReqId, journal: u64) {
        // A restart may have been asked for by an earlier request with this reqId, which was forgotten since.
        let track = self.tracks.get_mut(req_id).filter(|track| !track.platform_had_202);
        let Some(track) = track.filter(|_| journal == self.journals) else { return };
        track.restarts += 1;
        let (has_202, allowed) = (track.platform_has_202, 1 + track.again);
        let (restarts, reused) = (track.restarts, track.is_reused());
        if !has_202 {
            self.broken(
                Law::AnswerBeforeDisruption,
                format!("{req_id} restarts the device before the broker has its 202"),
            );
        }
        if restarts > allowed && !reused {
            self.broken(Law::NoReplayRuns, format!("{req_id} restarts the device {restarts} times"));
        }
    }

    /// A process of the agent begins on an empty journal: what was before is lost, and said to be.
    pub(crate) fn journal_is_empty(&mut self) {
        self.quarantine = true;
        self.journals += 1;
        self.executed.clear();
        self.promised.clear();
        self.waiting.clear();
        self.restart = None;
        self.attributes.journal_is_empty();
        self.commands.journal_is_empty();
        self.tracks.values_mut().for_each(Track::journal_lost);
        for copy in self.copies.values_mut().filter(|copy| copy.acked) {
            copy.excused = true;
        }
        self.reports.values_mut().for_each(|report| report.excused = true);
        self.events_lost_with_the_journal();
    }

    pub(crate) fn agent_started(&mut self, at: Duration, boot: u64) {
        (self.now, self.started_at, self.held_at, self.boot) = (at, at, at, boot);
    }

    pub(crate) fn agent_died(&mut self, at: Duration) {
        self.pass(at);
        self.disconnected();
        self.commands.agent_died();
        self.running.clear();
        self.restart = None;
        for req_id in &self.promised {
            if let Some(track) = self.tracks.get_mut(req_id) {
                track.deaths += 1;
            }
        }
    }

    // --- what the engine is told, and what it tells

    pub(crate) fn input(&mut self, input: &Input, at: Duration) {
        self.pass(at);
        if let Input::Decided(key, _) | Input::Performed(key, _) | Input::Recovered(key, _) = input {
            self.running.get_mut(key).into_iter().for_each(|running| running.is_over = true);
            self.commands.ended(*key);
        }
        match input {
            Input::Connected { session_present } => {
                self.connected_at = Some(at);
                // A broker without a session has nothing that waited.
                self.quarantine &= session_present;
            }
            Input::Disconnected(_) => self.disconnected(),
            Input::Acknowledged(id) => {
                if let Some(Published::Answer { req_id, .. }) = self.publishes.remove(id)
                    && let Some(track) = self.tracks.get_mut(&req_id)
                {
                    track.confirmed = true;
                }
            }
            Input::Decided(key, decision) => {
                let boot = matches!(decision, Decision::Replied(_)).then_some(self.boot);
                self.with_running(*key, |track| track.replied_in = track.replied_in.or(boot));
            }
            Input::Performed(key, Ok(Performed::Restarting)) => {
                // What a task says after its time is not heard.
                let is_late = |req_id: &ReqId| self.tracks.get(req_id).is_some_and(|track| track.cancelled);
                let req_id = self.running.get(key).map(|running| running.req_id.clone());
                let restarting = req_id.filter(|req_id| !is_late(req_id)).map(|req_id| (req_id, at));
                self.restart = restarting.or(self.restart.take());
            }
            Input::Performed(key, _) => self.with_running(*key, |track| track.released = true),
            Input::Recovered(key, Recovery::RunAgain) => self.with_running(*key, |track| {
                track.again += 1;
                // Its work may begin in this boot, and be recorded so, without a task.
                track.performed_in = None;
            }),
            Input::Recovered(key, _) => self.with_running(*key, |track| track.released = true),
            // Those who wait for the lane wait anew after a restart that did not come.
            Input::Ended(key) if self.running.remove(key).is_some_and(|task| task.restarts) => {
                self.held_at = at
            }
            _ => {}
        }
    }

    /// A connection that lasts, and on which nothing comes, lifts the fence without an answer to manage.
    fn pass(&mut self, at: Duration) {
        self.now = at;
        self.quarantine &= self.connected_at.is_none_or(|connected_at| at < connected_at + QUIET_FENCE);
    }

    fn disconnected(&mut self) {
        self.publishes.clear();
        self.commands.disconnected();
        self.connected_at = None;
        self.attributes.notified_at = None;
        self.events_disconnected();
    }

    fn with_running(&mut self, key: KeyHash, change: impl FnOnce(&mut Track)) {
        if let Some(running) = self.running.get(&key)
            && let Some(track) = self.tracks.get_mut(&running.req_id)
        {
            change(track);
        }
    }

    pub(crate) fn effect(&mut self, effect: &Effect, at: Duration, disk: &MemoryDisk, broker: &Broker) {
        self.pass(at);
        match effect {
            Effect::Connect { .. } => self.manage_ids.clear(),
            Effect::Disconnect => self.disconnected(),
            Effect::Acknowledge(delivery) => {
                let message = broker.number_of(*delivery);
                self.acknowledging(*delivery, message, disk);
            }
            Effect::Publish { id, topic, payload } => self.published(*id, topic, payload),
            Effect::PublishEvent { payload, qos, .. } => self.event_published(payload, *qos),
            Effect::Start(task) => self.started(task),
            Effect::Cancel(key) => {
                self.commands.ended(*key);
                self.with_running(*key, |track| track.cancelled = true);
                self.running.get_mut(key).into_iter().for_each(|running| running.is_over = true);
                if self
                    .running
                    .get(key)
                    .is_some_and(|running| self.restart.as_ref().is_some_and(|(id, _)| *id == running.req_id))
                {
                    self.restart = None;
                }
            }
            Effect::Confirm(ticket) => {
                if let Some(report) = self.reports.get_mut(ticket) {
                    report.confirmed = true;
                }
                self.event_confirmed(*ticket);
            }
            _ => {}
        }
    }

    fn published(&mut self, id: PublishId, topic: &str, payload: &Bytes) {
        let published = match topic.strip_prefix("iotdevice-1/") {
            Some("response") => self.answer_published(payload),
            Some("mgmt/manage") => {
                let message: Option<Message> = serde_json::from_slice(payload).ok();
                let id = message.and_then(|message| message.req_id.as_str().map(ReqId::from_text));
                self.manage_ids.extend(id);
                Published::Manage
            }
            Some("add/diag/log") => ticket_in(payload).map_or(Published::Other, Published::Report),
            Some("notify") => {
                let message: Option<Message> = serde_json::from_slice(payload).ok();
                self.notified();
                Published::Notify(message.and_then(|message| level_in(message.d.as_ref())))
            }
            Some("device/update/location") => Published::Location(place_in(payload)),
            _ => Published::Other,
        };
        self.publishes.insert(id, published);
    }
}

/// How long a connection must last, at the least, for the fence to be lifted without an answer to manage.
const QUIET_FENCE: Duration = Duration::from_secs(10 * 60);
