//! Attributes as an operator configures them.

use iotdm_core::{AttributeValue, Code};
use serde_json::{Value, json};

use crate::harness::{Place, World, lamp, within};

const REST: &str = "[device.metadata]\nlux = 100\n\
                    [device.location]\nlatitude = 48.1374\nlongitude = 11.5755\n\
                    [attributes.metadata]\nmin_change = { lux = 10 }\nmin_interval = \"1d\"\n";

async fn set_lux(world: &World, lux: u32) {
    let values = [AttributeValue { field: "metadata".into(), value: json!({ "lux": lux }) }];
    let request = world.platform.update_attributes(&lamp(), &values).expect("the device is managed");
    assert_eq!(within(request.answered()).await.expect("it is not given up").rc, Code::CHANGED);
}

/// The value that an observe is answered with; whatever was to be notified before it has arrived then.
async fn observe(world: &World, name: &str) -> Value {
    let request = world.platform.observe(&lamp(), &[name]).expect("the device is managed");
    let answer = within(request.answered()).await.expect("it is not given up");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("an answer is JSON");
    answer["d"]["fields"][0]["value"].clone()
}

fn notified(world: &World) -> Option<Value> {
    world.platform.device(&lamp()).expect("the device is managed").notified.get("metadata").cloned()
}

#[tokio::test]
async fn a_configured_location_is_reported_and_notifications_keep_to_their_threshold() {
    let world = World::start().await;
    let place = Place::new(world.broker.local_addr(), REST);
    let _agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let is_reported = |platform: &iotdm_platform::Platform| {
        platform.device(&lamp()).is_some_and(|device| device.location.is_some())
    };
    within(world.platform.wait_until(is_reported)).await;
    assert_eq!(world.platform.device(&lamp()).unwrap().location.unwrap().latitude, 48.1374);

    assert_eq!(observe(&world, "metadata").await, json!({ "lux": 100 }));
    set_lux(&world, 109).await;
    observe(&world, "location").await;
    assert_eq!(notified(&world), None, "9 is less than 10");
    set_lux(&world, 110).await;
    let is_told = |_: &iotdm_platform::Platform| notified(&world) == Some(json!({ "lux": 110 }));
    within(world.platform.wait_until(is_told)).await;
    set_lux(&world, 500).await;
    assert_eq!(observe(&world, "metadata").await, json!({ "lux": 500 }), "the current value at any time");
    assert_eq!(notified(&world), Some(json!({ "lux": 110 })), "the day is not over");
}

#[tokio::test]
async fn check_tells_where_the_device_is_and_what_is_notified() {
    let place = Place::new("127.0.0.1:1".parse().unwrap(), REST);
    let ended = place.start(&["check"]).ended().await;
    for line in [
        "  be        at latitude 48.1374, longitude 11.5755\n",
        "  notify    metadata: a change of lux by 10, any other change; at most every 1day\n",
    ] {
        assert!(ended.answer.contains(line), "{line}{}", ended.answer);
    }
}
