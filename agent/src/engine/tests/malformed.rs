//! What is not a request: it is counted, acknowledged and dropped, or answered 400, and never stops anything.

use serde_json::{Value, json};

use super::world::*;

const ONCE: &str = "iotdm-1/mgmt/custom/lamp/once";
const REBOOT: &str = "iotdm-1/mgmt/initiate/device/reboot";

/// It is acknowledged, nothing is sent, nothing runs, and the next request is served.
fn check_dropped(topic: &str, payload: impl AsRef<[u8]>) {
    let mut world = World::new();
    let sent = world.broker.received.len();
    let commits = world.commits;
    world.deliver_raw(topic, payload.as_ref());
    let shown = String::from_utf8_lossy(&payload.as_ref()[..payload.as_ref().len().min(60)]).into_owned();
    assert_eq!(world.broker.unacknowledged(), 0, "{topic} {shown}");
    assert_eq!(world.broker.received.len(), sent, "{topic} {shown}");
    assert!(world.starts.is_empty(), "{topic} {shown}");
    assert_eq!(world.commits, commits, "{topic} {shown}");
    assert!(world.engine().counters().values().sum::<u64>() > 0, "{topic} {shown}");
    check_alive(world);
}

fn check_alive(mut world: World) {
    world.deliver("next", once());
    world.decide("next", yes(200));
    world.assert_answer("next", 200);
}

#[test]
fn what_is_no_json_object_is_acknowledged_and_dropped() {
    for payload in [
        &b""[..],
        b"hello",
        b"[]",
        b"7",
        b"null",
        b"\"r1\"",
        b"{",
        b"{\"reqId\":\"r1\"",
        b"{\"reqId\":\"r1\"}x",
        b"\0\0\0",
        b"\xff\xfe",
        b"{\"reqId\":\"\xc3\x28\"}",
        b"{\"reqId\":\"r1\",\"reqId\":\"r1\"}",
        b"{\"reqId\":\"r1\",\"d\":{},\"d\":{}}",
        b"{'reqId':'r1'}",
        b"{\"reqId\":\"r1\",}",
    ] {
        check_dropped(ONCE, payload);
        check_dropped(REBOOT, payload);
        check_dropped("iotdm-1/nonsense", payload);
    }
    check_dropped(ONCE, "[".repeat(100_000));
}

/// Found by fuzzing: the refusal quoted the body, escaped and so seven times as long; the answer did not fit a payload and
/// became 500.
#[test]
fn a_long_body_that_does_not_fit_is_the_platforms_mistake() {
    let mut world = World::new();
    let long = "\u{7f}".repeat(30_000);
    let d = json!({"fields": long});
    for action in ["observe", "cancel", "device/update"] {
        world.deliver(action, Ask::new(action).body(d.clone()));
        world.assert_answer(action, 400);
        assert!(world.message(action).len() < 2000);
    }
}

#[test]
fn without_a_req_id_nothing_runs_but_a_harmless_update() {
    for payload in ["{}", r#"{"reqId":null}"#, r#"{"d":{"fields":[]}}"#] {
        for topic in
            [ONCE, REBOOT, "iotdm-1/observe", "iotdm-1/cancel", "iotdm-1/device/update", "iotdm-1/nonsense"]
        {
            check_dropped(topic, payload);
        }
    }
    let mut world = World::new();
    let commits = world.commits;
    let location = json!({"longitude": 1.0, "latitude": 2.0});
    let body = json!({"d": {"fields": [{"field": "location", "value": location}]}});
    world.deliver_raw("iotdm-1/device/update", body.to_string());
    assert_eq!(world.engine().model().read("location"), Some(&location));
    assert_eq!(world.commits, commits + 1);
    world.restart();
    assert_eq!(world.engine().model().read("location"), Some(&location));
    assert!(world.broker.on("response").is_empty());
}

#[test]
fn a_req_id_that_cannot_be_kept_is_copied_back_with_400() {
    for req_id in [json!({"a": 1}), json!([1, [2]]), json!({}), json!("x".repeat(10_000))] {
        for topic in [ONCE, REBOOT, "iotdm-1/nonsense", "iotdm-1/observe"] {
            let mut world = World::new();
            let kept = world.engine().kept();
            world.deliver_raw(topic, json!({"reqId": req_id}).to_string());
            let answer: Value = world.broker.on("response").pop().expect("it is answered");
            assert_eq!((&answer["rc"], &answer["reqId"]), (&json!(400), &req_id));
            assert_eq!(world.engine().kept(), kept);
            assert!(world.starts.is_empty());
            check_alive(world);
        }
    }
}

#[test]
fn a_req_id_that_is_a_scalar_comes_back_as_it_came() {
    for req_id in ["7", "-1.50e3", "true", "\"\"", "\"\\u0000\"", "\"7\"", "9007199254740993"] {
        let mut world = World::new();
        world.deliver_raw("iotdm-1/nonsense", format!("{{\"reqId\":{req_id}}}"));
        world.restart();
        let last = world.broker.received.iter().rfind(|r| r.topic.ends_with("/response")).unwrap();
        let text = String::from_utf8(last.payload.to_vec()).unwrap();
        assert!(text.contains(r#""rc":404"#) && text.ends_with(&format!("\"reqId\":{req_id}}}")), "{text}");
    }
}

#[test]
fn a_number_and_its_text_are_two_requests() {
    let mut world = World::new();
    world.deliver_raw(ONCE, r#"{"reqId":7}"#);
    world.deliver_raw(ONCE, r#"{"reqId":"7"}"#);
    assert_eq!(world.starts.len(), 2);
}

#[test]
fn unknown_members_are_ignored() {
    let mut world = World::new();
    world.deliver_raw(
        "iotdm-1/observe",
        r#"{"reqId":"r1","x":[1],"d":{"fields":[{"field":"level","y":2}],"z":3}}"#,
    );
    world.assert_answer("r1", 200);
}

#[test]
fn the_largest_payload_is_served_and_one_byte_more_is_dropped() {
    let body = |n: usize| format!("{{\"reqId\":\"r1\",\"d\":\"{}\"}}", "x".repeat(n - 21));
    assert_eq!(body(131_072).len(), 131_072);
    let mut world = World::new();
    world.deliver_raw(ONCE, body(131_072));
    assert_eq!(world.runs("r1"), 1);
    world.restart();
    world.assert_answer("r1", 500);
    check_dropped(ONCE, body(131_073));
}

#[test]
fn a_body_of_any_depth_is_recorded_and_survives_a_restart() {
    for depth in [200, 60_000] {
        let mut world = World::with(|settings| settings.limits.running = 1);
        world.deliver("first", once());
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        world.deliver_raw(ONCE, format!("{{\"reqId\":\"r1\",\"d\":{deep}}}"));
        world.deliver_raw("iotdm-1/observe", format!("{{\"reqId\":\"r2\",\"d\":{deep}}}"));
        world.assert_answer("r2", 400);
        world.restart();
        assert_eq!(world.runs("r1"), 1);
        let task = world.agent.as_ref().unwrap().tasks.values().next().unwrap();
        assert_eq!(task.d.as_ref().unwrap().get(), deep);
    }
}

#[test]
fn a_topic_of_another_tree_is_dropped() {
    for topic in ["iotdm-1", "iot-2/cmd/x/fmt/json", "Iotdm-1/observe", "iotdevice-1/response", "x"] {
        check_dropped(topic, r#"{"reqId":"r1"}"#);
    }
}

#[test]
fn a_response_to_nothing_we_asked_is_dropped() {
    for payload in [
        r#"{"rc":200,"reqId":"nobody"}"#,
        r#"{"rc":404,"reqId":7}"#,
        r#"{"reqId":"x"}"#,
        "{}",
        r#"{"rc":"abc","reqId":"x"}"#,
        r#"{"rc":200,"reqId":{"a":1}}"#,
    ] {
        check_dropped("iotdm-1/response", payload);
    }
}

#[test]
fn one_req_id_on_two_devices_is_two_requests() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.deliver_raw("iotdm-1/type/T/id/other/mgmt/custom/lamp/once", r#"{"reqId":"r1"}"#);
    let other = world.broker.on("type/T/id/other/response");
    assert_eq!((other.len(), &other[0]["rc"], &other[0]["reqId"]), (1, &json!(404), &json!("r1")));
    world.decide("r1", yes(200));
    world.assert_answer("r1", 200);
    assert_eq!(world.starts.len(), 1);
}
