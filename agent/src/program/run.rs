use std::path::PathBuf;

use super::config::Settings;
use super::signals;

/// Why a run ended other than as asked. Each message is the last line of the log.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(not(test), expect(dead_code, reason = "the library's errors are mapped when it is wired"))]
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
    #[error("the journal {} cannot be used: {reason}", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The broker refuses the credentials.
    #[error(
        "{broker} refuses this device: {reason}; check [device] and [auth], and whether the device is registered"
    )]
    Refused {
        /// Host and port.
        broker: String,
        /// What the broker said.
        reason: String,
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

/// Runs the agent until it is stopped.
pub(crate) fn run(_settings: Settings) -> Result<(), RunError> {
    let _stop = signals::stop_on_signal()
        .map_err(|reason| RunError::Internal { reason: format!("signals cannot be received: {reason}") })?;
    Err(RunError::Internal {
        reason: "this build can check a configuration, but not run it: no agent is wired".into(),
    })
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::exit::Exit;

    #[test]
    fn a_locked_journal_names_the_other_process_and_ends_with_75() {
        let error = RunError::Locked { path: "/var/lib/a".into(), pid: Some(17) };
        assert_eq!(
            error.to_string(),
            "the journal /var/lib/a is in use by process 17; stop that one, or give this agent a journal of its own"
        );
        assert_eq!(Exit::of(&error).code(), 75);
    }

    #[test]
    fn refused_credentials_end_with_77_and_name_the_sections_to_check() {
        let error = RunError::Refused { broker: "b:8883".into(), reason: "not authorized".into() };
        assert!(error.to_string().contains("check [device] and [auth]"));
        assert_eq!(Exit::of(&error).code(), 77);
    }

    #[test]
    fn every_other_end_has_its_code_and_gives_its_reason() {
        let reason = || String::from("the reason");
        for (error, code) in [
            (RunError::Journal { path: "/var/lib/a".into(), reason: reason() }, 69),
            (RunError::Internal { reason: reason() }, 70),
            (RunError::Configuration { reason: reason() }, 78),
        ] {
            assert!(error.to_string().contains("the reason"));
            assert_eq!(Exit::of(&error).code(), code);
        }
    }
}
