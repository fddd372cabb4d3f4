//! What the broker refuses to take: MQTT 5, a PUBACK with a reason.

use iotdm_core::Performed;

use super::world::*;

/// Longer than the pauses between all attempts to send an answer, and shorter than what ends a connection.
const ALL_ATTEMPTS: u64 = 6 * 60;

#[test]
fn an_answer_that_is_refused_for_a_while_arrives_when_the_broker_takes_it() {
    let mut world = World::new();
    world.broker.refuses_answers = true;
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.pass(secs(60));
    world.assert_unanswered("r1");
    world.broker.refuses_answers = false;
    world.pass(secs(ALL_ATTEMPTS));
    world.assert_answer("r1", 200);
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn an_answer_that_is_refused_for_good_is_sent_six_times_and_given_up() {
    let mut world = World::new();
    world.broker.refuses_answers = true;
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.pass(minutes(24 * 60));
    assert_eq!(world.engine().counters()["the broker refuses what is published"], 6);
    assert_eq!(world.engine().counters()["answers that the broker refused for good"], 1);
    assert!(world.engine().is_quiet());
    world.broker.refuses_answers = false;
    world.pass(minutes(24 * 60));
    world.assert_unanswered("r1");
}

#[test]
fn a_request_whose_answer_was_given_up_gets_it_when_it_is_repeated_and_does_not_run_again() {
    let mut world = World::new();
    world.broker.refuses_answers = true;
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.pass(secs(ALL_ATTEMPTS));
    world.broker.refuses_answers = false;
    world.deliver("r1", once());
    world.assert_answer("r1", 200);
    assert_eq!(world.runs("r1"), 1);
}

/// P5: what was promised begins only when the promise has arrived.
#[test]
fn a_reboot_whose_202_is_refused_for_good_does_not_happen() {
    let mut world = World::new();
    world.broker.refuses_answers = true;
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.pass(secs(ALL_ATTEMPTS));
    assert_eq!(world.performs("r1"), 0);
    assert_eq!(world.engine().unfinished(), 0);
    let log = world.broker.on("add/diag/log");
    assert!(log.iter().any(|entry| entry.to_string().contains("the broker refused the 202")), "{log:?}");
    // The lane is free for the next one, and a repetition hears what became of the first.
    world.broker.refuses_answers = false;
    world.pass(secs(ALL_ATTEMPTS));
    world.deliver("r1", reboot());
    world.assert_same_answers("r1", 2);
    assert_eq!(world.codes("r1")[0], 500);
    assert!(world.message("r1").starts_with("nothing was begun"), "{}", world.message("r1"));
    world.deliver("r2", reboot());
    world.decide("r2", yes(202));
    world.performed("r2", Ok(Performed::Restarting));
    assert_eq!(world.performs("r2"), 1);
}

/// The first one was on its way when the connection broke: it cannot be taken back, only reported as failed.
#[test]
fn a_202_that_may_have_arrived_stays_the_answer_when_it_is_refused_for_good() {
    let mut world = World::new();
    world.broker.pubacks = false;
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.assert_answer("r1", 202);
    world.broker.pubacks = true;
    world.broker.refuses_answers = true;
    world.flap();
    world.pass(secs(ALL_ATTEMPTS));
    assert_eq!((world.performs("r1"), world.engine().unfinished()), (0, 0));
    let log = world.broker.on("add/diag/log");
    assert!(log.iter().any(|entry| entry.to_string().contains("the broker refused the 202")), "{log:?}");
    world.broker.refuses_answers = false;
    let manages = world.broker.on("mgmt/manage").len();
    world.deliver("r1", reboot());
    world.assert_same_answers("r1", 2);
    // Whoever hears of the 202 only now waits for the manage that ends it.
    assert_eq!(world.broker.on("mgmt/manage").len(), manages + 1);
}

#[test]
fn others_are_answered_while_a_refused_answer_waits() {
    let mut world = World::new();
    world.broker.refuses_answers = true;
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.broker.refuses_answers = false;
    world.deliver("r2", once());
    world.decide("r2", yes(200));
    world.assert_answer("r2", 200);
    world.assert_unanswered("r1");
    world.pass(secs(10));
    world.assert_answer("r1", 200);
}

#[test]
fn a_connection_that_breaks_between_two_attempts_sends_the_answer_at_once() {
    let mut world = World::new();
    world.broker.refuses_answers = true;
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.broker.refuses_answers = false;
    world.go_offline();
    world.reconnect();
    world.assert_answer("r1", 200);
}

#[test]
fn refusals_are_no_closed_window() {
    let mut world = World::new();
    world.broker.refuses_answers = true;
    for number in 0..200 {
        world.deliver(&format!("r{number}"), Ask::new("nonsense"));
    }
    let connections = world.broker.connections;
    world.pass(secs(ALL_ATTEMPTS));
    assert_eq!(world.broker.connections, connections);
    assert_eq!(world.engine().counters()["answers that the broker refused for good"], 200);
    assert_eq!(world.engine().kept(), 0, "answers that are not kept beyond their PUBACK");
}
