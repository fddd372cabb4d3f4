//! What must hold in every history, seen from outside: the promises of `ARCHITECTURE.md`.

mod restarts;
mod work;

use std::collections::{BTreeMap, BTreeSet};

use iotdm_core::UpRoute;
use serde_json::Value;

use super::record::{Asked, Event, Record};

/// A law that does not hold, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Which one: `P5`.
    pub(super) law: String,
    pub(super) what: String,
}

type Verdict = Result<(), Broken>;

pub(super) fn broken<T>(law: &str, what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { law: law.into(), what: what.into() })
}

/// The first law that does not hold.
pub(super) fn judge(record: &Record) -> Verdict {
    it_runs(record)?;
    // In this order: what was done twice explains more than the answer that is missing for it.
    work::judge(record)?;
    restarts::judge(record)?;
    every_delivery_is_answered(record)?;
    a_request_has_one_answer(record)?;
    it_comes_to_rest(record)?;
    the_journal_is_bounded(record)
}

/// P10 and more: nothing of what a plan does ends an agent, and in the end it is managed.
fn it_runs(record: &Record) -> Verdict {
    if let Some(Event::Ended(reason)) = record.events().find(|event| matches!(event, Event::Ended(_))) {
        return broken("P10", format!("the agent ended by itself: {reason}"));
    }
    if !record.end.managed {
        return broken("P10", "when everything works again, the device is not managed");
    }
    if record.end.unacknowledged > 0 {
        let left = record.end.unacknowledged;
        return broken("P1", format!("the device does not acknowledge {left} messages"));
    }
    Ok(())
}

/// P1, P3, P4: what was acknowledged is answered after its last delivery, and the broker has the answer.
fn every_delivery_is_answered(record: &Record) -> Verdict {
    let mut delivered: BTreeMap<&str, usize> = BTreeMap::new();
    // Since when an answer is owed: the delivery of the last copy that was acknowledged.
    let mut owed: BTreeMap<&str, (usize, &Asked)> = BTreeMap::new();
    let mut answered: BTreeMap<String, usize> = BTreeMap::new();
    let mut published: BTreeMap<String, usize> = BTreeMap::new();
    for (at, event) in record.events().enumerate() {
        match event {
            Event::Delivered(asked) => drop(delivered.insert(&asked.req_id, at)),
            Event::Acknowledged(asked) => {
                let since = delivered.get(asked.req_id.as_str()).copied().unwrap_or(at);
                owed.insert(&asked.req_id, (since, asked));
            }
            // What the journal knew is gone (P10), and so is what it owed.
            Event::Damaged => owed.clear(),
            Event::Published(message) if message.route == Some(UpRoute::Response) => {
                published.insert(message.body["reqId"].to_string(), at);
            }
            Event::Confirmed(message) if message.route == Some(UpRoute::Response) => {
                let req_id = message.body["reqId"].to_string();
                let since = published.get(&req_id).copied().unwrap_or(at);
                answered.insert(req_id, since);
            }
            _ => {}
        }
    }
    for (req_id, (since, asked)) in owed {
        if answered.get(req_id).is_none_or(|answer| *answer < since) {
            return broken("P3", format!("a delivery of {asked} was acknowledged and never answered"));
        }
    }
    Ok(())
}

/// P2: one answer per reqId and body, byte for byte, as long as the journal lives. What ran nothing is not kept, and
/// an observation is answered with the value that the attribute has.
fn a_request_has_one_answer(record: &Record) -> Verdict {
    let mut bodies: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for event in record.events() {
        if let Event::Sent(asked) = event {
            bodies.entry(&asked.req_id).or_default().insert(format!("{} {}", asked.route, asked.d));
        }
    }
    let mut executed: BTreeSet<&str> = BTreeSet::new();
    let mut passing: BTreeSet<String> = BTreeSet::new();
    let mut answers: BTreeMap<String, &Value> = BTreeMap::new();
    for event in record.events() {
        match event {
            // What the journal knew is gone (P10): the same request is another one.
            Event::Damaged => {
                executed.clear();
                answers.clear();
            }
            Event::Returned(work, outcome) if *outcome != super::record::Outcome::Undecodable => {
                executed.insert(&work.req_id);
            }
            Event::Published(message) if message.route == Some(UpRoute::Response) => {
                let req_id = message.body["reqId"].to_string();
                let Some(bodies) = bodies.get(req_id.as_str()).filter(|bodies| bodies.len() == 1) else {
                    continue;
                };
                let is_passing = matches!(message.body["rc"].as_u64(), Some(400 | 404 | 501));
                let is_observe = bodies.iter().any(|body| body.starts_with("observe "));
                if is_observe {
                    continue;
                }
                // The broker may have it again after the request ran: it did not acknowledge it before.
                let text = message.body.to_string();
                if is_passing && (!executed.contains(req_id.as_str()) || passing.contains(&text)) {
                    passing.insert(text);
                    continue;
                }
                let first = answers.entry(req_id.clone()).or_insert(&message.body);
                if **first != message.body {
                    let what = format!("{req_id} was answered {first}, and then {}", message.body);
                    return broken("P2", what);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Once nobody wants anything any more, nothing happens by itself.
fn it_comes_to_rest(record: &Record) -> Verdict {
    let mut events = record.events();
    events.by_ref().find(|event| **event == Event::Quiet);
    let unrest = events.find(|event| match event {
        Event::Published(message) => message.route == Some(UpRoute::Response),
        event => {
            matches!(event, Event::Started(_) | Event::Connected | Event::Restart { .. } | Event::Boot(_))
        }
    });
    match unrest {
        Some(event) => broken(QUIET, format!("when all was done: {event}")),
        None => Ok(()),
    }
}

/// P8: what is kept follows from what was asked.
fn the_journal_is_bounded(record: &Record) -> Verdict {
    let asked: BTreeMap<String, usize> = record
        .events()
        .filter_map(|event| match event {
            Event::Sent(asked) => Some((asked.to_string(), asked.d.to_string().len())),
            _ => None,
        })
        .collect();
    let largest_answer = record.published(UpRoute::Response).map(|body| body.to_string().len()).max();
    let each = PER_REQUEST_BYTES + largest_answer.unwrap_or_default();
    let limit = BASE_BYTES + asked.values().map(|bytes| 2 * bytes + each).sum::<usize>();
    let bytes = record.end.journal_bytes;
    if bytes > limit {
        return broken("P8", format!("the journal has {bytes} bytes after {} requests", asked.len()));
    }
    Ok(())
}

/// The law that is about the time after everything.
pub(super) const QUIET: &str = "quiet";

/// What a journal may have beside requests, in bytes: the device model and what is reported.
const BASE_BYTES: usize = 64 * 1024;

/// What a request may take beside its body and its answer, in bytes.
const PER_REQUEST_BYTES: usize = 1024;

#[cfg(test)]
mod tests;
