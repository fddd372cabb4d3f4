//! The product: handlers that do what the request's body says, on a machine that restarts as the plan says.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use iotdm_agent::testing::TestSystem;
use iotdm_core::{
    Accepted, Action, BootId, Bundle, ChildError, ChildOutput, ChildProcess, Context, Download, Empty,
    FactoryReset, Failure, Finished, Handler, Interrupted, Late, Performed, Reboot, Recovery, Refusal,
    Restart, RestartError, Route, System, Table, TableError,
};
use iotdm_handlers::Restarts;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::chronicle::{Chronicle, Moment, What};
use super::plan::Fate;

/// Every handler of the device; each writes down what it does.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub(super) chronicle: Chronicle,
}

/// A custom action's body: members by name.
type Body = Map<String, Value>;

macro_rules! custom {
    ($action:ident, $name:literal, $reply:ty, $interrupted:ident, $late:expr) => {
        struct $action;

        impl Action for $action {
            const ROUTE: Route = Route::custom("bench", $name);
            const INTERRUPTED: Interrupted = Interrupted::$interrupted;
            const LATE: Late = $late;
            type Request = Body;
            type Reply = $reply;
        }
    };
}

custom!(Once, "once", Finished<()>, Refuse, Late::Run);
custom!(Again, "again", Finished<()>, RunAgain, Late::Run);
custom!(Fresh, "fresh", Finished<()>, Refuse, Late::RefuseAfter(REFUSE_AFTER));
custom!(After, "after", Accepted, Refuse, Late::Run);

impl Bundle for Product {
    fn register(self, table: &mut Table) -> Result<(), TableError> {
        table.on::<Once>(self.clone())?;
        table.on::<Again>(self.clone())?;
        table.on::<Fresh>(self.clone())?;
        table.on::<After>(self.clone())?;
        table.on::<Download>(self.clone())?;
        table.on::<Reboot>(self.clone())?;
        table.on::<FactoryReset>(self)
    }
}

impl Product {
    /// Writes down that a handler begins, runs it, and writes down that it has come to its end.
    async fn noted<T>(&self, cx: &Context, moment: Moment, work: impl Future<Output = T>) -> T {
        let req_id = cx.req_id().map_or("none".into(), |req_id| req_id.as_json().to_owned());
        let attempt = cx.attempt();
        self.chronicle.write(What::Handler { req_id: req_id.clone(), moment, attempt, ended: false });
        let result = work.await;
        self.chronicle.write(What::Handler { req_id, moment, attempt, ended: true });
        result
    }

    async fn finish(&self, cx: &Context, body: &Body) -> Result<Finished<()>, Refusal> {
        self.noted(cx, Moment::Handle, async {
            take_time(body).await;
            match ends(body) {
                "refused" => Err(Refusal::busy("the body says so")),
                "failed" => Err(Refusal::failed("the body says so")),
                _ => Ok(Finished(())),
            }
        })
        .await
    }
}

macro_rules! finishes {
    ($action:ident) => {
        impl Handler<$action> for Product {
            async fn handle(&self, cx: &Context, body: &Body) -> Result<Finished<()>, Refusal> {
                self.finish(cx, body).await
            }
        }
    };
}

finishes!(Once);
finishes!(Again);
finishes!(Fresh);

impl Handler<After> for Product {
    async fn handle(&self, cx: &Context, body: &Body) -> Result<Accepted, Refusal> {
        let refused = ends(body) == "refused";
        self.noted(cx, Moment::Handle, async {
            if refused { Err(Refusal::busy("the body says so")) } else { Ok(Accepted) }
        })
        .await
    }

    async fn after_ack(&self, cx: &Context, body: &Body) -> Result<Performed, Failure> {
        self.noted(cx, Moment::AfterAck, async {
            take_time(body).await;
            if ends(body) == "failed" {
                Err(Failure::new("the body says so"))
            } else {
                Ok(Performed::Complete)
            }
        })
        .await
    }

    async fn recover(&self, cx: &Context, _: &Body) -> Recovery {
        self.noted(cx, Moment::Recover, async { Recovery::RunAgain }).await
    }
}

impl Handler<Download> for Product {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        self.noted(cx, Moment::Handle, async { Ok(Accepted) }).await
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        self.noted(cx, Moment::AfterAck, async {
            sleep(DOWNLOAD_TAKES).await;
            Ok(Performed::Complete)
        })
        .await
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        self.noted(cx, Moment::Recover, async { Recovery::RunAgain }).await
    }
}

macro_rules! restarts {
    ($action:ident) => {
        impl Handler<$action> for Product {
            async fn handle(&self, cx: &Context, body: &Empty) -> Result<Accepted, Refusal> {
                self.noted(cx, Moment::Handle, Handler::<$action>::handle(&Restarts, cx, body)).await
            }

            async fn after_ack(&self, cx: &Context, body: &Empty) -> Result<Performed, Failure> {
                self.noted(cx, Moment::AfterAck, Handler::<$action>::after_ack(&Restarts, cx, body)).await
            }

            async fn recover(&self, cx: &Context, body: &Empty) -> Recovery {
                self.noted(cx, Moment::Recover, Handler::<$action>::recover(&Restarts, cx, body)).await
            }
        }
    };
}

restarts!(Reboot);
restarts!(FactoryReset);

async fn take_time(body: &Body) {
    if ends(body) == "never" {
        return std::future::pending().await;
    }
    let millis = body.get("takes").and_then(Value::as_u64).unwrap_or_default();
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}

fn ends(body: &Body) -> &str {
    body.get("ends").and_then(Value::as_str).unwrap_or("well")
}

/// A machine that restarts as the plan says.
#[derive(Debug)]
pub(super) struct Machine {
    clock: TestSystem,
    /// What the wall clock showed when the life began.
    wall_at_begin: Duration,
    begin: Instant,
    chronicle: Chronicle,
    /// After which time the machine goes down.
    restarts: mpsc::UnboundedSender<Duration>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    fate: Fate,
    clock_lost: bool,
    boot: u32,
}

impl Machine {
    pub(super) fn new(chronicle: Chronicle) -> (Self, mpsc::UnboundedReceiver<Duration>) {
        let (restarts, asked) = mpsc::unbounded_channel();
        let clock = TestSystem::new();
        let machine = Self {
            wall_at_begin: clock.wall_clock(),
            clock,
            begin: Instant::now(),
            chronicle,
            restarts,
            state: Mutex::new(State { fate: USUAL_FATE, clock_lost: false, boot: 1 }),
        };
        (machine, asked)
    }

    pub(super) fn set_fate(&self, fate: Fate) {
        self.lock().fate = fate;
    }

    /// A lost clock begins at zero with the next boot; one that is right again is so at once.
    pub(super) fn lose_clock(&self, lost: bool) {
        self.lock().clock_lost = lost;
        if !lost {
            self.clock.set_wall_clock(self.wall_at_begin + self.begin.elapsed());
        }
    }

    /// The machine went down and is up again.
    pub(super) fn next_boot(&self) {
        self.clock.next_boot();
        let mut state = self.lock();
        state.boot += 1;
        if state.clock_lost {
            self.clock.set_wall_clock(Duration::ZERO);
        }
        self.chronicle.write(What::Boot(state.boot));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }
}

#[async_trait]
impl System for Machine {
    fn wall_clock(&self) -> Duration {
        self.clock.wall_clock()
    }

    fn uptime(&self) -> Duration {
        self.clock.uptime()
    }

    fn boot_id(&self) -> BootId {
        self.clock.boot_id()
    }

    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError> {
        let fate = self.lock().fate;
        self.chronicle.write(What::Restart(kind, fate));
        match fate {
            Fate::Comes(after) => {
                // The life may be over.
                let _ = self.restarts.send(after);
                Ok(Performed::Restarting)
            }
            Fate::NeverComes => Ok(Performed::Restarting),
            Fate::Fails => Err(RestartError::Command { kind, reason: "the plan says so".into() }),
            Fate::DryRun => Ok(Performed::Complete),
        }
    }

    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        self.clock.run(child).await
    }
}

/// What becomes of restarts unless the plan says otherwise.
pub(super) const USUAL_FATE: Fate = Fate::Comes(Duration::from_secs(5));

/// How long the downloads of the test take: longer than others wait for the lane.
const DOWNLOAD_TAKES: Duration = Duration::from_secs(40);

/// How old `bench/fresh` may be.
pub(super) const REFUSE_AFTER: Duration = Duration::from_secs(15 * 60);
