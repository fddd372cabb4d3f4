//! P7: nothing waits for what it need not; only reboot, reset and firmware share a lane.

use iotdm_core::{Late, Performed, Route};
use serde_json::json;

use crate::engine::Input;

use super::world::*;

#[test]
fn the_next_in_the_lane_waits_ten_seconds_and_is_then_told_who_holds_it() {
    let mut world = World::new();
    world.deliver("r1", download());
    world.deliver("r2", reboot());
    world.pass(secs(9));
    world.assert_unanswered("r2");
    world.pass(secs(2));
    world.assert_answer("r2", 409);
    assert_eq!(world.message("r2"), "a firmware download is under way");
    assert_eq!(world.runs("r2"), 0);
}

#[test]
fn the_next_in_the_lane_starts_when_it_is_free() {
    let mut world = World::new();
    world.deliver("r1", download());
    world.deliver("r2", reset());
    world.deliver("r3", reboot());
    world.decide("r1", yes(202));
    assert_eq!(world.runs("r2"), 0, "the work after the 202 holds the lane, too");
    world.performed("r1", Ok(Performed::Complete));
    assert_eq!((world.runs("r2"), world.runs("r3")), (1, 0));
    world.decide("r2", yes(202));
    world.performed("r2", Ok(Performed::Complete));
    assert_eq!(world.runs("r3"), 1);
}

#[test]
fn what_is_refused_at_the_gate_does_not_keep_the_lane() {
    let mut world = World::with(|settings| {
        settings.policies.get_mut(&Route::FactoryReset).unwrap().late = Late::RefuseAfter(secs(5));
    });
    world.deliver("r1", download());
    world.deliver("late", reset());
    world.deliver("r2", reboot());
    world.decide("r1", yes(202));
    world.go_offline();
    world.pass(secs(7));
    world.performed("r1", Ok(Performed::Complete));
    assert_eq!((world.runs("late"), world.runs("r2")), (0, 1));
}

#[test]
fn the_lane_is_free_only_when_the_task_has_ended() {
    let mut world = World::new();
    world.obeys_cancel = false;
    world.deliver("r1", download());
    world.pass(secs(31));
    world.assert_answer("r1", 500);
    world.deliver("r2", reboot());
    assert_eq!(world.runs("r2"), 0);
    world.deliver("r1", download());
    world.assert_same_answers("r1", 2);
    // What it returns late is dropped.
    world.input(Input::Decided(key("r1"), yes(202)));
    world.end("r1");
    assert_eq!((world.runs("r2"), world.performs("r1")), (1, 0));
    world.deliver("r1", download());
    world.assert_same_answers("r1", 3);
}

/// The answer of a request that was given up was forgotten, and its reqId came again for the lane: two tasks of one reqId
/// are one too many, and the agent panicked.
#[test]
fn a_reqid_comes_to_the_lane_when_its_forgotten_task_has_ended() {
    let mut world = World::with(|settings| settings.limits.kept_executed = 1);
    world.obeys_cancel = false;
    world.deliver("r1", once());
    world.pass(secs(31));
    world.assert_answer("r1", 500);
    world.deliver("r2", once());
    world.decide("r2", yes(200));
    world.deliver("r1", reboot());
    assert_eq!(world.runs("r1"), 1);
    world.end("r1");
    assert_eq!(world.runs("r1"), 2);
}

#[test]
fn a_place_is_free_only_when_the_task_has_ended() {
    let mut world = World::with(|settings| settings.limits.running = 1);
    world.obeys_cancel = false;
    world.deliver("r1", once());
    world.deliver("r2", once());
    world.pass(secs(31));
    world.assert_answer("r1", 500);
    assert_eq!(world.runs("r2"), 0);
    world.end("r1");
    assert_eq!(world.runs("r2"), 1);
}

#[test]
fn sixty_four_run_at_once_and_the_next_starts_when_one_has_ended() {
    let mut world = World::new();
    for n in 0..66 {
        world.deliver(&format!("r{n}"), once());
    }
    assert_eq!((world.runs("r63"), world.runs("r64")), (1, 0));
    world.decide("r7", yes(200));
    assert_eq!((world.runs("r64"), world.runs("r65")), (1, 0));
}

#[test]
fn the_devices_own_model_takes_no_place() {
    let mut world = World::new();
    for n in 0..64 {
        world.deliver(&format!("r{n}"), once());
    }
    world.deliver("o", observe("level"));
    world.deliver("u", update("metadata", json!({"a": 1})));
    world.deliver("c", cancel("level"));
    world.deliver("lane", reboot());
    assert_eq!((world.codes("o"), world.codes("u"), world.codes("c")), (vec![200], vec![204], vec![200]));
    assert_eq!(world.runs("lane"), 1, "nor does the lane");
}

#[test]
fn a_slow_handler_delays_nobody() {
    let mut world = World::new();
    world.deliver("slow", once());
    world.deliver("quick", once());
    world.decide("quick", yes(200));
    world.assert_answer("quick", 200);
    assert!(world.is_running("slow"));
}

#[test]
fn those_who_wait_for_the_lane_behind_a_restart_that_failed_wait_from_there_on() {
    let mut world = World::new();
    world.deliver("slow", once());
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.pass(secs(8));
    world.deliver("r2", download());
    world.decide("slow", yes(200));
    world.pass(secs(4));
    world.performed("r1", Ok(Performed::Complete));
    assert_eq!(world.runs("r2"), 1);
}
