//! Events: kept until the broker has them, in order, bounded, and never in the way of an answer.

use bytes::Bytes;
use iotdm_core::{Declined, Event};

use crate::config::DropPolicy;
use crate::engine::{Input, Ticket};
use crate::testing::simulation::laws::events::event;

use super::world::*;

impl World {
    fn publish(&mut self, number: u64) {
        self.publish_of(number, 10);
    }

    fn publish_of(&mut self, number: u64, bytes: usize) {
        self.input(Input::Publish(event(number, bytes), Some(Ticket(number))));
    }

    fn publish_once(&mut self, number: u64) {
        self.input(Input::Publish(event(number, 10).at_most_once(), Some(Ticket(number))));
    }

    /// The numbers of the events that reached the broker.
    fn events(&self) -> Vec<u64> {
        let events = self.broker.received.iter().filter(|received| received.topic.starts_with("iot-2/evt/"));
        events.map(|received| number(&received.payload)).collect()
    }

    fn waiting(&self) -> u64 {
        self.engine().events().waiting
    }
}

fn number(payload: &Bytes) -> u64 {
    let text = std::str::from_utf8(payload).unwrap();
    text.split_once("event number ").unwrap().1.split(',').next().unwrap().parse().unwrap()
}

#[test]
fn an_event_is_sent_and_kept_until_the_broker_has_it() {
    let mut world = World::new();
    world.broker.pubacks = false;
    world.publish(1);
    world.run();
    assert_eq!((world.events(), world.waiting()), (vec![1], 1));
    assert_eq!(world.confirmed, [Ticket(1)]);
    world.puback();
    assert_eq!((world.waiting(), world.engine().events().arrived), (0, 1));
    let sent = world.broker.received.last().unwrap();
    assert_eq!(sent.topic, "iot-2/evt/reading/fmt/json");
}

#[test]
fn an_event_is_confirmed_and_sent_only_when_it_is_durable() {
    let mut world = World::new();
    world.disk.disk_full(true);
    world.publish(1);
    assert!(world.agent.is_none() && world.confirmed.is_empty());
    world.disk.disk_full(false);
    world.start();
    assert!(world.events().is_empty());
}

#[test]
fn an_event_costs_one_commit_and_its_removal_rides_along_with_the_next() {
    let mut world = World::new();
    world.pass(secs(1));
    let before = world.commits;
    for number in 1..=5 {
        world.publish(number);
        world.run();
    }
    assert_eq!((world.events().len(), world.commits - before), (5, 5));
}

#[test]
fn events_of_an_outage_are_sent_oldest_first_after_it() {
    let mut world = World::new();
    world.go_offline();
    (1..=50).for_each(|number| world.publish(number));
    world.pass(minutes(60 * 24 * 5));
    assert_eq!((world.events(), world.waiting()), (vec![], 50));
    world.reconnect();
    assert_eq!((world.events(), world.waiting()), ((1..=50).collect(), 0));
}

#[test]
fn what_was_not_acknowledged_is_sent_again_before_what_came_later() {
    let mut world = World::new();
    world.broker.pubacks = false;
    (1..=3).for_each(|number| world.publish(number));
    world.run();
    world.cut();
    world.publish(4);
    world.broker.pubacks = true;
    world.pass(minutes(10));
    assert_eq!(world.events(), [1, 2, 3, 1, 2, 3, 4]);
}

#[test]
fn a_restart_with_stored_events_sends_them_oldest_first() {
    let mut world = World::new();
    world.go_offline();
    (1..=20).for_each(|number| world.publish(number));
    world.broker.reachable = true;
    world.reboot();
    assert_eq!(world.events(), (1..=20).collect::<Vec<_>>());
    assert_eq!(world.waiting(), 0);
}

#[test]
fn an_event_whose_removal_was_lost_comes_again_and_no_other() {
    let mut world = World::new();
    world.publish(1);
    world.run();
    world.publish(2);
    world.run();
    world.restart();
    assert_eq!(world.events(), [1, 2, 2], "the removal of the first one rode along with the second one");
}

#[test]
fn removals_do_not_wait_for_another_commit_for_ever() {
    let mut world = World::with(|settings| settings.limits.events.count = 1000);
    world.go_offline();
    (1..=600).for_each(|number| world.publish(number));
    world.reconnect();
    world.restart();
    let again = world.events().len() - 600;
    assert!(again < 256, "{again}");
}

#[test]
fn at_the_bound_the_oldest_gives_way_and_is_counted() {
    let mut world = World::with(|settings| settings.limits.events.count = 4);
    world.go_offline();
    (1..=10).for_each(|number| world.publish(number));
    assert_eq!((world.waiting(), world.engine().events().dropped_full), (4, 6));
    assert_eq!(world.confirmed.len(), 10);
    world.restart();
    world.reconnect();
    assert_eq!(world.events(), [7, 8, 9, 10]);
}

#[test]
fn at_the_bound_what_comes_gives_way_where_the_policy_says_so_and_its_caller_is_told() {
    let mut world = World::with(|settings| {
        (settings.limits.events.count, settings.limits.events.policy) = (4, DropPolicy::Newest);
    });
    world.go_offline();
    (1..=6).for_each(|number| world.publish(number));
    assert_eq!((world.waiting(), world.engine().events().dropped_full), (4, 2));
    assert_eq!(world.declined, [(Ticket(5), Declined::Full), (Ticket(6), Declined::Full)]);
    world.reconnect();
    assert_eq!(world.events(), [1, 2, 3, 4]);
}

#[test]
fn the_bound_in_bytes_counts_payload_topic_and_overhead() {
    let mut world = World::with(|settings| settings.limits.events.bytes = 3000);
    world.go_offline();
    (1..=4).for_each(|number| world.publish_of(number, 700));
    let counters = world.engine().events();
    assert_eq!((counters.waiting, counters.dropped_full), (3, 1));
    let one = (event(1, 700).payload().len() + "iot-2/evt/reading/fmt/json".len() + 128) as u64;
    assert_eq!(counters.waiting_bytes, 3 * one);
}

#[test]
fn an_event_larger_than_the_whole_store_is_declined_and_costs_no_other() {
    let mut world = World::with(|settings| settings.limits.events.bytes = 3000);
    world.go_offline();
    world.publish(1);
    world.publish_of(2, 3000);
    assert_eq!(world.declined, [(Ticket(2), Declined::OutOfBounds)]);
    assert_eq!(world.waiting(), 1);
}

#[test]
fn a_store_of_a_wider_bound_is_trimmed_at_the_start() {
    for (policy, left) in [(DropPolicy::Oldest, [9, 10]), (DropPolicy::Newest, [1, 2])] {
        let mut world = World::new();
        world.go_offline();
        (1..=10).for_each(|number| world.publish(number));
        (world.settings.limits.events.count, world.settings.limits.events.policy) = (2, policy);
        world.restart();
        assert_eq!((world.waiting(), world.engine().events().dropped_full), (2, 8));
        world.reconnect();
        assert_eq!(world.events(), left);
    }
}

#[test]
fn an_event_at_qos_0_is_sent_while_connected_and_dropped_and_counted_otherwise() {
    let mut world = World::new();
    world.publish_once(1);
    world.run();
    world.go_offline();
    world.publish_once(2);
    world.reconnect();
    let counters = world.engine().events();
    assert_eq!((world.events(), counters.sent_once, counters.dropped_offline), (vec![1], 1, 1));
    assert_eq!(world.declined, [(Ticket(2), Declined::NotConnected)]);
}

#[test]
fn an_event_at_qos_0_that_is_stored_waits_for_the_connection() {
    let mut world = World::new();
    world.go_offline();
    world.input(Input::Publish(event(1, 10).at_most_once().stored(), None));
    world.publish(2);
    world.restart();
    world.reconnect();
    assert_eq!((world.events(), world.waiting()), (vec![1, 2], 0));
}

#[test]
fn a_burst_at_qos_0_above_what_the_link_may_hold_is_dropped_and_counted() {
    let mut world = World::new();
    for number in 1..=40 {
        world.publish_once(number);
    }
    world.run();
    let counters = world.engine().events();
    assert_eq!((counters.sent_once, counters.dropped_offline), (32, 8));
}

#[test]
fn events_are_sent_while_the_platform_refuses_to_manage_and_while_the_fence_is_down() {
    let mut world = World::off(|_| {});
    world.broker.rc.insert("mgmt/manage", None);
    world.broker.has_session = true;
    world.start();
    assert!(!world.engine().is_managed());
    world.publish(1);
    world.run();
    assert_eq!((world.events(), world.waiting()), (vec![1], 0));
}

#[test]
fn events_survive_the_loss_of_the_session() {
    let mut world = World::new();
    world.go_offline();
    world.publish(1);
    world.broker.lose_session();
    world.reconnect();
    assert_eq!(world.events(), [1]);
}

#[test]
fn events_are_stored_and_not_sent_while_the_agent_stops() {
    let mut world = World::new();
    world.input(Input::Stop);
    world.publish(1);
    world.publish_once(2);
    world.run();
    assert_eq!((world.events(), world.waiting()), (vec![], 1));
    world.stop();
    world.start();
    assert_eq!(world.events(), [1]);
}

/// What reached the broker before the answer to a request that came in the middle of a backlog.
fn events_before_the_answer(world: &mut World) -> usize {
    let at = world.broker.received.len();
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    let is_answer = |payload: &Bytes| payload.windows(4).any(|window| window == b"\"rc\"");
    let after = &world.broker.received[at..];
    after.iter().position(|received| is_answer(&received.payload)).expect("the 202 arrives")
}

#[test]
fn a_backlog_of_10000_events_delays_the_202_of_a_reboot_by_its_window_at_the_most() {
    let mut world = World::with(|settings| {
        (settings.limits.events.count, settings.limits.events.bytes) = (10_000, 4 * 1024 * 1024);
    });
    world.go_offline();
    (1..=10_000).for_each(|number| world.publish(number));
    world.broker.pubacks = false;
    world.broker.reachable = true;
    world.reconnect();
    assert_eq!(world.events().len(), 16);
    // The broker holds back every PUBACK: the window of events is closed, and that of answers is not.
    assert_eq!(events_before_the_answer(&mut world), 0);
    world.puback();
    assert_eq!(world.waiting(), 10_000 - world.engine().events().arrived);
}

#[test]
fn answers_leave_before_events_that_wait_when_the_connection_comes_up() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.go_offline();
    (1..=100).for_each(|number| world.publish(number));
    world.decide("r1", yes(200));
    let at = world.broker.received.len();
    world.reconnect();
    let topics: Vec<_> = world.broker.received[at..].iter().map(|received| received.topic.as_str()).collect();
    assert_eq!(topics[..2], ["iotdevice-1/response", "iotdevice-1/mgmt/manage"]);
    assert_eq!(world.waiting(), 0);
}

#[test]
fn no_more_than_64_kib_of_events_are_on_their_way_and_a_larger_one_goes_alone() {
    let mut world = World::with(|settings| settings.limits.events.bytes = 4 * 1024 * 1024);
    world.broker.pubacks = false;
    (1..=8).for_each(|number| world.publish_of(number, 20_000));
    world.run();
    assert_eq!(world.events(), [1, 2, 3]);
    world.cut();
    world.broker.pubacks = true;
    world.pass(minutes(1));
    world.broker.pubacks = false;
    world.publish_of(9, 100_000);
    world.publish(10);
    world.run();
    assert_eq!(world.events().last(), Some(&9));
    world.puback();
    assert_eq!(world.events().last(), Some(&10));
}

#[test]
fn a_connection_on_which_no_event_is_acknowledged_is_made_again() {
    let mut world = World::new();
    world.broker.pubacks = false;
    world.publish(1);
    world.run();
    let connections = world.broker.connections;
    world.pass(minutes(11));
    assert!(world.broker.connections > connections);
    world.puback();
    world.pass(minutes(120));
    assert_eq!(world.waiting(), 0);
}

/// A broker may end the connection for a topic that it forbids.
#[test]
fn events_that_cost_the_connection_each_time_do_not_cost_the_management() {
    let mut world = World::new();
    world.broker.ends_at_events = true;
    (1..=20).for_each(|number| world.publish(number));
    let before = world.broker.connections;
    world.pass(minutes(24 * 60));
    let connections = world.broker.connections - before;
    assert!((10..50).contains(&connections), "{connections} connections in a day");
    assert!(world.engine().is_managed());
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.assert_answer("r1", 200);
    world.broker.ends_at_events = false;
    world.pass(minutes(61));
    assert_eq!(world.waiting(), 0);
}

#[test]
fn a_session_for_events_alone_neither_subscribes_nor_manages() {
    let mut world = World::off(|settings| settings.events_only = true);
    // It grants nothing: who subscribes never comes up.
    world.broker.grants = false;
    world.broker.allows_all = true;
    world.start();
    world.publish_once(1);
    world.input(Input::Report(iotdm_core::Report::AddErrorCode(7), Some(Ticket(99))));
    world.pass(minutes(60 * 24));
    assert_eq!(world.events(), [1]);
    assert_eq!(world.broker.received.len(), 1);
    assert_eq!(world.broker.connections, 1);
    assert_eq!(world.declined, [(Ticket(99), Declined::Unsupported)]);
}

#[test]
fn an_event_of_any_bytes_survives_a_restart() {
    let mut world = World::new();
    world.go_offline();
    let payloads: [&[u8]; 4] = [b"", b"plain \"text\"", b"\x00\xff\x01", &[7; 131_072]];
    for payload in payloads {
        let event = Event::bytes("any", "bin", Bytes::copy_from_slice(payload)).unwrap();
        world.input(Input::Publish(event, None));
    }
    world.restart();
    world.reconnect();
    let received: Vec<_> = world.broker.received.iter().filter(|r| r.topic.ends_with("/bin")).collect();
    assert_eq!(received.iter().map(|r| &r.payload[..]).collect::<Vec<_>>(), payloads);
}

/// As a broker with MQTT 5 may do.
#[test]
fn an_event_that_the_broker_refuses_is_dropped_and_counted_and_the_next_one_goes() {
    let mut world = World::new();
    world.broker.pubacks = false;
    world.publish(1);
    world.run();
    let id = world.broker.held_back.pop().unwrap();
    world.input(Input::Refused(id, "quota exceeded".into()));
    world.publish(2);
    world.run();
    assert_eq!((world.events(), world.waiting()), (vec![1, 2], 1));
    assert_eq!(world.engine().events().refused, 1);
}

/// Else a journal would hold them all until something else is written, and a crash would send them all again.
#[test]
fn refused_events_leave_the_journal_within_a_bound() {
    let mut world = World::with(|settings| {
        (settings.limits.events.count, settings.limits.events.bytes) = (1000, 1024 * 1024);
    });
    world.broker.pubacks = false;
    for number in 0..300 {
        world.publish(number);
    }
    world.run();
    let before = world.commits;
    while !world.broker.held_back.is_empty() {
        let id = world.broker.held_back.remove(0);
        world.input(Input::Refused(id, "quota exceeded".into()));
        world.run();
    }
    assert_eq!((world.engine().events().refused, world.waiting()), (300, 0));
    assert_eq!(world.commits - before, 1, "256 at a time");
}
