//! When a change of an observed attribute is worth a notification: the rules, and what each observer was told last.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use iotdm_core::{BootId, Location, attribute};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::key::digest;
use super::time::{Age, Moment, Now};

/// When a change of an observed attribute is worth a notification (`docs/protocol.md` §6.4).
///
/// Everything that is not limited here counts: a member without a least change of its own is notified whenever it
/// differs. What is not notified at once is never lost: the newest value goes out when the interval ends, if it still
/// differs by enough. The answer to an observe always has the current value.
///
/// ```
/// use std::time::Duration;
///
/// use iotdm_agent::Threshold;
///
/// let temperature = Threshold::new().min_change(0.5).min_interval(Duration::from_secs(30));
/// let climate = Threshold::new().min_change_of("inside.celsius", 0.5).ignore("measuredAt");
/// let location = Threshold::new().min_metres(25.0);
/// # let _ = (temperature, climate, location);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Threshold {
    /// By the path of a member, its names with dots between; the empty path is the attribute itself.
    min_change: BTreeMap<String, f64>,
    ignored: BTreeSet<String>,
    min_metres: Option<f64>,
    min_interval: Duration,
}

impl Threshold {
    /// Every change counts, at any time.
    pub fn new() -> Self {
        Self::default()
    }

    /// The attribute is a number, and a change counts when it is at least this large.
    #[must_use]
    pub fn min_change(self, amount: f64) -> Self {
        self.min_change_of("", amount)
    }

    /// The same for a member that is a number, named by its path: `celsius`, or `inside.celsius`.
    #[must_use]
    pub fn min_change_of(mut self, member: impl Into<String>, amount: f64) -> Self {
        self.min_change.insert(member.into(), amount);
        self
    }

    /// Changes of this member do not count, such as the time of a measurement. A notification has all members.
    #[must_use]
    pub fn ignore(mut self, member: impl Into<String>) -> Self {
        self.ignored.insert(member.into());
        self
    }

    /// For `location`: a change counts when the device has moved by at least this many metres, and nothing else of it
    /// does. The distance is [`Location::metres_to`].
    #[must_use]
    pub fn min_metres(mut self, metres: f64) -> Self {
        self.min_metres = Some(metres);
        self
    }

    /// The least time between two notifications. The first one after an observe goes out at once.
    #[must_use]
    pub fn min_interval(mut self, interval: Duration) -> Self {
        self.min_interval = interval;
        self
    }

    /// Whether an agent can keep to it for this attribute.
    ///
    /// # Errors
    /// What is wrong, in words that say what would be right.
    pub fn check(&self, name: &str) -> Result<(), &'static str> {
        let is_amount = |amount: &f64| amount.is_finite() && *amount > 0.0;
        if name == "mgmt" || name.starts_with("mgmt.") {
            return Err(
                "the platform waits for each step of a firmware request; it is always notified at once",
            );
        }
        if !self.min_change.values().chain(&self.min_metres).all(is_amount) {
            return Err("a least change is a number above 0; leave it out to be notified of every change");
        }
        if self.min_metres.is_some() && name != attribute::LOCATION {
            return Err("only location has a least change in metres");
        }
        if self.min_metres.is_some() && !(self.min_change.is_empty() && self.ignored.is_empty()) {
            return Err(
                "with a least change in metres nothing else of location counts; give one or the other",
            );
        }
        if self.min_change.len() > 1 && self.min_change.contains_key("") {
            return Err("an attribute that is a number itself has no members");
        }
        if self.min_change.len() + self.ignored.len() > MAX_MEMBERS {
            return Err("at most 32 members can have a least change or be ignored");
        }
        if self.min_interval > MAX_INTERVAL {
            return Err("the least time between notifications is a day at the most");
        }
        Ok(())
    }

    /// What it means for a member of its attribute that is observed by itself.
    fn of_member(&self, member: &str) -> Self {
        let below = |path: &String| {
            let rest = path.strip_prefix(member)?;
            if rest.is_empty() { Some(String::new()) } else { rest.strip_prefix('.').map(str::to_owned) }
        };
        Self {
            min_change: self
                .min_change
                .iter()
                .filter_map(|(path, least)| Some((below(path)?, *least)))
                .collect(),
            // Who observes what is ignored otherwise wants to hear of it.
            ignored: self.ignored.iter().filter_map(below).filter(|path| !path.is_empty()).collect(),
            min_metres: None,
            min_interval: self.min_interval,
        }
    }

    /// What counts of a value.
    fn essence(&self, value: &Value) -> Essence {
        let numbers = |pairs: Vec<(String, f64)>| pairs.into_iter().collect();
        if self.min_metres.is_some()
            && let Ok(place) = Location::deserialize(value)
        {
            let pairs = vec![(LONGITUDE.to_owned(), place.longitude), (LATITUDE.to_owned(), place.latitude)];
            return Essence { numbers: numbers(pairs), rest: String::new() };
        }
        if self.min_change.is_empty() && self.ignored.is_empty() {
            return Essence { numbers: BTreeMap::new(), rest: fingerprint(value) };
        }
        let (mut rest, mut pairs) = (value.clone(), Vec::new());
        for path in self.min_change.keys() {
            if let Some(member) = member_mut(&mut rest, path)
                && let Some(number) = member.as_f64()
            {
                pairs.push((path.clone(), number));
                *member = Value::Null;
            }
        }
        for path in &self.ignored {
            if let Some(member) = member_mut(&mut rest, path) {
                *member = Value::Null;
            }
        }
        Essence { numbers: numbers(pairs), rest: fingerprint(&rest) }
    }

    /// Whether a change from one to the other is worth a notification.
    fn counts(&self, told: &Essence, current: &Essence) -> bool {
        let same_members = told.numbers.keys().eq(current.numbers.keys());
        if told.rest != current.rest || !same_members {
            return true;
        }
        if let Some(least) = self.min_metres {
            let at = |essence: &Essence| {
                Some(Location::at(*essence.numbers.get(LATITUDE)?, *essence.numbers.get(LONGITUDE)?))
            };
            return at(told).zip(at(current)).is_some_and(|(from, to)| from.metres_to(&to) >= least);
        }
        current.numbers.iter().any(|(path, number)| {
            let least = self.min_change.get(path).copied().unwrap_or_default();
            (number - told.numbers[path]).abs() >= least * ROUNDING
        })
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_member = |(path, least): (&String, &f64)| match path.as_str() {
            "" => format!("a change by {least}"),
            path => format!("a change of {path} by {least}"),
        };
        let mut changes: Vec<String> = self.min_change.iter().map(of_member).collect();
        changes.extend(self.min_metres.map(|metres| format!("a move by {metres} m")));
        let has_members = self.min_change.keys().any(|path| !path.is_empty());
        if changes.is_empty() {
            changes.push("any change".into());
        } else if has_members {
            changes.push("any other change".into());
        }
        f.write_str(&changes.join(", "))?;
        let ignored: Vec<&str> = self.ignored.iter().map(String::as_str).collect();
        if !ignored.is_empty() {
            write!(f, " but of {}", ignored.join(", "))?;
        }
        if !self.min_interval.is_zero() {
            write!(f, "; at most every {}", humantime::format_duration(self.min_interval))?;
        }
        Ok(())
    }
}

/// What counts of a value: its numbers by their paths, and the rest as a hash, so that it stays small.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Essence {
    #[serde(rename = "n")]
    numbers: BTreeMap<String, f64>,
    #[serde(rename = "r")]
    rest: String,
}

/// What an observer was told last, and when. It is stored, so that a restart neither repeats it nor forgets what is
/// still to be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Told {
    #[serde(flatten)]
    essence: Essence,
    /// None for the answer to an observe: the first notification after it may follow at once.
    #[serde(rename = "m", skip_serializing_if = "Option::is_none")]
    at: Option<Moment>,
}

/// What becomes of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is notified.
    Notify,
    /// It is looked at again then.
    Later(Duration),
    /// It does not count.
    TooSmall,
}

/// Whoever observes, and what they were told.
#[derive(Debug, Default)]
pub(super) struct Thresholds {
    watched: BTreeMap<String, Watch>,
    /// As they were stored, until it is known what is still observed.
    restored: BTreeMap<String, Told>,
}

#[derive(Debug)]
struct Watch {
    rule: Threshold,
    told: Option<Told>,
    /// Until when nothing is notified.
    quiet_until: Option<Duration>,
}

impl Thresholds {
    /// Takes what an observer was told, as it was stored. Whether the name was one of ours.
    pub(super) fn restore(&mut self, name: &str, value: &Value) -> bool {
        let Some(field) = name.strip_prefix(TOLD) else { return false };
        // With a value of another program the observer is told anew.
        if let Ok(told) = Told::deserialize(value) {
            self.restored.insert(field.to_owned(), told);
        }
        true
    }

    /// What an observer was told before this run, where its rule is gone: it is taken away.
    pub(super) fn take_stale(&mut self, field: &str) -> Option<Stale> {
        self.restored.remove(field).map(Stale)
    }

    /// Everything that was stored about attributes that nobody observes any more.
    pub(super) fn take_forgotten(&mut self) -> Vec<String> {
        std::mem::take(&mut self.restored).into_keys().collect()
    }

    /// An attribute is observed, and has this rule. What its observer was told before the agent started counts.
    pub(super) fn watch(&mut self, field: &str, rule: Threshold, now: Now, boot: &BootId) {
        let told = self.restored.remove(field);
        let quiet_until = told.as_ref().and_then(|told| told.at.as_ref()).map(|at| {
            let interval = rule.min_interval;
            let left = match at.age(now, boot) {
                Age::AtMostMs(age) => interval.saturating_sub(Duration::from_millis(age)),
                // No clock tells how long ago it was: the interval begins anew.
                Age::Unknown => interval,
            };
            now.monotonic + left
        });
        self.watched.entry(field.to_owned()).or_insert(Watch { rule, told, quiet_until });
    }

    /// Whether there is a rule for what is observed.
    pub(super) fn watches(&self, field: &str) -> bool {
        self.watched.contains_key(field)
    }

    /// Nobody observes it any more. Whether something about it may be stored.
    pub(super) fn forget(&mut self, field: &str) -> bool {
        self.watched.remove(field).is_some_and(|watch| watch.told.is_some())
    }

    /// What becomes of a change to this value.
    pub(super) fn judge(&self, field: &str, value: &Value, now: Now) -> Verdict {
        let Some(watch) = self.watched.get(field) else { return Verdict::Notify };
        if let Some(told) = &watch.told
            && !watch.rule.counts(&told.essence, &watch.rule.essence(value))
        {
            return Verdict::TooSmall;
        }
        match watch.quiet_until.filter(|until| *until > now.monotonic) {
            Some(until) => Verdict::Later(until),
            None => Verdict::Notify,
        }
    }

    /// The observer is told this value: by a notification, after which the interval begins, or by the answer to an
    /// observe. What is to be stored of it.
    pub(super) fn told(
        &mut self,
        field: &str,
        value: &Value,
        notified: Option<(Now, &BootId)>,
    ) -> Option<(String, Value)> {
        let watch = self.watched.get_mut(field)?;
        let at = match notified {
            Some((now, boot)) => {
                watch.quiet_until = Some(now.monotonic + watch.rule.min_interval);
                Some(Moment::at(now, boot))
            }
            None => watch.told.as_ref().and_then(|told| told.at.clone()),
        };
        let told = Told { essence: watch.rule.essence(value), at };
        let is_known = watch.told.as_ref() == Some(&told);
        let stored = serde_json::to_value(&told).expect("it holds numbers and text");
        watch.told = Some(told);
        (!is_known).then(|| (Self::stored_as(field), stored))
    }

    /// What was sent has not reached the observer: the next change counts. Whether something about it may be stored.
    pub(super) fn not_told(&mut self, field: &str) -> bool {
        self.watched.get_mut(field).is_some_and(|watch| watch.told.take().is_some())
    }

    /// Under which name it is stored what an observer was told.
    pub(super) fn stored_as(field: &str) -> String {
        format!("{TOLD}{field}")
    }
}

/// What an observer was told under a rule that is gone.
pub(super) struct Stale(Told);

impl Stale {
    /// Whether this value, or the rule, is another one.
    pub(super) fn differs(&self, value: &Value) -> bool {
        self.0.essence != Threshold::default().essence(value)
    }
}

/// The rule for what is observed: an attribute's own, or what it means for a member of it.
pub(super) fn rule_of(rules: &BTreeMap<String, Threshold>, field: &str) -> Option<Threshold> {
    let of_attribute = rules.get(field).cloned();
    of_attribute.or_else(|| {
        field.match_indices('.').rev().find_map(|(dot, _)| {
            let rule = rules.get(&field[..dot])?;
            Some(rule.of_member(&field[dot + 1..]))
        })
    })
}

fn member_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    if path.is_empty() {
        return Some(value);
    }
    path.split('.').try_fold(value, |value, member| value.get_mut(member))
}

fn fingerprint(value: &Value) -> String {
    let digest = digest(&[b"told", value.to_string().as_bytes()]);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Before the name of what is observed, where it is stored among the attributes: an agent of before that knew no
/// thresholds, to which a firmware update may be rolled back, takes it for one more of them.
const TOLD: &str = "agent.notified/";

const LONGITUDE: &str = "longitude";
const LATITUDE: &str = "latitude";

/// A change of exactly the least amount counts, although 0.3 - 0.2 is a little less than 0.1.
const ROUNDING: f64 = 1.0 - 1e-9;

/// How many members of one attribute may have rules.
const MAX_MEMBERS: usize = 32;

/// The longest time between two notifications: nobody means more than a day, but for a mistake in the unit.
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests;
