//! Each program as its user starts it, against a broker and a platform in this process.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use iotdm_core::ReqId;
use iotdm_platform::broker::{Broker, BrokerOptions};
use iotdm_platform::{DeviceName, Platform, PlatformOptions, Request};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a program may take for anything: far above what it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Bench {
    broker: Broker,
    platform: Platform,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let broker = Broker::start(BrokerOptions::default()).await.expect("a port of 127.0.0.1 is free");
        let options = PlatformOptions::new(broker.local_addr());
        let platform = Platform::connect(options).await.expect("the broker admits everybody");
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        Self { broker, platform, folder }
    }

    /// Starts a program with this bench's broker, and waits until it is managed.
    async fn start(&self, program: &str, arguments: &[&str], device: &DeviceName) -> Child {
        let port = self.broker.local_addr().port().to_string();
        let mut command = command(program, self.folder.path());
        let child = command.args(["--port", &port]).args(arguments).spawn().expect("cargo has built it");
        within(self.platform.managed(device)).await;
        child
    }

    async fn answer(&self, device: &DeviceName, request: &Request) -> (u16, Value) {
        let request = self.platform.initiate(device, request).expect("the device is managed");
        let answer = within(request.answered()).await.expect("a request without a time limit stays open");
        let payload: Value = serde_json::from_slice(&answer.payload).expect("an answer is JSON");
        (answer.rc.as_u16(), payload["d"].clone())
    }

    fn file(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join(name)).ok()
    }
}

async fn within<T>(happens: impl Future<Output = T>) -> T {
    timeout(PATIENCE, happens).await.expect("a program needs less than a minute for anything")
}

#[expect(clippy::disallowed_methods, reason = "the programs under test are started; no handler runs here")]
fn command(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("DM_EXEC_LOG", "executions");
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command
}

async fn ends_well(mut child: Child) {
    assert!(within(child.wait()).await.expect("it is our child").success());
}

async fn ends_well_when_told(child: Child) {
    let pid = i32::try_from(child.id().expect("it runs")).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process id is above zero"), Signal::TERM).expect("it is our child");
    ends_well(child).await;
}

fn device(type_id: &str, device_id: &str) -> DeviceName {
    DeviceName::new(type_id, device_id).expect("the name keeps the grammar")
}

fn echo(action: &str) -> Request {
    Request::custom("bench", action).field("seq", "1").field("pad", "x")
}

#[tokio::test]
async fn hello_is_managed_accepts_a_reboot_and_ends_after_its_time() {
    let (bench, hello) = (Bench::new().await, device("example", "hello"));
    let arguments = ["--journal", "journal", "--for-seconds", "1"];
    let child = bench.start(env!("CARGO_BIN_EXE_hello"), &arguments, &hello).await;
    assert_eq!(bench.answer(&hello, &Request::reboot()).await.0, 202);
    ends_well(child).await;
}

#[tokio::test]
async fn street_light_dims_and_ends_when_told() {
    let (bench, light) = (Bench::new().await, device("example", "street-light"));
    let child = bench.start(env!("CARGO_BIN_EXE_street_light"), &["--journal", "journal"], &light).await;
    let dim = Request::custom("lamp", "dim").field("level", "70");
    assert_eq!(bench.answer(&light, &dim).await, (200, json!({"level": "70"})));
    ends_well_when_told(child).await;
}

#[tokio::test]
async fn the_driver_agent_writes_down_each_start_and_each_end() {
    let (bench, agent) = (Bench::new().await, device("bench", "dev1"));
    let child = bench.start(env!("CARGO_BIN_EXE_driver_agent"), &["--journal", "journal"], &agent).await;
    let mut lines = String::new();
    for action in ["echo", "once"] {
        let req_id = ReqId::from_text(action);
        let (rc, d) = bench.answer(&agent, &echo(action).req_id(req_id)).await;
        assert_eq!((rc, d), (200, json!({"seq": "1", "pad": "x"})));
        lines += &format!("start {action}\nend {action}\n");
    }
    assert_eq!(bench.file("executions"), Some(lines));
    ends_well_when_told(child).await;
}

#[tokio::test]
async fn the_floors_are_managed_and_give_back_what_they_get() {
    for (program, arguments) in [
        (env!("CARGO_BIN_EXE_floor_echo"), &[][..]),
        (env!("CARGO_BIN_EXE_floor_journal"), &["--journal", "requests"]),
    ] {
        let (bench, floor) = (Bench::new().await, device("bench", "floor"));
        let child = bench.start(program, arguments, &floor).await;
        let fields = json!({"fields": [{"field": "seq", "value": "1"}, {"field": "pad", "value": "x"}]});
        assert_eq!(bench.answer(&floor, &echo("echo")).await, (200, fields));
        let recorded = bench.file("requests").is_some_and(|lines| lines.contains(r#""value":"x""#));
        assert_eq!(recorded, !arguments.is_empty());
        ends_well_when_told(child).await;
    }
}

#[tokio::test]
async fn what_only_prints_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    for (program, text) in [
        (env!("CARGO_BIN_EXE_attributes"), "platform is notified: temperature = 24.0"),
        (env!("CARGO_BIN_EXE_custom_action"), "400 d.colour: unknown variant `mauve`"),
        (env!("CARGO_BIN_EXE_firmware_download"), "the platform was told: downloaded"),
        (env!("CARGO_BIN_EXE_firmware_update"), "ended with exit status 1; rolled back"),
        (env!("CARGO_BIN_EXE_events"), "4 wait, 2 were dropped at the bound."),
        (env!("CARGO_BIN_EXE_gateway"), "platform takes the reboot of pump/p-2 for complete"),
        (env!("CARGO_BIN_EXE_product_log"), "The platform's log of this device: 0 entries"),
        (env!("CARGO_BIN_EXE_schemas"), "\"mgmt/custom/bench/echo\""),
        (env!("CARGO_BIN_EXE_scripts"), "dim: 400 \"percent: is out of range"),
    ] {
        let output = command(program, folder.path()).output().await.unwrap();
        assert!(
            output.status.success() && String::from_utf8(output.stdout).unwrap().contains(text),
            "{program}"
        );
    }
}
