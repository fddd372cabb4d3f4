use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use iotdm_core::{
    Accepted, Changed, Context, Empty, Failure, Finished, Interrupted, Late, Performed, Reboot, Recovery,
    Refusal, Restart,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Deserialize, JsonSchema)]
struct Level {
    #[schemars(range(max = 100))]
    percent: u8,
    #[schemars(length(min = 1, max = 8))]
    room: Option<String>,
    mode: Mode,
}

#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Fast,
    Slow,
}

fn level() -> Value {
    json!({"percent": 40, "room": "hall", "mode": "fast"})
}

/// Harmless when repeated.
struct Dim;

impl Action for Dim {
    const ROUTE: Route = Route::custom("lamp", "dim");
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    const LATE: Late = Late::RefuseAfter(Duration::from_secs(15 * 60));
    type Request = Level;
    type Reply = Finished<Mode>;
}

/// Not to be repeated.
struct Pour;

impl Action for Pour {
    const ROUTE: Route = Route::custom("bar", "pour");
    type Request = Empty;
    type Reply = Changed;
}

/// Works after its answer.
struct Calibrate;

impl Action for Calibrate {
    const ROUTE: Route = Route::custom("lamp", "calibrate");
    const PERFORM_BUDGET: Duration = Duration::from_secs(60);
    type Request = Empty;
    type Reply = Accepted;
}

/// As it should be.
struct Lamp;

impl Handler<Dim> for Lamp {
    async fn handle(&self, cx: &Context, request: &Level) -> Result<Finished<Mode>, Refusal> {
        let blink = request.percent > 50 || request.room.is_some();
        cx.blocking(move |_| std::hint::black_box(blink)).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        Ok(Finished(request.mode))
    }
}

impl Handler<Pour> for Lamp {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Changed, Refusal> {
        Ok(Changed)
    }
}

impl Handler<Calibrate> for Lamp {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, _: &Context, _: &Empty) -> Result<Performed, Failure> {
        tokio::time::sleep(Duration::from_secs(40)).await;
        Ok(Performed::Complete)
    }

    async fn recover(&self, _: &Context, _: &Empty) -> Recovery {
        Recovery::RunAgain
    }
}

impl Handler<Reboot> for Lamp {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        cx.system().restart(Restart::Reboot).await.map_err(|error| Failure::new(error.to_string()))
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        if cx.rebooted() { Recovery::Done } else { Recovery::RunAgain }
    }
}

#[test]
fn handlers_that_do_what_their_actions_declare_are_proven() {
    action::<Dim, _>(|| Lamp).proves(level());
    action::<Pour, _>(|| Lamp).proves(json!({}));
    action::<Calibrate, _>(|| Lamp).proves(Value::Null);
    action::<Reboot, _>(|| Lamp).proves(Value::Null);
}

/// What the test of a wrong handler says.
fn check<A: Action, H: Handler<A>>(handler: impl Fn() -> H + 'static, example: Value, expected: &str) {
    let proven = catch_unwind(AssertUnwindSafe(|| action::<A, H>(handler).proves(example)));
    let panic = proven.expect_err("the handler is wrong, and was proven");
    let found = panic.downcast_ref::<String>().expect("it says what it found");
    let (first, story) = found.split_once('\n').expect("it tells the story");
    assert_eq!(first, expected, "{found}");
    assert!(story.starts_with("what happened:\n") && story.contains("begins"), "{found}");
}

/// A handler made of what it does at each start, counted from 1.
struct Doing<F>(AtomicU32, F);

fn doing<F>(work: F) -> Doing<F> {
    Doing(AtomicU32::new(0), work)
}

impl<A, F> Handler<A> for Doing<F>
where
    A: Action<Reply = Changed>,
    F: Fn(u32) -> Result<Duration, Refusal> + Send + Sync + 'static,
{
    async fn handle(&self, _: &Context, _: &A::Request) -> Result<Changed, Refusal> {
        let time = self.1(self.0.fetch_add(1, Ordering::SeqCst) + 1)?;
        tokio::time::sleep(time).await;
        Ok(Changed)
    }
}

/// Says that it may be repeated.
struct Store;

impl Action for Store {
    const ROUTE: Route = Route::custom("bar", "store");
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    type Request = Empty;
    type Reply = Changed;
}

#[test]
fn a_handler_that_refuses_the_example_is_found() {
    check::<Pour, _>(
        || doing(|_| Err(Refusal::busy("not today"))),
        Value::Null,
        r#"mgmt/custom/bar/pour: it is asked for: answered {"message":"not today","rc":409,"reqId":"r"}, and 204 is expected"#,
    );
}

#[test]
fn a_handler_that_needs_longer_than_its_budget_is_found() {
    check::<Pour, _>(
        || doing(|_| Ok(Duration::from_secs(31))),
        Value::Null,
        r#"mgmt/custom/bar/pour: it is asked for: answered {"message":"it took longer than its budget of 30s","rc":500,"reqId":"r"}, and 204 is expected"#,
    );
}

#[test]
fn a_handler_that_says_no_when_it_is_repeated_is_found() {
    let once = |start| if start == 1 { Ok(Duration::ZERO) } else { Err(Refusal::bad_request("it is there")) };
    check::<Store, _>(
        move || doing(once),
        Value::Null,
        r#"mgmt/custom/bar/store: a crash when handle is through and its answer not stored: the second start: answered {"message":"it is there","rc":400,"reqId":"r"}, and 204 is expected"#,
    );
}

#[test]
fn an_example_that_does_not_fit_is_found() {
    check::<Dim, _>(
        || Lamp,
        json!({"percent": 140, "mode": "slow"}),
        r#"mgmt/custom/lamp/dim: it is asked for: answered {"message":"d.percent: 140 is more than 100 (the maximum)","rc":400,"reqId":"r"}, and 200 is expected"#,
    );
}

/// Work after the answer that goes wrong in one way.
struct Calibrates<W, R>(W, R);

impl<W, R> Handler<Calibrate> for Calibrates<W, R>
where
    W: Fn() -> Result<Duration, Failure> + Send + Sync + 'static,
    R: Fn() -> Recovery + Send + Sync + 'static,
{
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, _: &Context, _: &Empty) -> Result<Performed, Failure> {
        tokio::time::sleep(self.0()?).await;
        Ok(Performed::Complete)
    }

    async fn recover(&self, _: &Context, _: &Empty) -> Recovery {
        self.1()
    }
}

#[test]
fn work_that_fails_after_its_202_is_found() {
    check::<Calibrate, _>(
        || Calibrates(|| Err(Failure::new("no reference")), || Recovery::Done),
        Value::Null,
        "mgmt/custom/lamp/calibrate: it is asked for: after_ack failed: no reference",
    );
}

#[test]
fn work_that_needs_longer_than_its_budget_is_found() {
    check::<Calibrate, _>(
        || Calibrates(|| Ok(Duration::from_secs(61)), || Recovery::Done),
        Value::Null,
        r#"mgmt/custom/lamp/calibrate: it is asked for: the agent reports "mgmt/custom/lamp/calibrate (reqId r) failed: it took longer than its budget of 60s""#,
    );
}

/// It would restart the machine for ever, but for the limit of its attempts.
struct Restless(Mutex<u32>);

impl Handler<Reboot> for Restless {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        *self.0.lock().unwrap() += 1;
        cx.system().restart(Restart::Reboot).await.map_err(|error| Failure::new(error.to_string()))
    }

    async fn recover(&self, _: &Context, _: &Empty) -> Recovery {
        Recovery::RunAgain
    }
}

#[test]
fn a_restart_that_is_repeated_after_it_happened_is_found() {
    check::<Reboot, _>(
        || Restless(Mutex::default()),
        Value::Null,
        "mgmt/initiate/device/reboot: it is asked for: after_ack restarted the machine, and after the restart recover says Judged(RunAgain): Done is expected",
    );
}
