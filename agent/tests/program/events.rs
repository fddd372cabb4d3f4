//! What the program publishes by itself.

use iotdm_platform::broker::{Broker, BrokerOptions, Observer, Seen};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::harness::{Place, within};

#[tokio::test]
async fn the_facts_of_the_machine_are_published_as_an_event_without_a_platform_that_manages() {
    let (sender, mut events) = mpsc::unbounded_channel();
    let observer = Observer::new(move |sighting| {
        if let Seen::Published { topic, payload } = sighting.what
            && topic == "iot-2/evt/facts/fmt/json"
        {
            // The test may have ended.
            let _ = sender.send(payload);
        }
    });
    let broker = Broker::start(BrokerOptions { observer, ..BrokerOptions::default() }).await.unwrap();
    let facts = "[events]\nstore_count = 10\n[actions.diagnostics.facts]\nevent_interval = \"10s\"\n";
    let place = Place::new(broker.local_addr(), facts);
    let agent = place.start(&["run"]);
    let event = within(events.recv()).await.unwrap();
    let facts: Value = serde_json::from_slice(&event).unwrap();
    assert!(facts["uptimeSeconds"].as_u64().is_some() && facts["time"].is_string(), "{facts}");
    agent.stop().await.check(0, "");
}
