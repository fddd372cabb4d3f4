//! Exit codes, as `sysexits.h` numbers them, so that a service manager can tell what a restart may mend.
//!
//! | code | name | meaning | restart? |
//! |---|---|---|---|
//! | 0 | [`Exit::Stopped`] | stopped as asked | no |
//! | 64 | [`Exit::Usage`] | the command line is wrong | no |
//! | 69 | [`Exit::Unavailable`] | the journal cannot be opened or written | yes, later |
//! | 70 | [`Exit::Internal`] | the agent failed in a way it should not | yes |
//! | 75 | [`Exit::Locked`] | another process has the journal; its id is named | yes, later |
//! | 77 | [`Exit::Refused`] | the broker refuses the credentials | no |
//! | 78 | [`Exit::Configuration`] | the configuration is wrong; each mistake is named | no |
//!
//! A second Ctrl-C or SIGTERM ends at once, with 130 or 143. The journal is made for that.

use std::fmt::Write;
use std::process::ExitCode;

use super::run::RunError;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Stopped as asked.
    Stopped,
    /// The command line is wrong.
    Usage,
    /// The journal cannot be opened or written.
    Unavailable,
    /// The agent failed in a way it should not.
    Internal,
    /// Another process has the journal.
    Locked,
    /// The broker refuses the credentials.
    Refused,
    /// The configuration is wrong.
    Configuration,
}

impl Exit {
    /// How the program ends after `error`.
    pub(crate) fn of(error: &RunError) -> Self {
        match error {
            RunError::Locked { .. } => Self::Locked,
            RunError::Journal { .. } => Self::Unavailable,
            RunError::Refused { .. } => Self::Refused,
            RunError::Configuration { .. } => Self::Configuration,
            RunError::Internal { .. } => Self::Internal,
        }
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Locked => 75,
            Self::Refused => 77,
            Self::Configuration => 78,
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Stopped => "stopped as asked; for check: the configuration is good",
            Self::Usage => "the command line is wrong",
            Self::Unavailable => "the journal cannot be opened or written; try again later",
            Self::Internal => "the agent failed in a way it should not; please report it",
            Self::Locked => "another process has the journal; its process id is named",
            Self::Refused => "the broker refuses the credentials; a restart does not help",
            Self::Configuration => "the configuration is wrong; every message names file, line and key",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table for the end of `--help`.
pub(crate) fn help() -> String {
    let mut text = String::from("Exit codes:");
    for exit in ALL {
        write!(text, "\n  {:>3}  {}", exit.code(), exit.meaning())
            .expect("writing to a string does not fail");
    }
    text.push_str("\nA second Ctrl-C or SIGTERM ends at once, with 130 or 143; accepted work goes on at the next start.");
    text
}

/// Every way to end, by code.
pub(crate) const ALL: [Exit; 7] = [
    Exit::Stopped,
    Exit::Usage,
    Exit::Unavailable,
    Exit::Internal,
    Exit::Locked,
    Exit::Refused,
    Exit::Configuration,
];
