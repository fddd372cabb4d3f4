use std::str::FromStr;
use std::time::Duration;

/// When restarts are allowed: times of the day in UTC, on all days of the week or some.
///
/// ```
/// # use std::time::Duration;
/// use iotdm_handlers::reboot::MaintenanceWindows;
///
/// let windows = MaintenanceWindows::new(["Mon-Fri 01:00-04:00", "Sat,Sun 22:00-06:00"]).unwrap();
/// let monday_noon = Duration::from_secs(1_780_315_200); // 2026-06-01T12:00:00Z
/// assert!(!windows.contains(monday_noon));
/// assert_eq!(windows.next_opening(monday_noon), monday_noon + Duration::from_secs(13 * 3600));
/// ```
///
/// # Guarantees
/// * The first minute belongs to a window, its last one does not: `01:00-04:00` is open at 01:00:00 and closed at
///   04:00:00.
/// * A window whose end is not after its start ends on the next day. The days name the one on which it opens.
/// * `00:00-24:00` is a whole day.
///
/// # Caveats
/// Times are UTC, the only ones that are the same on each device and in each season: local time would need a database
/// of time zones, and a night of each spring would have no 02:30.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaintenanceWindows {
    // In minutes of the week, from Monday 00:00.
    openings: Vec<Opening>,
}

/// One opening in the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Opening {
    from: u64,
    minutes: u64,
}

impl MaintenanceWindows {
    /// Windows as an operator writes them: `01:00-04:00`, `Mon-Fri 01:00-04:00` or `Sat,Sun 22:00-06:00`.
    ///
    /// # Errors
    /// [`WindowError`] for the first text that is no window, for none at all, and for more than 32.
    pub fn new<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, WindowError> {
        let mut openings = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            if index == MAX_WINDOWS {
                return Err(WindowError::TooMany);
            }
            let window: Window = text.as_ref().parse()?;
            openings.extend(window.openings());
        }
        if openings.is_empty() { Err(WindowError::None) } else { Ok(Self { openings }) }
    }

    /// Whether a window is open at this time since the Unix epoch.
    #[must_use]
    pub fn contains(&self, since_epoch: Duration) -> bool {
        let now = second_of_the_week(since_epoch);
        self.openings.iter().any(|opening| {
            let open_for = (now + WEEK_SECONDS - opening.from * MINUTE_SECONDS) % WEEK_SECONDS;
            open_for < opening.minutes * MINUTE_SECONDS
        })
    }

    /// When a window opens next, at or after this time since the Unix epoch, in whole seconds.
    #[must_use]
    pub fn next_opening(&self, since_epoch: Duration) -> Duration {
        // A part of a second is over: no window opened in the middle of it.
        let whole = since_epoch.as_secs() + u64::from(since_epoch.subsec_nanos() > 0);
        let now = second_of_the_week(Duration::from_secs(whole));
        let wait = self
            .openings
            .iter()
            .map(|opening| (opening.from * MINUTE_SECONDS + WEEK_SECONDS - now) % WEEK_SECONDS)
            .min()
            .expect("`new` makes none without an opening");
        Duration::from_secs(whole + wait)
    }
}

/// Why a text is no maintenance window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WindowError {
    /// It has another form.
    #[error("{0:?} is no maintenance window; write days and times in UTC, such as \"Mon-Fri 01:00-04:00\"")]
    Form(String),
    /// It names a day that is none.
    #[error("{0:?} is no day; write Mon, Tue, Wed, Thu, Fri, Sat or Sun")]
    Day(String),
    /// It names a time that is none.
    #[error("{0:?} is no time; write hours and minutes from 00:00 to 24:00")]
    Time(String),
    /// It opens and closes at the same time.
    #[error("{0:?} opens and closes at the same time; write 00:00-24:00 for the whole day")]
    Empty(String),
    /// There is none.
    #[error("no maintenance window is given; write one, such as \"Mon-Fri 01:00-04:00\", or leave it out")]
    None,
    /// There are too many.
    #[error("more than {MAX_WINDOWS} maintenance windows are given; merge some")]
    TooMany,
}

/// One window as it is written.
struct Window {
    /// From Monday on.
    days: [bool; 7],
    /// Minutes of the day.
    from: u64,
    to: u64,
}

impl Window {
    fn openings(&self) -> impl Iterator<Item = Opening> {
        let minutes =
            if self.to > self.from { self.to - self.from } else { self.to + DAY_MINUTES - self.from };
        let (days, from) = (self.days, self.from);
        (0..7u64)
            .filter(move |day| days[usize::try_from(*day).expect("a week has seven days")])
            .map(move |day| Opening { from: day * DAY_MINUTES + from, minutes })
    }
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let form = || WindowError::Form(shortened(text));
        let mut words = text.split_whitespace();
        let (first, second) = (words.next().ok_or_else(form)?, words.next());
        if words.next().is_some() {
            return Err(form());
        }
        let (days, times) = match second {
            Some(times) => (days(first)?, times),
            None => ([true; 7], first),
        };
        let (from, to) = times.split_once('-').ok_or_else(form)?;
        let (from, to) = (time(from)?, time(to)?);
        match from == to {
            true => Err(WindowError::Empty(shortened(text))),
            false if from == DAY_MINUTES => Err(WindowError::Time("24:00".into())),
            false => Ok(Self { days, from, to }),
        }
    }
}

fn days(text: &str) -> Result<[bool; 7], WindowError> {
    let day = |name: &str| {
        DAYS.iter()
            .position(|day| day.eq_ignore_ascii_case(name))
            .ok_or_else(|| WindowError::Day(shortened(name)))
    };
    let mut named = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut current, last) = (day(first)?, day(last)?);
        named[current] = true;
        while current != last {
            current = (current + 1) % 7;
            named[current] = true;
        }
    }
    Ok(named)
}

/// A time of the day, in minutes.
fn time(text: &str) -> Result<u64, WindowError> {
    let wrong = || WindowError::Time(shortened(text));
    let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
    let number = |digits: &str| {
        let is_number = (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse::<u64>().ok()).flatten().ok_or_else(wrong)
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let total = hours * 60 + minutes;
    if minutes > 59 || total > DAY_MINUTES { Err(wrong()) } else { Ok(total) }
}

/// The epoch was a Thursday.
fn second_of_the_week(since_epoch: Duration) -> u64 {
    (since_epoch.as_secs() % WEEK_SECONDS + 3 * DAY_MINUTES * MINUTE_SECONDS) % WEEK_SECONDS
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_QUOTED_CHARS).collect()
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MINUTE_SECONDS: u64 = 60;
const DAY_MINUTES: u64 = 24 * 60;
const WEEK_SECONDS: u64 = 7 * DAY_MINUTES * MINUTE_SECONDS;

/// How many windows one action may have: four for each day, and some to spare.
const MAX_WINDOWS: usize = 32;

/// How much of a wrong text an error repeats, in characters.
const MAX_QUOTED_CHARS: usize = 40;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-06-01T00:00:00Z, a Monday.
    const MONDAY: u64 = 1_780_272_000;

    fn windows(texts: &[&str]) -> MaintenanceWindows {
        MaintenanceWindows::new(texts).unwrap()
    }

    /// Day of this week from Monday, hours, minutes, seconds.
    fn at(day: u64, hours: u64, minutes: u64, seconds: u64) -> Duration {
        Duration::from_secs(MONDAY + ((day * 24 + hours) * 60 + minutes) * 60 + seconds)
    }

    #[test]
    fn a_window_is_open_from_its_first_second_to_the_one_before_its_end() {
        let windows = windows(&["Mon-Fri 01:00-04:00"]);
        let expected = [
            (at(0, 0, 59, 59), false),
            (at(0, 1, 0, 0), true),
            (at(0, 3, 59, 59), true),
            (at(0, 4, 0, 0), false),
            (at(4, 2, 0, 0), true),
            (at(5, 2, 0, 0), false),
        ];
        for (time, open) in expected {
            assert_eq!(windows.contains(time), open, "{time:?}");
        }
        assert_eq!(windows.next_opening(at(4, 4, 0, 0)), at(7, 1, 0, 0), "over the weekend");
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_opens() {
        let windows = windows(&["Sun 22:00-06:00"]);
        assert!(windows.contains(at(6, 23, 0, 0)) && windows.contains(at(0, 5, 59, 59)));
        assert!(!windows.contains(at(6, 5, 0, 0)) && !windows.contains(at(0, 22, 0, 0)));
        assert_eq!(windows.next_opening(at(0, 6, 0, 0)), at(6, 22, 0, 0));
    }

    #[test]
    fn days_may_be_listed_ranged_and_wrapped() {
        let open = |text: &str| -> Vec<u64> {
            let windows = windows(&[text]);
            (0..7).filter(|day| windows.contains(at(*day, 12, 0, 0))).collect()
        };
        assert_eq!(open("00:00-24:00"), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(open("mon,Wed 11:00-13:00"), [0, 2]);
        assert_eq!(open("Sat-Mon,Thu 11:00-13:00"), [0, 3, 5, 6]);
    }

    #[test]
    fn a_wrong_text_is_told_with_what_would_be_right() {
        let said = |text: &str| MaintenanceWindows::new([text]).unwrap_err().to_string();
        assert!(said("").contains("such as \"Mon-Fri 01:00-04:00\""));
        assert!(said("01:00").contains("is no maintenance window"));
        assert!(said("Mon 01:00-02:00 UTC").contains("is no maintenance window"));
        assert_eq!(said("Mo 01:00-02:00"), "\"Mo\" is no day; write Mon, Tue, Wed, Thu, Fri, Sat or Sun");
        for time in ["25:00", "24:01", "1:60", "+1:00", "1", "", "001:00"] {
            assert!(said(&format!("{time}-02:00")).contains("is no time; write hours and minutes"), "{time}");
        }
        assert!(said("24:00-02:00").contains("is no time"));
        assert!(said("02:00-02:00").contains("write 00:00-24:00 for the whole day"));
        assert_eq!(MaintenanceWindows::new([""; 0]), Err(WindowError::None));
        assert_eq!(MaintenanceWindows::new(["01:00-02:00"; 33]), Err(WindowError::TooMany));
        assert!(said(&"x".repeat(10_000)).len() < 200, "bounded");
    }

    /// Day, from, to; the days and times of one window, as text and as numbers.
    fn window() -> impl Strategy<Value = (usize, u64, u64)> {
        (0..7usize, 0..1440u64, 1..=1440u64).prop_filter("empty", |(_, from, to)| from != to)
    }

    /// Judged minute by minute from the calendar that `iso8601` knows, not from arithmetic of our own.
    fn is_open(windows: &[(usize, u64, u64)], since_epoch: Duration) -> bool {
        let text = iotdm_core::iso8601(since_epoch);
        let number = |range: std::ops::Range<usize>| text[range].parse::<u64>().unwrap();
        let minute = number(11..13) * 60 + number(14..16);
        let (year, month, day) = (number(0..4), number(5..7), number(8..10));
        // Sakamoto's rule, with Sunday as 0.
        let shift = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4][usize::try_from(month - 1).unwrap()];
        let year = if month < 3 { year - 1 } else { year };
        let sunday_first = (year + year / 4 - year / 100 + year / 400 + shift + day) % 7;
        let today = usize::try_from((sunday_first + 6) % 7).unwrap();
        windows.iter().any(|(opens_on, from, to)| {
            let yesterday = (today + 6) % 7;
            if from < to {
                *opens_on == today && (*from..*to).contains(&minute)
            } else {
                (*opens_on == today && minute >= *from) || (*opens_on == yesterday && minute < *to)
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

        #[test]
        fn windows_are_open_when_the_calendar_says_so(
            chosen in prop::collection::vec(window(), 1..4),
            seconds in 0..8_000_000_000u64,
        ) {
            let clock = |minutes: u64| format!("{:02}:{:02}", minutes / 60, minutes % 60);
            let texts: Vec<String> = chosen
                .iter()
                .map(|(day, from, to)| format!("{} {}-{}", DAYS[*day], clock(*from), clock(*to)))
                .collect();
            let windows = MaintenanceWindows::new(&texts).unwrap();
            let now = Duration::from_secs(seconds);
            prop_assert_eq!(windows.contains(now), is_open(&chosen, now), "{:?} at {}", texts, iotdm_core::iso8601(now));

            let next = windows.next_opening(now);
            prop_assert!(next >= now && next - now <= Duration::from_secs(WEEK_SECONDS));
            prop_assert!(is_open(&chosen, next), "{:?} at {}", texts, iotdm_core::iso8601(next));
            if !windows.contains(now) {
                let mut between = now;
                while between + Duration::from_secs(60) < next {
                    between += Duration::from_secs(60);
                    prop_assert!(!is_open(&chosen, between), "it opens before {}", iotdm_core::iso8601(next));
                }
            }
        }
    }
}
