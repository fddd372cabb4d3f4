//! The device's session on the broker, and what the platform keeps of it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iotdm_core::{Code, Route, Subject, Topic, UpRoute};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::engine::PublishId;
use crate::link::LinkEvent;

use super::Published;

/// What the platform knows of its device, and what a broker would keep for it.
#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) connection: Option<(u64, mpsc::UnboundedSender<LinkEvent>)>,
    pub(super) connections: u64,
    pub(super) offline: bool,
    pub(super) refuse_credentials: bool,
    pub(super) refuse_subscription: bool,
    pub(super) session: bool,
    pub(super) queue: VecDeque<Message>,
    pub(super) in_flight: BTreeMap<u16, Message>,
    pub(super) next_packet: u16,
    pub(super) window: Option<usize>,
    pub(super) counts_waiting: bool,
    pub(super) refuse_answers: bool,
    pub(super) published: Vec<Published>,
    pub(super) seen: BTreeMap<String, usize>,
    pub(super) answers: BTreeMap<UpRoute, Option<Code>>,
    pub(super) hold_pubacks: bool,
    pub(super) held_pubacks: Vec<(PublishId, Published)>,
    pub(super) acknowledged: u64,
    pub(super) witness: Option<Witness>,
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) at_least_once: bool,
    pub(super) retained: bool,
    pub(super) sent: Instant,
}

/// Something that passed between the device and its broker.
#[derive(Clone, Copy, Debug)]
pub(in crate::testing) enum Passed<'a> {
    /// A connection was made.
    Connected,
    /// Topic and payload of what went to the device.
    Delivered(&'a str, &'a Bytes),
    /// Topic and payload of what the device acknowledged.
    Acknowledged(&'a str, &'a Bytes),
    /// The device published this.
    Published(&'a Published),
    /// The broker acknowledged it.
    Confirmed(&'a Published),
}

/// Somebody who is told of everything that passes.
#[derive(Clone)]
pub(in crate::testing) struct Witness(pub(in crate::testing) Arc<dyn Fn(Passed<'_>) + Send + Sync>);

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}

impl Inner {
    pub(super) fn event(&self, event: LinkEvent) {
        if let Some((_, sender)) = &self.connection {
            // The device may have dropped its end.
            let _ = sender.send(event);
        }
    }

    /// The broker has what the device published, and says so.
    pub(super) fn confirm(&mut self, id: PublishId, published: Published) {
        self.tell(Passed::Confirmed(&published));
        self.event(LinkEvent::Published(id));
    }

    pub(super) fn tell(&self, passed: Passed<'_>) {
        if let Some(Witness(witness)) = &self.witness {
            witness(passed);
        }
    }

    pub(super) fn cut(&mut self) {
        self.connection = None;
        self.held_pubacks.clear();
        // What was in flight is redelivered first, in its order.
        for (_, message) in std::mem::take(&mut self.in_flight).into_iter().rev() {
            self.queue.push_front(message);
        }
        if !self.session {
            self.queue.clear();
        }
    }

    pub(super) fn deliver(&mut self) {
        while self.connection.is_some() && self.session && self.in_flight.len() < self.window.unwrap_or(20) {
            let Some(message) = self.queue.pop_front() else { return };
            let packet = message.at_least_once.then(|| self.packet());
            let Message { topic, payload, retained, sent, .. } = message.clone();
            self.tell(Passed::Delivered(&topic, &payload));
            let waited = self.counts_waiting.then(|| Duration::from_secs(sent.elapsed().as_secs()));
            self.event(LinkEvent::Message { packet, topic, payload, retained, waited });
            self.in_flight.extend(packet.map(|packet| (packet, message)));
        }
    }

    /// Counted up, so that the map of what is in flight keeps the order of delivery.
    pub(super) fn packet(&mut self) -> u16 {
        self.next_packet = self.next_packet.checked_add(1).expect("a test sends fewer than 65536 messages");
        self.next_packet
    }

    pub(super) fn respond(&mut self, subject: Subject, route: UpRoute, req_id: &Value) {
        if route == UpRoute::Response || req_id.is_null() {
            return;
        }
        let code = self.answers.get(&route).copied().unwrap_or(Some(Code::OK));
        if let Some(code) = code {
            let body = json!({ "rc": code.as_u16(), "reqId": req_id });
            let topic = Topic { subject, route: Route::Response }.to_string();
            self.queue.push_back(Message {
                topic,
                payload: body.to_string().into(),
                at_least_once: true,
                retained: false,
                sent: Instant::now(),
            });
            self.deliver();
        }
    }
}
