//! The whole agent with its real link and its real journal, against the in-process broker through a proxy that fails
//! on purpose, on the paused clock: outages of hours take milliseconds.

mod garbage;
mod lives;
mod names;
mod rig;
mod slow;
mod stranger;
mod takeover;
mod trouble;
mod wire;

use std::time::Duration;

use iotdm_agent::config::Tls;
use iotdm_core::MAX_PAYLOAD_BYTES;
use iotdm_platform::proxy::Direction;
use tokio::time::{Instant, advance, sleep};

use rig::Rig;

/// TLS for those whom the authority of the tests vouches for.
fn authority() -> Tls {
    Tls { ca_pem: Some(include_bytes!("../security/certificates/authority.pem").to_vec()), ..Tls::default() }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_over_a_real_connection_and_a_replay_gets_the_same_bytes() {
    let mut rig = Rig::new().await;
    let first = rig.ask("r1").await;
    assert_eq!(first["rc"], 200);
    rig.restart().await;
    assert_eq!(rig.ask("r1").await, first);
    assert_eq!(rig.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_cut_at_any_byte_loses_and_repeats_nothing() {
    for bytes in (1..400).step_by(7) {
        let mut rig = Rig::new().await;
        rig.proxy.cut_after_bytes(if bytes % 2 == 0 { Direction::Up } else { Direction::Down }, bytes);
        assert_eq!(rig.ask("r1").await["rc"], 200, "cut after {bytes} bytes");
        assert_eq!(rig.ask("r2").await["rc"], 200, "cut after {bytes} bytes");
        assert_eq!(rig.runs(), 2, "cut after {bytes} bytes");
        rig.drained().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_noticed_within_two_keep_alives() {
    let mut rig = Rig::new().await;
    rig.proxy.black_hole(true);
    let connections = rig.proxy.connections();
    let began = Instant::now();
    while rig.proxy.connections() == connections {
        sleep(Duration::from_secs(1)).await;
    }
    assert!(began.elapsed() <= Duration::from_secs(125), "{:?}", began.elapsed());
    rig.proxy.black_hole(false);
    rig.proxy.cut();
    assert_eq!(rig.ask("r1").await["rc"], 200);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_during_an_outage_of_three_hours_is_answered_after_it() {
    let mut rig = Rig::new().await;
    rig.proxy.refuse(true);
    rig.proxy.cut();
    for n in 0..50 {
        rig.send(&format!("r{n}"), "");
    }
    sleep(Duration::from_secs(3 * 3600)).await;
    assert_eq!(rig.runs(), 0);
    rig.proxy.refuse(false);
    for n in 0..50 {
        assert_eq!(rig.response(&format!("r{n}")).await["rc"], 200);
    }
    assert_eq!(rig.runs(), 50);
    rig.drained().await;
}

#[tokio::test(start_paused = true)]
async fn answers_without_their_acknowledgement_are_sent_again_and_acknowledged_ones_are_not() {
    let mut rig = Rig::new().await;
    rig.broker.hold_pubacks(&rig.client_id(), true);
    rig.send("r1", "");
    assert_eq!(rig.response("r1").await["rc"], 200);
    rig.proxy.cut();
    rig.broker.hold_pubacks(&rig.client_id(), false);
    rig.until_responses("r1", 2).await;
    // That the answer has arrived is written down with the next commit.
    assert_eq!(rig.ask("r2").await["rc"], 200);
    rig.restart().await;
    assert_eq!(rig.ask("r3").await["rc"], 200);
    assert_eq!(rig.responses("r1"), 2);
    assert_eq!(rig.runs(), 3);
}

#[tokio::test(start_paused = true)]
async fn odd_brokers_change_nothing() {
    let mut rig = Rig::new().await;
    rig.broker.set_dup_flag(false);
    rig.broker.renumber(true);
    for n in 0..10 {
        rig.send(&format!("r{n}"), "");
        if n % 3 == 0 {
            rig.broker.redeliver_in_flight(&rig.client_id());
            rig.proxy.cut();
        }
    }
    for n in 0..10 {
        assert_eq!(rig.response(&format!("r{n}")).await["rc"], 200);
    }
    rig.drained().await;
    assert_eq!(rig.runs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_subscribed_again() {
    let mut rig = Rig::new().await;
    rig.broker.drop_session(&rig.client_id());
    let manages = rig.manages();
    rig.until_manages(manages + 1).await;
    assert_eq!(rig.ask("r1").await["rc"], 200);
}

#[tokio::test(start_paused = true)]
async fn the_largest_payload_passes_and_a_larger_one_is_dropped_without_a_loop() {
    let mut rig = Rig::new().await;
    let envelope = rig::request("large", "").len();
    rig.send("large", &"x".repeat(MAX_PAYLOAD_BYTES - envelope));
    // The answer holds what was asked, and would be larger than a message may be.
    assert_eq!(rig.response("large").await["rc"], 200);
    rig.inject(vec![b'x'; 400_000]);
    advance(Duration::from_secs(60)).await;
    assert_eq!(rig.ask("after").await["rc"], 200);
    rig.drained().await;
    assert!(rig.broker.stats().connects <= 6, "{:?}", rig.broker.stats());
}

#[tokio::test(start_paused = true)]
async fn a_takeover_is_survived() {
    let mut rig = Rig::new().await;
    rig.take_over().await;
    let manages = rig.manages();
    rig.until_manages(manages + 1).await;
    assert_eq!(rig.ask("r1").await["rc"], 200);
}

#[tokio::test(start_paused = true)]
async fn a_week_of_idling_costs_one_manage_an_hour_and_one_connection() {
    let mut rig = Rig::new().await;
    rig.pass(Duration::from_secs(7 * 24 * 3600)).await;
    assert_eq!(rig.ask("r1").await["rc"], 200);
    assert!((168..=190).contains(&rig.manages()), "{}", rig.manages());
    assert_eq!(rig.proxy.connections(), 1);
}
