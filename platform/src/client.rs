//! The platform's MQTT connection: rumqttc stays behind this module.
//!
//! Each connection has a client of its own, because rumqttc's reconnect state forgets and reorders. What was published
//! and not acknowledged is published again, in order, before anything that waited: the order per device holds.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::mqttbytes::v4::{Packet, SubscribeReasonCode};
use rumqttc::{AsyncClient, ConnectionError, EventLoop, MqttOptions, NetworkOptions, Outgoing, QoS};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// What the connection is made for.
pub(crate) trait Peer: Send + Sync + 'static {
    /// Every subscription is granted; what is published reaches devices from here on.
    fn connected(&self);
    /// The connection, or an attempt at one, has ended.
    fn disconnected(&self, reason: &str);
    /// A message came.
    fn received(&self, topic: &str, payload: &Bytes);
    /// The next message to send.
    fn next(&self) -> Option<Outbound>;
    /// Waits until there may be another message to send.
    fn wait(&self) -> impl Future<Output = ()> + Send;
}

/// A message to send.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
}

/// How to connect.
#[derive(Clone, Debug)]
pub(crate) struct ClientOptions {
    pub(crate) broker: SocketAddr,
    pub(crate) client_id: String,
    pub(crate) credentials: Option<(String, String)>,
    pub(crate) filters: Vec<String>,
}

/// Stays connected until `stop`, then takes its leave with a DISCONNECT.
pub(crate) async fn run(
    options: ClientOptions,
    peer: Arc<impl Peer>,
    stop: CancellationToken,
    mut random: fastrand::Rng,
) {
    let mut unacknowledged = VecDeque::new();
    let mut failures = 0_u32;
    while !stop.is_cancelled() {
        let mut connection = Connection::open(&options, std::mem::take(&mut unacknowledged));
        let end = connection.serve(&options.filters, &*peer, &stop).await;
        if stop.is_cancelled() {
            connection.leave().await;
            return;
        }
        failures = if connection.subscribed { 0 } else { failures.saturating_add(1) };
        peer.disconnected(&end);
        unacknowledged = connection.into_unacknowledged();
        let delay = backoff(failures, &mut random);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(delay) => {}
        }
    }
}

/// One connection.
struct Connection {
    client: AsyncClient,
    events: mpsc::Receiver<Result<rumqttc::Event, ConnectionError>>,
    poller: JoinHandle<()>,
    /// What is to be published again, from earlier connections.
    again: VecDeque<Outbound>,
    in_flight: VecDeque<InFlight>,
    submitted: u64,
    pending_subscriptions: usize,
    subscribed: bool,
}

struct InFlight {
    message: Outbound,
    /// Its place among the QoS 1 messages of this connection.
    number: u64,
    /// Known once it was written.
    packet_id: Option<u16>,
}

impl Connection {
    fn open(options: &ClientOptions, again: VecDeque<Outbound>) -> Self {
        let mut mqtt =
            MqttOptions::new(&options.client_id, options.broker.ip().to_string(), options.broker.port());
        mqtt.set_clean_session(false)
            .set_keep_alive(KEEP_ALIVE)
            .set_inflight(WINDOW)
            .set_max_packet_size(PACKET_LIMIT_BYTES, PACKET_LIMIT_BYTES);
        if let Some((user, password)) = &options.credentials {
            mqtt.set_credentials(user, password);
        }
        let (client, mut event_loop) = AsyncClient::new(mqtt, CHANNEL_LIMIT);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        event_loop.set_network_options(network);
        let (sender, events) = mpsc::channel(CHANNEL_LIMIT);
        let poller = tokio::spawn(poll(event_loop, sender));
        Self {
            client,
            events,
            poller,
            again,
            in_flight: VecDeque::new(),
            submitted: 0,
            pending_subscriptions: options.filters.len(),
            subscribed: false,
        }
    }

    /// Serves until the connection ends, and says why it did.
    async fn serve(&mut self, filters: &[String], peer: &impl Peer, stop: &CancellationToken) -> String {
        loop {
            if self.subscribed {
                self.send(peer);
            }
            let may_send = self.subscribed && self.has_room();
            tokio::select! {
                biased;
                () = stop.cancelled() => return "the platform stops".into(),
                event = self.events.recv() => match event {
                    Some(Ok(event)) => if let Err(reason) = self.handle(event, filters, peer) {
                        return reason;
                    },
                    Some(Err(error)) => return error.to_string(),
                    None => return "the client has stopped".into(),
                },
                () = peer.wait(), if may_send => {}
            }
        }
    }

    fn handle(&mut self, event: rumqttc::Event, filters: &[String], peer: &impl Peer) -> Result<(), String> {
        match event {
            rumqttc::Event::Incoming(Packet::ConnAck(_)) => {
                for filter in filters {
                    self.client.try_subscribe(filter, QoS::AtLeastOnce).map_err(|error| error.to_string())?;
                }
            }
            rumqttc::Event::Incoming(Packet::SubAck(ack)) => {
                if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                    return Err("the broker refuses the subscription".into());
                }
                self.pending_subscriptions = self.pending_subscriptions.saturating_sub(1);
                if self.pending_subscriptions == 0 {
                    self.subscribed = true;
                    peer.connected();
                }
            }
            rumqttc::Event::Incoming(Packet::Publish(publish)) => {
                peer.received(&publish.topic, &publish.payload);
            }
            rumqttc::Event::Incoming(Packet::PubAck(ack)) => {
                self.in_flight.retain(|sent| sent.packet_id != Some(ack.pkid));
            }
            // Packet id 0 is a message at QoS 0, which nobody acknowledges.
            rumqttc::Event::Outgoing(Outgoing::Publish(packet_id)) if packet_id != 0 => {
                if let Some(sent) = self.in_flight.iter_mut().find(|sent| sent.packet_id.is_none()) {
                    sent.packet_id = Some(packet_id);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends what may be sent.
    fn send(&mut self, peer: &impl Peer) {
        while self.has_room() {
            let Some(message) = self.again.pop_front().or_else(|| peer.next()) else { return };
            let Outbound { topic, payload, qos, retain } = message.clone();
            // The channel is larger than the window; if it is full all the same, the connection is about to end.
            if self.client.try_publish(topic, qos, retain, payload).is_err() {
                self.again.push_front(message);
                return;
            }
            if qos == QoS::AtLeastOnce {
                self.submitted += 1;
                self.in_flight.push_back(InFlight { message, number: self.submitted, packet_id: None });
            }
        }
    }

    /// Whether another message can be submitted without meeting the packet id of an unacknowledged one, from which
    /// rumqttc does not recover.
    fn has_room(&self) -> bool {
        self.in_flight.front().is_none_or(|oldest| self.submitted - oldest.number + 1 < u64::from(WINDOW))
    }

    async fn leave(mut self) {
        if self.client.try_disconnect().is_ok() {
            // The event loop ends with the DISCONNECT; what comes before it is of no use any more.
            let drained = async { while self.events.recv().await.is_some() {} };
            let _ = timeout(LEAVE_LIMIT, drained).await;
        }
    }

    fn into_unacknowledged(mut self) -> VecDeque<Outbound> {
        let mut messages: VecDeque<_> = self.in_flight.drain(..).map(|sent| sent.message).collect();
        messages.append(&mut self.again);
        messages
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

/// Only polls and forwards, so that the connection's own requests can never wait for themselves.
async fn poll(mut event_loop: EventLoop, events: mpsc::Sender<Result<rumqttc::Event, ConnectionError>>) {
    loop {
        let outcome = event_loop.poll().await;
        let last = matches!(&outcome, Err(_) | Ok(rumqttc::Event::Outgoing(Outgoing::Disconnect)));
        if events.send(outcome).await.is_err() || last {
            return;
        }
    }
}

/// Doubles from 50 ms to 5 s; up to half of it is cut at random, so that clients do not return in step.
fn backoff(failures: u32, random: &mut fastrand::Rng) -> Duration {
    let longest = BACKOFF_START.saturating_mul(1 << failures.min(10)).min(BACKOFF_LIMIT);
    longest.mul_f64(random.f64().mul_add(-0.5, 1.0))
}

/// Silence after which the connection is checked: half of what brokers commonly allow, for laptops that sleep.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Messages sent and unacknowledged: far above what one device answers at once, far below the packet ids there are.
const WINDOW: u16 = 256;

/// Places between this task and rumqttc, in both directions: more than the window, so that a message never waits.
const CHANNEL_LIMIT: usize = 1_024;

/// Largest packet in bytes: the service's payload (`docs/protocol.md` §1.5), the longest topic, and headers.
const PACKET_LIMIT_BYTES: usize = 200_000;

/// How long the DISCONNECT may take.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);

/// First delay before another connection.
const BACKOFF_START: Duration = Duration::from_millis(50);

/// Longest delay before another connection: a person at a sandbox is waiting.
const BACKOFF_LIMIT: Duration = Duration::from_secs(5);
