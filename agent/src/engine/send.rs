//! What leaves: answers, notifications and reports, through one queue.

use std::time::Duration;

use bytes::Bytes;
use iotdm_core::{
    Code, Declined, Incoming, LogEntry, MAX_PAYLOAD_BYTES, Report, ReqId, Subject, Topic, UpRoute,
};
use serde_json::{Value, json};
use tracing::warn;

use crate::journal::{Class, Queued, Write};

use super::Engine;
use super::answers::Body;
use super::event::{Effect, Lost, PublishId, Ticket, Timer};
use super::key::KeyHash;
use super::outbox::{Item, Sent};

impl Engine {
    pub(super) fn answer_due(&mut self, key: KeyHash) {
        if let Some(place) = self.outbox.answer_due(key) {
            self.out.writes.push(Write::Queue(place, Queued::Answer(key.0)));
            self.out.due = true;
            self.weigh(key);
        }
    }

    /// Tells the queue how large an answer is: what waits is bounded in bytes, too.
    pub(super) fn weigh(&mut self, key: KeyHash) {
        let open = self.requests.get(&key).and_then(|request| request.response().map(Bytes::len));
        let bytes = open.or_else(|| self.answers.get(&key).map(|answer| answer.body.bytes()));
        self.outbox.weigh(&key, bytes.unwrap_or(0));
    }

    pub(super) fn queue_notify(&mut self, field: String) {
        let Some(generation) = self.model.generation(&field) else { return };
        let (place, left) = self.outbox.notify_due(field.clone(), generation);
        for left in left {
            self.drop_from_outbox(left);
        }
        self.out.writes.push(Write::Queue(place, Queued::Notify { field, generation }));
        self.out.due = true;
    }

    /// Queues a report. Beyond the bound the oldest report is dropped, unsent ones first, and counted.
    pub(super) fn report(&mut self, mut report: Report, ticket: Option<Ticket>) {
        shorten_log_data(&mut report);
        let fits = report.body().map_or(0, |body| body.to_string().len()) <= MAX_REPORT_BYTES;
        if fits {
            if let (own, Some(oldest)) = self.outbox.own()
                && own >= MAX_OWN_REQUESTS
            {
                self.note("too many reports wait", "the oldest is dropped");
                self.drop_from_outbox(oldest);
            }
            let place = self.outbox.push(Item::Report(report.clone()));
            self.out.writes.push(Write::Queue(place, Queued::Report(report)));
            self.out.due = true;
        } else {
            self.note("report larger than a message may be", "it is dropped");
        }
        self.settle_ticket(ticket, fits.then_some(()).ok_or(Declined::OutOfBounds));
    }

    /// Sends what the window and the session allow: stored answers, manage, then the device's own requests.
    pub(super) fn flush_outbox(&mut self) {
        if self.settings.events_only {
            return;
        }
        while self.session.is_up() && self.outbox.window_open() {
            let answers_first =
                self.outbox.first_unsent_answer().is_some_and(|place| self.session.is_older(place));
            let waits = answers_first || self.is_held() || !self.deferred.is_empty() || self.is_judging();
            if self.session.unmanage_is_due() {
                self.send_unmanage();
                continue;
            }
            if self.session.manage_is_due() && !waits {
                self.send_manage();
                continue;
            }
            let Some(place) = self.outbox.next_unsent(self.session.is_managed()) else { return };
            self.send(place);
        }
    }

    /// A broker that acknowledges nothing more would keep every answer here without a word.
    pub(super) fn watch_window(&mut self) {
        let stuck = self.session.is_up() && !self.outbox.window_open();
        if !stuck {
            self.timers.clear(&Timer::Window);
        } else if !self.timers.is_set(&Timer::Window) {
            self.timers.set(Timer::Window, self.now.monotonic + WINDOW_CLOSED_LIMIT);
        }
    }

    pub(super) fn window_stayed_closed(&mut self) {
        warn!(
            "the broker has acknowledged too little for {WINDOW_CLOSED_LIMIT:?}; the connection is made again"
        );
        self.effect(Effect::Disconnect);
        self.disconnected(Lost::Other);
    }

    fn send(&mut self, place: u64) {
        let Some(item) = self.outbox.entry(place).map(|entry| entry.item.clone()) else { return };
        let Some((topic, payload, req_id)) = self.message(&item) else {
            // What it was about is gone: an observation was cancelled, a refusal was forgotten.
            return self.drop_from_outbox(place);
        };
        self.tell_observers(&item);
        let id = self.outbox.mark_sent(place, req_id);
        self.effect(Effect::Publish { id, topic, payload });
    }

    fn message(&mut self, item: &Item) -> Option<(String, Bytes, Option<ReqId>)> {
        match item {
            Item::Answer(key) => {
                let (subject, payload) = self.answer_payload(key)?;
                Some((Topic { subject, route: UpRoute::Response }.to_string(), payload, None))
            }
            Item::Notify { field, generation } => {
                if self.model.generation(field) != Some(*generation) {
                    return None;
                }
                let value = self.model.read(field).cloned().unwrap_or(Value::Null);
                let body = json!({ "fields": [{ "field": field, "value": value }] });
                Some(self.own_request(UpRoute::Notify, Some(body)))
            }
            Item::Report(report) => {
                let body = self.newest_location(report).or_else(|| report.body());
                Some(self.own_request(report.route(), body))
            }
        }
    }

    pub(super) fn answer_payload(&self, key: &KeyHash) -> Option<(Subject, Bytes)> {
        if let Some(request) = self.requests.get(key) {
            return Some((request.subject.clone(), request.response()?.clone()));
        }
        let answer = self.answers.get(key)?;
        let payload = match &answer.body {
            Body::Stored(bytes) => Bytes::copy_from_slice(bytes),
            Body::Observed { req_id, fields } => self.observed_response(req_id, fields),
        };
        Some((answer.subject.clone(), payload))
    }

    pub(super) fn own_request(
        &mut self,
        route: UpRoute,
        body: Option<Value>,
    ) -> (String, Bytes, Option<ReqId>) {
        let req_id = self.fresh_req_id();
        let mut message = serde_json::Map::new();
        if let Some(body) = body {
            message.insert("d".into(), body);
        }
        let text = serde_json::from_str(req_id.as_json()).expect("a ReqId is JSON text");
        message.insert("reqId".into(), text);
        (
            Topic { subject: self.settings.subject.clone(), route }.to_string(),
            Value::Object(message).to_string().into(),
            Some(req_id),
        )
    }

    /// A random UUID, from the engine's seed.
    pub(super) fn fresh_req_id(&mut self) -> ReqId {
        let bits = (self.rng.u128(..) & !(0xf << 76) & !(0b11 << 62)) | (0x4 << 76) | (0b10 << 62);
        let hex = format!("{bits:032x}");
        let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        ReqId::from_text(&format!("{a}-{b}-{c}-{d}-{e}"))
    }

    pub(super) fn acknowledged(&mut self, id: PublishId) {
        // Under load the window is full all the time; what counts is that it moves.
        self.timers.clear(&Timer::Window);
        self.event_acknowledged(id);
        match self.outbox.acknowledged(id) {
            Sent::Answer(key, place) => {
                let was_refused = self.outbox.entry(place).is_some_and(|entry| entry.refusals > 0);
                self.drop_from_outbox(place);
                self.answer_arrived(key);
                self.tell_end_of_late(key, was_refused);
                if self.answers.get(&key).is_some_and(|answer| answer.class == Class::Passing) {
                    self.answers.remove(&key);
                    self.write_lazily(key);
                }
                self.prune();
            }
            Sent::Own(place) => self.timers.set(Timer::Report(place), self.now.monotonic + RESPONSE_WITHIN),
            Sent::Other => {}
        }
    }

    /// Takes something off the queue. Lazily: losing this only sends it again.
    pub(super) fn drop_from_outbox(&mut self, place: u64) {
        if self.outbox.remove(place).is_some() {
            self.timers.clear(&Timer::Report(place));
            self.out.writes.push(Write::Unqueue(place));
        }
    }

    pub(super) fn own_request_answered(&mut self, response: &Incoming) -> bool {
        let Some(place) = self.outbox.answered(&response.req_id) else { return false };
        let Some(entry) = self.outbox.entry(place) else { return false };
        let (item, attempts) = (entry.item.clone(), entry.attempts);
        self.timers.clear(&Timer::Report(place));
        if response.rc.is_success() {
            if response.rc != Code::OK {
                self.note(
                    "undocumented code for a report",
                    &format!("rc {} is taken as success", response.rc),
                );
            }
            self.drop_from_outbox(place);
            return true;
        }
        let is_final = [Code::BAD_REQUEST, Code::FORBIDDEN, Code::NOT_FOUND].contains(&response.rc);
        if is_final || attempts >= REPORT_ATTEMPTS {
            self.note("the platform refused a report", &format!("rc {}; it is dropped", response.rc));
            if let Item::Notify { field, generation } = &item
                && response.rc == Code::NOT_FOUND
                && self.model.generation(field) == Some(*generation)
            {
                self.stop_observing(field);
            }
            self.give_up(place, &item);
            return true;
        }
        self.outbox.back_off(place);
        self.own_request_later(place, attempts);
        true
    }

    /// An own request that was refused goes out again after a pause.
    pub(super) fn own_request_later(&mut self, place: u64, attempts: u32) {
        let pause = REPORT_PAUSE * 2_u32.pow(attempts.min(REPORT_ATTEMPTS));
        self.timers.set(Timer::Report(place), self.now.monotonic + pause);
    }

    pub(super) fn report_due(&mut self, place: u64) {
        let Some(entry) = self.outbox.entry(place) else { return };
        let is_answer = matches!(entry.item, Item::Answer(_));
        if entry.is_awaiting() && !self.deferred.is_empty() {
            // The response may be among what waits here, and something behind it may depend on this report.
            return self.timers.set(Timer::Report(place), self.now.monotonic + RESPONSE_WITHIN);
        }
        if !is_answer && entry.attempts >= REPORT_ATTEMPTS {
            let item = entry.item.clone();
            self.note("the platform did not answer a report", "it is dropped");
            return self.give_up(place, &item);
        }
        self.outbox.retry(place);
    }
}

/// Log data gives way where an entry would not fit a message (`docs/protocol.md` §9 point 24).
fn shorten_log_data(report: &mut Report) {
    let excess = report.body().map_or(0, |body| body.to_string().len()).saturating_sub(MAX_REPORT_BYTES);
    if let Report::AddLog(LogEntry { data: Some(data), .. }) = report
        && excess > 0
    {
        // Whole groups of four: what is left is base64 still.
        let kept = data.len().saturating_sub(excess) / 4 * 4;
        let boundary = (0..=kept).rev().find(|at| data.is_char_boundary(*at)).unwrap_or(0);
        data.truncate(boundary);
    }
}

/// How long the broker may leave publishes unacknowledged while nothing more can be sent for them.
pub(super) const WINDOW_CLOSED_LIMIT: Duration = Duration::from_secs(60);

/// How long the platform may take to answer a report. No limit is documented; another client waits 120 s.
const RESPONSE_WITHIN: Duration = Duration::from_secs(60);

/// How often a report is sent until it was answered, over one run of the agent.
pub(super) const REPORT_ATTEMPTS: u32 = 6;

/// The pause before a refused report is sent again; it doubles each time.
const REPORT_PAUSE: Duration = Duration::from_secs(1);

/// How many reports and notifications may wait at once.
const MAX_OWN_REQUESTS: usize = 512;

/// Largest body of a report, in bytes: it must fit a message beside its reqId.
const MAX_REPORT_BYTES: usize = MAX_PAYLOAD_BYTES - 1024;
