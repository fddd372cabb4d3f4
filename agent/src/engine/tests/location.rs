//! Where the device is: set on either side, reported, observed.

use iotdm_core::{Declined, Location, Report};
use serde_json::{Value, json};

use crate::engine::{Input, Ticket};

use super::world::*;

fn move_to(world: &mut World, longitude: f64) {
    let report = Report::Location(Location::at(1.0, longitude));
    world.input(Input::Report(report, Some(Ticket(1))));
    world.run();
}

/// The platform moves the device, as it does by itself: without a reqId.
fn moved_by_platform(world: &mut World, longitude: f64) {
    let d = json!({"fields": [{"field": "location", "value": {"longitude": longitude, "latitude": 1.0}}]});
    world.deliver_raw("iotdm-1/device/update", json!({ "d": d }).to_string());
}

fn reported(world: &World) -> Vec<f64> {
    let longitude = |report: &Value| report["d"]["longitude"].as_f64().unwrap();
    world.broker.on("device/update/location").iter().map(longitude).collect()
}

fn longitude(world: &World) -> Option<f64> {
    world.engine().model().read("location.longitude").and_then(Value::as_f64)
}

#[test]
fn the_products_location_is_an_attribute_a_report_and_a_notification() {
    let mut world = World::new();
    move_to(&mut world, 5.0);
    world.deliver("o", observe("location"));
    move_to(&mut world, 6.0);
    assert_eq!(world.confirmed, [Ticket(1), Ticket(1)]);
    assert_eq!(reported(&world), [5.0, 6.0]);
    assert_eq!(world.broker.on("notify").len(), 1);
    world.restart();
    assert_eq!(longitude(&world), Some(6.0));
}

#[test]
fn a_location_that_is_set_as_an_attribute_is_reported_too() {
    let mut world = World::new();
    let value = json!({"longitude": 5, "latitude": 1, "mood": "fine"});
    world.input(Input::SetAttributes(vec![("location".into(), value)], None));
    world.run();
    assert_eq!(world.broker.on("device/update/location")[0]["d"], json!({"longitude": 5.0, "latitude": 1.0}));
}

#[test]
fn a_location_out_of_range_is_declined_and_changes_nothing() {
    let mut world = World::new();
    let places = [
        Location::at(91.0, 0.0),
        Location::at(f64::NAN, 0.0),
        Location { accuracy: Some(-1.0), ..Location::at(0.0, 0.0) },
    ];
    for place in places {
        world.input(Input::Report(Report::Location(place), Some(Ticket(1))));
        world.run();
    }
    assert_eq!(world.declined, [(Ticket(1), Declined::Misfit); 3]);
    assert_eq!(longitude(&world), None);
    assert!(reported(&world).is_empty());
}

#[test]
fn locations_that_wait_are_one_report_of_the_newest() {
    let mut world = World::new();
    world.go_offline();
    for longitude in 0..50 {
        move_to(&mut world, f64::from(longitude));
    }
    world.restart();
    world.reconnect();
    assert_eq!(reported(&world), [49.0]);
}

#[test]
fn a_report_that_the_platform_could_not_take_is_made_again_with_the_newest_location() {
    let mut world = World::new();
    world.broker.rc.insert("device/update/location", Some(409));
    move_to(&mut world, 5.0);
    world.broker.rc.clear();
    move_to(&mut world, 6.0);
    world.pass(minutes(10));
    assert_eq!(reported(&world).last(), Some(&6.0));
    assert!(reported(&world).len() <= 3, "{:?}", reported(&world));
}

#[test]
fn what_the_platform_sets_is_not_reported_back() {
    let mut world = World::new();
    world.deliver("o", observe("location"));
    moved_by_platform(&mut world, 5.0);
    world.deliver("u", update("location", json!({"longitude": 6.0, "latitude": 1.0})));
    world.assert_answer("u", 204);
    world.restart();
    world.flap();
    world.pass(minutes(60));
    assert_eq!(longitude(&world), Some(6.0));
    assert!(reported(&world).is_empty());
}

#[test]
fn whoever_comes_to_the_device_last_wins() {
    let mut world = World::new();
    move_to(&mut world, 5.0);
    moved_by_platform(&mut world, 6.0);
    assert_eq!(longitude(&world), Some(6.0));
    move_to(&mut world, 7.0);
    assert_eq!(longitude(&world), Some(7.0));
    assert_eq!(reported(&world), [5.0, 7.0]);
}

/// The platform set 6 before it received 5, and the device heard of it after: to the one 5 is newer, to the other 6.
#[test]
fn when_both_set_it_at_once_the_platform_hears_who_won() {
    let mut world = World::new();
    world.broker.rc.insert("device/update/location", None);
    move_to(&mut world, 5.0);
    moved_by_platform(&mut world, 6.0);
    assert_eq!(longitude(&world), Some(6.0));
    assert_eq!(reported(&world), [5.0, 6.0]);
    world.broker.rc.clear();
    world.pass(minutes(10));
    assert!(reported(&world)[1..].iter().all(|longitude| *longitude == 6.0), "{:?}", reported(&world));
}

/// The report was given up while its responses, and the platform's location before them, waited behind a full outbox: the
/// platform kept 5.
#[test]
fn a_report_is_not_given_up_while_its_response_may_wait_here() {
    let mut world = World::with(|settings| settings.limits.outbox = 1);
    world.broker.refuses_answers = true;
    world.deliver("u", update("metadata", json!({"a": 1})));
    world.broker.rc.insert("device/update/location", None);
    move_to(&mut world, 5.0);
    moved_by_platform(&mut world, 6.0);
    world.pass(minutes(9));
    assert_eq!(reported(&world), [5.0]);
    world.broker.rc.clear();
    world.broker.refuses_answers = false;
    world.pass(minutes(20));
    assert_eq!(longitude(&world), Some(6.0));
    assert_eq!(reported(&world), [5.0, 6.0]);
}

#[test]
fn a_report_that_waits_says_what_the_platform_set_meanwhile() {
    let mut world = World::new();
    world.broker.rc.insert("mgmt/manage", None);
    world.flap();
    move_to(&mut world, 5.0);
    moved_by_platform(&mut world, 6.0);
    assert!(reported(&world).is_empty(), "reports wait for the answer to manage");
    world.broker.rc.clear();
    world.pass(minutes(10));
    assert!(
        !reported(&world).is_empty() && reported(&world).iter().all(|longitude| *longitude == 6.0),
        "{:?}",
        reported(&world)
    );
}

#[test]
fn a_bad_location_of_the_platform_is_refused_with_its_range() {
    let mut world = World::new();
    world.deliver("u", update("location", json!({"longitude": 181, "latitude": 1})));
    world.assert_answer("u", 400);
    assert_eq!(world.message("u"), "location: longitude 181 is not within -180 to 180");
}
