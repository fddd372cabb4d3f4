//! PUBACKs in the order of arrival (MQTT 3.1.1 §4.6), though some of them wait for a handler.
//!
//! While one waits, a broker whose window is full delivers nothing more, and what it keeps back grows old. The time for
//! which that was possible is an upper bound of the age of whatever comes next, and is known to be over when a manage
//! that was sent since is answered.

use std::collections::VecDeque;
use std::time::Duration;

use iotdm_core::{Acknowledge, Policy, Subject};

use super::Engine;
use super::event::{Delivered, Delivery, Effect};
use super::key::{KeyHash, digest};
use super::time::Age;

/// The acknowledgements of this connection that may not leave yet.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    queue: VecDeque<Entry>,
    /// Whether another device of the connection can take nothing more, so that no acknowledgement behind its own leaves.
    by_others: bool,
    /// Since when one is withheld.
    since: Option<Duration>,
    /// For how long one was withheld on this connection before that.
    before: Duration,
    /// Of all that, how much a broker's window has shown to be over.
    proven: Duration,
    /// How much it was when the oldest unanswered manage was sent.
    asked: Option<Duration>,
    /// When the broker must have the PUBACKs of old commands: it would have been noticed that they did not arrive.
    old_arrive_by: Duration,
}

#[derive(Debug)]
struct Entry {
    delivery: Delivery,
    content: [u8; 16],
    /// Whose handler has to end before.
    waits_for: Option<KeyHash>,
    is_old: bool,
}

impl Withheld {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether the broker may keep something back because of one.
    pub(super) fn closes_the_window(&self) -> bool {
        self.since.is_some()
    }

    /// Whether the broker may deliver again what is old: it is not acknowledged, or its PUBACK may have been lost. A
    /// request is known by its reqId then; nothing tells that a command is the same.
    pub(super) fn may_come_again(&self, now: Duration) -> bool {
        !self.queue.is_empty() || now < self.old_arrive_by
    }

    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= MAX_WITHHELD
    }

    /// Whether this very message is here. A packet identifier is not another message's before its PUBACK (MQTT 3.1.1
    /// §2.3.1), so that on one connection it does tell a repetition; the content is compared because brokers lie.
    pub(super) fn holds(&self, delivery: Delivery, content: [u8; 16]) -> bool {
        self.queue.iter().any(|entry| entry.delivery == delivery && entry.content == content)
    }

    /// How long what arrives may have waited behind a window that this closed.
    pub(super) fn delay(&self, now: Duration) -> Duration {
        self.total(now).saturating_sub(self.proven)
    }

    /// A manage is sent.
    pub(super) fn asked(&mut self, now: Duration) {
        self.asked.get_or_insert(self.total(now));
    }

    /// Manage is to be asked anew: what was asked before proves nothing.
    pub(super) fn forget_question(&mut self) {
        self.asked = None;
    }

    /// The answer to a manage has come through the broker's queue.
    pub(super) fn answered(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.proven = asked;
        }
    }

    /// Nothing has waited on the broker up to this moment.
    pub(super) fn nothing_waited(&mut self, now: Duration) {
        self.proven = self.total(now);
    }

    fn total(&self, now: Duration) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    fn push(&mut self, entry: Entry, now: Duration) {
        self.queue.push_back(entry);
        self.since.get_or_insert(now);
    }

    /// The next acknowledgement that may leave.
    fn pop(&mut self, now: Duration) -> Option<(Delivery, bool)> {
        let entry = self.queue.pop_front_if(|entry| entry.waits_for.is_none())?;
        self.open_window(now);
        Some((entry.delivery, entry.is_old))
    }

    pub(super) fn others(&mut self, now: Duration, withhold: bool) {
        self.by_others = withhold;
        if withhold {
            self.since.get_or_insert(now);
        }
        self.open_window(now);
    }

    /// Unless one is withheld still.
    fn open_window(&mut self, now: Duration) {
        if self.queue.is_empty() && !self.by_others {
            self.before = self.total(now);
            self.since = None;
        }
    }
}

impl Engine {
    /// Acknowledges a delivery once the batch is durable; or later, where its handler, or one before it, has to end.
    pub(super) fn acknowledge(
        &mut self,
        delivery: Delivery,
        content: [u8; 16],
        is_command: bool,
        waits_for: Option<KeyHash>,
    ) {
        let is_old = is_command && self.age_by_order() != Age::AtMostMs(0);
        if self.withheld.is_empty() && waits_for.is_none() {
            return self.send_acknowledgement(delivery, is_old);
        }
        self.withheld.push(Entry { delivery, content, waits_for, is_old }, self.now.monotonic);
    }

    /// Whether this very message is here already, on this connection, under its packet identifier.
    pub(crate) fn has(&self, delivered: &Delivered) -> bool {
        self.is_deferred(delivered) || self.is_withheld(delivered)
    }

    fn is_deferred(&self, delivered: &Delivered) -> bool {
        self.deferred.iter().any(|(_, waiting)| {
            let is_it = delivered.delivery.is_some() && waiting.delivery == delivered.delivery;
            is_it && waiting.topic == delivered.topic && waiting.payload == delivered.payload
        })
    }

    /// Whether it was taken, and its acknowledgement waits. A command kept once more would
    /// be another one when that has left; a request may be forgotten by then.
    fn is_withheld(&self, delivered: &Delivered) -> bool {
        let content = || digest(&[delivered.topic.as_bytes(), &delivered.payload]);
        !self.withheld.is_empty()
            && delivered.delivery.is_some_and(|delivery| self.withheld.holds(delivery, content()))
    }

    /// The handler of this command has ended.
    pub(super) fn release(&mut self, key: KeyHash) {
        for entry in &mut self.withheld.queue {
            if entry.waits_for == Some(key) {
                entry.waits_for = None;
            }
        }
        while let Some((delivery, is_old)) = self.withheld.pop(self.now.monotonic) {
            self.send_acknowledgement(delivery, is_old);
        }
    }

    fn send_acknowledgement(&mut self, delivery: Delivery, is_old: bool) {
        // It opens the broker's window: only from here on does silence say that nothing waits there.
        self.session.heard(self.now.monotonic);
        if is_old {
            self.withheld.old_arrive_by = self.now.monotonic + self.settings.unnoticed;
        }
        self.effect(Effect::Acknowledge(delivery));
    }

    /// By how much the online mark may be wrong because of acknowledgements that wait.
    pub(super) fn withheld_unnoticed(&self) -> Duration {
        let waits = |policy: &Policy| policy.acknowledge == Acknowledge::Handled;
        let shares = self.settings.subject != Subject::Connected;
        if shares || self.settings.policies.values().any(waits) { WITHHELD_UNNOTICED } else { Duration::ZERO }
    }

    /// Beyond a limit what the broker may have kept back counts as old, until the next answer to manage.
    pub(super) fn watch_withheld(&mut self) {
        if self.session.fence_is_lifted() && self.withheld.delay(self.now.monotonic) > WITHHELD_UNNOTICED {
            self.lower_fence();
        }
    }
}

/// For how long acknowledgements may be withheld, in all, before the platform is asked for manage again, which is the
/// fence.
const WITHHELD_UNNOTICED: Duration = Duration::from_secs(10);

/// How many deliveries may be unacknowledged: as many as there are packet identifiers.
const MAX_WITHHELD: usize = 65_535;
