//! P6: no loop.

use iotdm_core::{Performed, Phases, Recovery, Refusal, Route};

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

#[test]
fn a_judgement_whose_blocking_work_never_ends_holds_nobody_up() {
    let mut world = World::new();
    world.deliver("p", after());
    world.decide("p", yes(202));
    world.restart();
    world.obeys_cancel = false;
    world.pass(secs(31));
    assert!(world.is_running("p"));
    world.deliver("r1", once());
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn a_rerun_whose_blocking_work_never_ends_holds_no_other_rerun_up() {
    let mut world = World::new();
    world.deliver("a", again());
    world.deliver("b", again());
    world.restart();
    world.obeys_cancel = false;
    world.pass(secs(31));
    world.assert_only("a", 500);
    assert_eq!((world.is_running("a"), world.runs("b")), (true, 2));
}

#[test]
fn a_budget_without_end_is_no_panic() {
    let mut world = World::with(|settings| {
        for policy in settings.policies.values_mut() {
            policy.budget = std::time::Duration::MAX;
            policy.perform_budget = std::time::Duration::MAX;
        }
    });
    world.pass(secs(1));
    world.deliver("r1", after());
    world.decide("r1", yes(202));
    world.pass(minutes(60 * 24 * 9));
    world.performed("r1", Ok(Performed::Complete));
    assert!(world.engine().requests.is_empty());
}

/// The program was replaced in the middle of a request: an action that did its work first now answers first.
#[test]
fn work_that_an_older_program_began_is_not_begun_again_as_a_decision() {
    let mut world = World::new();
    world.deliver("r1", once());
    change_phases(&mut world, "once", Phases::AnswerThenWork);
    world.restart();
    world.assert_only("r1", 500);
    assert_eq!((world.runs("r1"), world.performs("r1")), (1, 0));
}

#[test]
fn work_that_a_newer_program_does_no_more_after_its_answer_is_not_said_to_be_done() {
    let mut world = World::new();
    world.broker.pubacks = false;
    world.deliver("r1", after());
    world.decide("r1", yes(202));
    change_phases(&mut world, "after", Phases::WorkThenAnswer);
    world.broker.pubacks = true;
    world.restart();
    world.pass(secs(60));
    world.assert_only("r1", 202);
    assert_eq!((world.performs("r1"), world.broker.on("add/diag/log").len()), (0, 1));
}

fn change_phases(world: &mut World, action: &'static str, phases: Phases) {
    let route = Route::custom("lamp", action);
    world.settings.policies.get_mut(&route).expect("the world has it").phases = phases;
}
