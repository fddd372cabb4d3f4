//! What the broker refuses to take: MQTT 5, a PUBACK with a reason.

use iotdm_core::Failure;

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
fn an_answer_that_is_refused_is_sent_again_with_pauses_of_ten_minutes_at_the_most() {
    let mut world = World::new();
    world.broker.refuses_answers = true;
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.pass(minutes(24 * 60));
    let sent = world.engine().counters()["the broker refuses what is published"];
    assert!((140..=155).contains(&sent), "{sent} times in a day");
    world.broker.refuses_answers = false;
    world.pass(minutes(10));
    world.assert_answer("r1", 200);
    assert_eq!(world.runs("r1"), 1);
}

/// P5: what was promised begins only when the promise has arrived.
#[test]
fn a_reboot_whose_202_is_refused_begins_when_the_broker_takes_it() {
    let mut world = World::new();
    world.broker.refuses_answers = true;
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.pass(minutes(60));
    assert_eq!(world.performs("r1"), 0);
    world.broker.refuses_answers = false;
    world.pass(minutes(10));
    world.assert_answer("r1", 202);
    assert_eq!(world.performs("r1"), 1);
}

/// Work that failed while its 202 was refused: whoever hears of the 202 only now waits for the manage that ends it.
#[test]
fn a_202_that_arrives_after_its_work_has_ended_is_followed_by_manage() {
    let mut world = World::new();
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.assert_answer("r1", 202);
    world.performed("r1", Err(Failure::new("no")));
    let manages = world.broker.on("mgmt/manage").len();
    world.deliver("r1", reboot());
    world.assert_same_answers("r1", 2);
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
    world.broker.refuses_answers = false;
    world.pass(minutes(10));
    assert_eq!(world.engine().kept(), 0, "answers that are not kept beyond their PUBACK");
}
