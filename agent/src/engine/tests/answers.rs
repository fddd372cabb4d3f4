//! P3: every delivery of a request with a readable reqId is followed by its answer.

use iotdm_core::{Code, Refusal};
use serde_json::json;

use super::world::*;

#[test]
fn an_unknown_topic_is_answered_404() {
    for suffix in ["nonsense", "", "/observe", "mgmt//initiate/device/reboot", "mgmt/custom/a", "observe/"] {
        let mut world = World::new();
        world.deliver("r1", Ask::new(suffix));
        world.assert_answer("r1", 404);
        assert!(world.is_acked("r1"));
    }
}

#[test]
fn an_action_that_is_not_offered_is_answered_501() {
    let mut world =
        World::with(|settings| settings.policies.retain(|route, _| *route != iotdm_core::Route::Reboot));
    world.deliver("r1", reboot());
    world.deliver("r2", Ask::new("mgmt/custom/unknown/action"));
    world.deliver("r3", Ask::new("mgmt/custom/lamp/unknown"));
    for id in ["r1", "r2", "r3"] {
        world.assert_answer(id, 501);
    }
}

#[test]
fn a_body_that_does_not_fit_is_answered_400_and_not_kept() {
    let mut world = World::new();
    let kept = world.engine().kept();
    world.deliver("r1", once());
    world.decide("r1", iotdm_core::Decision::Undecodable(Refusal::bad_request("d.colour: expected a text")));
    world.deliver("r2", observe("level").body(json!({"fields": "level"})));
    world.deliver("r3", observe("level").body(json!(7)));
    world.deliver("r4", update("location", json!("here")));
    for id in ["r1", "r2", "r3", "r4"] {
        world.assert_answer(id, 400);
    }
    assert_eq!(world.engine().kept(), kept);
}

#[test]
fn passing_answers_are_forgotten_once_the_broker_has_them() {
    let mut world = World::new();
    let kept = world.engine().kept();
    world.broker.pubacks = false;
    world.deliver("r1", Ask::new("nonsense"));
    world.deliver("r2", Ask::new("mgmt/custom/no/no"));
    world.deliver("r3", observe("nonsense"));
    assert_eq!(world.engine().kept(), kept + 3);
    world.restart();
    assert_eq!(world.engine().kept(), kept + 3, "they are kept until then, also across a restart");
    world.puback();
    assert_eq!(world.engine().kept(), kept);
    // What is forgotten is forgotten durably, with the next commit at the latest.
    world.deliver("r4", once());
    world.restart();
    assert_eq!(world.engine().kept(), kept + 1);
}

#[test]
fn a_404_does_not_stand_in_the_way_of_a_request_with_its_req_id() {
    let mut world = World::new();
    world.broker.pubacks = false;
    world.deliver("r1", Ask::new("nonsense"));
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.puback();
    assert_eq!(world.codes("r1"), [404, 200]);
}

#[test]
fn a_refusal_of_the_handler_is_the_answer_and_kept() {
    for (refusal, rc) in [
        (Refusal::bad_request("state is 1"), 400),
        (Refusal::busy("not now"), 409),
        (Refusal::failed("broken"), 500),
        (Refusal::new(Code::from_u16(503), "later"), 503),
    ] {
        let mut world = World::new();
        world.deliver("r1", once());
        world.decide("r1", no(refusal));
        world.deliver("r1", once());
        world.assert_same_answers("r1", 2);
        assert_eq!((world.codes("r1")[0], world.runs("r1")), (rc, 1));
    }
}

#[test]
fn a_handler_that_overruns_is_cancelled_and_answered_500() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.pass(secs(29));
    world.assert_unanswered("r1");
    world.pass(secs(2));
    world.assert_answer("r1", 500);
    assert!(!world.is_running("r1"));
}

#[test]
fn a_task_that_ends_without_a_result_is_answered_500() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.end("r1");
    world.assert_answer("r1", 500);
}

#[test]
fn work_that_a_crash_interrupted_is_answered_500_unless_it_may_run_again() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.deliver("r2", again());
    world.restart();
    world.assert_answer("r1", 500);
    assert!(world.message("r1").contains("may have happened"));
    world.decide("r2", yes(200));
    world.assert_answer("r2", 200);
    assert_eq!((world.runs("r1"), world.runs("r2")), (1, 2));
}

#[test]
fn a_message_at_qos_0_is_answered_all_the_same() {
    let mut world = World::new();
    world.broker.route_as("iotdm-1/nonsense", br#"{"reqId":"r1"}"#.to_vec(), false, true);
    world.broker.route_as("iotdm-1/mgmt/custom/lamp/once", br#"{"reqId":"r2"}"#.to_vec(), false, true);
    world.run();
    world.decide("r2", yes(200));
    world.assert_answer("r1", 404);
    world.assert_answer("r2", 200);
}

#[test]
fn a_retained_request_never_runs() {
    let mut world = World::new();
    for (n, ask) in [reboot(), once(), update("metadata", json!({"a": 1}))].into_iter().enumerate() {
        let id = format!("r{n}");
        world.broker.route_as(&ask.topic, ask.payload(&json!(id)), true, false);
        world.run();
        world.assert_answer(&id, 400);
        assert_eq!(world.runs(&id), 0);
    }
    world.broker.route_as(
        "iotdm-1/device/update",
        br#"{"d":{"fields":[{"field":"metadata","value":{"a":1}}]}}"#.to_vec(),
        true,
        false,
    );
    world.run();
    assert_eq!(world.engine().model().read("metadata"), Some(&json!({})));
}

#[test]
fn an_answer_too_large_for_a_message_becomes_500() {
    let mut world = World::new();
    world.deliver("r1", once());
    let d = serde_json::value::to_raw_value(&"x".repeat(140_000)).unwrap();
    let parts = iotdm_core::ReplyParts { rc: Code::OK, d: Some(d) };
    world.decide("r1", iotdm_core::Decision::Replied(parts));
    world.assert_answer("r1", 500);
    world.deliver("r2", once());
    world.decide("r2", no(Refusal::failed("y".repeat(140_000))));
    world.assert_answer("r2", 500);
}
