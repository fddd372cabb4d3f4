//! What becomes of a publish that the broker refuses (MQTT 5: a PUBACK with a reason of 0x80 or more).

use std::time::Duration;

use super::Engine;
use super::event::{PublishId, Timer};
use super::key::KeyHash;
use super::outbox::{Item, Refused};
use super::send::REPORT_ATTEMPTS;

impl Engine {
    /// The broker does not take it, and says why. A quota may be free again later, a permission may be granted. An answer
    /// is sent again with longer and longer pauses, until the broker has it: a request may have been promised more than
    /// can be taken back. A report has an end of attempts.
    pub(super) fn publish_refused(&mut self, id: PublishId, reason: &str) {
        // What counts is that the window moves, and it moves with a refusal too.
        self.timers.clear(&Timer::Window);
        self.note("the broker refuses what is published", reason);
        self.event_refused(id, reason);
        // Manage and unmanage have retries of their own.
        let Some(Refused { place, refusals, attempts }) = self.outbox.refused(id) else { return };
        let Some(item) = self.outbox.entry(place).map(|entry| entry.item.clone()) else { return };
        match item {
            Item::Answer(_) => {
                let doublings = refusals.saturating_sub(1).min(16);
                let pause = ANSWER_PAUSE.saturating_mul(1 << doublings).min(ANSWER_PAUSE_MAX);
                self.timers.set(Timer::Report(place), self.now.monotonic + pause);
            }
            Item::Notify { .. } | Item::Report(_) if attempts >= REPORT_ATTEMPTS => {
                self.note("the broker refused a report for good", "it is dropped");
                self.give_up(place, &item);
            }
            Item::Notify { .. } | Item::Report(_) => self.own_request_later(place, attempts),
        }
    }

    /// A `202` may arrive when its work has ended: after refusals, or for whoever repeats the request of work that failed.
    /// That it has ended is told by the manage after it (`docs/protocol.md` §6.2).
    pub(super) fn tell_end_of_late(&mut self, key: KeyHash, was_refused: bool) {
        let ended = self.answers.get(&key).is_some_and(|answer| was_refused || answer.failure.is_some());
        if ended && !self.is_held() {
            self.hold_ended();
        }
    }
}

/// The pause before a refused answer is sent again, at first; it doubles each time.
const ANSWER_PAUSE: Duration = Duration::from_secs(10);

/// The longest such pause: a permission that is granted is noticed within it, and what is refused for good costs six
/// messages an hour.
const ANSWER_PAUSE_MAX: Duration = Duration::from_secs(10 * 60);
