//! P2: a replay never runs twice.

use iotdm_core::{Performed, Recovery};
use serde_json::json;

use super::world::*;

#[test]
fn a_replay_of_a_finished_request_gets_the_same_bytes_and_runs_nothing() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.deliver("r1", once());
    world.flap();
    world.deliver("r1", once());
    world.restart();
    world.deliver("r1", once());
    world.reboot();
    world.deliver("r1", once());
    world.assert_only("r1", 200);
    assert!(world.answers("r1").len() >= 5);
    assert_eq!(world.runs("r1"), 1);
    assert!(world.is_acked("r1"));
}

#[test]
fn copies_that_arrive_while_a_request_runs_share_its_run_and_its_answer() {
    let mut world = World::new();
    for _ in 0..3 {
        world.send("r1", once());
    }
    world.run();
    assert!(world.is_acked("r1"), "all three copies are acknowledged");
    world.decide("r1", yes(200));
    world.assert_answer("r1", 200);
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn a_replay_while_a_request_waits_for_its_place_joins_it() {
    let mut world = World::with(|settings| settings.limits.running = 1);
    world.deliver("first", once());
    world.deliver("r1", once());
    world.deliver("r1", once());
    assert_eq!((world.runs("r1"), world.is_acked("r1")), (0, true));
    world.decide("first", yes(200));
    world.decide("r1", yes(200));
    world.assert_answer("r1", 200);
}

#[test]
fn a_replay_in_each_stage_of_a_202_action_gets_the_same_202() {
    let mut world = World::new();
    world.deliver("r1", after());
    world.deliver("r1", after());
    world.assert_unanswered("r1");
    world.broker.pubacks = false;
    world.decide("r1", yes(202));
    world.assert_same_answers("r1", 1);
    // Its answer is on its way: it goes once more, however many copies there are.
    world.deliver("r1", after());
    world.deliver("r1", after());
    world.assert_same_answers("r1", 1);
    world.puback();
    world.assert_same_answers("r1", 2);
    assert_eq!(world.performs("r1"), 1);
    world.deliver("r1", after());
    world.assert_same_answers("r1", 3);
    world.performed("r1", Ok(Performed::Complete));
    world.deliver("r1", after());
    world.assert_same_answers("r1", 4);
    world.restart();
    world.deliver("r1", after());
    world.assert_only("r1", 202);
    assert!(world.answers("r1").len() >= 5);
    assert_eq!((world.runs("r1"), world.performs("r1")), (1, 1));
}

#[test]
fn a_replay_that_arrives_with_the_answer_of_before_unsent_adds_nothing() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.go_offline();
    world.decide("r1", yes(200));
    world.send("r1", once());
    world.broker.pubacks = false;
    world.reconnect();
    world.puback();
    // One for the copy of before, one because the replay met it on its way at the latest.
    assert!((1..=2).contains(&world.answers("r1").len()));
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn a_replay_after_nine_days_gets_the_stored_answer() {
    let mut world = World::new();
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.performed("r1", Ok(Performed::Restarting));
    world.reboot();
    world.recovered("r1", Recovery::Done);
    world.pass(secs(9 * 24 * 3600));
    world.deliver("r1", reboot());
    world.restart();
    world.deliver("r1", reboot());
    world.assert_only("r1", 202);
    assert!(world.answers("r1").len() >= 3);
    assert_eq!((world.runs("r1"), world.performs("r1")), (1, 1));
}

#[test]
fn a_request_that_is_redelivered_on_every_connection_runs_once() {
    let mut world = World::new();
    for _ in 0..20 {
        // The PUBACK is lost each time: the commit is done, then the process dies.
        world.send("r1", once());
        world.crash_at = Some(world.points + 2);
        world.run();
        world.start();
    }
    assert!(world.runs("r1") <= 1);
    assert!(world.is_acked("r1"));
}

#[test]
fn one_req_id_with_another_body_is_answered_400_and_runs_nothing() {
    let mut world = World::new();
    let lamp = |colour: &str| once().body(json!({"fields": [{"field": "colour", "value": colour}]}));
    world.deliver("r1", lamp("red"));
    world.deliver("r1", lamp("blue"));
    assert_eq!(world.codes("r1"), [400]);
    assert_eq!(world.message("r1"), "this reqId was used for another request");
    world.decide("r1", yes(200));
    world.deliver("r1", lamp("blue"));
    world.deliver("r1", reboot());
    world.deliver("r1", lamp("red"));
    assert_eq!(world.codes("r1"), [400, 200, 400, 400, 200]);
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn a_body_in_another_member_order_is_the_same_request() {
    let mut world = World::new();
    world.deliver_raw("iotdm-1/mgmt/custom/lamp/once", r#"{"d":{"a":1,"b":2},"reqId":"r1"}"#);
    world.deliver_raw("iotdm-1/mgmt/custom/lamp/once", r#"{"reqId":"r1", "d":{"b":2, "a":1}}"#);
    world.decide("r1", yes(200));
    world.assert_answer("r1", 200);
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn a_replayed_observe_gives_the_current_value() {
    let mut world = World::new();
    world.deliver("r1", observe("level"));
    world.input(crate::engine::Input::SetAttributes(vec![("level".into(), json!(2))], None));
    world.restart();
    world.deliver("r1", observe("level"));
    let values: Vec<_> =
        world.broker.on("response").iter().map(|r| r["d"]["fields"][0]["value"].clone()).collect();
    assert_eq!(values, [json!(1), json!(2)]);
}

#[test]
fn a_replay_of_a_409_gets_it_again() {
    let mut world = World::new();
    world.deliver("busy", download());
    world.deliver("r1", reboot());
    world.pass(secs(11));
    world.decide("busy", yes(202));
    world.performed("busy", Ok(Performed::Complete));
    world.restart();
    world.deliver("r1", reboot());
    world.assert_same_answers("r1", 2);
    assert_eq!((world.codes("r1")[0], world.runs("r1")), (409, 0));
}

#[test]
fn a_request_beyond_the_newest_kept_is_forgotten_and_no_flood_of_refusals_does_that() {
    let mut world = World::with(|settings| {
        settings.limits.kept_executed = 3;
        settings.limits.kept_refused = 3;
    });
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.deliver("busy", download());
    for n in 0..50 {
        world.deliver(&format!("f{n}"), download());
        world.deliver(&format!("j{n}"), Ask::new("nonsense"));
    }
    world.pass(secs(11));
    world.deliver("r1", once());
    assert_eq!((world.runs("r1"), world.answers("r1").len()), (1, 2));
    for n in 0..3 {
        world.deliver(&format!("e{n}"), once());
        world.decide(&format!("e{n}"), yes(200));
    }
    world.restart();
    world.deliver("r1", once());
    assert_eq!(world.runs("r1"), 2);
}
