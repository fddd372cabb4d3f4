//! How fast an image may be fetched.

use std::num::NonZeroU64;
use std::time::Duration;

/// Keeps the average below a rate. Time that the source itself took counts.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: NonZeroU64,
    /// When the bytes so far may have arrived, by the time since boot.
    due: Duration,
}

impl Pace {
    pub(super) fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second, due: Duration::ZERO }
    }

    /// How long to rest after so many bytes that have just arrived.
    pub(super) fn pause(&mut self, bytes: u64, uptime: Duration) -> Duration {
        // A source that was slow for long must not be fast for long afterwards.
        let since = self.due.max(uptime.saturating_sub(CREDIT));
        self.due = since + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.get() as f64);
        self.due.saturating_sub(uptime)
    }
}

/// How much time that was not used may be made up for.
const CREDIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds that so many pieces take, each of which needs `each` to arrive.
    fn seconds(pieces: u32, each: Duration) -> f64 {
        let mut pace = Pace::new(NonZeroU64::new(1000).unwrap());
        let begin = Duration::from_secs(1_000_000);
        let mut uptime = begin;
        for _ in 0..pieces {
            uptime += each;
            uptime += pace.pause(100, uptime);
        }
        (uptime - begin).as_secs_f64()
    }

    #[test]
    fn the_average_comes_to_the_rate_and_not_above_it() {
        // 100 000 bytes at 1000 per second, less the one second that may be made up for.
        assert!((98.9..=100.1).contains(&seconds(1000, Duration::ZERO)));
        assert!((98.9..=100.1).contains(&seconds(1000, Duration::from_millis(50))));
    }

    #[test]
    fn a_source_that_is_slower_than_the_rate_is_not_slowed() {
        assert_eq!(seconds(100, Duration::from_millis(200)), 20.0);
    }

    #[test]
    fn a_long_silence_is_not_made_up_for() {
        let mut pace = Pace::new(NonZeroU64::new(1000).unwrap());
        let begin = Duration::from_secs(1_000_000);
        pace.pause(100, begin);
        let later = begin + Duration::from_secs(3600);
        let total: Duration = (0..100).map(|_| pace.pause(100, later)).last().unwrap();
        assert_eq!(total, Duration::from_secs(9), "10 000 bytes take ten seconds, less one");
    }
}
