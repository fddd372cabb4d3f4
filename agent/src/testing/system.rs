use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use iotdm_core::{BootId, ChildError, ChildOutput, ChildProcess, Performed, Restart, RestartError, System};
use tokio::time::Instant;

/// A machine whose clocks follow tokio's: on the paused clock the test decides what time it is.
///
/// [`restart`](System::restart) only counts; the test then ends the agent, calls [`next_boot`](Self::next_boot), and
/// starts it again.
#[derive(Clone, Debug)]
pub struct TestSystem {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    boot: u64,
    booted: Instant,
    /// Where the wall clock stood when tokio's did at `began`.
    wall: Duration,
    began: Instant,
    restarts: Vec<Restart>,
    outcome: Result<Performed, RestartError>,
    seed: u64,
}

impl Default for TestSystem {
    fn default() -> Self {
        Self::new()
    }
}

impl TestSystem {
    /// A machine in its first boot, with a clock that is right. Needs a tokio runtime.
    pub fn new() -> Self {
        let now = Instant::now();
        let state = State {
            boot: 1,
            booted: now,
            wall: WALL_CLOCK_AT_START,
            began: now,
            restarts: Vec::new(),
            outcome: Ok(Performed::Restarting),
            seed: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The machine has been restarted.
    pub fn next_boot(&self) {
        let mut state = self.lock();
        state.boot += 1;
        state.booted = Instant::now();
    }

    /// Sets the wall clock: zero for a machine without a battery for it.
    pub fn set_wall_clock(&self, wall: Duration) {
        let mut state = self.lock();
        state.wall = wall;
        state.began = Instant::now();
    }

    /// What [`restart`](System::restart) answers from here on; [`Performed::Restarting`] unless set.
    pub fn restart_gives(&self, outcome: Result<Performed, RestartError>) {
        self.lock().outcome = outcome;
    }

    /// The restarts that were asked for.
    pub fn restarts(&self) -> Vec<Restart> {
        self.lock().restarts.clone()
    }

    /// Another seed for each start of the agent, the same ones in each run of the test.
    pub(super) fn next_seed(&self) -> u64 {
        let mut state = self.lock();
        state.seed += 1;
        state.seed
    }

    /// Other seeds than those of another test.
    pub(super) fn seeds_of(&self, test: u64) {
        self.lock().seed = test << 16;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }
}

#[async_trait]
impl System for TestSystem {
    fn wall_clock(&self) -> Duration {
        let state = self.lock();
        state.wall + state.began.elapsed()
    }

    fn uptime(&self) -> Duration {
        self.lock().booted.elapsed()
    }

    fn boot_id(&self) -> BootId {
        BootId(format!("boot-{}", self.lock().boot).into())
    }

    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError> {
        let mut state = self.lock();
        state.restarts.push(kind);
        state.outcome.clone()
    }

    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        let program = child.program.display().to_string();
        Err(ChildError::NotStarted { program, reason: "a test machine has no programs".into() })
    }
}

/// 2026-06-01T00:00:00Z.
pub(super) const WALL_CLOCK_AT_START: Duration = Duration::from_secs(1_780_272_000);
