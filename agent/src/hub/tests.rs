use std::time::Duration;

use bytes::Bytes;
use iotdm_core::BootId;
use serde_json::{Value, json};

use super::*;
use crate::config::Limits;
use crate::engine::{Delivery, Settings};
use crate::testing::simulation::settings::{FRESH_FOR, settings};

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
        self.ask_at(1, device, "nonsense", req_id);
    }

    fn ask_at(&mut self, at: u64, device: &str, suffix: &str, req_id: &str) {
        self.packet += 1;
        let delivered = Delivered {
            delivery: Some(Delivery { epoch: 1, packet: self.packet }),
            topic: format!("iotdm-1/type/pump/id/{device}/{suffix}"),
            payload: json!({ "reqId": req_id }).to_string().into(),
            retained: false,
            waited: None,
        };
        self.hub.link(now(at), Input::Delivered(delivered));
        self.perform();
    }

    /// The platform answers every manage that was sent.
    fn manage(&mut self, at: u64) {
        for (id, topic, payload) in std::mem::take(&mut self.published) {
            self.hub.link(now(at), Input::Acknowledged(id));
            let Some(device) = topic.strip_suffix("/mgmt/manage") else { continue };
            let device = device.replace("iotdevice-1/", "iotdm-1/");
            let body: Value = serde_json::from_slice(&payload).unwrap();
            let delivered = Delivered {
                delivery: None,
                topic: format!("{device}/response"),
                payload: json!({ "reqId": body["reqId"], "rc": 200 }).to_string().into(),
                retained: false,
                waited: None,
            };
            self.hub.link(now(at), Input::Delivered(delivered));
        }
        self.perform();
    }

    fn rc_of(&self, req_id: &str) -> Option<u64> {
        let bodies =
            self.published.iter().filter_map(|(_, _, payload)| serde_json::from_slice::<Value>(payload).ok());
        bodies.filter(|body| body["reqId"] == req_id).find_map(|body| body["rc"].as_u64())
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

/// The numbers of an engine begin at nothing: an acknowledgement of before could be taken for that of its next `202`.
#[test]
fn what_a_detached_device_had_on_its_way_is_none_of_what_it_sends_when_it_is_attached_again() {
    let mut bench = Bench::connected();
    let pump = named("pump", "p-2");
    bench.ask("p-2", "before");
    let before: Vec<PublishId> = bench.published.drain(..).map(|(id, ..)| id).collect();
    bench.hub.detach(now(1), &pump);
    let again = Settings {
        subject: pump.clone(),
        gateway: Some(BootId("boot-1".into())),
        limits: Limits::default(),
        seed: 9,
        ..settings()
    };
    bench.hub.attach(now(1), pump.clone(), Engine::new(again));
    bench.ask("p-2", "after");
    for id in before {
        bench.hub.link(now(2), Input::Acknowledged(id));
    }
    assert!(!bench.hub.engine(&pump).unwrap().is_quiet(), "its answer has not arrived");
    let after = bench.answer_of("after");
    bench.hub.link(now(2), Input::Acknowledged(after));
    assert!(bench.hub.engine(&pump).unwrap().is_quiet());
}

/// Brokers deliver again on a live connection, too (NATS). What is taken as one message is acknowledged once.
#[test]
fn what_is_delivered_again_while_it_waits_for_room_holds_nobodys_acknowledgement_back() {
    let mut bench = Bench::connected();
    bench.ask("p-1", "a");
    bench.ask("p-1", "b");
    bench.packet -= 1;
    bench.ask("p-1", "b");
    bench.ask("p-2", "c");
    assert_eq!(bench.acknowledged, [1]);
    let first = bench.answer_of("a");
    bench.hub.link(now(1), Input::Acknowledged(first));
    bench.perform();
    assert_eq!(bench.acknowledged, [1, 2, 3]);
}

/// A device that can take nothing more closes the broker's window for all: what comes for another one then may be old.
#[test]
fn what_the_broker_may_have_kept_back_because_of_another_device_counts_as_old() {
    let mut bench = Bench::connected();
    bench.manage(1);
    bench.ask_at(2, "p-2", "mgmt/custom/lamp/fresh", "live");
    assert_eq!(bench.rc_of("live"), None, "it is carried out");
    bench.ask_at(3, "p-1", "nonsense", "a");
    bench.ask_at(3, "p-1", "nonsense", "b");
    let first = bench.answer_of("a");
    let freed = 3 + 2 * FRESH_FOR.as_secs();
    bench.hub.link(now(freed), Input::Acknowledged(first));
    bench.perform();
    bench.ask_at(freed, "p-2", "mgmt/custom/lamp/fresh", "kept back");
    assert_eq!(bench.rc_of("kept back"), Some(409));
    bench.manage(freed + 1);
    bench.manage(freed + 2);
    bench.ask_at(freed + 3, "p-2", "mgmt/custom/lamp/fresh", "live again");
    assert_eq!(bench.rc_of("live again"), None, "it is carried out");
}

/// Hundreds of devices have events; an answer waits for none that is not on its way.
#[test]
fn answers_overtake_the_events_of_other_devices_that_wait() {
    let mut bench = Bench::connected();
    bench.manage(1);
    for n in 0..100 {
        let device = format!("p-{n}0");
        let waiting = Waiting {
            of: named("pump", &device),
            id: PublishId(0),
            topic: format!("iot-2/type/pump/id/{device}/evt/level/fmt/json"),
            payload: Bytes::from_static(b"{}"),
            event: Some(iotdm_core::Qos::AtLeastOnce),
        };
        bench.hub.publishes.push(waiting);
    }
    let mut effects = Vec::new();
    bench.hub.publishes.send(&mut effects);
    assert_eq!(effects.len(), crate::engine::EVENTS_WINDOW, "no more of all devices than of one");
    bench.ask("p-2", "x");
    bench.answer_of("x");
}

/// On a slow line the turn of a device may come late; that is no reason to give up what all share.
#[test]
fn a_connection_that_moves_is_not_given_up_though_a_device_waits_long_for_its_turn() {
    let mut bench = Bench::connected();
    for n in 0..100 {
        bench.ask("p-9", &format!("other {n}"));
    }
    for n in 0..8 {
        bench.ask("p-2", &n.to_string());
    }
    let mut at = 1;
    let mut on_their_way: std::collections::VecDeque<PublishId> =
        bench.published.iter().map(|(id, ..)| *id).collect();
    while let Some(id) = on_their_way.pop_front() {
        at += 30;
        bench.hub.handle_timeout(now(at));
        let sent = bench.published.len();
        bench.hub.link(now(at), Input::Acknowledged(id));
        bench.perform();
        on_their_way.extend(bench.published[sent..].iter().map(|(id, ..)| *id));
        if bench.rc_of("7").is_some() {
            break;
        }
    }
    assert!(at > 120, "{at}");
    assert_eq!(bench.disconnects, 0);
    bench.hub.handle_timeout(now(at + 3600));
    bench.perform();
    assert_eq!(bench.disconnects, 1, "and one that does not move is");
}
