//! logind as `busctl` really speaks to it: a bus of the test's own, with python-dbusmock's logind on it.
//!
//! Needs Debian's packages `dbus`, `python3-dbusmock` and `systemd` (for `busctl` and `systemd-inhibit`, version 240 or
//! later; no systemd has to run).

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use iotdm_agent::system::LinuxSystem;
use iotdm_core::{
    Action, Context, ContextParts, Decision, Declined, Failure, Performed, Reboot, Report, ReqId, Services,
    Subject, Table,
};
use iotdm_handlers::reboot::{Logind, Reboots, Rules};
use serde_json::Value;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long anything may take to come up: far above what it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ended when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A bus with a logind on it.
struct Bus {
    address: String,
    folder: TempDir,
    _logind: Process,
    _daemon: Process,
}

#[expect(
    clippy::disallowed_methods,
    reason = "the surroundings of the test are started; no handler runs here"
)]
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

impl Bus {
    /// A logind that says this when it is asked whether it can reboot.
    async fn with(can_reboot: &str) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let listen = format!("--address=unix:path={}", folder.path().join("bus").display());
        let mut daemon = Process(
            command("dbus-daemon")
                .args(["--session", "--nofork", "--print-address=1", &listen])
                .spawn()
                .expect("dbus is installed"),
        );
        let mut address = String::new();
        let stdout = daemon.0.stdout.take().expect("it is a pipe");
        BufReader::new(stdout).read_line(&mut address).expect("the daemon tells its address");
        let address = address.trim().to_owned();
        // Debian's own Python: another one does not have Debian's packages.
        let logind = Process(
            command("/usr/bin/python3")
                .args(["-m", "dbusmock", "--system", "--template", "logind", "--logfile"])
                .arg(folder.path().join("log"))
                .args(["--parameters", &format!("{{\"CanReboot\": {can_reboot:?}}}")])
                .env("DBUS_SYSTEM_BUS_ADDRESS", &address)
                .spawn()
                .expect("python3 is installed"),
        );
        let bus = Self { address, folder, _logind: logind, _daemon: daemon };
        bus.until("logind is on the bus", |bus| {
            let listed = command("busctl").arg(format!("--address={}", bus.address)).arg("list").output();
            listed.is_ok_and(|listed| {
                String::from_utf8_lossy(&listed.stdout).contains("org.freedesktop.login1")
            })
        })
        .await;
        bus
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Somebody who holds an inhibitor until this is dropped.
    async fn inhibited(&self) -> Process {
        let ready: PathBuf = self.folder.path().join("inhibited");
        let inhibitor = command("systemd-inhibit")
            .args(["--what=shutdown", "--who=apt", "--why=an upgrade is running", "--mode=block"])
            .args(["sh", "-c", "touch \"$0\"; exec sleep 60"])
            .arg(&ready)
            .env("DBUS_SYSTEM_BUS_ADDRESS", &self.address)
            .spawn()
            .expect("systemd is installed");
        let inhibitor = Process(inhibitor);
        self.until("the inhibitor is held", |_| ready.exists()).await;
        inhibitor
    }

    /// The restarts that logind was asked for.
    fn reboots(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(" Reboot ")).map(str::to_owned).collect()
    }

    /// A device whose reboots are this logind's.
    fn device(&self) -> Device {
        let logind = Logind::at(&self.address);
        let system = LinuxSystem::new().expect("the kernel tells the boot id");
        let system = system.reboot_command(logind.restart_command());
        let mut table = Table::new();
        table
            .on::<Reboot>(Reboots::new().under(Rules::new().logind(logind)))
            .expect("nobody else has the route");
        Device { table, system: Arc::new(system) }
    }
}

struct Device {
    table: Table,
    system: Arc<LinuxSystem>,
}

impl Device {
    fn context(&self) -> Context {
        Context::new(ContextParts {
            req_id: Some(ReqId::from_text("r")),
            subject: Subject::Connected,
            attempt: 1,
            deadline: Instant::now() + Duration::from_secs(60),
            rebooted: false,
            cancellation: CancellationToken::new(),
            system: self.system.clone(),
            services: Arc::new(Nothing),
        })
    }

    /// The code and the message.
    async fn ask(&self) -> (u16, String) {
        let handler = self.table.handler(&Reboot::ROUTE).expect("it is registered");
        match handler.handle(&self.context(), None::<&RawValue>).await {
            Decision::Replied(parts) => (parts.rc.as_u16(), String::new()),
            Decision::Refused(refusal) | Decision::Undecodable(refusal) => {
                (refusal.rc().as_u16(), refusal.message().to_owned())
            }
        }
    }

    async fn perform(&self) -> Result<Performed, Failure> {
        self.table.handler(&Reboot::ROUTE).expect("it is registered").after_ack(&self.context(), None).await
    }
}

/// An agent that a reboot without a limit does not need.
struct Nothing;

#[async_trait]
impl Services for Nothing {
    fn attribute(&self, _: &str) -> Option<Value> {
        None
    }

    async fn set_attributes(&self, _: Vec<(String, Value)>) -> Result<(), Declined> {
        Err(Declined::Stopping)
    }

    async fn report(&self, _: Report) -> Result<(), Declined> {
        Err(Declined::Stopping)
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}

#[tokio::test]
#[ignore = "needs dbus"]
async fn logind_is_asked_whether_it_can_and_then_to_restart_the_machine() {
    let bus = Bus::with("yes").await;
    let device = bus.device();
    assert_eq!(device.ask().await.0, 202);
    assert!(bus.reboots().is_empty(), "the decision restarts nothing");
    assert_eq!(device.perform().await, Ok(Performed::Restarting));
    let reboots = bus.reboots();
    assert!(reboots.len() == 1 && reboots[0].ends_with("Reboot False"), "{reboots:?}");
}

#[tokio::test]
#[ignore = "needs dbus"]
async fn whoever_really_blocks_a_shutdown_is_named_until_it_lets_go() {
    let bus = Bus::with("yes").await;
    let device = bus.device();
    let inhibitor = bus.inhibited().await;
    let told = "a shutdown is blocked by apt (an upgrade is running)";
    assert_eq!(device.ask().await, (409, told.into()));
    assert_eq!(device.perform().await.unwrap_err().to_string(), told);
    assert!(bus.reboots().is_empty());
    drop(inhibitor);
    let began = Instant::now();
    while device.ask().await.0 != 202 {
        assert!(began.elapsed() < PATIENCE, "the inhibitor is gone");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(device.perform().await, Ok(Performed::Restarting));
}

#[tokio::test]
#[ignore = "needs dbus"]
async fn what_logind_says_against_a_restart_is_the_answer() {
    for (can, rc, told) in [
        ("no", 500, "logind does not allow the agent to restart this machine"),
        ("challenge", 500, "logind does not allow the agent to restart this machine"),
        ("na", 501, "logind cannot restart this machine"),
    ] {
        let bus = Bus::with(can).await;
        assert_eq!(bus.device().ask().await, (rc, told.into()), "{can}");
        assert!(bus.reboots().is_empty());
    }
}

#[tokio::test]
#[ignore = "needs dbus"]
async fn a_bus_without_logind_restarts_nothing() {
    let bus = Bus::with("yes").await;
    let device = bus.device();
    let Bus { _logind, _daemon, folder: _folder, .. } = bus;
    drop(_logind);
    assert_eq!(device.ask().await, (500, "logind cannot be asked".into()));
    drop(_daemon);
    assert_eq!(device.ask().await, (500, "logind cannot be asked".into()));
    assert!(device.perform().await.is_err());
}
