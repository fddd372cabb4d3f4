mod ab;
mod judgement;
pub(super) mod lives;

use std::path::PathBuf;

use iotdm_core::{
    ChildError, ChildExit, ChildOutput, Code, Context, ContextParts, Performed, Recovery, ReqId, Restart,
    RestartError, Route, UpdateStatus, attribute,
};
use serde_json::{Value, json};

use crate::fake::output;
use crate::firmware::tests::{Rig, image, status};

const UPDATE: Route = Route::FirmwareUpdate;

/// A device with the image downloaded, before anything else was asked.
pub(super) async fn downloaded() -> Rig {
    let mut rig = Rig::new();
    rig.perform(Route::FirmwareDownload).await.unwrap();
    rig.crash();
    rig
}

/// The same, with a restart as part of the installation.
async fn restarting() -> Rig {
    let mut rig = downloaded().await;
    rig.command(|command| command.restart = true);
    rig
}

fn device_info(rig: &Rig) -> Value {
    rig.cx().attribute(attribute::DEVICE_INFO).unwrap()
}

pub(super) fn check_installed(rig: &Rig) {
    assert_eq!(rig.state(), (0, 0));
    assert_eq!(device_info(rig), json!({"model": "L1", "fwVersion": "2.0", "own": true}));
    assert_eq!(rig.files(), Vec::<String>::new());
}

pub(super) fn check_failed(rig: &Rig, expected: UpdateStatus) {
    assert_eq!(rig.state(), (0, status(expected)));
    assert_eq!(device_info(rig)["fwVersion"], "1.0");
    assert_eq!(rig.files(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_update_runs_the_command_and_reports_the_version_in_one_step() {
    let rig = downloaded().await;
    assert_eq!(rig.ask(UPDATE).await, (Code::ACCEPTED, String::new()));
    assert!(rig.system.runs().is_empty(), "nothing happens before the platform has its 202");
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Complete));
    let [run] = &rig.system.runs()[..] else { panic!("one command") };
    assert_eq!(run.program, PathBuf::from("/bin/install"));
    assert_eq!(run.args, ["--to", rig.path("image").to_str().unwrap(), "2.0", "x{image}"]);
    assert!(run.env.is_empty());
    assert_eq!(rig.notified(), [(2, 1), (0, 0)]);
    let last = rig.services.changes().pop().unwrap();
    assert_eq!(last.len(), 2, "firmware and deviceInfo change together");
    assert!(rig.system.restarts().is_empty());
    check_installed(&rig);
}

#[tokio::test(start_paused = true)]
async fn an_update_without_a_downloaded_image_is_refused_with_400() {
    let rig = Rig::new();
    let (rc, message) = rig.ask(UPDATE).await;
    assert_eq!(rc, Code::BAD_REQUEST);
    assert!(message.contains("state is 0"), "{message}");

    let rig = downloaded().await;
    std::fs::remove_file(rig.path("image")).unwrap();
    let (rc, message) = rig.ask(UPDATE).await;
    assert_eq!(rc, Code::BAD_REQUEST);
    assert!(message.contains("not here"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_could_be_taken_for_an_option_is_refused() {
    for version in ["--root=/", "-", "2.0\n--root=/", "2\u{0}"] {
        let rig = downloaded().await;
        let mut firmware = rig.firmware();
        firmware["version"] = json!(version);
        rig.describe(firmware);
        let (rc, message) = rig.ask(UPDATE).await;
        assert!(rc == Code::BAD_REQUEST && message.starts_with("version: "), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_command_ends_as_out_of_memory_or_unsupported_image() {
    let signal = ChildOutput { exit: ChildExit::Signal(9), ..output(0, "", "") };
    let not_started = ChildError::NotStarted { program: "/bin/install".into(), reason: "absent".into() };
    for (result, expected) in [
        (Ok(output(65, "", "bad image")), UpdateStatus::UnsupportedImage),
        (Ok(output(73, "", "no room")), UpdateStatus::OutOfMemory),
        (Ok(output(1, "", "")), UpdateStatus::UnsupportedImage),
        (Ok(signal), UpdateStatus::UnsupportedImage),
        (Err(not_started), UpdateStatus::UnsupportedImage),
    ] {
        let rig = downloaded().await;
        rig.system.next_run(result);
        let failure = rig.perform(UPDATE).await.unwrap_err().to_string();
        assert!(!failure.contains("bad image"), "standard error stays on the device");
        assert_eq!(rig.notified(), [(2, 1), (0, status(expected))]);
        check_failed(&rig, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_that_changed_in_storage_is_not_installed() {
    let rig = downloaded().await;
    std::fs::write(rig.path("image"), vec![0; 100]).unwrap();
    assert!(rig.perform(UPDATE).await.is_err());
    assert!(rig.system.runs().is_empty());
    check_failed(&rig, UpdateStatus::UnsupportedImage);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_starts_no_command_and_no_restart() {
    let mut rig = restarting().await;
    rig.install().dry_run = true;
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Complete));
    assert!(rig.system.runs().is_empty() && rig.system.restarts().is_empty());
    check_installed(&rig);
}

#[tokio::test(start_paused = true)]
async fn with_a_restart_the_update_ends_after_it() {
    let mut rig = restarting().await;
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Restarting));
    assert_eq!(rig.system.restarts(), [Restart::Reboot]);
    assert_eq!(rig.state(), (2, 1));
    rig.crash();
    rig.system.set_boot_id("boot-2");
    assert_eq!(rig.recover(UPDATE).await, Recovery::Done);
    assert_eq!(rig.system.runs().len(), 1, "it is not installed twice");
    assert_eq!(rig.notified(), [(0, 0)]);
    check_installed(&rig);
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_is_only_a_dry_run_ends_the_update_at_once() {
    let rig = restarting().await;
    rig.system.next_restart(Ok(Performed::Complete));
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Complete));
    check_installed(&rig);
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_cannot_begin_is_a_failed_update() {
    let rig = restarting().await;
    rig.system.next_restart(Err(RestartError::NotConfigured(Restart::Reboot)));
    assert!(rig.perform(UPDATE).await.is_err());
    check_failed(&rig, UpdateStatus::UnsupportedImage);
}

#[tokio::test(start_paused = true)]
async fn after_the_restart_the_check_decides() {
    for (exit, recovery) in [(0, Recovery::Done), (1, Recovery::Resume)] {
        let mut rig = restarting().await;
        rig.install().health_check = Some(vec!["/bin/check".into(), "{version}".into()]);
        rig.perform(UPDATE).await.unwrap();
        rig.crash();
        rig.system.set_boot_id("boot-2");
        rig.system.next_run(Ok(output(exit, "", "")));
        assert_eq!(rig.recover(UPDATE).await, recovery);
        assert_eq!(rig.system.runs()[1].args, ["2.0"]);
        match recovery {
            Recovery::Done => check_installed(&rig),
            // The restart may take as long as it needs: what is taken back is taken back after the 202.
            _ => {
                let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
                assert_eq!(reason, "the health check ended with exit status 1; there is no way back");
                check_failed(&rig, UpdateStatus::UnsupportedImage);
            }
        }
    }
}

/// The marker is durable, the restart was not asked for yet, the program dies.
#[tokio::test(start_paused = true)]
async fn a_crash_before_the_restart_restarts_and_does_not_install_again() {
    let mut rig = restarting().await;
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Restarting));
    rig.crash();
    assert_eq!(rig.recover(UPDATE).await, Recovery::Resume);
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Restarting));
    assert_eq!((rig.system.runs().len(), rig.system.restarts().len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_command_starts_again() {
    let mut rig = downloaded().await;
    rig.services.stop();
    assert!(rig.perform(UPDATE).await.is_err());
    assert!(rig.system.runs().is_empty());
    rig.crash();
    assert_eq!(rig.recover(UPDATE).await, Recovery::RunAgain);
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Complete));
    check_installed(&rig);
}

/// The program dies while the command runs: whether it had its effect cannot be known.
#[tokio::test(start_paused = true)]
async fn a_crash_in_the_command_repeats_it_only_where_that_is_allowed() {
    for repeatable in [true, false] {
        let mut rig = downloaded().await;
        rig.command(|command| command.repeatable = repeatable);
        rig.system.on_run(|_| panic!("the program dies"));
        assert!(tokio::spawn(rig.detached(UPDATE)).await.is_err());
        rig.system.on_run(|_| Ok(output(0, "", "")));
        rig.crash();
        assert_eq!(rig.state(), (2, 1));
        if repeatable {
            assert_eq!(rig.recover(UPDATE).await, Recovery::Resume);
            assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Complete));
            check_installed(&rig);
        } else {
            assert_eq!(rig.recover(UPDATE).await, Recovery::Resume);
            let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
            assert_eq!(reason, "the installation was interrupted and may not be repeated");
            assert_eq!(rig.notified(), [(0, status(UpdateStatus::UnsupportedImage))]);
            check_failed(&rig, UpdateStatus::UnsupportedImage);
        }
    }
}

/// The last durable step was the report; the files are still there.
#[tokio::test(start_paused = true)]
async fn a_crash_after_the_report_only_removes_the_files() {
    for (reported, recovery) in [(0, Recovery::Done), (5, Recovery::Abandon)] {
        let rig = downloaded().await;
        let mut firmware = rig.firmware();
        firmware["state"] = json!(0);
        firmware["updateStatus"] = json!(reported);
        rig.describe(firmware);
        assert_eq!(rig.stored_image(), Some(image()));
        assert_eq!(rig.recover(UPDATE).await, recovery);
        assert_eq!(rig.files(), Vec::<String>::new());
        assert!(rig.services.changes().is_empty());
    }
}

/// A restart that never came ends its request; what it left must not pass for the next one's installation.
#[tokio::test(start_paused = true)]
async fn the_marker_of_another_request_is_a_leftover() {
    let mut rig = restarting().await;
    rig.perform(UPDATE).await.unwrap();
    rig.crash();
    rig.system.set_boot_id("boot-2");
    assert_eq!(rig.ask(UPDATE).await.0, Code::ACCEPTED);
    let cx = Context::new(ContextParts { req_id: Some(ReqId::from_text("r2")), ..rig.parts() });
    assert_eq!(rig.perform_as(UPDATE, cx).await, Ok(Performed::Restarting));
    assert_eq!(rig.system.runs().len(), 2);
}
