//! A link of 1 kB/s with deep buffers: everything passes, and takes its time.

use std::time::Duration;

use crate::rig::{self, Rig};
use iotdm_core::MAX_PAYLOAD_BYTES;

/// Bytes a second, each way.
const SLOW: u64 = 1000;

/// A keep-alive must be longer than the largest message takes: a ping waits behind it, and neither rumqttc nor a broker
/// takes a part of a message for a sign of life.
#[tokio::test(start_paused = true)]
async fn the_largest_request_passes_at_1_kb_a_second_with_a_keep_alive_of_five_minutes() {
    let mut rig = Rig::with(|config| config.broker.keep_alive = Duration::from_secs(300)).await;
    let connections = rig.proxy.connections();
    rig.proxy.slow(SLOW);
    rig.send("large", &largest());
    rig.pass(Duration::from_secs(130)).await;
    assert_eq!(rig.runs(), 0, "it is on its way");
    rig.pass(Duration::from_secs(10)).await;
    assert_eq!(rig.response("large").await["rc"], 200);
    assert_eq!((rig.proxy.connections(), rig.runs()), (connections, 1));
}

/// Then SUBACK comes behind it, two minutes after SUBSCRIBE.
#[tokio::test(start_paused = true)]
async fn the_largest_request_that_waited_while_the_device_was_away_passes_too() {
    let mut rig = Rig::with(|config| config.broker.keep_alive = Duration::from_secs(300)).await;
    rig.proxy.refuse(true);
    rig.proxy.cut();
    rig.send("large", &largest());
    rig.pass(Duration::from_secs(60)).await;
    rig.proxy.refuse(false);
    rig.proxy.slow(SLOW);
    let connections = rig.proxy.connections();
    rig.pass(Duration::from_secs(400)).await;
    assert_eq!(rig.response("large").await["rc"], 200);
    assert_eq!((rig.proxy.connections() - connections, rig.runs()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_largest_answer_passes_at_1_kb_a_second_too() {
    let mut rig = Rig::with(|config| config.broker.keep_alive = Duration::from_secs(300)).await;
    let connections = rig.proxy.connections();
    rig.proxy.slow(SLOW);
    rig.send_name("large", 130_900);
    rig.pass(Duration::from_secs(260)).await;
    assert_eq!(
        (rig.responses("large"), rig.runs()),
        (0, 1),
        "the request came, and its answer is on its way"
    );
    rig.pass(Duration::from_secs(15)).await;
    let answer = rig.response("large").await;
    assert!(answer["rc"] == 200 && answer.to_string().len() > 130_900, "{}", answer["rc"]);
    assert_eq!(rig.proxy.connections(), connections);
}

/// Measured: rumqttc sends a ping each minute, whatever flows, and gives the connection up when the next is due before
/// the answer came. The answer waits behind the request, so that what passes for certain is what the line carries in
/// one keep-alive.
#[tokio::test(start_paused = true)]
async fn with_a_keep_alive_of_a_minute_1_kb_a_second_carries_58_000_bytes_and_not_the_largest_request() {
    let mut rig = Rig::new().await;
    let connections = rig.proxy.connections();
    rig.proxy.slow(SLOW);
    rig.send("fits", &"x".repeat(58_000));
    rig.pass(Duration::from_secs(70)).await;
    assert_eq!(rig.response("fits").await["rc"], 200);
    assert_eq!(rig.proxy.connections(), connections);
    rig.send("large", &largest());
    rig.pass(Duration::from_secs(3600)).await;
    let (attempts, runs) = (rig.proxy.connections() - connections, rig.runs());
    assert!((10..=60).contains(&attempts) && runs == 1, "{attempts} connections, {runs} runs");
    // On a better line it passes.
    rig.proxy.slow(0);
    rig.proxy.cut();
    rig.pass(Duration::from_secs(300)).await;
    assert_eq!(rig.response("large").await["rc"], 200);
}

/// The pad of a request of [`MAX_PAYLOAD_BYTES`].
fn largest() -> String {
    "x".repeat(MAX_PAYLOAD_BYTES - rig::request("large", "").len())
}
