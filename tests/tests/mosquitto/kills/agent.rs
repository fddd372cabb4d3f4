//! The real program, as a process that is ended again and again.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use iotdm_examples::crash::CrashPoint;
use iotdm_examples::machine::EXIT_RESTARTED;
use iotdm_tests::within;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long a handler pauses between the start and the end of its side effect: so that some are killed in between.
const HANDLER_DELAY_MS: &str = "5";

/// The keep-alive of the agent in seconds: the shortest there is, so that a broker soon gives it up.
pub(super) const KEEP_ALIVE_SECONDS: u64 = 5;

/// The process and what is left of its predecessors: their journal, and the log of what they carried out.
pub(super) struct Agent {
    folder: TempDir,
    port: u16,
    process: Child,
    /// Where the process is to end by itself.
    crash: Option<CrashPoint>,
    pub(super) ends: Ends,
}

/// How processes came to their end.
#[derive(Default)]
pub(super) struct Ends {
    /// By SIGKILL.
    pub(super) killed: usize,
    /// At the point where they were to end.
    pub(super) crashed: usize,
    /// With the machine, by a reboot.
    pub(super) rebooted: usize,
}

/// What the log says of one request.
#[derive(Clone, Copy, Default)]
pub(super) struct Run {
    pub(super) starts: usize,
    pub(super) ends: usize,
    pub(super) boots: usize,
}

impl Agent {
    /// With an empty journal, for the broker on this port.
    pub(super) fn new(port: u16) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let process = command(folder.path(), port).spawn().unwrap_or_else(cannot_start);
        Self { folder, port, process, crash: None, ends: Ends::default() }
    }

    /// Starts the next process, which may have to end at the `occurrence`th time it meets a point.
    ///
    /// # Panics
    /// The last one said what no kill may lead to.
    pub(super) fn start(&mut self, crash: Option<(CrashPoint, usize)>) {
        self.check_log();
        let mut command = command(self.folder.path(), self.port);
        if let Some((point, occurrence)) = crash {
            command.env("DM_CRASH_AT", format!("{point}:{occurrence}"));
        }
        self.process = command.spawn().unwrap_or_else(cannot_start);
        self.crash = crash.map(|(point, _)| point);
    }

    /// Starts one more process on the same journal, beside this one.
    pub(super) fn another(&self) -> Child {
        let mut command = command(self.folder.path(), self.port);
        command.stderr(Stdio::piped()).spawn().unwrap_or_else(cannot_start)
    }

    /// Starts two processes at the same moment, goes on with the one that stays, and gives out how the other ended.
    pub(super) async fn start_two(&mut self) -> ExitStatus {
        self.start(None);
        let mut other = self.another();
        let first_to_end = async {
            tokio::select! {
                status = self.process.wait() => (status, false),
                status = other.wait() => (status, true),
            }
        };
        let (status, stays) = within("end of one of two agents", first_to_end).await;
        if !stays {
            self.process = other;
        }
        status.expect("it is our child")
    }

    /// Waits until the process has ended by itself. Cancel safe.
    pub(super) async fn ended(&mut self) -> ExitStatus {
        self.process.wait().await.expect("it is our child")
    }

    /// Ends it by SIGKILL.
    pub(super) async fn kill(&mut self) {
        self.process.start_kill().expect("it is our child");
        let status = within("end of the process", self.process.wait()).await.expect("it is our child");
        self.count(status);
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is our child");
    }

    pub(super) fn pid(&self) -> Pid {
        let pid = self.process.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        pid.expect("it runs")
    }

    /// # Panics
    /// The process ended in a way that nobody has asked for.
    pub(super) fn count(&mut self, status: ExitStatus) {
        const KILL: Option<i32> = Some(Signal::KILL.as_raw());
        const ABORT: Option<i32> = Some(Signal::ABORT.as_raw());
        match (status.signal(), status.code(), self.crash) {
            (KILL, ..) => self.ends.killed += 1,
            (ABORT, _, Some(_)) => self.ends.crashed += 1,
            (_, Some(EXIT_RESTARTED), _) => self.ends.rebooted += 1,
            _ => panic!("the agent ended by itself, {status}:\n{}", self.log()),
        }
    }

    /// What its processes carried out, by reqId.
    pub(super) fn runs(&self) -> BTreeMap<String, Run> {
        let mut runs = BTreeMap::<String, Run>::new();
        let log = std::fs::read_to_string(executions(self.folder.path())).expect("the program made it");
        for line in log.lines() {
            match line.split_once(' ') {
                Some(("start", req_id)) => runs.entry(req_id.into()).or_default().starts += 1,
                Some(("end", req_id)) => runs.entry(req_id.into()).or_default().ends += 1,
                Some(("boot", req_id)) => runs.entry(req_id.into()).or_default().boots += 1,
                _ => panic!("not a line of the execution log: {line:?}"),
            }
        }
        runs
    }

    /// # Panics
    /// A process said what no kill may lead to. That would excuse what was lost, and hide it.
    pub(super) fn check_log(&self) {
        let log = self.log();
        for unwanted in ["panicked", "set aside", "could not be written"] {
            assert!(!log.contains(unwanted), "the log tells of {unwanted:?}:\n{log}");
        }
    }

    /// The warnings and errors of its processes.
    fn log(&self) -> String {
        std::fs::read_to_string(log(self.folder.path())).expect("the test made it")
    }
}

#[expect(clippy::disallowed_methods, reason = "the program under test is started; no handler runs here")]
fn command(folder: &Path, port: u16) -> Command {
    let mut command = Command::new(program());
    command
        .args(["--restarts", "--keep-alive", &KEEP_ALIVE_SECONDS.to_string()])
        .args(["--port", &port.to_string(), "--journal"])
        .arg(folder.join("journal"))
        .env("DM_EXEC_LOG", executions(folder))
        .env("DM_HANDLER_DELAY_MS", HANDLER_DELAY_MS)
        .stdin(Stdio::null())
        .stderr(append_to(&log(folder)))
        .kill_on_drop(true);
    command
}

fn append_to(path: &Path) -> File {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.expect("the temporary folder can be written")
}

fn executions(folder: &Path) -> PathBuf {
    folder.join("executions")
}

fn log(folder: &Path) -> PathBuf {
    folder.join("log")
}

/// Beside the folder of this test, where cargo puts the programs of the workspace.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let folder =
        test.parent().and_then(Path::parent).expect("cargo runs tests in a folder below the programs");
    folder.join("driver_agent")
}

fn cannot_start(error: std::io::Error) -> Child {
    panic!(
        "{} cannot be started: {error}; build it first: cargo build -p iotdm-examples --bin driver_agent",
        program().display()
    )
}
