//! What puts an image to use: the seam between an update and the machine's own update system.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use iotdm_core::{ChildExit, ChildOutput, ChildProcess, Context, DeviceInfo, System, attribute};
use tokio_util::sync::CancellationToken;

use super::super::FirmwareOptionsError;

/// Installs an image, and makes it permanent or takes it back.
///
/// # Flow
/// [`running`](Self::running) → [`install`](Self::install) → restart, where it is needed → `running` and
/// [`verify`](Self::verify) → the health check of [`InstallOptions`](super::InstallOptions) →
/// [`commit`](Self::commit) or [`rollback`](Self::rollback) → [`conclude`](Self::conclude).
///
/// # Guarantees
/// * One method of one installer runs at a time, and each start of it is durable before it begins.
/// * [`Job::folder`] is empty when an installation begins, survives restarts, and is removed when the update has ended.
///
/// # Assumptions
/// * Every method may be dropped at any `.await`, and a crash may come anywhere. `commit`, `rollback` and `conclude`
///   are then called again: doing twice what was done once does no harm. `install` is called again only where
///   [`is_repeatable`](Self::is_repeatable) says so.
/// * `rollback` is also called when `install` failed or was interrupted, or when the restart could not begin:
///   [`Job::before`] tells what ran then.
/// * Processes are started by [`Job::run`] alone, and blocking work goes through [`Job::blocking`].
///
/// # Errors
/// [`InstallError`]: its text is for the platform; paths and what a program wrote belong into the device's own log.
#[async_trait]
pub trait Installer: fmt::Debug + Send + Sync + 'static {
    /// Whether it can work as it was made. Asked once, when the handlers are registered.
    fn check(&self) -> Result<(), FirmwareOptionsError> {
        Ok(())
    }

    /// Whether an installation that was interrupted may be started again. Where it may not, it is rolled back.
    fn is_repeatable(&self) -> bool {
        true
    }

    /// Which firmware runs, such as the booted slot's name: equal before and after a restart means that the boot
    /// loader fell back. `None` when this machine cannot tell.
    async fn running(&self, _job: &Job<'_>) -> Result<Option<String>, InstallError> {
        Ok(None)
    }

    /// Installs the job's image.
    async fn install(&self, job: &Job<'_>) -> Result<Activation, InstallError>;

    /// After the restart: is what was installed in use? Asked besides comparing [`running`](Self::running).
    async fn verify(&self, _job: &Job<'_>) -> Result<(), InstallError> {
        Ok(())
    }

    /// Makes what was installed permanent.
    async fn commit(&self, _job: &Job<'_>) -> Result<(), InstallError> {
        Ok(())
    }

    /// Goes back to what ran before; `None` when there is no way back.
    async fn rollback(&self, _job: &Job<'_>) -> Result<Option<Activation>, InstallError> {
        Ok(None)
    }

    /// The last call for an update, whatever became of it. What ran before is in use again when it failed and could be
    /// rolled back.
    async fn conclude(&self, _job: &Job<'_>, _end: Conclusion) -> Result<(), InstallError> {
        Ok(())
    }
}

/// When what was installed, or rolled back to, is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Activation {
    /// It is already.
    Immediate,
    /// After the machine has been restarted.
    #[default]
    AfterRestart,
}

/// How an update ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// It is committed.
    Committed,
    /// It failed.
    Failed,
}

/// Why an installer did not do what it was asked for. The texts reach the platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// Memory or space did not suffice: `updateStatus` 2 (`docs/protocol.md` §6.3).
    #[error("{0}")]
    NoRoom(String),
    /// Anything else: `updateStatus` 5.
    #[error("{0}")]
    Failed(String),
    /// The agent is stopping; nothing is decided, and the next start goes on.
    #[error("interrupted")]
    Interrupted,
}

impl InstallError {
    /// A step that did not work, as a file operation tells it.
    pub fn io(what: &str, error: &io::Error) -> Self {
        let text = format!("{what}: {}", error.kind());
        if error.kind() == io::ErrorKind::StorageFull { Self::NoRoom(text) } else { Self::Failed(text) }
    }
}

/// One step of an update: what it is about, and what an installer may use for it.
pub struct Job<'a> {
    cx: &'a Context,
    image: &'a Path,
    folder: &'a Path,
    version: Option<&'a str>,
    before: Option<&'a str>,
    time_limit: Duration,
}

impl<'a> Job<'a> {
    /// About this image, with this folder for what has to survive a restart.
    pub fn new(cx: &'a Context, image: &'a Path, folder: &'a Path) -> Self {
        Self { cx, image, folder, version: None, before: None, time_limit: cx.remaining() }
    }

    /// The image's version, as the platform told it.
    #[must_use]
    pub fn with_version(self, version: Option<&'a str>) -> Self {
        Self { version, ..self }
    }

    /// What [`Installer::running`] said before the installation.
    #[must_use]
    pub fn with_before(self, before: Option<&'a str>) -> Self {
        Self { before, ..self }
    }

    /// How long the step may take at most; the request's budget bounds it too.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Self { time_limit: limit.min(self.cx.remaining()), ..self }
    }

    /// The verified image.
    pub fn image(&self) -> &Path {
        self.image
    }

    /// The installer's own folder, beside the image. It is there only once an installation has begun.
    pub fn folder(&self) -> &Path {
        self.folder
    }

    /// The image's version, as the platform told it.
    pub fn version(&self) -> Option<&str> {
        self.version
    }

    /// What [`Installer::running`] said before the installation; `None` also where that is not known.
    pub fn before(&self) -> Option<&str> {
        self.before
    }

    /// The version of the firmware that the device has by its own account, `deviceInfo.fwVersion`.
    pub fn current_version(&self) -> Option<String> {
        self.cx.attribute::<DeviceInfo>(attribute::DEVICE_INFO)?.fw_version
    }

    /// How long this step may take.
    pub fn time_limit(&self) -> Duration {
        self.time_limit
    }

    /// The machine.
    pub fn system(&self) -> &dyn System {
        self.cx.system()
    }

    /// Runs blocking work on a thread of its own; see [`Context::blocking`].
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CancellationToken) -> T + Send + 'static,
    ) -> T {
        self.cx.blocking(work).await
    }

    /// A program and its arguments. `{image}`, `{version}` and `{before}` are replaced where they are a whole
    /// argument; there is no shell.
    pub fn command(&self, command: &[String]) -> ChildProcess {
        let argument = |argument: &String| match argument.as_str() {
            "{image}" => self.image.to_string_lossy().into_owned(),
            "{version}" => self.version.unwrap_or_default().to_owned(),
            "{before}" => self.before.unwrap_or_default().to_owned(),
            _ => argument.clone(),
        };
        let (program, args) = command.split_first().expect("Installer::check wants a program");
        ChildProcess {
            args: args.iter().map(argument).collect(),
            time_limit: self.time_limit,
            output_limit: OUTPUT_LIMIT_BYTES,
            ..ChildProcess::new(program)
        }
    }

    /// Runs a program to a good end. `what` names it in the error, such as "the install command".
    pub async fn run(&self, what: &str, child: ChildProcess) -> Result<ChildOutput, InstallError> {
        let output = self.output(child).await?;
        if output.exit == ChildExit::Status(0) { Ok(output) } else { Err(failed(what, &output)) }
    }

    /// Runs a program; how it ended is the caller's to judge.
    pub async fn output(&self, child: ChildProcess) -> Result<ChildOutput, InstallError> {
        self.system().run(child).await.map_err(|error| InstallError::Failed(error.to_string()))
    }
}

impl fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("version", &self.version)
            .field("before", &self.before)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

/// The error of a program that ended badly. What it wrote stays on the device.
pub(super) fn failed(what: &str, output: &ChildOutput) -> InstallError {
    // Not every program keeps what it has to say for its standard error; SWUpdate does not.
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // What failed is at the end of what such a program tells of its steps.
    let out = &stdout[stdout.ceil_char_boundary(stdout.len().saturating_sub(ChildOutput::MAX_TOLD_BYTES))..];
    tracing::warn!(exit = %output.exit, stdout = out.trim(), stderr = output.stderr_start(), "firmware: {what} failed");
    let text = format!("{what} ended with {}", output.exit);
    if output.exit == ChildExit::Status(EXIT_NO_ROOM)
        || stdout.contains(NO_SPACE_LEFT)
        || stderr.contains(NO_SPACE_LEFT)
    {
        return InstallError::NoRoom(text);
    }
    InstallError::Failed(text)
}

/// Whether a command names a program by its path: no search decides what installs firmware.
pub(super) fn has_program(command: &[String]) -> bool {
    command.first().is_some_and(|program| program.starts_with('/'))
}

/// `EX_CANTCREAT` of sysexits.h: no room for the image.
const EXIT_NO_ROOM: i32 = 73;

/// How C libraries spell ENOSPC; installers without exit statuses of their own write it.
const NO_SPACE_LEFT: &str = "No space left on device";

/// How much of a program's output is kept, in bytes: the log needs the start of it, and the status of an A/B system
/// with many slots is a few KiB.
const OUTPUT_LIMIT_BYTES: usize = 64 * 1024;
