//! How often what was to be tested did happen: a law that nothing puts to the test holds for nothing.

use std::collections::BTreeMap;

use iotdm_platform::broker::Seen;
use serde_json::Value;

use super::chronicle::{Entry, Moment, What};
use super::plan::Fate;
use super::world::RESPONSES;

/// How often each kind of thing was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    lives: usize,
    counts: BTreeMap<&'static str, usize>,
}

impl Census {
    /// Counts what was seen in a life.
    pub fn add(&mut self, entries: &[Entry]) {
        self.lives += 1;
        for entry in entries {
            for kind in kinds(&entry.what) {
                *self.counts.entry(kind).or_default() += 1;
            }
        }
    }

    /// What never happened, and should have; nothing while there were too few lives to tell.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let never = |kind: &&'static str| self.lives >= ENOUGH_LIVES && !self.counts.contains_key(kind);
        KINDS.iter().copied().filter(never).collect()
    }
}

impl std::fmt::Display for Census {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told: Vec<String> = self.counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        f.write_str(&told.join(", "))
    }
}

fn kinds(what: &What) -> Vec<&'static str> {
    let kind = match what {
        What::Unreached(_) => "requests for which there was no session",
        What::Handler { moment: Moment::Handle, attempt: 1, ended: false, .. } => "first starts",
        What::Handler { moment: Moment::Handle, ended: false, .. } => "starts after an interruption",
        What::Handler { moment: Moment::AfterAck, attempt: 1, ended: false, .. } => "works after a 202",
        What::Handler { moment: Moment::AfterAck, ended: false, .. } => "works after a 202, again",
        What::Handler { moment: Moment::Recover, ended: false, .. } => "judgements",
        What::Restart(_, Fate::Comes(_)) => "restarts",
        What::Restart(..) => "restarts that do not come",
        What::Ended(_) => "ends of the agent",
        What::Confirmed(_) => "reports",
        What::Wire(sighting) => return wire_kinds(&sighting.what),
        _ => return Vec::new(),
    };
    vec![kind]
}

fn wire_kinds(seen: &Seen) -> Vec<&'static str> {
    match seen {
        Seen::Connected { session_present: true } => vec!["connections"],
        Seen::Connected { .. } => vec!["connections", "lost sessions"],
        Seen::Delivered { again: true, .. } => vec!["deliveries", "repeated deliveries"],
        Seen::Delivered { .. } => vec!["deliveries"],
        Seen::Published { topic, payload } if topic == RESPONSES => {
            let answer: Value = serde_json::from_slice(payload).unwrap_or_default();
            let text = answer["message"].as_str().unwrap_or_default();
            let code = match answer["rc"].as_u64() {
                Some(200) => "answers 200",
                Some(202) => "answers 202",
                Some(204) => "answers 204",
                Some(400) if text.contains("another request") => "answers 400 for a reqId used again",
                Some(400) => "answers 400",
                Some(404) => "answers 404",
                Some(409) if text.contains("too long") => "answers 409 for what is late",
                Some(409) if text.contains("under way") => "answers 409 for a lane",
                Some(409) => "answers 409",
                Some(500) if text.contains("interrupted") => "answers 500 for an interruption",
                Some(500) => "answers 500",
                Some(501) => "answers 501",
                _ => "other answers",
            };
            vec![code]
        }
        Seen::Published { topic, .. } if topic.ends_with("/notify") => vec!["notifications"],
        Seen::Published { topic, .. } if topic.ends_with("/manage") => vec!["manages"],
        _ => Vec::new(),
    }
}

/// In so many lives even the rarest happens: what happens least often does so in every twentieth.
const ENOUGH_LIVES: usize = 500;

/// What has to happen in them.
const KINDS: &[&str] = &[
    "answers 200",
    "answers 202",
    "answers 204",
    "answers 400",
    "answers 400 for a reqId used again",
    "answers 404",
    "answers 409",
    "answers 409 for a lane",
    "answers 409 for what is late",
    "answers 500",
    "answers 500 for an interruption",
    "answers 501",
    "connections",
    "deliveries",
    "ends of the agent",
    "first starts",
    "judgements",
    "lost sessions",
    "manages",
    "notifications",
    "repeated deliveries",
    "reports",
    "requests for which there was no session",
    "restarts",
    "restarts that do not come",
    "starts after an interruption",
    "works after a 202",
    "works after a 202, again",
];
