//! A machine with two copies of its system and a boot loader, and RAUC or SWUpdate on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use iotdm_core::{ChildError, ChildOutput, ChildProcess, UpdateStatus};
use serde_json::json;

use super::lives::{Ended, live};
use super::*;
use crate::firmware::{RaucInstaller, SwupdateInstaller};

/// What survives everything.
#[derive(Clone)]
struct Ab(Arc<Mutex<Slots>>);

struct Slots {
    booted: &'static str,
    primary: &'static str,
    versions: BTreeMap<&'static str, &'static str>,
    bad: BTreeMap<&'static str, bool>,
    /// Of a version that was booted and not committed the boot loader lets go at the next restart.
    committed: bool,
    boots: u64,
    new_boots: bool,
    new_is_healthy: bool,
    installs: u32,
    busy: u32,
}

impl Ab {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Slots {
            booted: "A",
            primary: "A",
            versions: BTreeMap::from([("A", "1.0"), ("B", "1.0")]),
            bad: BTreeMap::new(),
            committed: true,
            boots: 1,
            new_boots: true,
            new_is_healthy: true,
            installs: 0,
            busy: 0,
        })))
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap()
    }

    fn reboot(&self, rig: &Rig) {
        let mut slots = self.slots();
        slots.boots += 1;
        let primary = slots.primary;
        let lets_go = slots.booted == primary && !slots.committed;
        let is_broken = slots.versions[primary] == "2.0" && !slots.new_boots;
        if slots.bad.get(primary) == Some(&true) || is_broken || lets_go {
            slots.bad.insert(primary, true);
            slots.primary = other(primary);
            slots.committed = true;
        }
        slots.booted = slots.primary;
        rig.system.set_boot_id(&format!("boot-{}", slots.boots));
    }

    /// What the programs of this machine do.
    fn run(&self, child: &ChildProcess) -> Result<ChildOutput, ChildError> {
        let mut slots = self.slots();
        let words: Vec<&str> = child.args.iter().map(String::as_str).collect();
        let program = child.program.file_name().unwrap().to_str().unwrap();
        let booted = slots.booted;
        Ok(match (program, words.as_slice()) {
            ("rauc", ["install", _]) if slots.busy > 0 => {
                slots.busy -= 1;
                output(1, "", "Error installing: GDBus.Error: Already processing a different method")
            }
            ("rauc", ["install", _]) | ("swupdate", _) => {
                let target = other(booted);
                if program == "swupdate" {
                    let copy = format!("stable,{target}");
                    assert_eq!(words[..4], ["-k", "/etc/key.pem", "-e", copy.as_str()]);
                }
                slots.versions.insert(target, "2.0");
                slots.bad.insert(target, false);
                slots.primary = target;
                slots.committed = false;
                slots.installs += 1;
                output(0, "installing", "")
            }
            ("rauc", ["status", "--output-format=json"]) => {
                let status = json!({"compatible": "lamp", "booted": booted, "boot_primary": slots.primary, "slots": []});
                output(0, &status.to_string(), "")
            }
            ("rauc", ["status", "mark-good"]) | ("commit", _) => {
                slots.committed = true;
                output(0, "", "")
            }
            ("rauc", ["status", "mark-bad"]) => {
                slots.bad.insert(booted, true);
                output(0, "", "")
            }
            ("rauc", ["status", "mark-active", "booted"]) => {
                slots.primary = booted;
                slots.committed = true;
                output(0, "", "")
            }
            ("fw_printenv", ["-n", "copy"]) => output(0, &format!("{booted}\n"), ""),
            ("rollback", [to]) => {
                slots.primary = if *to == "A" { "A" } else { "B" };
                slots.committed = true;
                output(0, "", "")
            }
            ("check", _) => {
                let healthy = slots.versions[booted] == "1.0" || slots.new_is_healthy;
                output(if healthy { 0 } else { 1 }, "", "")
            }
            other => panic!("no such program: {other:?}"),
        })
    }
}

fn other(slot: &str) -> &'static str {
    if slot == "A" { "B" } else { "A" }
}

/// A device with an image downloaded, and this machine under it.
async fn device(ab: &Ab, swupdate: bool) -> Rig {
    let mut rig = downloaded().await;
    if swupdate {
        let words = |line: &str| Some(line.split(' ').map(str::to_owned).collect());
        rig.installer(SwupdateInstaller {
            key: Some("/etc/key.pem".into()),
            select: BTreeMap::from([("A".into(), "stable,B".into()), ("B".into(), "stable,A".into())]),
            running: words("/usr/bin/fw_printenv -n copy"),
            commit: words("/bin/commit"),
            rollback: words("/bin/rollback {before}"),
            ..SwupdateInstaller::new()
        });
    } else {
        rig.installer(RaucInstaller::new());
    }
    rig.install().health_check = Some(vec!["/bin/check".into()]);
    let machine = ab.clone();
    rig.system.on_run(move |child| machine.run(child));
    rig
}

async fn update(ab: &Ab, swupdate: bool, dies_before: Option<usize>, restarts: bool) -> (Rig, Ended) {
    let mut rig = device(ab, swupdate).await;
    let machine = ab.clone();
    let ended = live(&mut rig, dies_before, restarts, &move |rig| machine.reboot(rig)).await;
    (rig, ended)
}

#[tokio::test(start_paused = true)]
async fn a_healthy_update_of_slots_is_committed_after_the_restart() {
    for swupdate in [false, true] {
        let ab = Ab::new();
        let (rig, ended) = update(&ab, swupdate, None, false).await;
        assert_eq!(ended.result, Ok(()));
        assert_eq!(ended.notified, [(2, 1), (0, 0)], "one notify for all that ends together");
        assert!(ab.slots().committed && ab.slots().booted == "B");
        check_installed(&rig);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_update_of_slots_is_rolled_back_and_the_platform_hears_why() {
    for swupdate in [false, true] {
        let ab = Ab::new();
        ab.slots().new_is_healthy = false;
        let (rig, ended) = update(&ab, swupdate, None, false).await;
        let reason = ended.result.unwrap_err();
        assert_eq!(reason, "the health check ended with exit status 1; rolled back to A");
        assert_eq!(ended.notified, [(2, 1), (0, 5)]);
        assert_eq!(ab.slots().booted, "A");
        check_failed(&rig, UpdateStatus::UnsupportedImage);
    }
}

/// The boot loader gave the new slot up before this program was started for the first time.
#[tokio::test(start_paused = true)]
async fn a_fall_back_behind_our_back_is_recognised_and_named() {
    for swupdate in [false, true] {
        let ab = Ab::new();
        ab.slots().new_boots = false;
        let (rig, ended) = update(&ab, swupdate, None, false).await;
        let reason = ended.result.unwrap_err();
        assert!(reason.starts_with("A runs, as it did before the update"), "{reason}");
        assert_eq!(ended.notified, [(2, 1), (0, 5)]);
        assert_eq!(rig.system.restarts().len(), 1, "there is nothing to go back from");
        check_failed(&rig, UpdateStatus::UnsupportedImage);
    }
}

/// The program dies before each thing that it does, in turn; once alone, once with the machine.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_of_a_healthy_update_of_slots_ends_in_the_committed_one_or_in_the_old_one() {
    let mut crashes = 0;
    for swupdate in [false, true] {
        for restarts in [false, true] {
            for step in 0.. {
                let ab = Ab::new();
                let (rig, ended) = update(&ab, swupdate, Some(step), restarts).await;
                if ended.survived {
                    break;
                }
                crashes += 1;
                let told = format!("dead before {step}, with the machine: {restarts}: {ended:?}");
                let slots = ab.slots();
                match &ended.result {
                    Ok(()) => {
                        assert!(slots.committed && slots.booted == "B", "{told}");
                        check_installed(&rig);
                    }
                    // The boot loader let go of it before it was committed.
                    Err(reason) => {
                        assert!(restarts && reason.starts_with("A runs"), "{told}");
                        assert_eq!(slots.booted, "A", "{told}");
                        check_failed(&rig, UpdateStatus::UnsupportedImage);
                    }
                }
                let last: Vec<_> = ended.notified.iter().filter(|(state, _)| *state == 0).collect();
                assert_eq!(last.len(), 1, "{told}");
                assert!(slots.installs <= 2, "{told}");
            }
        }
    }
    assert!(crashes > 40, "{crashes}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_of_an_unhealthy_update_of_slots_ends_in_the_old_one() {
    for swupdate in [false, true] {
        for restarts in [false, true] {
            for step in 0.. {
                let ab = Ab::new();
                ab.slots().new_is_healthy = false;
                let (rig, ended) = update(&ab, swupdate, Some(step), restarts).await;
                if ended.survived {
                    break;
                }
                let told = format!("dead before {step}, with the machine: {restarts}: {ended:?}");
                assert!(ended.result.is_err(), "{told}");
                assert_eq!(ab.slots().booted, "A", "{told}");
                let last: Vec<_> = ended.notified.iter().filter(|(state, _)| *state == 0).collect();
                assert_eq!(last, [&(0, 5)], "{told}");
                check_failed(&rig, UpdateStatus::UnsupportedImage);
            }
        }
    }
}

/// Its service goes on when the client dies with this program.
#[tokio::test(start_paused = true)]
async fn an_installation_waits_for_a_rauc_that_is_still_at_an_earlier_one() {
    let ab = Ab::new();
    ab.slots().busy = 3;
    let began = tokio::time::Instant::now();
    let (rig, ended) = update(&ab, false, None, false).await;
    assert_eq!(ended.result, Ok(()));
    assert_eq!(began.elapsed().as_secs(), 30);
    check_installed(&rig);

    let ab = Ab::new();
    ab.slots().busy = u32::MAX;
    let (rig, ended) = update(&ab, false, None, false).await;
    assert_eq!(ended.result, Err("rauc install ended with exit status 1".into()));
    check_failed(&rig, UpdateStatus::UnsupportedImage);
}

#[tokio::test(start_paused = true)]
async fn an_image_that_does_not_fit_is_told_as_out_of_memory_and_nothing_is_changed() {
    for swupdate in [false, true] {
        let ab = Ab::new();
        let mut rig = device(&ab, swupdate).await;
        let machine = ab.clone();
        rig.system.on_run(move |child| {
            match child.args.iter().any(|word| word == "-i" || word == "install") {
                true => Ok(output(1, "", "write: No space left on device\n")),
                false => machine.run(child),
            }
        });
        let ended = live(&mut rig, None, false, &|_| panic!("no restart")).await;
        assert!(ended.result.unwrap_err().ends_with("ended with exit status 1"));
        assert_eq!(ab.slots().primary, "A");
        check_failed(&rig, UpdateStatus::OutOfMemory);
    }
}

#[tokio::test(start_paused = true)]
async fn a_roll_back_that_does_not_work_is_told() {
    let ab = Ab::new();
    ab.slots().new_is_healthy = false;
    let mut rig = device(&ab, false).await;
    let machine = ab.clone();
    rig.system.on_run(move |child| match child.args.last().map(String::as_str) {
        Some("mark-bad") => Ok(output(1, "", "")),
        _ => machine.run(child),
    });
    let machine = ab.clone();
    let ended = live(&mut rig, None, false, &move |rig| machine.reboot(rig)).await;
    assert_eq!(
        ended.result.unwrap_err(),
        "the health check ended with exit status 1; the roll-back failed: rauc status mark-bad ended with exit status 1"
    );
    check_failed(&rig, UpdateStatus::UnsupportedImage);
}

#[tokio::test(start_paused = true)]
async fn a_rauc_that_does_not_know_its_slot_installs_nothing() {
    for status in ["", "{}", "no JSON", r#"{"booted": null}"#] {
        let rig = device(&Ab::new(), false).await;
        rig.system.on_run(move |_| Ok(output(0, status, "")));
        assert!(rig.perform(UPDATE).await.is_err());
        assert_eq!(rig.system.runs().len(), 1, "asked once, and not installed: {status}");
        check_failed(&rig, UpdateStatus::UnsupportedImage);
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_nothing_is_configured_for_gets_nothing_installed() {
    let ab = Ab::new();
    let mut rig = device(&ab, true).await;
    rig.installer(SwupdateInstaller {
        select: BTreeMap::from([("C".into(), "stable,D".into())]),
        running: Some(vec!["/usr/bin/fw_printenv".into(), "-n".into(), "copy".into()]),
        ..SwupdateInstaller::new()
    });
    let reason = rig.perform(UPDATE).await.unwrap_err().to_string();
    assert!(reason.contains("nothing is configured to be installed beside A"), "{reason}");
    assert_eq!(ab.slots().installs, 0);
    check_failed(&rig, UpdateStatus::UnsupportedImage);
}

#[tokio::test(start_paused = true)]
async fn swupdate_client_is_told_the_image_alone() {
    let mut rig = downloaded().await;
    rig.installer(SwupdateInstaller {
        program: "/usr/bin/swupdate-client".into(),
        client: true,
        key: Some("/etc/key.pem".into()),
        select: BTreeMap::from([(String::new(), "stable,main".into())]),
        ..SwupdateInstaller::new()
    });
    rig.perform(UPDATE).await.unwrap();
    let image = rig.path("image");
    assert_eq!(rig.system.runs()[0].args, ["-e", "stable,main", image.to_str().unwrap()]);
}

/// SWUpdate 2022.12 says "SWUPDATE successful !" and ends with status 1 in one run of eight.
#[tokio::test(start_paused = true)]
async fn a_swupdate_that_contradicts_itself_is_asked_again_a_few_times() {
    for (contradictions, installed) in [(1, true), (4, true), (5, false)] {
        let mut rig = downloaded().await;
        rig.installer(SwupdateInstaller { restart: false, ..SwupdateInstaller::new() });
        for _ in 0..contradictions {
            rig.system.next_run(Ok(output(1, "[INFO ] : SWUPDATE successful ! SWUPDATE successful !", "")));
        }
        assert_eq!(rig.perform(UPDATE).await.is_ok(), installed, "{contradictions}");
    }
}
