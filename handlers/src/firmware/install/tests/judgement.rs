//! After the restart: managed or not, in time or not, and how often.

use std::time::Duration;

use super::*;
use crate::firmware::install::marker::{Marker, Step};

/// Restarted, not judged yet, with five minutes to be managed.
async fn restarted() -> Rig {
    let mut rig = restarting().await;
    rig.command(|command| command.rollback = Some(vec!["/bin/rollback".into()]));
    rig.install().managed_within = Some(Duration::from_secs(300));
    rig.perform(UPDATE).await.unwrap();
    rig.crash();
    rig.system.set_boot_id("boot-2");
    rig
}

fn marker(rig: &Rig) -> Marker {
    serde_json::from_slice(&std::fs::read(rig.path("installed.json")).unwrap()).unwrap()
}

fn write(rig: &Rig, marker: &serde_json::Value) {
    std::fs::write(rig.path("installed.json"), marker.to_string()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_update_is_committed_once_the_device_is_managed() {
    let rig = restarted().await;
    assert_eq!(rig.recover(UPDATE).await, Recovery::Resume, "there is no connection before it");
    let services = rig.services.clone();
    let began = tokio::time::Instant::now();
    let (result, ()) = tokio::join!(rig.perform(UPDATE), async {
        tokio::time::sleep(Duration::from_secs(200)).await;
        services.set_managed(true);
    });
    assert_eq!(result, Ok(Performed::Complete));
    assert_eq!(began.elapsed().as_secs(), 200);
    assert_eq!(rig.notified(), [(0, 0)]);
    check_installed(&rig);
}

#[tokio::test(start_paused = true)]
async fn an_update_is_rolled_back_when_the_device_is_not_managed_in_time() {
    let mut rig = restarted().await;
    let began = tokio::time::Instant::now();
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Restarting));
    assert_eq!(began.elapsed().as_secs(), 300);
    assert_eq!(rig.system.runs().last().unwrap().program, PathBuf::from("/bin/rollback"));
    assert_eq!(rig.state(), (2, 1), "it ends with the restart into what ran before");
    rig.crash();
    rig.system.set_boot_id("boot-3");
    assert_eq!(rig.recover(UPDATE).await, Recovery::Resume);
    let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
    assert_eq!(reason, "the device was not managed within 300s; rolled back");
    assert_eq!(rig.notified(), [(0, 5)]);
    check_failed(&rig, UpdateStatus::UnsupportedImage);
}

/// A program that dies again and again while it waits does not wait again and again.
#[tokio::test(start_paused = true)]
async fn the_time_to_be_managed_goes_on_while_the_program_is_dead() {
    let rig = restarted().await;
    let waits = tokio::time::timeout(Duration::from_secs(10), rig.perform(UPDATE)).await;
    assert!(waits.is_err(), "it waits, and is killed");
    rig.system.set_uptime(Duration::from_secs(60 + 290));
    let began = tokio::time::Instant::now();
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Restarting));
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_dies_three_times_before_it_is_judged_is_rolled_back() {
    let mut rig = restarted().await;
    for boot in 2..5 {
        assert_eq!(marker(&rig).step, Step::Installed);
        rig.system.set_boot_id(&format!("boot-{boot}"));
        let waits = tokio::time::timeout(Duration::from_secs(10), rig.perform(UPDATE)).await;
        assert!(waits.is_err());
        rig.crash();
    }
    rig.system.set_boot_id("boot-5");
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Restarting));
    rig.crash();
    rig.system.set_boot_id("boot-6");
    let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
    assert_eq!(reason, "after the update the device died 3 times before it was judged; rolled back");
    check_failed(&rig, UpdateStatus::UnsupportedImage);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stops_while_it_waits_decides_nothing() {
    let rig = restarted().await;
    let cx = rig.cx();
    cx.cancellation().cancel();
    assert!(rig.perform_as(UPDATE, cx).await.is_err());
    assert_eq!((rig.state(), marker(&rig).step), ((2, 1), Step::Installed));
    rig.services.set_managed(true);
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Complete));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_is_rolled_back() {
    let mut rig = restarting().await;
    rig.command(|command| {
        command.commit = Some(vec!["/bin/commit".into()]);
        command.rollback = Some(vec!["/bin/rollback".into()]);
        command.restart = false;
    });
    rig.system.on_run(|child| Ok(output(i32::from(child.program.ends_with("commit")), "", "")));
    let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
    assert_eq!(reason, "the commit command ended with exit status 1; rolled back");
    check_failed(&rig, UpdateStatus::UnsupportedImage);
}

/// Written by a program from before there were installers: an agent may be part of what it installs.
#[tokio::test(start_paused = true)]
async fn the_marker_of_an_earlier_program_is_judged() {
    let mut rig = restarting().await;
    rig.perform(UPDATE).await.unwrap();
    rig.crash();
    write(&rig, &json!({"req_id": "\"r1\"", "boot_id": "boot-1"}));
    rig.system.set_boot_id("boot-2");
    assert_eq!(rig.recover(UPDATE).await, Recovery::Done);
    check_installed(&rig);
}

/// It had told the model, and not yet the agent, when it died.
#[tokio::test(start_paused = true)]
async fn a_crash_between_the_failure_and_its_report_keeps_the_reason_and_notifies_once() {
    let mut rig = restarted().await;
    rig.perform(UPDATE).await.unwrap();
    rig.crash();
    rig.system.set_boot_id("boot-3");
    let before = std::fs::read(rig.path("installed.json")).unwrap();
    rig.perform(UPDATE).await.unwrap_err();
    rig.crash();
    let mut failed: serde_json::Value = serde_json::from_slice(&before).unwrap();
    failed["step"] = json!("Failed");
    write(&rig, &failed);
    assert_eq!(rig.recover(UPDATE).await, Recovery::Resume);
    let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
    assert!(reason.contains("not managed"), "{reason}");
    assert!(rig.notified().is_empty(), "the platform has been told");
    assert_eq!(rig.files(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_installation_that_kills_the_device_three_times_is_given_up() {
    let mut rig = downloaded().await;
    rig.command(|command| command.repeatable = true);
    for starts in 1..=3 {
        rig.system.on_run(|_| panic!("the machine dies"));
        let died = tokio::spawn(rig.detached(UPDATE)).await;
        assert!(died.is_err());
        assert_eq!((marker(&rig).step, marker(&rig).starts), (Step::Installing, starts));
        rig.crash();
        assert_eq!(rig.recover(UPDATE).await, Recovery::Resume);
    }
    let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
    assert_eq!(reason, "the installation was interrupted 3 times");
    assert_eq!(rig.system.runs().len(), 3);
    check_failed(&rig, UpdateStatus::UnsupportedImage);
}

/// The storage of the staging folder is full, or broken: what was installed is not kept without a judgement.
#[tokio::test(start_paused = true)]
async fn an_update_whose_judgement_cannot_be_recorded_is_rolled_back() {
    let rig = restarted().await;
    // A folder in the way of the file that replaces the marker: no one can remove it as a file.
    std::fs::create_dir(rig.path("installed.tmp")).unwrap();
    let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
    assert_eq!(rig.system.runs().last().unwrap().program, PathBuf::from("/bin/rollback"));
    assert!(reason.starts_with("the update could not be recorded: "), "{reason}");
    assert!(reason.ends_with("; rolled back, and in use with the next restart"), "{reason}");
    assert_eq!(rig.state(), (0, status(UpdateStatus::UnsupportedImage)));
    assert_eq!(rig.system.restarts().len(), 1, "a restart that is on no record would be one of a loop");
}

#[tokio::test(start_paused = true)]
async fn an_installation_whose_repetition_cannot_be_recorded_is_rolled_back() {
    let mut rig = downloaded().await;
    rig.command(|command| {
        command.repeatable = true;
        command.rollback = Some(vec!["/bin/rollback".into()]);
    });
    rig.system.on_run(|_| panic!("the program dies"));
    assert!(tokio::spawn(rig.detached(UPDATE)).await.is_err());
    rig.system.on_run(|_| Ok(output(0, "", "")));
    rig.crash();
    std::fs::create_dir(rig.path("installed.tmp")).unwrap();
    let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
    assert!(reason.starts_with("the update could not be recorded: "), "{reason}");
    assert_eq!(rig.system.runs().last().unwrap().program, PathBuf::from("/bin/rollback"));
}
