//! What is in the log, and what never is.

use iotdm_core::Code;
use iotdm_platform::{Outcome, Request};
use serde_json::Value;

use crate::harness::{Place, World, lamp, within};

#[tokio::test]
async fn the_token_of_a_file_reaches_the_broker_and_never_the_log() {
    let token = "s3cr3t-t0k3n";
    let world = World::start_with_token(token).await;
    let place = Place::new(world.broker.local_addr(), "[auth]\ntoken_file = \"token\"\n");
    place.write("token", &format!("{token}\n"));
    let mut agent = place.start(&["run", "--log-level", "trace"]);
    agent.line("managed as").await;
    let ended = agent.stop().await;
    assert!(ended.code == Some(0) && !ended.log.contains(token), "{ended:?}");
}

#[tokio::test]
async fn json_lines_name_the_request_and_the_action() {
    let world = World::start().await;
    let place = Place::new(world.broker.local_addr(), "[actions.reboot]\ndry_run = true\n");
    let agent = place.start(&["run", "--log-format", "json"]);
    within(world.platform.managed(&lamp())).await;
    let reboot = world.platform.initiate(&lamp(), &Request::reboot()).unwrap();
    assert_eq!(within(reboot.answered()).await.unwrap().rc, Code::ACCEPTED);
    assert_eq!(within(reboot.completed()).await, Outcome::Complete);
    let ended = agent.stop().await;
    let lines: Vec<Value> = ended.log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let about = |line: &&Value| {
        line["reqId"] == reboot.req_id().to_string() && line["action"] == "mgmt/initiate/device/reboot"
    };
    let told: Vec<_> = lines.iter().filter(about).map(|line| line["message"].as_str().unwrap()).collect();
    assert!(told.contains(&"accepted; the work follows") && told.contains(&"done"), "{}", ended.log);
    let in_handler = |line: &Value| {
        line["span"]["reqId"] == reboot.req_id().to_string() && line["message"] == "restarting"
    };
    assert!(lines.iter().any(in_handler), "what a handler says names its request: {}", ended.log);
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
}
