//! Actions of a product's own: typed, one that may be repeated, one that may not, and one that works after its answer.
//! Each test is a cell of the table in `docs/handlers/own-action.md`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use iotdm_agent::testing::action::action;
use iotdm_agent::testing::{CrashOutcome, MemoryDisk, Platform, Running, TestSystem, start};
use iotdm_core::{
    Accepted, Action, Context, Failure, Finished, Handler, Interrupted, Performed, Recovery, Refusal, Route,
    UpRoute,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Deserialize, JsonSchema)]
struct Request {
    #[schemars(range(min = 0, max = 100))]
    percent: u8,
    #[serde(default)]
    how: How,
}

/// How the handler behaves.
#[derive(Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum How {
    #[default]
    Works,
    Refuses,
    /// The first start of its work has its effect, and does not end.
    Hangs,
}

#[derive(Serialize, JsonSchema)]
struct Shown {
    percent: u8,
}

/// May be repeated.
struct Dim;

impl Action for Dim {
    const ROUTE: Route = Route::custom("lamp", "dim");
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    type Request = Request;
    type Reply = Finished<Shown>;
}

/// May not be repeated.
struct Dispense;

impl Action for Dispense {
    const ROUTE: Route = Route::custom("bar", "dispense");
    type Request = Request;
    type Reply = Finished<Shown>;
}

/// Works after its answer.
struct Calibrate;

impl Action for Calibrate {
    const ROUTE: Route = Route::custom("lamp", "calibrate");
    const PERFORM_BUDGET: Duration = Duration::from_secs(300);
    type Request = Request;
    type Reply = Accepted;
}

/// What the device did; it survives crashes.
#[derive(Clone, Debug, Default)]
struct Unit {
    done: Arc<watch::Sender<Vec<String>>>,
}

impl Unit {
    fn note(&self, what: &str) {
        self.done.send_modify(|done| done.push(what.to_owned()));
    }

    fn done(&self) -> Vec<String> {
        self.done.borrow().clone()
    }

    async fn until_done(&self, what: &str) {
        let mut changes = self.done.subscribe();
        changes
            .wait_for(|done| done.iter().any(|other| other == what))
            .await
            .expect("the unit outlives the wait");
    }

    async fn work(&self, cx: &Context, request: &Request) -> u8 {
        self.note(&format!("works {}", request.percent));
        if request.how == How::Hangs && cx.attempt() == 1 {
            std::future::pending::<()>().await;
        }
        request.percent
    }
}

fn refused(request: &Request) -> Result<(), Refusal> {
    match request.how {
        How::Refuses => Err(Refusal::busy("the lamp is too hot").log("sensor 3: 91 degrees")),
        How::Works | How::Hangs => Ok(()),
    }
}

impl Handler<Dim> for Unit {
    async fn handle(&self, cx: &Context, request: &Request) -> Result<Finished<Shown>, Refusal> {
        refused(request)?;
        Ok(Finished(Shown { percent: self.work(cx, request).await }))
    }
}

impl Handler<Dispense> for Unit {
    async fn handle(&self, cx: &Context, request: &Request) -> Result<Finished<Shown>, Refusal> {
        refused(request)?;
        Ok(Finished(Shown { percent: self.work(cx, request).await }))
    }
}

impl Handler<Calibrate> for Unit {
    async fn handle(&self, _: &Context, request: &Request) -> Result<Accepted, Refusal> {
        self.note("decides");
        refused(request)?;
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, request: &Request) -> Result<Performed, Failure> {
        self.work(cx, request).await;
        Ok(Performed::Complete)
    }

    /// The lamp does not say whether it was calibrated, and once more does no harm.
    async fn recover(&self, _: &Context, _: &Request) -> Recovery {
        self.note("judges");
        Recovery::RunAgain
    }
}

/// A device with these actions, and its platform.
struct Rig {
    platform: Platform,
    disk: MemoryDisk,
    system: TestSystem,
    unit: Unit,
    running: Mutex<Option<Running>>,
}

impl Rig {
    async fn new() -> Self {
        let (platform, disk, system) = (Platform::new(), MemoryDisk::new(), TestSystem::new());
        let rig = Self { platform, disk, system, unit: Unit::default(), running: Mutex::default() };
        rig.start();
        rig.platform.managed(1).await;
        rig.platform.drained().await;
        rig
    }

    fn start(&self) {
        let running = start(&self.platform, &self.disk, &self.system, |builder| {
            builder
                .on::<Dim>(self.unit.clone())
                .on::<Dispense>(self.unit.clone())
                .on::<Calibrate>(self.unit.clone())
        });
        *self.running.lock().expect("no holder of the lock panics") = Some(running);
    }

    /// `kill -9`, and the next start.
    async fn kill(&self) {
        let running = self.running.lock().expect("no holder of the lock panics").take();
        running.expect("the agent runs").kill().await;
    }

    /// As the platform sends it: every value is a text.
    fn send<A: Action>(&self, how: &str) {
        let fields = json!([{"field": "percent", "value": "40"}, {"field": "how", "value": how}]);
        self.platform.send(A::ROUTE, json!({"d": {"fields": fields}, "reqId": "r"}));
    }

    async fn ask<A: Action>(&self, how: &str) -> Value {
        self.send::<A>(how);
        self.platform.response("r").await
    }

    /// What became of a request whose record was the last thing that a crash left, or did not leave.
    async fn crash_before_decision<A: Action>(&self, outcome: CrashOutcome) -> Value {
        self.disk.crash_at_commit(1, outcome);
        self.ask::<A>("works").await
    }

    /// The answers before and after a crash between the answer and its acknowledgement.
    async fn crash_after_answer<A: Action>(&self) -> [Value; 2] {
        self.platform.hold_pubacks(true);
        let first = self.ask::<A>("works").await;
        self.kill().await;
        self.platform.hold_pubacks(false);
        self.start();
        [first, self.platform.response("r").await]
    }

    /// The answer to work that a crash has interrupted, after its effect.
    async fn crash_in_work<A: Action>(&self) -> Value {
        self.send::<A>("hangs");
        self.unit.until_done("works 40").await;
        self.kill().await;
        self.start();
        self.platform.response("r").await
    }

    /// The answers to one request three times: at first, again, and after a restart.
    async fn replay<A: Action>(&self) -> [Value; 3] {
        let first = self.ask::<A>("works").await;
        self.unit.until_done("works 40").await;
        let second = self.ask::<A>("works").await;
        self.kill().await;
        self.start();
        [first, second, self.ask::<A>("works").await]
    }
}

fn shown() -> Value {
    json!({"rc": 200, "d": {"percent": 40}, "reqId": "r"})
}

fn interrupted() -> Value {
    json!({"rc": 500, "message": "interrupted; it may have happened", "reqId": "r"})
}

fn accepted() -> Value {
    json!({"rc": 202, "reqId": "r"})
}

fn too_hot() -> Value {
    json!({"rc": 409, "message": "the lamp is too hot", "reqId": "r"})
}

#[tokio::test(start_paused = true)]
async fn a_repeatable_action_of_a_products_own_is_carried_out() {
    let rig = Rig::new().await;
    assert_eq!(rig.ask::<Dim>("works").await, shown());
    assert_eq!(rig.unit.done(), ["works 40"]);
}

#[tokio::test(start_paused = true)]
async fn an_unrepeatable_action_of_a_products_own_is_carried_out() {
    let rig = Rig::new().await;
    assert_eq!(rig.ask::<Dispense>("works").await, shown());
    assert_eq!(rig.unit.done(), ["works 40"]);
}

#[tokio::test(start_paused = true)]
async fn an_accepted_action_of_a_products_own_is_carried_out_after_its_answer() {
    let rig = Rig::new().await;
    rig.platform.hold_pubacks(true);
    assert_eq!(rig.ask::<Calibrate>("works").await, accepted());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(rig.unit.done(), ["decides"]);
    rig.platform.hold_pubacks(false);
    rig.unit.until_done("works 40").await;
}

#[tokio::test(start_paused = true)]
async fn the_refusal_of_a_repeatable_action_is_its_answer() {
    let rig = Rig::new().await;
    assert_eq!(rig.ask::<Dim>("refuses").await, too_hot());
    assert!(rig.unit.done().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_refusal_of_an_unrepeatable_action_is_its_answer() {
    let rig = Rig::new().await;
    assert_eq!(rig.ask::<Dispense>("refuses").await, too_hot());
    assert!(rig.unit.done().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_accepted_action_that_is_refused_does_no_work() {
    let rig = Rig::new().await;
    assert_eq!(rig.ask::<Calibrate>("refuses").await, too_hot());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(rig.unit.done(), ["decides"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_fit_is_refused_before_the_handler() {
    let rig = Rig::new().await;
    for (n, (fields, message)) in [
        (json!([]), "d: missing field `percent`"),
        (json!([{"field": "percent", "value": "140"}]), "d.percent: 140 is more than 100 (the maximum)"),
        (json!([{"field": "percent", "value": -1}]), "d.percent: -1 is less than 0 (the minimum)"),
        (
            json!([{"field": "percent", "value": "forty"}]),
            "d.percent: invalid type: string \"forty\", expected u8",
        ),
        (
            json!([{"field": "percent", "value": "40"}, {"field": "how", "value": "fast"}]),
            "d.how: unknown variant `fast`, expected one of `works`, `refuses`, `hangs`",
        ),
        (json!({"percent": 40}), "d.fields: expected a list of {field, value}"),
    ]
    .into_iter()
    .enumerate()
    {
        for route in [Dim::ROUTE, Dispense::ROUTE, Calibrate::ROUTE] {
            let req_id = format!("{route} {n}");
            rig.platform.send(route, json!({"d": {"fields": fields}, "reqId": req_id}));
            let refusal = rig.platform.response(&req_id).await;
            assert_eq!((&refusal["rc"], &refusal["message"]), (&400.into(), &message.into()), "{fields}");
        }
    }
    assert!(rig.unit.done().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_repeatable_action_beyond_its_budget_is_answered_500_and_not_repeated() {
    let rig = Rig::new().await;
    let began = Instant::now();
    let answer = rig.ask::<Dim>("hangs").await;
    assert_eq!((&answer["rc"], began.elapsed()), (&500.into(), Dim::BUDGET));
    assert_eq!(rig.ask::<Dim>("hangs").await, answer);
    assert_eq!(rig.unit.done(), ["works 40"]);
}

#[tokio::test(start_paused = true)]
async fn an_unrepeatable_action_beyond_its_budget_is_answered_500() {
    let rig = Rig::new().await;
    let began = Instant::now();
    let answer = rig.ask::<Dispense>("hangs").await;
    assert_eq!((&answer["rc"], began.elapsed()), (&500.into(), Dispense::BUDGET));
    assert_eq!(rig.ask::<Dispense>("hangs").await, answer);
    assert_eq!(rig.unit.done(), ["works 40"]);
}

#[tokio::test(start_paused = true)]
async fn accepted_work_beyond_its_budget_is_reported_as_failed() {
    let rig = Rig::new().await;
    assert_eq!(rig.ask::<Calibrate>("hangs").await, accepted());
    let began = Instant::now();
    rig.platform.until(|platform| !platform.published(UpRoute::AddLog).is_empty()).await;
    assert_eq!(began.elapsed(), Calibrate::PERFORM_BUDGET);
    let entry = rig.platform.published(UpRoute::AddLog).remove(0);
    assert_eq!(entry["d"]["severity"], 2, "{entry}");
    assert_eq!(rig.unit.done(), ["decides", "works 40"]);
}

#[tokio::test(start_paused = true)]
async fn a_repeatable_action_is_carried_out_after_a_crash_before_its_start() {
    for outcome in [CrashOutcome::Applied, CrashOutcome::NotApplied] {
        let rig = Rig::new().await;
        assert_eq!(rig.crash_before_decision::<Dim>(outcome).await, shown());
        assert_eq!(rig.unit.done(), ["works 40"]);
    }
}

/// The record says "started", because it could not be written afterwards: the agent does not know better.
#[tokio::test(start_paused = true)]
async fn an_unrepeatable_action_is_not_started_after_a_crash_that_left_its_record() {
    let rig = Rig::new().await;
    assert_eq!(rig.crash_before_decision::<Dispense>(CrashOutcome::Applied).await, interrupted());
    assert!(rig.unit.done().is_empty());

    let rig = Rig::new().await;
    assert_eq!(rig.crash_before_decision::<Dispense>(CrashOutcome::NotApplied).await, shown());
    assert_eq!(rig.unit.done(), ["works 40"]);
}

#[tokio::test(start_paused = true)]
async fn an_accepted_action_is_decided_after_a_crash_before_its_decision() {
    for outcome in [CrashOutcome::Applied, CrashOutcome::NotApplied] {
        let rig = Rig::new().await;
        assert_eq!(rig.crash_before_decision::<Calibrate>(outcome).await, accepted());
        rig.unit.until_done("works 40").await;
        assert_eq!(rig.unit.done(), ["decides", "works 40"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_a_repeatable_action_survives_a_crash() {
    let rig = Rig::new().await;
    assert_eq!(rig.crash_after_answer::<Dim>().await, [shown(), shown()]);
    assert_eq!(rig.unit.done(), ["works 40"]);
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_an_unrepeatable_action_survives_a_crash() {
    let rig = Rig::new().await;
    assert_eq!(rig.crash_after_answer::<Dispense>().await, [shown(), shown()]);
    assert_eq!(rig.unit.done(), ["works 40"]);
}

#[tokio::test(start_paused = true)]
async fn accepted_work_begins_after_a_crash_between_its_answer_and_the_acknowledgement() {
    let rig = Rig::new().await;
    assert_eq!(rig.crash_after_answer::<Calibrate>().await, [accepted(), accepted()]);
    rig.unit.until_done("works 40").await;
    assert_eq!(rig.unit.done(), ["decides", "works 40"]);
}

#[tokio::test(start_paused = true)]
async fn a_repeatable_action_is_started_again_after_a_crash_in_its_work() {
    let rig = Rig::new().await;
    assert_eq!(rig.crash_in_work::<Dim>().await, shown());
    assert_eq!(rig.unit.done(), ["works 40", "works 40"]);
}

#[tokio::test(start_paused = true)]
async fn an_unrepeatable_action_is_not_started_again_after_a_crash_in_its_work() {
    let rig = Rig::new().await;
    assert_eq!(rig.crash_in_work::<Dispense>().await, interrupted());
    assert_eq!(rig.unit.done(), ["works 40"]);
}

#[tokio::test(start_paused = true)]
async fn accepted_work_that_a_crash_interrupted_is_judged_and_repeated() {
    let rig = Rig::new().await;
    assert_eq!(rig.ask::<Calibrate>("hangs").await, accepted());
    rig.unit.until_done("works 40").await;
    rig.kill().await;
    rig.start();
    rig.unit.done.subscribe().wait_for(|done| done.len() == 4).await.unwrap();
    assert_eq!(rig.unit.done(), ["decides", "works 40", "judges", "works 40"]);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(rig.platform.published(UpRoute::AddLog).is_empty(), "the second start came to its end");
    assert_eq!(rig.platform.responses("r"), [accepted()]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_of_a_repeatable_action_gets_its_answer_and_starts_nothing() {
    let rig = Rig::new().await;
    assert_eq!(rig.replay::<Dim>().await, [shown(), shown(), shown()]);
    assert_eq!(rig.unit.done(), ["works 40"]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_of_an_unrepeatable_action_gets_its_answer_and_starts_nothing() {
    let rig = Rig::new().await;
    assert_eq!(rig.replay::<Dispense>().await, [shown(), shown(), shown()]);
    assert_eq!(rig.unit.done(), ["works 40"]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_of_an_accepted_action_gets_its_answer_and_starts_nothing() {
    let rig = Rig::new().await;
    assert_eq!(rig.replay::<Calibrate>().await, [accepted(), accepted(), accepted()]);
    assert_eq!(rig.unit.done(), ["decides", "works 40"]);
}

/// What a product writes instead of all these.
#[test]
fn one_line_proves_each_of_these_actions() {
    action::<Dim, _>(Unit::default).proves(json!({"percent": 40}));
    action::<Dispense, _>(Unit::default).proves(json!({"percent": 40}));
    action::<Calibrate, _>(Unit::default).proves(json!({"percent": 40}));
}
