//! What happens to a device, as data: made from a seed, told in words, and made shorter without being changed.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use iotdm_core::{Route, Topic};
use iotdm_platform::proxy::Direction;
use serde_json::{Value, json};

/// One life of a device: what happens to it, in order. What follows from it is in no plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Where it was made from; it is also what the agent's own ids and pauses come from.
    pub seed: u64,
    /// What happens.
    pub steps: Vec<Step>,
}

/// One thing that happens, and how long after the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The time since the step before.
    pub after: Duration,
    /// What happens then.
    pub event: Event,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The platform asks; a second time for a replay, with another kind for a reqId that is used again.
    Ask(Ask),
    /// The platform sends a request without a reqId.
    AskWithoutReqId,
    /// Somebody sends what is no request.
    Garbage,
    /// The product reports something: a location, an error code or a log entry with this number.
    Report(u32),
    /// The product sets the attribute that is observed.
    SetAttribute(u32),
    /// The agent ends as by `kill -9` and starts again after this time.
    Crash(Duration),
    /// The agent ends as by SIGTERM and starts again this long after it has ended.
    Leave(Duration),
    /// Every connection is cut.
    Cut,
    /// Every connection is cut after so many bytes in this direction.
    CutAfter(Direction, u64),
    /// The network takes this long each way.
    Delay(Duration),
    /// Nothing arrives any more, in neither direction, and nobody is told.
    BlackHole,
    /// Nothing arrives any more in this direction, and nobody is told.
    HalfOpen(Direction),
    /// Connections are closed at once.
    Refuse,
    /// The network works again.
    Heal,
    /// The broker ends every connection and keeps its sessions.
    BrokerRestart,
    /// The broker forgets the device's session and what waited in it.
    SessionLost,
    /// Somebody else connects with the device's client id.
    Takeover,
    /// The broker acknowledges nothing of the device, or what it has not and all that follows.
    HoldPubacks(bool),
    /// The broker delivers what is unacknowledged again, on the live connection.
    Redeliver,
    /// The broker sends every delivery twice, or once.
    Duplicate(bool),
    /// The broker sets DUP, or does not.
    DupFlag(bool),
    /// The broker renumbers what it delivers again, or does not.
    Renumber(bool),
    /// The broker answers CONNECT with "server unavailable", or takes clients.
    Unavailable(bool),
    /// How the platform treats the device's own requests from here on.
    Mood(Mood),
    /// What becomes of the next restarts that the device asks for.
    Fate(Fate),
    /// The wall clock is lost at the next start of the machine, or right again.
    ClockLost(bool),
}

/// One request of the platform.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Its reqId as JSON text.
    pub req_id: String,
    /// What it asks for.
    pub kind: Kind,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Work, then 200; not repeatable.
    Once(Work),
    /// Work, then 200; a crash may repeat it.
    Again(Work),
    /// Work, then 200; not repeatable, and refused when it may be older than 15 minutes.
    Fresh(Work),
    /// 202, then work.
    After(Work),
    /// 202, then a restart.
    Reboot,
    /// 202, then a restart.
    FactoryReset,
    /// 202, then work that keeps the lane.
    Download,
    /// 204: metadata become this.
    Update(u32),
    /// 200: the attribute is observed.
    Observe,
    /// 200: it is observed no longer.
    Cancel,
    /// 404: there is no such topic.
    UnknownTopic,
    /// 501: there is no such action.
    UnknownAction,
    /// 400: there is no such body.
    BadBody,
}

/// What a handler of the test does, as the request's body says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// How long it takes.
    pub takes: Duration,
    /// How it ends.
    pub ends: Ends,
}

/// How work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// As it should.
    Well,
    /// Refused with 409.
    Refused,
    /// Failed: 500, or reported as failed after a 202.
    Failed,
    /// It does not; its budget does.
    Never,
}

/// How the platform treats the device's own requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// 200, at once.
    Answers,
    /// 409, at once.
    Busy,
    /// Not at all.
    Silent,
}

/// What becomes of a restart that the device asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The machine goes down after this time, and is up again half a minute later.
    Comes(Duration),
    /// It is promised and does not come.
    NeverComes,
    /// The command for it fails.
    Fails,
    /// Nothing is restarted, as in a dry run.
    DryRun,
}

impl Plan {
    /// The life that belongs to this seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut maker = Maker { rng: Rng::with_seed(seed), asked: Vec::new(), numbers: 0 };
        let steps = (0..maker.rng.usize(STEPS)).map(|_| maker.step()).collect();
        Self { seed, steps }
    }

    /// A shorter plan that still `fails`: whatever can be left out is, within a bounded number of trials.
    #[must_use]
    pub fn shrunk(&self, mut fails: impl FnMut(&Self) -> bool) -> Self {
        let mut shortest = self.clone();
        let mut trials = 0;
        let mut size = shortest.steps.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < shortest.steps.len() && trials < SHRINK_TRIALS {
                let mut shorter = shortest.clone();
                let end = (at + size).min(shorter.steps.len());
                shorter.steps.drain(at..end);
                trials += 1;
                if fails(&shorter) {
                    shortest = shorter;
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
        shortest
    }
}

/// Makes plans.
struct Maker {
    rng: Rng,
    asked: Vec<Ask>,
    numbers: u32,
}

impl Maker {
    fn step(&mut self) -> Step {
        Step { after: self.pause(), event: self.event() }
    }

    /// Much happens at once or shortly after; some of it after hours.
    fn pause(&mut self) -> Duration {
        let (least, most) = match self.rng.u32(0..100) {
            0..=19 => (0, 0),
            20..=44 => (1, 200),
            45..=64 => (200, 5_000),
            65..=84 => (5_000, 5 * MINUTE),
            85..=95 => (5 * MINUTE, 60 * MINUTE),
            _ => (60 * MINUTE, 12 * 60 * MINUTE),
        };
        Duration::from_millis(self.rng.u64(least..=most))
    }

    fn event(&mut self) -> Event {
        match self.rng.u32(0..100) {
            0..=29 => self.ask(),
            30..=37 => self.replay(),
            38..=39 => self.reuse(),
            40 => self.rng.choice([Event::AskWithoutReqId, Event::Garbage]).expect("there are two"),
            41..=44 => Event::Report(self.number()),
            45..=47 => Event::SetAttribute(self.number()),
            48..=52 => Event::Crash(self.away()),
            53 => Event::Leave(self.away()),
            54..=79 => self.network(),
            80..=93 => self.broker(),
            94..=95 => Event::Mood(
                self.rng.choice([Mood::Answers, Mood::Busy, Mood::Silent]).expect("there are three"),
            ),
            96..=98 => Event::Fate(self.fate()),
            _ => Event::ClockLost(self.rng.bool()),
        }
    }

    fn network(&mut self) -> Event {
        let direction = if self.rng.bool() { Direction::Up } else { Direction::Down };
        match self.rng.u32(0..26) {
            0..=4 => Event::Cut,
            5..=9 => Event::CutAfter(direction, self.rng.u64(1..600)),
            10..=12 => Event::Delay(Duration::from_millis(self.rng.u64(0..3_000))),
            13..=14 => Event::BlackHole,
            15..=16 => Event::HalfOpen(direction),
            17..=18 => Event::Refuse,
            _ => Event::Heal,
        }
    }

    fn broker(&mut self) -> Event {
        match self.rng.u32(0..14) {
            0 => Event::BrokerRestart,
            1 => Event::SessionLost,
            2..=3 => Event::Takeover,
            4..=5 => Event::HoldPubacks(true),
            6..=7 => Event::HoldPubacks(false),
            8..=9 => Event::Redeliver,
            10 => Event::Duplicate(self.rng.bool()),
            11 => Event::DupFlag(self.rng.bool()),
            12 => Event::Renumber(self.rng.bool()),
            _ => Event::Unavailable(self.rng.u32(0..3) == 0),
        }
    }

    fn fate(&mut self) -> Fate {
        match self.rng.u32(0..6) {
            0 => Fate::NeverComes,
            1 => Fate::Fails,
            2 => Fate::DryRun,
            _ => Fate::Comes(Duration::from_millis(self.rng.u64(0..100_000))),
        }
    }

    fn ask(&mut self) -> Event {
        let number = self.number();
        let req_id = if number.is_multiple_of(7) { number.to_string() } else { format!("\"r{number}\"") };
        let ask = Ask { req_id, kind: self.kind() };
        self.asked.push(ask.clone());
        Event::Ask(ask)
    }

    fn replay(&mut self) -> Event {
        match self.rng.choice(&self.asked).cloned() {
            Some(ask) => Event::Ask(ask),
            None => self.ask(),
        }
    }

    /// Only the reqId of what leaves an outcome is used again: a 404 is forgotten once the broker has it.
    fn reuse(&mut self) -> Event {
        let kept = self.asked.iter().filter(|ask| ask.kind.outcome_is_kept());
        let Some(req_id) = self.rng.choice(kept.collect::<Vec<_>>()).map(|ask| ask.req_id.clone()) else {
            return self.ask();
        };
        Event::Ask(Ask { req_id, kind: self.kind() })
    }

    fn kind(&mut self) -> Kind {
        match self.rng.u32(0..20) {
            0..=4 => Kind::Once(self.work()),
            5..=7 => Kind::Again(self.work()),
            8..=9 => Kind::Fresh(self.work()),
            10..=11 => Kind::After(self.work()),
            12..=13 => Kind::Reboot,
            14 => {
                if self.rng.bool() {
                    Kind::FactoryReset
                } else {
                    Kind::Download
                }
            }
            15 => Kind::Update(self.number()),
            16 => Kind::Observe,
            17 => Kind::Cancel,
            18 => {
                if self.rng.bool() {
                    Kind::UnknownTopic
                } else {
                    Kind::UnknownAction
                }
            }
            _ => Kind::BadBody,
        }
    }

    fn work(&mut self) -> Work {
        let takes = match self.rng.u32(0..6) {
            0..=2 => 0,
            3 => self.rng.u64(1..200),
            _ => self.rng.u64(200..20_000),
        };
        let ends = match self.rng.u32(0..16) {
            0 => Ends::Refused,
            1 => Ends::Failed,
            2 => Ends::Never,
            _ => Ends::Well,
        };
        Work { takes: Duration::from_millis(takes), ends }
    }

    /// How long an agent is away: mostly a moment, sometimes long.
    fn away(&mut self) -> Duration {
        let most = if self.rng.u32(0..8) == 0 { 4 * 60 * MINUTE } else { 5_000 };
        Duration::from_millis(self.rng.u64(0..most))
    }

    fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }
}

impl Kind {
    /// Where it is asked for.
    #[must_use]
    pub fn topic(&self) -> String {
        let route = match self {
            Self::Once(_) | Self::BadBody => Route::custom("bench", "once"),
            Self::Again(_) => Route::custom("bench", "again"),
            Self::Fresh(_) => Route::custom("bench", "fresh"),
            Self::After(_) => Route::custom("bench", "after"),
            Self::UnknownAction => Route::custom("bench", "absent"),
            Self::Reboot => Route::Reboot,
            Self::FactoryReset => Route::FactoryReset,
            Self::Download => Route::FirmwareDownload,
            Self::Update(_) => Route::DeviceUpdate,
            Self::Observe => Route::Observe,
            Self::Cancel => Route::Cancel,
            Self::UnknownTopic => Route::Unknown("nonsense".into()),
        };
        Topic::own(route).to_string()
    }

    /// The `d` of the request.
    #[must_use]
    pub fn body(&self) -> Option<Value> {
        match self {
            Self::Once(work) | Self::Again(work) | Self::Fresh(work) | Self::After(work) => {
                Some(json!({"fields": [
                    {"field": "takes", "value": work.takes.as_millis() as u64},
                    {"field": "ends", "value": work.ends.word()},
                ]}))
            }
            Self::Update(number) => {
                Some(json!({"fields": [{"field": "metadata", "value": {"number": number}}]}))
            }
            Self::Observe | Self::Cancel => Some(json!({"fields": [OBSERVED]})),
            Self::BadBody => Some(json!({"fields": 7})),
            Self::Reboot | Self::FactoryReset | Self::Download | Self::UnknownTopic | Self::UnknownAction => {
                None
            }
        }
    }

    /// Whether it ends in a restart of the device.
    #[must_use]
    pub const fn restarts(&self) -> bool {
        matches!(self, Self::Reboot | Self::FactoryReset)
    }

    /// Whether what came of it is kept for replays.
    const fn outcome_is_kept(&self) -> bool {
        !matches!(self, Self::Observe | Self::UnknownTopic | Self::UnknownAction | Self::BadBody)
    }
}

impl Ask {
    /// The message.
    #[must_use]
    pub fn payload(&self) -> String {
        match self.kind.body() {
            Some(d) => format!(r#"{{"reqId":{},"d":{d}}}"#, self.req_id),
            None => format!(r#"{{"reqId":{}}}"#, self.req_id),
        }
    }
}

impl Ends {
    /// The word for it in a request's body.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Never => "never",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask(ask) => write!(f, "the platform asks {}: {:?}", ask.req_id, ask.kind),
            other => write!(f, "{other:?}"),
        }
    }
}

/// The attribute that is observed.
pub const OBSERVED: &str = "level";

/// How many steps a life has.
const STEPS: std::ops::RangeInclusive<usize> = 20..=100;

/// How many shorter plans are tried.
const SHRINK_TRIALS: usize = 400;

/// Milliseconds in a minute.
const MINUTE: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_another_seed_another() {
        assert_eq!(Plan::from_seed(1), Plan::from_seed(1));
        assert_ne!(Plan::from_seed(1).steps, Plan::from_seed(2).steps);
    }

    #[test]
    fn a_plan_shrinks_to_the_steps_that_matter() {
        let plan = Plan::from_seed(3);
        let needed = [plan.steps[2].clone(), plan.steps[11].clone()];
        let shrunk = plan.shrunk(|plan| needed.iter().all(|step| plan.steps.contains(step)));
        assert_eq!(shrunk.steps, needed);
    }
}
