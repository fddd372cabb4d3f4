//! Events of a product: durable, in order, bounded; and the limits of the quickstart organization.

mod wire;

use std::time::Duration;

use iotdm_agent::testing::{CrashOutcome, Published, Running};
use iotdm_agent::{DropPolicy, EventLimits, Events};
use iotdm_core::{Declined, Event, PublishError, Qos, Reboot, UpRoute};
use serde_json::json;

use crate::product::{Echo, Rig};

/// Publishes these numbers, each in an event of its own.
async fn publish(events: &Events, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        events.publish("reading", &number).await.expect("the agent takes it");
    }
}

fn numbers(published: &[Published]) -> Vec<u64> {
    published.iter().map(|event| event.body.as_u64().expect("the event is a number")).collect()
}

async fn until_arrived(rig: &Rig, running: &Running, count: u64) {
    let events = running.device().events();
    rig.platform.until(|_| events.counters().waiting == 0 && events.counters().arrived >= count).await;
}

/// Starts a device whose store has other bounds.
fn start_with(rig: &Rig, events: EventLimits) -> Running {
    rig.start_with(|builder| builder.event_store(events))
}

#[tokio::test(start_paused = true)]
async fn an_event_reaches_the_platform_on_its_topic_at_qos_1() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let events = running.device().events();
    events.publish("temperature", &json!({"celsius": 21.5})).await.unwrap();
    events.publish_bytes("camera", "jpeg", vec![0xff, 0xd8]).await.unwrap();
    until_arrived(&rig, &running, 2).await;
    let published = rig.platform.events();
    assert_eq!(published[0].topic, "iot-2/evt/temperature/fmt/json");
    assert_eq!(published[0].body, json!({"celsius": 21.5}));
    assert_eq!(published[1].topic, "iot-2/evt/camera/fmt/jpeg");
    assert_eq!(published[1].payload, &[0xff, 0xd8][..]);
    assert!(published.iter().all(|event| event.qos == Qos::AtLeastOnce));
}

#[tokio::test(start_paused = true)]
async fn publish_returns_when_the_event_is_durable() {
    let rig = Rig::new();
    rig.platform.offline(true);
    let running = rig.start();
    let before = rig.disk.commits();
    publish(&running.device().events(), [1]).await;
    assert!(rig.disk.commits() > before);
    running.kill().await;
    rig.platform.offline(false);
    let running = rig.start();
    until_arrived(&rig, &running, 1).await;
    assert_eq!(numbers(&rig.platform.events()), [1]);
}

#[tokio::test(start_paused = true)]
async fn an_id_outside_the_grammar_and_an_event_that_is_too_large_are_refused_before_anything_is_stored() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let (events, before) = (running.device().events(), rig.disk.commits());
    let error = events.publish("room/1", &1).await.unwrap_err();
    let expected =
        "the id of the event `room/1` has '/' as character 5: it would begin another level of the topic";
    assert_eq!(error.to_string(), expected);
    let error = events.publish_bytes("e", "bin", vec![0; 131_073]).await.unwrap_err();
    assert_eq!(error.to_string(), "the event has 131073 bytes; a message may have 131072");
    assert_eq!(rig.disk.commits(), before);
    events.publish_bytes("e", "bin", vec![0; 131_072]).await.unwrap();
    until_arrived(&rig, &running, 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_five_days_loses_no_event_and_keeps_their_order() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.platform.offline(true);
    let events = running.device().events();
    for hour in 0..5 * 24 {
        publish(&events, [hour]).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    assert_eq!(events.counters().waiting, 120);
    rig.platform.offline(false);
    until_arrived(&rig, &running, 120).await;
    assert_eq!(numbers(&rig.platform.events()), (0..120).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_restart_with_a_full_store_sends_what_it_holds_oldest_first() {
    let rig = Rig::new();
    let bounds = EventLimits { count: 50, ..EventLimits::default() };
    rig.platform.offline(true);
    let running = start_with(&rig, bounds);
    let events = running.device().events();
    publish(&events, 0..80).await;
    assert_eq!((events.counters().waiting, events.counters().dropped_full), (50, 30));
    running.kill().await;
    rig.system.next_boot();
    rig.platform.offline(false);
    let running = start_with(&rig, bounds);
    until_arrived(&rig, &running, 50).await;
    assert_eq!(numbers(&rig.platform.events()), (30..80).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn where_the_newest_gives_way_the_caller_is_told_and_may_wait() {
    let rig = Rig::new();
    let running =
        start_with(&rig, EventLimits { count: 2, policy: DropPolicy::Newest, ..EventLimits::default() });
    rig.platform.managed(1).await;
    rig.platform.offline(true);
    let events = running.device().events();
    publish(&events, [1, 2]).await;
    let error = events.publish("reading", &3).await.unwrap_err();
    assert_eq!(error, PublishError::Declined(Declined::Full));
    assert_eq!(events.counters().dropped_full, 1);
    rig.platform.offline(false);
    until_arrived(&rig, &running, 2).await;
    publish(&events, [3]).await;
    until_arrived(&rig, &running, 3).await;
    assert_eq!(numbers(&rig.platform.events()), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_every_commit_loses_no_event_and_keeps_their_order() {
    for outcome in [CrashOutcome::Applied, CrashOutcome::NotApplied] {
        for at in 1..=8 {
            let rig = Rig::new();
            let running = rig.managed().await;
            rig.disk.crash_at_commit(at, outcome);
            publish(&running.device().events(), 0..6).await;
            let events = running.device().events();
            rig.platform.until(|_| events.counters().waiting == 0).await;
            let mut received = numbers(&rig.platform.events());
            assert_eq!(received.last(), Some(&5), "at {at} {outcome:?}");
            // At least once: what a crash repeats is in order, too.
            received.dedup();
            received.sort_unstable();
            received.dedup();
            assert_eq!(received, (0..6).collect::<Vec<_>>(), "at {at} {outcome:?}");
        }
    }
}

/// The process is killed between each two moments of an event's life, which the broker's PUBACKs set apart.
#[tokio::test(start_paused = true)]
async fn a_kill_at_each_moment_of_an_event_repeats_it_at_the_most() {
    for moment in ["before it is sent", "before its PUBACK", "before its removal", "after its removal"] {
        let rig = Rig::new();
        let running = rig.managed().await;
        let events = running.device().events();
        match moment {
            "before it is sent" => rig.platform.offline(true),
            "before its PUBACK" => rig.platform.hold_pubacks(true),
            _ => {}
        }
        publish(&events, [1]).await;
        match moment {
            "before it is sent" => {}
            "before its PUBACK" => rig.platform.until(|platform| !platform.events().is_empty()).await,
            _ => until_arrived(&rig, &running, 1).await,
        }
        if moment == "after its removal" {
            // The removal rides along with whatever is committed next.
            rig.ask::<Echo>("e").await;
        }
        running.kill().await;
        rig.platform.offline(false);
        rig.platform.hold_pubacks(false);
        let running = rig.managed().await;
        publish(&running.device().events(), [2]).await;
        let events = running.device().events();
        rig.platform
            .until(|platform| events.counters().waiting == 0 && numbers(&platform.events()).contains(&2))
            .await;
        let expected: &[u64] = match moment {
            "before it is sent" | "after its removal" => &[1, 2],
            _ => &[1, 1, 2],
        };
        assert_eq!(numbers(&rig.platform.events()), expected, "{moment}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_lived_through_and_the_event_is_stored_when_there_is_room() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.disk.disk_full(true);
    let events = running.device().events();
    let publishing = tokio::spawn(async move { events.publish("reading", &1).await });
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!publishing.is_finished());
    rig.disk.disk_full(false);
    publishing.await.unwrap().unwrap();
    let events = running.device().events();
    rig.platform.until(|_| events.counters().waiting == 0).await;
    assert_eq!(numbers(&rig.platform.events()), [1]);
}

#[tokio::test(start_paused = true)]
async fn an_event_at_qos_0_is_dropped_and_counted_without_a_connection() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let events = running.device().events();
    let event = |number: u64| Event::json("reading", &number).unwrap().at_most_once();
    events.send(event(1)).await.unwrap();
    rig.platform.offline(true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let error = events.send(event(2)).await.unwrap_err();
    assert_eq!(error, PublishError::Declined(Declined::NotConnected));
    events.send(event(3).stored()).await.unwrap();
    rig.platform.offline(false);
    rig.platform.until(|platform| platform.events().len() == 2).await;
    let published = rig.platform.events();
    assert_eq!(numbers(&published), [1, 3]);
    assert!(published.iter().all(|event| event.qos == Qos::AtMostOnce));
    let counters = events.counters();
    assert_eq!((counters.sent_once, counters.dropped_offline), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_10000_events_does_not_delay_a_reboot() {
    let rig = Rig::new();
    let bounds = EventLimits { bytes: 4 * 1024 * 1024, ..EventLimits::default() };
    rig.platform.offline(true);
    let running = start_with(&rig, bounds);
    let events = running.device().events();
    let publishing: Vec<_> = (0..10)
        .map(|part| {
            let events = events.clone();
            tokio::spawn(async move { publish(&events, part * 1000..(part + 1) * 1000).await })
        })
        .collect();
    for part in publishing {
        part.await.unwrap();
    }
    assert_eq!(events.counters().waiting, 10_000);
    rig.platform.hold_pubacks(true);
    rig.platform.offline(false);
    rig.platform.managed(1).await;
    rig.platform.until(|platform| platform.events().len() == 16).await;
    let before = rig.platform.everything().len();
    assert_eq!(rig.ask::<Reboot>("r").await["rc"], 202);
    let sent = &rig.platform.everything()[before..];
    assert_eq!(sent[0].route, Some(UpRoute::Response), "no event overtakes it");
}

#[tokio::test(start_paused = true)]
async fn events_are_sent_while_nobody_manages_the_device() {
    let rig = Rig::new();
    rig.platform.answer(UpRoute::Manage, None);
    let running = rig.start();
    publish(&running.device().events(), [1]).await;
    until_arrived(&rig, &running, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_agent_declines_events() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let events = running.device().events();
    running.stop().await.unwrap();
    let error = events.publish("reading", &1).await.unwrap_err();
    assert_eq!(error, PublishError::Declined(Declined::Stopping));
}

#[tokio::test(start_paused = true)]
async fn a_device_cannot_publish_for_another() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let other =
        iotdm_core::Subject::Named { type_id: "lamp".parse().unwrap(), device_id: "other".parse().unwrap() };
    let event = Event::json("e", &1).unwrap().of(other);
    let error = running.device().events().send(event).await.unwrap_err();
    assert_eq!(error, PublishError::Declined(Declined::Unsupported));
}

#[tokio::test(start_paused = true)]
async fn an_event_costs_one_commit_and_a_burst_shares_them() {
    let rig = Rig::new();
    let running = rig.managed().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let events = running.device().events();
    let before = rig.disk.commits();
    publish(&events, 0..10).await;
    assert_eq!(rig.disk.commits() - before, 10);
    let before = rig.disk.commits();
    let burst: Vec<_> = (0..60)
        .map(|number| {
            let events = events.clone();
            tokio::spawn(async move { events.publish("reading", &number).await })
        })
        .collect();
    for event in burst {
        event.await.unwrap().unwrap();
    }
    let commits = rig.disk.commits() - before;
    assert!(commits <= 6, "{commits} commits for 60 events");
}
