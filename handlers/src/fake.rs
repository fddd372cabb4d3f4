//! The machine and the agent as a test of a handler wants them: settable, scripted, recorded.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use iotdm_core::{
    BootId, ChildError, ChildExit, ChildOutput, ChildProcess, Context, ContextParts, Decision, Declined,
    Performed, Report, ReqId, Restart, RestartError, Services, Subject, System, Table,
};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A machine whose clocks and boot are set by hand and whose processes are scripted.
#[derive(Clone, Default)]
pub(crate) struct FakeSystem(Arc<Mutex<Machine>>);

struct Machine {
    wall_clock: Duration,
    uptime: Duration,
    boot_id: String,
    restart_results: VecDeque<Result<Performed, RestartError>>,
    restarts: Vec<Restart>,
    run_results: VecDeque<Result<ChildOutput, ChildError>>,
    on_run: Option<OnRun>,
    runs: Vec<ChildProcess>,
    fuse: Fuse,
}

type OnRun = Arc<dyn Fn(&ChildProcess) -> Result<ChildOutput, ChildError> + Send + Sync>;

impl Default for Machine {
    fn default() -> Self {
        Self {
            wall_clock: WALL_CLOCK_AT_START,
            uptime: Duration::from_secs(60),
            boot_id: "boot-1".into(),
            restart_results: VecDeque::new(),
            restarts: Vec::new(),
            run_results: VecDeque::new(),
            on_run: None,
            runs: Vec::new(),
            fuse: Fuse::default(),
        }
    }
}

impl FakeSystem {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn set_wall_clock(&self, since_epoch: Duration) {
        self.machine().wall_clock = since_epoch;
    }

    #[allow(dead_code, reason = "a handler may judge by it")]
    pub(crate) fn set_uptime(&self, uptime: Duration) {
        self.machine().uptime = uptime;
    }

    #[allow(dead_code, reason = "a handler may judge by it")]
    pub(crate) fn set_boot_id(&self, boot_id: &str) {
        self.machine().boot_id = boot_id.into();
    }

    /// What the next restart gives; `Restarting` when nothing was queued.
    pub(crate) fn next_restart(&self, result: Result<Performed, RestartError>) {
        self.machine().restart_results.push_back(result);
    }

    /// The restarts asked for, in order.
    pub(crate) fn restarts(&self) -> Vec<Restart> {
        self.machine().restarts.clone()
    }

    /// What the next child process gives. Queued results come before [`on_run`](Self::on_run).
    pub(crate) fn next_run(&self, result: Result<ChildOutput, ChildError>) {
        self.machine().run_results.push_back(result);
    }

    /// What child processes give when nothing is queued; an exit status of 0 without output when not set.
    pub(crate) fn on_run(
        &self,
        run: impl Fn(&ChildProcess) -> Result<ChildOutput, ChildError> + Send + Sync + 'static,
    ) {
        self.machine().on_run = Some(Arc::new(run));
    }

    /// The child processes asked for, in order.
    pub(crate) fn runs(&self) -> Vec<ChildProcess> {
        self.machine().runs.clone()
    }

    /// What the program dies by.
    pub(crate) fn fuse(&self) -> Fuse {
        self.machine().fuse.clone()
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for FakeSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeSystem").finish_non_exhaustive()
    }
}

#[async_trait]
impl System for FakeSystem {
    fn wall_clock(&self) -> Duration {
        self.machine().wall_clock
    }

    fn uptime(&self) -> Duration {
        self.machine().uptime
    }

    fn boot_id(&self) -> BootId {
        BootId(self.machine().boot_id.as_str().into())
    }

    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError> {
        self.fuse().burn().await;
        let mut machine = self.machine();
        machine.restarts.push(kind);
        machine.restart_results.pop_front().unwrap_or(Ok(Performed::Restarting))
    }

    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        self.fuse().burn().await;
        let (queued, on_run) = {
            let mut machine = self.machine();
            machine.runs.push(child.clone());
            (machine.run_results.pop_front(), machine.on_run.clone())
        };
        match (queued, on_run) {
            (Some(result), _) => result,
            (None, Some(on_run)) => on_run(&child),
            (None, None) => Ok(output(0, "", "")),
        }
    }
}

/// Lets the program die before the n-th time that it does something that can be seen from outside: starts a process,
/// touches a file, changes an attribute, restarts the machine. From then on nothing it waits for ever happens.
#[derive(Clone, Default)]
pub(crate) struct Fuse(Arc<Mutex<Burning>>, Arc<Notify>);

#[derive(Default)]
struct Burning {
    left: Option<usize>,
    /// Work of a dead program; its end is never told.
    never: Vec<Box<dyn FnOnce() + Send>>,
}

impl Fuse {
    /// So many more times nothing happens; `None`: for ever.
    pub(crate) fn set(&self, left: Option<usize>) {
        *self.burning() = Burning { left, ..Burning::default() };
    }

    /// Returns when the program has died.
    pub(crate) async fn died(&self) {
        self.1.notified().await;
    }

    async fn burn(&self) {
        if self.is_out() {
            std::future::pending().await
        }
    }

    fn is_out(&self) -> bool {
        let mut burning = self.burning();
        match &mut burning.left {
            None => false,
            Some(0) => {
                self.1.notify_one();
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    fn burning(&self) -> MutexGuard<'_, Burning> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a child process left that ended with this status.
pub(crate) fn output(status: i32, stdout: &str, stderr: &str) -> ChildOutput {
    ChildOutput {
        exit: ChildExit::Status(status),
        stdout: stdout.into(),
        stderr: stderr.into(),
        truncated: false,
    }
}

/// An agent that keeps attributes in memory and writes down what it is asked for.
#[derive(Clone, Default)]
pub(crate) struct FakeServices(Arc<Mutex<Agent>>);

#[derive(Default)]
struct Agent {
    attributes: BTreeMap<String, Value>,
    changes: Vec<Vec<(String, Value)>>,
    reports: Vec<Report>,
    stopping: bool,
    managed: watch::Sender<bool>,
    fuse: Fuse,
}

impl FakeServices {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Gives an attribute a value without recording it.
    pub(crate) fn preset(&self, name: &str, value: Value) {
        self.agent().attributes.insert(name.into(), value);
    }

    /// Every `set_attributes` call, in order.
    pub(crate) fn changes(&self) -> Vec<Vec<(String, Value)>> {
        self.agent().changes.clone()
    }

    /// The same, and none of them again.
    pub(crate) fn take_changes(&self) -> Vec<Vec<(String, Value)>> {
        std::mem::take(&mut self.agent().changes)
    }

    /// Every report, in order.
    pub(crate) fn reports(&self) -> Vec<Report> {
        self.agent().reports.clone()
    }

    /// What the program dies by, here as well.
    pub(crate) fn dies_by(&self, fuse: Fuse) {
        self.agent().fuse = fuse;
    }

    /// Whether the platform manages the device; not before this is called.
    pub(crate) fn set_managed(&self, managed: bool) {
        self.agent().managed.send_replace(managed);
    }

    /// From here on everything fails with [`Declined`].
    pub(crate) fn stop(&self) {
        self.agent().stopping = true;
    }

    fn agent(&self) -> MutexGuard<'_, Agent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Result<MutexGuard<'_, Agent>, Declined> {
        let agent = self.agent();
        if agent.stopping { Err(Declined::Stopping) } else { Ok(agent) }
    }
}

#[async_trait]
impl Services for FakeServices {
    fn attribute(&self, name: &str) -> Option<Value> {
        self.agent().attributes.get(name).cloned()
    }

    async fn set_attributes(&self, changes: Vec<(String, Value)>) -> Result<(), Declined> {
        let fuse = self.agent().fuse.clone();
        fuse.burn().await;
        let mut agent = self.running()?;
        agent.attributes.extend(changes.iter().cloned());
        agent.changes.push(changes);
        Ok(())
    }

    async fn report(&self, report: Report) -> Result<(), Declined> {
        self.running()?.reports.push(report);
        Ok(())
    }

    async fn managed(&self) {
        let mut managed = self.agent().managed.subscribe();
        managed.wait_for(|managed| *managed).await.expect("the agent of this test lives on");
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        let fuse = self.agent().fuse.clone();
        if fuse.is_out() {
            return fuse.burning().never.push(work);
        }
        // What it logs is seen by the test that captures it.
        let log = tracing::dispatcher::get_default(Clone::clone);
        tokio::task::spawn_blocking(move || tracing::dispatcher::with_default(&log, work));
    }
}

/// A context of request `r1`, first attempt, ten minutes to go, no restart in between.
pub(crate) fn context(system: &FakeSystem, services: &FakeServices) -> Context {
    Context::new(parts(system, services))
}

/// The parts of [`context`], for a test that changes some of them.
pub(crate) fn parts(system: &FakeSystem, services: &FakeServices) -> ContextParts {
    ContextParts {
        req_id: Some(ReqId::from_text("r1")),
        subject: Subject::Connected,
        attempt: 1,
        deadline: Instant::now() + Duration::from_secs(600),
        rebooted: false,
        cancellation: CancellationToken::new(),
        system: Arc::new(system.clone()),
        services: Arc::new(services.clone()),
    }
}

/// Sends a request through the table, as the agent does.
pub(crate) async fn ask(table: &Table, route: &iotdm_core::Route, cx: &Context, d: Value) -> Decision {
    let handler = table.handler(route).expect("the route is registered");
    handler.handle(cx, Some(&raw(d))).await
}

/// JSON as it stands in a request.
pub(crate) fn raw(value: Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(&value).expect("a value is JSON")
}

/// 2017-07-14T02:40:00Z.
pub(crate) const WALL_CLOCK_AT_START: Duration = Duration::from_secs(1_500_000_000);
