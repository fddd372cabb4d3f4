//! P5: a restart comes after its 202 and once, and no manage between the two.

use std::collections::{BTreeMap, BTreeSet};

use iotdm_core::{Performed, Recovery, Route, UpRoute};

use crate::testing::Published;
use crate::testing::histories::record::{Event, Outcome, Part, Record, Work};

use super::{Verdict, broken};

pub(super) fn judge(record: &Record) -> Verdict {
    let mut story = Story { boot: 1, ..Story::default() };
    record.events().try_for_each(|event| story.happened(event))?;
    // A restart that did not come is said to have failed, and manage may go on before that is said.
    match story.managed_early.iter().find(|(req_id, _)| !is_reported(record, req_id)) {
        Some((req_id, route)) => {
            let what = "the platform counts it as done";
            broken("P5", format!("manage between the 202 of {route} {req_id} and its restart: {what}"))
        }
        None => Ok(()),
    }
}

/// What is known of restarts at one moment.
#[derive(Default)]
struct Story {
    boot: u64,
    /// Requests whose 202 the broker has.
    confirmed: BTreeSet<String>,
    /// Restarts that were begun and must not be repeated, with the boots in which they were.
    begun: BTreeMap<String, BTreeSet<u64>>,
    /// Reboots and resets that were accepted, and are not over.
    promised: BTreeMap<String, Promise>,
    /// Those that were promised once: a copy of the 202 promises nothing.
    known: BTreeSet<String>,
    /// Promises that were open when manage was sent.
    managed_early: BTreeMap<String, Route>,
}

/// A reboot or a reset between its 202 and its restart.
#[derive(Debug)]
struct Promise {
    route: Route,
    /// Whether its 202 was published.
    told: bool,
    /// Whether its handler was started after the 202.
    started: bool,
    /// Whether the machine has begun to restart.
    restarting: bool,
    /// Whether the handler says that it is over.
    over: bool,
}

impl Story {
    fn happened(&mut self, event: &Event) -> Verdict {
        match event {
            Event::Damaged => {
                // What the journal knew is gone, and with it what it still had to say.
                *self = Self { boot: self.boot, ..Self::default() };
            }
            Event::Boot(boot) => self.booted(*boot),
            Event::Restart { by: Some(work), begun, .. } => self.restart(work, *begun)?,
            Event::Started(work) if work.part != Part::Handle => {
                self.change(&work.req_id, |promise| promise.started = true);
            }
            Event::Returned(work, outcome) => self.returned(work, outcome),
            Event::Confirmed(message) if is_accepted(message) => {
                self.confirmed.insert(message.body["reqId"].to_string());
            }
            Event::Published(message) if is_accepted(message) => {
                self.change(&message.body["reqId"].to_string(), |promise| promise.told = true);
            }
            Event::Published(message) if message.route == Some(UpRoute::Manage) => {
                let open = self.promised.iter().filter(|(_, promise)| promise.is_open());
                self.managed_early
                    .extend(open.map(|(req_id, promise)| (req_id.clone(), promise.route.clone())));
            }
            _ => {}
        }
        Ok(())
    }

    fn change(&mut self, req_id: &str, change: impl FnOnce(&mut Promise)) {
        if let Some(promise) = self.promised.get_mut(req_id) {
            change(promise);
        }
    }

    fn booted(&mut self, boot: u64) {
        self.boot = boot;
        // A reset that was accepted and not begun is still to come; everything else has come.
        self.promised.retain(|_, promise| promise.route != Route::Reboot && !promise.started);
    }

    fn restart(&mut self, work: &Work, begun: bool) -> Verdict {
        if !self.confirmed.contains(&work.req_id) {
            return broken("P5", format!("{work} restarts the machine before the broker has its 202"));
        }
        let begun_in = self.begun.entry(work.req_id.clone()).or_default();
        // An update may have to go back.
        let most = if work.route == Route::FirmwareUpdate { 2 } else { 1 };
        if begun_in.len() >= most && !begun_in.contains(&self.boot) {
            return broken("P5", format!("{work} restarts the machine again"));
        }
        // A reset's restart counts from when its handler says that all was done: cut short before that, it goes on
        // after the restart, and restarts once more at its end.
        if begun && work.route != Route::FactoryReset {
            begun_in.insert(self.boot);
        }
        self.change(&work.req_id, |promise| promise.restarting = begun);
        Ok(())
    }

    fn returned(&mut self, work: &Work, outcome: &Outcome) {
        match outcome {
            Outcome::Replied(202) if matches!(work.route, Route::Reboot | Route::FactoryReset) => {
                if self.known.insert(work.req_id.clone()) {
                    let route = work.route.clone();
                    let promise =
                        Promise { route, told: false, started: false, restarting: false, over: false };
                    self.promised.insert(work.req_id.clone(), promise);
                }
            }
            Outcome::Performed(performed) => {
                let over = *performed == Performed::Complete;
                if !over && work.route == Route::FactoryReset {
                    self.begun.entry(work.req_id.clone()).or_default().insert(self.boot);
                }
                self.change(&work.req_id, |promise| promise.over = over);
            }
            Outcome::Judged(recovery) => {
                let over = !matches!(recovery, Recovery::RunAgain | Recovery::Resume);
                self.change(&work.req_id, |promise| promise.over = over);
            }
            Outcome::Failed(_) => self.change(&work.req_id, |promise| promise.over = true),
            Outcome::Replied(_) | Outcome::Refused(_) | Outcome::Undecodable => {}
        }
    }
}

impl Promise {
    fn is_open(&self) -> bool {
        self.told && (self.restarting || !self.over)
    }
}

fn is_accepted(message: &Published) -> bool {
    message.route == Some(UpRoute::Response) && message.body["rc"] == 202
}

/// Whether the platform was told that it failed.
fn is_reported(record: &Record, req_id: &str) -> bool {
    let named = format!("(reqId {}) failed", req_id.trim_matches('"'));
    record
        .published(UpRoute::AddLog)
        .any(|body| body["d"]["message"].as_str().is_some_and(|message| message.contains(&named)))
}
