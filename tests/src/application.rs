//! The platform's side of a plain broker, reduced to messages: it decides nothing and tracks nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use iotdm_core::{Topic, UpRoute};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Packet, QoS};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::within;

/// An MQTT client that sees what devices publish, in order.
#[derive(Debug)]
pub struct Application {
    client: AsyncClient,
    published: mpsc::UnboundedReceiver<Published>,
    subscriptions: watch::Receiver<u64>,
    submitted: AtomicU64,
    acknowledgements: watch::Receiver<u64>,
    poller: JoinHandle<()>,
    prefix: String,
    seen: Seen,
}

/// How an application reaches the broker, and its devices there.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The port on 127.0.0.1.
    pub port: u16,
    /// User name and password, where the broker wants them.
    pub credentials: Option<(String, String)>,
    /// What stands before the topics of the device that the application is for.
    pub prefix: String,
    /// Whether the broker keeps what devices publish while the application is away.
    pub durable: bool,
}

/// What a device published.
#[derive(Clone, Debug)]
pub struct Published {
    /// Where.
    pub topic: String,
    /// What; `null` when it is not JSON.
    pub payload: Value,
}

/// What [`Application::attend`] has taken.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How many manage requests.
    pub manages: usize,
    /// The responses by the text of their reqId, in order.
    pub responses: BTreeMap<String, Vec<Value>>,
}

impl Application {
    /// Connects to 127.0.0.1 and subscribes to everything that devices publish.
    ///
    /// # Panics
    /// The broker does not take it.
    pub async fn connect(port: u16) -> Self {
        Self::connect_to(Access { port, ..Access::default() }).await
    }

    /// Connects and subscribes to everything that devices publish below the prefix.
    ///
    /// # Panics
    /// The broker does not take it.
    pub async fn connect_to(access: Access) -> Self {
        let Access { port, credentials, prefix, durable } = access;
        let mut options = MqttOptions::new("a:org001:application", "127.0.0.1", port);
        if let Some((user, password)) = credentials {
            options.set_credentials(user, password);
        }
        options
            .set_clean_session(!durable)
            .set_inflight(WINDOW)
            .set_max_packet_size(PACKET_LIMIT_BYTES, PACKET_LIMIT_BYTES);
        let (client, mut event_loop) = AsyncClient::new(options, CHANNEL_LIMIT);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        event_loop.set_network_options(network);
        let (sender, published) = mpsc::unbounded_channel();
        let (subscribed, subscriptions) = watch::channel(0);
        let (acknowledged, acknowledgements) = watch::channel(0);
        let poller = Poller {
            client: client.clone(),
            prefix: prefix.clone(),
            published: sender,
            subscribed,
            acknowledged,
        };
        let application = Self {
            client,
            published,
            subscriptions,
            submitted: AtomicU64::new(0),
            acknowledgements,
            poller: tokio::spawn(poller.run(event_loop)),
            prefix,
            seen: Seen::default(),
        };
        application.subscribed(1).await;
        application
    }

    /// Waits until it has subscribed this many times: once more after each broken connection.
    pub async fn subscribed(&self, times: u64) {
        let mut subscriptions = self.subscriptions.clone();
        let subscribed = subscriptions.wait_for(|count| *count >= times);
        within("subscription of the application", subscribed)
            .await
            .expect("the poller lives as long as this");
    }

    /// How many times it has subscribed.
    pub fn subscriptions(&self) -> u64 {
        *self.subscriptions.borrow()
    }

    /// Publishes at QoS 1.
    ///
    /// # Panics
    /// More messages wait than the test can have meant.
    pub fn publish(&self, topic: &str, payload: impl Into<Bytes>) {
        let payload: Bytes = payload.into();
        let topic = format!("{}{topic}", self.prefix);
        let result = self.client.try_publish(topic, QoS::AtLeastOnce, false, payload);
        result.expect("fewer messages wait than the channel holds");
        self.submitted.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until the broker has all that was published here, on one connection.
    pub async fn acknowledged(&self) {
        let submitted = self.submitted.load(Ordering::Relaxed);
        let mut acknowledgements = self.acknowledgements.clone();
        let acknowledged = acknowledgements.wait_for(|count| *count == submitted);
        within("acknowledgement of the broker", acknowledged)
            .await
            .expect("the poller lives as long as this");
    }

    /// Asks for a custom action of the bundle `bench`.
    pub fn bench(&self, action: &str, req_id: &str, pad: &str) {
        self.publish(&format!("iotdm-1/mgmt/custom/bench/{action}"), bench_request(req_id, pad));
    }

    /// The next message. Cancel safe.
    pub async fn next(&mut self) -> Published {
        within("message of the device", self.published.recv())
            .await
            .expect("the poller lives as long as this")
    }

    /// Takes the next message; a request of the device is answered with 200. Cancel safe.
    pub async fn take(&mut self) {
        let message = self.next().await;
        self.see(message);
    }

    /// Takes messages for this long.
    pub async fn attend_for(&mut self, span: Duration) {
        let end = Instant::now() + span;
        while let Ok(Some(message)) = timeout_at(end, self.published.recv()).await {
            self.see(message);
        }
    }

    fn see(&mut self, Published { topic, payload }: Published) {
        match Topic::<UpRoute>::parse(&topic).map(|topic| topic.route) {
            Some(UpRoute::Response) => {
                let req_id =
                    payload["reqId"].as_str().map_or_else(|| payload["reqId"].to_string(), Into::into);
                self.seen.responses.entry(req_id).or_default().push(payload);
            }
            route => {
                self.seen.manages += usize::from(route == Some(UpRoute::Manage));
                let response = json!({"rc": 200, "reqId": payload["reqId"]});
                self.publish("iotdm-1/response", response.to_string());
            }
        }
    }

    /// Takes messages until something holds of what was seen.
    pub async fn attend(&mut self, holds: impl Fn(&Seen) -> bool) -> &Seen {
        while !holds(&self.seen) {
            self.take().await;
        }
        &self.seen
    }

    /// The first response with this reqId.
    pub async fn response(&mut self, req_id: &str) -> Value {
        self.attend(|seen| seen.responses.contains_key(req_id)).await.responses[req_id][0].clone()
    }

    /// What was taken until here.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

/// A request of `bench/echo` or `bench/once`.
pub fn bench_request(req_id: &str, pad: &str) -> String {
    let fields = json!([{"field": "seq", "value": "1"}, {"field": "pad", "value": pad}]);
    json!({"d": {"fields": fields}, "reqId": req_id}).to_string()
}

/// Polls and forwards.
struct Poller {
    client: AsyncClient,
    prefix: String,
    published: mpsc::UnboundedSender<Published>,
    subscribed: watch::Sender<u64>,
    acknowledged: watch::Sender<u64>,
}

impl Poller {
    async fn run(self, mut event_loop: EventLoop) {
        loop {
            match event_loop.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    let result =
                        self.client.try_subscribe(format!("{}iotdevice-1/#", self.prefix), QoS::AtLeastOnce);
                    result.expect("fewer messages wait than the channel holds");
                }
                Ok(Event::Incoming(Packet::SubAck(_))) => self.subscribed.send_modify(|count| *count += 1),
                Ok(Event::Incoming(Packet::PubAck(_))) => self.acknowledged.send_modify(|count| *count += 1),
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    let payload = serde_json::from_slice(&publish.payload).unwrap_or_default();
                    let topic = publish.topic.strip_prefix(&self.prefix).unwrap_or(&publish.topic).into();
                    let message = Published { topic, payload };
                    if self.published.send(message).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                // rumqttc tries again at once, and a broker that is away would be asked all the time.
                Err(_) => tokio::time::sleep(RECONNECT_PAUSE).await,
            }
        }
    }
}

/// Messages sent and unacknowledged: more than a test has at once.
const WINDOW: u16 = 4096;

/// Messages that may wait to be sent: more than a test sends at once.
const CHANNEL_LIMIT: usize = 8192;

/// Largest packet in bytes: also one above the service's limit, to be refused by the device.
const PACKET_LIMIT_BYTES: usize = 1024 * 1024;

/// The pause before another attempt to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
