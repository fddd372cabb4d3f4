//! Connecting, subscribing, manage, and what the platform may answer to it.

use std::time::Duration;

use serde_json::json;

use crate::engine::{Announcement, Input, Lost};

use super::world::*;

fn manages(world: &World) -> usize {
    world.broker.on("mgmt/manage").len()
}

#[test]
fn each_connection_makes_one_manage() {
    let mut world = World::new();
    for n in 1..5 {
        assert_eq!(manages(&world), n);
        world.pass(minutes(600));
        assert_eq!(manages(&world), n, "a lifetime of 0 is never renewed");
        world.flap();
    }
    assert_eq!(world.broker.connections, 5);
}

#[test]
fn manage_says_what_is_supported_and_what_the_device_is() {
    let world = World::new();
    let manage = &world.broker.on("mgmt/manage")[0]["d"];
    assert_eq!(
        manage["supports"],
        serde_json::json!({"deviceActions": true, "firmwareActions": true, "lamp": true})
    );
    assert_eq!(manage["deviceInfo"]["model"], "m");
    assert_eq!(manage["lifetime"], 0);
}

#[test]
fn manage_is_renewed_before_its_lifetime_ends_however_long_the_connection_lasts() {
    let mut world = World::with(|settings| settings.manage.lifetime = 3600);
    for n in 0..600_usize {
        assert!(manages(&world) > n, "{n} hours");
        assert!(world.engine().is_managed(), "{n} hours");
        world.pass(secs(3600));
    }
    assert_eq!(world.broker.connections, 1);
    assert!(manages(&world) < 700);
}

#[test]
fn manage_that_is_not_answered_is_sent_again_and_its_answer_is_known_however_late_it_is() {
    let mut world = World::new();
    world.broker.rc.insert("mgmt/manage", None);
    world.flap();
    let before = manages(&world);
    world.pass(minutes(10));
    assert!((9..=11).contains(&(manages(&world) - before)));
    world.pass(minutes(600));
    assert!(!world.engine().is_managed());
    world.broker.rc.clear();
    world.pass(secs(61));
    assert!(world.engine().is_managed());
}

#[test]
fn manage_answered_409_is_retried_with_growing_pauses() {
    let mut world = World::new();
    world.broker.rc.insert("mgmt/manage", Some(409));
    world.flap();
    let before = manages(&world);
    world.pass(minutes(60));
    assert!((15..60).contains(&(manages(&world) - before)), "{}", manages(&world) - before);
    world.broker.rc.clear();
    world.pass(minutes(3));
    assert!(world.engine().is_managed());
}

#[test]
fn manage_answered_400_or_404_is_retried_rarely() {
    for rc in [400, 404] {
        let mut world = World::new();
        world.broker.rc.insert("mgmt/manage", Some(rc));
        world.cut();
        while !world.broker.is_connected() {
            world.pass(secs(1));
        }
        world.run();
        let before = manages(&world);
        world.pass(minutes(60));
        assert!((5..=7).contains(&(manages(&world) - before)), "{rc}");
    }
}

#[test]
fn manage_answered_403_is_sent_once_more_without_bundles() {
    let mut world = World::new();
    world.broker.rc.insert("mgmt/manage", Some(403));
    let before = manages(&world);
    world.cut();
    while !world.broker.is_connected() {
        world.pass(secs(1));
    }
    world.run();
    assert_eq!(manages(&world) - before, 2);
    let last = &world.broker.on("mgmt/manage").pop().unwrap()["d"]["supports"];
    assert_eq!(last, &serde_json::json!({"deviceActions": true, "firmwareActions": true}));
}

#[test]
fn a_refused_subscription_ends_the_connection_and_is_tried_again() {
    let mut world = World::off(|_| {});
    world.broker.grants = false;
    world.start();
    world.pass(minutes(5));
    assert!(world.broker.connections > 2);
    assert_eq!(manages(&world), 0);
    world.broker.grants = true;
    world.pass(minutes(5));
    assert!(world.engine().is_managed());
}

#[test]
fn a_broker_that_says_nothing_is_given_up_after_half_a_minute() {
    let mut world = World::new();
    world.broker.reachable = false;
    world.cut();
    world.run();
    // Connecting hangs: the driver hears nothing at all.
    let Some(at) = world.engine().poll_timeout() else { panic!("it will connect again") };
    let now = crate::engine::Now { monotonic: at, ..world.now() };
    let engine = &mut world.agent.as_mut().unwrap().engine;
    engine.handle_timeout(now);
    while engine.poll().is_some() {}
    assert_eq!(engine.poll_timeout(), Some(at + secs(30)));
    engine.handle_timeout(crate::engine::Now { monotonic: at + secs(30), ..now });
    let again = engine.poll_timeout().unwrap();
    assert!(again <= at + secs(30) + secs(120));
}

/// When attempts were made, while the broker is away.
fn attempts(seed: u64, span: Duration) -> Vec<Duration> {
    let mut world = World::new();
    world.settings.seed = seed;
    world.broker.reachable = false;
    for _ in 0..seed {
        world.restart();
    }
    let end = world.elapsed + span;
    let mut attempts = Vec::new();
    while world.elapsed < end {
        let before = world.announced.len();
        world.pass(Duration::from_millis(500));
        if world.announced.len() > before {
            attempts.push(world.elapsed);
        }
    }
    attempts
}

#[test]
fn attempts_to_connect_become_rarer_are_bounded_and_differ_between_devices() {
    let day = minutes(24 * 60);
    let (one, other) = (attempts(1, day), attempts(2, day));
    assert_ne!(one[..10], other[..10]);
    for times in [one, other] {
        // On average a minute apart, never more than two.
        assert!((1100..2200).contains(&times.len()), "{}", times.len());
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= secs(121)));
    }
}

#[test]
fn refused_credentials_are_tried_rarely_and_said() {
    let mut world = World::new();
    world.broker.credentials_accepted = false;
    world.cut();
    world.pass(minutes(60));
    let refused = world.announced.iter().filter(|a| **a == Announcement::CredentialsRefused).count();
    assert!((5..=12).contains(&refused), "{refused}");
    world.broker.credentials_accepted = true;
    world.pass(minutes(11));
    assert!(world.engine().is_managed());
}

#[test]
fn a_second_loss_of_one_connection_changes_nothing() {
    let mut world = World::new();
    world.cut();
    world.input(Input::Disconnected(Lost::Other));
    world.input(Input::Disconnected(Lost::Other));
    world.pass(minutes(5));
    assert!(world.engine().is_managed());
    assert_eq!(world.broker.connections, 2);
}

#[test]
fn a_stopped_agent_does_not_connect_again() {
    let mut world = World::new();
    world.input(Input::Stop);
    world.cut();
    world.pass(minutes(600));
    assert_eq!(world.broker.connections, 1);
}

#[test]
fn two_runs_of_the_same_inputs_are_the_same() {
    let run = || {
        let mut world = World::new();
        for n in 0..30 {
            world.deliver(&format!("r{n}"), if n % 3 == 0 { again() } else { after() });
        }
        world.flap();
        world.answer_all();
        world.restart();
        world.broker.received.iter().map(|r| r.payload.clone()).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_connection_that_was_given_up_and_then_comes_about_is_not_taken_for_one() {
    let mut world = World::new();
    world.go_offline();
    world.input(crate::engine::Input::Connected { session_present: true });
    world.input(crate::engine::Input::Subscribed { granted: true });
    world.broker.reachable = true;
    world.pass(secs(3));
    assert!(world.engine().is_managed());
}

/// A promised restart may be hours away, on a battery.
#[test]
fn a_connection_that_is_held_wakes_the_device_twice_a_minute_at_most() {
    let mut world = World::new();
    world.flap();
    world.broker.pubacks = false;
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.go_offline();
    world.reconnect();
    world.pass(minutes(30));
    assert!(world.pass(minutes(60)) <= 120);
}

/// Anybody who can publish to the device could write a log line, and unmanage it, with each.
#[test]
fn a_second_response_to_one_manage_changes_nothing() {
    let mut world = World::new();
    let req_id = world.broker.on("mgmt/manage")[0]["reqId"].clone();
    for _ in 0..1000 {
        world.deliver_raw("iotdm-1/response", json!({ "rc": 400, "reqId": req_id }).to_string());
    }
    assert!(world.engine().is_managed());
    assert_eq!(world.engine().counters()["response to a request that is not waiting"], 1000);
    world.pass(minutes(60));
    assert_eq!(world.broker.on("mgmt/manage").len(), 1);
}
