//! What the broker remembers of one client: subscriptions, waiting messages, unacknowledged deliveries.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rumqttc::QoS;
use rumqttc::mqttbytes::v4::Publish;

use super::links::LinkId;
use super::topic;

/// One client's session, connected or not.
#[derive(Debug)]
pub(super) struct Session {
    /// Whether it outlives its connection (CONNECT with clean session 0).
    pub(super) durable: bool,
    /// The prefix of its topics.
    pub(super) mount: String,
    /// Its subscriptions by full filter.
    pub(super) subscriptions: BTreeMap<String, QoS>,
    /// Its connection, when it has one.
    pub(super) link: Option<LinkId>,
    /// Messages dropped because the queue was full.
    pub(super) dropped: u64,
    queue: VecDeque<Message>,
    in_flight: VecDeque<InFlight>,
    last_packet_id: u16,
}

/// A message for one client, its topic as that client sees it.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) retain: bool,
}

#[derive(Debug)]
struct InFlight {
    packet_id: u16,
    message: Message,
}

impl Session {
    pub(super) const fn new(durable: bool, mount: String) -> Self {
        Self {
            durable,
            mount,
            subscriptions: BTreeMap::new(),
            link: None,
            dropped: 0,
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            last_packet_id: 0,
        }
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The best QoS any of its subscriptions gives this topic, or `None` when it has not asked for it.
    ///
    /// One answer for all overlapping subscriptions, so that a message is delivered once.
    pub(super) fn granted(&self, full_topic: &str) -> Option<QoS> {
        self.subscriptions
            .iter()
            .filter(|(filter, _)| topic::matches(filter, full_topic))
            .map(|(_, qos)| *qos)
            .reduce(|best, qos| if qos > best { qos } else { best })
    }

    /// Queues a QoS 1 message; `false` when the oldest waiting one had to go for it.
    pub(super) fn enqueue(&mut self, message: Message, limit: usize) -> bool {
        self.queue.push_back(message);
        let fits = self.queue.len() <= limit;
        if !fits {
            self.queue.pop_front();
            self.dropped += 1;
        }
        fits
    }

    /// Moves the oldest waiting message into the window, when there is one and the window has a place.
    pub(super) fn next_delivery(&mut self, window: u16) -> Option<Publish> {
        if self.in_flight.len() >= usize::from(window) {
            return None;
        }
        let message = self.queue.pop_front()?;
        let packet_id = self.free_packet_id();
        let publish = message.publish(packet_id, false);
        self.in_flight.push_back(InFlight { packet_id, message });
        Some(publish)
    }

    /// Everything unacknowledged again, oldest first.
    pub(super) fn redeliveries(&self, dup: bool) -> Vec<Publish> {
        self.in_flight.iter().map(|entry| entry.message.publish(entry.packet_id, dup)).collect()
    }

    /// Gives the unacknowledged messages the packet ids 1, 2, 3, …, as RabbitMQ does at a reconnect.
    pub(super) fn renumber(&mut self) {
        self.last_packet_id = 0;
        for entry in &mut self.in_flight {
            self.last_packet_id += 1;
            entry.packet_id = self.last_packet_id;
        }
    }

    /// Takes an acknowledged message out of the window; `None` when nothing had this packet id.
    pub(super) fn acknowledge(&mut self, packet_id: u16) -> Option<Message> {
        let position = self.in_flight.iter().position(|entry| entry.packet_id == packet_id);
        position.and_then(|at| self.in_flight.remove(at)).map(|entry| entry.message)
    }

    /// The packet id after the last one that nothing in flight has.
    fn free_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if !self.in_flight.iter().any(|entry| entry.packet_id == self.last_packet_id) {
                return self.last_packet_id;
            }
        }
    }
}

impl Message {
    fn publish(&self, packet_id: u16, dup: bool) -> Publish {
        let mut publish = Publish::from_bytes(self.topic.clone(), QoS::AtLeastOnce, self.payload.clone());
        publish.pkid = packet_id;
        publish.dup = dup;
        publish.retain = self.retain;
        publish
    }

    /// The QoS 0 form, which is neither numbered nor repeated.
    pub(super) fn publish_at_most_once(self) -> Publish {
        let mut publish = Publish::from_bytes(self.topic, QoS::AtMostOnce, self.payload);
        publish.retain = self.retain;
        publish
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message { topic: "t".to_owned(), payload: Bytes::copy_from_slice(text.as_bytes()), retain: false }
    }

    #[test]
    fn a_packet_id_in_flight_is_skipped_when_the_numbers_wrap() {
        let mut session = Session::new(true, String::new());
        session.enqueue(message("first"), 10);
        assert_eq!(session.next_delivery(20).map(|publish| publish.pkid), Some(1));
        session.last_packet_id = u16::MAX - 1;
        for expected in [u16::MAX, 2] {
            session.enqueue(message("later"), 10);
            assert_eq!(session.next_delivery(20).map(|publish| publish.pkid), Some(expected));
        }
    }

    #[test]
    fn a_full_queue_drops_its_oldest_message() {
        let mut session = Session::new(true, String::new());
        assert!(session.enqueue(message("a"), 2));
        assert!(session.enqueue(message("b"), 2));
        assert!(!session.enqueue(message("c"), 2));
        let kept: Vec<Bytes> =
            std::iter::from_fn(|| session.next_delivery(20)).map(|publish| publish.payload).collect();
        assert_eq!(kept, ["b", "c"]);
        assert_eq!(session.dropped, 1);
    }

    #[test]
    fn overlapping_subscriptions_give_one_answer_with_the_best_qos() {
        let mut session = Session::new(true, String::new());
        session.subscriptions.insert("a/#".to_owned(), QoS::AtMostOnce);
        session.subscriptions.insert("a/+".to_owned(), QoS::AtLeastOnce);
        assert_eq!(session.granted("a/b"), Some(QoS::AtLeastOnce));
        assert_eq!(session.granted("a/b/c"), Some(QoS::AtMostOnce));
        assert_eq!(session.granted("b"), None);
    }
}
