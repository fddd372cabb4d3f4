//! Nothing waits for what it need not, and nothing grows without end.

use std::time::Duration;

use iotdm_core::UpRoute;
use serde_json::json;

use crate::product::{Bomb, Echo, Once, Rig};

#[tokio::test(start_paused = true)]
async fn a_slow_handler_delays_nobody() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    for n in 0..40 {
        rig.send::<Once>(&format!("slow{n}"));
    }
    let began = tokio::time::Instant::now();
    assert_eq!(rig.ask::<Echo>("e").await["rc"], 200);
    rig.platform.send(iotdm_core::Route::Observe, json!({"reqId": "o", "d": {"fields": ["deviceInfo"]}}));
    assert_eq!(rig.platform.response("o").await["rc"], 200);
    assert!(began.elapsed().is_zero(), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn with_every_place_taken_attributes_are_still_answered_and_the_rest_waits_its_turn() {
    let rig = Rig::new();
    rig.platform.window(200);
    let _running = rig.managed().await;
    for n in 0..64 {
        rig.send::<Once>(&format!("slow{n}"));
    }
    rig.send::<Echo>("e");
    rig.platform.send(iotdm_core::Route::Observe, json!({"reqId": "o", "d": {"fields": ["deviceInfo"]}}));
    assert_eq!(rig.platform.response("o").await["rc"], 200);
    assert!(rig.platform.responses("e").is_empty());
    rig.product.gate.notify_one();
    assert_eq!(rig.platform.response("e").await["rc"], 200);
}

#[tokio::test(start_paused = true)]
async fn beyond_the_bound_of_waiting_requests_the_next_is_refused_and_acknowledged() {
    let rig = Rig::new();
    rig.platform.window(2000);
    let _running = rig.managed().await;
    for n in 0..1025 {
        rig.send::<Once>(&format!("r{n}"));
    }
    assert_eq!(rig.platform.response("r1024").await["rc"], 409);
    rig.platform.drained().await;
    assert_eq!(rig.platform.published(UpRoute::Response).len(), 1);
}

/// A place that is never given back is one less for ever.
#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_when_it_is_dropped_gives_its_place_back() {
    let rig = Rig::new();
    rig.platform.window(200);
    let _running = rig.managed().await;
    for n in 0..64 {
        rig.send::<Bomb>(&format!("bomb{n}"));
    }
    assert_eq!(rig.ask::<Echo>("e").await["rc"], 200);
    assert_eq!(rig.platform.responses("bomb63")[0]["rc"], 500);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_acknowledges_nothing_more_is_left_and_found_again() {
    let rig = Rig::new();
    rig.platform.window(200);
    let _running = rig.managed().await;
    rig.platform.hold_pubacks(true);
    for n in 0..100 {
        rig.send::<Echo>(&format!("r{n}"));
    }
    let connections = rig.platform.connections();
    let again = rig.platform.until(|platform| platform.connections() > connections);
    tokio::time::timeout(Duration::from_secs(70), again).await.expect("the connection is made again");
    rig.platform.hold_pubacks(false);
    for n in 0..100 {
        assert_eq!(rig.platform.response(&format!("r{n}")).await["rc"], 200);
    }
    assert_eq!(rig.product.runs().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_window_that_is_always_full_and_moves_is_no_reason_to_leave() {
    let rig = Rig::new();
    rig.platform.window(200);
    let _running = rig.managed().await;
    for round in 0..20 {
        rig.platform.hold_pubacks(true);
        for n in 0..100 {
            rig.send::<Echo>(&format!("{round}-{n}"));
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        rig.platform.hold_pubacks(false);
    }
    assert_eq!(rig.platform.connections(), 1);
}
