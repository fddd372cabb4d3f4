use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use iotdm_core::{Code, Correlation, Envelope, Incoming, MAX_PAYLOAD_BYTES, ReqId, Response, Route, UpRoute};
use rumqttc::QoS;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;

use super::event::{Event, Happening};
use super::replies::Replies;
use super::request::{Request, RequestParts};
use super::upward::Upward;
use super::{EVENTS_LIMIT, RequestHandle};
use crate::client::{Outbound, Peer};
use crate::space::{Address, DeviceName, Heard, Space};
use crate::track::{DEVICES_LIMIT, InitiateError, Initiation, Key, Tracked, Tracker};

/// What the platform's handle, its connection and its timer have in common.
///
/// Architecture invariant: the lock is held for one synchronous step, never across an await, and no function of the
/// caller runs under it, except for the pure ones of [`look`](Self::look).
pub(super) struct Shared {
    space: Space,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    outgoing: Notify,
    timers: Notify,
    events: broadcast::Sender<Event>,
}

struct State {
    tracker: Tracker,
    watchers: BTreeMap<Key, watch::Sender<Tracked>>,
    /// Where devices were last heard: a gateway speaks for some.
    addresses: BTreeMap<DeviceName, Address>,
    outbound: VecDeque<Outbound>,
    /// The newest requests of devices with the code they got, so that a repeated one is not applied twice.
    recent: VecDeque<(Key, Option<Code>)>,
    replies: Replies,
    random: fastrand::Rng,
    connected: bool,
    last_error: String,
    /// What the current step tells, in order.
    told: Vec<Event>,
}

impl Shared {
    pub(super) fn new(space: Space, replies: Replies, random: fastrand::Rng) -> Self {
        let state = State {
            tracker: Tracker::default(),
            watchers: BTreeMap::new(),
            addresses: BTreeMap::new(),
            outbound: VecDeque::new(),
            recent: VecDeque::new(),
            replies,
            random,
            connected: false,
            last_error: "no answer".into(),
            told: Vec::new(),
        };
        Self {
            space,
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
            outgoing: Notify::new(),
            timers: Notify::new(),
            events: broadcast::Sender::new(EVENTS_LIMIT),
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.lock().connected
    }

    pub(super) fn last_error(&self) -> String {
        self.lock().last_error.clone()
    }

    pub(super) fn look<R>(&self, look: impl FnOnce(&Tracker) -> R) -> R {
        look(&self.lock().tracker)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    pub(super) fn set_replies(&self, replies: Replies) {
        self.lock().replies = replies;
    }

    pub(super) async fn timers_changed(&self) {
        self.timers.notified().await;
    }

    pub(super) fn handle_timeout(&self, now: Instant) {
        self.step(|state| state.tracker.handle_timeout(now));
    }

    pub(super) fn give_up(&self, key: &Key) -> bool {
        self.step(|state| state.tracker.give_up(key))
    }

    /// No handle waits for a platform that is gone.
    pub(super) fn close(&self) {
        self.lock().watchers.clear();
    }

    pub(super) fn topic(&self, device: &DeviceName, suffix: &str) -> String {
        self.lock().address(&self.space, device).topic(suffix)
    }

    pub(super) fn command_topic(&self, device: &DeviceName, id: &str, format: &str) -> String {
        self.lock().address(&self.space, device).command(id, format)
    }

    pub(super) fn initiate(
        &self,
        device: &DeviceName,
        request: &Request,
    ) -> Result<RequestHandle, InitiateError> {
        let suffix = request.route().to_string();
        let handle = self.step(|state| {
            let (parts, payload) = request.parts(|| fresh_req_id(&mut state.random));
            let RequestParts { req_id, fields, timeout, overriding, even_unmanaged } = parts;
            if payload.len() > MAX_PAYLOAD_BYTES {
                return Err(InitiateError::PayloadTooLarge(payload.len()));
            }
            state.check_room()?;
            let key = (device.clone(), req_id);
            let route = request.route().clone();
            let initiation =
                Initiation { key: key.clone(), route, fields, timeout, overriding, even_unmanaged };
            state.tracker.initiate(Instant::now(), initiation)?;
            let topic = state.address(&self.space, device).topic(&suffix);
            let outbound = Outbound { topic, payload: payload.clone(), qos: QoS::AtLeastOnce, retain: false };
            state.outbound.push_back(outbound);
            let tracked = state.tracker.request(&key).expect("it was initiated just above").clone();
            let (sender, tracked) = watch::channel(tracked);
            state.watchers.insert(key.clone(), sender);
            state.tell(
                Some(device),
                Happening::Sent {
                    suffix: suffix.clone(),
                    req_id: Some(key.1.clone()),
                    payload: payload.clone(),
                },
            );
            Ok(RequestHandle { key, suffix, payload, tracked })
        })?;
        self.outgoing.notify_one();
        Ok(handle)
    }

    pub(super) fn replay(&self, request: &RequestHandle) -> Result<(), InitiateError> {
        let topic = self.topic(request.device(), request.suffix());
        let payload = request.payload.clone();
        let outbound = Outbound { topic, payload, qos: QoS::AtLeastOnce, retain: false };
        self.send(request.device(), request.suffix(), Some(request.req_id()), outbound)
    }

    pub(super) fn send(
        &self,
        device: &DeviceName,
        suffix: &str,
        req_id: Option<&ReqId>,
        outbound: Outbound,
    ) -> Result<(), InitiateError> {
        self.step(|state| {
            state.check_room()?;
            let payload = outbound.payload.clone();
            state.outbound.push_back(outbound);
            state.tell(
                Some(device),
                Happening::Sent { suffix: suffix.into(), req_id: req_id.cloned(), payload },
            );
            Ok(())
        })?;
        self.outgoing.notify_one();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no step of the state panics")
    }

    /// Changes the state, tells the handles of the requests that changed, and wakes those who wait.
    fn step<R>(&self, step: impl FnOnce(&mut State) -> R) -> R {
        let mut guard = self.lock();
        let state = &mut *guard;
        let result = step(state);
        while let Some(key) = state.tracker.poll_change() {
            let (Some(tracked), Some(watcher)) = (state.tracker.request(&key), state.watchers.get(&key))
            else {
                continue;
            };
            let (stage, before) = (tracked.stage, watcher.send_replace(tracked.clone()));
            if before.stage != stage {
                state.tell(Some(&key.0), Happening::Advanced { req_id: key.1, stage });
            }
        }
        while let Some(key) = state.tracker.poll_forgotten() {
            state.watchers.remove(&key);
        }
        for event in state.told.drain(..) {
            // Nobody may be listening.
            let _ = self.events.send(event);
        }
        drop(guard);
        self.timers.notify_one();
        self.changes.send_modify(|steps| *steps = steps.wrapping_add(1));
        result
    }

    fn strange(&self, device: Option<&DeviceName>, topic: &str, reason: impl Into<String>) {
        let happening = Happening::Strange { topic: topic.into(), reason: reason.into() };
        self.step(|state| state.tell(device, happening));
    }

    fn handle_response(&self, device: &DeviceName, topic: &str, envelope: &Envelope, payload: &Bytes) {
        let Some(answer) = Incoming::from_envelope(envelope) else {
            return self.strange(Some(device), topic, "an answer without reqId or rc");
        };
        self.step(|state| {
            state.tracker.handle_response(Instant::now(), device, &answer, payload);
            let key = (device.clone(), answer.req_id.clone());
            let number = state.tracker.request(&key).map_or(0, |tracked| tracked.answers);
            let Incoming { req_id, rc, message, .. } = answer;
            state.tell(Some(device), Happening::Answered { req_id, rc, message, number });
        });
    }

    fn handle_request(&self, heard: &Heard, topic: &str, envelope: &Envelope) {
        let Heard { device, address, route } = heard;
        let req_id = match &envelope.correlation {
            Correlation::Id(req_id) => Some(req_id.clone()),
            Correlation::Absent => None,
            Correlation::Refused(_) => {
                return self.strange(Some(device), topic, "a reqId that cannot be used");
            }
        };
        self.step(|state| {
            let key = req_id.clone().map(|req_id| (device.clone(), req_id));
            let known =
                state.recent.iter().find(|(known, _)| Some(known) == key.as_ref()).map(|(_, code)| *code);
            let code = known.unwrap_or_else(|| {
                let code = state.take(device, *route, envelope);
                if let Some(key) = key {
                    push_bounded(&mut state.recent, (key, code), RECENT_LIMIT);
                }
                code
            });
            // Without room the answer is lost, as answers may be: the device asks again.
            if let (Some(req_id), Some(rc), Ok(())) = (req_id, code, state.check_room()) {
                let payload = Response::new(&req_id.to_raw(), rc).to_bytes().into();
                let topic = address.topic(&Route::Response.to_string());
                state.outbound.push_back(Outbound { topic, payload, qos: QoS::AtLeastOnce, retain: false });
                state.tell(Some(device), Happening::Replied { suffix: route.to_string(), rc });
            }
        });
        self.outgoing.notify_one();
    }
}

impl Peer for Shared {
    fn connected(&self) {
        self.step(|state| {
            state.connected = true;
            state.tell(None, Happening::Connected);
        });
    }

    fn disconnected(&self, reason: &str) {
        self.step(|state| {
            state.connected = false;
            state.last_error = reason.into();
            state.tell(None, Happening::Disconnected { reason: reason.into() });
        });
    }

    fn received(&self, topic: &str, payload: &Bytes) {
        let Some(heard) = self.space.parse(topic) else {
            return self.strange(None, topic, "no topic of a device");
        };
        let envelope = match Envelope::parse(payload) {
            Ok(envelope) => envelope,
            Err(error) => return self.strange(Some(&heard.device), topic, error.to_string()),
        };
        self.step(|state| state.remember(&heard));
        if heard.route == UpRoute::Response {
            self.handle_response(&heard.device, topic, &envelope, payload);
        } else {
            self.handle_request(&heard, topic, &envelope);
        }
    }

    fn next(&self) -> Option<Outbound> {
        self.lock().outbound.pop_front()
    }

    async fn wait(&self) {
        self.outgoing.notified().await;
    }
}

impl State {
    fn address(&self, space: &Space, device: &DeviceName) -> Address {
        self.addresses.get(device).cloned().unwrap_or_else(|| space.address(device))
    }

    fn remember(&mut self, heard: &Heard) {
        if self.addresses.len() < DEVICES_LIMIT || self.addresses.contains_key(&heard.device) {
            self.addresses.insert(heard.device.clone(), heard.address.clone());
        }
    }

    fn check_room(&self) -> Result<(), InitiateError> {
        let waiting = self.outbound.len();
        if waiting < OUTBOUND_LIMIT { Ok(()) } else { Err(InitiateError::QueueFull(waiting)) }
    }

    fn tell(&mut self, device: Option<&DeviceName>, happening: Happening) {
        self.told.push(Event { at: Instant::now(), device: device.cloned(), happening });
    }

    /// Takes a request of a device: the code it gets, if any.
    fn take(&mut self, device: &DeviceName, route: UpRoute, envelope: &Envelope) -> Option<Code> {
        let reply = self.replies.to(route);
        let Some(request) = Upward::read(route, envelope) else { return reply.code(Code::BAD_REQUEST) };
        if !reply.takes() {
            return reply.code(Code::OK);
        }
        let now = Instant::now();
        // Told first, so that what the request completes is told after it.
        self.tell(Some(device), request.happening());
        let good = match request {
            Upward::Manage(body) => self.tracker.handle_manage(now, device, body),
            Upward::Unmanage => {
                self.tracker.handle_unmanage(now, device);
                true
            }
            Upward::Report(report) => {
                self.tracker.handle_report(now, device, report);
                true
            }
            Upward::Notify(fields) => self.tracker.handle_notify(now, device, &fields),
        };
        reply.code(if good { Code::OK } else { Code::NOT_FOUND })
    }
}

/// A lower-case UUID, the form in which the service makes its ids (`docs/protocol.md` §2).
fn fresh_req_id(random: &mut fastrand::Rng) -> ReqId {
    let digits = format!("{:032x}", random.u128(..));
    let groups = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    ReqId::from_text(&groups.join("-"))
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, limit: usize) {
    if queue.len() >= limit {
        queue.pop_front();
    }
    queue.push_back(item);
}

/// Messages that wait to be sent: a request for as many devices as the service allows, and some answers.
const OUTBOUND_LIMIT: usize = 6_000;

/// Requests of devices that are recognised when they are delivered again: more than a broker has in flight.
const RECENT_LIMIT: usize = 1_024;
