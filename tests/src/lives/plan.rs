//! What happens to a device, as data: made from a seed, told in words, and made shorter without being changed.

use std::fmt;
use std::time::Duration;

use iotdm_core::{Route, Topic};
use iotdm_platform::proxy::Direction;
use serde_json::{Value, json};

use super::make::Maker;

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
        Self { seed, steps: Maker::new(seed).steps() }
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
    pub(super) const fn outcome_is_kept(&self) -> bool {
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

/// How many shorter plans are tried.
const SHRINK_TRIALS: usize = 400;

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
