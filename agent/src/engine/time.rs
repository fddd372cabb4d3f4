use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use iotdm_core::BootId;
use serde::{Deserialize, Serialize};

use super::event::Timer;

/// What time it is; the driver says so with every input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since the agent started; deadlines and backoff run on it. It never goes back.
    pub monotonic: Duration,
    /// Since this boot, sleep included; ages within one boot are measured on it.
    pub uptime: Duration,
    /// Since the Unix epoch; ages across boots are measured on it. It may jump, and may be wrong.
    pub wall: Duration,
}

/// A moment that can be compared with one of another boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Which boot it was in.
    #[serde(rename = "b")]
    pub boot: Box<str>,
    /// Milliseconds since that boot.
    #[serde(rename = "u")]
    pub uptime_ms: u64,
    /// Milliseconds since the Unix epoch, as that boot's clock had it.
    #[serde(rename = "w")]
    pub wall_ms: u64,
}

/// How old a request may be at the most; `Unknown` is older than every limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Age {
    /// At most this many milliseconds.
    AtMostMs(u64),
    /// No clock can tell.
    Unknown,
}

impl Moment {
    /// This moment.
    pub fn at(now: Now, boot: &BootId) -> Self {
        Self { boot: (*boot.0).into(), uptime_ms: millis(now.uptime), wall_ms: millis(now.wall) }
    }

    /// How long ago this moment was. Across boots only the wall clock can tell, and only when it is plausible: not
    /// before this moment, and not before the program was built.
    pub fn age(&self, now: Now, boot: &BootId) -> Age {
        if *self.boot == *boot.0 {
            // A clock that went back within one boot is a machine that was put back to a snapshot: nothing measures that.
            let age = millis(now.uptime).checked_sub(self.uptime_ms);
            return age.map_or(Age::Unknown, Age::AtMostMs);
        }
        let (then, wall) = (self.wall_ms, millis(now.wall));
        let plausible = then >= EARLIEST_WALL_MS && wall >= then;
        if plausible { Age::AtMostMs(wall - then) } else { Age::Unknown }
    }
}

impl Age {
    /// Older by another span.
    pub fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::AtMostMs(a), Self::AtMostMs(b)) => Self::AtMostMs(a.saturating_add(b)),
            _ => Self::Unknown,
        }
    }

    /// Whether it may exceed a limit.
    pub fn may_exceed(self, limit: Duration) -> bool {
        match self {
            Self::AtMostMs(age) => age > millis(limit),
            Self::Unknown => true,
        }
    }
}

/// The deadlines of the engine; one of each [`Timer`].
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_timer: BTreeMap<Timer, Duration>,
    by_time: BTreeSet<(Duration, Timer)>,
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at: Duration) {
        self.clear(&timer);
        self.by_timer.insert(timer.clone(), at);
        self.by_time.insert((at, timer));
    }

    pub(super) fn clear(&mut self, timer: &Timer) {
        if let Some(at) = self.by_timer.remove(timer) {
            self.by_time.remove(&(at, timer.clone()));
        }
    }

    /// Nothing happens before that time, if something was to happen.
    pub(super) fn put_off(&mut self, timer: &Timer, until: Duration) {
        if self.by_timer.get(timer).is_some_and(|at| *at < until) {
            self.set(timer.clone(), until);
        }
    }

    pub(super) fn is_set(&self, timer: &Timer) -> bool {
        self.by_timer.contains_key(timer)
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Ends the deadlines that belong to a connection.
    pub(super) fn clear_session(&mut self) {
        let of_session = |timer: &Timer| {
            !matches!(
                timer,
                Timer::Connect
                    | Timer::Task(_)
                    | Timer::Lane(_)
                    | Timer::Restart(_)
                    | Timer::Drain
                    | Timer::Notify(_)
            )
        };
        let ended: Vec<Timer> = self.by_timer.keys().filter(|timer| of_session(timer)).cloned().collect();
        for timer in &ended {
            self.clear(timer);
        }
    }

    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.by_time.pop_first()?;
        self.by_timer.remove(&timer);
        Some(timer)
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// 2026-01-01T00:00:00Z: a wall clock before it has not been set yet.
pub(crate) const EARLIEST_WALL_MS: u64 = 1_767_225_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    const T0: u64 = EARLIEST_WALL_MS + 1_000_000;

    fn boot(name: &str) -> BootId {
        BootId(name.into())
    }

    fn now(uptime_s: u64, wall_ms: u64) -> Now {
        Now {
            monotonic: Duration::ZERO,
            uptime: Duration::from_secs(uptime_s),
            wall: Duration::from_millis(wall_ms),
        }
    }

    fn check(moment: Now, then: Now, boot_then: &str, expected: Age) {
        assert_eq!(Moment::at(moment, &boot("a")).age(then, &boot(boot_then)), expected);
    }

    #[test]
    fn within_one_boot_the_wall_clock_does_not_matter() {
        check(now(10, T0), now(25, 0), "a", Age::AtMostMs(15_000));
        check(now(10, 0), now(25, T0), "a", Age::AtMostMs(15_000));
    }

    #[test]
    fn across_boots_the_wall_clock_tells_when_it_is_plausible() {
        check(now(10, T0), now(1, T0 + 7), "b", Age::AtMostMs(7));
        check(now(10, T0), now(1, T0 - 1), "b", Age::Unknown);
        check(now(10, 5), now(1, T0), "b", Age::Unknown);
    }

    #[test]
    fn a_boot_that_is_younger_than_the_moment_tells_nothing() {
        check(now(25, T0), now(10, T0), "a", Age::Unknown);
    }

    #[test]
    fn an_unknown_age_exceeds_every_limit() {
        assert!(Age::Unknown.may_exceed(Duration::MAX));
        assert!(Age::AtMostMs(5).plus(Age::Unknown).may_exceed(Duration::MAX));
        assert!(!Age::AtMostMs(5).plus(Age::AtMostMs(5)).may_exceed(Duration::from_millis(10)));
    }

    #[test]
    fn timers_fire_in_order_and_once() {
        let mut timers = Timers::default();
        timers.set(Timer::Connect, Duration::from_secs(2));
        timers.set(Timer::Mark, Duration::from_secs(1));
        timers.set(Timer::Connect, Duration::from_secs(3));
        assert_eq!(timers.pop_due(Duration::from_secs(2)), Some(Timer::Mark));
        assert_eq!(timers.pop_due(Duration::from_secs(2)), None);
        assert_eq!(timers.pop_due(Duration::from_secs(3)), Some(Timer::Connect));
        assert_eq!(timers.next(), None);
    }
}
