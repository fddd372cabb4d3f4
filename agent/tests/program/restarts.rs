//! Restarts under the operator's rules, and a reset by wiping, by the program itself.

use std::fs;
use std::path::Path;

use iotdm_core::Code;
use iotdm_platform::Request;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Place, World, lamp, nowhere, within};

/// A data folder, and the sections of a reset that wipes it.
fn product() -> (TempDir, String) {
    let data = TempDir::new().expect("a folder for temporary files");
    let path = data.path().canonicalize().expect("the folder is ours");
    fs::create_dir(path.join("data")).expect("the folder is ours");
    fill(&path);
    let path = path.display();
    let sections = format!(
        "[actions.reboot]\ncommand = [\"sh\", \"-c\", \"echo restart >> {path}/calls\"]\n\
         [actions.factory_reset]\nwipe = [\"{path}/data\"]\nthen = [\"sh\", \"-c\", \"echo then >> {path}/calls\"]\n"
    );
    (data, sections)
}

fn fill(path: &Path) {
    fs::write(path.join("data/user"), "data").expect("the folder is ours");
}

fn calls(data: &TempDir) -> String {
    fs::read_to_string(data.path().join("calls")).unwrap_or_default().replace('\n', " ")
}

#[tokio::test]
async fn a_reset_wipes_runs_what_follows_and_restarts_and_a_killed_agent_only_restarts_again() {
    let world = World::start().await;
    let (data, sections) = product();
    let place = Place::new(world.broker.local_addr(), &sections);
    let mut agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let reset = world.platform.initiate(&lamp(), &Request::factory_reset()).unwrap();
    assert_eq!(within(reset.answered()).await.unwrap().rc, Code::ACCEPTED);
    agent.line("the device is about to restart").await;
    assert_eq!(fs::read_dir(data.path().join("data")).unwrap().count(), 0);
    assert_eq!(calls(&data), "then restart ");
    agent.signal(Signal::KILL);
    agent.ended().await;

    // The machine has not been restarted. What is there by now is not wiped again.
    fill(data.path());
    let mut agent = place.start(&["run"]);
    agent.line("the device is about to restart").await;
    assert_eq!(calls(&data), "then restart restart ");
    assert!(data.path().join("data/user").exists());
}

#[tokio::test]
async fn the_programs_of_the_operator_decide() {
    let world = World::start().await;
    let folder = TempDir::new().unwrap();
    let may = folder.path().join("may.sh");
    let rules = format!("veto_command = [\"sh\", \"{}\"]\nmax_restarts = 1\n", may.display());
    let sections = format!("[actions.reboot]\ncommand = [\"true\"]\n{rules}");
    let place = Place::new(world.broker.local_addr(), &sections);
    let ask = async || {
        let reboot = world.platform.initiate(&lamp(), &Request::reboot()).unwrap();
        let answer = within(reboot.answered()).await.unwrap();
        let payload: Value = serde_json::from_slice(&answer.payload).unwrap();
        (answer.rc.as_u16(), payload["message"].as_str().unwrap_or_default().to_owned())
    };
    let mut agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    fs::write(&may, "echo \"$IOTDM_RESTART $IOTDM_MOMENT\"; exit 75").unwrap();
    assert_eq!(ask().await, (409, "the application refuses at present: reboot request".into()));
    fs::write(&may, "exit 3").unwrap();
    assert_eq!(ask().await, (500, "the application could not be asked".into()));
    fs::write(&may, "exit 0").unwrap();
    assert_eq!(ask().await.0, 202);
    agent.line("the device is about to restart").await;
}

#[tokio::test]
async fn check_tells_the_rules_and_what_would_be_wiped() {
    let place = Place::new(
        nowhere().await,
        "[actions.reboot]\nmethod = \"logind\"\nwindow = [\"01:00-04:00\"]\nmax_restarts = 3\n\
         veto_command = [\"true\"]\n\
         [actions.factory_reset]\nwipe = [\"/var/lib/product\"]\nthen = [\"true\", \"s3cr3t\"]\n",
    );
    let ended = place.start(&["check"]).ended().await;
    ended.check(0, "");
    for line in [
        "  serve     reboot: logind, within 5m, in its maintenance windows, at most 3 in 1d, unless `true` refuses\n",
        "  serve     factory reset: wipe /var/lib/product, then `true` with 1 argument, then restart, within 15m\n",
    ] {
        assert!(ended.answer.contains(line), "{line}{}", ended.answer);
    }
}
