//! Events of the product: stored, sent oldest first beside the outbox and behind it, and kept until the broker has them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use iotdm_core::{Declined, Event, Qos};
use tracing::warn;

use crate::config::{DropPolicy, EventLimits};
use crate::journal::{EventRecord, Write};

use super::Engine;
use super::event::{Effect, Lost, PublishId, Ticket, Timer};

/// The store of events, and what of it is on its way.
#[derive(Debug, Default)]
pub(super) struct Events {
    stored: BTreeMap<u64, Stored>,
    next_place: u64,
    /// What they weigh.
    bytes: usize,
    /// What stands from here on was not sent on this connection.
    next_unsent: u64,
    in_flight: BTreeMap<PublishId, OnItsWay>,
    /// Removals that no commit was asked for.
    lazy_removals: usize,
    /// Connections in a row that ended with events on their way, and on which the broker acknowledged none.
    losses: u32,
    /// Whether events wait because of such losses.
    is_held: bool,
    counters: EventCounters,
}

/// What became of events, since this engine began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventCounters {
    /// How many are stored: they wait, or are on their way.
    pub waiting: u64,
    /// What those weigh, in bytes: payload, topic, and 128 bytes each.
    pub waiting_bytes: u64,
    /// How many stored ones have arrived: at QoS 1 the broker has acknowledged them, at QoS 0 they were sent.
    pub arrived: u64,
    /// How many were sent at QoS 0 without being stored.
    pub sent_once: u64,
    /// How many the bound of the store has cost: the oldest, or those that came when it was full.
    pub dropped_full: u64,
    /// How many the broker refused for good, as it may with MQTT 5.
    pub refused: u64,
    /// How many at QoS 0 found no connection that could take them, and were not to be stored.
    pub dropped_offline: u64,
}

#[derive(Debug)]
struct Stored {
    topic: Box<str>,
    payload: Bytes,
    qos: Qos,
}

#[derive(Debug)]
struct OnItsWay {
    /// Where it is stored; nowhere, if it was not to be.
    place: Option<u64>,
    bytes: usize,
    qos: Qos,
}

impl Stored {
    fn weight(&self) -> usize {
        weight(&self.topic, &self.payload)
    }
}

impl Events {
    pub(super) fn restore(&mut self, place: u64, record: EventRecord) {
        let qos = if record.at_most_once { Qos::AtMostOnce } else { Qos::AtLeastOnce };
        let event = Stored { topic: record.topic.into(), payload: record.payload, qos };
        self.next_place = self.next_place.max(place.saturating_add(1));
        self.bytes += event.weight();
        self.stored.insert(place, event);
    }

    fn push(&mut self, event: &Event) -> (u64, EventRecord) {
        let place = self.next_place;
        let record = EventRecord {
            topic: event.topic().to_string(),
            payload: event.payload().clone(),
            at_most_once: event.qos() == Qos::AtMostOnce,
        };
        self.restore(place, record.clone());
        (place, record)
    }

    /// Whether so many bytes more would be beyond the bound.
    fn is_full(&self, more: Option<usize>, limits: &EventLimits) -> bool {
        let count = self.stored.len() + usize::from(more.is_some());
        count > limits.count || self.bytes + more.unwrap_or(0) > limits.bytes
    }

    fn remove(&mut self, place: u64) -> bool {
        let Some(event) = self.stored.remove(&place) else { return false };
        self.bytes -= event.weight();
        true
    }

    fn next_unsent(&self) -> Option<(u64, &Stored)> {
        self.stored.range(self.next_unsent..).next().map(|(place, event)| (*place, event))
    }

    /// Whether one of that many bytes may leave beside those that are on their way.
    fn may_leave(&self, is_stored: bool, bytes: usize, count_max: usize) -> bool {
        let alike = || self.in_flight.values().filter(|sent| sent.place.is_some() == is_stored);
        let (count, under_way) = (alike().count(), alike().map(|sent| sent.bytes).sum::<usize>());
        // One that is larger than the window goes alone.
        count == 0 || count < count_max && under_way + bytes <= MAX_BYTES_ON_THEIR_WAY
    }

    fn stored_may_leave(&self, bytes: usize) -> bool {
        let count_max = if self.losses < SUSPICIOUS_LOSSES { MAX_ON_THEIR_WAY } else { 1 };
        !self.is_held && self.may_leave(true, bytes, count_max)
    }

    /// Whether the broker owes a PUBACK for one of them.
    fn awaits_puback(&self) -> bool {
        self.in_flight.values().any(|sent| sent.place.is_some() && sent.qos == Qos::AtLeastOnce)
    }
}

impl Engine {
    /// What became of events since this engine began.
    pub fn events(&self) -> EventCounters {
        EventCounters {
            waiting: self.events.stored.len() as u64,
            waiting_bytes: self.events.bytes as u64,
            ..self.events.counters
        }
    }

    pub(super) fn publish(&mut self, event: &Event, ticket: Option<Ticket>) {
        let result = if event.is_stored() { self.store_event(event) } else { self.send_once(event) };
        self.settle_ticket(ticket, result);
    }

    fn store_event(&mut self, event: &Event) -> Result<(), Declined> {
        let limits = self.settings.limits.events;
        let weight = weight(&event.topic().to_string(), event.payload());
        if weight > limits.bytes {
            self.note("event larger than the store", "it is dropped");
            self.events.counters.dropped_full += 1;
            return Err(Declined::OutOfBounds);
        }
        while self.events.is_full(Some(weight), &limits) {
            match limits.policy {
                DropPolicy::Oldest => self.drop_stored(false),
                DropPolicy::Newest => {
                    self.note("the store of events is full", "what comes is dropped");
                    self.events.counters.dropped_full += 1;
                    return Err(Declined::Full);
                }
            }
        }
        let (place, record) = self.events.push(event);
        self.out.writes.push(Write::Event(place, Box::new(record)));
        self.out.due = true;
        Ok(())
    }

    /// Makes room by the oldest one, or the newest.
    fn drop_stored(&mut self, newest: bool) {
        let stored = &self.events.stored;
        let chosen = if newest { stored.last_key_value() } else { stored.first_key_value() };
        let place = *chosen.expect("a store beyond its bound holds something").0;
        self.note(
            "the store of events is full",
            if newest { "the newest is dropped" } else { "the oldest is dropped" },
        );
        self.events.remove(place);
        self.events.counters.dropped_full += 1;
        self.out.writes.push(Write::EventGone(place));
    }

    /// At QoS 0, without being stored.
    fn send_once(&mut self, event: &Event) -> Result<(), Declined> {
        let bytes = event.payload().len();
        let has_room =
            self.events.may_leave(false, bytes, MAX_ONCE_ON_THEIR_WAY) && self.outbox.has_room_for_events();
        if !self.session.is_up() || self.stopping || !has_room {
            self.note("no connection could take an event at QoS 0", "it is dropped");
            self.events.counters.dropped_offline += 1;
            return Err(Declined::NotConnected);
        }
        self.events.counters.sent_once += 1;
        self.publish_event(event.topic().to_string(), event.payload().clone(), event.qos(), None);
        Ok(())
    }

    fn publish_event(&mut self, topic: String, payload: Bytes, qos: Qos, place: Option<u64>) {
        let id = self.outbox.publish_other();
        self.events.in_flight.insert(id, OnItsWay { place, bytes: payload.len(), qos });
        self.effect(Effect::PublishEvent { id, topic, payload, qos });
    }

    /// Sends what waits, oldest first: behind everything that the outbox may send, and in a window of its own, so that a
    /// backlog of events delays an answer by that window at the most.
    pub(super) fn flush_events(&mut self) {
        while self.session.is_up() && !self.stopping && self.outbox.has_room_for_events() {
            let Some((place, event)) = self.events.next_unsent() else { break };
            if !self.events.stored_may_leave(event.payload.len()) {
                break;
            }
            let (topic, payload, qos) = (event.topic.to_string(), event.payload.clone(), event.qos);
            self.events.next_unsent = place + 1;
            self.publish_event(topic, payload, qos, Some(place));
        }
        if !self.events.awaits_puback() {
            self.timers.clear(&Timer::EventsStuck);
        } else if !self.timers.is_set(&Timer::EventsStuck) {
            self.timers.set(Timer::EventsStuck, self.now.monotonic + PUBACK_WITHIN);
        }
    }

    /// The broker has an event, or one at QoS 0 has left. It is removed lazily: losing that only sends it again.
    pub(super) fn event_acknowledged(&mut self, id: PublishId) {
        let Some(sent) = self.events.in_flight.remove(&id) else { return };
        let Some(place) = sent.place else { return };
        if sent.qos == Qos::AtLeastOnce {
            self.events.losses = 0;
            self.timers.clear(&Timer::EventsStuck);
        }
        if self.events.remove(place) {
            self.events.counters.arrived += 1;
            self.forget_event(place);
        }
    }

    fn forget_event(&mut self, place: u64) {
        self.out.writes.push(Write::EventGone(place));
        self.events.lazy_removals += 1;
        if self.events.lazy_removals >= REMOVALS_PER_COMMIT {
            self.events.lazy_removals = 0;
            self.out.due = true;
        }
    }

    /// The broker does not take an event, and says why. The ones behind it must not wait for it.
    pub(super) fn event_refused(&mut self, id: PublishId, reason: &str) {
        let Some(sent) = self.events.in_flight.remove(&id) else { return };
        self.note("the broker refused an event, which is dropped", reason);
        self.events.counters.refused += 1;
        // It was answered, and the connection has outlived it.
        self.events.losses = 0;
        self.timers.clear(&Timer::EventsStuck);
        if let Some(place) = sent.place.filter(|place| self.events.remove(*place)) {
            self.forget_event(place);
        }
    }

    /// What was stored within other bounds.
    pub(super) fn trim_events(&mut self) {
        let limits = self.settings.limits.events;
        while self.events.is_full(None, &limits) {
            self.drop_stored(limits.policy == DropPolicy::Newest);
        }
    }

    pub(super) fn events_connected(&mut self) {
        let losses = self.events.losses;
        self.events.is_held = losses >= SUSPICIOUS_LOSSES;
        if self.events.is_held {
            let pause = HOLD_BASE.saturating_mul(1 << (losses - SUSPICIOUS_LOSSES).min(16)).min(HOLD_CAP);
            self.note(
                "the connection was lost each time events were sent",
                &format!(
                    "they wait for {pause:?}; does the broker permit this device to publish on iot-2/evt/#?"
                ),
            );
            self.timers.set(Timer::Events, self.now.monotonic + pause);
        }
    }

    pub(super) fn events_held_long_enough(&mut self) {
        self.events.is_held = false;
    }

    pub(super) fn events_disconnected(&mut self) {
        if self.events.awaits_puback() {
            self.events.losses = self.events.losses.saturating_add(1);
        }
        self.events.in_flight.clear();
        self.events.next_unsent = 0;
    }

    /// A broker that acknowledges no event would keep every event here without a word.
    pub(super) fn events_stuck(&mut self) {
        warn!("the broker has acknowledged no event for {PUBACK_WITHIN:?}; the connection is made again");
        self.effect(Effect::Disconnect);
        self.disconnected(Lost::Other);
    }
}

/// What an event costs: in memory, and about as much in the journal.
fn weight(topic: &str, payload: &[u8]) -> usize {
    topic.len() + payload.len() + OVERHEAD_BYTES
}

/// What an event costs beside its topic and its payload, in bytes: its place in the map, two allocations, and what is
/// kept of it while it is on its way.
const OVERHEAD_BYTES: usize = 128;

/// How many stored events may be on their way at once: an answer that comes waits for no more than these.
const MAX_ON_THEIR_WAY: usize = super::outbox::EVENTS_WINDOW;

/// How many events at QoS 0, which are not stored, the link may have that it did not write yet; the next is dropped.
const MAX_ONCE_ON_THEIR_WAY: usize = 32;

/// How many bytes of either kind may be on their way at once: half a minute at 2 kB/s. A larger event goes alone.
pub(crate) const MAX_BYTES_ON_THEIR_WAY: usize = 64 * 1024;

/// How many events that have arrived may stand in the journal for want of another commit: so many are sent again after
/// a crash, at the most, beside those on their way.
const REMOVALS_PER_COMMIT: usize = 256;

/// How long the broker may acknowledge no event at all: one of the largest size takes 131 s at 1 kB/s.
pub(super) const PUBACK_WITHIN: Duration = Duration::from_secs(10 * 60);

/// After so many connections in a row that ended with events on their way and none acknowledged, the events may be the
/// reason: a broker may end the connection for a topic that it forbids. Then they go one by one, and wait first, so that
/// the device can be managed meanwhile.
const SUSPICIOUS_LOSSES: u32 = 3;

/// How long they wait at first; it doubles with each further loss.
const HOLD_BASE: Duration = Duration::from_secs(60);

/// How long they wait at the most.
const HOLD_CAP: Duration = Duration::from_secs(60 * 60);
