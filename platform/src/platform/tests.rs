//! The platform against the in-process broker and scripted devices, on loopback, with the clock paused.

use iotdm_core::{Code, ReqId};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::broker::Broker;
use crate::broker::tests::client::{Client, broker, broker_with};
use crate::broker::{Mount, Subscriptions};
use crate::proxy::FaultProxy;
use crate::track::{Failure, Outcome, Stage};

mod connection;
mod firmware;

/// Virtual time after which what a test waits for is not coming.
const PATIENCE: Duration = Duration::from_secs(3_600);

const MINUTE: Duration = Duration::from_secs(60);

fn pump() -> DeviceName {
    DeviceName::new("pump", "p-1").unwrap()
}

async fn platform(broker: &Broker) -> Platform {
    Platform::connect(options(broker)).await.unwrap()
}

fn options(broker: &Broker) -> PlatformOptions {
    PlatformOptions { seed: Some(1), ..PlatformOptions::new(broker.local_addr()) }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("what is waited for is not coming")
}

/// A device that does what the test tells it to.
struct Device {
    client: Client,
    made: u32,
}

impl Device {
    async fn connect(broker: &Broker, id: &str) -> Self {
        let mut client = Client::durable(broker.local_addr(), &format!("d:org:pump:{id}")).await;
        client.subscribe("iotdm-1/#").await;
        Self { client, made: 0 }
    }

    async fn managed(broker: &Broker, id: &str) -> Self {
        let mut device = Self::connect(broker, id).await;
        assert_eq!(device.ask("mgmt/manage", json!({})).await, Some(200));
        device
    }

    /// Sends a request of its own under a fresh reqId.
    async fn tell(&mut self, suffix: &str, d: &Value) -> String {
        self.made += 1;
        let req_id = format!("own-{}", self.made);
        self.publish(suffix, &json!({"d": d, "reqId": req_id})).await;
        req_id
    }

    /// Sends a request and waits for its answer's code.
    async fn ask(&mut self, suffix: &str, d: Value) -> Option<u64> {
        let req_id = self.tell(suffix, &d).await;
        let (topic, answer) = self.next().await;
        assert_eq!((topic.as_str(), &answer["reqId"]), ("iotdm-1/response", &json!(req_id)));
        answer["rc"].as_u64()
    }

    async fn publish(&self, suffix: &str, payload: &Value) {
        self.client.publish(&format!("iotdevice-1/{suffix}"), payload.to_string()).await;
    }

    /// The next message, acknowledged.
    async fn next(&mut self) -> (String, Value) {
        let publish = self.client.message().await;
        self.client.ack(&publish).await;
        (publish.topic.clone(), serde_json::from_slice(&publish.payload).unwrap_or(Value::Null))
    }

    /// Takes the request that must come next, and answers it.
    async fn answer(&mut self, suffix: &str, rc: u16) -> Value {
        let (topic, request) = self.next().await;
        assert_eq!(topic, format!("iotdm-1/{suffix}"));
        self.publish("response", &json!({"rc": rc, "reqId": request["reqId"]})).await;
        request
    }
}

#[tokio::test(start_paused = true)]
async fn a_reboot_is_complete_with_the_manage_after_it() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::managed(&broker, "p-1").await;
    let reboot = platform.initiate(&pump(), &Request::reboot()).unwrap();
    assert_eq!(reboot.snapshot().stage, Stage::Initiated);
    let request = device.answer("mgmt/initiate/device/reboot", 202).await;
    assert_eq!(request, json!({"reqId": reboot.req_id().to_string()}));
    assert_eq!(soon(reboot.answered()).await.unwrap().rc, Code::ACCEPTED);
    assert_eq!(reboot.snapshot().stage, Stage::Answered);
    device.ask("mgmt/manage", json!({"lifetime": 3600})).await;
    assert_eq!(soon(reboot.completed()).await, Outcome::Complete);
    assert_eq!(platform.device(&pump()).unwrap().manages, 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_refused_or_times_out() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::managed(&broker, "p-1").await;
    let refused = platform.initiate(&pump(), &Request::custom("lamp", "on").field("seq", "1")).unwrap();
    let request = device.answer("mgmt/custom/lamp/on", 501).await;
    assert_eq!(request["d"], json!({"fields": [{"field": "seq", "value": "1"}]}));
    assert_eq!(soon(refused.completed()).await, Outcome::Failed(Failure::Answered(Code::UNSUPPORTED)));

    let start = Instant::now();
    let silent = platform.initiate(&pump(), &Request::factory_reset().timeout(MINUTE)).unwrap();
    assert_eq!(soon(silent.completed()).await, Outcome::TimedOut);
    assert_eq!(start.elapsed().as_secs(), 60);
    device.answer("mgmt/initiate/device/factory_reset", 202).await;
    assert!(soon(silent.answered_times(1)).await, "the late answer is still seen");
    assert_eq!(silent.snapshot().outcome(), Some(Outcome::TimedOut));
}

#[tokio::test(start_paused = true)]
async fn a_replay_is_the_same_message_and_its_answers_are_counted_together() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::managed(&broker, "p-1").await;
    let action = platform.initiate(&pump(), &Request::custom("lamp", "on").field("seq", "1")).unwrap();
    let first = device.answer("mgmt/custom/lamp/on", 200).await;
    platform.replay(&action).unwrap();
    assert_eq!(device.answer("mgmt/custom/lamp/on", 200).await, first);
    assert!(soon(action.answered_times(2)).await);
    platform.replay(&action).unwrap();
    device.answer("mgmt/custom/lamp/on", 500).await;
    assert!(soon(action.answered_times(3)).await);
    let tracked = action.snapshot();
    assert_eq!((tracked.outcome(), tracked.differing_answers), (Some(Outcome::Complete), 1));
}

#[tokio::test(start_paused = true)]
async fn requests_of_devices_are_answered_by_the_book() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::connect(&broker, "p-1").await;
    for (suffix, d, rc) in [
        ("mgmt/manage", json!({"lifetime": 60}), 400),
        ("mgmt/manage", json!({"supports": {"deviceActions": true, "lamp": true}}), 200),
        ("device/update/location", json!({"latitude": 1.0}), 400),
        ("device/update/location", json!({"latitude": 1.0, "longitude": 2.0}), 200),
        ("add/diag/errorCodes", json!({"errorCode": 7}), 200),
        ("add/diag/log", json!({"message": "m", "timestamp": "t", "severity": 1}), 200),
        ("notify", json!({"fields": [{"field": "deviceInfo", "value": {}}]}), 404),
        ("notify", json!({"field": "deviceInfo", "value": {}}), 404),
    ] {
        assert_eq!(device.ask(suffix, d.clone()).await, Some(rc), "{suffix} {d}");
    }
    let view = platform.device(&pump()).unwrap();
    assert!(view.managed && view.device_actions && view.bundles.contains("lamp"));
    assert_eq!(view.location.unwrap().longitude, 2.0);
    assert_eq!((view.error_codes.len(), view.log.len()), (1, 1));
    for suffix in ["clear/diag/errorCodes", "clear/diag/log", "mgmt/unmanage"] {
        assert_eq!(device.ask(suffix, Value::Null).await, Some(200), "{suffix}");
    }
    let view = platform.device(&pump()).unwrap();
    assert!(!view.managed && view.error_codes.is_empty() && view.log.is_empty());
    assert_eq!(
        platform.initiate(&pump(), &Request::reboot()).unwrap_err(),
        InitiateError::NotManaged(pump())
    );
}

#[tokio::test(start_paused = true)]
async fn answers_can_be_chosen_and_withheld() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::connect(&broker, "p-1").await;
    platform.set_replies(Replies { manage: Reply::Always(Code::CONFLICT), ..Replies::default() });
    assert_eq!(device.ask("mgmt/manage", json!({})).await, Some(409));
    assert!(!platform.device(&pump()).is_some_and(|view| view.managed));
    platform.set_replies(Replies { manage: Reply::Silence, ..Replies::default() });
    device.tell("mgmt/manage", &json!({})).await;
    soon(platform.managed(&pump())).await;
    device.client.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_of_a_device_that_comes_twice_is_answered_twice_and_applied_once() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::connect(&broker, "p-1").await;
    let code = json!({"d": {"errorCode": 7}, "reqId": "same"});
    for _ in 0..2 {
        device.publish("add/diag/errorCodes", &code).await;
        assert_eq!(device.next().await.1, json!({"rc": 200, "reqId": "same"}));
    }
    assert_eq!(platform.device(&pump()).unwrap().error_codes, [7]);
}

#[tokio::test(start_paused = true)]
async fn raw_bytes_arrive_as_they_are_and_what_comes_back_is_an_event() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut events = platform.events();
    let mut device = Device::managed(&broker, "p-1").await;
    platform.send_raw(&pump(), "observe", "{oops", QoS::AtLeastOnce, false).unwrap();
    assert_eq!(&device.client.message().await.payload[..], b"{oops");
    device.publish("response", &json!({"rc": 400, "reqId": "stranger"})).await;
    device.publish("nonsense", &json!({})).await;
    let (mut answered, mut strange) = (false, false);
    while !(answered && strange) {
        match soon(events.recv()).await.unwrap().happening {
            Happening::Answered { req_id, number: 0, .. } => {
                answered = req_id == ReqId::from_text("stranger");
            }
            Happening::Strange { topic, .. } => strange = topic.ends_with("iotdevice-1/nonsense"),
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_raw_request_is_tracked_by_the_req_id_it_carries() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::managed(&broker, "p-1").await;
    let request = Request::raw("nonsense", ReqId::from_text("n"), r#"{"reqId":"n","d":7}"#);
    let handle = platform.initiate(&pump(), &request).unwrap();
    assert_eq!(device.answer("nonsense", 404).await["d"], json!(7));
    assert_eq!(soon(handle.completed()).await, Outcome::Failed(Failure::Answered(Code::NOT_FOUND)));
}

#[tokio::test(start_paused = true)]
async fn many_devices_are_asked_at_once_and_tracked_one_by_one() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut first = Device::managed(&broker, "p-1").await;
    let mut second = Device::managed(&broker, "p-2").await;
    let names: Vec<DeviceName> =
        ["p-1", "p-2", "never-seen"].iter().map(|id| DeviceName::new("pump", id).unwrap()).collect();
    let handles = platform.initiate_many(&names, &Request::custom("lamp", "on")).unwrap();
    first.answer("mgmt/custom/lamp/on", 200).await;
    second.answer("mgmt/custom/lamp/on", 500).await;
    let outcome = async |number: usize| soon(handles[number].as_ref().unwrap().completed()).await;
    assert_eq!(outcome(0).await, Outcome::Complete);
    assert_eq!(outcome(1).await, Outcome::Failed(Failure::Answered(Code::FAILED)));
    assert!(matches!(handles[2], Err(InitiateError::NotManaged(_))));

    let mixed = [pump(), DeviceName::new("lamp", "l-1").unwrap()];
    assert_eq!(platform.initiate_many(&mixed, &Request::update()).unwrap_err(), InitiateError::SeveralTypes);
}

#[tokio::test(start_paused = true)]
async fn a_gateways_device_is_answered_where_it_spoke() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut gateway = Client::durable(broker.local_addr(), "g:org:gw:g7").await;
    gateway.subscribe("iotdm-1/type/+/id/+/#").await;
    gateway.publish("iotdevice-1/type/pump/id/p-1/mgmt/manage", r#"{"reqId":"m"}"#).await;
    assert_eq!(gateway.message().await.topic, "iotdm-1/type/pump/id/p-1/response");
    platform.initiate(&pump(), &Request::reboot()).unwrap();
    assert_eq!(gateway.message().await.topic, "iotdm-1/type/pump/id/p-1/mgmt/initiate/device/reboot");
}

#[tokio::test(start_paused = true)]
async fn a_plain_broker_with_one_device_needs_no_prefix() {
    let broker = broker_with(|options| options.mount = Mount::Off).await;
    let space = Space::single("", pump()).unwrap();
    let platform = Platform::connect(PlatformOptions { space, ..options(&broker) }).await.unwrap();
    let mut device = Device::managed(&broker, "p-1").await;
    let reboot = platform.initiate(&pump(), &Request::reboot()).unwrap();
    device.answer("mgmt/initiate/device/reboot", 202).await;
    assert!(soon(reboot.answered()).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_operator_can_give_a_request_up_and_the_device_does_not_learn_of_it() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::managed(&broker, "p-1").await;
    let reboot = platform.initiate(&pump(), &Request::reboot()).unwrap();
    device.answer("mgmt/initiate/device/reboot", 202).await;
    assert!(platform.give_up(&reboot) && !platform.give_up(&reboot));
    assert_eq!(soon(reboot.completed()).await, Outcome::GivenUp);
    device.client.expect_quiet().await;
}
