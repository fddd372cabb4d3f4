//! Commands of applications through the whole agent: what is promised of each kind, at each point of a crash.
//! Each test is a line of the table in `docs/connect/commands.md`.

use std::sync::Arc;
use std::time::Duration;

use iotdm_agent::testing::{CrashOutcome, MemoryDisk, Platform, Running, TestSystem, start};
use iotdm_core::{
    Acknowledge, Command, Context, Failure, Interrupted, Json, Late, OnCommand, Received, UpRoute,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{Notify, watch};

#[derive(Deserialize, JsonSchema)]
struct Level {
    #[schemars(range(max = 100))]
    percent: u8,
}

/// May be repeated.
struct Dim;

impl Command for Dim {
    const ID: &str = "dim";
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    type Payload = Json<Level>;
}

/// Must not be repeated by the device, and not come late.
struct Dispense;

impl Command for Dispense {
    const ID: &str = "dispense";
    const FORMAT: &str = "text";
    const LATE: Late = Late::RefuseAfter(Duration::from_secs(300));
    type Payload = String;
}

/// Is acknowledged when it was handled.
struct Store;

impl Command for Store {
    const ID: &str = "store";
    const FORMAT: &str = "+";
    const ACKNOWLEDGE: Acknowledge = Acknowledge::Handled;
    type Payload = Vec<u8>;
}

/// What the device did; it survives crashes. Work ends when the gate lets it.
#[derive(Clone, Default)]
struct Unit {
    done: Arc<watch::Sender<Vec<String>>>,
    gate: Arc<Notify>,
}

impl Unit {
    fn done(&self) -> Vec<String> {
        self.done.borrow().clone()
    }

    async fn until(&self, holds: impl Fn(&[String]) -> bool) {
        let mut changes = self.done.subscribe();
        changes.wait_for(|done| holds(done)).await.expect("the unit outlives the wait");
    }

    async fn work(&self, what: String) -> Result<(), Failure> {
        let fails = what.ends_with("13");
        self.done.send_modify(|done| done.push(what));
        self.gate.notified().await;
        if fails { Err(Failure::new("the lamp is broken")) } else { Ok(()) }
    }
}

impl OnCommand<Dim> for Unit {
    async fn on_command(&self, _: &Context, command: &Received<Json<Level>>) -> Result<(), Failure> {
        self.work(format!("dim {}", command.payload.0.percent)).await
    }
}

impl OnCommand<Dispense> for Unit {
    async fn on_command(&self, _: &Context, command: &Received<String>) -> Result<(), Failure> {
        self.work(format!("dispense {}", command.payload)).await
    }
}

impl OnCommand<Store> for Unit {
    async fn on_command(&self, _: &Context, command: &Received<Vec<u8>>) -> Result<(), Failure> {
        self.work(format!("store {} {:?}", command.format, command.payload)).await
    }
}

#[derive(Default)]
struct Rig {
    platform: Platform,
    disk: MemoryDisk,
    system: TestSystem,
    unit: Unit,
}

impl Rig {
    fn start(&self) -> Running {
        start(&self.platform, &self.disk, &self.system, |builder| {
            builder
                .on_command::<Dim>(self.unit.clone())
                .on_command::<Dispense>(self.unit.clone())
                .on_command::<Store>(self.unit.clone())
        })
    }

    async fn managed(&self) -> Running {
        let manages = self.platform.published(UpRoute::Manage).len();
        let running = self.start();
        self.platform.managed(manages + 1).await;
        self.platform.drained().await;
        running
    }

    fn dim(&self, percent: u8) {
        self.platform.command("dim", "json", format!("{{\"percent\":{percent}}}"));
    }

    async fn until(&self, done: &[&str]) {
        self.unit.until(|all| all == done).await;
    }

    /// The texts of the logs that the device reported, until one is there.
    async fn reported(&self) -> String {
        self.platform.until(|platform| !platform.published(UpRoute::AddLog).is_empty()).await;
        self.platform.published(UpRoute::AddLog)[0]["d"]["message"].as_str().unwrap_or_default().to_owned()
    }
}

async fn counted(running: &Running, cause: &str) -> u64 {
    running.device().counters().await.expect("the agent runs").get(cause).copied().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_durable_command_reaches_its_typed_handler_and_is_acknowledged_before_it_ends() {
    let rig = Rig::default();
    let _running = rig.managed().await;
    rig.dim(40);
    rig.until(&["dim 40"]).await;
    rig.platform.drained().await;
    assert!(rig.platform.published(UpRoute::Response).is_empty(), "a command has no response");
}

#[tokio::test(start_paused = true)]
async fn a_handled_command_is_acknowledged_when_its_handler_has_ended() {
    let rig = Rig::default();
    let _running = rig.managed().await;
    rig.platform.command("store", "any format", &[0xff_u8, 0][..]);
    rig.until(&["store any format [255, 0]"]).await;
    assert_eq!(rig.platform.unacknowledged(), 1);
    rig.unit.gate.notify_one();
    rig.platform.drained().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_behind_a_handled_command_runs_while_its_acknowledgement_waits() {
    let rig = Rig::default();
    let _running = rig.managed().await;
    rig.platform.command("store", "x", &[1_u8][..]);
    rig.dim(1);
    rig.until(&["store x [1]", "dim 1"]).await;
    assert_eq!(rig.platform.unacknowledged(), 2);
    rig.unit.gate.notify_one();
    rig.platform.drained().await;
}

#[tokio::test(start_paused = true)]
async fn a_handled_command_that_never_ends_holds_acknowledgements_for_its_budget() {
    let rig = Rig::default();
    let running = rig.managed().await;
    rig.platform.command("store", "x", &[1_u8][..]);
    rig.platform.drained().await;
    assert_eq!(counted(&running, "command failed").await, 1);
    assert!(rig.reported().await.contains("longer than its budget of 30s"));
}

#[tokio::test(start_paused = true)]
async fn a_durable_command_that_a_kill_interrupted_runs_again_where_that_does_no_harm() {
    let rig = Rig::default();
    let running = rig.managed().await;
    rig.dim(40);
    rig.until(&["dim 40"]).await;
    running.kill().await;
    let _running = rig.start();
    rig.until(&["dim 40", "dim 40"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_durable_command_that_must_not_be_repeated_is_reported_after_a_kill() {
    let rig = Rig::default();
    let running = rig.managed().await;
    rig.platform.command("dispense", "text", "cola");
    rig.until(&["dispense cola"]).await;
    running.kill().await;
    let running = rig.managed().await;
    let report = "the command dispense (text) failed: interrupted; it may have happened";
    assert_eq!(rig.reported().await, report);
    assert_eq!(counted(&running, "command failed").await, 1);
    assert_eq!(rig.unit.done(), ["dispense cola"]);
}

#[tokio::test(start_paused = true)]
async fn a_handled_command_that_a_kill_interrupted_is_delivered_again() {
    let rig = Rig::default();
    let running = rig.managed().await;
    rig.platform.command("store", "x", &[1_u8][..]);
    rig.until(&["store x [1]"]).await;
    running.kill().await;
    let _running = rig.start();
    rig.until(&["store x [1]", "store x [1]"]).await;
    rig.unit.gate.notify_one();
    rig.platform.drained().await;
}

/// Each command writes twice: that it is there and started, and that it has ended.
#[tokio::test(start_paused = true)]
async fn a_crash_at_every_commit_loses_no_command() {
    for outcome in [CrashOutcome::Applied, CrashOutcome::NotApplied] {
        for at in 1..=3 {
            let rig = Rig::default();
            let _running = rig.managed().await;
            rig.disk.crash_at_commit(at, outcome);
            for percent in [1, 2] {
                rig.unit.gate.notify_one();
                rig.dim(percent);
                rig.unit.until(|done| done.contains(&format!("dim {percent}"))).await;
                rig.unit.gate.notify_one();
            }
            rig.platform.drained().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_does_not_fit_is_counted_and_acknowledged() {
    let rig = Rig::default();
    let running = rig.managed().await;
    rig.dim(140);
    rig.platform.command("dim", "json", "no JSON");
    rig.platform.command("dispense", "text", &[0xff_u8][..]);
    rig.platform.command("unknown", "json", "{}");
    rig.platform.drained().await;
    // A command behind them has been carried out when they have.
    rig.dim(3);
    rig.until(&["dim 3"]).await;
    assert_eq!(counted(&running, "command that does not fit").await, 3);
    assert_eq!(counted(&running, "command that this device does not take").await, 1);
    assert!(rig.platform.published(UpRoute::AddLog).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_command_that_fails_is_counted_and_reported() {
    let rig = Rig::default();
    let running = rig.managed().await;
    rig.unit.gate.notify_one();
    rig.dim(13);
    assert_eq!(rig.reported().await, "the command dim (json) failed: the lamp is broken");
    assert_eq!(counted(&running, "command failed").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_waited_longer_than_it_may_does_not_run() {
    let rig = Rig::default();
    let running = rig.managed().await;
    rig.platform.offline(true);
    rig.platform.command("dispense", "text", "stale");
    rig.dim(1);
    tokio::time::sleep(Duration::from_secs(600)).await;
    rig.platform.offline(false);
    rig.until(&["dim 1"]).await;
    assert_eq!(counted(&running, "command dropped").await, 1);
    rig.platform.drained().await;
    rig.platform.command("dispense", "text", "fresh");
    rig.until(&["dim 1", "dispense fresh"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_retained_command_is_counted_and_does_not_run() {
    let rig = Rig::default();
    let running = rig.managed().await;
    rig.platform.send_oddly("iot-2/cmd/dispense/fmt/text", "old", true, true);
    rig.platform.drained().await;
    assert_eq!(counted(&running, "retained command").await, 1);
    assert!(rig.unit.done().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_a_handled_command_end_and_acknowledges_it() {
    let rig = Rig::default();
    let running = rig.managed().await;
    rig.platform.command("store", "x", &[1_u8][..]);
    rig.until(&["store x [1]"]).await;
    rig.unit.gate.notify_one();
    running.stop().await.unwrap();
    assert_eq!(rig.platform.unacknowledged(), 0);
}
