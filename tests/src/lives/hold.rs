//! P5: the platform takes the next manage as "reboot done", so none may come before the restart has, or has failed.

use std::collections::BTreeMap;
use std::time::Duration;

use iotdm_platform::broker::Seen;
use serde_json::Value;

use super::chronicle::{Entry, What};
use super::world::RESPONSES;

/// The manages that came too early.
pub(super) fn broken(entries: &[Entry]) -> Vec<String> {
    let mut promises = Promises::of(entries);
    entries.iter().filter_map(|entry| promises.look(entry)).collect()
}

/// Restarts that were promised, by reqId.
#[derive(Default)]
struct Promises {
    /// Which reqIds ask for a restart and for nothing else, and whether their 202 was seen.
    asked: BTreeMap<String, bool>,
    open: BTreeMap<String, Promise>,
}

#[derive(Default)]
struct Promise {
    /// How often the agent has ended since: after three interruptions the work is given up.
    interruptions: u32,
    /// When the machine said that it was about to go down.
    begun: Option<Duration>,
}

impl Promises {
    fn of(entries: &[Entry]) -> Self {
        let asks = || {
            entries.iter().filter_map(|entry| match &entry.what {
                What::Sent(ask) => Some(ask),
                _ => None,
            })
        };
        let mut asked: BTreeMap<String, bool> = asks().map(|ask| (ask.req_id.clone(), false)).collect();
        for ask in asks().filter(|ask| !ask.kind.restarts()) {
            asked.remove(&ask.req_id);
        }
        Self { asked, open: BTreeMap::new() }
    }

    fn look(&mut self, entry: &Entry) -> Option<String> {
        match &entry.what {
            What::Boot(_) => self.open.clear(),
            What::Restart(_, fate) if fate.is_promised() => {
                self.open.values_mut().for_each(|promise| promise.begun = Some(entry.at));
            }
            // It failed, or was a dry run: there is only one at a time.
            What::Restart(..) => self.open.clear(),
            What::Ended(_) => {
                self.open.values_mut().for_each(|promise| promise.interruptions += 1);
                self.open.retain(|_, promise| promise.interruptions < ATTEMPTS);
            }
            What::Wire(sighting) => {
                if let Seen::Published { topic, payload } = &sighting.what {
                    return self.published(entry, topic, payload);
                }
            }
            _ => {}
        }
        None
    }

    fn published(&mut self, entry: &Entry, topic: &str, payload: &[u8]) -> Option<String> {
        if topic == RESPONSES {
            let answer: Value = serde_json::from_slice(payload).ok()?;
            let req_id = answer["reqId"].to_string();
            if answer["rc"] == 202 && self.asked.get(&req_id) == Some(&false) {
                self.asked.insert(req_id.clone(), true);
                self.open.insert(req_id, Promise::default());
            }
        } else if topic == "iotdevice-1/mgmt/manage" {
            let is_over = |begun: Duration| entry.at >= begun + RESTART_WITHIN;
            self.open.retain(|_, promise| !promise.begun.is_some_and(is_over));
            let (req_id, _) = self.open.first_key_value()?;
            return Some(format!("P5: a manage between the 202 of {req_id} and its restart"));
        }
        None
    }
}

/// How often a restart is begun.
const ATTEMPTS: u32 = 3;

/// How long a restart may take to come.
const RESTART_WITHIN: Duration = Duration::from_secs(5 * 60);
