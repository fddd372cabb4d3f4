//! Reboots: once, after the answer, and judged by the boot id.

use std::time::Duration;

use iotdm_core::{Performed, Reboot, Restart, UpRoute};

use crate::product::{Once, Rig};

#[tokio::test(start_paused = true)]
async fn a_replayed_reboot_is_answered_each_time_and_happens_once() {
    let rig = Rig::new();
    let running = rig.managed().await;
    assert_eq!(rig.ask::<Reboot>("7f0c").await["rc"], 202);
    rig.until_run("restart 7f0c").await;
    rig.send::<Reboot>("7f0c");
    assert_eq!(rig.platform.response("7f0c").await["rc"], 202);
    running.kill().await;
    rig.system.next_boot();

    let running = rig.managed().await;
    tokio::time::advance(Duration::from_secs(90)).await;
    assert_eq!(rig.ask::<Reboot>("7f0c").await["rc"], 202);
    running.kill().await;

    let _running = rig.managed().await;
    tokio::time::advance(Duration::from_secs(9 * 24 * 3600)).await;
    assert_eq!(rig.ask::<Reboot>("7f0c").await["rc"], 202);
    assert_eq!(rig.system.restarts(), [Restart::Reboot]);
    let answers = rig.platform.responses("7f0c");
    assert!(answers.iter().all(|answer| answer == &answers[0]), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reboot_waits_until_the_broker_has_its_answer() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.platform.hold_pubacks(true);
    assert_eq!(rig.ask::<Reboot>("r").await["rc"], 202);
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!(rig.system.restarts().is_empty());
    rig.platform.cut();
    rig.platform.hold_pubacks(false);
    rig.until_run("restart r").await;
    assert_eq!(rig.system.restarts().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_manage_is_sent_between_the_answer_and_the_restart() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.ask::<Reboot>("r").await;
    rig.until_run("restart r").await;
    let manages = rig.platform.published(UpRoute::Manage).len();
    for _ in 0..3 {
        let connections = rig.platform.connections();
        rig.platform.cut();
        rig.platform.until(|platform| platform.connections() > connections).await;
    }
    assert_eq!(rig.platform.published(UpRoute::Manage).len(), manages);
    running.kill().await;
    rig.system.next_boot();
    let _running = rig.managed().await;
    assert_eq!(rig.platform.published(UpRoute::Manage).len(), manages + 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_never_comes_is_reported_and_management_goes_on() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.ask::<Reboot>("r").await;
    rig.until_run("restart r").await;
    let manages = rig.platform.published(UpRoute::Manage).len();
    rig.platform.managed(manages + 1).await;
    rig.platform.until(|platform| !platform.published(UpRoute::AddLog).is_empty()).await;
    assert_eq!(rig.platform.published(UpRoute::AddLog)[0]["d"]["severity"], 2);
    assert_eq!(rig.platform.published(UpRoute::AddErrorCode).len(), 1);
    assert_eq!(rig.system.restarts().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_is_done_at_once_and_the_next_reboot_is_taken() {
    let rig = Rig::new();
    rig.system.restart_gives(Ok(Performed::Complete));
    let _running = rig.managed().await;
    for req_id in ["a", "b", "c"] {
        assert_eq!(rig.ask::<Reboot>(req_id).await["rc"], 202);
        rig.until_run(&format!("restart {req_id}")).await;
    }
    assert_eq!(rig.system.restarts().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_second_reboot_waits_ten_seconds_and_is_told_who_is_in_the_way() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.ask::<Reboot>("first").await;
    rig.until_run("restart first").await;
    let refused = rig.ask::<Reboot>("second").await;
    assert_eq!(refused["rc"], 409);
    assert_eq!(refused["message"], "a reboot is under way");
}

#[tokio::test(start_paused = true)]
async fn a_restart_gives_running_work_ten_seconds() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.send::<Once>("o");
    rig.until_run("once o").await;
    let began = tokio::time::Instant::now();
    rig.ask::<Reboot>("r").await;
    assert_eq!(rig.platform.response("o").await["rc"], 500);
    assert_eq!(began.elapsed().as_secs(), 10);
    rig.until_run("restart r").await;
}
