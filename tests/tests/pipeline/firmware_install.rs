//! An update that restarts the machine, in the whole agent: what the platform sees, and what a file holds afterwards.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use iotdm_agent::testing::Running;
use iotdm_core::{Action, Download, Late, Restart, Route, UpRoute, Update, attribute};
use iotdm_handlers::firmware::{
    FetchError, FetchRequest, Fetcher, FileInstaller, Firmware, FirmwareOptions, InstallOptions, Piece,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::product::Rig;

/// Has one image, whatever is asked for.
struct Server;

impl Fetcher for Server {
    fn fetch(
        &self,
        _: &FetchRequest<'_>,
        sink: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<(), FetchError> {
        let start = Piece::Start { from: 0, total: Some(IMAGE.len() as u64), validator: None };
        match [start, Piece::Bytes(IMAGE)].into_iter().try_for_each(sink) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(FetchError::Stopped),
        }
    }
}

/// A lamp whose firmware is one file. It restarts to put it to use, and has five minutes to be managed then.
struct Lamp {
    rig: Rig,
    folder: TempDir,
    /// What becomes of an update that is late.
    late: Late,
}

impl Lamp {
    fn new() -> Self {
        let lamp = Self {
            rig: Rig::new(),
            folder: tempfile::tempdir().expect("the temporary folder can be written"),
            late: Late::Run,
        };
        fs::write(lamp.firmware(), "the old one").expect("the temporary folder can be written");
        lamp
    }

    fn firmware(&self) -> PathBuf {
        self.folder.path().join("lamp")
    }

    fn start(&self) -> Running {
        let installer = FileInstaller { restart: true, ..FileInstaller::new(self.firmware()) };
        let install = InstallOptions {
            managed_within: Some(Duration::from_secs(300)),
            ..InstallOptions::new(installer)
        };
        let options = FirmwareOptions {
            install: Some(install),
            ..FirmwareOptions::new(self.folder.path().join("staging"))
        };
        let late = self.late;
        self.rig.start_with(|builder| {
            let firmware = Firmware::new(options, Arc::new(Server)).expect("the options are usable");
            builder.with(firmware).policy(Update::ROUTE, move |policy| policy.late = late)
        })
    }

    async fn managed(&self) -> Running {
        let manages = self.rig.platform.published(UpRoute::Manage).len();
        let running = self.start();
        self.rig.platform.managed(manages + 1).await;
        running
    }

    /// Downloaded, observed, the update asked for, and the machine about to restart.
    async fn about_to_restart(&self) -> Running {
        let running = self.managed().await;
        let digest: String = Sha256::digest(IMAGE).iter().map(|byte| format!("{byte:02x}")).collect();
        let firmware = json!({"version": "2.0", "uri": "http://images.example/2.0", "verifier": format!("sha256:{digest}")});
        self.send(
            Route::DeviceUpdate,
            "set",
            json!({"fields": [{"field": "mgmt.firmware", "value": firmware}]}),
        );
        assert_eq!(self.rig.platform.response("set").await["rc"], 204);
        self.send(Route::Observe, "watch", json!({"fields": [{"field": "mgmt.firmware"}]}));
        assert_eq!(self.rig.platform.response("watch").await["rc"], 200);
        assert_eq!(self.rig.ask::<Download>("download").await["rc"], 202);
        self.until_notified(&[(1, 0), (2, 0)]).await;
        assert_eq!(self.rig.ask::<Update>("update").await["rc"], 202);
        self.until_notified(&[(1, 0), (2, 0), (2, 1)]).await;
        while self.rig.system.restarts().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.rig.platform.drained().await;
        running
    }

    /// The power is gone and comes back.
    async fn restart(&self, running: Running) {
        running.kill().await;
        self.rig.system.next_boot();
    }

    fn send(&self, route: Route, req_id: &str, d: Value) {
        self.rig.platform.send(route, json!({"reqId": req_id, "d": d}));
    }

    /// `state` and `updateStatus` of each notify of `mgmt.firmware`; one that a power cut had repeated counts once.
    fn notified(&self) -> Vec<(u64, u64)> {
        let value = |notify: &Value| {
            let field = &notify["d"]["fields"][0];
            assert_eq!(field["field"], "mgmt.firmware");
            let number = |name: &str| field["value"][name].as_u64().expect("both are numbers");
            (number("state"), number("updateStatus"))
        };
        let mut all: Vec<_> = self.rig.platform.published(UpRoute::Notify).iter().map(value).collect();
        all.dedup();
        all
    }

    async fn until_notified(&self, expected: &[(u64, u64)]) {
        self.rig.platform.until(|_| self.notified().len() >= expected.len()).await;
        assert_eq!(self.notified(), expected);
    }
}

/// `docs/protocol.md` §6.3: one notify for all that changes together, and the observation outlives the restart.
#[tokio::test(start_paused = true)]
async fn an_update_ends_after_the_restart_with_one_notify_and_the_version() {
    let lamp = Lamp::new();
    let running = lamp.about_to_restart().await;
    lamp.restart(running).await;
    let running = lamp.managed().await;
    lamp.until_notified(&[(1, 0), (2, 0), (2, 1), (0, 0)]).await;
    lamp.rig.platform.drained().await;
    let ends = lamp.rig.platform.published(UpRoute::Notify);
    let ends = ends.iter().filter(|notify| notify["d"]["fields"][0]["value"]["state"] == 0).count();
    assert_eq!(
        (lamp.notified().len(), ends),
        (4, 1),
        "one notify for all that ends together, and nothing follows"
    );
    let info: Value = running.device().attribute(attribute::DEVICE_INFO).unwrap();
    assert_eq!(info["fwVersion"], "2.0");
    assert_eq!(fs::read(lamp.firmware()).unwrap(), IMAGE);
    assert_eq!(lamp.rig.system.restarts(), [Restart::Reboot]);
    assert!(lamp.rig.platform.published(UpRoute::AddLog).is_empty());
}

/// The update began in time; the machine was off for longer than an update may be old. What was installed is not left
/// uncommitted for that.
#[tokio::test(start_paused = true)]
async fn an_update_that_began_in_time_is_judged_however_late_that_is() {
    let lamp = Lamp { late: Late::RefuseAfter(Duration::from_secs(60)), ..Lamp::new() };
    let running = lamp.about_to_restart().await;
    lamp.restart(running).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let running = lamp.managed().await;
    lamp.until_notified(&[(1, 0), (2, 0), (2, 1), (0, 0)]).await;
    lamp.rig.platform.drained().await;
    let old: PathBuf = lamp.folder.path().join(".lamp.old");
    assert!(!old.exists(), "it is committed");
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_does_not_come_back_into_management_goes_back_to_what_it_had_and_says_why() {
    let lamp = Lamp::new();
    let running = lamp.about_to_restart().await;
    lamp.restart(running).await;
    // What was installed cannot reach the platform: its manage is never answered.
    lamp.rig.platform.answer(UpRoute::Manage, None);
    let running = lamp.start();
    let began = tokio::time::Instant::now();
    while lamp.rig.system.restarts().len() < 2 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((300..=302).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(fs::read_to_string(lamp.firmware()).unwrap(), "the old one");
    lamp.restart(running).await;
    lamp.rig.platform.answer(UpRoute::Manage, Some(iotdm_core::Code::OK));
    let running = lamp.managed().await;
    lamp.until_notified(&[(1, 0), (2, 0), (2, 1), (0, 5)]).await;
    lamp.rig.platform.until(|platform| !platform.published(UpRoute::AddLog).is_empty()).await;
    let log = lamp.rig.platform.published(UpRoute::AddLog)[0]["d"].clone();
    assert_eq!(log["severity"], 2);
    let message = log["message"].as_str().unwrap();
    assert!(message.ends_with("failed: the device was not managed within 300s; rolled back"), "{message}");
    let info: Value = running.device().attribute(attribute::DEVICE_INFO).unwrap_or_default();
    assert_ne!(info["fwVersion"], "2.0");
}

/// The platform repeats its request, because it did not hear of the end.
#[tokio::test(start_paused = true)]
async fn a_replayed_update_installs_nothing_again() {
    let lamp = Lamp::new();
    let running = lamp.about_to_restart().await;
    lamp.restart(running).await;
    let running = lamp.managed().await;
    lamp.until_notified(&[(1, 0), (2, 0), (2, 1), (0, 0)]).await;
    lamp.rig.platform.drained().await;
    fs::write(lamp.firmware(), "something of the product's own").unwrap();
    assert_eq!(lamp.rig.ask::<Update>("update").await["rc"], 202);
    lamp.restart(running).await;
    let _running = lamp.managed().await;
    assert_eq!(lamp.rig.ask::<Update>("update").await["rc"], 202);
    lamp.rig.platform.drained().await;
    assert_eq!(fs::read_to_string(lamp.firmware()).unwrap(), "something of the product's own");
    assert_eq!((lamp.notified().len(), lamp.rig.system.restarts().len()), (4, 1));
}

/// The answer was stored, and the machine died before the broker had it: nothing has happened, and then all of it.
#[tokio::test(start_paused = true)]
async fn a_crash_after_the_answer_installs_once() {
    let lamp = Lamp::new();
    let running = lamp.managed().await;
    let digest: String = Sha256::digest(IMAGE).iter().map(|byte| format!("{byte:02x}")).collect();
    let firmware =
        json!({"version": "2.0", "uri": "http://images.example/2.0", "verifier": format!("sha256:{digest}")});
    lamp.send(Route::DeviceUpdate, "set", json!({"fields": [{"field": "mgmt.firmware", "value": firmware}]}));
    assert_eq!(lamp.rig.platform.response("set").await["rc"], 204);
    lamp.send(Route::Observe, "watch", json!({"fields": [{"field": "mgmt.firmware"}]}));
    assert_eq!(lamp.rig.platform.response("watch").await["rc"], 200);
    assert_eq!(lamp.rig.ask::<Download>("download").await["rc"], 202);
    lamp.until_notified(&[(1, 0), (2, 0)]).await;
    lamp.rig.platform.hold_pubacks(true);
    assert_eq!(lamp.rig.ask::<Update>("update").await["rc"], 202);
    lamp.restart(running).await;
    assert_eq!(fs::read_to_string(lamp.firmware()).unwrap(), "the old one");
    lamp.rig.platform.hold_pubacks(false);
    let running = lamp.managed().await;
    while lamp.rig.system.restarts().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    lamp.rig.platform.drained().await;
    lamp.restart(running).await;
    let _running = lamp.managed().await;
    lamp.until_notified(&[(1, 0), (2, 0), (2, 1), (0, 0)]).await;
    assert_eq!(fs::read(lamp.firmware()).unwrap(), IMAGE);
    assert_eq!(lamp.rig.system.restarts().len(), 1);
}

const _: () =
    assert!(<Update as Action>::ATTEMPTS >= 9, "three phases are each started three times at the most");

const IMAGE: &[u8] = b"the new one";
