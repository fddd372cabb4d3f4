//! The broker and the platform, as far as a device sees them.

use bytes::Bytes;
use iotdm_agent::engine::{Delivered, Delivery, Input, KeyHash, Lost, PublishId};
use iotdm_core::Subject;

use super::{Link, MAX_OWN, World};

impl World {
    pub fn come_up(&mut self, session_present: bool) {
        if self.link == Link::Down {
            self.pass_to_deadline();
        }
        self.connected(session_present);
        self.subscribed(true);
        for _ in 0..2 {
            self.acknowledge_all();
            self.answer(0, 200);
        }
    }

    pub fn connected(&mut self, session_present: bool) {
        if let Link::Connecting(epoch) = self.link {
            self.link = Link::Connected(epoch);
            self.input(Input::Connected { session_present });
        }
    }

    pub fn subscribed(&mut self, granted: bool) {
        if let Link::Subscribing(epoch) = self.link {
            self.link = Link::Up(epoch);
            self.input(Input::Subscribed { granted });
        }
    }

    pub fn disconnected(&mut self, lost: Lost) {
        if self.link != Link::Down {
            self.link_is_down();
            self.input(Input::Disconnected(lost));
        }
    }

    pub fn deliver(&mut self, topic: &str, payload: Bytes, at_least_once: bool, retained: bool) {
        let Some(epoch) = self.epoch() else { return };
        self.packet = self.packet.wrapping_add(1).max(1);
        let delivery = at_least_once.then_some(Delivery { epoch, packet: self.packet });
        let topic = topic.to_owned();
        self.input(Input::Delivered(Delivered { delivery, topic, payload, retained, waited: None }));
    }

    /// The platform answers one of the device's last requests.
    pub fn answer(&mut self, which: usize, rc: u16) {
        let Some(req_id) = self.own.iter().rev().nth(which % MAX_OWN) else { return };
        let payload = format!("{{\"rc\":{rc},\"reqId\":{req_id}}}");
        self.deliver("iotdm-1/response", Bytes::from(payload), true, false);
    }

    pub fn acknowledge(&mut self, which: usize) {
        if self.in_flight.is_empty() {
            return;
        }
        let published = self.in_flight.remove(which % self.in_flight.len());
        if let Some(req_id) = published.req_id {
            self.arrived.insert(KeyHash::of_request(&Subject::Connected, &req_id));
        }
        self.input(Input::Acknowledged(published.id));
    }

    /// The broker acknowledges what nobody made, or what was acknowledged before.
    pub fn acknowledge_nothing(&mut self, id: PublishId) {
        if self.in_flight.iter().all(|published| published.id != id) {
            self.input(Input::Acknowledged(id));
        }
    }

    pub fn acknowledge_all(&mut self) {
        for _ in 0..self.in_flight.len() {
            self.acknowledge(0);
        }
    }

    pub(super) fn epoch(&self) -> Option<u64> {
        match self.link {
            Link::Down | Link::Connecting(_) => None,
            Link::Connected(epoch) | Link::Subscribing(epoch) | Link::Up(epoch) => Some(epoch),
        }
    }

    pub(super) fn link_is_down(&mut self) {
        self.link = Link::Down;
        self.in_flight.clear();
    }
}
