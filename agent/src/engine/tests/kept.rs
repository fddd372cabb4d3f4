//! P4: an answer is kept until the broker has it; the device's own requests until their response.

use iotdm_core::Report;
use serde_json::json;

use crate::engine::{Input, Ticket};

use super::world::*;

fn report(world: &mut World, code: i32) {
    world.input(Input::Report(Report::AddErrorCode(code), Some(Ticket(9))));
    world.run();
}

fn codes_reported(world: &World) -> Vec<i64> {
    let on = world.broker.on("add/diag/errorCodes");
    on.iter().map(|report| report["d"]["errorCode"].as_i64().unwrap()).collect()
}

#[test]
fn an_answer_goes_out_again_until_the_broker_has_it() {
    let mut world = World::new();
    world.broker.pubacks = false;
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.flap();
    world.restart();
    world.reboot();
    world.assert_same_answers("r1", 4);
    world.puback();
    world.flap();
    world.assert_same_answers("r1", 4);
}

#[test]
fn an_answer_made_offline_is_the_first_thing_after_the_subscription() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.go_offline();
    world.decide("r1", yes(200));
    let before = world.broker.received.len();
    world.reconnect();
    let topics: Vec<_> = world.broker.received[before..].iter().map(|r| r.topic.as_str()).collect();
    assert_eq!(topics, ["iotdevice-1/response", "iotdevice-1/mgmt/manage"]);
}

#[test]
fn own_requests_wait_for_manage_and_survive_a_restart() {
    let mut world = World::new();
    world.broker.rc.insert("mgmt/manage", None);
    world.flap();
    report(&mut world, 7);
    assert_eq!(world.confirmed, [Ticket(9)]);
    assert!(codes_reported(&world).is_empty());
    world.restart();
    assert!(codes_reported(&world).is_empty());
    world.broker.rc.clear();
    world.pass(secs(61));
    assert_eq!(codes_reported(&world), [7]);
    world.restart();
    assert_eq!(codes_reported(&world), [7], "it was answered");
}

#[test]
fn an_own_request_that_is_answered_409_or_not_at_all_is_sent_again_with_a_fresh_req_id() {
    for rc in [Some(409), Some(500), None] {
        let mut world = World::new();
        world.broker.rc.insert("add/diag/errorCodes", rc);
        report(&mut world, 7);
        world.pass(secs(70));
        world.broker.rc.clear();
        world.pass(secs(200));
        let sent = world.broker.on("add/diag/errorCodes");
        assert!(sent.len() >= 2, "{rc:?}: {sent:?}");
        let mut ids: Vec<_> = sent.iter().map(|r| r["reqId"].to_string()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), sent.len());
        world.pass(secs(3600));
        assert_eq!(world.broker.on("add/diag/errorCodes").len(), sent.len());
    }
}

#[test]
fn an_own_request_is_given_up_after_its_attempts() {
    for rc in [Some(409), None] {
        let mut world = World::new();
        world.broker.rc.insert("add/diag/errorCodes", rc);
        report(&mut world, 7);
        world.pass(secs(24 * 3600));
        assert_eq!(codes_reported(&world).len(), 6, "{rc:?}");
        assert_eq!(world.engine().outbox.len(), 0);
    }
}

#[test]
fn codes_400_403_and_404_are_final_for_an_own_request() {
    for rc in [400, 403, 404] {
        let mut world = World::new();
        world.broker.rc.insert("add/diag/errorCodes", Some(rc));
        report(&mut world, 7);
        world.pass(secs(3600));
        world.flap();
        assert_eq!(codes_reported(&world), [7], "{rc}");
    }
}

#[test]
fn a_404_for_a_notification_ends_the_observation_it_belonged_to() {
    let mut world = World::new();
    world.deliver("r1", observe("level"));
    world.broker.rc.insert("notify", Some(404));
    world.input(Input::SetAttributes(vec![("level".into(), json!(2))], None));
    world.run();
    assert_eq!(world.engine().model().observations().count(), 0);
    world.restart();
    assert_eq!(world.engine().model().observations().count(), 0);
}

/// The platform observes again while the notification of the observation before is on its way: its 404 is stale.
#[test]
fn a_stale_404_for_a_notification_leaves_the_next_observation_alone() {
    let mut world = World::new();
    world.deliver("r1", observe("level"));
    world.broker.rc.insert("notify", None);
    world.input(Input::SetAttributes(vec![("level".into(), json!(2))], None));
    world.run();
    let stale = world.broker.on("notify")[0]["reqId"].clone();
    world.deliver("r2", cancel("level"));
    world.deliver("r3", observe("level"));
    world.deliver_raw("iotdm-1/response", json!({"rc": 404, "reqId": stale}).to_string());
    assert_eq!(world.engine().model().observations().count(), 1);
}

#[test]
fn the_oldest_reports_make_room_for_newer_ones_and_are_counted() {
    let mut world = World::new();
    world.go_offline();
    for code in 0..600 {
        report(&mut world, code);
    }
    assert_eq!(world.engine().counters()["too many reports wait"], 88);
    world.reconnect();
    assert_eq!(codes_reported(&world), (88..600).map(i64::from).collect::<Vec<_>>());
}

/// The broker takes every report and the platform answers none: what waits for its answer is bounded, too.
#[test]
fn reports_that_nobody_answers_are_bounded() {
    let mut world = World::new();
    world.broker.rc.insert("add/diag/errorCodes", None);
    for code in 0..1000 {
        report(&mut world, code);
    }
    assert!(world.engine().outbox.len() <= 512, "{} wait", world.engine().outbox.len());
}

#[test]
fn notifications_that_nobody_answers_are_bounded() {
    let mut world = World::new();
    world.deliver("r1", observe("level"));
    world.broker.rc.insert("notify", None);
    for value in 2..500 {
        world.input(Input::SetAttributes(vec![("level".into(), json!(value))], None));
        world.run();
    }
    assert!(world.engine().outbox.len() <= 2, "{} wait", world.engine().outbox.len());
    world.broker.rc.clear();
    world.pass(secs(3600));
    assert_eq!(world.broker.on("notify").last().unwrap()["d"]["fields"][0]["value"], 499);
    assert_eq!(world.engine().outbox.len(), 0);
}

#[test]
fn a_stop_waits_for_the_answers_that_are_on_their_way() {
    let mut world = World::new();
    world.broker.pubacks = false;
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.input(Input::Stop);
    assert!(!world.engine().is_quiet());
    world.puback();
    assert!(world.engine().is_quiet());
}

#[test]
fn after_a_stop_nothing_new_starts_and_arrivals_are_kept_for_the_next_start() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.input(Input::Stop);
    world.deliver("r2", once());
    assert!(world.is_acked("r2"));
    assert_eq!(world.runs("r2"), 0);
    assert!(!world.engine().is_quiet());
    world.decide("r1", yes(200));
    assert!(world.engine().is_quiet());
    world.restart();
    assert_eq!(world.runs("r2"), 1);
    world.assert_only("r1", 200);
}
