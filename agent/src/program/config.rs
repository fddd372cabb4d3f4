//! The operator's configuration: one TOML file, read into plain settings or into errors that say what to do.
//!
//! # Flow
//! `document` holds the text and finds lines in it, `file`, `broker`, `commands` and `declaration` are its shape, `values` are its ranges,
//! `explain` words what serde finds; `resolve` joins the keys, reads the files they name, and makes [`Settings`].
//! `folder` is where scripts are declared in files of their own, `users` whom they may run as.
//!
//! # Guarantees
//! * Every problem names the file, the line and column, the key, what is wrong and what would be right.
//! * No secret is in a setting's `Debug` or in an error.
//! * Whatever is read is bounded.
//!
//! # Caveats
//! A wrong shape (syntax, type, range, unknown key) is reported alone, problems between keys all together.

mod attached;
mod attributes;
mod broker;
mod commands;
mod declaration;
mod document;
mod explain;
mod file;
mod folder;
mod mqtt;
mod references;
mod resolve;
mod restarts;
mod users;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use iotdm_agent::{Config, Secret, Threshold};
use iotdm_core::{Late, Location};
use iotdm_handlers::diagnostics::{FactsOptions, UploadOptions};
use iotdm_handlers::firmware::PublicKey;
use iotdm_handlers::http::Proxy;
use iotdm_handlers::{CommandScript, ScriptSpec};
use serde_json::Value;

use super::logging::LogSettings;
pub(crate) use attached::AttachedDevice;
pub(crate) use restarts::{FactoryResetAction, RebootAction, RebootMeans, ResetMeans, RestartRules};
pub(crate) use values::plain;

/// Everything the program needs to know, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// What the library needs.
    pub(crate) config: Config,
    /// Where the device is, when the operator knows it.
    pub(crate) location: Option<Location>,
    /// Which changes of attributes are notified.
    pub(crate) thresholds: BTreeMap<String, Threshold>,
    /// The devices that this one speaks for.
    pub(crate) attached: Vec<AttachedDevice>,
    /// What the platform may ask for; an action without an entry is answered 501.
    pub(crate) actions: Actions,
    /// What is done at commands of applications.
    pub(crate) commands: Vec<CommandScript>,
    /// The journal's directory.
    pub(crate) journal: PathBuf,
    /// The log.
    pub(crate) log: LogSettings,
    /// What is allowed but should be looked at.
    pub(crate) warnings: Vec<String>,
}

impl Settings {
    /// Reads a configuration and every file it names.
    ///
    /// # Errors
    /// [`ConfigError`] with at least one problem.
    pub(crate) fn load(path: &Path, surroundings: &Surroundings<'_>) -> Result<Self, ConfigError> {
        Self::parse(path, &document::read(path)?, surroundings)
    }

    /// Takes the configuration's text, and reads every file it names; `path` is what errors name, and where relative
    /// paths start.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn parse(
        path: &Path,
        text: &str,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self, ConfigError> {
        let (document, sections) = document::Document::parse(path, text)?;
        resolve::resolve(&document, sections, surroundings)
    }
}

/// What the process finds around it; tests have their own.
pub(crate) struct Surroundings<'a> {
    /// An environment variable.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Surroundings<'static> {
    /// The real ones.
    pub(crate) fn of_process() -> Self {
        Self { variable: &|name| std::env::var_os(name) }
    }
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// The actions that are enabled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Actions {
    pub(crate) reboot: Option<RebootAction>,
    pub(crate) factory_reset: Option<FactoryResetAction>,
    pub(crate) firmware: Option<FirmwareAction>,
    pub(crate) diagnostics: Option<DiagnosticsAction>,
    pub(crate) scripts: Vec<ScriptSpec>,
}

/// Firmware download and update.
#[derive(Clone, Debug)]
pub(crate) struct FirmwareAction {
    /// Where images are kept until they are installed.
    pub(crate) staging_dir: PathBuf,
    pub(crate) installer: FirmwareInstaller,
    /// Restarts as `reboot` does when the installation has succeeded.
    pub(crate) restart_after_install: bool,
    /// Asked after the installation, and after the restart where there is one.
    pub(crate) health_check: Option<CommandLine>,
    /// How soon the device has to be managed after that.
    pub(crate) managed_within: Option<Duration>,
    pub(crate) verify: Verify,
    /// Whose signatures are taken.
    pub(crate) public_keys: Vec<PublicKey>,
    pub(crate) max_image_bytes: u64,
    /// Whether `file://` addresses are fetched.
    pub(crate) allow_file_uri: bool,
    pub(crate) http: HttpSettings,
    pub(crate) bytes_per_second: Option<NonZeroU64>,
    /// How long the server may be silent.
    pub(crate) stall_limit: Duration,
    /// How many attempts in a row may bring nothing.
    pub(crate) fruitless_attempts: u32,
    pub(crate) download_budget: Duration,
    /// How long the install command may take.
    pub(crate) install_budget: Duration,
    /// For both steps.
    pub(crate) late: Late,
}

/// What installs an image.
#[derive(Clone, Debug)]
pub(crate) enum FirmwareInstaller {
    Command {
        install: CommandLine,
        steps: InstallSteps,
    },
    Rauc {
        program: PathBuf,
    },
    Swupdate {
        program: PathBuf,
        client: bool,
        key: Option<PathBuf>,
        select: BTreeMap<String, String>,
        args: Vec<String>,
        steps: InstallSteps,
    },
    MenderModule {
        module: PathBuf,
        payload_name: String,
        files: BTreeMap<String, String>,
        device_type: String,
        meta_data: Value,
    },
    File {
        target: PathBuf,
        activate: Option<CommandLine>,
    },
}

/// What commands do beside the installation itself.
#[derive(Clone, Debug)]
pub(crate) struct InstallSteps {
    pub(crate) running: Option<CommandLine>,
    pub(crate) commit: Option<CommandLine>,
    pub(crate) rollback: Option<CommandLine>,
}

/// Whether an image needs a verifier (`docs/protocol.md` §6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verify {
    /// An image without one is refused.
    #[default]
    Required,
    /// An image without one is taken as it is.
    IfGiven,
    /// An image without a signature is refused.
    Signature,
}

/// Reports of the agent's own starts, the custom actions that clear error codes and log, and what is enabled besides.
#[derive(Clone, Debug)]
pub(crate) struct DiagnosticsAction {
    /// The logs that may be asked for; with none the platform is not offered it.
    pub(crate) upload: Option<UploadAction>,
    pub(crate) facts: Option<FactsAction>,
    /// For all of its actions.
    pub(crate) late: Late,
}

/// Logs on request.
#[derive(Clone, Debug)]
pub(crate) struct UploadAction {
    pub(crate) options: UploadOptions,
    pub(crate) http: HttpSettings,
}

/// How servers of images or logs are reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct HttpSettings {
    /// The authorities that may vouch for a server, PEM; the system's when absent.
    pub(crate) ca_pem: Option<Vec<u8>>,
    /// The device's chain and its key, PEM, for a server that asks who it is.
    pub(crate) client_pem: Option<(Vec<u8>, Secret)>,
    pub(crate) proxy: Option<Proxy>,
}

/// How the machine is.
#[derive(Clone, Debug)]
pub(crate) struct FactsAction {
    pub(crate) options: FactsOptions,
    /// Whether they are kept in `metadata`, too; otherwise they are told only when asked for.
    pub(crate) metadata: bool,
    /// How often they are published as an event, if they are.
    pub(crate) event_interval: Option<Duration>,
}

/// A program and its arguments. There is no shell.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// A path, or a name to be found in `PATH`.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
}

impl fmt::Debug for CommandLine {
    // Arguments may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandLine").field("program", &self.program).field("args", &self.args.len()).finish()
    }
}

impl fmt::Display for CommandLine {
    /// The program and how many arguments it gets: those may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.program.display())?;
        match self.args.len() {
            0 => Ok(()),
            1 => f.write_str(" with 1 argument"),
            count => write!(f, " with {count} arguments"),
        }
    }
}

/// Why a configuration cannot be used: one line per problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    fn one(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }

    /// In the order of the file; those of other files come after it, as they were read.
    fn all(mut problems: Vec<Problem>, main: &Path) -> Self {
        problems.sort_by_key(
            |problem| {
                if problem.file == main { (false, problem.position) } else { (true, None) }
            },
        );
        Self { problems }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// One thing to change, as `file:line:column: key: what is wrong; what would be right`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    file: PathBuf,
    /// Line and column, from 1; none when the whole file is meant.
    position: Option<(usize, usize)>,
    /// The key's path; empty when the whole file or its syntax is meant.
    key: String,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}
