use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use iotdm_core::{Qos, Subject};

use crate::engine::{Effect, PublishId, WINDOW};

/// What is on its way to the broker, and what waits for the window.
#[derive(Debug, Default)]
pub(super) struct Publishes {
    next: u64,
    in_flight: BTreeMap<PublishId, (Subject, PublishId)>,
    /// Bounded by what each engine may have on its way.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) of: Subject,
    pub(super) id: PublishId,
    pub(super) topic: String,
    pub(super) payload: Bytes,
    /// Of an event; everything else goes at QoS 1.
    pub(super) event: Option<Qos>,
}

impl Publishes {
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// Whose publish the broker has, under its engine's own number.
    pub(super) fn acknowledged(&mut self, on_the_wire: PublishId) -> Option<(Subject, PublishId)> {
        self.in_flight.remove(&on_the_wire)
    }

    /// What waits of a device goes with it; it stands in the journal.
    pub(super) fn forget(&mut self, of: &Subject) {
        self.waiting.retain(|waiting| waiting.of != *of);
    }

    pub(super) fn clear(&mut self) {
        self.in_flight.clear();
        self.waiting.clear();
    }

    /// Counted from the oldest unacknowledged one, so that the link's packet identifiers can never collide.
    fn window_open(&self) -> bool {
        self.in_flight.first_key_value().is_none_or(|(oldest, _)| self.next - oldest.0 < WINDOW)
    }

    /// As many as the window has room for.
    pub(super) fn send(&mut self, effects: &mut Vec<(Subject, Effect)>) {
        while self.window_open() {
            let Some(Waiting { of, id, topic, payload, event }) = self.waiting.pop_front() else { return };
            let on_the_wire = PublishId(self.next);
            self.next += 1;
            self.in_flight.insert(on_the_wire, (of.clone(), id));
            let id = on_the_wire;
            let effect = match event {
                Some(qos) => Effect::PublishEvent { id, topic, payload, qos },
                None => Effect::Publish { id, topic, payload },
            };
            effects.push((of, effect));
        }
    }
}
