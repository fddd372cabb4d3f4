use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::reply::Performed;

/// The seam to the machine: clocks, boot identity, restarts, child processes. Tests put their own behind it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a machine",
    note = "`iotdm_agent::system::LinuxSystem` is one, and for tests `iotdm_agent::testing::TestSystem`"
)]
#[async_trait]
pub trait System: fmt::Debug + Send + Sync + 'static {
    /// Wall-clock time since the Unix epoch. It may jump, and may be wrong until the network has set it.
    fn wall_clock(&self) -> Duration;

    /// Time since this boot, sleep included. It never jumps.
    fn uptime(&self) -> Duration;

    /// Which boot this is: another value after every restart of the machine.
    fn boot_id(&self) -> BootId;

    /// Begins a restart. [`Performed::Restarting`] when the machine is about to go down, [`Performed::Complete`] when
    /// this is a dry run and nothing will happen.
    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError>;

    /// Runs a child process within its bounds. Dropping the future kills its whole process group.
    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError>;
}

/// A boot's identity. On Linux the kernel gives one out at every start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub Arc<str>);

/// What kind of restart is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Restart {
    /// A restart.
    Reboot,
    /// A return to the delivery state, then a restart.
    FactoryReset,
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reboot => "reboot",
            Self::FactoryReset => "factory reset",
        })
    }
}

/// Why no restart could be begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestartError {
    /// This system was given no way to do it.
    #[error("no way to carry out a {0} is configured")]
    NotConfigured(Restart),
    /// The command for it did not work.
    #[error("the {kind} command failed: {reason}")]
    Command {
        /// What was asked for.
        kind: Restart,
        /// What the command said.
        reason: String,
    },
}

/// A child process and its bounds. There is no shell: arguments reach the program as they stand.
#[derive(Clone)]
pub struct ChildProcess {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments, without the program's own name.
    pub args: Vec<String>,
    /// What it reads on standard input.
    pub stdin: Vec<u8>,
    /// Variables it gets beside `PATH`; nothing else of the agent's environment is passed on.
    pub env: BTreeMap<String, String>,
    /// Where it runs; the root folder when absent.
    pub directory: Option<PathBuf>,
    /// After this its process group gets TERM, and KILL a little later.
    pub time_limit: Duration,
    /// How much of standard output and of standard error each is kept, in bytes; the rest is read and dropped.
    pub output_limit: usize,
    /// Who it runs as; the agent's own user when absent. Only root may choose.
    pub user: Option<RunAs>,
    /// Who hears each line of its standard error while it runs.
    pub lines: Option<LineListener>,
}

impl ChildProcess {
    /// A program without arguments, input and variables, in the root folder, with 30 s and 64 KiB for each output.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            stdin: Vec::new(),
            env: BTreeMap::new(),
            directory: None,
            time_limit: DEFAULT_TIME_LIMIT,
            output_limit: DEFAULT_OUTPUT_LIMIT_BYTES,
            user: None,
            lines: None,
        }
    }
}

/// A user and its group, by number. The process has no other group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Hears the lines that a child process writes, each once it is complete, without its end and cut to
/// [`MAX_LINE_BYTES`](Self::MAX_LINE_BYTES). It must not block: nothing else of the child is read meanwhile.
#[derive(Clone)]
pub struct LineListener(Arc<dyn Fn(&str) + Send + Sync>);

impl LineListener {
    /// What is heard of one line, in bytes: what a person reads at once.
    pub const MAX_LINE_BYTES: usize = 1024;

    /// Calls this for each line.
    pub fn new(hear: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    /// Tells it of a line.
    pub fn hear(&self, line: &str) {
        (self.0)(line);
    }
}

impl fmt::Debug for LineListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LineListener")
    }
}

impl fmt::Debug for ChildProcess {
    // Standard input and environment may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildProcess")
            .field("program", &self.program)
            .field("args", &self.args.len())
            .field("stdin_bytes", &self.stdin.len())
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

/// What a child process left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildOutput {
    /// How it ended.
    pub exit: ChildExit,
    /// The kept start of its standard output.
    pub stdout: Vec<u8>,
    /// The kept start of its standard error.
    pub stderr: Vec<u8>,
    /// Whether more was written than was kept.
    pub truncated: bool,
}

impl ChildOutput {
    /// What is told of its standard error, in bytes: the lines around an error, not a transcript.
    pub const MAX_TOLD_BYTES: usize = 2048;

    /// The start of its standard error as text, for the log: at most [`MAX_TOLD_BYTES`](Self::MAX_TOLD_BYTES), without
    /// the white space around it.
    pub fn stderr_start(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr[..self.stderr.len().min(Self::MAX_TOLD_BYTES)]);
        text[..text.floor_char_boundary(Self::MAX_TOLD_BYTES)].trim().to_owned()
    }

    /// How it ended and the [start of its standard error](Self::stderr_start), for the log.
    pub fn reason(&self) -> String {
        match self.stderr_start().as_str() {
            "" => self.exit.to_string(),
            stderr => format!("{}: {stderr}", self.exit),
        }
    }
}

/// How a child process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildExit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl fmt::Display for ChildExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Why a child process gave no output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// It could not be started.
    #[error("{program} could not be started: {reason}")]
    NotStarted {
        /// The executable.
        program: String,
        /// What the system said.
        reason: String,
    },
    /// It was ended at its time limit.
    #[error("{program} was ended after its limit of {limit:?}")]
    TimedOut {
        /// The executable.
        program: String,
        /// The limit.
        limit: Duration,
    },
}

/// How long a child process may take unless said otherwise.
const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(30);

/// How much of each output is kept unless said otherwise, in bytes: a transcript, small beside the agent's memory.
const DEFAULT_OUTPUT_LIMIT_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_failed_is_told_by_its_end_and_the_start_of_its_errors() {
        let output = |stderr: &[u8]| ChildOutput {
            exit: ChildExit::Status(3),
            stdout: b"no matter".to_vec(),
            stderr: stderr.to_vec(),
            truncated: false,
        };
        assert_eq!(output(b"\nno room\n").reason(), "exit status 3: no room");
        assert_eq!(output(b" \n").reason(), "exit status 3");
        for long in ["e".repeat(5000).into_bytes(), "\u{20ac}".repeat(2000).into_bytes(), vec![0xff; 5000]] {
            let told = output(&long).stderr_start();
            assert!(
                (ChildOutput::MAX_TOLD_BYTES - 2..=ChildOutput::MAX_TOLD_BYTES).contains(&told.len()),
                "{told}"
            );
        }
    }
}
