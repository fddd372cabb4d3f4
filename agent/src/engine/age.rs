//! How old a request may be when it arrives.

use std::time::Duration;

use super::Engine;
use super::time::{Age, millis};

impl Engine {
    /// How old a request that arrives at this moment may be, at the most. Two things tell: the order of the queue, with
    /// the answer to manage as its fence, and the broker's own count where it has one (MQTT 5 with message expiry).
    pub(super) fn age_on_arrival(&self, waited: Option<Duration>) -> Age {
        let by_order = self.age_by_order();
        let Some(waited) = waited else { return by_order };
        let at_most = Age::AtMostMs(millis(waited + COUNTED_BY + self.longest_transit()));
        let at_least = Age::AtMostMs(millis(waited.saturating_sub(COUNTED_BY)));
        // What waited longer than the order of the queue allows was not kept in order: then only the count tells.
        if by_order < at_least { at_most } else { by_order.min(at_most) }
    }

    /// What the order of the queue alone tells.
    pub(super) fn age_by_order(&self) -> Age {
        let delay = self.withheld.delay(self.now.monotonic);
        if self.session.fence_is_lifted() {
            return Age::AtMostMs(millis(delay));
        }
        let unnoticed = Age::AtMostMs(millis(self.settings.unnoticed + self.withheld_unnoticed()));
        self.mark
            .as_ref()
            .map_or(Age::Unknown, |mark| mark.age(self.now, self.settings.clock()).plus(unnoticed))
    }

    /// How long a message may have been on its way, after the broker counted: not longer than this connection exists,
    /// and not longer than a connection may be dead without anybody's notice.
    fn longest_transit(&self) -> Duration {
        self.session.connected_for(self.now.monotonic).min(self.settings.unnoticed)
    }
}

/// Brokers count whole seconds between two readings of a clock that shows whole seconds: the true wait is within a second
/// of it, on either side.
const COUNTED_BY: Duration = Duration::from_secs(1);
