//! What becomes of a publish that the broker refuses (MQTT 5: a PUBACK with a reason of 0x80 or more).

use std::time::Duration;

use serde_json::Value;
use tracing::error;

use crate::journal::Class;

use super::Engine;
use super::event::{PublishId, Timer};
use super::key::KeyHash;
use super::outbox::{Item, Refused};
use super::request::{Request, Stage};
use super::send::REPORT_ATTEMPTS;

impl Engine {
    /// The broker does not take it, and says why. A quota may be free again later, a permission may be granted: it is
    /// sent again a few times, with longer and longer pauses, and then given up aloud.
    pub(super) fn publish_refused(&mut self, id: PublishId, reason: &str) {
        // What counts is that the window moves, and it moves with a refusal too.
        self.timers.clear(&Timer::Window);
        self.note("the broker refuses what is published", reason);
        self.event_refused(id, reason);
        // Manage and unmanage have retries of their own.
        let Some(refused) = self.outbox.refused(id) else { return };
        let Refused { place, refusals, attempts, .. } = refused;
        let Some(item) = self.outbox.entry(place).map(|entry| entry.item.clone()) else { return };
        match item {
            Item::Answer(key) if refusals >= ANSWER_ATTEMPTS => {
                self.answer_undeliverable(&refused, key, reason)
            }
            Item::Answer(_) => {
                let pause = ANSWER_PAUSE * 2_u32.pow(refusals.saturating_sub(1));
                self.timers.set(Timer::Report(place), self.now.monotonic + pause);
            }
            Item::Notify { .. } | Item::Report(_) if attempts >= REPORT_ATTEMPTS => {
                self.note("the broker refused a report for good", "it is dropped");
                self.give_up(place, &item);
            }
            Item::Notify { .. } | Item::Report(_) => self.own_request_later(place, attempts),
        }
    }

    /// The platform will not have this answer, unless it asks once more: a replay gets it again.
    fn answer_undeliverable(&mut self, refused: &Refused, key: KeyHash, reason: &str) {
        if let Some(held_back) = self.noise.count(UNDELIVERABLE, self.now.monotonic) {
            let req_id = self.req_id_of_answer(&key);
            error!(
                reqId = %req_id,
                held_back,
                "the broker refused this answer {ANSWER_ATTEMPTS} times: {reason}; it is kept for when the request is repeated"
            );
        }
        self.drop_from_outbox(refused.place);
        if self.answers.get(&key).is_some_and(|answer| answer.class == Class::Passing) {
            self.answers.remove(&key);
            self.write_lazily(key);
        }
        // What was promised begins only when the promise has arrived; once it has, a copy for a replay changes nothing.
        if let Some(Request { stage: Stage::Settled { acknowledged: false, .. }, .. }) =
            self.requests.get(&key)
        {
            if refused.may_have_arrived {
                self.finish_performed(
                    key,
                    Some(format!("nothing was begun: the broker refused the 202: {reason}")),
                );
            } else {
                self.finish_unpromised(key, reason);
            }
        }
        self.prune();
    }

    /// A `202` may arrive when its work has ended: after refusals, or for whoever repeats the request of work that failed.
    /// That it has ended is told by the manage after it (`docs/protocol.md` §6.2).
    pub(super) fn tell_end_of_late(&mut self, key: KeyHash, was_refused: bool) {
        let ended = self.answers.get(&key).is_some_and(|answer| was_refused || answer.failure.is_some());
        if ended && !self.is_held() {
            self.hold_ended();
        }
    }

    fn req_id_of_answer(&self, key: &KeyHash) -> String {
        let payload = self.answer_payload(key).map(|(_, payload)| payload).unwrap_or_default();
        let answer: Value = serde_json::from_slice(&payload).unwrap_or_default();
        let req_id = answer["reqId"].as_str().map_or_else(|| answer["reqId"].to_string(), Into::into);
        req_id.chars().take(MAX_LOGGED_REQ_ID_CHARS).collect()
    }
}

/// How often an answer that the broker refuses is sent in all, over one run of the agent.
const ANSWER_ATTEMPTS: u32 = 6;

/// The pause before a refused answer is sent again; it doubles each time, to five minutes in all.
const ANSWER_PAUSE: Duration = Duration::from_secs(10);

/// What answers that are given up are counted as.
const UNDELIVERABLE: &str = "answers that the broker refused for good";

/// How much of a reqId a log line shows.
const MAX_LOGGED_REQ_ID_CHARS: usize = 64;
