//! What arrives, and what becomes of it before any handler is involved.

use std::sync::Arc;

use iotdm_core::{
    Code, Correlation, Envelope, Incoming, Interrupted, Late, Refusal, ReqId, Response, Route, Subject, Topic,
};
use serde_json::value::RawValue;
use tracing::{info, warn};

use crate::journal::Class;

use super::Engine;
use super::answers::{Answer, Body};
use super::event::{Delivered, Effect, Lost, Timer};
use super::key::{Fingerprint, KeyHash, digest};
use super::request::{LANE_WAIT, Request, Stage, takes_lane};
use super::time::{Age, Moment};

impl Engine {
    pub(super) fn delivered(&mut self, delivered: Delivered) {
        if self.session.is_down() {
            // It came in the same batch that gives its connection up. It was not acknowledged and comes again; an answer
            // to manage would lift the fence while requests begin to wait on the broker.
            return;
        }
        self.session.heard(self.now.monotonic);
        if self.has(&delivered) {
            return;
        }
        let arrived = Moment::at(self.now, self.settings.clock());
        // While the outbox is full nothing is accepted, so that the broker's window closes; order is kept.
        if !self.deferred.is_empty() || self.outbox_is_full() {
            if self.deferred.len() >= MAX_DEFERRED || !self.may_defer(&delivered) {
                self.note("more is waiting than can be held", "the connection is ended");
                self.effect(Effect::Disconnect);
                return self.disconnected(Lost::Other);
            }
            if self.deferred.is_empty() {
                // What the broker holds back from here on will be old when it comes.
                self.lower_fence();
            }
            self.deferred.push_back((arrived, delivered));
            return;
        }
        self.accept(arrived, delivered);
    }

    /// Whether what waits stays within its bytes. Messages with an acknowledgement have more room: what a window holds
    /// comes again on each connection, and one that is ended for it would be ended for ever.
    fn may_defer(&self, delivered: &Delivered) -> bool {
        let bytes = |delivered: &Delivered| delivered.topic.len() + delivered.payload.len();
        let waiting = |acknowledged: bool| -> usize {
            let of_kind = |waiting: &&Delivered| waiting.delivery.is_some() == acknowledged;
            self.deferred.iter().map(|(_, waiting)| waiting).filter(of_kind).map(bytes).sum()
        };
        let acknowledged = delivered.delivery.is_some();
        let limit = if acknowledged { MAX_DEFERRED_WINDOW_BYTES } else { MAX_DEFERRED_BYTES };
        waiting(acknowledged) + bytes(delivered) <= limit
    }

    pub(super) fn take_deferred(&mut self) {
        while !self.outbox_is_full() {
            let Some((arrived, delivered)) = self.deferred.pop_front() else { return };
            self.accept(arrived, delivered);
        }
    }

    /// The device's own requests have a bound of their own: they need responses, which arrive in the same queue as the
    /// requests that would be kept waiting.
    fn outbox_is_full(&self) -> bool {
        self.outbox.answers() >= self.settings.limits.outbox || self.outbox.answer_bytes() >= MAX_UNSENT_BYTES
    }

    fn accept(&mut self, arrived: Moment, delivered: Delivered) {
        if self.withheld.is_full() {
            self.note("more is unacknowledged than can be", "the connection is ended");
            self.effect(Effect::Disconnect);
            return self.disconnected(Lost::Other);
        }
        let delivery = delivered.delivery;
        let topic = Topic::<Route>::parse(&delivered.topic);
        let is_command = matches!(topic, Some(Topic { route: Route::Command { .. }, .. }));
        let content = match is_command || !self.withheld.is_empty() {
            true => digest(&[delivered.topic.as_bytes(), &delivered.payload]),
            false => [0; 16],
        };
        let waits_for = match topic {
            Some(Topic { subject, route: route @ Route::Command { .. } }) => {
                self.take_command(arrived, route, subject, &delivered)
            }
            topic => {
                self.take(arrived, topic, delivered);
                None
            }
        };
        // Everything that was delivered is acknowledged, in order, once the batch is durable: what is not kept would
        // otherwise come back for ever.
        if let Some(delivery) = delivery {
            self.acknowledge(delivery, content, is_command, waits_for);
        }
    }

    fn take(&mut self, arrived: Moment, topic: Option<Topic<Route>>, delivered: Delivered) {
        let Some(Topic { subject, route }) = topic else {
            return self.foreign(&delivered);
        };
        let envelope = match Envelope::parse(&delivered.payload) {
            Ok(envelope) => envelope,
            Err(error) => return self.note("unreadable payload", &error.to_string()),
        };
        if route == Route::Response {
            if !delivered.retained && subject == self.settings.subject {
                self.platform_answered(&envelope);
            }
            return;
        }
        match envelope.correlation {
            Correlation::Absent => {
                self.take_without_req_id(&subject, &route, envelope.d.as_deref(), delivered.retained)
            }
            Correlation::Refused(raw) => {
                let refusal = Refusal::bad_request("reqId: expected a text or a number of at most 1 KiB");
                self.pass(subject, &raw, Fingerprint::of(&route, envelope.d.as_deref()), &refusal);
            }
            Correlation::Id(req_id) => {
                let arrived = (arrived, self.age_on_arrival(delivered.waited));
                self.take_request(
                    subject,
                    route,
                    req_id,
                    envelope.d,
                    (!delivered.retained).then_some(arrived),
                );
            }
        }
    }

    /// Only what is harmless runs without a reqId; its effect is in the batch that acknowledges it.
    fn take_without_req_id(
        &mut self,
        subject: &Subject,
        route: &Route,
        d: Option<&RawValue>,
        retained: bool,
    ) {
        if *route != Route::DeviceUpdate || *subject != self.settings.subject || retained {
            return self.note("request without a reqId", &format!("{route} is dropped"));
        }
        if let Err(refusal) = self.device_update(d) {
            self.note("device/update without a reqId", &format!("it is dropped: {refusal}"));
        }
    }

    /// When it arrived, and how old it may have been then. Absent for a retained message, which was not sent to be carried
    /// out when it came.
    fn take_request(
        &mut self,
        subject: Subject,
        route: Route,
        req_id: ReqId,
        d: Option<Box<RawValue>>,
        arrived: Option<(Moment, Age)>,
    ) {
        let key = KeyHash::of_request(&subject, &req_id);
        let fingerprint = Fingerprint::of(&route, d.as_deref());
        let open = self.requests.get(&key).map(|request| (request.fingerprint, request.response().is_some()));
        let done = self.answers.get(&key).map(|answer| (answer.fingerprint, true));
        match open.or(done) {
            Some((known, _)) if known != fingerprint => {
                let refusal = Refusal::bad_request("this reqId was used for another request");
                return self.pass(subject, &req_id.to_raw(), fingerprint, &refusal);
            }
            Some((_, answered)) => {
                self.tell("replayed", &req_id, &route);
                if answered {
                    self.answer_due(key);
                }
                return;
            }
            None => {}
        }
        let Some((arrived, age)) = arrived else {
            let refusal = Refusal::bad_request("a retained request is never carried out");
            return self.pass(subject, &req_id.to_raw(), fingerprint, &refusal);
        };
        if let Subject::Named { type_id, device_id } = &subject
            && subject != self.settings.subject
        {
            let refusal =
                Refusal::not_found(format!("{type_id}/{device_id} is not attached to this connection"));
            return self.pass(subject, &req_id.to_raw(), fingerprint, &refusal);
        }
        let known = subject == self.settings.subject && !matches!(route, Route::Unknown(_));
        if !known {
            let refusal = Refusal::not_found("this device does not know the topic");
            return self.pass(subject, &req_id.to_raw(), fingerprint, &refusal);
        }
        let request = Request {
            subject,
            req_id,
            route,
            d: d.map(Arc::from),
            fingerprint,
            sequence: self.sequence(),
            attempt: 1,
            arrived,
            age,
            works: false,
            handled: None,
            stage: Stage::Queued,
        };
        match request.route {
            Route::DeviceUpdate | Route::Observe | Route::Cancel => self.carry_out(key, &request),
            _ => self.admit(key, request),
        }
    }

    pub(super) fn admit(&mut self, key: KeyHash, request: Request) {
        let Some(policy) = self.policy(&request.route) else {
            let refusal = Refusal::unsupported("this device does not offer that action");
            return self.pass(request.subject, &request.req_id.to_raw(), request.fingerprint, &refusal);
        };
        let refusal = if self.quarantine && policy.interrupted != Interrupted::RunAgain {
            Some("the device has lost its journal and cannot tell whether this was done before")
        } else if matches!(policy.late, Late::RefuseAfter(limit) if request.age.may_exceed(limit)) {
            Some("the request may have waited too long while the device was away")
        } else if self.requests.len() >= self.settings.limits.pending || !self.has_room_for(&request) {
            Some("too many requests wait")
        } else {
            None
        };
        if let Some(message) = refusal {
            return self.refuse_unrecorded(key, &request, &Refusal::busy(message), None);
        }
        self.tell("accepted", &request.req_id, &request.route);
        if takes_lane(&request.route) {
            self.lanes.entry(request.subject.clone()).or_default().waiting.push_back(key);
            self.timers.set(Timer::Lane(key), self.now.monotonic + LANE_WAIT);
        } else {
            self.waiting.push_back(key);
        }
        self.requests.insert(key, request);
        self.write_due(key);
    }

    /// Whether the bodies that wait stay within their bound. A single one always fits.
    fn has_room_for(&self, request: &Request) -> bool {
        let waiting: usize = self.requests.values().map(Request::body_bytes).sum();
        waiting == 0 || waiting + request.body_bytes() <= MAX_WAITING_BYTES
    }

    /// Answers what was never recorded; the answer is kept until the broker has it.
    fn pass(&mut self, subject: Subject, req_id: &RawValue, fingerprint: Fingerprint, refusal: &Refusal) {
        let key = KeyHash::of_passing_answer(&subject, req_id, fingerprint);
        let text: String = req_id.get().chars().take(MAX_LOGGED_REQ_ID_CHARS).collect();
        let response = Response::new(req_id, refusal.rc()).message(Some(refusal.message())).to_bytes();
        if response.len() > iotdm_core::MAX_PAYLOAD_BYTES {
            return self.note("a reqId too long to be copied back", "it is not answered");
        }
        if let Some(held_back) = self.noise.count("refused unread", self.now.monotonic) {
            warn!(reqId = %text, rc = %refusal.rc(), held_back, "{}", refusal.message());
        }
        if self.answers.get(&key).is_none() {
            let body = Body::Stored(response.into());
            let sequence = self.sequence();
            let answer =
                Answer { subject, fingerprint, sequence, class: Class::Passing, body, failure: None };
            self.answers.insert(key, answer);
            self.write_due(key);
        }
        self.answer_due(key);
    }

    /// Refuses a request before it has a record of its own.
    pub(super) fn refuse_unrecorded(
        &mut self,
        key: KeyHash,
        request: &Request,
        refusal: &Refusal,
        d: Option<&RawValue>,
    ) {
        if request.is_command() {
            return self.drop_command(request, refusal);
        }
        let class = if refusal.rc() == Code::CONFLICT { Class::Refused } else { Class::Passing };
        if let Some(held_back) = self.noise.count("refused", self.now.monotonic) {
            warn!(reqId = %request.req_id, action = %request.route, held_back, "refused: {refusal}");
        }
        let raw = request.req_id.to_raw();
        let response = Response::new(&raw, refusal.rc()).message(Some(refusal.message())).data(d).to_bytes();
        self.keep(key, request, class, Body::Stored(response.into()));
    }

    /// Stores the answer of a finished request and makes it due.
    pub(super) fn keep(&mut self, key: KeyHash, request: &Request, class: Class, body: Body) {
        let body = match body {
            Body::Stored(bytes) => Body::Stored(bounded(&request.req_id.to_raw(), bytes.into()).into()),
            observed @ Body::Observed { .. } => observed,
        };
        self.answers.insert(key, Answer::of(request, class, body, None));
        self.write_due(key);
        self.answer_due(key);
        self.prune();
    }

    fn platform_answered(&mut self, envelope: &Envelope) {
        let Some(response) = Incoming::from_envelope(envelope) else {
            return self.note("response without reqId or code", "it is dropped");
        };
        let taken = self.manage_answered(&response)
            || self.unmanage_answered(&response)
            || self.own_request_answered(&response);
        if !taken {
            self.note("response to a request that is not waiting", "it is dropped");
        }
    }

    pub(super) fn sequence(&mut self) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    /// Logs a step of a request, within bounds.
    pub(super) fn tell(&mut self, step: &'static str, req_id: &ReqId, route: &Route) {
        if let Some(held_back) = self.may_tell(step) {
            info!(reqId = %req_id, action = %route, held_back, "{step}");
        }
    }

    /// Logs a step of an unfinished request, with its attempt.
    pub(super) fn tell_of(&mut self, step: &'static str, key: KeyHash) {
        let Some(held_back) = self.may_tell(step) else { return };
        let Request { req_id, route, attempt, .. } = &self.requests[&key];
        info!(reqId = %req_id, action = %route, attempt, held_back, "{step}");
    }

    /// Whether a step may be logged, and with how many that were held back before it, if any were.
    pub(super) fn may_tell(&mut self, step: &'static str) -> Option<Option<u64>> {
        let held_back = self.steps.count(step, self.now.monotonic)?;
        Some((held_back > 0).then_some(held_back))
    }

    /// Counts something that nobody is told of, and logs it within bounds.
    pub(super) fn note(&mut self, cause: &'static str, detail: &str) {
        if let Some(held_back) = self.noise.count(cause, self.now.monotonic) {
            let detail: String = detail.chars().take(MAX_LOGGED_DETAIL_CHARS).collect();
            warn!(held_back, "{cause}: {}", detail.escape_debug());
        }
    }
}

/// A response that fits the protocol's payload limit.
pub(super) fn bounded(req_id: &RawValue, response: Vec<u8>) -> Vec<u8> {
    if response.len() <= iotdm_core::MAX_PAYLOAD_BYTES {
        return response;
    }
    too_large(req_id)
}

/// What is answered instead of a response that no message can hold.
pub(super) fn too_large(req_id: &RawValue) -> Vec<u8> {
    Response::new(req_id, Code::FAILED).message(Some("the answer is larger than 131072 bytes")).to_bytes()
}

/// How many bytes the bodies of unfinished requests may have in all. A thousand requests of ordinary size fit; a
/// thousand of the largest size would be 128 MiB, in memory and in the journal that the next start reads.
const MAX_WAITING_BYTES: usize = 8 * 1024 * 1024;

/// How many deliveries may wait for room in the outbox. Brokers with a window stay far below it.
const MAX_DEFERRED: usize = 4096;

/// How many bytes those of QoS 0 may have, which knows no window.
const MAX_DEFERRED_BYTES: usize = 4 * 1024 * 1024;

/// How many bytes those of QoS 1 may have: a window of 250 messages of the largest size. Brokers have windows of 10 to 32.
const MAX_DEFERRED_WINDOW_BYTES: usize = 32 * 1024 * 1024;

/// How many bytes the answers that wait to be sent may have, but for the last: beyond it requests are no longer
/// acknowledged. They are in the memory, and in the journal that the next start reads.
const MAX_UNSENT_BYTES: usize = 8 * 1024 * 1024;

/// How much of somebody else's text a log line shows.
const MAX_LOGGED_DETAIL_CHARS: usize = 200;

/// How much of a reqId that cannot be kept a log line shows.
const MAX_LOGGED_REQ_ID_CHARS: usize = 64;
