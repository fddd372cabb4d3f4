use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use iotdm_core::{Qos, Subject};

use crate::engine::{Delivery, EVENTS_WINDOW, Effect, MAX_BYTES_ON_THEIR_WAY, PublishId, WINDOW};

/// What is on its way to the broker, and what waits for the window.
#[derive(Debug, Default)]
pub(super) struct Publishes {
    next: u64,
    in_flight: BTreeMap<PublishId, InFlight>,
    /// Bounded by what each engine may have on its way.
    waiting: VecDeque<Waiting>,
    /// Behind it, and bounded likewise: hundreds of devices have events, and an answer waits for none of those.
    events: VecDeque<Waiting>,
}

/// What is to be acknowledged, in the order in which it came.
#[derive(Debug, Default)]
pub(super) struct Arrivals(VecDeque<Arrival>);

#[derive(Debug)]
struct Arrival {
    delivery: Delivery,
    of: Subject,
    accepted: bool,
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

#[derive(Debug)]
struct InFlight {
    /// Whose it is, under its engine's own number; nobody's, once the device is detached.
    of: Option<(Subject, PublishId)>,
    /// How many bytes an event has.
    event_bytes: Option<usize>,
}

impl Publishes {
    pub(super) fn push(&mut self, waiting: Waiting) {
        let queue = if waiting.event.is_some() { &mut self.events } else { &mut self.waiting };
        queue.push_back(waiting);
    }

    /// Whose publish the broker has, under its engine's own number.
    pub(super) fn acknowledged(&mut self, on_the_wire: PublishId) -> Option<(Subject, PublishId)> {
        self.in_flight.remove(&on_the_wire)?.of
    }

    /// What waits of a device goes with it; it stands in the journal. What is on its way is nobody's from here on: the
    /// numbers of the device's next engine begin anew, and an acknowledgement of before is none of what that one sends.
    pub(super) fn forget(&mut self, of: &Subject) {
        self.waiting.retain(|waiting| waiting.of != *of);
        self.events.retain(|waiting| waiting.of != *of);
        for sent in self.in_flight.values_mut() {
            sent.of.take_if(|(sender, _)| sender == of);
        }
    }

    pub(super) fn clear(&mut self) {
        self.in_flight.clear();
        self.waiting.clear();
        self.events.clear();
    }

    /// As many as the window has room for.
    pub(super) fn send(&mut self, effects: &mut Vec<(Subject, Effect)>) {
        while self.window_open() {
            let next = self.waiting.pop_front().or_else(|| self.next_event());
            let Some(Waiting { of, id, topic, payload, event }) = next else { return };
            let on_the_wire = PublishId(self.next);
            self.next += 1;
            let event_bytes = event.map(|_| payload.len());
            self.in_flight.insert(on_the_wire, InFlight { of: Some((of.clone(), id)), event_bytes });
            let id = on_the_wire;
            let effect = match event {
                Some(qos) => Effect::PublishEvent { id, topic, payload, qos },
                None => Effect::Publish { id, topic, payload },
            };
            effects.push((of, effect));
        }
    }

    /// Counted from the oldest unacknowledged one, so that the link's packet identifiers can never collide.
    fn window_open(&self) -> bool {
        self.in_flight.first_key_value().is_none_or(|(oldest, _)| self.next - oldest.0 < WINDOW)
    }

    /// The next event, if it may leave: on the connection as many may be on their way as of one device.
    fn next_event(&mut self) -> Option<Waiting> {
        let bytes = self.events.front()?.payload.len();
        let under_way = || self.in_flight.values().filter_map(|sent| sent.event_bytes);
        let (count, sum) = (under_way().count(), under_way().sum::<usize>());
        let may_leave = count == 0 || count < EVENTS_WINDOW && sum + bytes <= MAX_BYTES_ON_THEIR_WAY;
        self.events.pop_front_if(|_| may_leave)
    }
}

impl Arrivals {
    pub(super) fn push(&mut self, delivery: Delivery, of: Subject) {
        self.0.push_back(Arrival { delivery, of, accepted: false });
    }

    pub(super) fn accept(&mut self, delivery: Delivery) {
        let is_it = |arrival: &&mut Arrival| arrival.delivery == delivery && !arrival.accepted;
        if let Some(arrival) = self.0.iter_mut().find(is_it) {
            arrival.accepted = true;
        }
    }

    pub(super) fn accept_all_of(&mut self, of: &Subject) {
        for arrival in self.0.iter_mut().filter(|arrival| arrival.of == *of) {
            arrival.accepted = true;
        }
    }

    /// What was accepted, up to the first that was not.
    pub(super) fn acknowledge(&mut self, effects: &mut Vec<(Subject, Effect)>) {
        while let Some(arrival) = self.0.pop_front_if(|arrival| arrival.accepted) {
            effects.push((arrival.of, Effect::Acknowledge(arrival.delivery)));
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
