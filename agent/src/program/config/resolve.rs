//! From sections to settings: defaults, what joins two keys, and the files they name.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use iotdm_agent::{Broker, Config, Limits, Secret};
use iotdm_core::{ClientKind, DeviceInfo, Identity};

use super::document::Document;
use super::file::{self, File};
use super::values::FilePath;
use super::{ConfigError, Problem, Settings, Surroundings, references};
use crate::program::logging::LogSettings;

mod actions;
mod broker;
mod diagnostics;
mod events;
mod firmware;
mod http;
mod install;
mod json;
mod kept;
mod scripts;

/// Makes settings of a file's sections.
///
/// # Errors
/// [`ConfigError`] with everything that is wrong, in the order of the file.
pub(super) fn resolve(
    document: &Document<'_>,
    mut file: File,
    surroundings: &Surroundings<'_>,
) -> Result<Settings, ConfigError> {
    let mut resolver = Resolver::new(document, surroundings);
    let kind = resolver.kind(file.gateway.as_ref(), &file.attached);
    let identity = Identity { kind, ..Resolver::identity(&file.device) };
    let attached = resolver.attached(std::mem::take(&mut file.attached), &identity.subject());
    let token = resolver.token(&file.auth);
    resolver.secret_variable = file.auth.token_env.as_ref().map(|name| name.0.clone());
    let broker =
        Broker { user_name: resolver.user_name(&file.auth), ..resolver.broker(&file.broker, &identity) };
    if identity.is_quickstart() {
        resolver.refuse_for_quickstart(&file);
    }
    let journal =
        file.journal.path.as_ref().map_or_else(|| PathBuf::from(DEFAULT_JOURNAL), |path| resolver.path(path));
    let kept = resolver.kept(&file, &journal);
    let metadata = file.device.metadata.and_then(|table| resolver.metadata(table));
    let location = resolver.location(file.device.location);
    let thresholds = resolver.thresholds(file.attributes);
    let limits =
        Limits { events: resolver.events(&file.events), ..resolver.limits(&file.journal, &file.limits) };
    let actions = resolver.actions(file.actions, kept);
    let commands = resolver.commands(file.commands, kind);
    let config = Config {
        identity,
        broker,
        token,
        lifetime: file.management.lifetime.map_or(DEFAULT_LIFETIME, |lifetime| lifetime.get()),
        device_info: device_info(file.device.info),
        metadata,
        limits,
    };
    resolver.warn_of_missing_folder(&journal);
    resolver.warn_of_exposure(&config);
    let log = LogSettings { format: file.log.format, level: file.log.level };
    if !resolver.problems.is_empty() {
        return Err(ConfigError::all(resolver.problems, document.path()));
    }
    Ok(Settings {
        config,
        location,
        thresholds,
        attached,
        actions,
        commands,
        journal,
        log,
        warnings: resolver.warnings,
    })
}

pub(super) struct Resolver<'a> {
    document: &'a Document<'a>,
    folder: PathBuf,
    surroundings: &'a Surroundings<'a>,
    problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    /// The environment variable that holds the token, where one does.
    secret_variable: Option<String>,
}

impl<'a> Resolver<'a> {
    fn new(document: &'a Document<'a>, surroundings: &'a Surroundings<'a>) -> Self {
        let folder = document.folder();
        Self {
            document,
            folder,
            surroundings,
            problems: Vec::new(),
            warnings: Vec::new(),
            secret_variable: None,
        }
    }

    pub(super) fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(self.document.problem(key, message));
    }

    /// A value, or its problem and nothing.
    pub(super) fn keep<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.problem(key, message)).ok()
    }

    /// A path of the file, from the file's folder on.
    fn path(&self, path: &FilePath) -> PathBuf {
        self.folder.join(&path.0)
    }

    fn credentials(&self) -> Option<OsString> {
        // Every path starts with an empty one.
        (self.surroundings.variable)(CREDENTIALS_DIRECTORY).filter(|folder| !folder.is_empty())
    }

    fn identity(device: &file::Device) -> Identity {
        Identity {
            kind: ClientKind::Device,
            org: device.org.0.clone(),
            type_id: device.r#type.0.clone(),
            device_id: device.id.0.clone(),
        }
    }

    fn token(&mut self, auth: &file::Auth) -> Option<Secret> {
        if auth.token.is_some() {
            self.problem(
                "auth.token",
                "the token itself does not belong here, where backups and colleagues read it; put it into a file \
                 with mode 0600 and name that with token_file, or into an environment variable and name that with \
                 token_env. Change the token if this file has been shared",
            );
        }
        match (&auth.token_file, &auth.token_env) {
            (Some(_), Some(_)) => {
                self.problem("auth.token_env", "token_file is given too; keep one of the two");
                None
            }
            (Some(file), None) => {
                let token = references::token_file(&self.path(file), self.credentials().as_deref());
                self.keep("auth.token_file", token)
            }
            (None, Some(name)) => {
                let name = &name.0;
                let token = match (self.surroundings.variable)(name).map(OsString::into_string) {
                    None => {
                        Err(format!("the environment has no variable {name}; set it to the device's token"))
                    }
                    Some(Err(_)) => {
                        Err(format!("variable {name} is not text; it must hold the device's token"))
                    }
                    Some(Ok(text)) => {
                        references::token(&text).map_err(|reason| format!("variable {name} {reason}"))
                    }
                };
                self.keep("auth.token_env", token)
            }
            (None, None) => None,
        }
    }

    /// Only a broker that knows users has one to give.
    fn user_name(&mut self, auth: &file::Auth) -> Option<String> {
        let name = auth.user_name.as_ref()?;
        if auth.token_file.is_none() && auth.token_env.is_none() {
            self.problem(
                "auth.user_name",
                "is of no use without a password; name the file that holds it with token_file, or the variable with \
                 token_env",
            );
        }
        Some(name.0.clone())
    }

    fn authorities(&mut self, key: &str, path: Option<&FilePath>) -> Option<Vec<u8>> {
        let authorities = references::authorities(&self.path(path?));
        self.keep(key, authorities)
    }

    fn limits(&mut self, journal: &file::Journal, limits: &file::Limits) -> Limits {
        let default = Limits::default();
        let chosen = Limits {
            events: default.events,
            running: limits.running.as_ref().map_or(default.running, |number| number.get_usize()),
            pending: limits.pending.as_ref().map_or(default.pending, |number| number.get_usize()),
            kept_executed: journal
                .kept_executed
                .as_ref()
                .map_or(default.kept_executed, |number| number.get_usize()),
            kept_refused: journal
                .kept_refused
                .as_ref()
                .map_or(default.kept_refused, |number| number.get_usize()),
            kept_bytes: journal.kept_bytes.as_ref().map_or(default.kept_bytes, |number| number.get_usize()),
            outbox: limits.outbox.as_ref().map_or(default.outbox, |number| number.get_usize()),
            shutdown_grace: limits.shutdown_grace.as_ref().map_or(default.shutdown_grace, |time| time.get()),
        };
        if chosen.running > chosen.pending {
            let (running, pending) = (chosen.running, chosen.pending);
            let key = if limits.pending.is_some() { "limits.pending" } else { "limits.running" };
            self.problem(
                key,
                format!(
                    "pending counts the running ones too: pending {pending} cannot be below running {running}"
                ),
            );
        }
        chosen
    }

    /// The journal's folder is created, the one around it is not.
    fn warn_of_missing_folder(&mut self, journal: &Path) {
        if let Some(around) = journal.parent().filter(|around| !around.is_dir()) {
            self.warnings.push(format!(
                "journal.path: the folder {} is not there; create it for the agent's user",
                around.display()
            ));
        }
    }
}

pub(super) fn device_info(info: file::DeviceInfo) -> DeviceInfo {
    DeviceInfo {
        serial_number: info.serial_number,
        manufacturer: info.manufacturer,
        model: info.model,
        device_class: info.device_class,
        description: info.description,
        fw_version: info.fw_version,
        hw_version: info.hw_version,
        descriptive_location: info.descriptive_location,
    }
}

/// Looks for a program: a path as it is, a name along `PATH`.
///
/// # Errors
/// Why it could not be started, as the end of a sentence about it.
fn find(program: &Path, search: Option<OsString>) -> Result<(), &'static str> {
    if program.components().count() > 1 {
        return match std::fs::metadata(program) {
            Ok(metadata) if metadata.is_dir() => Err("is a folder"),
            Ok(metadata) if metadata.permissions().mode() & EXECUTABLE == 0 => {
                Err("may be executed by nobody; run chmod +x on it")
            }
            Ok(_) => Ok(()),
            Err(_) => Err("is not there"),
        };
    }
    let is_in = |folder: PathBuf| folder.join(program).is_file();
    match search.is_some_and(|search| std::env::split_paths(&search).any(is_in)) {
        true => Ok(()),
        false => Err("is not in PATH; one beside this file is written with ./ before it"),
    }
}

/// The permission bits of whoever may execute a file.
const EXECUTABLE: u32 = 0o111;

const DEFAULT_JOURNAL: &str = "/var/lib/iotdm-agent/journal";

const DEFAULT_LIFETIME: std::time::Duration = std::time::Duration::from_secs(60 * 60);

/// Where systemd tells a service the folder of its credentials.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
