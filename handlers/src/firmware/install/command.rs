//! Any executable as an installer.

use async_trait::async_trait;

use super::super::FirmwareOptionsError;
use super::installer::{Activation, InstallError, Installer, Job, has_program};

/// Has an image installed by a program of the operator's choice.
///
/// # Contract of the commands
/// * Exit status 0: done. 73 (`EX_CANTCREAT`), or a standard error with "No space left on device": no room, which
///   becomes `updateStatus` 2. Anything else: it failed, `updateStatus` 5 (`docs/protocol.md` §6.3).
/// * `{image}`, `{version}` and `{before}` are replaced where they are a whole argument; there is no shell.
/// * `commit` and `rollback` may be started again after a crash in their middle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandInstaller {
    /// The program that installs, and its arguments.
    pub install: Vec<String>,
    /// Writes which firmware runs, one line, to its standard output. Without it a restart counts as success, also when
    /// a boot loader fell back to the old firmware, unless the health check knows better.
    pub running: Option<Vec<String>>,
    /// Makes it permanent, once it was judged healthy.
    pub commit: Option<Vec<String>>,
    /// Goes back to what ran before.
    pub rollback: Option<Vec<String>>,
    /// Whether the device has to be restarted for the firmware to be in use, after `install` and after `rollback`.
    pub restart: bool,
    /// Whether `install` may be started again after a crash in its middle.
    pub repeatable: bool,
}

impl CommandInstaller {
    /// A command that is not started twice, followed by no restart.
    pub fn new(install: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            install: install.into_iter().map(Into::into).collect(),
            running: None,
            commit: None,
            rollback: None,
            restart: false,
            repeatable: false,
        }
    }

    fn activation(&self) -> Activation {
        if self.restart { Activation::AfterRestart } else { Activation::Immediate }
    }
}

#[async_trait]
impl Installer for CommandInstaller {
    fn check(&self) -> Result<(), FirmwareOptionsError> {
        let commands = [
            ("install", Some(&self.install)),
            ("running", self.running.as_ref()),
            ("commit", self.commit.as_ref()),
            ("rollback", self.rollback.as_ref()),
        ];
        match commands.into_iter().find(|(_, command)| command.is_some_and(|words| !has_program(words))) {
            Some((name, _)) => Err(FirmwareOptionsError::Program(name)),
            None => Ok(()),
        }
    }

    fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    async fn running(&self, job: &Job<'_>) -> Result<Option<String>, InstallError> {
        running(job, self.running.as_deref()).await
    }

    async fn install(&self, job: &Job<'_>) -> Result<Activation, InstallError> {
        job.run("the install command", job.command(&self.install)).await?;
        Ok(self.activation())
    }

    async fn commit(&self, job: &Job<'_>) -> Result<(), InstallError> {
        let Some(commit) = &self.commit else { return Ok(()) };
        job.run("the commit command", job.command(commit)).await.map(drop)
    }

    async fn rollback(&self, job: &Job<'_>) -> Result<Option<Activation>, InstallError> {
        roll_back(job, self.rollback.as_deref(), self.running.as_deref(), self.activation()).await
    }
}

/// What a command says that runs.
pub(super) async fn running(
    job: &Job<'_>,
    command: Option<&[String]>,
) -> Result<Option<String>, InstallError> {
    let Some(command) = command else { return Ok(None) };
    let output = job.run("the command that tells what runs", job.command(command)).await?;
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if name.is_empty() {
        return Err(InstallError::Failed("the command that tells what runs said nothing".into()));
    }
    Ok(Some(name))
}

/// Rolls back by a command. Where what ran before still runs, no restart is needed for it to be in use.
pub(super) async fn roll_back(
    job: &Job<'_>,
    rollback: Option<&[String]>,
    running_command: Option<&[String]>,
    activation: Activation,
) -> Result<Option<Activation>, InstallError> {
    let Some(rollback) = rollback else { return Ok(None) };
    job.run("the roll-back command", job.command(rollback)).await?;
    let still_runs =
        job.before().is_some() && running(job, running_command).await?.as_deref() == job.before();
    Ok(Some(if still_runs { Activation::Immediate } else { activation }))
}
