//! Events: what the product publishes, and what leaves.

use bytes::Bytes;
use iotdm_core::Qos;

use crate::engine::{Input, PublishId, Ticket};

use super::laws::events::event;
use super::life::Life;
use super::story::shown;
use super::world::World;

impl Life<'_> {
    /// So many events, of a size and a kind.
    pub(super) fn publish(&mut self, a: u8, b: u8, count: usize) {
        let bytes = match a % 16 {
            0 => 100_000,
            1..=3 => 6_000,
            _ => usize::from(a),
        };
        for _ in 0..count {
            if self.world.agent.is_none() {
                return;
            }
            self.tickets += 1;
            let (ticket, event) = (Ticket(self.tickets), event(self.tickets, bytes));
            let event = match b % 8 {
                0 => event.at_most_once(),
                1 => event.at_most_once().stored(),
                _ => event,
            };
            self.world.laws.publishing(ticket.0, &event, ticket);
            self.world.tell(|| format!("the product publishes event {}, {bytes} bytes", ticket.0));
            self.world.input(Input::Publish(event, Some(ticket)));
        }
    }
}

impl World {
    pub(super) fn publish_event(&mut self, id: PublishId, topic: String, payload: Bytes, qos: Qos) {
        self.tell_publish(&topic, &payload);
        self.broker.publish_event(id, topic, payload, qos);
    }

    pub(super) fn tell_publish(&mut self, topic: &str, payload: &Bytes) {
        self.tell(|| format!("the agent publishes on {topic}: {}", shown(payload)));
    }
}
