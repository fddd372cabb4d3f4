use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use iotdm_core::{Code, EventTopic, Qos, Route, Subject, Topic, UpRoute};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::engine::{Lost, PublishId};
use crate::link::{Link, LinkEvent};

use super::link::MemoryLink;

mod session;

use self::session::{Inner, Message};
pub(super) use self::session::{Passed, Witness};

/// The other side of a test: a durable session, and somebody who sends and sees. It tracks nothing.
///
/// Manage and reports are answered with 200 unless [`answer`](Self::answer) says otherwise.
#[derive(Clone, Debug)]
pub struct Platform {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<()>,
}

/// What the device published.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// What for; `None` for a topic that the protocol does not have.
    pub route: Option<UpRoute>,
    /// The topic.
    pub topic: String,
    /// The payload; `null` when it is not JSON.
    pub body: Value,
    /// The payload as it came.
    pub payload: Bytes,
    /// How often it arrives.
    pub qos: Qos,
}

impl Default for Platform {
    fn default() -> Self {
        Self::new()
    }
}

impl Platform {
    /// A platform that no device has connected to.
    pub fn new() -> Self {
        Self { inner: Arc::default(), changed: watch::Sender::new(()) }
    }

    /// The device's way to this platform.
    pub fn link(&self) -> impl Link + 'static {
        MemoryLink { platform: self.clone() }
    }

    /// Sends a request at QoS 1; it waits here while the device is away. What is sent before the device's first
    /// connection is lost, as on a broker: there is no session to keep it.
    pub fn send(&self, route: Route, body: Value) {
        self.send_raw(&Topic::own(route).to_string(), body.to_string());
    }

    /// Sends a command as an application would; it waits here while the device is away.
    pub fn command(&self, id: &str, format: &str, payload: impl Into<Bytes>) {
        self.send_raw(&Topic::own(Route::command(id, format)).to_string(), payload);
    }

    /// Sends a request to a device that a gateway speaks for, or to the gateway itself, at QoS 1.
    pub fn send_to(&self, device: &Subject, route: Route, body: Value) {
        self.send_raw(&Topic { subject: device.clone(), route }.to_string(), body.to_string());
    }

    /// The bodies of everything that was published for this device there.
    pub fn published_for(&self, device: &Subject, route: UpRoute) -> Vec<Value> {
        let topic = Topic { subject: device.clone(), route }.to_string();
        let everything = self.everything();
        everything.into_iter().filter(|item| item.topic == topic).map(|item| item.body).collect()
    }

    /// Sends any bytes on any topic at QoS 1.
    pub fn send_raw(&self, topic: &str, payload: impl Into<Bytes>) {
        self.send_oddly(topic, payload, true, false);
    }

    /// Sends any bytes at QoS 0, or as a message that the broker had retained.
    pub fn send_oddly(&self, topic: &str, payload: impl Into<Bytes>, at_least_once: bool, retained: bool) {
        let sent = Instant::now();
        self.enqueue(Message { topic: topic.into(), payload: payload.into(), at_least_once, retained, sent });
    }

    /// How requests of the device are answered: with a code, or with silence.
    pub fn answer(&self, route: UpRoute, code: Option<Code>) {
        self.lock().answers.insert(route, code);
    }

    /// The next response with this reqId that was not yet returned here.
    ///
    /// # Panics
    /// When nothing at all happens for a week of the test's clock: on the paused clock that is at once.
    pub async fn response(&self, req_id: &str) -> Value {
        let mut changes = self.changed.subscribe();
        loop {
            let all = self.responses(req_id);
            {
                let mut inner = self.lock();
                let seen = inner.seen.entry(req_id.into()).or_default();
                if let Some(response) = all.get(*seen) {
                    *seen += 1;
                    return response.clone();
                }
            }
            changed(&mut changes).await;
        }
    }

    /// All responses with this reqId.
    pub fn responses(&self, req_id: &str) -> Vec<Value> {
        self.published(UpRoute::Response).into_iter().filter(|body| body["reqId"] == req_id).collect()
    }

    /// The bodies of everything that the device published there.
    pub fn published(&self, route: UpRoute) -> Vec<Value> {
        let inner = self.lock();
        inner
            .published
            .iter()
            .filter(|item| item.route == Some(route))
            .map(|item| item.body.clone())
            .collect()
    }

    /// The events that the device published, in order.
    pub fn events(&self) -> Vec<Published> {
        let inner = self.lock();
        inner.published.iter().filter(|item| EventTopic::parse(&item.topic).is_some()).cloned().collect()
    }

    /// Everything that the device published, in order.
    pub fn everything(&self) -> Vec<Published> {
        self.lock().published.clone()
    }

    /// Waits until something holds; looked at after every event.
    ///
    /// # Panics
    /// When nothing at all happens for a week of the test's clock.
    pub async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let mut changes = self.changed.subscribe();
        while !holds(self) {
            changed(&mut changes).await;
        }
    }

    /// Waits until the device has published this many manage requests in all.
    pub async fn managed(&self, times: usize) {
        self.until(|platform| platform.published(UpRoute::Manage).len() >= times).await;
    }

    /// Waits until the device has acknowledged every message.
    pub async fn drained(&self) {
        self.until(|platform| platform.unacknowledged() == 0).await;
    }

    /// How many messages the device has not acknowledged, waiting ones included.
    pub fn unacknowledged(&self) -> usize {
        let inner = self.lock();
        inner.queue.len() + inner.in_flight.len()
    }

    /// How many messages the device has acknowledged.
    pub fn acknowledgements(&self) -> u64 {
        self.lock().acknowledged
    }

    /// How many connections the device has made.
    pub fn connections(&self) -> u64 {
        self.lock().connections
    }

    /// Cuts the connection; the device may come back.
    pub fn cut(&self) {
        self.change(Inner::cut);
    }

    /// Cuts the connection and lets nobody in, or lets the device in again.
    pub fn offline(&self, offline: bool) {
        self.change(|inner| {
            inner.offline = offline;
            if offline {
                inner.cut();
            }
        });
    }

    /// Forgets the session and everything that waits in it, as a broker may.
    pub fn lose_session(&self) {
        self.change(|inner| {
            inner.cut();
            inner.session = false;
            inner.queue.clear();
            inner.in_flight.clear();
        });
    }

    /// Withholds acknowledgements of the device's publishes, or sends the withheld ones.
    pub fn hold_pubacks(&self, hold: bool) {
        self.change(|inner| {
            inner.hold_pubacks = hold;
            if !hold {
                for (id, published) in std::mem::take(&mut inner.held_pubacks) {
                    inner.confirm(id, published);
                }
            }
        });
    }

    /// Refuses the credentials of whoever connects.
    pub fn refuse_credentials(&self, refuse: bool) {
        self.change(|inner| inner.refuse_credentials = refuse);
    }

    /// Refuses subscriptions.
    pub fn refuse_subscription(&self, refuse: bool) {
        self.change(|inner| inner.refuse_subscription = refuse);
    }

    /// How many messages may be unacknowledged at once; 20 unless set, as mosquitto has it.
    pub fn window(&self, window: usize) {
        self.change(|inner| inner.window = Some(window));
    }

    /// Says of each message how long it has waited, as a broker with MQTT 5 does where messages expire.
    pub fn counts_waiting(&self, counts: bool) {
        self.change(|inner| inner.counts_waiting = counts);
    }

    /// Refuses every response, as a broker with MQTT 5 does beyond a quota, or takes them again.
    pub fn refuse_answers(&self, refuse: bool) {
        self.change(|inner| inner.refuse_answers = refuse);
    }

    /// Tells somebody of everything that passes, in its order.
    pub(super) fn witness(&self, witness: Witness) {
        self.lock().witness = Some(witness);
    }

    fn enqueue(&self, message: Message) {
        self.change(|inner| {
            inner.queue.push_back(message);
            inner.deliver();
        });
    }

    pub(super) fn connect(&self) -> (u64, mpsc::UnboundedReceiver<LinkEvent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.change(|inner| {
            inner.cut();
            inner.connections += 1;
            let id = inner.connections;
            inner.connection = Some((id, sender));
            if inner.offline {
                inner.event(LinkEvent::Lost(Lost::Other, "nobody listens".into()));
                inner.connection = None;
            } else if inner.refuse_credentials {
                inner.event(LinkEvent::Lost(Lost::Credentials, "bad user name or password".into()));
                inner.connection = None;
            } else {
                inner.tell(Passed::Connected);
                inner.event(LinkEvent::Connected { session_present: inner.session });
                inner.deliver();
            }
            (id, receiver)
        })
    }

    pub(super) fn subscribed(&self, id: u64) {
        self.of(id, |inner| {
            let granted = !inner.refuse_subscription;
            inner.session |= granted;
            inner.event(LinkEvent::Subscribed { granted, refused: Vec::new() });
            inner.deliver();
        });
    }

    pub(super) fn acknowledged(&self, id: u64, packet: u16) {
        self.of(id, |inner| {
            let message = inner.in_flight.remove(&packet);
            let message = message.expect("an acknowledgement of nothing that is in flight");
            inner.acknowledged += 1;
            inner.tell(Passed::Acknowledged(&message.topic, &message.payload));
            inner.deliver();
        });
    }

    pub(super) fn published_by_device(&self, id: u64, publish: PublishId, topic: &str, payload: &[u8]) {
        self.of(id, |inner| {
            let parsed = Topic::<UpRoute>::parse(topic);
            let route = parsed.as_ref().map(|topic| topic.route);
            if inner.refuse_answers && route == Some(UpRoute::Response) {
                return inner.event(LinkEvent::Refused(publish, "quota exceeded".into()));
            }
            let body: Value = serde_json::from_slice(payload).unwrap_or_default();
            let payload = Bytes::copy_from_slice(payload);
            let published = Published { route, topic: topic.into(), body, payload, qos: Qos::AtLeastOnce };
            inner.tell(Passed::Published(&published));
            inner.published.push(published.clone());
            let req_id = published.body["reqId"].clone();
            if inner.hold_pubacks {
                inner.held_pubacks.push((publish, published));
            } else {
                inner.confirm(publish, published);
            }
            if let Some(Topic { subject, route }) = parsed {
                inner.respond(subject, route, &req_id);
            }
        });
    }

    /// At QoS 0: it is on the connection, and nobody acknowledges it.
    pub(super) fn published_once_by_device(&self, id: u64, publish: PublishId, topic: &str, payload: &Bytes) {
        self.of(id, |inner| {
            let route = Topic::<UpRoute>::parse(topic).map(|topic| topic.route);
            let (body, payload) = (serde_json::from_slice(payload).unwrap_or_default(), payload.clone());
            let published = Published { route, topic: topic.into(), body, payload, qos: Qos::AtMostOnce };
            inner.tell(Passed::Published(&published));
            inner.published.push(published);
            inner.event(LinkEvent::Published(publish));
        });
    }

    pub(super) fn disconnected(&self, id: u64) {
        self.of(id, Inner::cut);
    }

    /// Changes something on behalf of a connection, unless it is gone.
    fn of(&self, id: u64, change: impl FnOnce(&mut Inner)) {
        self.change(|inner| {
            if inner.connection.as_ref().is_some_and(|(current, _)| *current == id) {
                change(inner);
            }
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of the lock panics")
    }
}

/// Waits for the next event; on the paused clock a test whose agent has ended fails instead of waiting for ever.
async fn changed(changes: &mut watch::Receiver<()>) {
    match timeout(PATIENCE, changes.changed()).await {
        Ok(result) => result.expect("the platform outlives the wait"),
        Err(_) => panic!("nothing at all happened for {PATIENCE:?} of the test's clock"),
    }
}

/// How long nothing at all may happen while a test waits: far longer than an agent is silent, which renews manage.
const PATIENCE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
