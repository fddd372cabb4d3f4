//! MQTT 5: what 3.1.1 has, and session expiry, message expiry, and reasons.

mod reason;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use iotdm_core::MAX_PAYLOAD_BYTES;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectProperties, Filter, Packet, PubAck, PubAckReason, Publish, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{error, warn};

use crate::config::{Config, Mqtt5, Protocol};
use crate::engine::{Lost, PublishId};

use super::endpoint::{CONNECT_WITHIN, Endpoint, network_options};
use super::mqtt::{
    AT_MOST_ONCE, EVENT_CAPACITY, INFLIGHT_LIMIT, OVERSIZE_LIMIT_BYTES, PACKET_LIMIT_BYTES, REQUEST_CAPACITY,
    USER_NAME, last_words, lock, what_follows,
};
use super::trouble::{self, Peer};
use super::{Connection, Link, LinkEvent, TlsError};

/// The link over MQTT 5. As with [`MqttLink`](super::MqttLink) each connection has a client and an event loop of its own.
///
/// What rumqttc 0.25.1 cannot do with MQTT 5 is in `docs/connect/mqtt5.md`: above all it passes over a DISCONNECT that
/// has no length of properties.
pub struct Mqtt5Link {
    options: MqttOptions,
    endpoint: Arc<Mutex<Endpoint>>,
    peer: Peer,
    keep_alive: Duration,
    request_expiry: Option<Duration>,
    /// A message above the usual limit came, although the broker was told of it; see [`MqttLink`](super::MqttLink).
    oversize: Arc<AtomicBool>,
    /// Somebody gives requests a longer expiry than the configuration says, and the log has it.
    told_of_expiry: Arc<AtomicBool>,
}

impl Mqtt5Link {
    /// The link that a configuration describes.
    ///
    /// # Errors
    /// [`TlsError`] for what the encryption is to be made of.
    pub fn new(config: &Config) -> Result<Self, TlsError> {
        let broker = &config.broker;
        let Mqtt5 { session_expiry, request_expiry } = match broker.protocol {
            Protocol::Mqtt5(options) => options,
            Protocol::Mqtt311 => Mqtt5::default(),
        };
        let endpoint = Endpoint::new(broker)?;
        endpoint.warn_of_another_device(&config.identity);
        let mut options = MqttOptions::new(config.identity.client_id(), endpoint.address(), endpoint.port());
        let keep_alive = broker.keep_alive.max(SHORTEST_KEEP_ALIVE);
        options
            .set_keep_alive(keep_alive)
            .set_clean_start(!broker.durable_session)
            .set_manual_acks(true)
            .set_outgoing_inflight_upper_limit(INFLIGHT_LIMIT)
            .set_connection_timeout(CONNECT_WITHIN.as_secs())
            .set_network_options(network_options())
            .set_connect_properties(properties(broker.durable_session, session_expiry));
        if let Some(token) = &config.token {
            options.set_credentials(broker.user_name.as_deref().unwrap_or(USER_NAME), token.expose());
        }
        if let Some(proxy) = endpoint.proxy() {
            options.set_proxy(proxy);
        }
        let endpoint = Arc::new(Mutex::new(endpoint));
        let (oversize, told_of_expiry) = Default::default();
        Ok(Self {
            options,
            endpoint,
            peer: Peer::of(broker),
            keep_alive,
            request_expiry,
            oversize,
            told_of_expiry,
        })
    }
}

impl std::fmt::Debug for Mqtt5Link {
    // The options hold the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mqtt5Link").field("broker", &self.options.broker_address()).finish_non_exhaustive()
    }
}

impl Link for Mqtt5Link {
    fn open(&mut self) -> Box<dyn Connection> {
        let mut options = self.options.clone();
        // For this connection alone, as with 3.1.1.
        if self.oversize.swap(false, Ordering::Relaxed) {
            options.set_max_packet_size(Some(bytes_of_packet(OVERSIZE_LIMIT_BYTES)));
        }
        options.set_transport(lock(&self.endpoint).transport());
        let (client, event_loop) = AsyncClient::new(options, REQUEST_CAPACITY);
        let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
        let submitted = Arc::default();
        let largest = Arc::new(AtomicU32::new(u32::MAX));
        let task = Poller {
            event_loop,
            endpoint: Arc::clone(&self.endpoint),
            peer: self.peer.clone(),
            events,
            keep_alive: self.keep_alive,
            request_expiry: self.request_expiry,
            session_expiry: self.options.session_expiry_interval(),
            submitted: Arc::clone(&submitted),
            on_their_way: BTreeMap::new(),
            connected: false,
            subscription: None,
            largest: Arc::clone(&largest),
            oversize: Arc::clone(&self.oversize),
            told_of_expiry: Arc::clone(&self.told_of_expiry),
        };
        let task = tokio::spawn(task.run());
        let refused = VecDeque::new();
        Box::new(Mqtt5Connection { client, receiver, submitted, refused, largest, task, broken: None })
    }
}

/// The driver's end of a connection.
struct Mqtt5Connection {
    client: AsyncClient,
    receiver: mpsc::Receiver<LinkEvent>,
    /// Publishes handed over and not yet given a packet identifier, in order.
    submitted: Arc<Mutex<VecDeque<PublishId>>>,
    /// What was not handed over, because the broker would end the connection for it.
    refused: VecDeque<LinkEvent>,
    /// The largest packet that the broker takes, in bytes.
    largest: Arc<AtomicU32>,
    task: JoinHandle<()>,
    /// Why nothing more can be handed over.
    broken: Option<&'static str>,
}

impl Mqtt5Connection {
    fn submit(&mut self, id: PublishId, topic: String, qos: QoS, payload: Bytes) {
        assert!(payload.len() <= MAX_PAYLOAD_BYTES, "what is larger is refused before it is queued");
        let mut packet = Publish::new(topic.as_str(), qos, payload.clone(), None);
        // Any number: an identifier has two bytes.
        packet.pkid = 1;
        let largest = self.largest.load(Ordering::Relaxed);
        if bytes_of_packet(packet.size()) > largest {
            let reason = format!("{} bytes, and the broker takes packets of {largest}", packet.size());
            return self.refused.push_back(LinkEvent::Refused(id, reason));
        }
        self.submitted.lock().expect("no holder of the lock panics").push_back(id);
        self.hand_over(|client| client.try_publish(topic, qos, false, payload).is_ok());
    }

    /// After one that was not taken nothing more is handed over: a gap would put the acknowledgements out of order, and
    /// give the broker's next PUBACK to another publish. `submit` says whether it was taken.
    fn hand_over(&mut self, submit: impl FnOnce(&AsyncClient) -> bool) {
        if self.broken.is_none() && !submit(&self.client) {
            self.broken = Some("the connection takes nothing more");
        }
    }
}

#[async_trait]
impl Connection for Mqtt5Connection {
    async fn next(&mut self) -> LinkEvent {
        if let Some(refused) = self.refused.pop_front() {
            return refused;
        }
        if let Some(reason) = self.broken {
            return last_words(&mut self.receiver, reason);
        }
        let ended = || LinkEvent::Lost(Lost::Other, "the connection ended".into());
        self.receiver.recv().await.unwrap_or_else(ended)
    }

    fn try_next(&mut self) -> Option<LinkEvent> {
        if let Some(refused) = self.refused.pop_front() {
            return Some(refused);
        }
        if self.broken.is_some() {
            return None;
        }
        self.receiver.try_recv().ok()
    }

    fn subscribe(&mut self, filters: &[String]) {
        let filters = filters.iter().map(|filter| Filter::new(filter.clone(), QoS::AtLeastOnce));
        self.hand_over(|client| client.try_subscribe_many(filters).is_ok());
    }

    fn acknowledge(&mut self, packet: u16) {
        let mut publish = Publish::new("", QoS::AtLeastOnce, "", None);
        publish.pkid = packet;
        self.hand_over(|client| client.try_ack(&publish).is_ok());
    }

    fn publish(&mut self, id: PublishId, topic: String, payload: Bytes) {
        self.submit(id, topic, QoS::AtLeastOnce, payload);
    }

    fn publish_once(&mut self, id: PublishId, topic: String, payload: Bytes) {
        self.submit(id, topic, QoS::AtMostOnce, payload);
    }

    fn disconnect(&mut self) {
        self.hand_over(|client| client.try_disconnect().is_ok());
    }
}

impl Drop for Mqtt5Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Mqtt5Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mqtt5Connection").field("broken", &self.broken).finish_non_exhaustive()
    }
}

/// Owns the event loop: it polls and forwards, and does nothing else, so that keep-alive never waits.
struct Poller {
    event_loop: EventLoop,
    endpoint: Arc<Mutex<Endpoint>>,
    peer: Peer,
    events: mpsc::Sender<LinkEvent>,
    keep_alive: Duration,
    request_expiry: Option<Duration>,
    /// What was asked for, in seconds.
    session_expiry: Option<u32>,
    submitted: Arc<Mutex<VecDeque<PublishId>>>,
    on_their_way: BTreeMap<u16, PublishId>,
    connected: bool,
    /// The packet identifier of the SUBSCRIBE that is not answered.
    subscription: Option<u16>,
    largest: Arc<AtomicU32>,
    oversize: Arc<AtomicBool>,
    told_of_expiry: Arc<AtomicBool>,
}

impl Poller {
    async fn run(mut self) {
        loop {
            let event = match self.event_loop.poll().await {
                Ok(Event::Incoming(packet)) => self.incoming(packet),
                Ok(Event::Outgoing(Outgoing::Publish(packet))) => {
                    let next = self.submitted.lock().expect("no holder of the lock panics").pop_front();
                    if packet == AT_MOST_ONCE {
                        next.map(LinkEvent::Published)
                    } else {
                        self.on_their_way.extend(next.map(|id| (packet, id)));
                        None
                    }
                }
                Ok(Event::Outgoing(Outgoing::Subscribe(packet))) => {
                    self.subscription = Some(packet);
                    None
                }
                Ok(Event::Outgoing(Outgoing::Disconnect)) => {
                    Some(LinkEvent::Lost(Lost::Other, "disconnected as asked".into()))
                }
                Ok(Event::Outgoing(_)) => None,
                Err(reason) => Some(self.lost(&reason).await),
            };
            let Some(event) = event else { continue };
            let last = matches!(event, LinkEvent::Lost(..));
            if self.events.send(event).await.is_err() || last {
                return;
            }
        }
    }

    fn incoming(&mut self, packet: Packet) -> Option<LinkEvent> {
        if let Some(breach) = reason::breach(&packet, self.connected, self.subscription) {
            return Some(LinkEvent::Lost(Lost::Other, breach.into()));
        }
        match packet {
            Packet::ConnAck(ack) => Some(self.connected(&ack)),
            Packet::SubAck(ack) => {
                self.subscription = None;
                let granted = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
                Some(trouble::subscribed(&ack.return_codes.iter().map(granted).collect::<Vec<_>>()))
            }
            Packet::Publish(publish) => Some(self.message(publish)),
            Packet::PubAck(ack) => self.acknowledged(&ack),
            _ => None,
        }
    }

    fn connected(&mut self, ack: &ConnAck) -> LinkEvent {
        self.connected = true;
        if let Some(properties) = &ack.properties {
            if let Some(objection) = reason::objection(properties) {
                return LinkEvent::Lost(Lost::Other, objection.into());
            }
            self.largest.store(properties.max_packet_size.unwrap_or(u32::MAX), Ordering::Relaxed);
            let asked = self.session_expiry.unwrap_or(0);
            if let Some(granted) = properties.session_expiry_interval.filter(|granted| *granted < asked) {
                warn!("the broker keeps the session for {granted} s only, once the device is gone");
            }
            // rumqttc obeys the broker, also where that is 0, for which it would send one PINGREQ after the other; and
            // longer than asked for a dead connection must not go unnoticed.
            let longest = self.keep_alive.as_secs();
            if properties.server_keep_alive.is_some_and(|told| told == 0 || u64::from(told) > longest) {
                self.event_loop.options.set_keep_alive(self.keep_alive);
            }
        }
        LinkEvent::Connected { session_present: ack.session_present }
    }

    fn message(&self, publish: Publish) -> LinkEvent {
        let remaining = publish.properties.as_ref().and_then(|properties| properties.message_expiry_interval);
        LinkEvent::Message {
            packet: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
            // What is no UTF-8 is no topic of ours, and stays none.
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
            retained: publish.retain,
            waited: remaining.and_then(|remaining| self.waited(Duration::from_secs(remaining.into()))),
        }
    }

    /// How long the broker kept a message that has so much time left.
    fn waited(&self, remaining: Duration) -> Option<Duration> {
        let given = self.request_expiry?;
        let waited = given.checked_sub(remaining);
        if waited.is_none() && !self.told_of_expiry.swap(true, Ordering::Relaxed) {
            warn!(
                "a message came that expires in {remaining:?}, and requests expire within {given:?} as this device is \
                 told: the platform must give each of them exactly that, or they look younger than they are"
            );
        }
        waited
    }

    fn acknowledged(&mut self, ack: &PubAck) -> Option<LinkEvent> {
        let id = self.on_their_way.remove(&ack.pkid)?;
        let is_taken = matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
        Some(if is_taken { LinkEvent::Published(id) } else { LinkEvent::Refused(id, reason::refusal(ack)) })
    }

    async fn lost(&mut self, reason: &ConnectionError) -> LinkEvent {
        if let Some(bytes) = reason::oversize(reason).filter(|_| self.connected) {
            error!(bytes, "the broker sent more than it was told to; {}", what_follows(bytes));
            self.oversize.store(true, Ordering::Relaxed);
        }
        let advice = lock(&self.endpoint).advice(reason);
        let (lost, text) = reason::explain(reason, self.connected);
        let text = match advice {
            Some(advice) => advice,
            None if self.connected => text,
            None => reason::who_answers(reason, &self.peer).await.unwrap_or(text),
        };
        LinkEvent::Lost(lost, text)
    }
}

/// What CONNECT says beside the client's name.
fn properties(durable_session: bool, session_expiry: Option<Duration>) -> ConnectProperties {
    // Zero would end the session with the connection.
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(NEVER_EXPIRES).max(1);
    ConnectProperties {
        session_expiry_interval: durable_session.then(|| session_expiry.map_or(NEVER_EXPIRES, seconds)),
        receive_maximum: Some(RECEIVE_MAXIMUM),
        max_packet_size: Some(bytes_of_packet(PACKET_LIMIT_BYTES)),
        // rumqttc hands messages over as they come, and an alias in place of the topic with them.
        topic_alias_max: Some(0),
        ..ConnectProperties::new()
    }
}

fn bytes_of_packet(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Session expiry that means never (MQTT 5 §3.1.2.11.2).
const NEVER_EXPIRES: u32 = u32::MAX;

/// How many messages the broker may have sent without our acknowledgement: as many as may wait for the driver.
const RECEIVE_MAXIMUM: u16 = 128;

/// The shortest keep-alive that rumqttc takes.
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
