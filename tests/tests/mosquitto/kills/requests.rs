//! What the platform asks for, and what must come of it.

use std::collections::BTreeMap;

use iotdm_tests::application::{Seen, bench_request};
use serde_json::{Value, json};

use super::agent::Run;

/// One request of the platform.
pub(super) struct Request {
    pub(super) req_id: String,
    pub(super) kind: Kind,
    /// How many answers there were when it was last sent again, on a broker that keeps what it took.
    pub(super) answers_before_replay: Option<usize>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Work, then 200; harmless to repeat.
    Echo,
    /// Work, then 200; never to be started twice.
    Once,
    /// 202, then the restart.
    Reboot,
    /// Carried out by the agent's own model: 204.
    Update,
    /// A body that the action does not take: 400.
    Malformed,
    /// A topic that is not in the protocol: 404.
    UnknownTopic,
    /// An action that the device does not have: 501.
    UnknownAction,
}

impl Request {
    pub(super) fn new(number: usize, kind: Kind) -> Self {
        Self { req_id: format!("{kind:?}-{number}"), kind, answers_before_replay: None }
    }

    pub(super) fn topic(&self) -> &'static str {
        match self.kind {
            Kind::Echo | Kind::Malformed => "iotdm-1/mgmt/custom/bench/echo",
            Kind::Once => "iotdm-1/mgmt/custom/bench/once",
            Kind::Reboot => "iotdm-1/mgmt/initiate/device/reboot",
            Kind::Update => "iotdm-1/device/update",
            Kind::UnknownTopic => "iotdm-1/somewhere/else",
            Kind::UnknownAction => "iotdm-1/mgmt/custom/bench/absent",
        }
    }

    pub(super) fn payload(&self) -> String {
        match self.kind {
            Kind::Echo | Kind::Once | Kind::UnknownAction => bench_request(&self.req_id, "0123456789"),
            Kind::Reboot | Kind::UnknownTopic => json!({"reqId": self.req_id}).to_string(),
            Kind::Update => {
                let fields = json!([{"field": "metadata", "value": {"from": self.req_id}}]);
                json!({"d": {"fields": fields}, "reqId": self.req_id}).to_string()
            }
            Kind::Malformed => json!({"d": {"fields": []}, "reqId": self.req_id}).to_string(),
        }
    }
}

/// How many requests came out how.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) requests: usize,
    /// Said to be done, and not done; or answered otherwise than they have to be.
    pub(super) lost: usize,
    /// Started twice though they may not be, or answered with two outcomes.
    pub(super) twice: usize,
    /// Without an answer, or sent again and without another one.
    pub(super) unanswered: usize,
    /// Not repeatable, interrupted, and answered 500.
    pub(super) interrupted: usize,
    /// Repeatable, and started more than once.
    pub(super) run_again: usize,
    /// Repeatable, and answered 500 because the budget was over.
    pub(super) overran: usize,
    /// Reboots that were carried out.
    pub(super) boots: usize,
    /// What was found wrong, for whoever has to mend it.
    pub(super) problems: Vec<String>,
}

impl Verdict {
    /// Judges all that was asked for by the answers that were seen and the work that was noted.
    pub(super) fn new(asked: &[Request], seen: &Seen, runs: &BTreeMap<String, Run>) -> Self {
        let mut verdict = Self { requests: asked.len(), ..Self::default() };
        for request in asked {
            let answers = seen.responses.get(&request.req_id).map(Vec::as_slice).unwrap_or_default();
            let run = runs.get(&request.req_id).copied().unwrap_or_default();
            if answers.len() <= request.answers_before_replay.unwrap_or(0) {
                let sent_again = request.answers_before_replay;
                let problem = format!("{} answers, sent again after {sent_again:?}", answers.len());
                verdict.count(|all| &mut all.unanswered, request, &problem);
            }
            if answers.iter().any(|answer| answer != &answers[0]) {
                verdict.count(|all| &mut all.twice, request, &format!("two outcomes: {answers:?}"));
            }
            if let Some(answer) = answers.first() {
                verdict.judge(request, answer, run);
            }
            // It must not happen either where no answer came.
            if request.kind == Kind::Once && run.starts > 1 || run.boots > 1 {
                let problem = format!("{} starts and {} restarts", run.starts, run.boots);
                verdict.count(|all| &mut all.twice, request, &problem);
            }
        }
        verdict
    }

    fn judge(&mut self, request: &Request, answer: &Value, Run { starts, ends, boots }: Run) {
        let rc = answer["rc"].as_u64().unwrap_or_default();
        let overran = rc == 500 && answer["message"].as_str().is_some_and(|text| text.contains(OVERRAN));
        let as_it_must = match request.kind {
            Kind::Echo => rc == 200 && ends >= 1 || overran,
            Kind::Once => rc == 200 && ends >= 1 || rc == 500,
            // One that another held up for too long is refused.
            Kind::Reboot => rc == 202 && boots >= 1 || rc == 409 && starts == 0,
            Kind::Update => rc == 204 && starts == 0,
            Kind::Malformed => rc == 400 && starts == 0,
            Kind::UnknownTopic => rc == 404 && starts == 0,
            Kind::UnknownAction => rc == 501 && starts == 0,
        };
        if !as_it_must {
            let problem = format!("{rc} after {starts} starts, {ends} ends, {boots} restarts");
            self.count(|all| &mut all.lost, request, &problem);
        }
        self.interrupted += usize::from(request.kind == Kind::Once && rc == 500);
        self.overran += usize::from(request.kind == Kind::Echo && overran);
        self.run_again += usize::from(request.kind == Kind::Echo && starts > 1);
        self.boots += boots;
    }

    fn count(&mut self, which: impl Fn(&mut Self) -> &mut usize, request: &Request, problem: &str) {
        *which(self) += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(format!("{}: {problem}", request.req_id));
        }
    }
}

/// What the agent tells the platform about work that it ended at its budget.
const OVERRAN: &str = "it took longer than its budget";

/// How many problems are told: the first ones say it.
const MAX_PROBLEMS: usize = 20;

/// One request with these answers, and how often it was started, ended, and restarted the machine: what counts as lost,
/// twice and unanswered then.
#[track_caller]
fn check(kind: Kind, answers: &[u64], (starts, ends, boots): (usize, usize, usize), counts: [usize; 3]) {
    let request = Request::new(0, kind);
    let mut seen = Seen::default();
    if !answers.is_empty() {
        let answers = answers.iter().map(|rc| json!({"rc": rc})).collect();
        seen.responses.insert(request.req_id.clone(), answers);
    }
    let runs = BTreeMap::from([(request.req_id.clone(), Run { starts, ends, boots })]);
    let verdict = Verdict::new(&[request], &seen, &runs);
    assert_eq!([verdict.lost, verdict.twice, verdict.unanswered], counts, "{verdict:?}");
}

#[test]
fn what_came_out_as_it_must_counts_as_nothing() {
    check(Kind::Echo, &[200, 200], (3, 2, 0), [0, 0, 0]);
    check(Kind::Once, &[200], (1, 1, 0), [0, 0, 0]);
    check(Kind::Once, &[500], (1, 0, 0), [0, 0, 0]);
    check(Kind::Reboot, &[202], (2, 0, 1), [0, 0, 0]);
    check(Kind::Update, &[204], (0, 0, 0), [0, 0, 0]);
    check(Kind::UnknownTopic, &[404], (0, 0, 0), [0, 0, 0]);
}

#[test]
fn what_was_lost_done_twice_or_not_answered_is_counted() {
    check(Kind::Echo, &[], (1, 1, 0), [0, 0, 1]);
    check(Kind::Echo, &[200], (1, 0, 0), [1, 0, 0]);
    check(Kind::Echo, &[200, 500], (1, 1, 0), [0, 1, 0]);
    check(Kind::Echo, &[500], (1, 1, 0), [1, 0, 0]);
    check(Kind::Once, &[200], (2, 1, 0), [0, 1, 0]);
    check(Kind::Once, &[], (2, 0, 0), [0, 1, 1]);
    check(Kind::Once, &[409], (0, 0, 0), [1, 0, 0]);
    check(Kind::Reboot, &[202], (1, 0, 0), [1, 0, 0]);
    check(Kind::Reboot, &[202], (2, 0, 2), [0, 1, 0]);
    check(Kind::Malformed, &[200], (1, 1, 0), [1, 0, 0]);
}
