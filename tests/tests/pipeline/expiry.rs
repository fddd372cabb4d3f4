//! MQTT 5: a broker that says how long each request has waited.

use std::time::Duration;

use crate::product::{Echo, Fresh, Rig};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Sends a request that waits this long at the end of a day's absence, and gives the code of its answer.
async fn code_after(counts: bool, waits: Duration) -> u64 {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.platform.counts_waiting(counts);
    rig.platform.offline(true);
    tokio::time::sleep(DAY).await;
    rig.send::<Fresh>("f");
    tokio::time::sleep(waits).await;
    rig.platform.offline(false);
    rig.platform.response("f").await["rc"].as_u64().expect("every answer has a code")
}

/// The request may be 15 minutes old. With 3.1.1 it may have been sent at any moment of the day.
#[tokio::test(start_paused = true)]
async fn a_request_that_waited_two_minutes_of_a_day_runs_where_the_broker_counts_and_only_there() {
    let two_minutes = Duration::from_secs(2 * 60);
    assert_eq!(code_after(true, two_minutes).await, 200);
    assert_eq!(code_after(false, two_minutes).await, 409);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waited_too_long_is_refused_where_the_broker_counts() {
    assert_eq!(code_after(true, Duration::from_secs(2 * 60 * 60)).await, 409);
}

#[tokio::test(start_paused = true)]
async fn requests_of_one_absence_are_judged_one_by_one() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.platform.counts_waiting(true);
    rig.platform.offline(true);
    rig.send::<Fresh>("old");
    rig.send::<Echo>("whenever");
    tokio::time::sleep(DAY).await;
    rig.send::<Fresh>("young");
    tokio::time::sleep(Duration::from_secs(60)).await;
    rig.platform.offline(false);
    let mut codes = Vec::new();
    for req_id in ["old", "whenever", "young"] {
        codes.push(rig.platform.response(req_id).await["rc"].as_u64());
    }
    assert_eq!(codes, [Some(409), Some(200), Some(200)]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_broker_refuses_for_a_minute_arrives_after_it() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.platform.refuse_answers(true);
    rig.send::<Echo>("e");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.platform.responses("e").len(), 0);
    rig.platform.refuse_answers(false);
    assert_eq!(rig.platform.response("e").await["rc"], 200);
    assert_eq!(rig.platform.connections(), 1, "the connection held");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_broker_refuses_for_a_day_arrives_when_it_takes_it() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.platform.refuse_answers(true);
    rig.send::<Echo>("e");
    tokio::time::sleep(DAY).await;
    assert_eq!(rig.platform.responses("e").len(), 0);
    rig.platform.refuse_answers(false);
    assert_eq!(rig.platform.response("e").await["rc"], 200);
    assert_eq!(rig.product.runs(), ["echo e"], "it ran once");
}
