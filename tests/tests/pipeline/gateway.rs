//! A gateway and the devices it speaks for: one connection, one journal, and every promise for each device.

mod events;
mod histories;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use iotdm_agent::testing::{MemoryDisk, Platform, Running, TestSystem, start_gateway};
use iotdm_agent::{AttachError, Attached, Builder, RunError, State};
use iotdm_core::{
    Accepted, Action, BootId, Context, DeviceInfo, Empty, Failure, Finished, Handler, Performed, Reboot,
    Recovery, Refusal, Report, Restart, Route, Subject, UpRoute,
};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::product::{Echo, Once};

/// What happened, on which device: the handlers of all devices write here.
#[derive(Clone, Default)]
struct Plant {
    runs: Arc<Mutex<Vec<String>>>,
    began: Arc<watch::Sender<()>>,
    gate: Arc<Notify>,
    /// Attached devices do not come back by themselves.
    sleepy: bool,
    /// Which reboot of which device has ended, and how much had been published then.
    returned: Arc<Mutex<Vec<(String, String, usize)>>>,
    platform: Option<Platform>,
}

impl Plant {
    fn note(&self, cx: &Context, what: &str) {
        let req_id = cx.req_id().map(ToString::to_string).unwrap_or_default();
        self.runs
            .lock()
            .expect("no holder of the lock panics")
            .push(format!("{what} {req_id} {}", cx.subject()));
        self.began.send_replace(());
    }

    fn published(&self) -> usize {
        self.platform.as_ref().map_or(0, |platform| platform.everything().len())
    }

    /// How much had been published when a reboot of an attached device had ended.
    fn back(&self, req_id: &str, device: &str) -> Option<usize> {
        let returned = self.returned.lock().expect("no holder of the lock panics");
        let is_it = |(id, of, _): &&(String, String, usize)| id.trim_matches('"') == req_id && of == device;
        returned.iter().find(is_it).map(|(.., published)| *published)
    }

    fn runs(&self) -> Vec<String> {
        self.runs.lock().expect("no holder of the lock panics").clone()
    }

    fn count(&self, run: &str) -> usize {
        self.runs().iter().filter(|other| *other == run).count()
    }

    async fn until_run(&self, run: &str) {
        let mut began = self.began.subscribe();
        while self.count(run) == 0 {
            began.changed().await.expect("the plant outlives the wait");
        }
    }
}

impl Handler<Echo> for Plant {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<u64>, Refusal> {
        self.note(cx, "echo");
        Ok(Finished(7))
    }
}

impl Handler<Once> for Plant {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        self.note(cx, "once");
        self.gate.notified().await;
        Ok(Finished(()))
    }
}

impl Handler<Reboot> for Plant {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        self.note(cx, "reboot");
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        self.note(cx, "restart");
        if *cx.subject() == gateway() {
            return cx
                .system()
                .restart(Restart::Reboot)
                .await
                .map_err(|error| Failure::new(error.to_string()));
        }
        if self.sleepy {
            return Ok(Performed::Restarting);
        }
        self.gate.notified().await;
        let req_id = cx.req_id().map(ToString::to_string).unwrap_or_default();
        self.returned.lock().expect("no holder of the lock panics").push((
            req_id,
            cx.subject().to_string(),
            self.published(),
        ));
        Ok(Performed::Complete)
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        self.note(cx, "recover");
        if cx.rebooted() { Recovery::Done } else { Recovery::RunAgain }
    }
}

/// A gateway `gw/g7` with pumps, its disk, its machine and its platform.
struct Rig {
    platform: Platform,
    disk: MemoryDisk,
    system: TestSystem,
    plant: Plant,
}

fn named(type_id: &str, device_id: &str) -> Subject {
    Subject::Named {
        type_id: type_id.parse().expect("the name keeps the grammar"),
        device_id: device_id.parse().expect("the name keeps the grammar"),
    }
}

fn gateway() -> Subject {
    named("gw", "g7")
}

fn pump(number: u32) -> Subject {
    named("pump", &format!("p-{number}"))
}

impl Rig {
    fn new() -> Self {
        let platform = Platform::new();
        let plant = Plant { platform: Some(platform.clone()), ..Plant::default() };
        Self { platform, disk: MemoryDisk::new(), system: TestSystem::new(), plant }
    }

    fn pump(&self, number: u32) -> Attached {
        let info = DeviceInfo { serial_number: Some(format!("s{number}")), ..DeviceInfo::default() };
        Attached::new("pump", &format!("p-{number}"))
            .expect("it can be made")
            .on::<Echo>(self.plant.clone())
            .on::<Once>(self.plant.clone())
            .on::<Reboot>(self.plant.clone())
            .device_info(info)
    }

    fn start_with(&self, change: impl FnOnce(Builder) -> Builder) -> Running {
        start_gateway(&self.platform, &self.disk, &self.system, |builder| {
            change(builder.on::<Reboot>(self.plant.clone()).on::<Once>(self.plant.clone()))
        })
    }

    /// With three pumps.
    fn start(&self) -> Running {
        self.start_with(|builder| (1..=3).fold(builder, |builder, number| builder.attach(self.pump(number))))
    }

    async fn managed(&self) -> Running {
        let before = self.manages(&gateway());
        let running = self.start();
        for device in [gateway(), pump(1), pump(2), pump(3)] {
            self.until_managed(&device, before + 1).await;
        }
        self.platform.drained().await;
        running
    }

    fn manages(&self, device: &Subject) -> usize {
        self.platform.published_for(device, UpRoute::Manage).len()
    }

    async fn until_managed(&self, device: &Subject, times: usize) {
        self.platform.until(|_| self.manages(device) >= times).await;
    }

    fn send<A: Action>(&self, device: &Subject, req_id: &str) {
        self.platform.send_to(device, A::ROUTE, json!({ "reqId": req_id }));
    }

    fn answers(&self, device: &Subject, req_id: &str) -> Vec<Value> {
        let all = self.platform.published_for(device, UpRoute::Response);
        all.into_iter().filter(|body| body["reqId"] == req_id).collect()
    }

    async fn answer(&self, device: &Subject, req_id: &str) -> Value {
        self.platform.until(|_| !self.answers(device, req_id).is_empty()).await;
        self.answers(device, req_id)[0].clone()
    }

    async fn ask<A: Action>(&self, device: &Subject, req_id: &str) -> Value {
        self.send::<A>(device, req_id);
        self.answer(device, req_id).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_manages_itself_and_each_attached_device_by_name_on_one_connection() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    assert_eq!(rig.platform.connections(), 1);
    let everything = rig.platform.everything();
    assert_eq!(everything.len(), 4, "one manage each: {everything:?}");
    assert!(everything.iter().all(|item| item.topic.starts_with("iotdevice-1/type/")), "{everything:?}");
    let manage = &rig.platform.published_for(&pump(2), UpRoute::Manage)[0];
    assert_eq!(manage["d"]["deviceInfo"]["serialNumber"], "s2");
    assert_eq!(manage["d"]["supports"]["deviceActions"], true);
}

#[tokio::test(start_paused = true)]
async fn a_request_reaches_the_handler_of_the_device_it_names_and_is_answered_in_its_name() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    assert_eq!(rig.ask::<Echo>(&pump(2), "r").await["rc"], 200);
    assert_eq!(rig.plant.runs(), ["echo r type/pump/id/p-2/"]);
    // The gateway itself has no echo.
    assert_eq!(rig.ask::<Echo>(&gateway(), "r").await["rc"], 501);
}

#[tokio::test(start_paused = true)]
async fn two_devices_may_use_one_req_id_and_a_replay_gets_its_own_answer() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    for device in [pump(1), pump(2)] {
        assert_eq!(rig.ask::<Echo>(&device, "same").await["rc"], 200);
        rig.send::<Echo>(&device, "same");
        rig.platform.until(|_| rig.answers(&device, "same").len() == 2).await;
        let answers = rig.answers(&device, "same");
        assert_eq!(answers[0], answers[1]);
    }
    assert_eq!(rig.plant.runs().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_not_attached_is_answered_404_and_keeps_nothing() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let stranger = named("pump", "p-9");
    for n in 0..300 {
        let answer = rig.ask::<Echo>(&stranger, &n.to_string()).await;
        assert_eq!(
            (&answer["rc"], &answer["message"]),
            (&json!(404), &json!("pump/p-9 is not attached to this connection"))
        );
    }
    rig.platform.drained().await;
    // A topic without a device belongs to no one on a gateway's connection either.
    rig.platform.send(Echo::ROUTE, json!({"reqId": "bare"}));
    assert_eq!(rig.answer(&Subject::Connected, "bare").await["rc"], 404);
    assert_eq!(rig.ask::<Echo>(&pump(1), "r").await["rc"], 200);
    running.stop().await.unwrap();
    let pairs = rig.disk.pairs();
    assert!(pairs < 60, "{pairs} records after 300 requests of a stranger");
}

#[tokio::test(start_paused = true)]
async fn what_one_device_accepted_outlives_a_crash_and_stays_its_own() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.ask::<Echo>(&pump(1), "done").await;
    rig.send::<Once>(&pump(2), "cut");
    rig.plant.until_run("once cut type/pump/id/p-2/").await;
    running.kill().await;
    let running = rig.managed().await;
    // Not run again, since it may have happened; and answered for the device that it was asked of.
    assert_eq!(rig.answer(&pump(2), "cut").await["rc"], 500);
    rig.send::<Echo>(&pump(1), "done");
    rig.platform.until(|_| rig.answers(&pump(1), "done").len() == 2).await;
    assert_eq!(rig.plant.count("echo done type/pump/id/p-1/"), 1);
    assert_eq!(rig.ask::<Echo>(&pump(2), "done").await["rc"], 200, "the other device's reqId is free");
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_attached_devices_reboot_holds_its_own_manage_alone_and_restarts_no_gateway() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    assert_eq!(rig.ask::<Reboot>(&pump(1), "r").await["rc"], 202);
    rig.plant.until_run("restart r type/pump/id/p-1/").await;
    rig.platform.cut();
    for device in [gateway(), pump(2), pump(3)] {
        rig.until_managed(&device, 2).await;
    }
    assert_eq!(rig.ask::<Echo>(&pump(2), "meanwhile").await["rc"], 200);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.manages(&pump(1)), 1, "the platform would take it for the end of the reboot");
    rig.plant.gate.notify_one();
    rig.until_managed(&pump(1), 2).await;
    assert_eq!(rig.system.restarts(), []);
    assert_eq!(rig.plant.count("restart r type/pump/id/p-1/"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attached_device_that_restarts_by_itself_is_judged_when_its_boot_is_another() {
    let mut rig = Rig::new();
    rig.plant.sleepy = true;
    let running = rig.start_with(|builder| builder.attach(rig.pump(1).boot_id(BootId("b1".into()))));
    rig.until_managed(&pump(1), 1).await;
    assert_eq!(rig.ask::<Reboot>(&pump(1), "r").await["rc"], 202);
    rig.plant.until_run("restart r type/pump/id/p-1/").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let device = running.attached("pump", "p-1").unwrap();
    device.booted(BootId("b1".into())).await.unwrap();
    assert_eq!(rig.plant.count("recover r type/pump/id/p-1/"), 0, "the same boot says nothing");
    device.booted(BootId("b2".into())).await.unwrap();
    rig.plant.until_run("recover r type/pump/id/p-1/").await;
    rig.until_managed(&pump(1), 2).await;
    assert_eq!(rig.plant.count("restart r type/pump/id/p-1/"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_gateway_is_no_restart_of_its_devices() {
    let mut rig = Rig::new();
    rig.plant.sleepy = true;
    let with = |rig: &Rig| {
        let pump = rig.pump(1).boot_id(BootId("b1".into()));
        rig.start_with(|builder| builder.attach(pump))
    };
    let running = with(&rig);
    rig.until_managed(&pump(1), 1).await;
    assert_eq!(rig.ask::<Reboot>(&pump(1), "r").await["rc"], 202);
    rig.plant.until_run("restart r type/pump/id/p-1/").await;
    running.kill().await;
    rig.system.next_boot();
    let _running = with(&rig);
    rig.plant.until_run("recover r type/pump/id/p-1/").await;
    // Its boot is the same: the handler lets it run again.
    rig.platform.until(|_| rig.plant.count("restart r type/pump/id/p-1/") == 2).await;
}

#[tokio::test(start_paused = true)]
async fn the_gateways_restart_waits_for_the_work_of_all_and_nothing_starts_meanwhile() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.send::<Once>(&pump(1), "long");
    rig.plant.until_run("once long type/pump/id/p-1/").await;
    assert_eq!(rig.ask::<Reboot>(&gateway(), "down").await["rc"], 202);
    rig.platform.drained().await;
    rig.send::<Echo>(&pump(2), "late");
    rig.platform.drained().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.system.restarts(), [], "the work of a pump goes on");
    assert_eq!(rig.plant.count("echo late type/pump/id/p-2/"), 0, "nothing starts before a restart");
    rig.plant.gate.notify_one();
    assert_eq!(rig.answer(&pump(1), "long").await["rc"], 200);
    rig.plant.until_run("restart down type/gw/id/g7/").await;
    assert_eq!(rig.system.restarts(), [Restart::Reboot]);
    assert!(rig.answers(&pump(2), "late").is_empty());
}

#[tokio::test(start_paused = true)]
async fn work_of_an_attached_device_that_does_not_end_is_cut_short_after_ten_seconds() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.send::<Once>(&pump(1), "long");
    rig.plant.until_run("once long type/pump/id/p-1/").await;
    assert_eq!(rig.ask::<Reboot>(&gateway(), "down").await["rc"], 202);
    rig.plant.until_run("restart down type/gw/id/g7/").await;
    assert_eq!(rig.answer(&pump(1), "long").await["rc"], 500);
    rig.send::<Echo>(&pump(2), "late");
    rig.platform.drained().await;
    running.kill().await;
    rig.system.next_boot();
    let _running = rig.managed().await;
    // What was accepted before the restart is done after it.
    assert_eq!(rig.answer(&pump(2), "late").await["rc"], 200);
    assert_eq!(rig.plant.count("restart down type/gw/id/g7/"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_gateway_that_does_not_come_lets_its_devices_go_on() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    assert_eq!(rig.ask::<Reboot>(&gateway(), "down").await["rc"], 202);
    rig.plant.until_run("restart down type/gw/id/g7/").await;
    rig.send::<Echo>(&pump(1), "late");
    rig.platform.drained().await;
    assert!(rig.answers(&pump(1), "late").is_empty());
    tokio::time::sleep(Duration::from_secs(5 * 60)).await;
    assert_eq!(rig.answer(&pump(1), "late").await["rc"], 200);
}

#[tokio::test(start_paused = true)]
async fn sixty_requests_over_three_devices_are_answered_and_acknowledged() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    let before = rig.platform.acknowledgements();
    for n in 0..60 {
        rig.send::<Echo>(&pump(1 + n % 3), &n.to_string());
    }
    for n in 0..60 {
        assert_eq!(rig.answer(&pump(1 + n % 3), &n.to_string()).await["rc"], 200);
    }
    rig.platform.drained().await;
    assert_eq!(rig.platform.acknowledgements() - before, 60);
}

#[tokio::test(start_paused = true)]
async fn a_burst_over_many_devices_costs_the_commits_of_a_burst_on_one() {
    let rig = Rig::new();
    rig.platform.window(100);
    let _running = rig.managed().await;
    let before = rig.disk.commits();
    for n in 0..60 {
        rig.send::<Echo>(&pump(1 + n % 3), &n.to_string());
    }
    for n in 0..60 {
        assert_eq!(rig.answer(&pump(1 + n % 3), &n.to_string()).await["rc"], 200);
    }
    rig.platform.drained().await;
    let commits = rig.disk.commits() - before;
    // The answers leave in the windows of eight that each device has.
    assert!(commits <= 40, "{commits} commits for 60 requests on 3 devices");
    println!("{commits} commits for 60 requests on 3 devices");
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_is_a_crash_of_all_and_nothing_is_lost() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    for device in [pump(1), pump(2)] {
        rig.send::<Echo>(&device, "r");
    }
    rig.disk.fail_commit(1);
    for device in [pump(1), pump(2)] {
        assert_eq!(rig.answer(&device, "r").await["rc"], 200);
    }
    assert!(rig.platform.connections() >= 2);
}

#[tokio::test(start_paused = true)]
async fn attributes_reports_and_observations_are_each_devices_own() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let (first, second) =
        (running.attached("pump", "p-1").unwrap(), running.attached("pump", "p-2").unwrap());
    first.set_attribute("level", &1).await.unwrap();
    second.set_attribute("level", &2).await.unwrap();
    rig.platform.send_to(
        &pump(1),
        Route::Observe,
        json!({"reqId": "o", "d": {"fields": [{"field": "level"}]}}),
    );
    assert_eq!(rig.answer(&pump(1), "o").await["d"]["fields"][0]["value"], 1);
    second.set_attribute("level", &22).await.unwrap();
    first.set_attribute("level", &11).await.unwrap();
    rig.platform.until(|platform| !platform.published_for(&pump(1), UpRoute::Notify).is_empty()).await;
    assert_eq!(rig.platform.published_for(&pump(2), UpRoute::Notify), [Value::Null; 0]);
    assert_eq!(rig.platform.published_for(&pump(1), UpRoute::Notify)[0]["d"]["fields"][0]["value"], 11);
    second.report(Report::AddErrorCode(7)).await.unwrap();
    rig.platform.until(|platform| !platform.published_for(&pump(2), UpRoute::AddErrorCode).is_empty()).await;
    assert_eq!(rig.platform.published(UpRoute::AddErrorCode).len(), 1);
    running.kill().await;
    let running = rig.managed().await;
    let level = |id| running.attached("pump", id).unwrap().attribute::<u32>("level");
    assert_eq!((level("p-1"), level("p-2"), level("p-3")), (Some(11), Some(22), None));
}

#[tokio::test(start_paused = true)]
async fn a_device_comes_and_goes_while_the_gateway_runs() {
    let rig = Rig::new();
    let running = rig.start_with(|builder| builder);
    rig.until_managed(&gateway(), 1).await;
    assert_eq!(rig.ask::<Echo>(&pump(1), "early").await["rc"], 404);
    let gateway_device = running.device();
    let device = gateway_device.attach(rig.pump(1)).await.unwrap();
    rig.until_managed(&pump(1), 1).await;
    rig.platform.drained().await;
    assert_eq!(rig.ask::<Echo>(&pump(1), "r").await["rc"], 200);
    assert!(matches!(
        gateway_device.attach(rig.pump(1)).await,
        Err(AttachError::Attached(name)) if name == "pump/p-1"
    ));
    gateway_device.detach(&device).await.unwrap();
    assert_eq!(rig.platform.published_for(&pump(1), UpRoute::Unmanage).len(), 1);
    assert_eq!(rig.ask::<Echo>(&pump(1), "gone").await["rc"], 404);
    assert!(device.set_attribute("level", &1).await.is_err());
    // Attached again, it still knows what it has done.
    gateway_device.attach(rig.pump(1)).await.unwrap();
    rig.until_managed(&pump(1), 2).await;
    rig.send::<Echo>(&pump(1), "r");
    rig.platform.until(|_| rig.answers(&pump(1), "r").len() == 2).await;
    assert_eq!(rig.plant.count("echo r type/pump/id/p-1/"), 1);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn work_of_a_detached_device_is_cancelled_and_judged_when_it_is_attached_again() {
    let rig = Rig::new();
    let running = rig.start_with(|builder| builder);
    rig.until_managed(&gateway(), 1).await;
    let device = running.device().attach(rig.pump(1)).await.unwrap();
    rig.until_managed(&pump(1), 1).await;
    rig.platform.drained().await;
    rig.send::<Once>(&pump(1), "cut");
    rig.plant.until_run("once cut type/pump/id/p-1/").await;
    running.device().detach(&device).await.unwrap();
    assert_eq!(
        running.device().attach(rig.pump(1)).await.map(drop),
        Err(AttachError::StillAtWork("pump/p-1".into()))
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    running.device().attach(rig.pump(1)).await.unwrap();
    assert_eq!(rig.answer(&pump(1), "cut").await["rc"], 500);
}

/// What was asked for in the same moment as its detachment is durable, and whoever asked hears so.
#[tokio::test(start_paused = true)]
async fn a_call_in_flight_while_its_device_is_detached_returns() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let (gateway, device) = (running.device(), running.attached("pump", "p-1").unwrap());
    // Without a platform to tell: detach asks at once.
    device.unmanage().await.unwrap();
    rig.platform.until(|platform| !platform.published_for(&pump(1), UpRoute::Unmanage).is_empty()).await;
    rig.platform.drained().await;
    let (set, detached) = tokio::join!(device.set_attribute("level", &9), gateway.detach(&device));
    detached.unwrap();
    set.unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_device_begins_anew() {
    let rig = Rig::new();
    let running = rig.managed().await;
    assert_eq!(rig.ask::<Echo>(&pump(1), "r").await["rc"], 200);
    assert!(matches!(running.device().forget("pump", "p-1").await, Err(AttachError::Attached(_))));
    let device = running.attached("pump", "p-1").unwrap();
    running.device().detach(&device).await.unwrap();
    running.device().forget("pump", "p-1").await.unwrap();
    running.device().attach(rig.pump(1)).await.unwrap();
    rig.until_managed(&pump(1), 2).await;
    rig.platform.drained().await;
    rig.send::<Echo>(&pump(1), "r");
    rig.plant.until_run("echo r type/pump/id/p-1/").await;
    rig.platform.until(|_| rig.answers(&pump(1), "r").len() == 2).await;
    assert_eq!(rig.plant.count("echo r type/pump/id/p-1/"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_device_is_in_quarantine_until_its_own_fence_is_lifted() {
    let rig = Rig::new();
    let running = rig.start_with(|builder| builder);
    rig.until_managed(&gateway(), 1).await;
    rig.platform.drained().await;
    rig.platform.answer(UpRoute::Manage, None);
    let _device = running.device().attach(rig.pump(1)).await.unwrap();
    rig.until_managed(&pump(1), 1).await;
    assert_eq!(rig.ask::<Once>(&pump(1), "old").await["rc"], 409, "it may have been done before");
    assert_eq!(rig.ask::<Echo>(&pump(1), "harmless").await["rc"], 200);
}

#[tokio::test(start_paused = true)]
async fn a_gateways_journal_refuses_another_identity() {
    let rig = Rig::new();
    rig.managed().await.stop().await.unwrap();
    let system = rig.system.clone();
    let running = iotdm_agent::testing::start(&rig.platform, &rig.disk, &system, |builder| builder);
    let error = running.ended().await.unwrap_err();
    let RunError::Journal(error) = error else { panic!("{error}") };
    assert!(error.to_string().contains("g:org001:gw:g7"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_device_cannot_speak_for_others_and_a_gateway_only_once_for_each() {
    let rig = Rig::new();
    let device =
        iotdm_agent::testing::start(&rig.platform, &MemoryDisk::new(), &rig.system, |builder| builder);
    assert_eq!(device.device().attach(rig.pump(1)).await.map(drop), Err(AttachError::NoGateway));
    let build = |config, attached: Vec<Attached>| {
        let builder = iotdm_agent::Agent::builder(config).store(MemoryDisk::new());
        attached.into_iter().fold(builder, Builder::attach).build().map(drop)
    };
    let gateway =
        iotdm_agent::Config { identity: "g:org001:gw:g7".parse().unwrap(), ..iotdm_agent::testing::config() };
    let plain = build(iotdm_agent::testing::config(), vec![rig.pump(1)]).unwrap_err().to_string();
    assert!(plain.contains("only a gateway"), "{plain}");
    let twice = build(gateway.clone(), vec![rig.pump(1), rig.pump(1)]).unwrap_err().to_string();
    assert_eq!(twice, "pump/p-1 is attached already");
    let itself = build(gateway.clone(), vec![Attached::new("gw", "g7").unwrap()]).unwrap_err().to_string();
    assert_eq!(itself, "gw/g7 is attached already");
    let crowd = (0..=500).map(|number| rig.pump(number)).collect();
    let crowd = build(gateway, crowd).unwrap_err().to_string();
    assert_eq!(crowd, "a gateway speaks for 500 devices at the most");
}

#[tokio::test(start_paused = true)]
async fn five_hundred_devices_are_managed_over_one_connection_after_each_loss_of_it() {
    let rig = Rig::new();
    let _running =
        rig.start_with(|builder| (0..500).fold(builder, |builder, number| builder.attach(rig.pump(number))));
    for times in 1..=2 {
        for number in 0..500 {
            rig.until_managed(&pump(number), times).await;
        }
        rig.platform.cut();
    }
    assert_eq!(rig.ask::<Echo>(&pump(499), "r").await["rc"], 200);
    rig.platform.drained().await;
}

#[tokio::test(start_paused = true)]
async fn an_error_that_the_platform_tells_the_gateway_is_taken_and_answered_by_nobody() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    let before = rig.platform.everything().len();
    rig.platform.send_raw(
        "iot-2/type/gw/id/g7/notify",
        r#"{"Request":"publish","Topic":"x","Type":"pump","Id":"p-9","RC":403,"Message":"no"}"#,
    );
    rig.platform.drained().await;
    assert_eq!(rig.platform.everything().len(), before);
}

#[tokio::test(start_paused = true)]
async fn each_device_has_a_state_of_its_own() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let (first, second) =
        (running.attached("pump", "p-1").unwrap(), running.attached("pump", "p-2").unwrap());
    first.unmanage().await.unwrap();
    first.state().wait_for(|state| *state == State::Unmanaged).await.unwrap();
    assert_eq!(*second.state().borrow(), State::Managed);
    assert_eq!(*running.device().state().borrow(), State::Managed);
    rig.platform.offline(true);
    second.state().wait_for(|state| *state == State::Disconnected).await.unwrap();
}
