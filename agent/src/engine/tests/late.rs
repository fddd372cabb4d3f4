//! P9: late is a decision.

use iotdm_core::{Late, Recovery, Route};

use super::world::*;

fn late_reboots() -> World {
    World::with(|settings| {
        settings.policies.get_mut(&Route::Reboot).unwrap().late = Late::RefuseAfter(minutes(15));
    })
}

#[test]
fn a_request_that_waited_too_long_is_refused_and_a_live_one_runs() {
    let mut world = World::new();
    world.go_offline();
    world.send("old", fresh());
    world.pass(minutes(16));
    world.reconnect();
    world.assert_answer("old", 409);
    world.deliver("live", fresh());
    assert_eq!((world.runs("old"), world.runs("live")), (0, 1));
    world.deliver("old", fresh());
    world.assert_same_answers("old", 2);
}

#[test]
fn a_request_that_cannot_have_waited_too_long_runs_before_the_fence() {
    let mut world = World::new();
    world.pass(minutes(30));
    world.go_offline();
    world.send("r1", fresh());
    world.pass(minutes(2));
    world.reconnect();
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn without_a_rule_an_old_request_runs() {
    let mut world = World::new();
    world.go_offline();
    world.send("r1", once());
    world.pass(minutes(60 * 24 * 9));
    world.reconnect();
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn within_one_boot_the_wall_clock_does_not_matter() {
    let mut world = World::new();
    world.pass(minutes(30));
    world.go_offline();
    world.send("r1", fresh());
    world.clock_lost = true;
    world.pass(minutes(2));
    world.reconnect();
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn across_boots_a_clock_that_cannot_be_right_makes_everything_old() {
    let mut world = World::new();
    world.pass(minutes(30));
    world.crash();
    world.send("r1", fresh());
    world.clock_lost = true;
    world.reboot();
    world.assert_answer("r1", 409);
    let mut world = World::new();
    world.pass(minutes(30));
    world.crash();
    world.send("r1", fresh());
    world.reboot();
    assert_eq!(world.runs("r1"), 1, "a plausible clock tells");
}

#[test]
fn only_the_response_to_a_manage_of_this_connection_lifts_the_fence() {
    let mut world = World::new();
    world.broker.rc.insert("mgmt/manage", None);
    world.flap();
    let old = world.broker.on("mgmt/manage").last().unwrap()["reqId"].clone();
    world.go_offline();
    world.broker.route("iotdm-1/response", serde_json::json!({"rc": 200, "reqId": old}).to_string().into());
    world.send("r1", fresh());
    world.pass(minutes(20));
    world.reconnect();
    world.assert_answer("r1", 409);
    assert!(!world.engine().is_managed());
}

#[test]
fn any_answer_to_manage_lifts_the_fence() {
    for rc in [200, 400, 403, 404, 409, 500] {
        let mut world = World::new();
        world.broker.rc.insert("mgmt/manage", Some(rc));
        world.go_offline();
        world.pass(minutes(20));
        world.reconnect();
        world.deliver("r1", fresh());
        assert_eq!(world.runs("r1"), 1, "{rc}");
    }
}

#[test]
fn a_broker_without_a_session_has_nothing_old() {
    let mut world = World::new();
    world.broker.rc.insert("mgmt/manage", None);
    world.go_offline();
    world.pass(minutes(20));
    world.broker.lose_session();
    world.reconnect();
    world.deliver("r1", fresh());
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn without_an_answer_to_manage_the_fence_lifts_after_ten_minutes_and_a_quiet_half() {
    let mut world = World::new();
    world.broker.rc.insert("mgmt/manage", None);
    world.go_offline();
    world.pass(minutes(20));
    world.reconnect();
    world.pass(secs(590));
    world.deliver("r1", fresh());
    world.assert_answer("r1", 409);
    world.pass(secs(25));
    world.deliver("r2", fresh());
    world.assert_answer("r2", 409);
    world.pass(secs(31));
    world.deliver("r3", fresh());
    assert_eq!(world.runs("r3"), 1);
}

#[test]
fn a_request_that_grows_old_in_the_queue_is_refused() {
    let mut world = World::with(|settings| {
        settings.limits.running = 1;
        settings.policies.get_mut(&Route::custom("lamp", "once")).unwrap().budget = minutes(60);
    });
    world.deliver("long", once());
    world.deliver("r1", fresh());
    world.pass(minutes(16));
    world.decide("long", yes(200));
    world.assert_answer("r1", 409);
    assert_eq!(world.runs("r1"), 0);
}

#[test]
fn a_request_that_grows_old_while_the_agent_is_down_is_refused() {
    let mut world = World::with(|settings| settings.limits.running = 1);
    world.deliver("first", once());
    world.deliver("r1", fresh());
    world.crash();
    world.pass(minutes(16));
    world.start();
    world.assert_answer("r1", 409);
}

#[test]
fn work_promised_too_long_ago_is_abandoned() {
    let mut world = late_reboots();
    world.broker.pubacks = false;
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.pass(minutes(16));
    world.puback();
    assert_eq!(world.performs("r1"), 0);
    assert_eq!(world.codes("r1")[0], 202);
    let log = world.broker.on("add/diag/log");
    assert!(log[0]["d"]["message"].as_str().unwrap().contains("abandoned"), "{log:?}");
    assert!(world.engine().is_managed());
}

/// The installation took its time, and so did the restart: what it left is judged, committed or rolled back.
#[test]
fn work_that_began_in_time_comes_to_its_end_where_its_handler_says_so() {
    for (recovery, begun) in [(Recovery::Resume, 2), (Recovery::RunAgain, 1)] {
        let mut world = late_reboots();
        world.deliver("r1", reboot());
        world.decide("r1", yes(202));
        assert_eq!(world.performs("r1"), 1);
        world.crash();
        world.pass(minutes(16));
        world.start();
        world.recovered("r1", recovery);
        assert_eq!(world.performs("r1"), begun, "{recovery:?}");
        let log = world.broker.on("add/diag/log");
        assert_eq!(log.len(), 2 - begun, "what is abandoned is reported: {log:?}");
    }
}

#[test]
fn the_age_on_arrival_and_the_wait_since_are_added() {
    let mut world = late_reboots();
    world.pass(minutes(10));
    world.go_offline();
    world.send("r1", reboot());
    world.pass(minutes(8));
    world.broker.pubacks = false;
    world.reconnect();
    world.decide("r1", yes(202));
    world.pass(minutes(8));
    world.puback();
    assert_eq!(world.performs("r1"), 0);
}

/// A device that was quiet for days, and a connection that breaks for a moment.
#[test]
fn an_idle_device_moves_its_mark_every_ten_minutes() {
    let mut world = World::new();
    world.restart();
    for _ in 0..3 {
        world.flap_in_a_moment();
        let commits = world.commits;
        world.pass(minutes(60 * 24 * 3));
        let moved = world.commits - commits;
        assert!((400..=440).contains(&moved), "{moved} times");
        world.go_offline();
        world.send("r1", fresh());
        world.pass(secs(60));
        world.reconnect();
        assert_eq!(world.runs("r1"), 1, "it is a minute old");
    }
}

impl World {
    fn flap_in_a_moment(&mut self) {
        self.cut();
        while !self.broker.is_connected() {
            self.pass(std::time::Duration::from_millis(100));
        }
        self.run();
    }
}

/// What waits because our own queue is full grows old, too.
#[test]
fn a_deferred_request_grows_old_while_it_waits() {
    let mut world = World::with(|settings| settings.limits.outbox = 2);
    world.broker.pubacks = false;
    world.deliver("x1", Ask::new("nonsense"));
    world.deliver("x2", Ask::new("nonsense"));
    world.deliver("r1", fresh());
    world.pass(minutes(16));
    world.puback();
    world.assert_answer("r1", 409);
}

#[test]
fn the_mark_does_not_move_while_deliveries_are_deferred() {
    let mut world = World::with(|settings| settings.limits.outbox = 2);
    world.broker.pubacks = false;
    world.deliver("x1", Ask::new("nonsense"));
    world.deliver("x2", Ask::new("nonsense"));
    world.deliver("r1", fresh());
    world.pass(minutes(30));
    world.cut();
    world.broker.pubacks = true;
    world.pass(secs(200));
    world.assert_answer("r1", 409);
}

/// While we acknowledge nothing the broker holds requests back; they are as old as that when they come.
#[test]
fn what_the_broker_held_back_while_nothing_was_acknowledged_is_not_live() {
    let mut world = World::with(|settings| settings.limits.outbox = 2);
    world.broker.window = 3;
    world.broker.pubacks = false;
    for req_id in ["x1", "x2", "x3", "x4", "x5", "x6"] {
        world.deliver(req_id, Ask::new("nonsense"));
    }
    world.deliver("r1", fresh());
    assert!(!world.is_acked("r1"));
    world.pass(minutes(16));
    world.broker.pubacks = true;
    world.puback();
    world.assert_answer("r1", 409);
    world.pass(secs(60));
    world.deliver("r2", fresh());
    assert_eq!(world.runs("r2"), 1);
}

/// A connection that is given up may have more to say in the same batch. Its answer to manage must not move the mark
/// while requests begin to wait on the broker.
#[test]
fn an_answer_to_manage_on_a_connection_that_was_given_up_lifts_no_fence() {
    let mut world = World::new();
    world.broker.rc.insert("mgmt/manage", None);
    world.go_offline();
    world.reconnect();
    let req_id = world.broker.on("mgmt/manage").last().unwrap()["reqId"].clone();
    world.go_offline();
    let payload = serde_json::json!({ "rc": 200, "reqId": req_id }).to_string().into();
    let topic = "iotdm-1/response".into();
    let delivered =
        crate::engine::Delivered { delivery: None, topic, payload, retained: false, waited: None };
    let mark = world.engine().mark.clone();
    world.elapsed += secs(6);
    world.input(crate::engine::Input::Delivered(delivered));
    world.fire();
    assert_eq!(world.engine().mark, mark);
}
