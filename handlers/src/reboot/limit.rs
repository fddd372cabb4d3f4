use std::time::Duration;

use iotdm_core::{Context, iso8601};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::rules::request_of;

/// At most so many restarts within so much time, counted over restarts: a guard against a loop of them.
///
/// Each restart is recorded in the journal, as the attribute `agent.restarts`, before it begins. A request that is
/// begun again after a crash counts once; a restart that failed counts, since it may have come all the same; a dry run
/// does not.
///
/// # Guarantees
/// * A device that has been up for the whole time is free, whatever its clock says.
/// * Within one boot the wall clock does not matter.
/// * A record that cannot be read counts as none, and is written anew.
///
/// # Caveats
/// Between boots only the wall clock can tell how long the device was off. A clock that runs ahead, once, makes
/// earlier restarts look older than they are. One that was not set, or has been turned back, makes them count until
/// the device has been up for the whole time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartLimit {
    restarts: usize,
    within: Duration,
}

impl RestartLimit {
    /// At least one restart, and at most 100, are allowed within this time.
    #[must_use]
    pub fn new(restarts: usize, within: Duration) -> Self {
        Self { restarts: restarts.clamp(1, MAX_RESTARTS), within }
    }

    /// Whether one more is too many.
    pub(super) fn check(&self, cx: &Context, earliest: Duration) -> Result<(), TooMany> {
        let now = Now::of(cx, earliest);
        let own = request_of(cx);
        let mut ages: Vec<Duration> = recorded(cx)
            .iter()
            .filter(|entry| entry.request != own)
            .map(|entry| now.age_at_least(entry))
            .filter(|age| *age < self.within)
            .collect();
        // The youngest first; the one whose leaving makes room is the last that fits.
        ages.sort_unstable();
        let Some(age) = ages.get(self.restarts - 1) else { return Ok(()) };
        Err(TooMany { limit: *self, free_in: self.within - *age, wall: now.wall })
    }

    /// The attribute with this request's restart among those that count.
    pub(super) fn record(&self, cx: &Context, earliest: Duration) -> (String, Value) {
        let now = Now::of(cx, earliest);
        let request = request_of(cx);
        let mut entries = recorded(cx);
        entries.retain(|entry| entry.request != request && now.age_at_least(entry) < self.within);
        entries.push(Entry {
            request,
            wall: now.wall.map(|wall| wall.as_secs()),
            boot: now.boot,
            uptime: now.uptime.as_secs(),
        });
        // The newest are at the end.
        let surplus = entries.len().saturating_sub(MAX_RESTARTS);
        entries.drain(..surplus);
        (ATTRIBUTE.to_owned(), json!(entries))
    }

    /// The attribute without this request's restart, which was a dry run.
    pub(super) fn withdraw(cx: &Context) -> (String, Value) {
        let request = request_of(cx);
        let mut entries = recorded(cx);
        entries.retain(|entry| entry.request != request);
        (ATTRIBUTE.to_owned(), json!(entries))
    }
}

/// One restart more would be too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany {
    limit: RestartLimit,
    free_in: Duration,
    wall: Option<Duration>,
}

impl TooMany {
    pub(super) fn message(&self) -> String {
        let RestartLimit { restarts, within } = self.limit;
        let (plural, within) = (if restarts == 1 { "" } else { "s" }, in_words(within));
        let free = match self.wall {
            Some(wall) => {
                format!("from {} on", iso8601(Duration::from_secs(seconds_up(wall + self.free_in))))
            }
            None => format!("in {}", in_words(self.free_in)),
        };
        format!(
            "the limit of {restarts} restart{plural} within {within} is reached; the next one is possible {free}"
        )
    }
}

/// One restart that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Whose it is; see [`request_of`].
    request: String,
    /// Seconds since the epoch; none when the clock was not set.
    wall: Option<u64>,
    /// The boot it ended, unless it did not come about, and how long that was up by then, in seconds.
    boot: String,
    uptime: u64,
}

struct Now {
    wall: Option<Duration>,
    boot: String,
    uptime: Duration,
}

impl Now {
    fn of(cx: &Context, earliest: Duration) -> Self {
        let system = cx.system();
        Self {
            wall: Some(system.wall_clock()).filter(|wall| *wall >= earliest),
            boot: system.boot_id().0.to_string(),
            uptime: system.uptime(),
        }
    }

    fn age_at_least(&self, entry: &Entry) -> Duration {
        if entry.boot == self.boot {
            return self.uptime.saturating_sub(Duration::from_secs(entry.uptime));
        }
        // It came before this boot.
        let by_wall =
            self.wall.zip(entry.wall).and_then(|(now, then)| now.checked_sub(Duration::from_secs(then)));
        by_wall.unwrap_or_default().max(self.uptime)
    }
}

fn recorded(cx: &Context) -> Vec<Entry> {
    match cx.attribute::<Value>(ATTRIBUTE).filter(|value| !value.is_null()) {
        None => Vec::new(),
        Some(value) => serde_json::from_value(value).unwrap_or_else(|error| {
            tracing::warn!(%error, "the record of restarts cannot be read; it begins anew");
            Vec::new()
        }),
    }
}

/// A time in its two largest units.
fn in_words(time: Duration) -> String {
    let seconds = seconds_up(time);
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(units.len() - 1);
    let mut left = seconds;
    let mut words = Vec::new();
    for (unit, name) in units.iter().skip(first).take(2) {
        if left / unit > 0 || words.is_empty() {
            words.push(format!("{}{name}", left / unit));
        }
        left %= unit;
    }
    words.join(" ")
}

fn seconds_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Where restarts are recorded: an attribute is durable before the restart begins, and changes in one step. The
/// platform cannot set it.
const ATTRIBUTE: &str = "agent.restarts";

/// How many restarts are recorded; each takes about 100 bytes of an attribute.
const MAX_RESTARTS: usize = 100;

#[cfg(test)]
mod tests {
    use iotdm_core::{ContextParts, ReqId};

    use super::*;
    use crate::fake::{FakeServices, FakeSystem, parts};

    const EARLIEST: Duration = Duration::from_secs(1_767_225_600);
    /// 2026-06-01T00:00:00Z.
    const JUNE: Duration = Duration::from_secs(1_780_272_000);
    const HOUR: Duration = Duration::from_secs(3600);

    /// A device whose clocks are moved by hand.
    struct Device {
        system: FakeSystem,
        services: FakeServices,
        limit: RestartLimit,
        requests: u32,
        boots: u32,
    }

    impl Device {
        fn new(restarts: usize, within: Duration) -> Self {
            let system = FakeSystem::new();
            system.set_wall_clock(JUNE);
            let limit = RestartLimit::new(restarts, within);
            Self { system, services: FakeServices::new(), limit, requests: 0, boots: 1 }
        }

        fn context(&self) -> Context {
            let req_id = Some(ReqId::from_text(&format!("r{}", self.requests)));
            Context::new(ContextParts { req_id, ..parts(&self.system, &self.services) })
        }

        /// Another request: it is refused, or the machine restarts and is up for a minute.
        async fn restart(&mut self, wall: Duration) -> Result<(), String> {
            self.requests += 1;
            let cx = self.context();
            self.limit.check(&cx, EARLIEST).map_err(|refused| refused.message())?;
            cx.set_attributes(vec![self.limit.record(&cx, EARLIEST)]).await.unwrap();
            self.boot(wall);
            Ok(())
        }

        fn boot(&mut self, wall: Duration) {
            self.boots += 1;
            self.system.set_boot_id(&format!("boot-{}", self.boots));
            self.system.set_uptime(Duration::from_secs(60));
            self.system.set_wall_clock(wall);
        }
    }

    #[tokio::test]
    async fn one_too_many_is_refused_until_the_first_is_old_enough() {
        let mut device = Device::new(2, 24 * HOUR);
        assert_eq!(device.restart(JUNE + HOUR).await, Ok(()));
        assert_eq!(device.restart(JUNE + 2 * HOUR).await, Ok(()));
        let told = "the limit of 2 restarts within 1d is reached; the next one is possible from 2026-06-02T00:00:00.000Z on";
        assert_eq!(device.restart(JUNE + 3 * HOUR).await, Err(told.into()));
        device.system.set_wall_clock(JUNE + 24 * HOUR);
        assert_eq!(device.restart(JUNE + 24 * HOUR + HOUR / 2).await, Ok(()));
        assert!(device.restart(JUNE + 26 * HOUR).await.is_err(), "the second one still counts");
    }

    #[tokio::test]
    async fn a_clock_that_was_never_set_does_not_open_the_loop() {
        let mut device = Device::new(1, HOUR);
        device.system.set_wall_clock(Duration::ZERO);
        assert_eq!(device.restart(Duration::ZERO).await, Ok(()));
        let told = "the limit of 1 restart within 1h is reached; the next one is possible in 59m";
        assert_eq!(device.restart(Duration::ZERO).await, Err(told.into()));
        // It is set afterwards: how long the device was off stays unknown.
        device.system.set_wall_clock(JUNE);
        assert!(device.restart(JUNE).await.is_err());
        device.system.set_uptime(HOUR);
        assert_eq!(device.restart(JUNE + HOUR).await, Ok(()));
    }

    #[tokio::test]
    async fn a_clock_that_is_turned_back_keeps_the_guard_up_only_for_its_time() {
        let mut device = Device::new(1, HOUR);
        assert_eq!(device.restart(JUNE - 1000 * HOUR).await, Ok(()));
        assert!(device.restart(JUNE).await.is_err());
        device.system.set_uptime(HOUR);
        assert_eq!(device.restart(JUNE).await, Ok(()));
    }

    #[tokio::test]
    async fn a_restart_that_never_came_is_dated_by_the_uptime_whatever_the_clock_does() {
        let mut device = Device::new(1, HOUR);
        let cx = device.context();
        cx.set_attributes(vec![device.limit.record(&cx, EARLIEST)]).await.unwrap();
        device.system.set_wall_clock(JUNE + 1000 * HOUR);
        device.requests += 1;
        assert!(device.limit.check(&device.context(), EARLIEST).is_err());
        device.system.set_uptime(Duration::from_secs(60) + HOUR);
        assert_eq!(device.limit.check(&device.context(), EARLIEST), Ok(()));
    }

    #[tokio::test]
    async fn a_request_that_is_begun_again_counts_once_and_one_that_is_withdrawn_not_at_all() {
        let device = Device::new(1, HOUR);
        let cx = device.context();
        for _ in 0..2 {
            cx.set_attributes(vec![device.limit.record(&cx, EARLIEST)]).await.unwrap();
            assert_eq!(device.limit.check(&cx, EARLIEST), Ok(()));
        }
        assert_eq!(recorded(&cx).len(), 1);
        cx.set_attributes(vec![RestartLimit::withdraw(&cx)]).await.unwrap();
        assert_eq!(recorded(&cx), []);
    }

    #[tokio::test]
    async fn a_damaged_record_counts_as_none_and_is_written_anew() {
        for damaged in [json!("torn"), json!([{"request": 1}]), json!({"a": []}), json!([[]])] {
            let mut device = Device::new(1, HOUR);
            device.services.preset(ATTRIBUTE, damaged);
            assert_eq!(device.restart(JUNE).await, Ok(()));
            assert!(device.restart(JUNE).await.is_err());
        }
    }

    #[tokio::test]
    async fn the_record_is_bounded() {
        let mut device = Device::new(1000, 1000 * HOUR);
        for _ in 0..MAX_RESTARTS {
            assert_eq!(device.restart(JUNE).await, Ok(()));
        }
        assert!(device.restart(JUNE).await.is_err());
        assert_eq!(recorded(&device.context()).len(), MAX_RESTARTS);
        assert!(json!(recorded(&device.context())).to_string().len() < 16 * 1024);
    }

    #[test]
    fn times_are_told_in_two_units() {
        let said: Vec<String> =
            [0, 1, 61, 3600, 90_000, 172_800].map(|seconds| in_words(Duration::from_secs(seconds))).into();
        assert_eq!(said, ["0s", "1s", "1m 1s", "1h", "1d 1h", "2d"]);
    }
}
