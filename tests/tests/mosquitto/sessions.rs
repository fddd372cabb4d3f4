//! Durable sessions: what the broker keeps while the device, or the broker itself, is away.

use iotdm_agent::State;
use iotdm_core::MAX_PAYLOAD_BYTES;
use iotdm_tests::application::{Application, bench_request};
use iotdm_tests::device::Device;
use iotdm_tests::mosquitto::Mosquitto;
use iotdm_tests::within;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet};

/// Requests of one absence: more than the window of mosquitto, so that acknowledgements have to move it.
const REQUESTS: usize = 50;

/// A device that is managed, and the application that has seen it.
async fn managed(mosquitto: &Mosquitto) -> (Device, Application) {
    let mut application = Application::connect(mosquitto.port()).await;
    let mut device = Device::new(mosquitto.port());
    device.start();
    application.attend(|seen| seen.manages == 1).await;
    is(&device, State::Managed).await;
    (device, application)
}

async fn is(device: &Device, wanted: State) {
    let mut state = device.product().state();
    within("change of state", state.wait_for(|state| *state == wanted)).await.expect("the agent runs");
}

fn ask(application: &Application, name: &str) -> Vec<String> {
    let req_ids: Vec<String> = (0..REQUESTS).map(|number| format!("{name}-{number}")).collect();
    for req_id in &req_ids {
        application.bench("echo", req_id, "");
    }
    req_ids
}

async fn all_answered(application: &mut Application, req_ids: &[String]) {
    let seen = application.attend(|seen| req_ids.iter().all(|id| seen.responses.contains_key(id))).await;
    assert!(req_ids.iter().all(|id| seen.responses[id][0]["rc"] == 200));
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_requests_of_an_absence_are_answered_with_one_manage_per_connection() {
    let mosquitto = Mosquitto::start();
    let (mut device, mut application) = managed(&mosquitto).await;
    for absence in 1..=3 {
        if absence % 2 == 0 {
            device.kill().await
        } else {
            device.stop().await
        }
        let req_ids = ask(&application, &format!("absence-{absence}"));
        device.start();
        all_answered(&mut application, &req_ids).await;
        is(&device, State::Managed).await;
        application.bench("echo", &format!("live-{absence}"), "");
        application.response(&format!("live-{absence}")).await;
        assert_eq!(application.seen().manages, 1 + absence);
    }
    // That the broker has an answer is written down lazily: a kill right behind it sends that one again.
    let responses = application.seen().responses.iter();
    let mut again = responses.filter(|(_, all)| all.len() > 1).map(|(req_id, _)| req_id.as_str());
    assert!(again.all(|req_id| req_id == "live-1"), "only a kill repeats an answer");
    device.stop().await;
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_a_device_that_was_connected_survives_a_restart_of_the_broker() {
    let mut mosquitto = Mosquitto::persistent();
    let (mut device, mut application) = managed(&mosquitto).await;
    mosquitto.stop();
    is(&device, State::Disconnected).await;
    mosquitto.resume();
    application.subscribed(2).await;
    application.attend(|seen| seen.manages == 2).await;
    let req_ids = ask(&application, "after");
    all_answered(&mut application, &req_ids).await;
    device.stop().await;
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_requests_of_an_absence_survive_a_restart_of_the_broker() {
    let mut mosquitto = Mosquitto::persistent();
    let (mut device, application) = managed(&mosquitto).await;
    device.stop().await;
    let req_ids = ask(&application, "kept");
    application.acknowledged().await;
    mosquitto.terminate();
    mosquitto.resume();
    let mut application = application;
    application.subscribed(2).await;
    device.start();
    all_answered(&mut application, &req_ids).await;
    assert_eq!(application.seen().manages, 2);
    device.stop().await;
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_the_largest_request_is_answered() {
    let mosquitto = Mosquitto::start();
    let (mut device, mut application) = managed(&mosquitto).await;
    let room = MAX_PAYLOAD_BYTES - bench_request("largest", "").len();
    application.bench("echo", "largest", &"x".repeat(room));
    let answer = application.response("largest").await;
    assert_eq!((answer["rc"].as_u64(), answer["d"]["pad"].as_str().map(str::len)), (Some(200), Some(room)));
    assert_eq!(application.seen().manages, 1, "the connection held");
    device.stop().await;
}

/// A message that no client takes would come back with every connection, for ever.
#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_a_request_above_the_limit_ends_in_no_loop() {
    let mosquitto = Mosquitto::start();
    let (mut device, mut application) = managed(&mosquitto).await;
    for (index, bytes) in [MAX_PAYLOAD_BYTES + 1, 200_001, 600_000].into_iter().enumerate() {
        application.bench("echo", &format!("too-large-{index}"), &"x".repeat(bytes));
        application.bench("echo", &format!("after-{index}"), "");
        let after = application.response(&format!("after-{index}")).await;
        assert_eq!(after["rc"], 200);
    }
    // The first one that rumqttc refuses costs a connection, or two; after that they are taken and dropped.
    assert!(application.seen().manages <= 3, "{} connections", application.seen().manages);
    device.stop().await;
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_a_device_recovers_from_a_second_client_with_its_id() {
    let mosquitto = Mosquitto::start();
    let (mut device, mut application) = managed(&mosquitto).await;
    let mut options = MqttOptions::new(device.client_id(), "127.0.0.1", mosquitto.port());
    options.set_clean_session(false).set_manual_acks(true);
    let (_client, mut thief) = AsyncClient::new(options, 16);
    let stolen = async { while !matches!(thief.poll().await, Ok(Event::Incoming(Packet::ConnAck(_)))) {} };
    within("connection of the second client", stolen).await;
    is(&device, State::Disconnected).await;
    let req_ids = ask(&application, "stolen");
    // It comes back, and that ends the second client's connection: deliveries it has not acknowledged are ours.
    application.attend(|seen| seen.manages == 2).await;
    drop(thief);
    all_answered(&mut application, &req_ids).await;
    device.stop().await;
}
