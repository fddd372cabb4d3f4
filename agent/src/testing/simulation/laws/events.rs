//! The laws of events: what was confirmed durable has arrived, or is counted as dropped; in order; within bounds.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use iotdm_core::{Event, Qos};

use crate::engine::{EventCounters, Ticket};

use super::super::Law;
use super::Laws;

/// The events of a life; each has a number of its own in its payload.
#[derive(Debug, Default)]
pub(super) struct Events {
    tickets: BTreeMap<Ticket, u64>,
    /// Those to be stored.
    stored: BTreeSet<u64>,
    confirmed: BTreeSet<u64>,
    received: BTreeSet<u64>,
    /// The newest stored one that was published on this connection.
    newest_published: Option<u64>,
    /// How many the processes that ended have counted as dropped.
    dropped_before: u64,
}

/// An event of that number and about that size.
pub(crate) fn event(number: u64, bytes: usize) -> Event {
    Event::json("reading", &format!("event number {number}, {}", "x".repeat(bytes)))
        .expect("it fits a message")
}

impl Laws {
    /// The product publishes an event.
    pub(crate) fn publishing(&mut self, number: u64, event: &Event, ticket: Ticket) {
        if event.is_stored() {
            self.events.stored.insert(number);
        }
        self.events.tickets.insert(ticket, number);
    }

    pub(super) fn event_confirmed(&mut self, ticket: Ticket) {
        let number = self.events.tickets.get(&ticket).filter(|number| self.events.stored.contains(number));
        self.events.confirmed.extend(number);
    }

    /// Oldest first on each connection, and each only once.
    pub(super) fn event_published(&mut self, payload: &Bytes, qos: Qos) {
        let Some(number) = number_in(payload) else { return };
        if !self.events.stored.contains(&number) {
            if qos != Qos::AtMostOnce {
                self.broken(Law::EventsAreKept, format!("event {number} was to be sent at QoS 0"));
            }
            return;
        }
        if self.events.newest_published.is_some_and(|newest| number <= newest) {
            self.broken(Law::EventsAreKept, format!("event {number} comes after a later one"));
        }
        self.events.newest_published = Some(number);
    }

    pub(crate) fn event_received(&mut self, payload: &Bytes) {
        self.events.received.extend(number_in(payload));
    }

    pub(super) fn events_disconnected(&mut self) {
        self.events.newest_published = None;
    }

    /// A process ends; it has counted so much.
    pub(crate) fn events_counted(&mut self, counters: EventCounters) {
        self.events.dropped_before += counters.dropped_full;
    }

    pub(super) fn events_lost_with_the_journal(&mut self) {
        self.events.confirmed.clear();
    }

    pub(super) fn check_store(&mut self, counters: EventCounters) {
        let limits = self.limits.events;
        if counters.waiting > limits.count as u64 || counters.waiting_bytes > limits.bytes as u64 {
            let what = format!("{} events of {} bytes wait", counters.waiting, counters.waiting_bytes);
            self.broken(Law::EverythingIsBounded, what);
        }
    }

    pub(super) fn judge_events(&mut self, counters: EventCounters) {
        if counters.waiting > 0 {
            self.broken(Law::EventsAreKept, format!("{} events still wait", counters.waiting));
        }
        let missing: Vec<&u64> = self.events.confirmed.difference(&self.events.received).collect();
        let dropped = self.events.dropped_before + counters.dropped_full;
        if missing.len() as u64 > dropped {
            let what = format!("events {missing:?} did not arrive, and {dropped} are counted as dropped");
            self.broken(Law::EventsAreKept, what);
        }
    }
}

fn number_in(payload: &Bytes) -> Option<u64> {
    let text = std::str::from_utf8(payload).ok()?;
    let (_, rest) = text.split_once("event number ")?;
    rest.split(',').next()?.parse().ok()
}
