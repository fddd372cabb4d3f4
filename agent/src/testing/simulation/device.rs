//! The machine beside the agent: what its handlers decide, when it restarts, which slot it boots.

use std::collections::BTreeSet;

use iotdm_core::{Code, Decision, Failure, Performed, Recovery, Refusal, ReplyParts, ReqId};
use serde_json::json;

use crate::engine::Task;

use super::ask::Kind;

/// What the machine does beside the agent.
#[derive(Default)]
pub(super) struct Device {
    /// Whose handler has told the machine to restart, and it has not yet; and which journal was in use.
    restart_due: Option<(ReqId, u64)>,
    /// Whose image the other slot holds, to be booted next.
    other_slot: Option<ReqId>,
    /// Whose image was booted.
    booted: BTreeSet<ReqId>,
}

/// What work after a 202 comes to.
pub(super) enum Work {
    Ended(Result<Performed, Failure>),
    /// The machine restarts in the middle of it.
    Cut,
}

impl Device {
    /// What `handle` returns; the luckier, the better.
    pub(super) fn decide(task: &Task, luck: u8) -> Decision {
        let kind = Kind::of(&task.route, task.d.as_deref().map(|d| d.get()));
        // Whether a body can be decoded is no matter of luck.
        if kind == Kind::BadBody {
            return Decision::Undecodable(Refusal::bad_request("d: what is that?"));
        }
        match luck {
            0 if !kind.is_command() => Decision::Refused(Refusal::busy("not now")),
            0 | 1 => Decision::Refused(Refusal::failed("broken")),
            _ => {
                let rc = if kind.works_after() { 202 } else { 200 };
                // An answer of another attempt can be told from this one.
                let d = json!({ "attempt": task.attempt, "luck": luck });
                let d = (rc == 200).then(|| serde_json::value::to_raw_value(&d).expect("a value is JSON"));
                Decision::Replied(ReplyParts { rc: Code::from_u16(rc), d })
            }
        }
    }

    /// What `after_ack` comes to, under this journal.
    pub(super) fn work(&mut self, task: &Task, luck: u8, journal: u64) -> Work {
        let kind = Kind::of(&task.route, None);
        if luck == 0 {
            return Work::Ended(Err(Failure::new("broken")));
        }
        if !kind.holds_manage() && kind != Kind::Update || luck == 1 {
            return Work::Ended(Ok(Performed::Complete));
        }
        if kind == Kind::Update {
            self.other_slot = Some(task.req_id.clone());
        }
        // Sometimes the machine says that it will restart, and does not.
        if luck > 2 {
            self.restart_due = Some((task.req_id.clone(), journal));
        }
        if luck == 4 { Work::Cut } else { Work::Ended(Ok(Performed::Restarting)) }
    }

    /// What `recover` returns.
    pub(super) fn judge(&self, task: &Task, luck: u8) -> Recovery {
        let is_update = Kind::of(&task.route, None) == Kind::Update;
        let is_done = if is_update { self.booted.contains(&task.req_id) } else { task.rebooted };
        match luck {
            _ if is_done => Recovery::Done,
            0..=4 => Recovery::Abandon,
            _ => Recovery::RunAgain,
        }
    }

    /// The machine restarts, if a handler has asked for it: which request's, and under which journal.
    pub(super) fn restart(&mut self) -> Option<(ReqId, u64)> {
        let due = self.restart_due.take()?;
        self.booted.extend(self.other_slot.take());
        Some(due)
    }
}

/// What a handler does when everything goes well.
pub(super) const LUCK: u8 = 9;
