use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use iotdm_core::{Recovery, Route, UpdateStatus};

use super::*;
use crate::fake::output;
use crate::firmware::install::tests::lives::{Ended, live};
use crate::firmware::install::tests::{check_failed, check_installed, downloaded};
use crate::firmware::tests::{Rig, image};

const UPDATE: Route = Route::FirmwareUpdate;

/// A module that answers so, and fails in these states; and the states it was called with.
#[derive(Clone, Default)]
struct Module {
    reboot: &'static str,
    supports_rollback: &'static str,
    fails: BTreeSet<&'static str>,
    called: Arc<Mutex<Vec<String>>>,
}

impl Module {
    fn new(reboot: &'static str, supports_rollback: &'static str, fails: &[&'static str]) -> Self {
        Self { reboot, supports_rollback, fails: fails.iter().copied().collect(), ..Self::default() }
    }

    /// The states, without the queries.
    fn states(&self) -> Vec<String> {
        let called = self.called.lock().unwrap();
        called
            .iter()
            .filter(|state| !matches!(state.as_str(), "NeedsArtifactReboot" | "SupportsRollback"))
            .cloned()
            .collect()
    }

    async fn device(&self) -> Rig {
        let mut rig = downloaded().await;
        rig.installer(MenderModuleInstaller {
            payload_name: "lamp".into(),
            files: BTreeMap::from([("dest_dir".into(), "/usr/bin".into())]),
            meta_data: json!({"colour": "red"}),
            device_type: "luminaire".into(),
            ..MenderModuleInstaller::new("/usr/share/mender/modules/v3/single-file")
        });
        let module = self.clone();
        rig.system.on_run(move |child| {
            let state = child.args[0].clone();
            assert_eq!(child.directory.as_deref(), Some(Path::new(&child.args[1])), "it runs in its tree");
            assert!(child.directory.as_ref().unwrap().join("tmp").is_dir(), "{state}");
            module.called.lock().unwrap().push(state.clone());
            let answer = match state.as_str() {
                "NeedsArtifactReboot" => module.reboot,
                "SupportsRollback" => module.supports_rollback,
                _ => "",
            };
            Ok(output(i32::from(module.fails.contains(state.as_str())), answer, ""))
        });
        rig
    }

    async fn update(&self, dies_before: Option<usize>, restarts: bool) -> (Rig, Ended) {
        let mut rig = self.device().await;
        let boots = std::cell::Cell::new(1);
        let ended = live(&mut rig, dies_before, restarts, &|rig| {
            boots.set(boots.get() + 1);
            rig.system.set_boot_id(&format!("boot-{}", boots.get()));
        })
        .await;
        (rig, ended)
    }
}

/// What is called for an answer about reboots, an answer about roll-back, and a state that fails.
#[tokio::test(start_paused = true)]
async fn a_module_is_called_with_the_states_of_its_protocol_in_their_order() {
    let install = ["Download", "ArtifactInstall"];
    let rolled = ["ArtifactRollback", "ArtifactFailure", "Cleanup"];
    #[rustfmt::skip]
    let table: [(&str, &str, Option<&'static str>, Vec<&str>); 11] = [
        ("No", "Yes", None, vec!["ArtifactCommit", "Cleanup"]),
        ("", "", None, vec!["ArtifactCommit", "Cleanup"]),
        ("Automatic", "Yes", None, vec!["ArtifactVerifyReboot", "ArtifactCommit", "Cleanup"]),
        ("Yes", "Yes", None, vec!["ArtifactReboot", "ArtifactVerifyReboot", "ArtifactCommit", "Cleanup"]),
        ("No", "Yes", Some("ArtifactInstall"), rolled.to_vec()),
        ("No", "No", Some("ArtifactInstall"), vec!["ArtifactFailure", "Cleanup"]),
        ("No", "Yes", Some("ArtifactCommit"), vec!["ArtifactCommit", "ArtifactRollback", "ArtifactFailure", "Cleanup"]),
        ("Automatic", "Yes", Some("ArtifactVerifyReboot"),
            vec!["ArtifactVerifyReboot", "ArtifactRollback", "ArtifactVerifyRollbackReboot", "ArtifactFailure", "Cleanup"]),
        ("Automatic", "", Some("ArtifactVerifyReboot"), vec!["ArtifactVerifyReboot", "ArtifactFailure", "Cleanup"]),
        ("Yes", "Yes", Some("ArtifactCommit"), vec!["ArtifactReboot", "ArtifactVerifyReboot", "ArtifactCommit", "ArtifactRollback",
            "ArtifactRollbackReboot", "ArtifactVerifyRollbackReboot", "ArtifactFailure", "Cleanup"]),
        ("No", "Yes", Some("Download"), vec!["Cleanup"]),
    ];
    for (reboot, rollback, fails, then) in table {
        let module = Module::new(reboot, rollback, fails.as_slice());
        let (rig, ended) = module.update(None, false).await;
        let told = format!("{reboot:?} {rollback:?} {fails:?}");
        let before = if fails == Some("Download") { &install[..1] } else { &install[..] };
        assert_eq!(module.states(), [before, &then].concat(), "{told}");
        match fails {
            None => check_installed(&rig),
            Some(state) => {
                let reason = ended.result.unwrap_err();
                assert!(reason.starts_with(&format!("the update module in {state} ended with")), "{reason}");
                check_failed(&rig, UpdateStatus::UnsupportedImage);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_module_finds_the_file_tree_of_its_protocol() {
    let rig = Module::new("Automatic", "Yes", &[]).device().await;
    rig.perform(UPDATE).await.unwrap();
    let tree = rig.path("installer/module");
    let text = |name: &str| fs::read_to_string(tree.join(name)).unwrap();
    assert_eq!(fs::read(tree.join("files/lamp")).unwrap(), image());
    let texts = [
        ("version", "3"),
        ("current_artifact_name", "1.0"),
        ("current_artifact_group", ""),
        ("current_device_type", "luminaire"),
        ("header/artifact_name", "2.0"),
        ("header/artifact_group", ""),
        ("header/payload_type", "single-file"),
        ("files/dest_dir", "/usr/bin"),
    ];
    for (name, expected) in texts {
        assert_eq!(text(name), expected, "{name}");
    }
    let json = |name: &str| serde_json::from_str::<Value>(&text(name)).unwrap();
    assert_eq!(json("header/meta-data"), json!({"colour": "red"}));
    assert_eq!(json("header/type-info"), json!({"type": "single-file"}));
    assert_eq!(json("header/header-info")["artifact_provides"]["artifact_name"], "2.0");
    assert_eq!(fs::read_dir(tree.join("tmp")).unwrap().count(), 0);
}

/// What a spontaneous restart interrupts is rolled back, as the protocol wants it.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_of_a_module_ends_in_commit_or_in_roll_back_and_always_in_cleanup() {
    for (fails, restarts) in
        [(None, false), (None, true), (Some("ArtifactCommit"), false), (Some("ArtifactCommit"), true)]
    {
        for step in 0.. {
            let module = Module::new("Automatic", "Yes", fails.as_slice());
            let (rig, ended) = module.update(Some(step), restarts).await;
            if ended.survived {
                assert!(step > 15, "{step}");
                break;
            }
            let told = format!("dead before {step}, {restarts}: {ended:?} {:?}", module.states());
            let states = module.states();
            let count = |name: &str| states.iter().filter(|state| *state == name).count();
            assert!(count("ArtifactInstall") <= 1, "{told}");
            if count("ArtifactInstall") == 1 && ended.result.is_err() {
                assert!(count("ArtifactRollback") >= 1 && count("ArtifactFailure") >= 1, "{told}");
            }
            if ended.result.is_ok() {
                assert!(fails.is_none() && count("ArtifactRollback") == 0, "{told}");
                check_installed(&rig);
            } else {
                check_failed(&rig, UpdateStatus::UnsupportedImage);
            }
            assert_eq!(ended.notified.iter().filter(|(state, _)| *state == 0).count(), 1, "{told}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_module_that_answers_something_unknown_is_rolled_back() {
    let module = Module::new("Perhaps", "Yes", &[]);
    let (rig, ended) = module.update(None, false).await;
    assert!(ended.result.unwrap_err().contains("NeedsArtifactReboot is unknown"));
    assert!(module.states().contains(&"ArtifactRollback".to_owned()));
    check_failed(&rig, UpdateStatus::UnsupportedImage);
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_the_middle_of_a_module_is_judged_by_it_at_once() {
    let mut rig = Module::new("Automatic", "Yes", &[]).device().await;
    rig.perform(UPDATE).await.unwrap();
    rig.crash();
    rig.system.set_boot_id("boot-2");
    assert_eq!(rig.recover(UPDATE).await, Recovery::Done);
    check_installed(&rig);
}

#[test]
fn a_file_name_that_leads_elsewhere_is_refused_at_once() {
    for name in ["../x", "a/b", "", ".", ".."] {
        let module = MenderModuleInstaller { payload_name: name.into(), ..MenderModuleInstaller::new("/m") };
        assert_eq!(module.check(), Err(FirmwareOptionsError::FileName(name.into())), "{name}");
    }
    assert_eq!(MenderModuleInstaller::new("m").check(), Err(FirmwareOptionsError::Program("update module")));
}
