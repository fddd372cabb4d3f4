//! Which changes an observer hears of, and when.

use serde_json::{Value, json};

use crate::engine::{Input, Threshold};

use super::world::*;

/// A device whose `level` is notified when it changed by 2, at most every 30 seconds, and is observed.
fn world() -> World {
    let mut world = with(Threshold::new().min_change(2.0).min_interval(secs(30)));
    world.deliver("o", observe("level"));
    world
}

fn with(rule: Threshold) -> World {
    World::with(|settings| {
        settings.attributes.thresholds.insert("level".into(), rule);
    })
}

fn set(world: &mut World, value: impl Into<Value>) {
    world.input(Input::SetAttributes(vec![("level".into(), value.into())], None));
    world.run();
}

fn notified(world: &World) -> Vec<Value> {
    world.broker.on("notify").iter().map(|notify| notify["d"]["fields"][0]["value"].clone()).collect()
}

#[test]
fn the_first_change_after_an_observe_is_notified_at_once() {
    let mut world = world();
    set(&mut world, 3);
    assert_eq!(notified(&world), [3]);
}

#[test]
fn a_change_by_less_is_not_notified_however_often_and_small_ones_add_up() {
    let mut world = world();
    for value in [2, 0, 2, 1] {
        set(&mut world, value);
        world.pass(secs(60));
    }
    assert!(notified(&world).is_empty());
    set(&mut world, 2);
    set(&mut world, 3);
    assert_eq!(notified(&world), [3]);
}

#[test]
fn the_newest_value_is_notified_when_the_interval_ends() {
    let mut world = world();
    set(&mut world, 10);
    for value in [20, 30, 40] {
        set(&mut world, value);
        world.pass(secs(5));
    }
    assert_eq!(notified(&world), [10]);
    world.pass(secs(15));
    assert_eq!(notified(&world), [10, 40]);
    world.pass(minutes(60));
    assert_eq!(notified(&world), [10, 40]);
}

#[test]
fn a_value_that_came_back_before_the_interval_ended_is_not_notified() {
    let mut world = world();
    set(&mut world, 10);
    set(&mut world, 20);
    set(&mut world, 11);
    world.pass(minutes(5));
    assert_eq!(notified(&world), [10]);
}

#[test]
fn after_the_interval_a_change_is_notified_at_once_and_begins_the_next() {
    let mut world = world();
    set(&mut world, 10);
    world.pass(secs(31));
    set(&mut world, 20);
    set(&mut world, 30);
    assert_eq!(notified(&world), [10, 20]);
    world.pass(secs(31));
    assert_eq!(notified(&world), [10, 20, 30]);
}

#[test]
fn the_answer_to_an_observe_has_the_current_value_and_counts_as_told() {
    let mut world = world();
    set(&mut world, 2);
    world.deliver("o2", observe("level"));
    let answer: Value = serde_json::from_slice(&world.answers("o2")[0]).unwrap();
    assert_eq!(answer["d"]["fields"][0]["value"], 2);
    set(&mut world, 3);
    assert!(notified(&world).is_empty(), "3 differs from 2 by less than 2");
    set(&mut world, 4);
    assert_eq!(notified(&world), [4]);
}

#[test]
fn observing_again_does_not_shorten_the_interval_and_cancelling_does() {
    let mut world = world();
    set(&mut world, 10);
    world.deliver("o2", observe("level"));
    set(&mut world, 20);
    assert_eq!(notified(&world), [10]);
    world.deliver("c", cancel("level"));
    world.pass(minutes(5));
    assert_eq!(notified(&world), [10], "nobody observes");
    world.deliver("o3", observe("level"));
    set(&mut world, 30);
    assert_eq!(notified(&world), [10, 30]);
}

#[test]
fn the_interval_goes_on_over_a_crash_and_over_a_restart_of_the_machine() {
    for reboots in [false, true] {
        let mut world = world();
        set(&mut world, 10);
        set(&mut world, 20);
        world.pass(secs(10));
        if reboots {
            world.reboot()
        } else {
            world.restart()
        }
        world.pass(secs(19));
        assert_eq!(notified(&world), [10]);
        world.pass(secs(2));
        assert_eq!(notified(&world), [10, 20], "reboots: {reboots}");
    }
}

#[test]
fn without_a_clock_the_interval_begins_anew_with_the_machine() {
    let mut world = world();
    set(&mut world, 10);
    set(&mut world, 20);
    world.clock_lost = true;
    world.pass(secs(10));
    world.reboot();
    world.pass(secs(29));
    assert_eq!(notified(&world), [10]);
    world.pass(secs(2));
    assert_eq!(notified(&world), [10, 20]);
}

#[test]
fn a_restart_notifies_nothing_that_was_told_before() {
    let mut world = world();
    set(&mut world, 10);
    set(&mut world, 11);
    world.pass(minutes(5));
    // What was told rides along with the next commit.
    set(&mut world, 10);
    world.restart();
    world.pass(minutes(5));
    assert_eq!(notified(&world), [10]);
    set(&mut world, 11);
    assert_eq!(notified(&world), [10], "1 is less than 2, also after a restart");
}

#[test]
fn what_waits_while_offline_is_notified_once_with_the_newest_value() {
    let mut world = world();
    world.go_offline();
    for value in [10, 20, 11] {
        set(&mut world, value);
        world.pass(secs(40));
    }
    world.reconnect();
    assert_eq!(notified(&world), [11]);
    set(&mut world, 12);
    world.pass(minutes(5));
    assert_eq!(notified(&world), [11], "12 is compared with what was sent");
}

#[test]
fn a_rule_that_is_gone_holds_nothing_back() {
    let mut world = world();
    set(&mut world, 2);
    world.pass(minutes(5));
    world.settings.attributes.thresholds.clear();
    world.restart();
    assert_eq!(notified(&world), [2]);
    world.restart();
    set(&mut world, 3);
    assert_eq!(notified(&world), [2, 3]);
}

#[test]
fn a_rule_that_is_new_notifies_at_most_once_what_was_observed_before() {
    let mut world = World::new();
    world.deliver("o", observe("level"));
    set(&mut world, 5);
    let rule = Threshold::new().min_change(2.0);
    world.settings.attributes.thresholds.insert("level".into(), rule);
    world.restart();
    set(&mut world, 6);
    assert_eq!(notified(&world), [5, 5]);
    world.restart();
    assert_eq!(notified(&world), [5, 5]);
}

#[test]
fn the_rule_of_an_attribute_holds_for_an_observed_member() {
    let mut world = with(Threshold::new().min_change_of("inside.celsius", 0.5).min_interval(secs(30)));
    set(&mut world, json!({"inside": {"celsius": 20.0}, "door": "shut"}));
    world.deliver("o", observe("level.inside.celsius"));
    set(&mut world, json!({"inside": {"celsius": 20.4}, "door": "open"}));
    assert!(notified(&world).is_empty());
    set(&mut world, json!({"inside": {"celsius": 20.5}, "door": "open"}));
    assert_eq!(notified(&world), [20.5]);
}

/// What is stored for an observer goes with the observation: the platform must not be able to fill the journal.
#[test]
fn observing_and_cancelling_leaves_nothing_behind() {
    let mut world = world();
    set(&mut world, 10);
    world.deliver("c", cancel("level"));
    world.restart();
    let before = world.disk.pairs();
    for n in 0..20 {
        world.deliver(&format!("o{n}"), observe("level"));
        set(&mut world, 100 * n);
        world.deliver(&format!("c{n}"), cancel("level"));
    }
    world.restart();
    // Two answers a round are kept for replays, and nothing else.
    assert_eq!(world.disk.pairs(), before + 40);
}

#[test]
fn the_firmware_attribute_is_never_held_back() {
    let mut world = world();
    world.deliver("f", observe("mgmt.firmware"));
    for state in [1, 2, 0, 1] {
        let value = json!({"state": state, "updateStatus": 0});
        world.input(Input::SetAttributes(vec![("mgmt.firmware".into(), value)], None));
        world.run();
    }
    assert_eq!(notified(&world).len(), 4);
}

/// One was on its way, unacknowledged, and the next had followed it: the journal held both.
#[test]
fn two_notifications_that_a_crash_leaves_are_sent_as_one() {
    let mut world = world();
    world.broker.pubacks = false;
    world.broker.rc.insert("notify", None);
    set(&mut world, 10);
    set(&mut world, 20);
    world.pass(secs(31));
    assert_eq!(notified(&world), [10, 20]);
    world.crash();
    world.broker.pubacks = true;
    world.broker.rc.clear();
    world.start();
    assert_eq!(notified(&world), [10, 20, 20]);
}

/// Otherwise what follows would be compared with a value that the observer never got.
#[test]
fn a_notification_that_was_given_up_was_not_told() {
    let mut world = world();
    world.broker.rc.insert("notify", Some(400));
    set(&mut world, 10);
    assert_eq!(notified(&world), [10]);
    world.broker.rc.clear();
    world.pass(minutes(5));
    set(&mut world, 11);
    assert_eq!(notified(&world), [10, 11]);
    set(&mut world, 12);
    world.pass(minutes(5));
    world.restart();
    set(&mut world, 12);
    assert_eq!(notified(&world), [10, 11], "from here on the least change counts again");
}

#[test]
fn a_notification_that_nobody_answered_was_not_told() {
    let mut world = world();
    world.broker.rc.insert("notify", None);
    set(&mut world, 10);
    world.pass(minutes(60));
    world.broker.rc.clear();
    let before = notified(&world).len();
    assert!(before > 1, "it was tried more than once");
    set(&mut world, 11);
    assert_eq!(notified(&world)[before..], [11]);
}

#[test]
fn a_restart_notifies_no_number_that_the_journal_gives_back_as_its_neighbour() {
    let mut world = with(Threshold::new().min_interval(secs(30)));
    world.deliver("o", observe("level"));
    set(&mut world, 94.527_069_555_392_23);
    world.pass(minutes(5));
    world.input(Input::SetAttributes(vec![("other".into(), json!(1))], None));
    world.run();
    world.restart();
    world.pass(minutes(5));
    assert_eq!(notified(&world).len(), 1, "{:?}", notified(&world));
}
