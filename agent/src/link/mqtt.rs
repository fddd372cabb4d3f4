use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use iotdm_core::MAX_PAYLOAD_BYTES;
use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::mqttbytes::v4::{Packet, SubAck, SubscribeReasonCode};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Publish, QoS, StateError,
    SubscribeFilter,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::error;

use crate::config::Config;
use crate::engine::{Lost, PublishId};

use super::endpoint::{Endpoint, network_options};
use super::trouble::{self, Peer};
use super::{Connection, Link, LinkEvent, TlsError};

/// The real link: MQTT 3.1.1 over TCP or WebSocket, with or without TLS.
///
/// rumqttc's own reconnecting drops unacknowledged publishes, sends stale acknowledgements and has no backoff, so each
/// connection gets a client and an event loop of its own, and both end with it.
pub struct MqttLink {
    options: MqttOptions,
    endpoint: Arc<Mutex<Endpoint>>,
    peer: Peer,
    /// A message above the usual limit came: it is taken once and acknowledged, or it would come back for ever.
    oversize: Arc<AtomicBool>,
}

impl MqttLink {
    /// The link that a configuration describes.
    pub fn new(config: &Config) -> Result<Self, TlsError> {
        let broker = &config.broker;
        let endpoint = Endpoint::new(broker)?;
        endpoint.warn_of_another_device(&config.identity);
        let mut options = MqttOptions::new(config.identity.client_id(), endpoint.address(), endpoint.port());
        options
            .set_keep_alive(broker.keep_alive)
            .set_clean_session(!broker.durable_session)
            .set_manual_acks(true)
            .set_inflight(INFLIGHT_LIMIT)
            .set_max_packet_size(PACKET_LIMIT_BYTES, PACKET_LIMIT_BYTES);
        if config.identity.is_quickstart() {
            options.set_clean_session(true);
        } else if let Some(token) = &config.token {
            options.set_credentials(broker.user_name.as_deref().unwrap_or(USER_NAME), token.expose());
        }
        if let Some(proxy) = endpoint.proxy() {
            options.set_proxy(proxy);
        }
        let endpoint = Arc::new(Mutex::new(endpoint));
        Ok(Self { options, endpoint, peer: Peer::of(broker), oversize: Arc::default() })
    }
}

impl std::fmt::Debug for MqttLink {
    // The options hold the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MqttLink").field("broker", &self.options.broker_address()).finish_non_exhaustive()
    }
}

impl Link for MqttLink {
    fn open(&mut self) -> Box<dyn Connection> {
        let mut options = self.options.clone();
        // For this connection alone: a broker that only says that much is to come must not make room for it for ever.
        if self.oversize.swap(false, Ordering::Relaxed) {
            options.set_max_packet_size(OVERSIZE_LIMIT_BYTES, PACKET_LIMIT_BYTES);
        }
        options.set_transport(lock(&self.endpoint).transport());
        let (client, mut event_loop) = AsyncClient::new(options, REQUEST_CAPACITY);
        event_loop.set_network_options(network_options());

        let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
        let submitted = Arc::default();
        let task = Poller {
            event_loop,
            endpoint: Arc::clone(&self.endpoint),
            events,
            peer: self.peer.clone(),
            connected: false,
            submitted: Arc::clone(&submitted),
            subscription: None,
            oversize: Arc::clone(&self.oversize),
        };
        let task = tokio::spawn(task.run());
        Box::new(MqttConnection { client, receiver, submitted, task, broken: None })
    }
}

/// The driver's end of a connection.
struct MqttConnection {
    client: AsyncClient,
    receiver: mpsc::Receiver<LinkEvent>,
    /// Publishes handed over and not yet given a packet identifier, in order.
    submitted: Arc<Mutex<VecDeque<PublishId>>>,
    /// What was asked for in SUBSCRIBE.
    task: JoinHandle<()>,
    /// Why nothing more can be handed over.
    broken: Option<&'static str>,
}

impl MqttConnection {
    fn submit(&mut self, id: PublishId, topic: String, qos: QoS, payload: Bytes) {
        assert!(payload.len() <= MAX_PAYLOAD_BYTES, "what is larger is refused before it is queued");
        self.submitted.lock().expect("no holder of the lock panics").push_back(id);
        self.hand_over(|client| client.try_publish(topic, qos, false, payload));
    }

    /// After one that was not taken nothing more is handed over: a gap would put the acknowledgements out of order, and
    /// give the broker's next PUBACK to another publish.
    fn hand_over(&mut self, submit: impl FnOnce(&AsyncClient) -> Result<(), rumqttc::ClientError>) {
        if self.broken.is_none() && submit(&self.client).is_err() {
            self.broken = Some("the connection takes nothing more");
        }
    }
}

#[async_trait]
impl Connection for MqttConnection {
    async fn next(&mut self) -> LinkEvent {
        if let Some(reason) = self.broken {
            return last_words(&mut self.receiver, reason);
        }
        let ended = || LinkEvent::Lost(Lost::Other, "the connection ended".into());
        self.receiver.recv().await.unwrap_or_else(ended)
    }

    fn try_next(&mut self) -> Option<LinkEvent> {
        if self.broken.is_some() {
            return None;
        }
        self.receiver.try_recv().ok()
    }

    fn subscribe(&mut self, filters: &[String]) {
        let filters = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
        self.hand_over(|client| client.try_subscribe_many(filters));
    }

    fn acknowledge(&mut self, packet: u16) {
        let mut publish = Publish::new("", QoS::AtLeastOnce, "");
        publish.pkid = packet;
        self.hand_over(|client| client.try_ack(&publish));
    }

    fn publish(&mut self, id: PublishId, topic: String, payload: Bytes) {
        self.submit(id, topic, QoS::AtLeastOnce, payload);
    }

    fn publish_once(&mut self, id: PublishId, topic: String, payload: Bytes) {
        self.submit(id, topic, QoS::AtMostOnce, payload);
    }

    fn disconnect(&mut self) {
        self.hand_over(AsyncClient::try_disconnect);
    }
}

impl Drop for MqttConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for MqttConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MqttConnection").field("broken", &self.broken).finish_non_exhaustive()
    }
}

/// Owns the event loop: it polls and forwards, and does nothing else, so that keep-alive never waits.
struct Poller {
    event_loop: EventLoop,
    endpoint: Arc<Mutex<Endpoint>>,
    events: mpsc::Sender<LinkEvent>,
    peer: Peer,
    /// Whether CONNACK came.
    connected: bool,
    submitted: Arc<Mutex<VecDeque<PublishId>>>,
    /// The packet identifier of the SUBSCRIBE that is not answered.
    subscription: Option<u16>,
    oversize: Arc<AtomicBool>,
}

impl Poller {
    async fn run(mut self) {
        let mut on_their_way: BTreeMap<u16, PublishId> = BTreeMap::new();
        loop {
            let event = match self.event_loop.poll().await {
                Ok(Event::Incoming(packet)) => self.incoming(packet, &mut on_their_way),
                Ok(Event::Outgoing(Outgoing::Publish(packet))) => {
                    let next = self.submitted.lock().expect("no holder of the lock panics").pop_front();
                    if packet == AT_MOST_ONCE {
                        next.map(LinkEvent::Published)
                    } else {
                        on_their_way.extend(next.map(|id| (packet, id)));
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

    fn incoming(&mut self, packet: Packet, on_their_way: &mut BTreeMap<u16, PublishId>) -> Option<LinkEvent> {
        match packet {
            Packet::ConnAck(ack) => {
                self.connected = true;
                Some(LinkEvent::Connected { session_present: ack.session_present })
            }
            Packet::SubAck(ack) => Some(self.subscribed(&ack)),
            Packet::Publish(publish) => Some(LinkEvent::Message {
                packet: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
                topic: publish.topic,
                payload: publish.payload,
                retained: publish.retain,
                waited: None,
            }),
            Packet::PubAck(ack) => on_their_way.remove(&ack.pkid).map(LinkEvent::Published),
            _ => None,
        }
    }

    fn subscribed(&mut self, ack: &SubAck) -> LinkEvent {
        if self.subscription.take() != Some(ack.pkid) {
            return LinkEvent::Lost(Lost::Other, "the broker sent a SUBACK that nobody asked for".into());
        }
        let granted: Vec<bool> =
            ack.return_codes.iter().map(|code| *code != SubscribeReasonCode::Failure).collect();
        trouble::subscribed(&granted)
    }

    async fn lost(&mut self, reason: &ConnectionError) -> LinkEvent {
        if self.connected
            && let ConnectionError::MqttState(StateError::Deserialization(
                PacketError::PayloadSizeLimitExceeded(bytes),
            )) = reason
        {
            error!(bytes, "the broker sent more than a message may hold; {}", what_follows(*bytes));
            self.oversize.store(true, Ordering::Relaxed);
        }
        let kind = trouble::kind(reason, self.connected);
        let advice = lock(&self.endpoint).advice(reason);
        let text = match advice {
            Some(advice) => advice,
            None => self.peer.explain(reason, self.connected).await,
        };
        LinkEvent::Lost(kind, text)
    }
}

/// Why a connection that takes nothing more is lost. When the poller has ended, it has left why; what came before that is
/// of no use any more.
pub(super) fn last_words(receiver: &mut mpsc::Receiver<LinkEvent>, otherwise: &str) -> LinkEvent {
    let mut left = std::iter::from_fn(|| receiver.try_recv().ok());
    let last = left.find(|event| matches!(event, LinkEvent::Lost(..)));
    last.unwrap_or_else(|| LinkEvent::Lost(Lost::Other, otherwise.into()))
}

/// What becomes of a message of so many bytes, which is above the usual limit.
pub(super) fn what_follows(bytes: usize) -> &'static str {
    if bytes <= OVERSIZE_LIMIT_BYTES {
        "it will be acknowledged and dropped"
    } else {
        "remove it from this device's queue on the broker"
    }
}

pub(super) fn lock(endpoint: &Mutex<Endpoint>) -> MutexGuard<'_, Endpoint> {
    endpoint.lock().expect("no holder of the lock panics")
}

/// The only user name that the service knows (`docs/protocol.md` §1.4).
pub(super) const USER_NAME: &str = "use-token-auth";

/// Largest packet either way, in bytes: the largest payload, the longest topic, and the header.
pub(super) const PACKET_LIMIT_BYTES: usize = 200_000;

/// Largest packet that is taken in order to be dropped, in bytes. A larger one would be a danger to a small device's
/// memory: it stays on the broker, and each connection ends at it.
pub(super) const OVERSIZE_LIMIT_BYTES: usize = 16 * 1024 * 1024;

/// What rumqttc tells as the packet identifier of a publish at QoS 0, which has none.
pub(super) const AT_MOST_ONCE: u16 = 0;

/// How many publishes rumqttc may have on their way. The engine's window is smaller, so that it never refuses one.
pub(super) const INFLIGHT_LIMIT: u16 = 100;

/// How many acknowledgements and publishes may wait for the event loop: more than any broker's window and ours.
pub(super) const REQUEST_CAPACITY: usize = 8192;

/// How many events may wait for the driver: with packets of [`PACKET_LIMIT_BYTES`] 25.6 MB. Beyond it nothing more is
/// read, and TCP slows the broker down.
pub(super) const EVENT_CAPACITY: usize = 128;

#[cfg(test)]
mod tests {
    use tokio_test::task::spawn;
    use tokio_test::{assert_pending, assert_ready};

    use super::*;

    /// A connection whose poller is the test.
    fn connection() -> (MqttConnection, mpsc::Sender<LinkEvent>) {
        let (client, _) = AsyncClient::new(MqttOptions::new("d:org001:lamp:lamp1", "127.0.0.1", 1), 1);
        let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
        let task = tokio::spawn(std::future::pending());
        let connection = MqttConnection { client, receiver, submitted: Arc::default(), task, broken: None };
        (connection, events)
    }

    /// The driver drops `next` whenever something else happens first.
    #[tokio::test]
    async fn an_event_is_not_lost_with_the_wait_for_it() {
        let (mut connection, events) = connection();
        let mut first = spawn(connection.next());
        assert_pending!(first.poll());
        events.send(LinkEvent::Connected { session_present: true }).await.unwrap();
        assert!(first.is_woken());
        drop(first);

        let mut second = spawn(connection.next());
        let event = assert_ready!(second.poll());
        assert!(matches!(event, LinkEvent::Connected { session_present: true }), "{event:?}");
    }

    #[tokio::test]
    async fn the_end_of_the_poller_is_the_loss_of_the_connection() {
        let (mut connection, events) = connection();
        let mut next = spawn(connection.next());
        assert_pending!(next.poll());
        drop(events);
        assert!(next.is_woken());
        let event = assert_ready!(next.poll());
        assert!(matches!(event, LinkEvent::Lost(Lost::Other, _)), "{event:?}");
    }

    /// The driver may hand something over after the poller has met the end and before it was told of it.
    #[tokio::test]
    async fn the_reason_that_the_poller_left_is_told_and_not_that_it_takes_nothing_more() {
        let (mut connection, events) = connection();
        events.send(LinkEvent::Connected { session_present: true }).await.unwrap();
        events.send(LinkEvent::Lost(Lost::Closed, "closed".into())).await.unwrap();
        connection.broken = Some("the connection takes nothing more");
        assert!(connection.try_next().is_none());
        let event = connection.next().await;
        assert!(matches!(&event, LinkEvent::Lost(Lost::Closed, reason) if reason == "closed"), "{event:?}");
    }

    /// What is handed over behind a gap would take the acknowledgement of what is missing.
    #[tokio::test]
    async fn after_something_was_not_taken_nothing_follows_it() {
        let (mut connection, _events) = connection();
        let (client, mut event_loop) =
            AsyncClient::new(MqttOptions::new("d:org001:lamp:lamp1", "127.0.0.1", 1), 1);
        connection.client = client;
        let mut publish = |id| connection.publish(PublishId(id), "iotdevice-1/response".into(), Bytes::new());
        publish(1);
        publish(2);
        event_loop.clean();
        publish(3);
        event_loop.clean();
        assert_eq!(event_loop.pending.len(), 1);
        assert!(matches!(connection.next().await, LinkEvent::Lost(Lost::Other, _)));
    }
}
