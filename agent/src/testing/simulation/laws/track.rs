use std::time::Duration;

use bytes::Bytes;
use iotdm_core::ReqId;

use crate::engine::{Fingerprint, PublishId, TaskMoment};

use super::super::ask::Kind;
use super::Laws;

/// A copy of a request: how far it got.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) req_id: ReqId,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) sent_at: Duration,
    /// How many messages the platform had when it was delivered last.
    pub(crate) delivered_at: Option<u64>,
    pub(crate) acked: bool,
    /// It was accepted by a journal that was lost.
    pub(crate) excused: bool,
}

/// What became of one reqId.
#[derive(Debug, Default)]
pub(super) struct Track {
    pub(super) kinds: Vec<Kind>,
    /// When the newest copy that was delivered had been sent.
    pub(super) newest_delivered: Duration,
    /// The broker says how long its copies have waited.
    pub(super) counted: bool,
    /// The bounds of its place among the requests of this journal: its first delivery, and the last one that can have
    /// been the one that was recorded.
    pub(super) order: Option<(u64, u64)>,
    /// So much came after it that this delivery may be a first one again.
    pub(super) may_be_forgotten: bool,
    pub(super) acked_at: Option<Duration>,

    /// How often each moment of its handler was started.
    pub(super) starts: u32,
    pub(super) performs: u32,
    pub(super) recovers: u32,
    pub(super) last_attempt: u32,
    /// When its newest judgement began.
    pub(super) judged_at: Option<Duration>,
    /// The boot in which its work began.
    pub(super) performed_in: Option<u64>,
    /// How often its handler judged that the work is to be done again.
    pub(super) again: u32,
    /// How often the machine restarted because of it.
    pub(super) restarts: u32,

    /// Its handler has said yes, for the first time in this boot.
    pub(super) replied_in: Option<u64>,
    /// Its handler has said that the work ended otherwise than by a restart.
    pub(super) released: bool,
    /// The engine has ended its task.
    pub(super) cancelled: bool,
    /// How often the process died since the platform has its 202.
    pub(super) deaths: u32,

    /// The different requests with this reqId that this journal has accepted, and whether one was told of the other.
    pub(super) accepted: Vec<Fingerprint>,
    pub(super) mismatch_told: bool,
    pub(super) answer: Option<Bytes>,
    /// Its answer is a 409, which is kept among the others of its kind.
    pub(super) is_refused: bool,
    /// How many messages the platform had with its newest answer.
    pub(super) answered_at: Option<u64>,
    /// The broker has acknowledged an answer.
    pub(super) confirmed: bool,
    pub(super) platform_has_202: bool,
    /// The platform had one for an earlier request with this reqId, which was forgotten since.
    pub(super) platform_had_202: bool,
    /// When, and in which boot, the platform learned that the device will restart.
    pub(super) promised: Option<(u64, Duration)>,
    /// It was known to a journal that was lost.
    pub(super) lost: bool,
}

impl Laws {
    /// What a clock of whole seconds counts of the time since a request was sent. Of other messages nothing is counted.
    pub(crate) fn counted(&self, number: u64, at: Duration) -> Option<Duration> {
        let sent_at = self.copies.get(&number)?.sent_at;
        Some(Duration::from_secs(at.as_secs().saturating_sub(sent_at.as_secs())))
    }

    /// The broker does not take an answer.
    pub(crate) fn refused(&mut self, id: PublishId) {
        self.publishes.remove(&id);
    }
}

impl Track {
    pub(super) fn delivered(&mut self, sent_at: Duration, waited: Option<Duration>) {
        self.newest_delivered = self.newest_delivered.max(sent_at);
        self.counted = waited.is_some();
    }

    pub(super) fn sent(&mut self, kind: Kind, at: Duration) {
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
        if self.order.is_none() {
            self.newest_delivered = self.newest_delivered.max(at);
        }
    }

    /// A copy was delivered.
    pub(super) fn arrived(&mut self, order: u64, may_be_forgotten: bool) {
        self.may_be_forgotten |= may_be_forgotten;
        self.order = match self.order {
            None => Some((order, order)),
            Some((first, _)) if may_be_forgotten || !self.is_recorded() => Some((first, order)),
            known => known,
        };
    }

    /// Whether the journal has it, or had it and forgot it.
    pub(super) fn is_recorded(&self) -> bool {
        self.acked_at.is_some() || self.starts > 0 || self.answer.is_some()
    }

    /// Whether the platform has used this reqId for more than one request.
    pub(super) fn is_reused(&self) -> bool {
        self.kinds.len() > 1
    }

    pub(super) fn may_answer(&self, rc: u16) -> bool {
        self.kinds.iter().any(|kind| kind.may_answer(rc))
    }

    /// Whether all answers to it must be the same bytes. For a reqId of several requests it is not known here which of
    /// them an answer is for.
    pub(super) fn has_one_answer(&self) -> bool {
        !self.is_reused() && self.is_kept() && !self.kinds.contains(&Kind::Observe)
    }

    /// Whether it is remembered once it is answered, whatever it asks for.
    pub(super) fn is_kept(&self) -> bool {
        let passes = |kind: &Kind| matches!(kind, Kind::BadBody | Kind::UnknownTopic | Kind::UnknownAction);
        !self.kinds.iter().any(passes)
    }

    /// Another life begins with its newest delivery: the one before it was pruned.
    pub(super) fn forgotten(&mut self) {
        *self = Self {
            order: self.order.map(|(_, last)| (last, last)),
            kinds: std::mem::take(&mut self.kinds),
            newest_delivered: self.newest_delivered,
            counted: self.counted,
            answered_at: self.answered_at,
            lost: self.lost,
            platform_had_202: self.platform_had_202 || self.platform_has_202,
            replied_in: self.replied_in,
            ..Self::default()
        };
    }

    pub(super) fn journal_lost(&mut self) {
        let has_202 = self.platform_has_202;
        self.forgotten();
        self.order = None;
        self.platform_has_202 = has_202;
        self.lost = true;
    }
}

/// A task that has not ended.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) req_id: ReqId,
    pub(super) moment: TaskMoment,
    pub(super) takes_lane: bool,
    /// Its work restarts the device: nothing starts beside it.
    pub(super) restarts: bool,
    /// It repeats what a crash interrupted; such work goes one at a time.
    pub(super) is_rerun: bool,
    /// When its budget is over.
    pub(super) deadline: Duration,
    /// It has returned, or the engine has ended it; blocking work may go on.
    pub(super) is_over: bool,
}
