use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use iotdm_core::{Action, Code, Interrupted, Late, Policy, Route, RunAs};

use super::RunScript;
#[cfg(doc)]
use super::Scripts;
use super::answer::MAX_RESULT_BYTES;
use super::arguments::placeholders;
use super::parameters::{Parameter, ParameterError};

/// A script and its bounds.
#[derive(Clone)]
pub struct ScriptSpec {
    /// The bundle it belongs to; manage claims it in `supports`.
    pub bundle: String,
    /// The action in it.
    pub action: String,
    /// What people read instead of the action's id.
    pub title: Option<String>,
    /// What it does, for people.
    pub description: Option<String>,
    /// The executable, with its whole path.
    pub program: PathBuf,
    /// Its arguments, without the program's own name. `{name}` is the value of the declared parameter of that name, as
    /// an argument or a part of one; `{{name}}` is the text `{name}`.
    pub args: Vec<String>,
    /// What it may be given; `None` leaves that to the script.
    pub parameters: Option<Vec<Parameter>>,
    /// Where it runs; the root folder when absent.
    pub directory: Option<PathBuf>,
    /// Who it runs as; the agent's own user when absent.
    pub user: Option<RunAs>,
    /// How long it may take.
    pub time_limit: Duration,
    /// How much of standard output and of standard error each is kept, in bytes.
    pub output_limit: usize,
    /// Variables it gets beside `PATH`.
    pub env: BTreeMap<String, String>,
    /// What exit statuses from 1 to 255 are answered with, where that is not what [`Scripts`] has: 200, 400, 409, 500 or
    /// 501.
    pub exit: BTreeMap<i32, Code>,
    /// What a crash of the agent in the middle of it means.
    pub interrupted: Interrupted,
    /// What becomes of a request that waited while the device was away.
    pub late: Late,
}

impl ScriptSpec {
    /// A script without arguments that may take 30 s, is not started again after a crash, and runs late.
    pub fn new(bundle: impl Into<String>, action: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            bundle: bundle.into(),
            action: action.into(),
            title: None,
            description: None,
            program: program.into(),
            args: Vec::new(),
            parameters: None,
            directory: None,
            user: None,
            time_limit: RunScript::BUDGET,
            output_limit: DEFAULT_OUTPUT_LIMIT_BYTES,
            env: BTreeMap::new(),
            exit: BTreeMap::new(),
            interrupted: RunScript::INTERRUPTED,
            late: RunScript::LATE,
        }
    }

    /// Whether the specification holds together.
    ///
    /// # Errors
    /// [`SpecError`]: what is wrong, and what would be right.
    pub fn check(&self) -> Result<(), SpecError> {
        let declared = self.parameters.as_deref().unwrap_or_default();
        if declared.len() > MAX_PARAMETERS {
            return Err(SpecError::TooManyParameters);
        }
        for (index, parameter) in declared.iter().enumerate() {
            let name = &parameter.name;
            parameter.check().map_err(|error| SpecError::Parameter { name: name.clone(), error })?;
            if declared[..index].iter().any(|other| other.name == *name) {
                return Err(SpecError::Twice { name: name.clone() });
            }
        }
        for name in self.args.iter().flat_map(|argument| placeholders(argument)) {
            match declared.iter().find(|parameter| parameter.name == name) {
                None => return Err(SpecError::Undeclared { name: name.into() }),
                Some(parameter) if !parameter.is_always_there() => {
                    return Err(SpecError::MayBeMissing { name: name.into() });
                }
                Some(_) => {}
            }
        }
        for (status, code) in &self.exit {
            if !(1..=255).contains(status) {
                return Err(SpecError::ExitStatus(*status));
            }
            if !EXIT_CODES.contains(code) {
                return Err(SpecError::ExitCode { status: *status, code: *code });
            }
        }
        Ok(())
    }

    pub(super) fn route(&self) -> Route {
        Route::Custom { bundle: self.bundle.clone().into(), action: self.action.clone().into() }
    }

    pub(super) fn policy(&self) -> Policy {
        Policy {
            budget: self.time_limit.saturating_add(BUDGET_MARGIN),
            interrupted: self.interrupted,
            late: self.late,
            ..Policy::of::<RunScript>()
        }
    }
}

impl fmt::Debug for ScriptSpec {
    // Arguments and environment may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptSpec")
            .field("route", &self.route())
            .field("program", &self.program)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

/// Why a specification contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// A parameter cannot be declared so.
    #[error("parameter {name} {error}")]
    Parameter {
        /// Which.
        name: String,
        /// Why.
        error: ParameterError,
    },
    /// Two parameters have one name.
    #[error("parameter {name} is declared twice; keep one of the two")]
    Twice {
        /// Which.
        name: String,
    },
    /// There are more parameters than a person can be asked for.
    #[error("there are more than {MAX_PARAMETERS} parameters")]
    TooManyParameters,
    /// An argument has a placeholder of no parameter.
    #[error(
        "{{{name}}} in an argument is no declared parameter; declare it, or write {{{{{name}}}}} for this text"
    )]
    Undeclared {
        /// Which.
        name: String,
    },
    /// An argument has a placeholder of a parameter that a request may leave out.
    #[error("{{{name}}} in an argument may be missing; make the parameter required, or give it a default")]
    MayBeMissing {
        /// Which.
        name: String,
    },
    /// An exit status cannot mean something else.
    #[error("{0} is no exit status that can be given a meaning; write 1 to 255")]
    ExitStatus(i32),
    /// An exit status cannot mean this.
    #[error("exit status {status} cannot become {code}; write 200, 400, 409, 500 or 501")]
    ExitCode {
        /// Which.
        status: i32,
        /// What it was to become.
        code: Code,
    },
}

/// How much longer than the script the action may take: the script's group gets 5 s between TERM and KILL, and a busy
/// machine a little more. Past this the engine would answer instead of the script's own time limit.
pub(super) const BUDGET_MARGIN: Duration = Duration::from_secs(15);

/// How much of each output stream is kept unless configured, in bytes: as much as an answer can carry.
const DEFAULT_OUTPUT_LIMIT_BYTES: usize = MAX_RESULT_BYTES;

/// Most parameters of a script: more than anybody fills in by hand.
const MAX_PARAMETERS: usize = 64;

/// What an exit status may be answered with (`docs/protocol.md` §3): a custom action has no other ends.
const EXIT_CODES: [Code; 5] = [Code::OK, Code::BAD_REQUEST, Code::CONFLICT, Code::FAILED, Code::UNSUPPORTED];
