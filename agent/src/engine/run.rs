//! The one gate, places and the lane, and what handlers' results lead to.

use std::collections::VecDeque;

use bytes::Bytes;
use iotdm_core::{
    Code, Decision, Failure, Interrupted, Late, Performed, Phases, Policy, Recovery, Refusal, Response,
};
use tracing::info;

use crate::journal::Class;

use super::Engine;
use super::event::{Effect, Moment as TaskMoment, Task, Timer};
use super::finish::spoken;
use super::key::KeyHash;
use super::request::{
    DRAIN_LIMIT, LONGEST_BUDGET, RESTART_WITHIN, Request, Stage, Step, restarts, takes_lane,
};

/// What only one request of a device may do at a time: restart it, or replace its software.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) holder: Option<KeyHash>,
    pub(super) waiting: VecDeque<KeyHash>,
}

/// A task that has not ended, though its request may have.
#[derive(Debug)]
pub(super) struct RunningTask {
    pub(super) slot: Slot,
    /// Whether it repeats work that a crash interrupted; such work goes one at a time.
    rerun: bool,
    /// The rules it was started with: others may be offered meanwhile.
    policy: Policy,
}

/// What a task occupies until it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Place,
    Lane,
    Judgement,
}

impl Engine {
    /// Gives free places and the lane to those who wait, in order.
    pub(super) fn start_waiting(&mut self) {
        if !self.stopping {
            self.start_judgements();
        }
        if self.others.restart {
            return self.release_lanes();
        }
        if !self.stopping && self.restarting.is_none() && !self.is_judging() {
            self.start_acknowledged();
            self.start_in_lanes();
            self.start_in_places();
        }
        self.release_lanes();
    }

    /// Until every lane is held or nobody waits for it: who is refused at the gate does not keep it.
    fn start_in_lanes(&mut self) {
        loop {
            self.release_lanes();
            let Self { running, lanes, .. } = self;
            let next = lanes.values_mut().filter(|lane| lane.holder.is_none()).find_map(|lane| {
                // What was given up and forgotten may still run under the same reqId: its task ends first.
                lane.holder = lane.waiting.pop_front_if(|key| !running.contains_key(key));
                lane.holder
            });
            let Some(key) = next else { return };
            self.start_request(key, Slot::Lane);
        }
    }

    fn start_in_places(&mut self) {
        let mut passed_over = VecDeque::new();
        while self.restarting.is_none() && self.free_places() > 0 {
            let Some(key) = self.waiting.pop_front() else { break };
            let rerun = self.requests.get(&key).is_some_and(|request| request.attempt > 1);
            // A place is a task's until it has ended, also when its request was given up and queued again.
            if rerun && self.reruns() || self.running.contains_key(&key) {
                passed_over.push_back(key);
                continue;
            }
            self.start_request(key, Slot::Place);
        }
        while let Some(key) = passed_over.pop_back() {
            self.waiting.push_front(key);
        }
    }

    fn free_places(&self) -> usize {
        let taken = self.running.values().filter(|task| task.slot == Slot::Place).count();
        self.settings.limits.running.saturating_sub(taken)
    }

    /// A lane is free when its holder is finished and the holder's task has ended.
    fn release_lanes(&mut self) {
        for lane in self.lanes.values_mut() {
            if let Some(holder) = lane.holder
                && !self.requests.contains_key(&holder)
                && !self.running.contains_key(&holder)
            {
                lane.holder = None;
            }
        }
    }

    /// The gate before every start: attempts and lateness. `None` lets it through.
    fn gate(&self, request: &Request) -> Option<(Class, Refusal)> {
        let Some(policy) = self.policy(&request.route) else {
            return Some((Class::Executed, Refusal::unsupported("this device no longer offers that action")));
        };
        if request.attempt > policy.attempts {
            let message = format!("interrupted {} times; it is given up", policy.attempts);
            return Some((Class::Executed, Refusal::failed(message)));
        }
        if self.is_late(request, policy) {
            return Some((Class::Refused, Refusal::busy("the request has waited too long")));
        }
        None
    }

    fn is_late(&self, request: &Request, policy: &Policy) -> bool {
        let Late::RefuseAfter(limit) = policy.late else { return false };
        let waited = request.arrived.age(self.now, self.settings.clock());
        !request.resumes() && request.age.plus(waited).may_exceed(limit)
    }

    fn start_request(&mut self, key: KeyHash, slot: Slot) {
        self.timers.clear(&Timer::Lane(key));
        let Some(request) = self.requests.get(&key) else { return };
        if let Some((class, refusal)) = self.gate(request) {
            return self.finish_refused(key, class, &refusal);
        }
        let works = self.policy(&request.route).is_some_and(|it| it.phases == Phases::WorkThenAnswer);
        self.start_task(key, TaskMoment::Handle, slot);
        let request = self.requests.get_mut(&key).expect("it was there a moment ago");
        request.stage = Stage::Deciding;
        request.works |= works;
        self.write_due(key);
    }

    /// Whether a rerun is under way. One that was given up is not, though its blocking work may never end.
    pub(super) fn reruns(&self) -> bool {
        self.running.iter().any(|(key, task)| task.rerun && self.requests.contains_key(key))
    }

    pub(super) fn start_task(&mut self, key: KeyHash, moment: TaskMoment, slot: Slot) {
        let request = &self.requests[&key];
        let policy = *self.policy(&request.route).expect("only what has rules passes the gate");
        let budget = match moment {
            TaskMoment::Handle => policy.budget,
            TaskMoment::AfterAck => policy.perform_budget,
            TaskMoment::Recover => super::request::RECOVER_BUDGET,
        };
        let budget = self.time_left(request, budget.min(LONGEST_BUDGET));
        let rebooted = match &request.stage {
            Stage::Judging { boot, .. } => **boot != *self.settings.boot.0,
            _ => false,
        };
        let task = Task {
            key,
            moment,
            req_id: request.req_id.clone(),
            subject: request.subject.clone(),
            route: request.route.clone(),
            d: request.d.clone(),
            attempt: request.attempt,
            budget,
            rebooted,
        };
        let before = self.running.insert(key, RunningTask { slot, rerun: request.attempt > 1, policy });
        assert!(before.is_none(), "a task starts only when the one before it has ended");
        self.timers.set(Timer::Task(key), self.now.monotonic + budget);
        self.effect(Effect::Start(task));
    }

    pub(super) fn decided(&mut self, key: KeyHash, decision: Decision) {
        let Some(request) =
            self.requests.get(&key).filter(|request| matches!(request.stage, Stage::Deciding))
        else {
            return self.note("a handler's answer came after its time", "it is dropped");
        };
        self.timers.clear(&Timer::Task(key));
        match decision {
            Decision::Undecodable(refusal) => self.finish_refused(key, Class::Passing, &refusal),
            Decision::Refused(refusal) => {
                let class = if refusal.rc() == Code::CONFLICT { Class::Refused } else { Class::Executed };
                self.finish_refused(key, class, &refusal);
            }
            Decision::Replied(parts) => {
                let raw = request.req_id.to_raw();
                let response = Response::new(&raw, parts.rc).data(parts.d.as_deref()).to_bytes();
                match self.running[&key].policy.phases {
                    Phases::WorkThenAnswer => self.finish(key, Class::Executed, response.into()),
                    Phases::AnswerThenWork => self.settle(key, response.into()),
                }
            }
        }
    }

    fn settle(&mut self, key: KeyHash, response: Bytes) {
        let request = self.requests.get_mut(&key).expect("a request that is being decided on is unfinished");
        let boot = (*self.settings.boot.0).into();
        request.stage = Stage::Settled { response, boot, acknowledged: false, resumes: false };
        // From here on attempts of the work are counted; the decision needs no further ones.
        request.attempt = 1;
        self.tell_of("accepted; the work follows", key);
        self.write_due(key);
        self.answer_due(key);
    }

    /// The broker has the 202.
    pub(super) fn answer_arrived(&mut self, key: KeyHash) {
        if let Some(Request { stage: Stage::Settled { acknowledged, .. }, .. }) = self.requests.get_mut(&key)
        {
            *acknowledged = true;
        }
    }

    fn start_acknowledged(&mut self) {
        let ready: Vec<KeyHash> = self
            .requests
            .iter()
            .filter(|(key, request)| {
                matches!(request.stage, Stage::Settled { acknowledged: true, .. })
                    && !self.running.contains_key(key)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in ready {
            self.perform(key);
        }
    }

    fn perform(&mut self, key: KeyHash) {
        let request = &self.requests[&key];
        if self.restarting.is_some() || !takes_lane(&request.route) && self.free_places() == 0 {
            return;
        }
        if request.attempt > 1 && self.reruns() {
            return;
        }
        if let Some((_, refusal)) = self.gate(request) {
            return self.finish_performed(key, Some(format!("abandoned: {}", refusal.message())));
        }
        let boot = (*self.settings.boot.0).into();
        let restarts = restarts(&request.route);
        let request = self.requests.get_mut(&key).expect("it was there a moment ago");
        let Stage::Settled { response, .. } = &request.stage else { return };
        let step = if restarts { Step::Draining } else { Step::Working };
        request.stage = Stage::Performing { response: response.clone(), boot, step };
        self.tell_of("the work begins", key);
        self.write_due(key);
        if !restarts {
            return self.work(key);
        }
        self.restarting = Some(key);
        if self.nothing_runs() {
            self.work(key);
        } else {
            self.timers.set(Timer::Drain, self.now.monotonic + DRAIN_LIMIT);
        }
    }

    pub(super) fn work(&mut self, key: KeyHash) {
        self.timers.clear(&Timer::Drain);
        let request = self.requests.get_mut(&key).expect("only an unfinished request is worked on");
        if let Stage::Performing { step, .. } = &mut request.stage {
            *step = Step::Working;
        }
        let slot = if takes_lane(&request.route) { Slot::Lane } else { Slot::Place };
        self.start_task(key, TaskMoment::AfterAck, slot);
    }

    /// What still runs before a restart has had its time.
    pub(super) fn drain_over(&mut self) {
        let Some(restarting) = self.restarting else { return self.cut_all_short() };
        self.cut_all_short();
        if !self.others.restart {
            self.work(restarting);
        }
    }

    fn cut_all_short(&mut self) {
        let running: Vec<KeyHash> = self.running.keys().copied().collect();
        for key in running {
            self.effect(Effect::Cancel(key));
            self.cut_short(key);
        }
    }

    fn cut_short(&mut self, key: KeyHash) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        match &request.stage {
            Stage::Deciding if resumes(&self.running[&key].policy) => {
                request.stage = Stage::Queued;
                request.attempt += 1;
                if takes_lane(&request.route) {
                    self.lanes.entry(request.subject.clone()).or_default().waiting.push_back(key);
                } else {
                    self.waiting.push_back(key);
                }
                self.wait_again(key);
                self.write_due(key);
            }
            Stage::Deciding => {
                let refusal = Refusal::failed("interrupted by a restart of the device; it may have happened");
                self.finish_refused(key, Class::Executed, &refusal);
            }
            Stage::Performing { .. } => {
                self.finish_performed(key, Some("cut short by a restart of the device".into()));
            }
            Stage::Queued | Stage::Settled { .. } | Stage::Judging { .. } => {}
        }
    }

    pub(super) fn performed(&mut self, key: KeyHash, result: Result<Performed, Failure>) {
        let Some(Request { stage: Stage::Performing { step, .. }, route, req_id, .. }) =
            self.requests.get_mut(&key)
        else {
            return self.note("work ended after its time", "its result is dropped");
        };
        self.timers.clear(&Timer::Task(key));
        match result {
            Ok(Performed::Complete) => self.finish_performed(key, None),
            Ok(Performed::Restarting) => {
                info!(reqId = %req_id, action = %route, "the device is about to restart");
                *step = Step::Restarting;
                // Another restart may wait already for what still runs.
                self.restarting.get_or_insert(key);
                self.timers.set(Timer::Restart(key), self.now.monotonic + RESTART_WITHIN);
            }
            Err(failure) => self.finish_performed(key, Some(failure.to_string())),
        }
    }

    pub(super) fn restart_never_came(&mut self, key: KeyHash) {
        self.finish_performed(key, Some(format!("the restart did not come within {RESTART_WITHIN:?}")));
    }

    pub(super) fn task_overran(&mut self, key: KeyHash) {
        self.effect(Effect::Cancel(key));
        let Some(request) = self.requests.get(&key) else { return };
        let policy = &self.running[&key].policy;
        match &request.stage {
            Stage::Deciding => {
                let message = format!("it took longer than its budget of {:?}", policy.budget);
                self.finish_refused(key, Class::Executed, &Refusal::failed(message));
            }
            Stage::Performing { .. } => {
                let message = format!("it took longer than its budget of {:?}", policy.perform_budget);
                self.finish_performed(key, Some(message));
            }
            Stage::Judging { .. } => {
                self.finish_performed(key, Some("no judgement on the interrupted work came in time".into()));
                self.open_session();
            }
            Stage::Queued | Stage::Settled { .. } => {}
        }
    }

    pub(super) fn lane_wait_over(&mut self, key: KeyHash) {
        let Some(request) = self.requests.get(&key) else { return };
        let Some(lane) = self.lanes.get_mut(&request.subject) else { return };
        lane.waiting.retain(|waiting| *waiting != key);
        let holder = lane.holder.and_then(|holder| self.requests.get(&holder));
        let refusal = match holder {
            Some(holder) => Refusal::busy(format!("{} is under way", spoken(&holder.route))),
            None => Refusal::busy("the device is about to restart"),
        };
        self.finish_refused(key, Class::Refused, &refusal);
    }

    pub(super) fn ended(&mut self, key: KeyHash) {
        self.running.remove(&key);
        match self.requests.get(&key).map(|request| &request.stage) {
            Some(Stage::Deciding) => {
                self.decided(key, Decision::Refused(Refusal::failed("the handler ended without an answer")))
            }
            Some(Stage::Performing { step: Step::Working, .. }) => {
                self.performed(key, Err(Failure::new("the work ended without a result")));
            }
            Some(Stage::Judging { .. }) => self.recovered(key, Recovery::Abandon),
            _ => {}
        }
        self.go_on_draining();
    }
}

/// Whether an interrupted `handle` may be started again: where the action says so, and where it only decides.
pub(super) fn resumes(policy: &Policy) -> bool {
    policy.interrupted == Interrupted::RunAgain || policy.phases == Phases::AnswerThenWork
}
