//! Work that a restart interrupted: its handler judges what became of it, before anything else begins.

use iotdm_core::Recovery;
use tracing::info;

use super::Engine;
use super::event::{Moment as TaskMoment, Timer};
use super::key::KeyHash;
use super::request::Stage;
use super::run::Slot;

impl Engine {
    /// Starts what a restart left to be judged. A judgement counts as an attempt once it has begun, so that one that
    /// kills the process is given up, too; from the second attempt on they go one at a time, like all reruns.
    pub(super) fn start_judgements(&mut self) {
        let mut waiting: Vec<(u64, KeyHash)> = self
            .requests
            .iter()
            .filter(|(key, request)| {
                matches!(request.stage, Stage::Judging { .. }) && !self.running.contains_key(key)
            })
            .map(|(key, request)| (request.sequence, *key))
            .collect();
        waiting.sort_unstable();
        for (_, key) in waiting {
            self.start_judgement(key);
        }
    }

    fn start_judgement(&mut self, key: KeyHash) {
        let request = &self.requests[&key];
        let Some(attempts) = self.policy(&request.route).map(|policy| policy.attempts) else {
            self.finish_performed(key, Some("this device no longer offers that action".into()));
            return self.open_session();
        };
        if request.attempt > attempts {
            self.finish_performed(key, Some(format!("interrupted {attempts} times; it is given up")));
            return self.open_session();
        }
        if request.attempt > 1 && self.reruns() {
            return;
        }
        self.start_task(key, TaskMoment::Recover, Slot::Judgement);
        self.requests.get_mut(&key).expect("it was there a moment ago").attempt += 1;
        self.write_due(key);
    }

    pub(super) fn recovered(&mut self, key: KeyHash, recovery: Recovery) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let Stage::Judging { response, .. } = &request.stage else {
            return self.note("a judgement came after its time", "it is dropped");
        };
        self.timers.clear(&Timer::Task(key));
        info!(reqId = %request.req_id, action = %request.route, ?recovery, "interrupted work was judged");
        match recovery {
            Recovery::Done => self.finish_performed(key, None),
            Recovery::Abandon => {
                self.finish_performed(key, Some("interrupted, and not to be done again".into()))
            }
            Recovery::RunAgain | Recovery::Resume => {
                // Its attempt was counted when the judgement began.
                let boot = (*self.settings.boot.0).into();
                let (response, resumes) = (response.clone(), recovery == Recovery::Resume);
                request.stage = Stage::Settled { response, boot, acknowledged: true, resumes };
            }
        }
        self.open_session();
    }

    pub(super) fn is_judging(&self) -> bool {
        // Blocking work that outlives its judgement keeps its lane, and nothing else: it may never end.
        self.requests.values().any(|request| matches!(request.stage, Stage::Judging { .. }))
    }
}
