//! What the platform asks for and the configuration enables.

use std::fs;
use std::time::Duration;

use iotdm_core::Code;
use iotdm_platform::{FirmwareRequest, Image, Outcome, Request};
use serde_json::{Value, json};

use crate::harness::{CLIENT_ID, Place, World, lamp, within};

#[tokio::test]
async fn a_started_agent_says_when_it_is_managed_and_as_what() {
    let world = World::start().await;
    let place = Place::new(world.broker.local_addr(), "[device.info]\nmodel = \"L-200\"\n");
    let mut agent = place.start(&["run"]);
    let line = agent.line("managed as").await;
    let told = format!("managed as {CLIENT_ID} at {}", world.broker.local_addr());
    assert!(line.contains(" INFO ") && line.ends_with(&told), "{line}");
    let device = world.platform.device(&lamp()).unwrap();
    assert_eq!(device.device_info.unwrap().model.as_deref(), Some("L-200"));
    assert!(!device.device_actions && !device.firmware_actions && device.bundles.is_empty());
}

#[tokio::test]
async fn a_reboot_in_a_dry_run_is_answered_202_and_ends_with_the_next_manage() {
    let world = World::start().await;
    let place = Place::new(world.broker.local_addr(), "[actions.reboot]\ndry_run = true\n");
    let mut agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let reboot = world.platform.initiate(&lamp(), &Request::reboot()).unwrap();
    assert_eq!(within(reboot.answered()).await.unwrap().rc, Code::ACCEPTED);
    agent.line("dry run: no command is configured").await;
    assert_eq!(within(reboot.completed()).await, Outcome::Complete);
    assert_eq!(world.platform.device(&lamp()).unwrap().manages, 2);
}

#[tokio::test]
async fn reboot_and_factory_reset_are_enabled_one_by_one() {
    let world = World::start().await;
    let place = Place::new(world.broker.local_addr(), "[actions.factory_reset]\ndry_run = true\n");
    let _agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    assert!(world.platform.device(&lamp()).unwrap().device_actions);
    for (request, rc) in [(Request::reboot(), Code::UNSUPPORTED), (Request::factory_reset(), Code::ACCEPTED)]
    {
        let request = world.platform.initiate(&lamp(), &request).unwrap();
        assert_eq!(within(request.answered()).await.unwrap().rc, rc, "{}", request.suffix());
    }
}

#[tokio::test]
async fn a_dry_run_of_the_one_restart_leaves_the_other_real() {
    let world = World::start().await;
    let place = Place::new(
        world.broker.local_addr(),
        "[actions.reboot]\ncommand = [\"sh\", \"-c\", \"echo not permitted >&2; exit 1\"]\n\
         [actions.factory_reset]\ndry_run = true\n",
    );
    let mut agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let reset = world.platform.initiate(&lamp(), &Request::factory_reset()).unwrap();
    assert_eq!(within(reset.completed()).await, Outcome::Complete);
    world.platform.initiate(&lamp(), &Request::reboot()).unwrap();
    agent.line("the reboot command failed: exit status 1: not permitted").await;
}

#[tokio::test]
async fn a_restart_command_has_the_configured_budget() {
    let world = World::start().await;
    let place = Place::new(
        world.broker.local_addr(),
        "[actions.reboot]\ncommand = [\"sleep\", \"600\"]\nbudget = \"1s\"\n",
    );
    let mut agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    world.platform.initiate(&lamp(), &Request::reboot()).unwrap();
    agent.line("the reboot command failed: sleep was ended after its limit of 1s").await;
}

#[tokio::test]
async fn a_script_runs_and_its_json_is_the_answer() {
    let world = World::start().await;
    let place = Place::new(
        world.broker.local_addr(),
        "[[actions.script]]\nbundle = \"acme\"\naction = \"dim\"\nprogram = \"sh\"\nargs = [\"dim.sh\", \"a b\"]\n\
         directory = \".\"\nenv = { LEVEL = \"7\" }\n",
    );
    let script =
        "printf '{\"asked\": %s, \"argument\": \"%s\", \"level\": %s}' \"$(cat)\" \"$1\" \"$LEVEL\"\n";
    place.write("dim.sh", script);
    let _agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let request = Request::custom("acme", "dim").field("percent", "40");
    let dim = world.platform.initiate(&lamp(), &request).unwrap();
    let answer = within(dim.answered()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["rc"], 200, "{answer}");
    assert_eq!((&answer["d"]["argument"], &answer["d"]["level"]), (&json!("a b"), &json!(7)));
    assert_eq!(answer["d"]["asked"]["parameters"], json!({ "percent": "40" }));
}

#[tokio::test]
async fn firmware_is_fetched_and_installed_with_the_configured_command() {
    let world = World::start().await;
    let place = Place::new(
        world.broker.local_addr(),
        "[actions.reboot]\ndry_run = true\n\
         [actions.firmware]\nstaging_dir = \"images\"\nverify = \"if-given\"\nallow_file_uri = true\n\
         restart_after_install = true\n\
         install_command = [\"/bin/sh\", \"-c\", \"cp $0 $0.$1.installed\", \"{image}\", \"{version}\"]\n",
    );
    fs::create_dir(place.path("images")).unwrap();
    place.write("lamp.img", "the image");
    let mut agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let image = Image {
        version: "2.0.0".into(),
        uri: format!("file://{}", place.path("lamp.img").display()),
        ..Image::default()
    };
    let request = FirmwareRequest { image: Some(image), ..FirmwareRequest::default() };
    within(world.platform.firmware_download(&lamp(), &request)).await.unwrap();
    let request = FirmwareRequest { image: None, ..request };
    within(world.platform.firmware_update(&lamp(), &request)).await.unwrap();
    agent.line("dry run: no command is configured").await;
    let installed = fs::read_dir(place.path("images")).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        path.to_str().unwrap().ends_with(".2.0.0.installed").then_some(path)
    });
    assert_eq!(fs::read_to_string(installed.unwrap()).unwrap(), "the image");
}

#[tokio::test]
async fn diagnostics_tell_of_the_start_and_let_the_platform_clear_the_log() {
    let world = World::start().await;
    let place = Place::new(world.broker.local_addr(), "[actions.diagnostics]\n");
    let _agent = place.start(&["run"]);
    let log = || world.platform.device(&lamp()).map(|device| device.log).unwrap_or_default();
    within(world.platform.wait_until(|_| !log().is_empty())).await;
    assert_eq!(log()[0].message, concat!("iotdm-agent ", env!("CARGO_PKG_VERSION"), " has started"));
    assert!(world.platform.device(&lamp()).unwrap().bundles.contains("iotdm"));
    let clear = world.platform.initiate(&lamp(), &Request::custom("iotdm", "clearLog")).unwrap();
    assert_eq!(within(clear.answered()).await.unwrap().rc, Code::OK);
    within(world.platform.wait_until(|_| log().is_empty())).await;
}

#[tokio::test]
async fn a_declared_log_and_the_facts_come_when_the_platform_asks() {
    let world = World::start().await;
    let place = Place::new(
        world.broker.local_addr(),
        "[actions.diagnostics.facts]\n[[actions.diagnostics.log]]\nname = \"lamp\"\nfile = \"lamp.log\"\n",
    );
    fs::write(place.path("lamp.log"), "one\ntwo\n").unwrap();
    let _agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let ask = async |request: Request| -> Value {
        let answer = within(world.platform.initiate(&lamp(), &request).unwrap().answered()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    };
    let log = ask(Request::custom("iotdm", "uploadLog").field("source", "lamp").field("lines", "1")).await;
    assert_eq!(
        (&log["rc"], &log["d"]["bytes"], &log["d"]["truncated"]),
        (&json!(200), &json!(4), &json!(false))
    );
    assert!(log["d"]["data"].as_str().unwrap().starts_with("H4sI"), "gzip: {log}");
    let refused = ask(Request::custom("iotdm", "uploadLog").field("source", "/etc/passwd")).await;
    assert_eq!(refused["message"], "source: there is no such log; there are: lamp");
    let facts = ask(Request::custom("iotdm", "facts")).await;
    let memory = &facts["d"]["memory"];
    assert!(memory["totalBytes"].as_u64() > memory["availableBytes"].as_u64(), "{facts}");
    assert_eq!(facts["d"]["disks"][0]["path"], "/");
    // A moment after the start there is no metadata yet, and nothing to observe.
    let observed = loop {
        let observe = world.platform.observe(&lamp(), &["metadata"]).unwrap();
        let answer = within(observe.answered()).await.unwrap();
        if answer.rc == Code::OK {
            break serde_json::from_slice::<Value>(&answer.payload).unwrap();
        }
    };
    let told = &observed["d"]["fields"][0]["value"]["facts"];
    assert_eq!(told["memory"]["totalBytes"], memory["totalBytes"], "{observed}");
}

#[tokio::test]
async fn a_request_that_waited_too_long_is_refused_and_one_that_may_wait_runs() {
    let world = World::start().await;
    let place = Place::new(
        world.broker.local_addr(),
        "[actions.reboot]\ndry_run = true\nlate = { refuse_after = \"1s\" }\n\
         [[actions.script]]\nbundle = \"acme\"\naction = \"dim\"\nprogram = \"true\"\n",
    );
    let agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    assert_eq!(agent.stop().await.code, Some(0));
    let reboot = world.platform.initiate(&lamp(), &Request::reboot()).unwrap();
    let dim = world.platform.initiate(&lamp(), &Request::custom("acme", "dim")).unwrap();
    // What is tested is that time passes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let _agent = place.start(&["run"]);
    assert_eq!(within(reboot.answered()).await.unwrap().rc, Code::CONFLICT);
    assert_eq!(within(dim.answered()).await.unwrap().rc, Code::OK);
}
