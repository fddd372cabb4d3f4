use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use iotdm_agent::journal::JournalError;
use iotdm_agent::store::StoreError;
use iotdm_agent::{BuildError, Device, State};
use iotdm_core::{Event, Report, Severity, System, attribute};
use iotdm_handlers::Diagnostics;
use iotdm_handlers::diagnostics::SystemFacts;
use serde_json::Value;
use tokio::runtime;
use tokio::sync::watch;

use super::assemble::{Assembly, AssemblyError, ToldFacts, assemble};
use super::config::Settings;
use super::reload;
use super::signals::{self, Signals};

/// Why a run ended other than as asked. Each message is the last line of the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// Another process has the journal.
    #[error("the journal {} is in use by {}; stop that one, or give this agent a journal of its own", path.display(), owner(*pid))]
    Locked {
        /// The journal.
        path: PathBuf,
        /// The other process, if it left its id.
        pid: Option<u32>,
    },
    /// The journal cannot be opened or written.
    #[error("{reason}")]
    Journal {
        /// What failed, with the journal's path.
        reason: String,
    },
    /// The broker refuses the credentials.
    #[error(
        "{broker} refuses the credentials of this device; check [device] and [auth], and whether the device is \
         registered"
    )]
    Refused {
        /// Host and port.
        broker: String,
    },
    /// The library finds the configuration unusable.
    #[error("the configuration cannot be used: {reason}")]
    Configuration {
        /// What the library said.
        reason: String,
    },
    /// Something that should not happen.
    #[error("{reason}")]
    Internal {
        /// What it was.
        reason: String,
    },
}

/// Runs the agent until it is stopped. SIGHUP has the scripts of `config` read again.
pub(crate) fn run(config: &Path, settings: &Settings) -> Result<(), RunError> {
    let Signals { stop, reload } =
        signals::receive().map_err(|reason| internal("signals cannot be received", &reason))?;
    let Assembly { agent, diagnostics, facts } = assemble(settings)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build()
        .map_err(|reason| internal("the runtime cannot be started", &reason))?;
    let result = runtime.block_on(async {
        if let Some(diagnostics) = diagnostics {
            tokio::spawn(report(diagnostics, agent.device()));
        }
        tokio::spawn(reload::reload(config.into(), agent.device(), reload));
        if let Some(ToldFacts { facts, system, metadata, event_interval }) = facts {
            if let Some(interval) = event_interval {
                tokio::spawn(publish_facts(facts.clone(), system.clone(), interval, agent.device()));
            }
            if metadata {
                tokio::spawn(keep_metadata(facts, system, agent.device()));
            }
        }
        agent.run_until(stop.cancelled_owned()).await
    });
    // A host name that is being looked up is a call into the C library: nothing can end it, and nobody waits for it.
    runtime.shutdown_timeout(LOOK_UP_GRACE);
    result.map_err(|error| RunError::of(error, &settings.journal))
}

/// Hands over what the agent tells of itself, until it has ended.
async fn report(diagnostics: Diagnostics, device: Device) {
    diagnostics.log(Severity::Information, STARTED);
    let send = |report: Report| {
        let device = device.clone();
        async move { device.report(report).await }
    };
    let gone = diagnostics.run(send).await;
    tracing::debug!("nothing more is reported: {gone}");
}

/// Keeps how the machine is in `metadata`, until the agent has ended.
async fn keep_metadata(facts: SystemFacts, system: Arc<dyn System>, device: Device) {
    let metadata = || device.attribute(attribute::METADATA);
    let set = |value: Value| {
        let device = device.clone();
        async move {
            let result = device.set_attribute(attribute::METADATA, &value).await;
            unless_running(result, &device.state())
        }
    };
    let gone = facts.run(system, metadata, set).await;
    tracing::debug!("no more facts are told: {gone}");
}

/// Publishes how the machine is, until the agent has ended.
async fn publish_facts(facts: SystemFacts, system: Arc<dyn System>, interval: Duration, device: Device) {
    let publish = |event: Event| {
        let device = device.clone();
        async move {
            let result = device.events().send(event).await;
            Ok(unless_running(result, &device.state())?)
        }
    };
    let gone = facts.publish(system, interval, publish).await;
    tracing::debug!("no more facts are published: {gone}");
}

/// What the agent declines while it runs is no reason to end: the platform may have left no room in `metadata`, and may
/// make some again. The agent has said so in its log.
fn unless_running<E>(result: Result<(), E>, state: &watch::Receiver<State>) -> Result<(), E> {
    let runs = state.has_changed().is_ok();
    result.or_else(|declined| if runs { Ok(()) } else { Err(declined) })
}

impl RunError {
    fn of(error: iotdm_agent::RunError, journal: &Path) -> Self {
        match error {
            iotdm_agent::RunError::CredentialsRefused(broker) => Self::Refused { broker },
            iotdm_agent::RunError::Journal(JournalError::Store(StoreError::Locked { path, pid })) => {
                Self::Locked { path, pid }
            }
            // Only another configuration helps: a restart finds the same two names.
            iotdm_agent::RunError::Journal(error @ JournalError::Identity { .. }) => {
                Self::Configuration { reason: format!("{}: {error}", journal.display()) }
            }
            // Those name the journal's path themselves.
            iotdm_agent::RunError::Journal(JournalError::Store(error)) => {
                Self::Journal { reason: format!("{error}{}", help(&error)) }
            }
            iotdm_agent::RunError::Journal(error) => {
                Self::Journal { reason: format!("{}: {error}", journal.display()) }
            }
            other => Self::Internal { reason: other.to_string() },
        }
    }
}

impl From<AssemblyError> for RunError {
    fn from(error: AssemblyError) -> Self {
        let reason = error.to_string();
        match error {
            // No configuration mends those.
            AssemblyError::Build(BuildError::System(_) | BuildError::NoJournal) => Self::Internal { reason },
            _ => Self::Configuration { reason },
        }
    }
}

fn internal(what: &str, reason: &dyn std::fmt::Display) -> RunError {
    RunError::Internal { reason: format!("{what}: {reason}") }
}

/// What mends it, where that is known.
fn help(error: &StoreError) -> &'static str {
    match error {
        StoreError::Io { reason, .. } => match reason.kind() {
            ErrorKind::NotFound => "; create the folder around it, and let the agent's user write there",
            ErrorKind::PermissionDenied => "; let the agent's user own it and the folder around it",
            ErrorKind::NotADirectory => "; name a folder with journal.path, not a file",
            _ => "",
        },
        _ => "",
    }
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

/// What the platform's log gets at each start: an agent that starts again and again shows there.
const STARTED: &str = concat!("iotdm-agent ", env!("CARGO_PKG_VERSION"), " has started");

/// How long a name server may keep the program from ending: the handlers have ended by then.
const LOOK_UP_GRACE: Duration = Duration::from_secs(1);

/// Threads for blocking work: a firmware action, a host name that is looked up, and some to spare. Each has a stack.
const MAX_BLOCKING_THREADS: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::exit::Exit;
    use super::*;

    fn of_journal(error: impl Into<JournalError>) -> RunError {
        RunError::of(iotdm_agent::RunError::Journal(error.into()), Path::new("/var/lib/a"))
    }

    #[track_caller]
    fn check(error: &RunError, code: u8, message: &str) {
        assert_eq!((Exit::of(error).code(), error.to_string().as_str()), (code, message));
    }

    #[test]
    fn facts_that_are_declined_are_told_again_later_for_as_long_as_the_agent_runs() {
        let (agent, state) = watch::channel(State::Managed);
        assert_eq!(unless_running(Err("too large"), &state), Ok(()));
        drop(agent);
        assert_eq!(unless_running(Err("too large"), &state), Err("too large"));
        assert_eq!(unless_running::<&str>(Ok(()), &state), Ok(()));
    }

    #[test]
    fn a_locked_journal_names_the_other_process_and_ends_with_75() {
        check(
            &of_journal(StoreError::Locked { path: "/var/lib/a".into(), pid: Some(17) }),
            75,
            "the journal /var/lib/a is in use by process 17; stop that one, or give this agent a journal of its own",
        );
    }

    #[test]
    fn refused_credentials_end_with_77_and_name_the_sections_to_check() {
        let error = iotdm_agent::RunError::CredentialsRefused("b:8883".into());
        check(
            &RunError::of(error, Path::new("/var/lib/a")),
            77,
            "b:8883 refuses the credentials of this device; check [device] and [auth], and whether the device is \
             registered",
        );
    }

    #[test]
    fn a_journal_that_cannot_be_used_ends_with_69_and_is_named_once() {
        let attempt = "open the journal at";
        let reason = ErrorKind::PermissionDenied.into();
        check(
            &of_journal(StoreError::Io { attempt, path: "/var/lib/a".into(), reason }),
            69,
            "cannot open the journal at /var/lib/a: permission denied; let the agent's user own it and the folder \
             around it",
        );
        let error = of_journal(JournalError::NewerFormat { found: 9 });
        assert_eq!(Exit::of(&error).code(), 69);
        assert!(error.to_string().starts_with("/var/lib/a: the journal has format 9"), "{error}");
    }

    #[test]
    fn a_journal_of_another_device_is_a_mistake_of_the_configuration() {
        check(
            &of_journal(JournalError::Identity { found: "d:o:t:1".into(), expected: "d:o:t:2".into() }),
            78,
            "the configuration cannot be used: /var/lib/a: the journal belongs to d:o:t:1, this device is d:o:t:2: \
             give each device a journal of its own",
        );
    }

    #[test]
    fn what_the_library_refuses_to_build_is_a_mistake_of_the_configuration() {
        let error = AssemblyError::Build(BuildError::Range("the lifetime is too short"));
        check(&error.into(), 78, "the configuration cannot be used: the lifetime is too short");
        assert_eq!(Exit::of(&AssemblyError::Build(BuildError::NoJournal).into()).code(), 70);
    }
}
