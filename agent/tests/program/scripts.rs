//! Scripts that an operator declares, changes while the agent runs, and makes known to the platform.

use std::fs;

use iotdm_core::Code;
use iotdm_platform::Request;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Place, World, lamp, nowhere, until, within};

/// A declaration of a shell command line.
fn declaration(bundle: &str, action: &str, command: &str) -> String {
    format!(
        "[[script]]\nbundle = \"{bundle}\"\naction = \"{action}\"\nprogram = \"sh\"\nargs = [\"-c\", '{command}']\n"
    )
}

impl World {
    async fn ask(&self, request: &Request) -> Value {
        let request = self.platform.initiate(&lamp(), request).expect("the device is known");
        let answer = within(request.answered()).await.expect("it is answered");
        serde_json::from_slice(&answer.payload).expect("an answer is JSON")
    }
}

#[tokio::test]
async fn declared_parameters_are_enforced_before_the_run_and_reach_the_script_as_arguments() {
    let world = World::start().await;
    let place = Place::new(
        world.broker.local_addr(),
        "[[actions.script]]\nbundle = \"acme\"\naction = \"dim\"\nprogram = \"sh\"\n\
         args = [\"-c\", 'printf \"{\\\"percent\\\": $1, \\\"room\\\": \\\"$2\\\"}\"', \"--\", \"{percent}\", \"{room}\"]\n\
         exit = { 3 = 409 }\n\
         parameter = [{ name = \"percent\", type = \"integer\", min = 0, max = 100 },\n\
         { name = \"room\", type = \"string\", max_length = 9, default = \"hall\" }]\n",
    );
    let _agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let dim = || Request::custom("acme", "dim");
    let answer = world.ask(&dim().field("percent", "40").field("room", "$(id) a")).await;
    assert_eq!((&answer["rc"], &answer["d"]), (&json!(200), &json!({"percent": 40, "room": "$(id) a"})));
    let answer = world.ask(&dim().field("percent", "140")).await;
    assert_eq!(answer["message"], "percent: is out of range; write a whole number from 0 to 100");
    assert_eq!(answer["rc"], 400);
}

#[tokio::test]
async fn a_reload_exchanges_the_scripts_and_a_mistake_leaves_them_as_they_are() {
    let world = World::start().await;
    let place = Place::new(world.broker.local_addr(), "[actions]\nscripts_dir = \"scripts.d\"\n");
    fs::create_dir(place.path("scripts.d")).unwrap();
    place.write("scripts.d/lamp.toml", &declaration("lamp", "dim", "echo one"));
    let mut agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let dim = Request::custom("lamp", "dim");
    assert_eq!(world.ask(&dim).await["d"], json!({"output": "one\n"}));

    place.write("scripts.d/door.toml", "[[script]]\nbundel = \"door\"\n");
    agent.signal(Signal::HUP);
    let problem =
        agent.line("door.toml:2:1: script[0].bundel: is not a known key; did you mean `bundle`?").await;
    assert!(problem.contains(" ERROR "), "{problem}");
    agent.line("the configuration cannot be used; the scripts stay as they are").await;
    assert_eq!(world.ask(&dim).await["d"], json!({"output": "one\n"}));

    place.write("scripts.d/door.toml", &declaration("door", "open", "echo open"));
    place.write("scripts.d/lamp.toml", &declaration("lamp", "dim", "echo two"));
    agent.signal(Signal::HUP);
    agent.line("scripts were reloaded, 2 serve").await;
    assert_eq!(world.ask(&dim).await["d"], json!({"output": "two\n"}));
    assert_eq!(world.ask(&Request::custom("door", "open")).await["d"], json!({"output": "open\n"}));
    until(|| world.platform.device(&lamp()).is_some_and(|device| device.bundles.len() == 2)).await;

    fs::remove_file(place.path("scripts.d/lamp.toml")).unwrap();
    agent.signal(Signal::HUP);
    agent.line("scripts were reloaded, 1 serve").await;
    assert_eq!(world.ask(&dim).await["rc"], 501);
    assert_eq!(agent.stop().await.code, Some(0));
}

#[tokio::test]
async fn a_script_that_runs_while_the_scripts_are_reloaded_is_answered_as_it_began() {
    let world = World::start().await;
    let place = Place::new(world.broker.local_addr(), "[actions]\nscripts_dir = \"scripts.d\"\n");
    fs::create_dir(place.path("scripts.d")).unwrap();
    let command = "touch started; until test -e go; do sleep 0.1; done; echo done";
    let script = declaration("lamp", "wait", command) + "directory = \"..\"\n";
    place.write("scripts.d/lamp.toml", &script);
    let mut agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let wait = world.platform.initiate(&lamp(), &Request::custom("lamp", "wait")).unwrap();
    until(|| place.path("started").exists()).await;
    fs::remove_file(place.path("scripts.d/lamp.toml")).unwrap();
    agent.signal(Signal::HUP);
    agent.line("scripts were reloaded, 0 serve").await;
    place.write("go", "");
    assert_eq!(within(wait.answered()).await.unwrap().rc, Code::OK);
}

#[tokio::test]
async fn progress_of_a_script_is_in_the_device_s_log_at_the_platform_before_its_answer() {
    let world = World::start().await;
    let command = "echo progress 40 half way >&2; until test -e go; do sleep 0.1; done";
    let place = Place::new(
        world.broker.local_addr(),
        &format!(
            "[actions]\n{}directory = \".\"\n",
            declaration("lamp", "wait", command).replace("[[script]]", "[[actions.script]]")
        ),
    );
    let _agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let wait = world.platform.initiate(&lamp(), &Request::custom("lamp", "wait")).unwrap();
    let is_told = || {
        let device = world.platform.device(&lamp()).expect("it is managed");
        device
            .log
            .iter()
            .any(|entry| entry.message.starts_with("lamp/wait ") && entry.message.ends_with("40 %: half way"))
    };
    until(is_told).await;
    place.write("go", "");
    assert_eq!(within(wait.answered()).await.unwrap().rc, Code::OK);
}

#[tokio::test]
async fn the_extension_package_is_printed_from_the_declarations() {
    let place = Place::new(
        nowhere().await,
        "[[actions.script]]\nbundle = \"lamp\"\naction = \"dim\"\ntitle = \"Dim\"\nprogram = \"sh\"\n\
         parameter = [{ name = \"percent\", type = \"integer\", min = 0, max = 100 }]\n",
    );
    let ended = place.start(&["extension-package"]).ended().await;
    assert_eq!((ended.code, ended.log.as_str()), (Some(0), ""));
    assert_eq!(
        serde_json::from_str::<Value>(&ended.answer).unwrap(),
        json!({
            "bundleId": "lamp",
            "version": "1.0",
            "displayName": {"en_US": "lamp"},
            "actions": {
                "dim": {
                    "actionDisplayName": {"en_US": "Dim"},
                    "parameters": [{"name": "percent", "value": "[0-9]{1,3}", "required": true}]
                }
            }
        })
    );
}

#[tokio::test]
async fn one_of_several_extension_packages_is_chosen_by_its_bundle() {
    let script = declaration("lamp", "dim", "true").replace("[[script]]", "[[actions.script]]");
    let place = Place::new(nowhere().await, &format!("[actions.diagnostics]\n{script}"));
    let package = |args: &'static [&'static str]| place.start(args).ended();
    package(&["extension-package"])
        .await
        .check(64, "there are several bundles, iotdm, lamp; choose one with --bundle");
    package(&["extension-package", "--bundle", "door"])
        .await
        .check(64, "there is no bundle \"door\"; there is iotdm, lamp");
    let ended = package(&["extension-package", "--bundle", "iotdm"]).await;
    let package: Value = serde_json::from_str(&ended.answer).unwrap();
    assert_eq!(package["actions"]["clearLog"]["actionDisplayName"]["en_US"], "Clear the log");
    let place = Place::new(nowhere().await, "");
    let ended = place.start(&["extension-package"]).ended().await;
    ended.check(64, "nothing is configured that the platform needs an extension package for");
}
