//! How the connections before this one ended, and the pause before the next that follows from it.

use std::time::Duration;

use fastrand::Rng;

use crate::engine::event::Lost;
use crate::engine::time::millis;

/// What is remembered of the connections before this one.
#[derive(Debug, Default)]
pub(super) struct Endings {
    /// Connections in a row that did not last.
    failures: u32,
    /// Connections in a row that the broker closed soon after the subscription; others in between do not count.
    closed_soon: u32,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) lost: Lost,
    /// How long it lasted after CONNACK; none when the subscription was not granted, or never asked for.
    pub(super) lasted: Option<Duration>,
}

/// What follows from the end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// How long to wait before the next.
    pub(super) pause: Duration,
    /// The broker has just closed so many connections in a row that somebody has to look into it; said once a series.
    pub(super) contested: bool,
}

impl Endings {
    /// A connection has ended.
    pub(super) fn after(&mut self, Ending { lost, lasted }: Ending, rng: &mut Rng) -> Next {
        let stable = lasted.is_some_and(|lasted| lasted >= STABLE_AFTER);
        self.failures = if stable { 0 } else { self.failures.saturating_add(1) };
        match lasted {
            Some(lasted) if lasted >= CONTESTED_WITHIN => self.closed_soon = 0,
            Some(_) if lost == Lost::Closed => self.closed_soon = self.closed_soon.saturating_add(1),
            // The network was to blame, or the broker was away: that says nothing about another client.
            _ => {}
        }
        let pause = match lost {
            Lost::Credentials => REFUSED_PAUSE + jitter(rng, REFUSED_PAUSE),
            Lost::Subscription => UNSUBSCRIBED_PAUSE + jitter(rng, UNSUBSCRIBED_PAUSE),
            Lost::Closed | Lost::Other => self.backoff(rng).max(self.contest(lost, rng)),
        };
        Next { pause, contested: lost == Lost::Closed && self.closed_soon == CONTESTED_AT }
    }

    /// Full jitter: a fleet that lost its broker does not come back in step.
    fn backoff(&self, rng: &mut Rng) -> Duration {
        jitter(rng, doubled(BACKOFF_BASE, self.failures.saturating_sub(1), BACKOFF_CAP))
    }

    /// Somebody who takes the connection away each time gets it for longer and longer. Half of the pause is certain, or
    /// two agents with one client id would go on taking it from each other.
    fn contest(&self, lost: Lost, rng: &mut Rng) -> Duration {
        match self.closed_soon.checked_sub(CONTESTED_AT) {
            Some(doublings) if lost == Lost::Closed => {
                let half = doubled(CONTESTED_BASE, doublings, CONTESTED_CAP) / 2;
                half + jitter(rng, half)
            }
            _ => Duration::ZERO,
        }
    }
}

fn doubled(base: Duration, doublings: u32, cap: Duration) -> Duration {
    base.saturating_mul(1 << doublings.min(16)).min(cap)
}

fn jitter(rng: &mut Rng, up_to: Duration) -> Duration {
    Duration::from_millis(rng.u64(0..=millis(up_to)))
}

/// A connection that lasted this long did not fail: the next attempt comes soon.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// The longest pause before the second attempt; it doubles with each failure.
const BACKOFF_BASE: Duration = Duration::from_secs(1);

/// The longest pause between attempts.
const BACKOFF_CAP: Duration = Duration::from_secs(2 * 60);

/// The shortest pause after refused credentials: only a person can mend that.
const REFUSED_PAUSE: Duration = Duration::from_secs(5 * 60);

/// The shortest pause after a refused subscription: a person has to mend the broker's permissions.
const UNSUBSCRIBED_PAUSE: Duration = Duration::from_secs(60);

/// So many connections in a row that the broker closed are no restart of the broker.
const CONTESTED_AT: u32 = 4;

/// A connection that lasted this long was not taken away by somebody who wants it too: longer than any pause of theirs.
const CONTESTED_WITHIN: Duration = Duration::from_secs(10 * 60);

/// The longest pause after [`CONTESTED_AT`] connections that were closed; it doubles with each further one.
const CONTESTED_BASE: Duration = Duration::from_secs(20);

/// The longest pause between such connections: two agents with one client id connect 16 times an hour in all.
const CONTESTED_CAP: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn rng() -> Rng {
        Rng::with_seed(7)
    }

    fn up(lost: Lost, secs: u64) -> Ending {
        Ending { lost, lasted: Some(Duration::from_secs(secs)) }
    }

    /// The pauses after these endings, in order.
    fn pauses(endings: &[Ending]) -> Vec<Duration> {
        let (mut history, mut rng) = (Endings::default(), rng());
        endings.iter().map(|ending| history.after(*ending, &mut rng).pause).collect()
    }

    #[test]
    fn a_broker_that_is_restarted_three_times_is_asked_again_at_once() {
        let pauses = pauses(&[up(Lost::Closed, 100); 3]);
        assert!(pauses.iter().all(|pause| *pause <= BACKOFF_BASE), "{pauses:?}");
    }

    #[test]
    fn from_the_fourth_connection_that_is_closed_soon_on_each_pause_is_longer_up_to_five_minutes() {
        let pauses = pauses(&[up(Lost::Closed, 100); 12]);
        for (n, pause) in pauses[3..].iter().enumerate() {
            let most = doubled(CONTESTED_BASE, u32::try_from(n).unwrap(), CONTESTED_CAP);
            assert!((most / 2..=most).contains(pause), "{n}: {pause:?}");
        }
        assert!(pauses[11] >= CONTESTED_CAP / 2);
    }

    #[test]
    fn a_series_of_closed_connections_is_said_once() {
        let (mut history, mut rng) = (Endings::default(), rng());
        let mut said = || (0..20).filter(|_| history.after(up(Lost::Closed, 5), &mut rng).contested).count();
        assert_eq!((said(), said()), (1, 0));
    }

    #[test]
    fn a_connection_that_lasted_ten_minutes_ends_a_series() {
        let mut endings = vec![up(Lost::Closed, 5); 10];
        endings.extend([up(Lost::Closed, 600), up(Lost::Closed, 100)]);
        assert!(pauses(&endings)[10..].iter().all(|pause| *pause <= BACKOFF_BASE));
    }

    /// On a mobile network connections break often; nobody else has anything to do with it.
    #[test]
    fn connections_that_the_network_broke_are_no_series() {
        let pauses = pauses(&[up(Lost::Other, 100); 50]);
        assert!(pauses.iter().all(|pause| *pause <= BACKOFF_BASE), "{pauses:?}");
    }

    #[test]
    fn after_a_refused_subscription_at_least_a_minute_passes() {
        let pauses = pauses(&[Ending { lost: Lost::Subscription, lasted: None }; 50]);
        assert!(pauses.iter().all(|pause| *pause >= UNSUBSCRIBED_PAUSE && *pause <= 2 * UNSUBSCRIBED_PAUSE));
    }
}
