//! What is started, how often, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use iotdm_core::{Interrupted, Late, Phases, Policy, Recovery, Route};

use crate::testing::histories::record::{Event, Outcome, Part, Record, Work};

use super::{Verdict, broken};

/// The starts of one journal's life.
#[derive(Default)]
struct Life {
    starts: BTreeMap<(String, Route, Part), u32>,
}

pub(super) fn judge(record: &Record) -> Verdict {
    let mut life = Life::default();
    let mut sent: BTreeMap<(&str, &Route), Duration> = BTreeMap::new();
    // Requests whose last copy was sent before the journal was lost.
    let mut before_damage: BTreeSet<(&str, &Route)> = BTreeSet::new();
    // Work that began in time and is brought to its end.
    let mut resumed: BTreeSet<(&str, &Route)> = BTreeSet::new();
    for entry in record.entries() {
        match &entry.event {
            Event::Sent(asked) => {
                sent.insert((&asked.req_id, &asked.route), entry.at);
                before_damage.remove(&(asked.req_id.as_str(), &asked.route));
            }
            Event::Damaged => {
                life = Life::default();
                before_damage = sent.keys().copied().collect();
            }
            Event::Started(work) => {
                let Some(policy) = record.policies().get(&work.route) else {
                    return broken("P2", format!("{work} began, and the product has no such action"));
                };
                let key = (work.req_id.as_str(), &work.route);
                let Some(at) = sent.get(&key) else {
                    return broken("P2", format!("{work} began, and nobody had asked for it"));
                };
                if !(work.part == Part::AfterAck && resumed.contains(&key)) {
                    is_not_late(work, policy, entry.at - *at)?;
                }
                let may_repeat = policy.interrupted == Interrupted::RunAgain;
                if work.part == Part::Handle && before_damage.contains(&key) && !may_repeat {
                    let what = format!("{work} began, though the lost journal may have known of it");
                    return broken("P10", what);
                }
                life.began(work, policy)?;
            }
            Event::Returned(work, Outcome::Judged(recovery)) => {
                let key = (work.req_id.as_str(), &work.route);
                match recovery {
                    Recovery::Resume => resumed.insert(key),
                    _ => resumed.remove(&key),
                };
            }
            // The handler never saw the request: a copy of it is refused in the same way.
            Event::Returned(work, Outcome::Undecodable) => life.never_began(work),
            _ => {}
        }
    }
    Ok(())
}

/// P9. A copy that was sent later proves nothing about the one that was started.
fn is_not_late(work: &Work, policy: &Policy, age: Duration) -> Verdict {
    match policy.late {
        Late::RefuseAfter(limit) if work.part != Part::Recover && age > limit + ROUNDING => {
            broken("P9", format!("{work} began {age:?} after it was asked for"))
        }
        Late::RefuseAfter(_) | Late::Run => Ok(()),
    }
}

impl Life {
    /// P2 and P6: what may not be repeated begins once, everything else as often as its attempts allow.
    fn began(&mut self, work: &Work, policy: &Policy) -> Verdict {
        let starts = self.starts.entry((work.req_id.clone(), work.route.clone(), work.part)).or_default();
        *starts += 1;
        let once = work.part == Part::Handle
            && policy.phases == Phases::WorkThenAnswer
            && policy.interrupted == Interrupted::Refuse;
        if once && *starts > 1 {
            return broken("P2", format!("{work} began {starts} times"));
        }
        if *starts > policy.attempts {
            return broken(
                "P6",
                format!("{work} began {starts} times, and has {} attempts", policy.attempts),
            );
        }
        Ok(())
    }

    fn never_began(&mut self, work: &Work) {
        if let Some(starts) = self.starts.get_mut(&(work.req_id.clone(), work.route.clone(), work.part)) {
            *starts -= 1;
        }
    }
}

/// Ages are counted in milliseconds.
const ROUNDING: Duration = Duration::from_millis(2);
