//! P9 with MQTT 5: the broker counts how long a request has waited.

use crate::engine::{Delivered, Delivery, Input};

use super::world::*;

/// A world whose broker says of each request how long it has waited.
fn counting() -> World {
    let mut world = World::new();
    world.broker.counts_waiting = true;
    world
}

/// Sends a request, with what the laws of the simulation need to know of it.
fn send(world: &mut World, req_id: &str) {
    world.send_known(req_id, fresh());
}

#[test]
fn a_request_that_waited_two_minutes_runs_although_the_device_was_away_for_a_day() {
    for (counts, runs) in [(true, 1), (false, 0)] {
        let mut world = World::new();
        world.broker.counts_waiting = counts;
        world.go_offline();
        world.pass(minutes(24 * 60));
        send(&mut world, "r1");
        world.pass(minutes(2));
        world.reconnect();
        assert_eq!(world.runs("r1"), runs, "the broker counts: {counts}");
    }
}

#[test]
fn the_limit_counts_from_when_the_request_was_sent() {
    for (waited, runs) in [(minutes(14), 1), (minutes(16), 0)] {
        let mut world = counting();
        world.go_offline();
        world.pass(minutes(24 * 60));
        send(&mut world, "r1");
        world.pass(waited);
        world.reconnect();
        assert_eq!(world.runs("r1"), runs, "after {waited:?}");
    }
}

#[test]
fn a_clock_that_was_lost_does_not_matter_where_the_broker_counts() {
    let mut world = counting();
    world.pass(minutes(30));
    world.power_off();
    world.clock_lost = true;
    send(&mut world, "r1");
    world.start();
    assert_eq!(world.runs("r1"), 1);
}

/// The clock of seconds at both ends: the true wait is up to a second longer than the count.
#[test]
fn the_second_that_a_count_may_be_short_of_is_added_to_it() {
    for (waited, runs) in [(FRESH_FOR - secs(2), 1), (FRESH_FOR, 0)] {
        let mut world = counting();
        world.broker.rc.insert("mgmt/manage", None);
        world.go_offline();
        world.pass(minutes(24 * 60));
        world.reconnect();
        give(&mut world, "r1", Some(waited));
        assert_eq!(world.runs("r1"), runs, "counted {waited:?}");
    }
}

/// What the queue's order says is that nothing old can come; a broker that keeps no order says otherwise.
#[test]
fn a_request_that_overtook_the_fence_is_as_old_as_the_broker_counts() {
    let mut world = counting();
    give(&mut world, "live", Some(secs(0)));
    give(&mut world, "late", Some(minutes(16)));
    assert_eq!((world.runs("live"), world.runs("late")), (1, 0));
    world.assert_answer("late", 409);
}

#[test]
fn a_request_without_an_expiry_is_as_old_as_the_order_allows() {
    let mut world = counting();
    give(&mut world, "live", None);
    assert_eq!(world.runs("live"), 1);
    world.broker.rc.insert("mgmt/manage", None);
    world.go_offline();
    world.pass(minutes(20));
    world.reconnect();
    give(&mut world, "old", None);
    assert_eq!(world.runs("old"), 0);
}

/// A message may be on its way for as long as a dead connection goes unnoticed, and that comes on top of the count.
#[test]
fn the_time_on_a_connection_counts_too_where_the_order_does_not_tell() {
    for (connected, runs) in [(secs(1), 1), (secs(100), 0)] {
        let mut world = counting();
        world.broker.rc.insert("mgmt/manage", None);
        world.go_offline();
        world.pass(minutes(24 * 60));
        world.reconnect();
        world.pass(connected);
        give(&mut world, "r1", Some(FRESH_FOR - secs(60)));
        assert_eq!(world.runs("r1"), runs, "connected for {connected:?}");
    }
}

#[test]
fn what_waits_on_the_device_after_it_arrived_is_added() {
    let mut world = World::with(|settings| settings.limits.running = 1);
    world.broker.counts_waiting = true;
    world.deliver("first", once());
    give(&mut world, "r1", Some(FRESH_FOR - secs(10)));
    assert!(!world.is_running("r1"));
    world.pass(secs(20));
    world.decide("first", yes(200));
    assert_eq!(world.runs("r1"), 0);
    world.assert_answer("r1", 409);
}

/// A request arrives with this count, whatever the world knows of it.
fn give(world: &mut World, req_id: &str, waited: Option<std::time::Duration>) {
    let ask = fresh();
    let payload = ask.payload(&serde_json::json!(req_id)).into();
    let delivery = Some(Delivery { epoch: u64::MAX, packet: 1 });
    let delivered = Delivered { delivery, topic: ask.topic, payload, retained: false, waited };
    world.input(Input::Delivered(delivered));
    world.run();
}
