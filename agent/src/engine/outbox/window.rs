//! How much may be on its way to the broker.

use super::Outbox;

impl Outbox {
    /// One that shares its connection with hundreds.
    pub(in crate::engine) fn of_many() -> Self {
        Self { window: WINDOW_OF_MANY, ..Self::default() }
    }

    fn window(&self) -> u64 {
        if self.window == 0 { WINDOW } else { self.window }
    }

    /// Whether the window allows another publish. Counted from the oldest unacknowledged one, so that the link's
    /// packet identifiers can never collide.
    pub(in crate::engine) fn window_open(&self) -> bool {
        self.span() < self.window()
    }

    /// Whether an event may leave: the last places of the window are for what stands here.
    pub(in crate::engine) fn has_room_for_events(&self) -> bool {
        let kept_free = (EVENTS_WINDOW as u64).min(self.window() / 2);
        self.span() < self.window() - kept_free
    }

    /// Of one that shares its connection, simply how many: the connection counts, and gives numbers of its own.
    fn span(&self) -> u64 {
        if self.window != 0 {
            return self.in_flight.len() as u64;
        }
        self.in_flight.first_key_value().map_or(0, |(oldest, _)| self.next_publish - oldest.0)
    }
}

/// How many publishes may be on their way, counted from the oldest that is not acknowledged.
pub(crate) const WINDOW: u64 = 64;

/// How many of one attached device: the connection's own window is shared by all of them, and what waits for it is
/// bounded by this many for each.
const WINDOW_OF_MANY: u64 = 8;

/// How many of those events may be, and how many places of the window they leave; half of a smaller one.
pub(crate) const EVENTS_WINDOW: usize = 16;
