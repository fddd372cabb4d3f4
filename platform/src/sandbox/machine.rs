//! The device's machine: clocks that can be moved, restarts that restart the agent, commands that are played.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use iotdm_agent::{Agent, RunError};
use iotdm_core::{
    BootId, ChildError, ChildExit, ChildOutput, ChildProcess, Performed, Restart, RestartError, System,
};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::images::verifier;

/// The program that "installs" an image; the machine plays it and starts no process.
pub(super) const INSTALLER: &str = "/sandbox/install";

/// The program that is asked after the restart whether the new firmware is healthy; played as well.
pub(super) const HEALTH_CHECK: &str = "/sandbox/is-healthy";

/// A machine that exists only in this process.
#[derive(Clone)]
pub(super) struct SandboxSystem {
    state: Arc<Mutex<State>>,
    restarts: mpsc::UnboundedSender<Restart>,
}

struct State {
    boot: u64,
    /// How often the agent was started.
    starts: u64,
    booted: Instant,
    began: Instant,
    /// Time that was skipped, in all and in this boot.
    skipped: Duration,
    skipped_in_boot: Duration,
    /// What was "installed", as SHA-256.
    installed: Vec<String>,
    /// Every command that was played, with how often.
    played: BTreeMap<String, u32>,
}

impl SandboxSystem {
    /// A machine in its first boot, and where its restarts are heard.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Restart>) {
        let now = Instant::now();
        let state = State {
            boot: 1,
            starts: 0,
            booted: now,
            began: now,
            skipped: Duration::ZERO,
            skipped_in_boot: Duration::ZERO,
            installed: Vec::new(),
            played: BTreeMap::new(),
        };
        let (restarts, heard) = mpsc::unbounded_channel();
        (Self { state: Arc::new(Mutex::new(state)), restarts }, heard)
    }

    /// Lets this much time pass in an instant.
    pub(super) fn skip(&self, time: Duration) {
        let mut state = self.lock();
        state.skipped += time;
        state.skipped_in_boot += time;
    }

    pub(super) fn boot(&self) -> u64 {
        self.lock().boot
    }

    /// How often the agent was started.
    pub(super) fn starts(&self) -> u64 {
        self.lock().starts
    }

    pub(super) fn installed(&self) -> Vec<String> {
        self.lock().installed.clone()
    }

    pub(super) fn played(&self, program: &str) -> u32 {
        self.lock().played.get(program).copied().unwrap_or(0)
    }

    fn next_boot(&self) {
        let mut state = self.lock();
        state.boot += 1;
        state.booted = Instant::now();
        state.skipped_in_boot = Duration::ZERO;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn install(&self, image: PathBuf) -> ChildExit {
        let digest = spawn_blocking(move || {
            std::fs::read(image).map(|bytes| verifier(Sha256::new_with_prefix(bytes)))
        });
        match digest.await {
            Ok(Ok(digest)) => {
                let mut state = self.lock();
                if state.installed.len() < INSTALLED_LIMIT {
                    state.installed.push(digest);
                }
                ChildExit::Status(0)
            }
            _ => ChildExit::Status(1),
        }
    }
}

#[async_trait]
impl System for SandboxSystem {
    fn wall_clock(&self) -> Duration {
        let state = self.lock();
        WALL_CLOCK_AT_START + state.began.elapsed() + state.skipped
    }

    fn uptime(&self) -> Duration {
        let state = self.lock();
        state.booted.elapsed() + state.skipped_in_boot
    }

    fn boot_id(&self) -> BootId {
        BootId(format!("boot-{}", self.boot()).into())
    }

    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError> {
        let reason = || "the machine is switched off".to_owned();
        self.restarts.send(kind).map_err(|_| RestartError::Command { kind, reason: reason() })?;
        Ok(Performed::Restarting)
    }

    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        let program = child.program.display().to_string();
        let exit = match (program.as_str(), child.args.first()) {
            (INSTALLER, Some(image)) => self.install(image.into()).await,
            (HEALTH_CHECK, _) => ChildExit::Status(0),
            _ => {
                let reason = "nothing of the host is started from a sandbox".into();
                return Err(ChildError::NotStarted { program, reason });
            }
        };
        *self.lock().played.entry(program).or_default() += 1;
        Ok(ChildOutput { exit, stdout: Vec::new(), stderr: Vec::new(), truncated: false })
    }
}

impl fmt::Debug for SandboxSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxSystem").field("boot", &self.boot()).finish_non_exhaustive()
    }
}

/// Makes the agent anew at each start of the machine.
pub(super) type Assemble = Box<dyn Fn(Arc<dyn System>) -> Result<Agent, String> + Send>;

/// Whoever holds the power switch. Dropping it ends the machine.
pub(super) struct Machine {
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
}

enum Command {
    On,
    Off(oneshot::Sender<()>),
}

impl Machine {
    /// A machine that is switched off. What happens to it is told to `told`.
    pub(super) fn new(
        system: SandboxSystem,
        restarts: mpsc::UnboundedReceiver<Restart>,
        assemble: Assemble,
        told: mpsc::UnboundedSender<String>,
    ) -> Self {
        let (commands, heard) = mpsc::unbounded_channel();
        let life = Life { system, assemble, told, running: None };
        let task = tokio::spawn(life.run(heard, restarts));
        Self { commands, task }
    }

    pub(super) fn on(&self) {
        // The task lives as long as this.
        let _ = self.commands.send(Command::On);
    }

    /// Stops the agent as SIGTERM does, and waits for it.
    pub(super) fn off(&self) -> impl Future<Output = ()> + use<> {
        let (done, waiting) = oneshot::channel();
        // A machine whose task has ended is off.
        let _ = self.commands.send(Command::Off(done));
        async move {
            let _ = waiting.await;
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Life {
    system: SandboxSystem,
    assemble: Assemble,
    told: mpsc::UnboundedSender<String>,
    running: Option<Running>,
}

struct Running {
    stop: CancellationToken,
    agent: JoinHandle<Result<(), RunError>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

impl Life {
    async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut restarts: mpsc::UnboundedReceiver<Restart>,
    ) {
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::On) => self.start("is switched on"),
                    Some(Command::Off(done)) => {
                        self.stop().await;
                        let _ = done.send(());
                    }
                    None => return,
                },
                Some(kind) = restarts.recv() => self.restart(kind).await,
            }
        }
    }

    fn start(&mut self, how: &str) {
        self.tell(format!("the device {how} (boot {})", self.system.boot()));
        let agent = match (self.assemble)(Arc::new(self.system.clone())) {
            Ok(agent) => agent,
            Err(reason) => return self.tell(format!("the agent cannot start: {reason}")),
        };
        self.system.lock().starts += 1;
        let stop = CancellationToken::new();
        let (stopped, told) = (stop.clone(), self.told.clone());
        let agent = tokio::spawn(async move {
            let end = agent.run_until(stopped.cancelled()).await;
            if let Err(reason) = &end {
                let _ = told.send(format!("the agent ended: {reason}"));
            }
            end
        });
        self.running = Some(Running { stop, agent });
    }

    /// Without a word to anybody, as power goes: what is not durable is gone.
    async fn restart(&mut self, kind: Restart) {
        let Some(mut running) = self.running.take() else { return };
        running.agent.abort();
        let _ = (&mut running.agent).await;
        self.tell(format!("the device goes down for a {kind}; its process is gone"));
        self.system.next_boot();
        sleep(TIME_TO_BOOT).await;
        self.start("starts again");
    }

    async fn stop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        running.stop.cancel();
        let _ = (&mut running.agent).await;
        self.tell("the device is switched off".into());
    }

    fn tell(&self, what: String) {
        // Nobody may be watching any more.
        let _ = self.told.send(what);
    }
}

/// 2026-06-01T08:00:00Z: a plausible date that no log can mistake for the host's.
const WALL_CLOCK_AT_START: Duration = Duration::from_secs(1_780_300_800);

/// How long a boot takes.
const TIME_TO_BOOT: Duration = Duration::from_millis(600);

/// Installations that are remembered.
const INSTALLED_LIMIT: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_can_be_skipped_and_a_boot_begins_at_zero() {
        let (system, _restarts) = SandboxSystem::new();
        system.skip(Duration::from_secs(100));
        assert_eq!(system.uptime().as_secs(), 100);
        assert_eq!((system.wall_clock() - WALL_CLOCK_AT_START).as_secs(), 100);
        let boot = system.boot_id();
        system.next_boot();
        assert_ne!(system.boot_id(), boot);
        assert_eq!(system.uptime(), Duration::ZERO);
        assert_eq!((system.wall_clock() - WALL_CLOCK_AT_START).as_secs(), 100);
    }

    #[tokio::test]
    async fn nothing_of_the_host_is_started() {
        let (system, _restarts) = SandboxSystem::new();
        let child = ChildProcess::new("/bin/true");
        assert!(matches!(system.run(child).await, Err(ChildError::NotStarted { .. })));
    }
}
