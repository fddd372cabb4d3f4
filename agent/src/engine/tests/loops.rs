//! P6: no loop.

use iotdm_core::{Performed, Recovery, Refusal};

use super::world::*;

#[test]
fn work_that_kills_the_process_is_given_up_after_its_attempts() {
    let mut world = World::new();
    world.deliver("r1", again());
    for attempt in 1..=3 {
        assert_eq!(world.starts.last().unwrap().attempt, attempt);
        world.restart();
    }
    world.assert_only("r1", 500);
    world.restart();
    assert_eq!(world.runs("r1"), 3);
}

#[test]
fn a_decision_that_kills_the_process_is_given_up_after_its_attempts() {
    let mut world = World::new();
    world.deliver("r1", reboot());
    for _ in 0..6 {
        world.restart();
    }
    world.assert_only("r1", 500);
    assert_eq!(world.runs("r1"), 3);
}

#[test]
fn an_after_ack_that_kills_the_process_is_given_up_after_its_attempts() {
    let mut world = World::new();
    world.deliver("r1", download());
    world.decide("r1", yes(202));
    for _ in 0..6 {
        world.restart();
        if world.is_running("r1") {
            world.recovered("r1", Recovery::RunAgain);
        }
    }
    assert_eq!(world.performs("r1"), 3);
    world.pass(secs(60));
    assert_eq!(world.broker.on("add/diag/log").len(), 1);
    world.assert_only("r1", 202);
}

/// It runs before the agent connects: without a bound the device would never be reachable again.
#[test]
fn a_recover_that_kills_the_process_is_given_up_after_its_attempts() {
    let mut world = World::new();
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.performed("r1", Ok(Performed::Restarting));
    for _ in 0..6 {
        world.reboot();
    }
    assert_eq!(world.recovers("r1"), 3);
    assert!(world.engine().is_managed());
    assert_eq!(world.broker.on("add/diag/log").len(), 1);
}

#[test]
fn a_single_attempt_is_still_judged_after_the_restart() {
    let mut world = World::with(|settings| {
        settings.policies.get_mut(&iotdm_core::Route::Reboot).unwrap().attempts = 1;
    });
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.performed("r1", Ok(Performed::Restarting));
    world.reboot();
    assert_eq!((world.recovers("r1"), world.starts.last().unwrap().attempt), (1, 1));
    world.recovered("r1", Recovery::RunAgain);
    assert_eq!(world.performs("r1"), 1, "past the limit");
}

/// Of many that a crash interrupted only one can have caused it: the others must not pay for it.
#[test]
fn reruns_go_one_at_a_time_so_that_only_the_culprit_is_given_up() {
    let mut world = World::new();
    for id in ["a", "b", "culprit", "d"] {
        world.deliver(id, again());
    }
    for _ in 0..12 {
        if world.is_running("culprit") {
            world.restart();
        }
        for id in ["a", "b", "d"] {
            if world.is_running(id) && !world.is_running("culprit") {
                world.decide(id, yes(200));
            }
        }
    }
    world.assert_only("culprit", 500);
    for id in ["a", "b", "d"] {
        world.assert_only(id, 200);
        assert!(world.runs(id) <= 2);
    }
}

#[test]
fn reruns_of_promised_work_go_one_at_a_time_too() {
    let mut world = World::new();
    for id in ["a", "b", "c"] {
        world.deliver(id, after());
        world.decide(id, yes(202));
    }
    world.restart();
    for id in ["a", "b", "c"] {
        world.recovered(id, Recovery::RunAgain);
    }
    let running = |world: &World| ["a", "b", "c"].iter().filter(|id| world.is_running(id)).count();
    assert_eq!(running(&world), 1);
    for _ in 0..3 {
        for id in ["a", "b", "c"] {
            if world.is_running(id) {
                world.performed(id, Ok(Performed::Complete));
            }
        }
    }
    assert!(world.engine().requests.is_empty());
}

#[test]
fn what_waited_for_a_place_has_lost_no_attempt() {
    let mut world = World::with(|settings| settings.limits.running = 1);
    world.deliver("first", again());
    world.deliver("r1", once());
    for _ in 0..3 {
        world.restart();
    }
    assert_eq!((world.codes("first")[0], world.runs("r1")), (500, 1));
    assert_eq!(world.starts.last().unwrap().attempt, 1);
}

#[test]
fn a_request_whose_handler_is_gone_is_answered() {
    let mut world = World::with(|settings| settings.limits.running = 1);
    world.deliver("p", after());
    world.decide("p", yes(202));
    world.deliver("r1", once());
    world.settings.policies.clear();
    world.restart();
    world.assert_only("r1", 501);
    world.assert_only("p", 202);
    assert!(world.engine().requests.is_empty());
}

#[test]
fn a_refusal_ends_the_attempts() {
    let mut world = World::new();
    world.deliver("r1", again());
    world.restart();
    world.decide("r1", no(Refusal::failed("no")));
    world.restart();
    assert_eq!(world.runs("r1"), 2);
    world.assert_only("r1", 500);
}
