//! The machine below the agent, as a plan has it: it restarts when it was asked to, or does not, and loses power.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use iotdm_core::{BootId, ChildError, ChildOutput, ChildProcess, Performed, Restart, RestartError, System};
use tokio::sync::mpsc;

use crate::testing::TestSystem;

use super::record::{Event, Log};
use super::watch::running;

/// The machine of one history. The model of a product's hardware keeps a clone of it.
#[derive(Clone)]
pub struct Machine {
    system: TestSystem,
    log: Log,
    signals: mpsc::UnboundedSender<Signal>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    boots: u64,
    fates: VecDeque<Fate>,
    /// Whether it has begun a restart that will come.
    going_down: bool,
    programs: Option<Programs>,
    luck: fastrand::Rng,
    calm: bool,
    /// Whether the process has died, though the history does not know yet.
    dead: bool,
    held: Vec<Work>,
}

type Work = Box<dyn FnOnce() + Send>;

type Programs = Arc<
    dyn Fn(ChildProcess) -> Pin<Box<dyn Future<Output = Result<ChildOutput, ChildError>> + Send>>
        + Send
        + Sync,
>;

/// What the machine tells the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// It will restart after this time.
    Restart(Duration),
    /// Its power goes at this moment.
    PowerCut,
    /// The agent's process dies at this moment.
    Crash,
}

/// What becomes of a restart that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It comes after this time.
    After(Duration),
    /// It was begun, and never comes.
    Never,
    /// It cannot be begun.
    Refused,
    /// An earlier one is on its way: a machine that goes down refuses nothing.
    Begun,
}

impl Machine {
    pub(super) fn new(seed: u64, log: &Log) -> (Self, mpsc::UnboundedReceiver<Signal>) {
        let (signals, receiver) = mpsc::unbounded_channel();
        let luck = fastrand::Rng::with_seed(!seed);
        let state = State { boots: 1, luck, ..State::default() };
        let system = TestSystem::new();
        // Ids and jitter differ from seed to seed.
        system.seeds_of(seed);
        (Self { system, log: log.clone(), signals, state: Arc::new(Mutex::new(state)) }, receiver)
    }

    /// Writes something down in the history's record, for laws and for whoever reads the story.
    pub fn note(&self, text: impl Into<String>) {
        self.log.push(Event::Note(text.into()));
    }

    /// Which boot this is, from 1: a model of the hardware tells by it what came into use by a restart.
    pub fn boots(&self) -> u64 {
        self.state().boots
    }

    /// A number below this one, drawn from the seed: whatever else is a matter of luck, such as a server that breaks.
    /// Zero once nothing goes wrong any more.
    pub fn draw(&self, below: u64) -> u64 {
        let mut state = self.state();
        if state.calm { 0 } else { state.luck.u64(0..below.max(1)) }
    }

    /// The power goes, at this moment: the way to have it go in the middle of blocking work, which no plan can
    /// interrupt. Such work returns then, whatever it returns; its handler gets no further than to its next use of its
    /// context.
    pub fn cut_power(&self) {
        self.state().dead = true;
        // The history may have ended.
        let _ = self.signals.send(Signal::PowerCut);
    }

    /// The agent's process dies, at this moment; see [`cut_power`](Self::cut_power).
    pub fn crash(&self) {
        self.state().dead = true;
        let _ = self.signals.send(Signal::Crash);
    }

    /// What child processes do; without it none can be started. The future may sleep, and a crash drops it.
    pub fn programs<F>(&self, run: impl Fn(ChildProcess) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<ChildOutput, ChildError>> + Send + 'static,
    {
        self.state().programs = Some(Arc::new(move |child| Box::pin(run(child))));
    }

    pub(super) fn system(&self) -> &TestSystem {
        &self.system
    }

    pub(super) fn next_restart(&self, fate: Fate) {
        self.state().fates.push_back(fate);
    }

    /// Another process begins.
    pub(super) fn revive(&self) {
        let mut state = self.state();
        state.dead = false;
        state.held.clear();
    }

    /// Waits for ever once the process has died.
    pub(super) async fn unless_dead(&self) {
        if self.state().dead {
            std::future::pending().await
        }
    }

    /// Work that is never done once the process has died; whoever waits for it waits until it is dropped.
    pub(super) fn hold_if_dead(&self, work: Work) -> Option<Work> {
        let mut state = self.state();
        if !state.dead {
            return Some(work);
        }
        state.held.push(work);
        None
    }

    /// Nothing goes wrong any more.
    pub(super) fn calm_down(&self) {
        let mut state = self.state();
        state.fates.clear();
        state.calm = true;
    }

    pub(super) fn boot(&self) {
        self.system.next_boot();
        let boots = {
            let mut state = self.state();
            state.boots += 1;
            state.going_down = false;
            state.boots
        };
        self.log.push(Event::Boot(boots));
    }

    fn fate(&self) -> Fate {
        let mut state = self.state();
        if state.going_down {
            return Fate::Begun;
        }
        let fate = state.fates.pop_front().unwrap_or(Fate::After(USUAL_RESTART));
        state.going_down = matches!(fate, Fate::After(_));
        fate
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("boots", &self.boots()).finish_non_exhaustive()
    }
}

#[async_trait]
impl System for Machine {
    fn wall_clock(&self) -> Duration {
        self.system.wall_clock()
    }

    fn uptime(&self) -> Duration {
        self.system.uptime()
    }

    fn boot_id(&self) -> BootId {
        self.system.boot_id()
    }

    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError> {
        let fate = self.fate();
        let begun = fate != Fate::Refused;
        self.log.push(Event::Restart { kind, by: running(), begun });
        match fate {
            Fate::Refused => {
                return Err(RestartError::Command { kind, reason: "exit status 1".into() });
            }
            Fate::After(pause) => drop(self.signals.send(Signal::Restart(pause))),
            Fate::Never | Fate::Begun => {}
        }
        Ok(Performed::Restarting)
    }

    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        let programs = self.state().programs.clone();
        match programs {
            Some(run) => run(child).await,
            None => self.system.run(child).await,
        }
    }
}

/// How long the machine takes to go down.
const USUAL_RESTART: Duration = Duration::from_secs(3);
