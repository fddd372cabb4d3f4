use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use iotdm_platform::broker::{Authentication, Broker, BrokerOptions};
use iotdm_platform::{DeviceName, Platform, PlatformOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

/// The client id of every device here.
pub(crate) const CLIENT_ID: &str = "d:abc123:lamp:lamp-17";

/// The device as the platform names it.
pub(crate) fn lamp() -> DeviceName {
    DeviceName::new("lamp", "lamp-17").expect("both are names")
}

/// A broker and a platform on it.
pub(crate) struct World {
    pub(crate) broker: Broker,
    pub(crate) platform: Platform,
}

impl World {
    pub(crate) async fn start() -> Self {
        let broker = Broker::start(BrokerOptions::default()).await.expect("a free port");
        let options = PlatformOptions::new(broker.local_addr());
        Self { platform: Platform::connect(options).await.expect("the broker is there"), broker }
    }

    /// With a broker that admits nobody without the token.
    pub(crate) async fn start_with_token(token: &str) -> Self {
        let credentials = ("use-token-auth".to_owned(), token.to_owned());
        let authentication = Authentication::Users([credentials.clone()].into());
        let options = BrokerOptions { authentication, ..BrokerOptions::default() };
        let broker = Broker::start(options).await.expect("a free port");
        let mut options = PlatformOptions::new(broker.local_addr());
        options.credentials = Some(credentials);
        Self { platform: Platform::connect(options).await.expect("the broker is there"), broker }
    }
}

/// A folder with a configuration and everything that it names.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    /// A lamp's configuration, and `rest` from line 11 on.
    pub(crate) fn new(broker: SocketAddr, rest: &str) -> Self {
        let place = Self { folder: TempDir::new().expect("a folder for temporary files") };
        place.write(
            "agent.toml",
            &format!(
                "[device]\norg = \"abc123\"\ntype = \"lamp\"\nid = \"lamp-17\"\n\
                 [broker]\nhost = \"{}\"\nport = {}\ntls = false\n\
                 [journal]\npath = \"journal\"\n{rest}",
                broker.ip(),
                broker.port()
            ),
        );
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that only its owner may read.
    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("the folder is ours");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).expect("the file is ours");
    }

    /// Starts the program with these arguments, and this folder's configuration.
    pub(crate) fn start(&self, args: &[&str]) -> Program {
        self.start_with(args, &[])
    }

    /// [`start`](Self::start), with these variables in its environment.
    pub(crate) fn start_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Program {
        let mut command = command(env!("CARGO_BIN_EXE_iotdm-agent"));
        command.args(args).envs(variables.iter().copied()).arg("--config").arg(self.path("agent.toml"));
        Program::start(command)
    }

    /// [`start`](Self::start), on a machine that has been restarted since, as far as the program can tell: its boot id
    /// is another one. That takes a mount of its own.
    pub(crate) fn start_in_boot(&self, number: u8, args: &[&str]) -> Program {
        let boot_id = format!("boot-{number}");
        self.write(&boot_id, &format!("00000000-0000-4000-8000-0000000000{number:02}\n"));
        let mut command = command("unshare");
        let mount = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        command.args(["--map-root-user", "--mount", "sh", "-c", mount]).arg(self.path(&boot_id));
        command
            .arg(env!("CARGO_BIN_EXE_iotdm-agent"))
            .args(args)
            .arg("--config")
            .arg(self.path("agent.toml"));
        Program::start(command)
    }
}

#[expect(clippy::disallowed_methods, reason = "the program is started as an operator starts it")]
fn command(program: &str) -> Command {
    Command::new(program)
}

/// The program while it runs.
pub(crate) struct Program {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    seen: String,
}

impl Program {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program can be started");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, lines) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut stderr = stderr.lines();
            while let Ok(Some(line)) = stderr.next_line().await {
                // A test that has ended reads no more.
                let _ = sender.send(line);
            }
        });
        Self { child, lines, seen: String::new() }
    }

    /// The next line of the log that holds this text.
    pub(crate) async fn line(&mut self, text: &str) -> String {
        while let Ok(Some(line)) = timeout(PATIENCE, self.lines.recv()).await {
            self.seen.push_str(&line);
            self.seen.push('\n');
            if line.contains(text) {
                return line;
            }
        }
        panic!("{text:?} was not logged:\n{}", self.seen)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it was not waited for")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("process ids are positive");
        kill_process(pid, signal).expect("it is our child");
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> Ended {
        let status = within(self.child.wait()).await.expect("a child can be waited for");
        while let Some(line) = within(self.lines.recv()).await {
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
        let mut answer = String::new();
        let mut stdout = self.child.stdout.take().expect("it is piped");
        within(stdout.read_to_string(&mut answer)).await.expect("it writes text");
        Ended { code: status.code(), log: self.seen, answer }
    }

    /// Stops it as a service manager does.
    pub(crate) async fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.ended().await
    }
}

/// What the program left.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard error.
    pub(crate) log: String,
    /// Standard output.
    pub(crate) answer: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn check(&self, code: i32, log: &str) {
        assert!(self.code == Some(code) && self.log.contains(log), "{code}, {log:?} expected: {self:?}");
    }
}

/// Waits for something that is bound to happen.
#[track_caller]
pub(crate) fn within<T>(event: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move { timeout(PATIENCE, event).await.unwrap_or_else(|_| panic!("{place}: it did not happen")) }
}

/// Waits until another process has done something, which can only be asked again and again.
pub(crate) async fn until(mut happened: impl FnMut() -> bool) {
    let mut pause = interval(Duration::from_millis(10));
    within(async {
        while !happened() {
            pause.tick().await;
        }
    })
    .await;
}

/// An address where nobody listens.
pub(crate) async fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    listener.local_addr().expect("it is bound")
}

/// Longer than anything here takes on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);
