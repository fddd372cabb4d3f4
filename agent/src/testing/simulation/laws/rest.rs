//! The laws of a world at rest, and of one in which everything works again: P1, P3, P4, P7, P8 and quiet.

use std::time::Duration;

use iotdm_core::ReqId;

use crate::engine::{TaskMoment, Ticket};
use crate::store::{MAX_VALUE_BYTES, MemoryDisk};

use super::super::Law;
use super::super::ask::Kind;
use super::super::world::World;
use super::track::{Running, Track};
use super::{Laws, Report};

impl Laws {
    /// Nothing is on its way: who could begin has begun.
    pub(crate) fn at_rest(world: &mut World) {
        let Some(agent) = &world.agent else { return };
        let (unfinished, kept) = (agent.engine.unfinished(), agent.engine.kept());
        let events = agent.engine.events();
        let laws = &mut world.laws;
        laws.now = world.elapsed;
        laws.check_store(events);
        laws.check_size(kept, unfinished, &world.disk);
        laws.check_budgets();
        if world.broker.is_connected() && world.broker.pubacks {
            laws.check_waiting();
        }
    }

    fn check_size(&mut self, kept: usize, unfinished: usize, disk: &MemoryDisk) {
        let limits = &self.limits;
        let kept_max = limits.pending + limits.kept_executed + limits.kept_refused + limits.outbox;
        if unfinished > limits.pending || kept > kept_max {
            let what = format!("{unfinished} requests are unfinished and {kept} are kept");
            return self.broken(Law::EverythingIsBounded, what);
        }
        let pairs = disk.pairs();
        let events = limits.events.count + 2 * limits.events.bytes / MAX_VALUE_BYTES;
        if pairs > kept_max + limits.outbox + events + OTHER_PAIRS {
            self.broken(Law::EverythingIsBounded, format!("the journal holds {pairs} pairs"));
        }
    }

    /// P3: a timeout is an answer, too.
    fn check_budgets(&mut self) {
        let over = |running: &&Running| !running.is_over && self.now > running.deadline;
        if let Some(running) = self.running.values().find(over) {
            let what = format!("{:?} of {} is over its budget", running.moment, running.req_id);
            self.broken(Law::EveryDeliveryIsAnswered, what);
        }
    }

    fn check_waiting(&mut self) {
        let holds = |running: &Running| running.restarts || running.moment == TaskMoment::Recover;
        if self.running.values().any(holds) || self.restart.is_some() || !self.promised.is_empty() {
            self.held_at = self.now;
        }
        let is_held = self.held_at + LANE_WAIT >= self.now;
        let in_places = self.running.values().filter(|running| !running.takes_lane).count();
        let busy = in_places >= self.limits.running || self.running.values().any(|running| running.is_rerun);
        let since = self.started_at.max(self.held_at);
        let is_overdue = |req_id: &&ReqId| {
            let track = &self.tracks[*req_id];
            let waited = self.now.saturating_sub(since.max(track.acked_at.unwrap_or_default()));
            match track.kinds[..] {
                [kind] if !kind.is_work() => true,
                [kind] if kind.takes_lane() => !is_held && waited > LANE_WAIT,
                [_] => !is_held && !busy,
                // Which of the two requests with this reqId waits is not known here.
                _ => false,
            }
        };
        let overdue = self.waiting.iter().find(is_overdue);
        if let Some(req_id) = overdue {
            let what = format!("{req_id} waits, and nothing is in its way");
            self.broken(Law::NothingWaits, what);
        }
    }

    /// Everything has worked again for long enough.
    pub(crate) fn at_the_end(world: &mut World) {
        let Some(agent) = &world.agent else {
            return world.laws.broken(Law::Quiet, "the agent does not run".into());
        };
        let engine = &agent.engine;
        let unfinished = engine.unfinished();
        let is_managed = engine.is_managed();
        let is_quiet = engine.is_quiet() && agent.tasks.is_empty();
        let events = engine.events();
        let laws = &mut world.laws;
        laws.judge_attributes(engine.model());
        if unfinished > 0 {
            laws.broken(Law::AcceptedIsKept, format!("{unfinished} requests have no outcome"));
        }
        if !is_managed || !is_quiet {
            laws.broken(Law::Quiet, format!("managed: {is_managed}, quiet: {is_quiet}"));
        }
        laws.judge_copies();
        laws.judge_promises();
        laws.judge_reuse();
        laws.judge_reports();
        laws.judge_events(events);
        laws.judge_commands(&world.disk);
    }

    fn judge_copies(&mut self) {
        let mut broken = None;
        for copy in self.copies.values().filter(|copy| !copy.excused) {
            let (req_id, track) = (&copy.req_id, &self.tracks[&copy.req_id]);
            let is_answered = track.answered_at > copy.delivered_at;
            broken = if !copy.acked {
                Some((Law::AcceptedIsKept, format!("{req_id} is not acknowledged")))
            } else if !is_answered {
                Some((Law::EveryDeliveryIsAnswered, format!("a delivery of {req_id} is not answered")))
            } else if !track.confirmed {
                Some((Law::AnswersAreKept, format!("the broker never acknowledged the answer to {req_id}")))
            } else {
                continue;
            };
            break;
        }
        if let Some((law, what)) = broken {
            self.broken(law, what);
        }
    }

    /// P1 and P5: what a 202 promised was begun, and the platform hears of its end.
    fn judge_promises(&mut self) {
        if let Some(req_id) = self.promised.iter().find(|req_id| !self.tracks[*req_id].is_reused()) {
            let what = format!("the platform was never told that {req_id} has ended");
            return self.broken(Law::AnswerBeforeDisruption, what);
        }
        let is_owed = |track: &Track| match track.kinds[..] {
            // A reboot is done by any restart; what is late may be abandoned.
            [Kind::Reset | Kind::Download | Kind::Update | Kind::After] => {
                let nothing_done = track.performs + track.recovers == 0;
                track.platform_has_202 && nothing_done && !track.lost
            }
            _ => false,
        };
        if let Some((req_id, _)) = self.tracks.iter().find(|(_, track)| is_owed(track)) {
            let what = format!("{req_id} was promised, and nothing was done");
            self.broken(Law::AcceptedIsKept, what);
        }
    }

    /// P2: two requests with one reqId are not taken for one.
    fn judge_reuse(&mut self) {
        let taken_for_one = self.tracks.iter().find(|(_, track)| {
            let two_accepted = track.accepted.len() > 1 && track.is_kept();
            // What has come since may have taken the place of either.
            let kept = self.limits.kept_executed.min(self.limits.kept_refused) as u64;
            let is_new = track.order.is_some_and(|(first, _)| self.arrivals - first < kept);
            two_accepted && is_new && !track.mismatch_told
        });
        if let Some((req_id, _)) = taken_for_one {
            let what = format!("two requests came as {req_id}, and neither was told");
            self.broken(Law::NoReplayRuns, what);
        }
    }

    /// The product reports something; whether it is told that it was kept.
    pub(crate) fn reported(&mut self, ticket: Ticket) {
        self.reports.insert(ticket, Report::default());
    }

    /// The platform refuses reports, or does not answer them: their retry budget may end.
    pub(crate) fn excuse_reports(&mut self) {
        self.reports.values_mut().for_each(|report| report.excused = true);
    }

    fn judge_reports(&mut self) {
        let lost =
            self.reports.iter().find(|(_, report)| report.confirmed && !report.received && !report.excused);
        if let Some((ticket, _)) = lost {
            let what = format!("report {} was confirmed and did not reach the platform", ticket.0);
            self.broken(Law::AnswersAreKept, what);
        }
    }
}

/// Pairs that are neither requests nor their places in the queue: own requests, attributes, observations, the mark,
/// the owner.
const OTHER_PAIRS: usize = 512 + 128;

/// How long the next in the lane waits.
const LANE_WAIT: Duration = Duration::from_secs(10);
