//! The machine the agent runs on.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use iotdm_core::{
    BootId, ChildError, ChildExit, ChildOutput, ChildProcess, Performed, Restart, RestartError, System,
};
use rustix::time::{ClockId, clock_gettime};

mod process;

/// A Linux machine: the kernel's clocks and boot id, restarts by a configured command, child processes in groups of
/// their own.
///
/// ```no_run
/// # fn main() -> Result<(), iotdm_agent::system::NoBootId> {
/// use iotdm_core::Restart;
///
/// let system = iotdm_agent::system::LinuxSystem::new()?
///     .reboot_command(vec!["systemctl".into(), "reboot".into()])
///     .dry_run_of(Restart::FactoryReset, true);
/// # let _ = system;
/// # Ok(())
/// # }
/// ```
///
/// # Guarantees
/// * A child process that is done with, at its time limit or because nobody waits for it any more, takes its whole
///   process group with it: TERM at once, KILL 5 s later. When the runtime ends first, KILL comes right then.
/// * A process that outlives the child and holds its pipes cannot hold up [`run`](System::run).
///
/// # Assumptions
/// * It is used on a tokio runtime with I/O and time enabled.
/// * Nobody else in this process waits for children it did not start, and SIGCHLD is not ignored.
///
/// # Caveats
/// * In a container the boot id is that of the machine outside: restarting the container is no restart.
/// * A process that leaves its group, by `setsid` for instance, and lets go of the pipes is left alone.
#[derive(Clone, Debug)]
pub struct LinuxSystem {
    boot_id: BootId,
    reboot: RestartCommand,
    factory_reset: RestartCommand,
}

/// How one kind of restart is begun.
#[derive(Clone, Debug)]
struct RestartCommand {
    command: Vec<String>,
    time_limit: Duration,
    dry_run: bool,
}

impl LinuxSystem {
    /// This machine, without a way to restart it.
    ///
    /// # Errors
    /// [`NoBootId`] when the kernel's boot id cannot be read: without it no restart could ever be judged.
    pub fn new() -> Result<Self, NoBootId> {
        let text = std::fs::read_to_string(BOOT_ID_PATH).map_err(|error| NoBootId(Arc::new(error)))?;
        let boot_id = text.trim();
        if boot_id.is_empty() {
            return Err(NoBootId(Arc::new(io::ErrorKind::UnexpectedEof.into())));
        }
        let none = RestartCommand { command: Vec::new(), time_limit: RESTART_COMMAND_LIMIT, dry_run: false };
        Ok(Self { boot_id: BootId(boot_id.into()), reboot: none.clone(), factory_reset: none })
    }

    /// With the program, and its arguments, that begins a restart; it ends with exit status 0. An empty list means that
    /// there is none.
    #[must_use]
    pub fn reboot_command(mut self, command: Vec<String>) -> Self {
        self.reboot.command = command;
        self
    }

    /// With the program, and its arguments, that begins a return to the delivery state and a restart; it ends with exit
    /// status 0, and may be run again when it was interrupted. An empty list means that there is none.
    #[must_use]
    pub fn factory_reset_command(mut self, command: Vec<String>) -> Self {
        self.factory_reset.command = command;
        self
    }

    /// With another time than 30 s within which the command for this kind of restart has to end.
    #[must_use]
    pub fn restart_limit(mut self, kind: Restart, time_limit: Duration) -> Self {
        self.command_mut(kind).time_limit = time_limit;
        self
    }

    /// With restarts of both kinds that are only logged.
    #[must_use]
    pub fn dry_run(self, dry_run: bool) -> Self {
        self.dry_run_of(Restart::Reboot, dry_run).dry_run_of(Restart::FactoryReset, dry_run)
    }

    /// With restarts of this kind that are only logged; they need no command.
    #[must_use]
    pub fn dry_run_of(mut self, kind: Restart, dry_run: bool) -> Self {
        self.command_mut(kind).dry_run = dry_run;
        self
    }

    fn command(&self, kind: Restart) -> &RestartCommand {
        match kind {
            Restart::Reboot => &self.reboot,
            Restart::FactoryReset => &self.factory_reset,
        }
    }

    fn command_mut(&mut self, kind: Restart) -> &mut RestartCommand {
        match kind {
            Restart::Reboot => &mut self.reboot,
            Restart::FactoryReset => &mut self.factory_reset,
        }
    }
}

#[async_trait]
impl System for LinuxSystem {
    #[expect(clippy::disallowed_methods, reason = "this is where wall time enters")]
    fn wall_clock(&self) -> Duration {
        // A clock that stands before 1970 has never been set.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn uptime(&self) -> Duration {
        let since_boot = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(since_boot.tv_sec), u32::try_from(since_boot.tv_nsec));
        let (Ok(seconds), Ok(nanos)) = (seconds, nanos) else { return Duration::ZERO };
        Duration::new(seconds, nanos)
    }

    fn boot_id(&self) -> BootId {
        self.boot_id.clone()
    }

    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError> {
        let RestartCommand { command, time_limit, dry_run } = self.command(kind);
        if *dry_run {
            match command.split_first() {
                Some((program, args)) => {
                    tracing::warn!(%kind, %program, args = args.len(), "dry run: this command would be run");
                }
                None => tracing::warn!(%kind, "dry run: no command is configured"),
            }
            return Ok(Performed::Complete);
        }
        let [program, args @ ..] = command.as_slice() else {
            return Err(RestartError::NotConfigured(kind));
        };
        // How many, and not which: arguments may hold secrets.
        tracing::warn!(%kind, %program, args = args.len(), "running the restart command");
        let command = ChildProcess {
            args: args.to_vec(),
            time_limit: *time_limit,
            output_limit: RESTART_OUTPUT_LIMIT_BYTES,
            ..ChildProcess::new(program)
        };
        let reason = match process::run(command).await {
            Ok(output) if output.exit == ChildExit::Status(0) => return Ok(Performed::Restarting),
            Ok(output) => output.reason(),
            Err(error) => error.to_string(),
        };
        Err(RestartError::Command { kind, reason })
    }

    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        process::run(child).await
    }
}

/// The kernel's boot id cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the boot id cannot be read from {BOOT_ID_PATH}: {0}")]
pub struct NoBootId(#[source] Arc<io::Error>);

/// Where Linux gives out another random text at every start.
const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// How long a restart command may take unless told otherwise. It only has to begin the restart: `systemctl reboot` returns within a second,
/// and a loaded flash makes that several.
const RESTART_COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// How much of what a failed restart command says is kept: enough for an error message, small enough for a log entry.
const RESTART_OUTPUT_LIMIT_BYTES: usize = 1024;

#[cfg(test)]
mod tests;
