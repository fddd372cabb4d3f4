//! A broker with one durable session, and the platform behind it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::engine::{Delivered, Delivery, Input, Lost, PublishId};

/// The broker: it keeps order, and a session while the device is away.
pub(in crate::engine::tests) struct Broker {
    pub(in crate::engine::tests) reachable: bool,
    pub(in crate::engine::tests) credentials_accepted: bool,
    pub(in crate::engine::tests) grants: bool,
    /// Whether publishes are acknowledged at once, or held back.
    pub(in crate::engine::tests) pubacks: bool,
    pub(in crate::engine::tests) has_session: bool,
    /// How many deliveries it sends before it waits for PUBACKs.
    pub(in crate::engine::tests) window: usize,
    /// What the platform answers, by topic suffix; `None` is silence, nothing is 200.
    pub(in crate::engine::tests) rc: BTreeMap<&'static str, Option<u16>>,
    /// What reached the platform, in order.
    pub(in crate::engine::tests) received: Vec<Received>,
    /// Every copy of every request, by its number: how far it got.
    pub(in crate::engine::tests) copies: BTreeMap<u64, Copy>,
    /// How often it was connected.
    pub(in crate::engine::tests) connections: u64,
    epoch: Option<u64>,
    is_subscribed: bool,
    queue: VecDeque<Message>,
    in_flight: VecDeque<(u16, Message)>,
    next_packet: u16,
    next_number: u64,
    up: VecDeque<Up>,
    held_back: Vec<PublishId>,
}

/// A message for the device.
#[derive(Clone, Debug)]
pub(in crate::engine::tests) struct Message {
    pub(in crate::engine::tests) number: u64,
    topic: String,
    payload: Bytes,
    retained: bool,
    qos0: bool,
}

/// How far a copy of a request got.
#[derive(Clone, Debug, Default)]
pub(in crate::engine::tests) struct Copy {
    pub(in crate::engine::tests) payload: Bytes,
    pub(in crate::engine::tests) topic: String,
    /// How many messages the platform had when it was delivered last.
    pub(in crate::engine::tests) delivered_at: Option<usize>,
    pub(in crate::engine::tests) acked: bool,
}

/// A message that reached the platform.
#[derive(Clone, Debug)]
pub(in crate::engine::tests) struct Received {
    pub(in crate::engine::tests) topic: String,
    pub(in crate::engine::tests) payload: Bytes,
}

enum Up {
    Ack(u16),
    Publish(PublishId, String, Bytes),
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            reachable: true,
            credentials_accepted: true,
            grants: true,
            pubacks: true,
            has_session: false,
            window: 20,
            rc: BTreeMap::new(),
            received: Vec::new(),
            copies: BTreeMap::new(),
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
    pub(in crate::engine::tests) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).expect("what the agent sends is JSON")
    }
}

impl Broker {
    pub(in crate::engine::tests) fn is_connected(&self) -> bool {
        self.epoch.is_some()
    }

    pub(in crate::engine::tests) fn connect(&mut self, epoch: u64) -> Input {
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

    pub(in crate::engine::tests) fn subscribe(&mut self) -> Input {
        if self.grants {
            self.is_subscribed = true;
            self.has_session = true;
        }
        Input::Subscribed { granted: self.grants }
    }

    /// The connection is gone, and what was on its way with it; unacknowledged deliveries will come again.
    pub(in crate::engine::tests) fn cut(&mut self) {
        self.epoch = None;
        self.is_subscribed = false;
        self.up.clear();
        self.held_back.clear();
        for (_, message) in std::mem::take(&mut self.in_flight).into_iter().rev() {
            self.queue.push_front(message);
        }
    }

    /// The session is lost, and everything that waited in it.
    pub(in crate::engine::tests) fn lose_session(&mut self) {
        assert!(!self.is_connected());
        self.has_session = false;
        for message in self.queue.drain(..) {
            self.copies.remove(&message.number);
        }
    }

    pub(in crate::engine::tests) fn acknowledge(&mut self, delivery: Delivery) {
        if self.epoch == Some(delivery.epoch) {
            self.up.push_back(Up::Ack(delivery.packet));
        }
    }

    pub(in crate::engine::tests) fn publish(&mut self, id: PublishId, topic: String, payload: Bytes) {
        assert!(payload.len() <= 131_072, "a message of {} bytes ends the connection", payload.len());
        if self.is_connected() {
            self.up.push_back(Up::Publish(id, topic, payload));
        }
    }

    /// A message of the platform is queued for the device; its number.
    pub(in crate::engine::tests) fn route(&mut self, topic: &str, payload: Vec<u8>) -> u64 {
        self.route_as(topic, payload, false, false)
    }

    pub(in crate::engine::tests) fn route_as(
        &mut self,
        topic: &str,
        payload: Vec<u8>,
        retained: bool,
        qos0: bool,
    ) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        if self.has_session || self.is_subscribed {
            let payload = Bytes::from(payload);
            let copy = Copy { topic: topic.into(), payload: payload.clone(), ..Copy::default() };
            self.copies.insert(number, copy);
            self.queue.push_back(Message { number, topic: topic.into(), payload, retained, qos0 });
        }
        number
    }

    /// The next message on its way up arrives.
    pub(in crate::engine::tests) fn take_up(&mut self, inputs: &mut VecDeque<Input>) -> bool {
        match self.up.pop_front() {
            None => return false,
            Some(Up::Ack(packet)) => {
                if let Some(index) = self.in_flight.iter().position(|(p, _)| *p == packet) {
                    let (_, message) = self.in_flight.remove(index).expect("it was found there");
                    if let Some(copy) = self.copies.get_mut(&message.number) {
                        copy.acked = true;
                    }
                }
            }
            Some(Up::Publish(id, topic, payload)) => {
                self.platform_receives(topic, payload);
                if self.pubacks {
                    inputs.push_back(Input::Acknowledged(id));
                } else {
                    self.held_back.push(id);
                }
            }
        }
        true
    }

    pub(in crate::engine::tests) fn release_pubacks(&mut self, inputs: &mut VecDeque<Input>) {
        inputs.extend(self.held_back.drain(..).map(Input::Acknowledged));
    }

    pub(in crate::engine::tests) fn has_work(&self) -> bool {
        !self.up.is_empty() || self.can_deliver()
    }

    fn can_deliver(&self) -> bool {
        self.is_connected()
            && self.is_subscribed
            && !self.queue.is_empty()
            && self.in_flight.len() < self.window
    }

    /// The next delivery.
    pub(in crate::engine::tests) fn next_down(&mut self) -> Option<Delivered> {
        if !self.can_deliver() {
            return None;
        }
        let message = self.queue.pop_front()?;
        let epoch = self.epoch?;
        if let Some(copy) = self.copies.get_mut(&message.number) {
            copy.delivered_at = Some(self.received.len());
        }
        let delivery = (!message.qos0).then(|| {
            self.next_packet = self.next_packet % 65_535 + 1;
            Delivery { epoch, packet: self.next_packet }
        });
        let delivered = Delivered {
            delivery,
            topic: message.topic.clone(),
            payload: message.payload.clone(),
            retained: message.retained,
        };
        if let Some(delivery) = delivery {
            self.in_flight.push_back((delivery.packet, message));
        }
        Some(delivered)
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

    /// What reached the platform on a topic, by suffix.
    pub(in crate::engine::tests) fn on(&self, suffix: &str) -> Vec<Value> {
        let topic = format!("iotdevice-1/{suffix}");
        self.received.iter().filter(|received| received.topic == topic).map(Received::json).collect()
    }

    pub(in crate::engine::tests) fn answers(&self, req_id: &Value) -> Vec<Bytes> {
        let on_response = self.received.iter().filter(|received| received.topic == "iotdevice-1/response");
        on_response
            .filter(|answer| &answer.json()["reqId"] == req_id)
            .map(|answer| answer.payload.clone())
            .collect()
    }

    /// How many messages the platform sent that were not acknowledged.
    pub(in crate::engine::tests) fn unacknowledged(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    /// Whether a request waits here, unsent or unacknowledged.
    pub(in crate::engine::tests) fn keeps(&self, req_id: &Value) -> bool {
        let is_it = |message: &Message| {
            serde_json::from_slice::<Value>(&message.payload).is_ok_and(|value| &value["reqId"] == req_id)
        };
        self.queue.iter().any(is_it) || self.in_flight.iter().any(|(_, message)| is_it(message))
    }
}
