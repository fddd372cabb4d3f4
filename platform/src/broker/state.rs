//! Everything the broker knows, and what each packet does to it. No I/O and no clock.
//!
//! All maps are ordered, so that the same packets in the same order always have the same effect.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use rumqttc::QoS;
use rumqttc::mqttbytes::v4::{
    ConnAck, ConnectReturnCode, Packet, PubAck, Publish, SubAck, Subscribe, SubscribeReasonCode, UnsubAck,
    Unsubscribe,
};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::faults::Faults;
use super::links::{LinkId, Links};
use super::observer::{Seen, Sightings};
use super::options::BrokerOptions;
use super::session::{Message, Session};
use super::topic;
use super::{SessionView, Stats};

/// Sessions, connections, retained messages, and the faults switched on.
#[derive(Debug)]
pub(super) struct State {
    pub(super) stats: Stats,
    pub(super) faults: Faults,
    pub(super) links: Links,
    pub(super) sightings: Sightings,
    sessions: BTreeMap<String, Session>,
    retained: BTreeMap<String, Retained>,
    limits: Limits,
}

/// Why a packet ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("a payload of {0} bytes is above the limit")]
    PayloadTooLarge(usize),
    #[error("QoS 2 is not offered")]
    ExactlyOnce,
    #[error("the topic may not be published to")]
    InvalidTopic,
    #[error("this packet is not expected from a connected client")]
    UnexpectedPacket,
    #[error("the client does not read what it asked for")]
    NotReading,
}

#[derive(Debug)]
struct Retained {
    payload: Bytes,
    qos: QoS,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    window: u16,
    queue: usize,
    payload_bytes: usize,
}

impl State {
    pub(super) fn new(options: &BrokerOptions) -> Self {
        Self {
            stats: Stats::default(),
            faults: Faults::default(),
            sightings: Sightings::default(),
            sessions: BTreeMap::new(),
            links: Links::default(),
            retained: BTreeMap::new(),
            limits: Limits {
                window: options.window.max(1),
                queue: options.queue_limit,
                payload_bytes: options.payload_limit,
            },
        }
    }

    /// Admits a client: takes over its earlier connection, finds or makes its session, queues CONNACK and then
    /// everything the session owes it.
    pub(super) fn attach(
        &mut self,
        client_id: &str,
        durable: bool,
        mount: String,
    ) -> Result<(LinkId, Arc<Notify>), ConnectReturnCode> {
        if self.faults.refuse {
            return Err(ConnectReturnCode::ServiceUnavailable);
        }
        if let Some(earlier) = self.sessions.get(client_id).and_then(|session| session.link) {
            info!(client_id, "a second connection with this client id closes the first");
            self.stats.takeovers += 1;
            self.close(earlier);
        }
        let present = durable
            && self.sessions.get(client_id).is_some_and(|session| session.durable && session.mount == mount);
        if !present {
            self.sessions.remove(client_id);
            if self.sessions.len() >= SESSION_LIMIT {
                warn!(client_id, "no room for another session");
                return Err(ConnectReturnCode::ServiceUnavailable);
            }
            self.sessions.insert(client_id.to_owned(), Session::new(durable, mount));
        }

        self.stats.connects += 1;
        let (link, wake) = self.links.open(client_id);
        self.links.send(link, Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, present)));
        self.sightings.note(client_id, || Seen::Connected { session_present: present });
        if let Some(session) = self.sessions.get_mut(client_id) {
            session.link = Some(link);
            if self.faults.renumber {
                session.renumber();
            }
        }
        self.redeliver(client_id);
        self.pump(client_id);
        Ok((link, wake))
    }

    /// Ends a connection; the session stays when it is durable. Does nothing for one that has ended.
    pub(super) fn close(&mut self, link: LinkId) {
        let Some(client_id) = self.links.close(link) else { return };
        self.sightings.note(&client_id, || Seen::Disconnected);
        if let Some(session) = self.sessions.get_mut(&client_id) {
            session.link = None;
            if !session.durable {
                self.sessions.remove(&client_id);
            }
        }
    }

    /// Ends every connection.
    pub(super) fn close_all(&mut self) {
        for link in self.links.all() {
            self.close(link);
        }
    }

    /// Carries out one packet of a connected client. `refused` are the filters a SUBSCRIBE may not have.
    pub(super) fn receive(
        &mut self,
        link: LinkId,
        packet: Packet,
        refused: &BTreeSet<String>,
    ) -> Result<(), Violation> {
        // A packet that was still in the read buffer of a connection that has ended.
        let Some(client_id) = self.links.client_id(link).map(str::to_owned) else {
            return Ok(());
        };
        match packet {
            Packet::Publish(publish) => self.published(link, &client_id, publish)?,
            Packet::PubAck(ack) => self.acknowledged(&client_id, ack.pkid),
            Packet::Subscribe(subscribe) => self.subscribe(link, &client_id, subscribe, refused),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(link, &client_id, &unsubscribe),
            Packet::PingReq => self.links.send(link, Packet::PingResp),
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp
            | Packet::Disconnect => return Err(Violation::UnexpectedPacket),
        }
        if self.links.is_overfull(link) { Err(Violation::NotReading) } else { Ok(()) }
    }

    /// Delivers a message to everybody who asked for it; returns how many clients that are.
    pub(super) fn route(&mut self, full_topic: &str, payload: &Bytes, qos: QoS, retain: bool) -> usize {
        self.stats.published += 1;
        if retain {
            self.retain(full_topic, payload, qos);
        }
        let mut audience = Vec::new();
        for (client_id, session) in &self.sessions {
            let seen_as = topic::unmounted(&session.mount, full_topic);
            if let (Some(granted), Some(seen_as)) = (session.granted(full_topic), seen_as) {
                let message = Message { topic: seen_as.to_owned(), payload: payload.clone(), retain: false };
                audience.push((client_id.clone(), message, lesser(granted, qos)));
            }
        }
        let reached = audience.len();
        for (client_id, message, qos) in audience {
            self.deliver(&client_id, message, qos);
        }
        reached
    }

    /// Forgets a session and ends its connection; `false` when there is none.
    pub(super) fn drop_session(&mut self, client_id: &str) -> bool {
        if let Some(link) = self.sessions.get(client_id).and_then(|session| session.link) {
            self.close(link);
            self.sessions.remove(client_id);
            return true;
        }
        self.sessions.remove(client_id).is_some()
    }

    /// Withholds the PUBACKs for what this client publishes, or releases those withheld on its connection.
    pub(super) fn hold_pubacks(&mut self, client_id: &str, hold: bool) {
        if hold {
            self.faults.held.insert(client_id.to_owned());
            return;
        }
        self.faults.held.remove(client_id);
        let link = self.sessions.get(client_id).and_then(|session| session.link);
        if let Some(link) = link {
            self.links.release(link);
        }
    }

    /// Sends everything unacknowledged again on the live connection; returns how many messages that are.
    pub(super) fn redeliver(&mut self, client_id: &str) -> usize {
        let Some(session) = self.sessions.get(client_id) else { return 0 };
        let Some(link) = session.link else { return 0 };
        let again = session.redeliveries(self.faults.dup_flag);
        let count = again.len();
        self.stats.redelivered += count as u64;
        for publish in again {
            self.sightings.note(client_id, || Seen::delivered(&publish, true));
            self.links.send(link, Packet::Publish(publish));
        }
        count
    }

    /// What tests may know of a session.
    pub(super) fn view(&self, client_id: &str) -> Option<SessionView> {
        self.sessions.get(client_id).map(|session| SessionView {
            connected: session.link.is_some(),
            durable: session.durable,
            queued: session.queued(),
            in_flight: session.in_flight(),
            dropped: session.dropped,
            withheld: session.link.map_or(0, |link| self.links.withheld(link)),
        })
    }

    fn published(&mut self, link: LinkId, client_id: &str, publish: Publish) -> Result<(), Violation> {
        if publish.payload.len() > self.limits.payload_bytes {
            return Err(Violation::PayloadTooLarge(publish.payload.len()));
        }
        let mount = self.sessions.get(client_id).map_or("", |session| &session.mount);
        let full_topic = topic::mounted_topic(mount, &publish.topic).ok_or(Violation::InvalidTopic)?;
        if publish.qos == QoS::ExactlyOnce {
            return Err(Violation::ExactlyOnce);
        }
        self.sightings.note(client_id, || Seen::Published {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
        });
        self.route(&full_topic, &publish.payload, publish.qos, publish.retain);
        if publish.qos == QoS::AtLeastOnce {
            if self.faults.held.contains(client_id) {
                self.links.withhold(link, publish.pkid);
            } else {
                self.links.send(link, Packet::PubAck(PubAck::new(publish.pkid)));
            }
        }
        Ok(())
    }

    fn acknowledged(&mut self, client_id: &str, packet_id: u16) {
        let known = self.sessions.get_mut(client_id).and_then(|session| session.acknowledge(packet_id));
        let Some(Message { topic, payload, .. }) = known else {
            debug!(client_id, packet_id, "an acknowledgement of nothing in flight");
            self.stats.stray_acks += 1;
            return;
        };
        self.stats.acked += 1;
        self.sightings.note(client_id, || Seen::Acknowledged { packet_id, topic, payload });
        self.pump(client_id);
    }

    fn subscribe(&mut self, link: LinkId, client_id: &str, subscribe: Subscribe, refused: &BTreeSet<String>) {
        let Some(session) = self.sessions.get_mut(client_id) else { return };
        let mut codes = Vec::new();
        let mut granted = Vec::new();
        for wanted in subscribe.filters {
            let filter = topic::mounted_filter(&session.mount, &wanted.path).filter(|full| {
                session.subscriptions.len() < SUBSCRIPTION_LIMIT || session.subscriptions.contains_key(full)
            });
            match filter {
                Some(filter) if !refused.contains(&wanted.path) => {
                    let qos = lesser(wanted.qos, QoS::AtLeastOnce);
                    session.subscriptions.insert(filter.clone(), qos);
                    codes.push(SubscribeReasonCode::Success(qos));
                    self.sightings.note(client_id, || Seen::Subscribed { filter: wanted.path });
                    granted.push((filter, qos));
                }
                _ => {
                    info!(client_id, filter = wanted.path, "subscription refused");
                    codes.push(SubscribeReasonCode::Failure);
                }
            }
        }
        self.links.send(link, Packet::SubAck(SubAck::new(subscribe.pkid, codes)));
        for (filter, qos) in granted {
            self.deliver_retained(client_id, &filter, qos);
        }
    }

    fn unsubscribe(&mut self, link: LinkId, client_id: &str, unsubscribe: &Unsubscribe) {
        if let Some(session) = self.sessions.get_mut(client_id) {
            for path in &unsubscribe.topics {
                session.subscriptions.remove(&format!("{}{path}", session.mount));
            }
        }
        self.links.send(link, Packet::UnsubAck(UnsubAck::new(unsubscribe.pkid)));
    }

    fn retain(&mut self, full_topic: &str, payload: &Bytes, qos: QoS) {
        if payload.is_empty() {
            self.retained.remove(full_topic);
        } else if self.retained.len() < RETAINED_LIMIT || self.retained.contains_key(full_topic) {
            self.retained.insert(full_topic.to_owned(), Retained { payload: payload.clone(), qos });
        } else {
            warn!("no room for another retained message; it is delivered and not kept");
        }
    }

    fn deliver_retained(&mut self, client_id: &str, filter: &str, granted: QoS) {
        let Some(session) = self.sessions.get(client_id) else { return };
        let kept: Vec<(Message, QoS)> = self
            .retained
            .iter()
            .filter(|(full_topic, _)| topic::matches(filter, full_topic))
            .filter_map(|(full_topic, kept)| {
                let topic = topic::unmounted(&session.mount, full_topic)?.to_owned();
                let message = Message { topic, payload: kept.payload.clone(), retain: true };
                Some((message, lesser(kept.qos, granted)))
            })
            .collect();
        for (message, qos) in kept {
            self.deliver(client_id, message, qos);
        }
    }

    fn deliver(&mut self, client_id: &str, message: Message, qos: QoS) {
        let Some(session) = self.sessions.get_mut(client_id) else { return };
        if qos == QoS::AtMostOnce {
            // A broker keeps nothing for an absent client at QoS 0.
            let Some(link) = session.link else { return };
            if self.links.is_overfull(link) {
                session.dropped += 1;
                self.stats.dropped += 1;
            } else {
                self.stats.delivered += 1;
                self.links.send(link, Packet::Publish(message.publish_at_most_once()));
            }
            return;
        }
        // A full window leaves the message in the queue, and only what has to wait counts against the bound.
        if session.link.is_some()
            && session.queued() == 0
            && session.in_flight() < usize::from(self.limits.window)
        {
            session.enqueue(message, usize::MAX);
        } else if !session.enqueue(message, self.limits.queue) {
            if session.dropped == 1 {
                warn!(client_id, limit = self.limits.queue, "queue full: the oldest messages are dropped");
            }
            self.stats.dropped += 1;
        }
        self.pump(client_id);
    }

    /// Fills the window of a connected client from its queue.
    fn pump(&mut self, client_id: &str) {
        let Some(session) = self.sessions.get_mut(client_id) else { return };
        let Some(link) = session.link else { return };
        while let Some(publish) = session.next_delivery(self.limits.window) {
            self.stats.delivered += 1;
            self.sightings.note(client_id, || Seen::delivered(&publish, false));
            if self.faults.duplicate {
                self.stats.redelivered += 1;
                self.links.send(link, Packet::Publish(publish.clone()));
            }
            self.links.send(link, Packet::Publish(publish));
        }
    }
}

fn lesser(one: QoS, other: QoS) -> QoS {
    if one < other { one } else { other }
}

/// Sessions in all: enough for a simulated fleet, few enough for a laptop.
const SESSION_LIMIT: usize = 10_000;

/// Subscriptions per session; a device needs one, a platform a handful.
const SUBSCRIPTION_LIMIT: usize = 1_024;

/// Topics with a retained message.
const RETAINED_LIMIT: usize = 10_000;
