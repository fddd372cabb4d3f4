//! The online mark: when this device was last known to have nothing old waiting on the broker.

use std::time::Duration;

use crate::journal::Write;

use super::Engine;
use super::event::Timer;
use super::time::Moment;

impl Engine {
    pub(super) fn mark_is_stale(&self, after: Duration) -> bool {
        self.mark_written.is_none_or(|written| self.now.monotonic.saturating_sub(written) >= after)
    }

    /// Nothing old may wait, on the broker or here; what is not acknowledged comes again, and may be old.
    pub(super) fn mark_may_move(&self) -> bool {
        let may_come_again = self.withheld.may_come_again(self.now.monotonic);
        self.session.fence_is_lifted() && self.deferred.is_empty() && !may_come_again
    }

    pub(super) fn move_mark(&mut self) -> Write {
        let mark = Moment::at(self.now, self.settings.clock());
        self.mark = Some(mark.clone());
        self.mark_written = Some(self.now.monotonic);
        self.timers.set(Timer::Mark, self.now.monotonic + INTERVAL);
        Write::Mark(mark)
    }

    pub(super) fn mark_due(&mut self) {
        if self.mark_may_move() && self.mark_is_stale(RIDES_AFTER) {
            self.out.due = true;
        } else if self.session.fence_is_lifted() {
            self.timers.set(Timer::Mark, self.now.monotonic + INTERVAL);
        }
    }
}

/// How old the online mark may become by itself, while the fence is lifted: 10 minutes, so that an idle device writes
/// 144 times a day and no more.
const INTERVAL: Duration = Duration::from_secs(10 * 60);

/// How old it must be to ride along with another commit.
pub(super) const RIDES_AFTER: Duration = Duration::from_secs(5);
