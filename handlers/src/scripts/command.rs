use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use iotdm_core::{
    Acknowledge, Bundle, ChildExit, ChildProcess, Command, Context, Failure, Interrupted, LONGEST_HANDLED,
    Late, OnCommand, Policy, Received, Route, RunAs, Table, TableError,
};

use super::answer;
use super::spec::BUDGET_MARGIN;

/// A program of the operator's choice for a command of applications (`docs/connect/commands.md`).
///
/// The payload comes on standard input as it is. There is no shell, and nothing of a command becomes an argument; its id
/// and format, which a declaration with `+` leaves open, are in the variables `IOTDM_COMMAND_ID` and
/// `IOTDM_COMMAND_FORMAT`. Exit status 0 means that the command was carried out. With any other, with a signal, and at
/// its time limit, when it and all it started get TERM, and KILL a little later, it has failed: the platform is told how
/// it ended, and the device's own log also what it wrote on standard error, at level debug.
///
/// # Errors
/// Registering fails as [`Table::on_command`] does.
#[derive(Clone)]
pub struct CommandScript {
    /// The command's id, or `+` for every id that nothing else is declared for.
    pub id: String,
    /// The format of its payload, or `+` for every one.
    pub format: String,
    /// The executable, with its whole path.
    pub program: PathBuf,
    /// Its arguments, without the program's own name.
    pub args: Vec<String>,
    /// Who it runs as; the agent's own user when absent.
    pub user: Option<RunAs>,
    /// How long it may take; [`LONGEST_HANDLED_SCRIPT`](Self::LONGEST_HANDLED_SCRIPT) at the most where the
    /// acknowledgement waits for it.
    pub time_limit: Duration,
    /// When the broker is told that it need not send the command again.
    pub acknowledge: Acknowledge,
    /// What a crash of the agent in the middle of it means for a durable command.
    pub interrupted: Interrupted,
    /// What becomes of a command that waited while the device was away.
    pub late: Late,
}

impl CommandScript {
    /// The longest time limit of a script that an acknowledgement waits for.
    pub const LONGEST_HANDLED_SCRIPT: Duration = LONGEST_HANDLED.saturating_sub(BUDGET_MARGIN);

    /// A program without arguments that may take 30 s, for commands in JSON that are acknowledged once they are durable,
    /// not started again after a crash, and run late.
    pub fn new(id: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            id: id.into(),
            format: AnyCommand::FORMAT.into(),
            program: program.into(),
            args: Vec::new(),
            user: None,
            time_limit: AnyCommand::BUDGET,
            acknowledge: AnyCommand::ACKNOWLEDGE,
            interrupted: AnyCommand::INTERRUPTED,
            late: AnyCommand::LATE,
        }
    }

    fn policy(&self) -> Policy {
        Policy {
            budget: self.time_limit.saturating_add(BUDGET_MARGIN),
            late: self.late,
            interrupted: match self.acknowledge {
                Acknowledge::Durable => self.interrupted,
                // The broker repeats it in any case.
                Acknowledge::Handled => Interrupted::RunAgain,
            },
            acknowledge: self.acknowledge,
            ..Policy::of_command::<AnyCommand>()
        }
    }
}

impl Bundle for CommandScript {
    fn register(self, table: &mut Table) -> Result<(), TableError> {
        let route = Route::command(&self.id, &self.format);
        table.on_command_route::<AnyCommand>(route, self.policy(), self)
    }
}

/// What all such commands have in common; ids, formats and rules are each [`CommandScript`]'s own.
struct AnyCommand;

impl Command for AnyCommand {
    /// Stands for all: a script is registered under its own.
    const ID: &'static str = "+";
    type Payload = Vec<u8>;
}

impl OnCommand<AnyCommand> for CommandScript {
    async fn on_command(&self, cx: &Context, command: &Received<Vec<u8>>) -> Result<(), Failure> {
        let child = ChildProcess {
            args: self.args.clone(),
            stdin: command.payload.clone(),
            env: BTreeMap::from([
                (ID_VARIABLE.to_owned(), command.id.clone()),
                (FORMAT_VARIABLE.to_owned(), command.format.clone()),
            ]),
            time_limit: self.time_limit,
            user: self.user,
            ..ChildProcess::new(&self.program)
        };
        let output = match cx.system().run(child).await {
            Ok(output) => output,
            Err(error) => {
                tracing::debug!(command = %command.id, "{error}");
                return Err(Failure::new(answer::refusal_of_error(error).message().to_owned()));
            }
        };
        tracing::debug!(command = %command.id, stderr = output.stderr_start(), "the script ended with {}", output.exit);
        match output.exit {
            ChildExit::Status(0) => Ok(()),
            exit => Err(Failure::new(format!("the script failed with {exit}"))),
        }
    }
}

impl fmt::Debug for CommandScript {
    // Arguments may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandScript")
            .field("route", &Route::command(&self.id, &self.format))
            .field("program", &self.program)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

const ID_VARIABLE: &str = "IOTDM_COMMAND_ID";

const FORMAT_VARIABLE: &str = "IOTDM_COMMAND_FORMAT";

#[cfg(test)]
mod tests;
