//! A child process within its bounds: time, output, and what it leaves behind.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use iotdm_core::{ChildError, ChildExit, ChildOutput, ChildProcess, LineListener, RunAs};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// Runs a child process to its end; see [`System::run`](iotdm_core::System::run).
pub(super) async fn run(spec: ChildProcess) -> Result<ChildOutput, ChildError> {
    let program = spec.program.display().to_string();
    let not_started =
        |error: io::Error| ChildError::NotStarted { program: program.clone(), reason: error.to_string() };
    let mut running = Running::start(command(&spec).spawn().map_err(not_started)?);
    let mut stdout = Kept::new(spec.output_limit, None);
    let mut stderr = Kept::new(spec.output_limit, spec.lines.clone().map(Lines::new));
    let ended = {
        let child = running.child();
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let pipes = std::pin::pin!(async {
            tokio::join!(feed(input, &spec.stdin), stdout.fill(output), stderr.fill(errors));
        });
        running.wait(pipes, spec.time_limit).await
    };
    match ended {
        None => Err(ChildError::TimedOut { program, limit: spec.time_limit }),
        // It was started; that its end cannot be seen is the closest there is to not having run.
        Some(Err(error)) => Err(not_started(error)),
        Some(Ok(status)) => Ok(ChildOutput {
            exit: exit(status),
            truncated: stdout.truncated || stderr.truncated,
            stdout: stdout.bytes,
            stderr: stderr.bytes,
        }),
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where time and output are bounded")]
fn command(spec: &ChildProcess) -> Command {
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_else(|| OsString::from(DEFAULT_PATH)))
        .envs(&spec.env)
        .current_dir(spec.directory.as_deref().unwrap_or("/".as_ref()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(RunAs { uid, gid }) = spec.user {
        // Root's supplementary groups go with its user: the standard library clears them for another one.
        command.gid(gid).uid(uid);
    }
    command
}

/// A child and the group it leads. Whoever drops this ends the whole group.
struct Running {
    // Taken when the child has been waited for, or is handed on to be ended.
    child: Option<Child>,
    group: Group,
}

impl Running {
    fn start(child: Child) -> Self {
        let group = Group { leader: child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)) };
        Self { child: Some(child), group }
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("the child is taken only by `wait` at its end and by `drop`")
    }

    /// Waits for the child and for its pipes; `None` when it had to be ended at its time limit.
    async fn wait(
        &mut self,
        mut pipes: Pin<&mut impl Future<Output = ()>>,
        time_limit: Duration,
    ) -> Option<io::Result<ExitStatus>> {
        let mut pipes_open = true;
        let child = self.child();
        let ended = timeout(time_limit, async {
            loop {
                tokio::select! {
                    status = child.wait() => break status,
                    () = &mut pipes, if pipes_open => pipes_open = false,
                }
            }
        });
        if let Ok(status) = ended.await {
            if pipes_open && timeout(PIPE_GRACE, pipes).await.is_err() {
                // Somebody the child left behind still holds them.
                self.group.signal(Signal::KILL);
            }
            self.child = None;
            return Some(status);
        }
        self.group.signal(Signal::TERM);
        // Reading goes on, so that a child that says goodbye at length is not stuck on a full pipe.
        let child = self.child();
        let gone = async {
            let _ = child.wait().await;
            if pipes_open {
                pipes.await;
            }
        };
        let _ = timeout(KILL_GRACE, gone).await;
        self.group.signal(Signal::KILL);
        // A child that hangs inside the kernel does not even answer KILL: `drop` hands it on.
        if timeout(REAP_GRACE, self.child().wait()).await.is_ok() {
            self.child = None;
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        self.group.signal(Signal::TERM);
        let killed = KilledOnDrop(self.group);
        // When the runtime is gone or ends within the grace, the task is dropped, and KILL comes at once.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let _ = timeout(KILL_GRACE, child.wait()).await;
                drop(killed);
                let _ = child.wait().await;
            });
        }
    }
}

struct KilledOnDrop(Group);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        self.0.signal(Signal::KILL);
    }
}

/// A process group, by its leader.
#[derive(Clone, Copy)]
struct Group {
    leader: Option<Pid>,
}

impl Group {
    /// Sends a signal to all that are left in the group. Its number stays taken while there is one: the kernel gives
    /// it to nobody else.
    fn signal(self, signal: Signal) {
        if let Some(leader) = self.leader {
            // An error means that nobody is left.
            let _ = kill_process_group(leader, signal);
        }
    }
}

/// The start of an output stream.
struct Kept {
    bytes: Vec<u8>,
    limit: usize,
    truncated: bool,
    lines: Option<Lines>,
}

impl Kept {
    fn new(limit: usize, lines: Option<Lines>) -> Self {
        Self { bytes: Vec::new(), limit, truncated: false, lines }
    }

    /// Reads to the end and keeps up to the limit: a child must not stand still because nobody reads on.
    async fn fill(&mut self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        let mut chunk = vec![0; READ_BYTES];
        // An error ends a stream like its end does: what was read so far is what there is.
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            let kept = count.min(self.limit - self.bytes.len());
            self.bytes.extend_from_slice(&chunk[..kept]);
            self.truncated |= kept < count;
            if let Some(lines) = &mut self.lines {
                lines.take(&chunk[..count]);
            }
        }
    }
}

/// Cuts a stream into lines, the whole of it: what is kept of it has another bound.
struct Lines {
    listener: LineListener,
    started: Vec<u8>,
}

impl Lines {
    fn new(listener: LineListener) -> Self {
        Self { listener, started: Vec::new() }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.append(&bytes[..end]);
            self.listener.hear(&String::from_utf8_lossy(&self.started));
            self.started.clear();
            bytes = &bytes[end + 1..];
        }
        self.append(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = LineListener::MAX_LINE_BYTES - self.started.len();
        self.started.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

async fn feed(stream: Option<impl AsyncWrite + Unpin>, input: &[u8]) {
    let Some(mut stream) = stream else { return };
    // A child may end, or close its input, without having read it all.
    let _ = stream.write_all(input).await;
}

fn exit(status: ExitStatus) -> ChildExit {
    match (status.code(), status.signal()) {
        (Some(code), _) => ChildExit::Status(code),
        (None, signal) => ChildExit::Signal(signal.unwrap_or_default()),
    }
}

/// How long after TERM a process group gets KILL: time to remove a lock and a temporary file.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// How long after KILL a child is waited for: the kernel needs microseconds, unless the child hangs inside it.
const REAP_GRACE: Duration = Duration::from_secs(2);

/// How long after a child's end its pipes may stay open: what it wrote itself is there already, so that only
/// processes it left behind are waited for.
const PIPE_GRACE: Duration = Duration::from_secs(1);

/// How much is read at once, in bytes: an eighth of what a pipe holds.
const READ_BYTES: usize = 8 * 1024;

/// Where programs are looked for when the agent itself was started without a `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
