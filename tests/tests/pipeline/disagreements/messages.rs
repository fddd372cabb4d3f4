//! Requests, answers and topics.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use iotdm_agent::State;
use iotdm_agent::engine::PublishId;
use iotdm_agent::link::{Connection, Link, LinkEvent};
use iotdm_agent::testing::Running;
use iotdm_core::{Action, Code, Reboot, Restart, Route, Subject, Topic, UpRoute};
use serde_json::{Value, json};

use crate::product::{Echo, Once, Rig};

/// Writes down what is subscribed to.
#[derive(Debug)]
struct Recorder<T> {
    inner: T,
    filters: Arc<Mutex<Vec<String>>>,
}

impl<T: Link> Link for Recorder<T> {
    fn open(&mut self) -> Box<dyn Connection> {
        Box::new(Recorder { inner: self.inner.open(), filters: self.filters.clone() })
    }
}

#[async_trait]
impl Connection for Recorder<Box<dyn Connection>> {
    async fn next(&mut self) -> LinkEvent {
        self.inner.next().await
    }

    fn try_next(&mut self) -> Option<LinkEvent> {
        self.inner.try_next()
    }

    fn subscribe(&mut self, filters: &[String]) {
        self.filters.lock().expect("no holder of the lock panics").extend_from_slice(filters);
        self.inner.subscribe(filters);
    }

    fn acknowledge(&mut self, packet: u16) {
        self.inner.acknowledge(packet);
    }

    fn publish(&mut self, id: PublishId, topic: String, payload: Bytes) {
        self.inner.publish(id, topic, payload);
    }

    fn publish_once(&mut self, id: PublishId, topic: String, payload: Bytes) {
        self.inner.publish_once(id, topic, payload);
    }

    fn disconnect(&mut self) {
        self.inner.disconnect();
    }
}

/// Starts a device whose manage the platform answers with this rc, and waits until it takes itself for managed.
async fn managed_by_rc(rig: &Rig, rc: Value) -> Running {
    rig.platform.answer(UpRoute::Manage, None);
    let running = rig.start();
    rig.platform.managed(1).await;
    let mut state = running.device().state();
    assert_ne!(*state.borrow_and_update(), State::Managed);
    let req_id = &rig.platform.published(UpRoute::Manage)[0]["reqId"];
    let answer = json!({ "rc": rc, "message": "success", "reqId": req_id });
    rig.platform.send_raw("iotdm-1/response", answer.to_string());
    let managed = state.wait_for(|state| *state == State::Managed);
    // Virtual time: less than the agent waits for an answer before it sends manage again.
    let managed = tokio::time::timeout(Duration::from_secs(5), managed).await;
    managed.expect("the answer is taken as success").expect("the agent outlives the wait");
    running
}

async fn observe(rig: &Rig, req_id: &str, field: &str) -> Value {
    rig.platform.send(Route::Observe, json!({"reqId": req_id, "d": {"fields": [{"field": field}]}}));
    rig.platform.response(req_id).await
}

/// `docs/protocol.md` §9 point 3.
#[tokio::test(start_paused = true)]
async fn a_notify_is_an_array_with_a_req_id_so_that_a_404_is_noticed() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let notifies = || rig.platform.published(UpRoute::Notify);
    running.device().set_attribute("lamp", &1).await.unwrap();
    assert_eq!(observe(&rig, "o", "lamp").await["rc"], 200);
    rig.platform.answer(UpRoute::Notify, Some(Code::NOT_FOUND));
    running.device().set_attribute("lamp", &2).await.unwrap();
    rig.platform.until(|platform| !platform.published(UpRoute::Notify).is_empty()).await;
    assert_eq!(notifies()[0]["d"], json!({"fields": [{"field": "lamp", "value": 2}]}));
    assert!(notifies()[0]["reqId"].is_string());
    rig.platform.drained().await;
    running.device().set_attribute("lamp", &3).await.unwrap();
    rig.ask::<Echo>("after").await;
    assert_eq!(notifies().len(), 1, "the platform does not observe it, so nothing more is sent");
}

/// `docs/protocol.md` §9 point 4.
#[tokio::test(start_paused = true)]
async fn a_code_is_taken_as_a_decimal_string_and_sent_as_an_integer() {
    let rig = Rig::new();
    let _running = managed_by_rc(&rig, json!("200")).await;
    assert_eq!(rig.ask::<Echo>("e").await["rc"], json!(200));
}

/// `docs/protocol.md` §9 point 5.
#[tokio::test(start_paused = true)]
async fn zero_is_taken_as_success_and_never_sent() {
    let rig = Rig::new();
    let _running = managed_by_rc(&rig, json!(0)).await;
    assert_eq!(rig.ask::<Echo>("e").await["rc"], 200);
}

/// `docs/protocol.md` §9 point 12.
#[tokio::test(start_paused = true)]
async fn device_update_is_answered_exactly_when_it_has_a_req_id() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let fields = |longitude: f64| {
        let value = json!({"longitude": longitude, "latitude": 2.0});
        json!({"fields": [{"field": "location", "value": value}]})
    };
    let longitude =
        || running.device().attribute::<Value>("location").map(|place| place["longitude"].clone());
    let before = rig.platform.everything().len();
    rig.platform.send(Route::DeviceUpdate, json!({"d": fields(1.0)}));
    rig.platform.drained().await;
    assert_eq!(longitude(), Some(json!(1.0)));
    assert_eq!(rig.platform.everything().len(), before);

    rig.platform.send(Route::DeviceUpdate, json!({"reqId": "u", "d": fields(3.0)}));
    assert_eq!(rig.platform.response("u").await["rc"], 204);
    assert_eq!(longitude(), Some(json!(3.0)));
    assert_eq!(rig.platform.everything().len(), before + 1);
}

/// `docs/protocol.md` §9 point 13.
#[tokio::test(start_paused = true)]
async fn an_update_that_changes_nothing_is_204() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    let fields = json!([{"field": "metadata", "value": {"pole": 17}}]);
    for req_id in ["first", "same"] {
        rig.platform.send(Route::DeviceUpdate, json!({"reqId": req_id, "d": {"fields": fields}}));
        assert_eq!(rig.platform.response(req_id).await, json!({"rc": 204, "reqId": req_id}));
    }
}

/// `docs/protocol.md` §9 point 14.
#[test]
fn a_gateways_topics_have_no_final_slash() {
    let name = |text: &str| text.parse().unwrap();
    let subject = Subject::Named { type_id: name("T"), device_id: name("D") };
    let response = Topic { subject: subject.clone(), route: UpRoute::Response }.to_string();
    assert_eq!(response, "iotdevice-1/type/T/id/D/response");
    assert_eq!(Topic::<UpRoute>::parse(&format!("{response}/")), None);
    // Two levels below what `+` reaches, and of this device.
    let reboot = Topic::parse("iotdm-1/type/T/id/D/mgmt/initiate/device/reboot");
    assert_eq!(reboot, Some(Topic { subject, route: Route::Reboot }));
}

/// `docs/protocol.md` §9 point 15.
#[tokio::test(start_paused = true)]
async fn a_device_subscribes_to_all_of_its_topics_once() {
    let rig = Rig::new();
    let filters = Arc::default();
    let link = Recorder { inner: rig.platform.link(), filters: Arc::clone(&filters) };
    let _running = rig.start_with(|builder| builder.link(link));
    rig.platform.managed(1).await;
    assert_eq!(*filters.lock().unwrap(), ["iotdm-1/#"]);
}

/// `docs/protocol.md` §9 point 17.
#[tokio::test(start_paused = true)]
async fn a_reboot_is_answered_first_and_a_custom_action_worked_first() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.send::<Once>("custom");
    rig.until_run("once custom").await;
    rig.ask::<Echo>("meanwhile").await;
    assert!(rig.platform.responses("custom").is_empty(), "it still works");
    rig.product.gate.notify_one();
    assert_eq!(rig.platform.response("custom").await["rc"], 200);

    rig.platform.hold_pubacks(true);
    assert_eq!(rig.ask::<Reboot>("reboot").await["rc"], 202);
    rig.ask::<Echo>("before").await;
    assert!(rig.system.restarts().is_empty(), "the broker does not have the answer yet");
    rig.platform.hold_pubacks(false);
    rig.until_run("restart reboot").await;
    rig.ask::<Echo>("after").await;
    assert_eq!(rig.system.restarts(), [Restart::Reboot]);
}

/// `docs/protocol.md` §9 point 18.
#[tokio::test(start_paused = true)]
async fn the_wire_says_factory_reset() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    for (name, rc) in [("factory_reset", 501), ("factoryReset", 404)] {
        let topic = format!("iotdm-1/mgmt/initiate/device/{name}");
        rig.platform.send_raw(&topic, json!({ "reqId": name }).to_string());
        assert_eq!(rig.platform.response(name).await["rc"], rc, "{name}");
    }
}

/// `docs/protocol.md` §9 point 27.
#[tokio::test(start_paused = true)]
async fn a_duplicate_is_known_by_its_req_id_alone() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    // Each is a message of its own: another packet id, no DUP flag; the last one has no packet id at all.
    let first = rig.ask::<Echo>("r").await;
    assert_eq!(rig.ask::<Echo>("r").await, first);
    let topic = Topic::own(Echo::ROUTE).to_string();
    rig.platform.send_oddly(&topic, json!({"reqId": "r"}).to_string(), false, false);
    assert_eq!(rig.platform.response("r").await, first);
    rig.ask::<Echo>("s").await;
    assert_eq!(rig.product.runs(), ["echo r", "echo s"]);
}
