use std::time::Duration;

use bytes::Bytes;
use iotdm_core::BootId;
use serde_json::{Value, json};

use super::*;
use crate::config::Limits;
use crate::engine::Settings;
use crate::testing::simulation::settings::settings;

fn named(type_id: &str, device_id: &str) -> Subject {
    Subject::Named { type_id: type_id.parse().unwrap(), device_id: device_id.parse().unwrap() }
}

fn now(secs: u64) -> Now {
    let monotonic = Duration::from_secs(secs);
    Now { monotonic, uptime: monotonic, wall: Duration::from_secs(1_780_000_000 + secs) }
}

/// A gateway with two pumps, the first of which may have one unsent answer.
struct Bench {
    hub: Hub,
    packet: u16,
    /// What left, in order: acknowledged packets, and publishes under their numbers on the wire.
    acknowledged: Vec<u16>,
    published: Vec<(PublishId, String, Bytes)>,
    disconnects: usize,
    connects: usize,
}

impl Bench {
    fn connected() -> Self {
        let mut seed = 0;
        let mut engine = |subject: &Subject, outbox, attached: bool| {
            seed += 1;
            Engine::new(Settings {
                subject: subject.clone(),
                gateway: attached.then(|| BootId("boot-1".into())),
                limits: Limits { outbox, ..Limits::default() },
                seed,
                ..settings()
            })
        };
        let gateway = named("gw", "g7");
        let mut hub = Hub::new(gateway.clone(), engine(&gateway, 4096, false));
        for (id, outbox) in [("p-1", 1), ("p-2", 4096)] {
            let pump = named("pump", id);
            hub.add(pump.clone(), engine(&pump, outbox, true));
        }
        hub.start(now(0));
        hub.handle_timeout(now(0));
        let mut bench = Self {
            hub,
            packet: 0,
            acknowledged: Vec::new(),
            published: Vec::new(),
            disconnects: 0,
            connects: 0,
        };
        bench.perform();
        bench.connect(0);
        bench
    }

    fn connect(&mut self, at: u64) {
        self.hub.link(now(at), Input::Connected { session_present: true });
        self.hub.link(now(at), Input::Subscribed { granted: true });
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(batch) = self.hub.poll() {
            for (_, effect) in batch.effects {
                match effect {
                    Effect::Acknowledge(delivery) => self.acknowledged.push(delivery.packet),
                    Effect::Publish { id, topic, payload } => self.published.push((id, topic, payload)),
                    Effect::Disconnect => self.disconnects += 1,
                    Effect::Connect { .. } => self.connects += 1,
                    _ => {}
                }
            }
        }
    }

    /// A request on a topic that the device does not know: it is answered 404 in the same batch.
    fn ask(&mut self, device: &str, req_id: &str) {
        self.packet += 1;
        let delivered = Delivered {
            delivery: Some(Delivery { epoch: 1, packet: self.packet }),
            topic: format!("iotdm-1/type/pump/id/{device}/nonsense"),
            payload: json!({ "reqId": req_id }).to_string().into(),
            retained: false,
            waited: None,
        };
        self.hub.link(now(1), Input::Delivered(delivered));
        self.perform();
    }

    fn answer_of(&self, req_id: &str) -> PublishId {
        let is_it = |payload: &Bytes| {
            serde_json::from_slice::<Value>(payload).is_ok_and(|body| body["reqId"] == req_id)
        };
        self.published.iter().find(|(_, _, payload)| is_it(payload)).expect("it was published").0
    }
}

#[test]
fn one_connection_is_made_and_each_device_manages_itself_under_a_number_of_its_own() {
    let bench = Bench::connected();
    assert_eq!(bench.connects, 1);
    let topics: Vec<&str> = bench.published.iter().map(|(_, topic, _)| topic.as_str()).collect();
    assert_eq!(
        topics.iter().filter(|topic| topic.ends_with("/mgmt/manage")).count(),
        3,
        "one each: {topics:?}"
    );
    let mut ids: Vec<PublishId> = bench.published.iter().map(|(id, ..)| *id).collect();
    ids.dedup();
    assert_eq!(ids.len(), bench.published.len(), "{ids:?}");
}

/// MQTT wants acknowledgements in the order of arrival; a device that can take nothing more holds the others' back.
#[test]
fn acknowledgements_leave_in_the_order_of_arrival_whichever_engine_gives_them() {
    let mut bench = Bench::connected();
    bench.ask("p-1", "a");
    bench.ask("p-1", "b");
    bench.ask("p-2", "c");
    bench.ask("p-9", "d");
    assert_eq!(bench.acknowledged, [1], "the first pump has an unsent answer, and may have one");
    let first = bench.answer_of("a");
    bench.hub.link(now(1), Input::Acknowledged(first));
    bench.perform();
    assert_eq!(bench.acknowledged, [1, 2, 3, 4]);
}

#[test]
fn an_acknowledgement_of_a_publish_finds_the_engine_it_came_from() {
    let mut bench = Bench::connected();
    bench.ask("p-2", "x");
    let answer = bench.answer_of("x");
    assert!(!bench.hub.is_quiet());
    for (id, ..) in std::mem::take(&mut bench.published) {
        if id != answer {
            bench.hub.link(now(1), Input::Acknowledged(id));
        }
    }
    assert!(!bench.hub.is_quiet(), "the answer is not there yet");
    bench.hub.link(now(1), Input::Acknowledged(answer));
    assert!(bench.hub.is_quiet());
}

#[test]
fn an_engine_that_gives_the_connection_up_gives_it_up_for_all() {
    let mut bench = Bench::connected();
    bench.ask("p-1", "a");
    for n in 0..600 {
        // Nothing is acknowledged: more is waiting than the first pump may hold.
        let payload = json!({ "reqId": n, "d": "x".repeat(60_000) }).to_string();
        bench.packet += 1;
        let delivered = Delivered {
            delivery: Some(Delivery { epoch: 1, packet: bench.packet }),
            topic: "iotdm-1/type/pump/id/p-1/nonsense".into(),
            payload: payload.into(),
            retained: false,
            waited: None,
        };
        bench.hub.link(now(1), Input::Delivered(delivered));
    }
    bench.perform();
    assert_eq!(bench.disconnects, 1);
    for device in ["p-1", "p-2"] {
        assert!(!bench.hub.engine(&named("pump", device)).unwrap().is_connected(), "{device}");
    }
    assert!(bench.hub.poll_timeout().is_some(), "the gateway connects again");
}

/// Else a manage from before could be taken for the end of a reboot that was accepted since.
#[test]
fn what_waited_for_the_window_dies_with_the_connection() {
    let mut bench = Bench::connected();
    for n in 0..200 {
        bench.ask("p-2", &n.to_string());
        bench.ask("p-9", &n.to_string());
    }
    let sent = bench.published.len();
    assert!(sent <= 64, "{sent} on their way");
    bench.hub.link(now(2), Input::Disconnected(Lost::Other));
    bench.perform();
    assert_eq!(bench.published.len(), sent);
    bench.published.clear();
    bench.hub.handle_timeout(now(600));
    bench.perform();
    bench.connect(601);
    let topics: Vec<&str> = bench.published.iter().map(|(_, topic, _)| topic.as_str()).collect();
    assert!(!topics.is_empty() && topics.len() <= 64, "{}", topics.len());
    // Stored answers first, and each manage once.
    let manages = topics.iter().filter(|topic| topic.ends_with("/mgmt/manage")).count();
    assert!(manages <= 3, "{topics:?}");
}

#[test]
fn a_detached_device_holds_nobodys_acknowledgement_back() {
    let mut bench = Bench::connected();
    bench.ask("p-1", "a");
    bench.ask("p-1", "b");
    bench.ask("p-2", "c");
    assert_eq!(bench.acknowledged, [1]);
    bench.hub.detach(now(1), &named("pump", "p-1"));
    bench.perform();
    assert_eq!(bench.acknowledged, [1, 2, 3]);
}
