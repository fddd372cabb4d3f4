use std::fs;
use std::path::Path;
use std::process::Stdio;

use iotdm_tests::within;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// A program that runs beside the test; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

/// Where a program says that it is ready.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Log {
    Output,
    Errors,
}

impl Process {
    /// Starts a program and waits until it says that it is ready; `None` when it ends before.
    pub(crate) async fn start(mut command: Command, log: Log, ready: &str) -> Option<Self> {
        let (output, errors) = match log {
            Log::Output => (Stdio::piped(), Stdio::null()),
            Log::Errors => (Stdio::null(), Stdio::piped()),
        };
        command.stdin(Stdio::null()).stdout(output).stderr(errors).kill_on_drop(true);
        let program = command.as_std().get_program().to_owned();
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("{program:?} cannot be started: {error}; install it (Debian has it)")
        });
        let is_ready = match log {
            Log::Output => said(child.stdout.take().expect("the pipe was asked for"), ready.into()).await,
            Log::Errors => said(child.stderr.take().expect("the pipe was asked for"), ready.into()).await,
        };
        is_ready.then_some(Self(child))
    }

    /// Ends it as a service manager would, and waits for that.
    pub(crate) async fn terminate(mut self) {
        let id = self.0.id().expect("nobody has waited for it");
        let pid = Pid::from_raw(i32::try_from(id).expect("a process id fits")).expect("it is not zero");
        kill_process(pid, Signal::TERM).expect("the process is ours");
        within("end of the broker", self.0.wait()).await.expect("the process is ours");
    }
}

/// Reads lines until one has this in it; the others are read too, as a full pipe would stop the program.
async fn said(pipe: impl AsyncRead + Send + Unpin + 'static, ready: String) -> bool {
    let mut lines = BufReader::new(pipe).lines();
    let mut heard = Vec::new();
    let found = async {
        while let Ok(Some(line)) = lines.next_line().await {
            let found = line.contains(&ready);
            heard.push(line);
            if found {
                return true;
            }
        }
        false
    };
    let found = within("readiness of the broker", found).await;
    if !found {
        eprintln!("the broker ended:\n{}", heard.join("\n"));
    }
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    found
}

/// A program with the paths where Debian has servers.
#[expect(clippy::disallowed_methods, reason = "a broker is started; no handler runs here")]
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    command
}

/// Writes a file of `docs/brokers`, with each text that stands in it exactly once replaced.
pub(crate) fn put(file: &str, target: &Path, changes: &[(&str, &str)]) {
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/brokers")).join(file);
    let mut text = fs::read_to_string(&source).unwrap_or_else(|error| panic!("{file}: {error}"));
    for (from, to) in changes {
        assert_eq!(text.matches(from).count(), 1, "{file} has `{from}` once");
        text = text.replace(from, to);
    }
    fs::write(target, text).expect("the temporary folder can be written");
}

/// How often another port is tried: between finding one free and listening on it, somebody else may take it.
pub(crate) const START_ATTEMPTS: usize = 5;
