//! SWUpdate: installs `.swu` images as their description says.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use iotdm_core::{ChildExit, ChildProcess};

use super::super::FirmwareOptionsError;
use super::command::{roll_back, running};
use super::installer::{Activation, InstallError, Installer, Job, failed, has_program};

/// Installs images with [SWUpdate](https://sbabic.github.io/swupdate/), by the `swupdate` program itself or by
/// `swupdate-client` where its service runs.
///
/// Which copy of the system runs is known to the boot loader's environment alone; a command asks for it, such as
/// `fw_printenv -n copy`. The commands keep the contract of [`CommandInstaller`](super::CommandInstaller).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwupdateInstaller {
    /// `swupdate`, or `swupdate-client`.
    pub program: PathBuf,
    /// Whether the program is `swupdate-client`: it is told the image alone, its service knows the key.
    pub client: bool,
    /// The public key, or the certificates, that images have to be signed with.
    pub key: Option<PathBuf>,
    /// The software set and mode to install, such as `stable,copy2`. The key is what [`running`](Self::running) says;
    /// an empty key stands for whatever runs. None at all installs what the image has without a choice.
    pub select: BTreeMap<String, String>,
    /// Further arguments, before the image's.
    pub args: Vec<String>,
    /// Writes which copy runs, one line, to its standard output.
    pub running: Option<Vec<String>>,
    /// Makes it permanent, once it was judged healthy.
    pub commit: Option<Vec<String>>,
    /// Goes back to what ran before.
    pub rollback: Option<Vec<String>>,
    /// Whether the device has to be restarted for the firmware to be in use.
    pub restart: bool,
}

impl SwupdateInstaller {
    /// `/usr/bin/swupdate`, without a key, followed by a restart.
    pub fn new() -> Self {
        Self {
            program: "/usr/bin/swupdate".into(),
            client: false,
            key: None,
            select: BTreeMap::new(),
            args: Vec::new(),
            running: None,
            commit: None,
            rollback: None,
            restart: true,
        }
    }

    fn activation(&self) -> Activation {
        if self.restart { Activation::AfterRestart } else { Activation::Immediate }
    }

    /// What to install beside this copy.
    fn selection(&self, before: Option<&str>) -> Result<Option<&str>, InstallError> {
        let chosen = before.and_then(|before| self.select.get(before)).or_else(|| self.select.get(""));
        match (chosen, self.select.is_empty()) {
            (Some(selection), _) => Ok(Some(selection)),
            (None, true) => Ok(None),
            (None, false) => {
                let runs = before.unwrap_or("an unknown copy");
                Err(InstallError::Failed(format!("nothing is configured to be installed beside {runs}")))
            }
        }
    }

    fn child(&self, job: &Job<'_>) -> Result<ChildProcess, InstallError> {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let mut words = vec![text(&self.program)];
        words.extend(self.args.iter().cloned());
        if let Some(key) = self.key.as_ref().filter(|_| !self.client) {
            words.extend(["-k".to_owned(), text(key)]);
        }
        if let Some(selection) = self.selection(job.before())? {
            words.extend(["-e".to_owned(), selection.to_owned()]);
        }
        if !self.client {
            words.push("-i".to_owned());
        }
        words.push("{image}".to_owned());
        let mut child = job.command(&words);
        // What it writes is looked through for a full disk.
        child.env.insert("LC_ALL".into(), "C".into());
        Ok(child)
    }
}

impl Default for SwupdateInstaller {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Installer for SwupdateInstaller {
    fn check(&self) -> Result<(), FirmwareOptionsError> {
        let program = vec![self.program.to_string_lossy().into_owned()];
        let commands = [
            ("swupdate", Some(&program)),
            ("running", self.running.as_ref()),
            ("commit", self.commit.as_ref()),
            ("rollback", self.rollback.as_ref()),
        ];
        match commands.into_iter().find(|(_, command)| command.is_some_and(|words| !has_program(words))) {
            Some((name, _)) => Err(FirmwareOptionsError::Program(name)),
            None => Ok(()),
        }
    }

    async fn running(&self, job: &Job<'_>) -> Result<Option<String>, InstallError> {
        running(job, self.running.as_deref()).await
    }

    async fn install(&self, job: &Job<'_>) -> Result<Activation, InstallError> {
        let mut tries = 1;
        loop {
            let output = job.output(self.child(job)?).await?;
            if output.exit == ChildExit::Status(0) {
                return Ok(self.activation());
            }
            let contradicts_itself = String::from_utf8_lossy(&output.stdout).contains(SUCCESSFUL);
            if !contradicts_itself || tries == MAX_TRIES {
                return Err(failed("swupdate", &output));
            }
            tracing::warn!(exit = %output.exit, "firmware: swupdate says that it was successful, and failed; once more");
            tries += 1;
        }
    }

    async fn commit(&self, job: &Job<'_>) -> Result<(), InstallError> {
        let Some(commit) = &self.commit else { return Ok(()) };
        job.run("the commit command", job.command(commit)).await.map(drop)
    }

    async fn rollback(&self, job: &Job<'_>) -> Result<Option<Activation>, InstallError> {
        roll_back(job, self.rollback.as_deref(), self.running.as_deref(), self.activation()).await
    }
}

/// What SWUpdate writes once everything is installed. Version 2022.12 now and then ends with status 1 all the same
/// (measured: one run in eight): something at its end races. Installing once more is harmless, taking it for
/// installed would not be where a post-update command failed.
const SUCCESSFUL: &str = "SWUPDATE successful";

/// How often it is started when it contradicts itself.
const MAX_TRIES: u32 = 5;
