use std::os::unix::fs::{PermissionsExt, symlink};

use iotdm_core::{Context, ContextParts, Performed, Recovery, ReqId, Route, UpdateStatus};

use super::*;
use crate::fake::output;
use crate::firmware::install::tests::lives::live;
use crate::firmware::install::tests::{check_failed, check_installed, downloaded};
use crate::firmware::tests::{Rig, image};

const UPDATE: Route = Route::FirmwareUpdate;

/// A device whose firmware is one file, with mode 0750.
async fn device(change: impl FnOnce(&mut FileInstaller)) -> Rig {
    let mut rig = downloaded().await;
    let target = target(&rig);
    fs::create_dir(target.parent().unwrap()).unwrap();
    fs::write(&target, "old").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o750)).unwrap();
    let mut installer = FileInstaller::new(target);
    change(&mut installer);
    rig.installer(installer);
    rig
}

fn target(rig: &Rig) -> PathBuf {
    rig.folder.path().join("bin/lamp")
}

fn check_target(rig: &Rig, content: &[u8]) {
    assert_eq!(fs::read(target(rig)).unwrap(), content);
    let mode = fs::metadata(target(rig)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o750, "the mode is kept");
    let names: Vec<_> = fs::read_dir(target(rig).parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["lamp"], "nothing is left beside it");
}

#[tokio::test(start_paused = true)]
async fn a_file_is_swapped_and_the_old_one_goes_with_the_commit() {
    let mut rig = device(|_| ()).await;
    let before = fs::metadata(target(&rig)).unwrap().ino();
    rig.install().health_check = Some(vec!["/bin/check".into()]);
    let place = target(&rig);
    rig.system.on_run(move |_| {
        assert_eq!(
            fs::metadata(beside(&place, "old")).unwrap().ino(),
            before,
            "the old one is kept beside it"
        );
        Ok(output(0, "", ""))
    });
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Complete));
    assert_eq!(rig.notified(), [(2, 1), (0, 0)]);
    check_target(&rig, &image());
    check_installed(&rig);
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_file_is_swapped_back_and_put_to_use_again() {
    let mut rig = device(|file| file.activate = Some(vec!["/bin/activate".into()])).await;
    rig.install().health_check = Some(vec!["/bin/check".into()]);
    let place = target(&rig);
    rig.system.on_run(move |child| {
        let healthy = fs::read(&place).unwrap() == b"old" || !child.program.ends_with("check");
        Ok(output(i32::from(!healthy), "", ""))
    });
    let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
    assert_eq!(reason, "the health check ended with exit status 1; rolled back");
    let runs: Vec<_> = rig.system.runs().into_iter().map(|run| run.program).collect();
    assert_eq!(runs, ["/bin/activate", "/bin/check", "/bin/activate"].map(PathBuf::from));
    check_target(&rig, b"old");
    check_failed(&rig, UpdateStatus::UnsupportedImage);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_not_there_before_is_removed_again() {
    let mut rig = device(|_| ()).await;
    fs::remove_file(target(&rig)).unwrap();
    rig.install().health_check = Some(vec!["/bin/check".into()]);
    rig.system.next_run(Ok(output(1, "", "")));
    assert!(rig.perform(UPDATE).await.is_err());
    assert!(!target(&rig).exists());
}

#[tokio::test(start_paused = true)]
async fn a_link_or_a_folder_in_the_files_place_is_refused_and_left_alone() {
    let rig = device(|_| ()).await;
    fs::remove_file(target(&rig)).unwrap();
    let precious = rig.folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, target(&rig)).unwrap();
    let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
    assert!(reason.contains("taken by a link or a folder"), "{reason}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    check_failed(&rig, UpdateStatus::UnsupportedImage);
}

/// Left by a program that died in the middle of a swap long ago, or planted.
#[tokio::test(start_paused = true)]
async fn leftovers_beside_the_file_are_neither_used_nor_written_through() {
    let mut rig = device(|_| ()).await;
    let precious = rig.folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, beside(&target(&rig), "new")).unwrap();
    fs::write(beside(&target(&rig), "old"), "ancient").unwrap();
    rig.install().health_check = Some(vec!["/bin/check".into()]);
    rig.system.next_run(Ok(output(1, "", "")));
    assert!(rig.perform(UPDATE).await.is_err());
    check_target(&rig, b"old");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

/// Half a swap, as each power cut inside it leaves it: it is completed, and can be taken back.
#[tokio::test(start_paused = true)]
async fn half_a_swap_is_completed_or_taken_back() {
    let stages: [fn(&Swap); 4] = [
        |swap| fs::write(&swap.old, "half of the o").unwrap(),
        |swap| {
            swap.keep_old(&CancellationToken::new()).unwrap();
            fs::write(&swap.begun, "").unwrap();
        },
        |swap| {
            swap.keep_old(&CancellationToken::new()).unwrap();
            fs::write(&swap.new, "half of the n").unwrap();
        },
        |swap| swap.put_in_place(&CancellationToken::new()).unwrap(),
    ];
    for (stage, cut) in stages.into_iter().enumerate() {
        for back in [false, true] {
            let home = tempfile::tempdir().unwrap();
            let path = |name: &str| home.path().join(name);
            fs::write(path("lamp"), "old").unwrap();
            fs::write(path("image"), "the new one").unwrap();
            let target = path("lamp");
            let (new, old) = (beside(&target, "new"), beside(&target, "old"));
            let swap = Swap { target, new, old, begun: path("begun"), image: path("image"), mode: 0o755 };
            cut(&swap);
            if back {
                swap.put_back().unwrap();
                swap.put_back().unwrap();
                assert_eq!(fs::read_to_string(path("lamp")).unwrap(), "old", "stage {stage}");
            } else {
                swap.put_in_place(&CancellationToken::new()).unwrap();
                assert_eq!(fs::read_to_string(path("lamp")).unwrap(), "the new one", "stage {stage}");
                assert_eq!(fs::read_to_string(&swap.old).unwrap(), "old", "stage {stage}");
            }
        }
    }
}

/// The program dies before each thing that it does, in turn; once alone, once with the machine.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_of_a_file_swap_ends_in_the_new_file_or_in_the_old_one() {
    for healthy in [true, false] {
        for restarts in [false, true] {
            for step in 0.. {
                let mut rig = device(|file| file.restart = restarts).await;
                rig.install().health_check = Some(vec!["/bin/check".into()]);
                rig.system.on_run(move |_| Ok(output(i32::from(!healthy), "", "")));
                let boots = std::cell::Cell::new(1);
                let ended = live(&mut rig, Some(step), restarts, &|rig| {
                    boots.set(boots.get() + 1);
                    rig.system.set_boot_id(&format!("boot-{}", boots.get()));
                })
                .await;
                if ended.survived {
                    assert!(step > 8, "{step}");
                    break;
                }
                let told = format!("dead before {step}, with the machine: {restarts}: {ended:?}");
                assert_eq!(ended.result.is_ok(), healthy, "{told}");
                let last: Vec<_> = ended.notified.iter().filter(|(state, _)| *state == 0).collect();
                assert_eq!(last.len(), 1, "{told}");
                if healthy {
                    check_target(&rig, &image());
                    check_installed(&rig);
                } else {
                    check_target(&rig, b"old");
                    check_failed(&rig, UpdateStatus::UnsupportedImage);
                }
            }
        }
    }
}

/// It is the only way back that is left to whoever looks after the device.
#[tokio::test(start_paused = true)]
async fn an_old_file_that_could_not_be_put_back_is_kept() {
    let mut rig = device(|file| file.restart = true).await;
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Restarting));
    rig.crash();
    rig.system.set_boot_id("boot-2");
    fs::remove_file(target(&rig)).unwrap();
    fs::create_dir(target(&rig)).unwrap();
    let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
    assert!(reason.contains("; the roll-back failed: the old file could not be put back"), "{reason}");
    assert_eq!(fs::read(beside(&target(&rig), "old")).unwrap(), b"old");
}

/// The agent gives an update up whose restart does not come. What it left in place has never run: it is not what the
/// next update goes back to.
#[tokio::test(start_paused = true)]
async fn what_never_ran_because_its_restart_never_came_is_not_what_is_gone_back_to() {
    let mut rig = device(|file| file.restart = true).await;
    rig.install().health_check = Some(vec!["/bin/check".into()]);
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Restarting));
    for (key, value) in [("state", 0), ("updateStatus", 5)] {
        let mut firmware = rig.firmware();
        firmware[key] = value.into();
        rig.describe(firmware);
    }
    rig.perform(Route::FirmwareDownload).await.unwrap();
    let second = || Some(ReqId::from_text("r2"));
    let cx = Context::new(ContextParts { req_id: second(), ..rig.parts() });
    assert_eq!(rig.perform_as(UPDATE, cx).await, Ok(Performed::Restarting));
    rig.crash();
    rig.system.set_boot_id("boot-2");
    rig.system.next_run(Ok(output(1, "", "")));
    let cx = Context::new(ContextParts { req_id: second(), ..rig.parts() });
    assert_eq!(rig.perform_as(UPDATE, cx).await, Ok(Performed::Restarting), "into what ran before");
    rig.crash();
    rig.system.set_boot_id("boot-3");
    let cx = Context::new(ContextParts { req_id: second(), ..rig.parts() });
    let reason = rig.perform_as(UPDATE, cx).await.unwrap_err().to_string();
    assert_eq!(reason, "the health check ended with exit status 1; rolled back");
    check_target(&rig, b"old");
}

/// Somebody, or a file system that repaired itself, put the old file back during the restart.
#[tokio::test(start_paused = true)]
async fn a_file_that_is_not_the_image_after_the_restart_is_not_committed() {
    let mut rig = device(|file| file.restart = true).await;
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Restarting));
    rig.crash();
    rig.system.set_boot_id("boot-2");
    fs::write(target(&rig), "something else").unwrap();
    assert_eq!(rig.recover(UPDATE).await, Recovery::Resume);
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Restarting), "into the old file");
    rig.crash();
    rig.system.set_boot_id("boot-3");
    let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
    assert_eq!(reason, "the file is not the image any more; rolled back");
    check_target(&rig, b"old");
}

#[test]
fn a_target_without_its_whole_path_is_refused_at_once() {
    for target in ["lamp", "", "/"] {
        let refused = FileInstaller::new(target).check();
        assert_eq!(refused, Err(FirmwareOptionsError::Target(target.into())), "{target}");
    }
}

/// The old file is gone with the commit: to roll back then would be a word without a deed.
#[tokio::test(start_paused = true)]
async fn a_committed_file_is_not_judged_again_after_a_power_cut() {
    let mut rig = device(|file| file.restart = true).await;
    rig.install().health_check = Some(vec!["/bin/check".into()]);
    rig.system.on_run(|_| Ok(output(0, "", "")));
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Restarting));
    rig.crash();
    rig.system.set_boot_id("boot-2");
    // Judged healthy and committed; the power goes before that is recorded.
    let mut marker: serde_json::Value =
        serde_json::from_slice(&fs::read(rig.path("installed.json")).unwrap()).unwrap();
    marker["step"] = "Healthy".into();
    marker["boot_id"] = "boot-2".into();
    fs::write(rig.path("installed.json"), marker.to_string()).unwrap();
    fs::remove_file(beside(&target(&rig), "old")).unwrap();
    rig.crash();
    rig.system.set_boot_id("boot-3");
    rig.system.on_run(|_| Ok(output(1, "", "")));
    assert_eq!(rig.recover(UPDATE).await, Recovery::Resume);
    assert_eq!(rig.perform(UPDATE).await, Ok(Performed::Complete));
    check_target(&rig, &image());
    check_installed(&rig);
}
