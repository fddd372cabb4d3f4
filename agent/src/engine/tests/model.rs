//! Observe, notify, cancel and update, as the platform sees them.

use serde_json::{Value, json};

use crate::engine::{Input, Ticket};

use super::world::*;

fn set(world: &mut World, name: &str, value: Value) {
    world.input(Input::SetAttributes(vec![(name.into(), value)], Some(Ticket(1))));
    world.run();
}

fn notified(world: &World) -> Vec<Value> {
    world.broker.on("notify").iter().map(|notify| notify["d"]["fields"][0]["value"].clone()).collect()
}

#[test]
fn an_observed_attribute_is_notified_and_a_cancelled_one_is_not() {
    let mut world = World::new();
    set(&mut world, "level", json!(2));
    world.deliver("r1", observe("level"));
    set(&mut world, "level", json!(3));
    set(&mut world, "level", json!(3));
    world.restart();
    set(&mut world, "level", json!(4));
    world.deliver("r2", cancel("level"));
    set(&mut world, "level", json!(5));
    assert_eq!(notified(&world), [json!(3), json!(4)]);
    world.assert_answer("r2", 200);
}

#[test]
fn changes_while_offline_become_one_notification_of_the_newest_value() {
    let mut world = World::new();
    world.deliver("r1", observe("level"));
    world.go_offline();
    for n in 2..9 {
        set(&mut world, "level", json!(n));
    }
    world.reconnect();
    assert_eq!(notified(&world), [json!(8)]);
}

#[test]
fn a_notification_never_overtakes_the_answer_to_its_observe() {
    let mut world = World::new();
    world.broker.pubacks = false;
    world.send("r1", observe("level"));
    world.run();
    world.go_offline();
    set(&mut world, "level", json!(2));
    world.reconnect();
    world.puback();
    let is_about_it = |topic: &str| topic.ends_with("/notify") || topic.ends_with("/response");
    let topics: Vec<_> =
        world.broker.received.iter().map(|r| r.topic.as_str()).filter(|t| is_about_it(t)).collect();
    assert_eq!(topics, ["iotdevice-1/response", "iotdevice-1/response", "iotdevice-1/notify"]);
}

#[test]
fn an_observe_of_something_unknown_observes_nothing_at_all() {
    let mut world = World::new();
    let fields = json!({"fields": ["level", "nonsense"]});
    world.deliver("r1", Ask::new("observe").body(fields));
    world.assert_answer("r1", 404);
    set(&mut world, "level", json!(2));
    assert!(notified(&world).is_empty());
    assert_eq!(world.engine().model().observations().count(), 0);
}

#[test]
fn an_update_is_answered_204_and_its_effect_is_durable_with_the_acknowledgement() {
    let mut world = World::new();
    world.deliver("r1", update("metadata", json!({"a": 1})));
    world.assert_answer("r1", 204);
    world.restart();
    assert_eq!(world.engine().model().read("metadata"), Some(&json!({"a": 1})));
    assert_eq!(world.broker.on("mgmt/manage").last().unwrap()["d"]["metadata"], json!({"a": 1}));
}

#[test]
fn a_replayed_update_does_not_undo_what_came_after_it() {
    let mut world = World::new();
    world.deliver("r1", update("metadata", json!({"a": 1})));
    world.deliver("r2", update("metadata", json!({"a": 2})));
    world.deliver("r1", update("metadata", json!({"a": 1})));
    assert_eq!(world.codes("r1"), [204, 204]);
    assert_eq!(world.engine().model().read("metadata"), Some(&json!({"a": 2})));
}

#[test]
fn another_image_is_refused_while_one_is_transferred() {
    let mut world = World::new();
    world.deliver("d", download());
    world.deliver("r1", update("mgmt.firmware", json!({"uri": "http://x/2"})));
    world.assert_answer("r1", 409);
}

#[test]
fn an_attribute_that_would_not_fit_a_message_is_refused() {
    let mut world = World::new();
    world.deliver("r0", observe("metadata"));
    let large = json!({"a": "x".repeat(130_900)});
    world.deliver("r1", update("metadata", large));
    world.assert_answer("r1", 400);
    assert!(notified(&world).is_empty());
    world.flap();
    assert!(world.engine().is_managed());
}

/// Each fits a message; both of them do not.
#[test]
fn manage_leaves_out_what_does_not_fit() {
    let mut world = World::new();
    set(&mut world, "metadata", json!({"a": "x".repeat(90_000)}));
    set(&mut world, "deviceInfo", json!({"description": "y".repeat(90_000)}));
    world.flap();
    assert!(world.engine().is_managed());
    let manage = world.broker.on("mgmt/manage").pop().unwrap();
    assert!(manage["d"]["deviceInfo"].is_object() && manage["d"]["metadata"].is_null());
}

#[test]
fn a_configured_value_replaces_the_stored_one_only_when_the_configuration_changed() {
    let mut world = World::new();
    set(&mut world, "level", json!(5));
    world.restart();
    assert_eq!(world.engine().model().read("level"), Some(&json!(5)));
    for (name, value) in &mut world.settings.configured {
        if name == "level" {
            *value = json!(9);
        }
    }
    world.restart();
    assert_eq!(world.engine().model().read("level"), Some(&json!(9)));
}

#[test]
fn what_the_product_sets_is_confirmed_once_it_is_durable() {
    let mut world = World::new();
    world.disk.disk_full(true);
    set_only(&mut world);
    assert!(world.confirmed.is_empty());
    world.disk.disk_full(false);
    world.start();
    set_only(&mut world);
    assert_eq!(world.confirmed, [Ticket(1)]);
}

fn set_only(world: &mut World) {
    world.input(Input::SetAttributes(vec![("level".into(), json!(2))], Some(Ticket(1))));
}

/// A number whose last digit changes when it is read back is still the same configuration.
#[test]
fn what_was_configured_with_many_digits_does_not_undo_an_update_at_every_start() {
    let unsteady = |number: &f64| {
        serde_json::from_str::<f64>(&json!(number).to_string())
            .is_ok_and(|read| read.to_bits() != number.to_bits())
    };
    let number = (1..100_000).map(|n| f64::from(n) / 7.3e11).find(unsteady).expect("there are such numbers");
    let mut world = World::with(|settings| settings.configured[1].1 = json!({ "factor": number }));
    world.deliver("u", update("metadata", json!({ "owner": "somebody" })));
    world.restart();
    assert_eq!(world.engine().model().read("metadata"), Some(&json!({ "owner": "somebody" })));
}
