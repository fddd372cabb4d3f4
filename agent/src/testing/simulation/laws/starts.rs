//! The laws of what is started: P2, P5, P6, P7, P8, P9 and P10.

use std::collections::BTreeSet;
use std::time::Duration;

use iotdm_core::{ReqId, Subject};

use crate::engine::{Task, TaskMoment};

use super::super::Law;
use super::super::ask::Kind;
use super::Laws;
use super::track::{Running, Track};

impl Laws {
    pub(super) fn started(&mut self, task: &Task) {
        let kind = Kind::of(&task.route, task.d.as_deref().map(|d| d.get()));
        self.check_bounds(task, kind);
        let running = Running {
            req_id: task.req_id.clone(),
            moment: task.moment,
            takes_lane: kind.takes_lane() && task.moment != TaskMoment::Recover,
            restarts: kind.holds_manage() && task.moment == TaskMoment::AfterAck,
            is_rerun: task.attempt > 1,
            deadline: self.now + task.budget,
            is_over: false,
        };
        self.running.insert(task.key, running);
        self.waiting.remove(&task.req_id);
        self.command_started(task);
        if !self.tracks.contains_key(&task.req_id) {
            return;
        }
        match task.moment {
            TaskMoment::Handle => self.handle_started(&task.req_id, kind, task.attempt),
            TaskMoment::AfterAck => self.work_started(&task.req_id, kind),
            TaskMoment::Recover => self.judgement_started(&task.req_id, task.rebooted),
        }
    }

    /// The lane, the places, and that nothing begins while the device is about to restart.
    fn check_bounds(&mut self, task: &Task, kind: Kind) {
        let req_id = &task.req_id;
        if task.subject != Subject::Connected {
            self.broken(Law::EveryDeliveryIsAnswered, format!("{req_id} is another device's and is started"));
        }
        if task.moment == TaskMoment::Recover {
            return;
        }
        let in_lane = self.running.values().filter(|running| running.takes_lane).count();
        let in_places =
            self.running.values().filter(|r| !r.takes_lane && r.moment != TaskMoment::Recover).count();
        if kind.takes_lane() && in_lane > 0 {
            self.broken(Law::NothingWaits, format!("{req_id} takes the lane of a task that has not ended"));
        }
        if !kind.takes_lane() && in_places >= self.limits.running {
            self.broken(Law::EverythingIsBounded, format!("{req_id} is started beyond {in_places} places"));
        }
        let mut others = self.running.values().filter(|running| !running.is_over);
        let restarts = kind.holds_manage() && task.moment == TaskMoment::AfterAck;
        if let Some(other) = others.find(|other| {
            let reruns = other.is_rerun && task.attempt > 1 && !kind.takes_lane();
            other.moment == TaskMoment::Recover || restarts || reruns
        }) {
            let what = format!("{req_id} is started beside {}", other.req_id);
            self.broken(Law::AnswerBeforeDisruption, what);
        }
        if let Some((restarting, since)) = &self.restart
            && self.now < *since + RESTART_WITHIN
        {
            let what = format!("{req_id} is started while {restarting} restarts the device");
            self.broken(Law::AnswerBeforeDisruption, what);
        }
        if self.quarantine && !kind.may_run_again() && kind != Kind::BadBody {
            let what = format!("{req_id} is started although the journal was lost and may have held it");
            self.broken(Law::DamageDoesNotBrick, what);
        }
    }

    fn handle_started(&mut self, req_id: &ReqId, kind: Kind, attempt: u32) {
        self.check_late(req_id, kind);
        let track = &self.tracks[req_id];
        if track.answer.is_some() && track.has_one_answer() {
            if !self.may_be_forgotten(req_id) {
                return self.broken(Law::NoReplayRuns, format!("{req_id} was answered and runs again"));
            }
            self.tracks.get_mut(req_id).expect("it was there a moment ago").forgotten();
        }
        let order = self.newest_order(req_id);
        self.executed.extend(order);
        let attempts = self.attempts;
        let track = self.tracks.get_mut(req_id).expect("it was there a moment ago");
        track.starts += 1;
        let repeats = attempt <= track.last_attempt && track.starts > 1;
        track.last_attempt = attempt;
        let (starts, reused) = (track.starts, track.is_reused());
        let decides_only = kind.works_after() || kind == Kind::BadBody;
        if starts > 1 && !kind.may_run_again() && !decides_only && !reused {
            self.broken(
                Law::NoReplayRuns,
                format!("{req_id} must not run again and is started {starts} times"),
            );
        }
        if !reused && kind != Kind::BadBody && (starts > attempts || repeats) {
            self.broken(
                Law::NoLoop,
                format!("{req_id} is started {starts} times, attempt {attempt} once more"),
            );
        }
    }

    fn work_started(&mut self, req_id: &ReqId, kind: Kind) {
        self.check_late(req_id, kind);
        let (boot, attempts) = (self.boot, self.attempts);
        let track = self.tracks.get_mut(req_id).expect("it was there a moment ago");
        track.performs += 1;
        track.performed_in = Some(boot);
        let (performs, again, reused) = (track.performs, track.again, track.is_reused());
        if !track.platform_has_202 {
            let what = format!("the work of {req_id} begins before the broker has its 202");
            self.broken(Law::AnswerBeforeDisruption, what);
        }
        if performs > 1 + again && !reused {
            let what = format!("the work of {req_id} is repeated without a judgement");
            self.broken(Law::NoReplayRuns, what);
        }
        if performs > attempts && !reused {
            self.broken(Law::NoLoop, format!("the work of {req_id} begins {performs} times"));
        }
    }

    fn judgement_started(&mut self, req_id: &ReqId, rebooted: bool) {
        let (boot, attempts) = (self.boot, self.attempts);
        self.held_at = self.now;
        let track = self.tracks.get_mut(req_id).expect("it was there a moment ago");
        track.recovers += 1;
        track.judged_at = Some(self.now);
        let (recovers, reused) = (track.recovers, track.is_reused());
        let truly = track.performed_in.is_none_or(|performed_in| (performed_in != boot) == rebooted);
        if !truly {
            let what = format!("{req_id} is judged as if rebooted were {rebooted}");
            self.broken(Law::AnswerBeforeDisruption, what);
        }
        if recovers > attempts && !reused {
            self.broken(Law::NoLoop, format!("{req_id} is judged {recovers} times"));
        }
    }

    /// P9. A dead connection may hold a delivery back unnoticed for a while, unless the broker has counted that; then it
    /// need not keep order, either.
    fn check_late(&mut self, req_id: &ReqId, kind: Kind) {
        let track = &self.tracks[req_id];
        let Some(limit) = kind.refused_after().filter(|_| self.ordered || track.counted) else { return };
        let age = self.now.saturating_sub(track.newest_delivered);
        let unnoticed = if track.counted { COUNTED_WITHIN } else { self.unnoticed };
        if age > limit + unnoticed {
            self.broken(Law::LateIsADecision, format!("{req_id} starts {age:?} after it was sent"));
        }
    }

    /// The last place that it can have among the requests of this journal. What is not kept, and what shares its reqId
    /// with something else, is recorded anew at any delivery.
    pub(super) fn newest_order(&mut self, req_id: &ReqId) -> Option<u64> {
        let track = &self.tracks[req_id];
        if track.has_one_answer() {
            return track.order.map(|(_, last)| last);
        }
        self.arrivals += 1;
        Some(self.arrivals)
    }

    /// P2 ends where enough newer requests were executed, or refused.
    pub(super) fn may_be_forgotten(&self, req_id: &ReqId) -> bool {
        let track = &self.tracks[req_id];
        let Some((first, last)) = track.order.filter(|_| !track.may_be_forgotten) else { return true };
        let newer =
            |orders: &BTreeSet<u64>| orders.range(first + 1..).filter(|order| **order != last).count();
        if track.is_refused {
            // A refusal is kept before it can be seen from here: every request that came since may be one.
            let may_be_one = |(id, other): &(&ReqId, &Track)| {
                // Where a reqId has several requests, it is not known which of them came when.
                let is_newer = !other.has_one_answer() || other.order.is_some_and(|(_, last)| last > first);
                *id != req_id && is_newer && other.kinds.iter().any(|kind| kind.is_work())
            };
            return self.tracks.iter().filter(may_be_one).count() >= self.limits.kept_refused;
        }
        newer(&self.executed) >= self.limits.kept_executed
    }
}

/// How much the count of a broker may be wrong by, which counts whole seconds at both ends.
const COUNTED_WITHIN: Duration = Duration::from_secs(2);

/// How long a restart may take to come: then it is taken to have failed.
pub(super) const RESTART_WITHIN: Duration = Duration::from_secs(5 * 60);
