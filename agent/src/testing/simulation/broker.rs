//! A broker with one durable session, and the platform behind it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use iotdm_core::Qos;
use serde_json::{Value, json};

use crate::engine::{Delivered, Delivery, Input, Lost, PublishId};

use super::laws::Laws;

/// The broker: it keeps a session while the device is away, and order unless it was told not to.
pub(crate) struct Broker {
    pub(crate) reachable: bool,
    pub(crate) credentials_accepted: bool,
    pub(crate) grants: bool,
    /// Whether publishes are acknowledged at once, or held back.
    pub(crate) pubacks: bool,
    /// Whether answers are refused, as brokers with MQTT 5 may do.
    pub(crate) refuses_answers: bool,
    /// Whether it ends the connection at an event, as brokers do at a topic that they forbid.
    pub(crate) ends_at_events: bool,
    /// Whether nobody has to subscribe to anything.
    pub(crate) allows_all: bool,
    pub(crate) has_session: bool,
    /// How many deliveries it sends before it waits for PUBACKs.
    pub(crate) window: usize,
    /// What the platform answers, by topic suffix; `None` is silence, nothing is 200.
    pub(crate) rc: BTreeMap<&'static str, Option<u16>>,
    /// What reached the platform, in order.
    pub(crate) received: Vec<Received>,
    /// Keeps no order across topics, as brokers that spread a session over queues do.
    pub(crate) reorders: Option<fastrand::Rng>,
    /// Says of each message how long it has waited, as brokers with MQTT 5 do where messages expire.
    pub(crate) counts_waiting: bool,
    /// How often it was connected.
    pub(crate) connections: u64,
    epoch: Option<u64>,
    is_subscribed: bool,
    pub(crate) queue: VecDeque<Message>,
    pub(crate) in_flight: VecDeque<(u16, Message)>,
    next_packet: u16,
    next_number: u64,
    up: VecDeque<Up>,
    pub(crate) held_back: Vec<PublishId>,
}

/// A message for the device.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) number: u64,
    topic: String,
    pub(crate) payload: Bytes,
    retained: bool,
    qos0: bool,
}

/// A message that reached the platform.
#[derive(Clone, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "the tests of the engine look at all of it"))]
pub(crate) struct Received {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
}

impl Message {
    fn delivered(&self, delivery: Option<Delivery>) -> Delivered {
        Delivered {
            delivery,
            topic: self.topic.clone(),
            payload: self.payload.clone(),
            retained: self.retained,
            waited: None,
        }
    }
}

enum Up {
    Ack(u16),
    Publish(PublishId, String, Bytes),
    Event(PublishId, String, Bytes, Qos),
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            reachable: true,
            credentials_accepted: true,
            grants: true,
            pubacks: true,
            refuses_answers: false,
            ends_at_events: false,
            allows_all: false,
            has_session: false,
            window: 20,
            rc: BTreeMap::new(),
            received: Vec::new(),
            reorders: None,
            counts_waiting: false,
            connections: 0,
            epoch: None,
            is_subscribed: false,
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            next_packet: 0,
            next_number: 0,
            up: VecDeque::new(),
            held_back: Vec::new(),
        }
    }
}

impl Received {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).expect("what the agent sends is JSON")
    }
}

impl Broker {
    pub(crate) fn is_connected(&self) -> bool {
        self.epoch.is_some()
    }

    pub(crate) fn connect(&mut self, epoch: u64) -> Input {
        if !self.credentials_accepted {
            return Input::Disconnected(Lost::Credentials);
        }
        if !self.reachable {
            return Input::Disconnected(Lost::Other);
        }
        self.connections += 1;
        self.epoch = Some(epoch);
        // A resumed session goes on where it was, before any SUBSCRIBE.
        self.is_subscribed = self.has_session;
        Input::Connected { session_present: self.has_session }
    }

    pub(crate) fn subscribe(&mut self) -> Input {
        if self.grants {
            self.is_subscribed = true;
            self.has_session = true;
        }
        Input::Subscribed { granted: self.grants }
    }

    /// The connection is gone, and what was on its way with it; unacknowledged deliveries will come again.
    /// The network breaks, or the broker closes: they differ in what follows from a series of them.
    pub(crate) fn loss(&self) -> Lost {
        if self.connections.is_multiple_of(2) { Lost::Closed } else { Lost::Other }
    }

    pub(crate) fn cut(&mut self) {
        self.epoch = None;
        self.is_subscribed = false;
        self.up.clear();
        self.held_back.clear();
        for (_, message) in std::mem::take(&mut self.in_flight).into_iter().rev() {
            self.queue.push_front(message);
        }
    }

    /// The session is lost, and everything that waited in it: the numbers of those messages.
    pub(crate) fn lose_session(&mut self) -> Vec<u64> {
        assert!(!self.is_connected());
        self.has_session = false;
        self.queue.drain(..).map(|message| message.number).collect()
    }

    pub(crate) fn acknowledge(&mut self, delivery: Delivery) {
        if self.epoch == Some(delivery.epoch) {
            self.up.push_back(Up::Ack(delivery.packet));
        }
    }

    pub(crate) fn publish(&mut self, id: PublishId, topic: String, payload: Bytes) {
        assert!(payload.len() <= 131_072, "a message of {} bytes ends the connection", payload.len());
        if self.is_connected() {
            self.up.push_back(Up::Publish(id, topic, payload));
        }
    }

    pub(crate) fn publish_event(&mut self, id: PublishId, topic: String, payload: Bytes, qos: Qos) {
        assert!(payload.len() <= 131_072, "an event of {} bytes ends the connection", payload.len());
        assert!(self.epoch.is_none() || self.is_subscribed || self.allows_all, "an event before SUBACK");
        if self.is_connected() {
            self.up.push_back(Up::Event(id, topic, payload, qos));
        }
    }

    /// A message of the platform is queued for the device; its number.
    pub(crate) fn route(&mut self, topic: &str, payload: Vec<u8>) -> u64 {
        self.route_as(topic, payload, false, false)
    }

    pub(crate) fn route_as(&mut self, topic: &str, payload: Vec<u8>, retained: bool, qos0: bool) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        if self.keeps_messages() {
            let payload = Bytes::from(payload);
            self.queue.push_back(Message { number, topic: topic.into(), payload, retained, qos0 });
        }
        number
    }

    /// Whether a message for the device waits for it, or is lost.
    pub(crate) fn keeps_messages(&self) -> bool {
        self.has_session || self.is_subscribed
    }

    /// Which message a delivery of this connection carries.
    pub(crate) fn number_of(&self, delivery: Delivery) -> Option<u64> {
        let is_it = |(packet, _): &&(u16, Message)| *packet == delivery.packet;
        let found = self.in_flight.iter().find(is_it)?;
        (self.epoch == Some(delivery.epoch)).then_some(found.1.number)
    }

    /// The next message on its way up arrives.
    pub(crate) fn take_up(&mut self, inputs: &mut VecDeque<Input>, laws: &mut Laws) -> bool {
        match self.up.pop_front() {
            None => return false,
            Some(Up::Ack(packet)) => {
                if let Some(index) = self.in_flight.iter().position(|(p, _)| *p == packet) {
                    let (_, message) = self.in_flight.remove(index).expect("it was found there");
                    laws.acknowledged(message.number);
                }
            }
            Some(Up::Publish(id, topic, _)) if self.refuses_answers && topic.ends_with("/response") => {
                laws.refused(id);
                inputs.push_back(Input::Refused(id, "quota exceeded".into()));
            }
            Some(Up::Publish(id, topic, payload)) => {
                laws.received(id);
                self.platform_receives(topic, payload);
                self.confirm(id, inputs);
            }
            Some(Up::Event(..)) if self.ends_at_events => {
                self.cut();
                inputs.push_back(Input::Disconnected(Lost::Other));
            }
            // At QoS 0 the link says that it is written; there is no PUBACK to hold back.
            Some(Up::Event(id, topic, payload, qos)) => {
                laws.event_received(&payload);
                self.received.push(Received { topic, payload });
                match qos {
                    Qos::AtMostOnce => inputs.push_back(Input::Acknowledged(id)),
                    Qos::AtLeastOnce => self.confirm(id, inputs),
                }
            }
        }
        true
    }

    fn confirm(&mut self, id: PublishId, inputs: &mut VecDeque<Input>) {
        if self.pubacks {
            inputs.push_back(Input::Acknowledged(id));
        } else {
            self.held_back.push(id);
        }
    }

    pub(crate) fn release_pubacks(&mut self, inputs: &mut VecDeque<Input>) {
        inputs.extend(self.held_back.drain(..).map(Input::Acknowledged));
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.up.is_empty() || self.can_deliver()
    }

    fn can_deliver(&self) -> bool {
        self.is_connected()
            && self.is_subscribed
            && !self.queue.is_empty()
            && self.in_flight.len() < self.window
    }

    /// The next delivery, and the number of its message.
    pub(crate) fn next_down(&mut self) -> Option<(u64, Delivered)> {
        if !self.can_deliver() {
            return None;
        }
        let place = self.next_place();
        let message = self.queue.remove(place)?;
        let epoch = self.epoch?;
        let number = message.number;
        let delivery = (!message.qos0).then(|| {
            self.next_packet = self.next_packet % 65_535 + 1;
            Delivery { epoch, packet: self.next_packet }
        });
        let delivered = message.delivered(delivery);
        if let Some(delivery) = delivery {
            self.in_flight.push_back((delivery.packet, message));
        }
        Some((number, delivered))
    }

    /// A delivery that is not acknowledged comes once more on the same connection, as NATS does it.
    pub(crate) fn deliver_again(&mut self, which: usize) -> Option<(u64, Delivered)> {
        let epoch = self.epoch?;
        let (packet, message) = self.in_flight.get(which.checked_rem(self.in_flight.len())?)?;
        Some((message.number, message.delivered(Some(Delivery { epoch, packet: *packet }))))
    }

    /// Order is kept within a topic at the least.
    fn next_place(&mut self) -> usize {
        let Some(random) = &mut self.reorders else { return 0 };
        let chosen = random.usize(..self.queue.len().min(REORDERED_WITHIN));
        let topic = &self.queue[chosen].topic;
        self.queue.iter().position(|message| message.topic == *topic).unwrap_or(0)
    }

    fn platform_receives(&mut self, topic: String, payload: Bytes) {
        let suffix =
            topic.strip_prefix("iotdevice-1/").expect("the device speaks on its own tree").to_owned();
        let received = Received { topic, payload };
        if suffix != "response" && !suffix.ends_with("/response") {
            let rc = self.rc.get(suffix.as_str()).copied().unwrap_or(Some(200));
            let req_id = received.json()["reqId"].clone();
            if let Some(rc) = rc {
                let response = json!({ "rc": rc, "reqId": req_id });
                self.route("iotdm-1/response", response.to_string().into_bytes());
            }
        }
        self.received.push(received);
    }
}

/// How far a message may come ahead of others, in messages.
const REORDERED_WITHIN: usize = 8;
