//! Connections: managing, renewing, outages, lateness, credentials.

use std::time::Duration;

use iotdm_agent::{RunError, State};
use iotdm_core::{Code, Declined, LogEntry, MAX_PAYLOAD_BYTES, Report, Severity, UpRoute};
use serde_json::json;

use crate::product::{Echo, Fresh, Once, Rig};

#[tokio::test(start_paused = true)]
async fn each_connection_sends_one_manage_and_renews_it_before_its_lifetime_ends() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    let manages = || rig.platform.published(UpRoute::Manage).len();
    assert_eq!(manages(), 1);
    let manage = &rig.platform.published(UpRoute::Manage)[0]["d"];
    assert_eq!(manage["supports"], json!({"deviceActions": true, "firmwareActions": false, "test": true}));
    assert_eq!(manage["deviceInfo"], json!({"fwVersion": "1.0.0"}));
    tokio::time::sleep(Duration::from_secs(3599)).await;
    assert_eq!(manages(), 2);
    rig.platform.cut();
    rig.platform.managed(3).await;
}

#[tokio::test(start_paused = true)]
async fn requests_of_an_outage_are_answered_after_it_and_late_ones_refused() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.platform.offline(true);
    rig.send::<Echo>("e");
    rig.send::<Fresh>("f");
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    rig.platform.offline(false);
    assert_eq!(rig.platform.response("e").await["rc"], 200);
    assert_eq!(rig.platform.response("f").await["rc"], 409);
    assert_eq!(rig.ask::<Fresh>("live").await["rc"], 200);
    assert_eq!(rig.ask::<Fresh>("f").await["rc"], 409, "a refusal is final for its reqId");
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_makes_nobody_late() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    rig.platform.offline(true);
    rig.send::<Fresh>("f");
    tokio::time::sleep(Duration::from_secs(30)).await;
    rig.platform.offline(false);
    assert_eq!(rig.platform.response("f").await["rc"], 200);
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_at_the_first_connection_end_the_run() {
    let rig = Rig::new();
    rig.platform.refuse_credentials(true);
    let error = rig.start().ended().await.unwrap_err();
    assert!(matches!(error, RunError::CredentialsRefused(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_refused_later_are_tried_slowly() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.platform.refuse_credentials(true);
    rig.platform.cut();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!((3..=14).contains(&rig.platform.connections()), "{}", rig.platform.connections());
    rig.platform.refuse_credentials(false);
    rig.platform.managed(2).await;
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_broker_is_tried_with_growing_pauses() {
    let rig = Rig::new();
    rig.platform.offline(true);
    let running = rig.start();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!((30..=400).contains(&rig.platform.connections()), "{}", rig.platform.connections());
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refused_subscription_is_a_failed_connection() {
    let rig = Rig::new();
    rig.platform.refuse_subscription(true);
    let _running = rig.start();
    rig.platform.until(|platform| platform.connections() >= 3).await;
    assert!(rig.platform.published(UpRoute::Manage).is_empty());
    rig.platform.refuse_subscription(false);
    rig.platform.managed(1).await;
}

#[tokio::test(start_paused = true)]
async fn reports_wait_for_manage_and_a_conflict_is_retried_with_another_req_id() {
    let rig = Rig::new();
    rig.platform.answer(UpRoute::Manage, Some(Code::CONFLICT));
    rig.platform.answer(UpRoute::AddErrorCode, Some(Code::CONFLICT));
    let running = rig.start();
    running.device().report(Report::AddErrorCode(7)).await.unwrap();
    rig.platform.managed(2).await;
    assert!(rig.platform.published(UpRoute::AddErrorCode).is_empty());
    rig.platform.answer(UpRoute::Manage, Some(Code::OK));
    rig.platform.until(|platform| platform.published(UpRoute::AddErrorCode).len() == 2).await;
    let sent = rig.platform.published(UpRoute::AddErrorCode);
    assert_ne!(sent[0]["reqId"], sent[1]["reqId"]);
    let mut state = running.device().state();
    state.wait_for(|state| *state == State::Managed).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_observation_outlives_the_agent_and_a_change_is_notified_once() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.platform
        .send(iotdm_core::Route::Observe, json!({"reqId": "o", "d": {"fields": [{"field": "lamp"}]}}));
    assert_eq!(rig.platform.response("o").await["rc"], 404);
    running.device().set_attribute("lamp", &json!({"on": true, "percent": 40})).await.unwrap();
    rig.platform
        .send(iotdm_core::Route::Observe, json!({"reqId": "p", "d": {"fields": [{"field": "lamp"}]}}));
    let answer = rig.platform.response("p").await;
    assert_eq!(answer["d"]["fields"], json!([{"field": "lamp", "value": {"on": true, "percent": 40}}]));
    running.kill().await;

    let running = rig.managed().await;
    running.device().set_attribute("lamp", &json!({"on": false, "percent": 0})).await.unwrap();
    rig.platform.until(|platform| platform.published(UpRoute::Notify).len() == 1).await;
    let notify = &rig.platform.published(UpRoute::Notify)[0];
    assert_eq!(notify["d"]["fields"], json!([{"field": "lamp", "value": {"on": false, "percent": 0}}]));
    assert!(notify["reqId"].is_string());
    rig.platform
        .send(iotdm_core::Route::Observe, json!({"reqId": "p", "d": {"fields": [{"field": "lamp"}]}}));
    // The answer to the first one may have been sent again after the crash; the replay's has the current value.
    let current = |answer: &serde_json::Value| answer["d"]["fields"][0]["value"]["on"] == false;
    rig.platform.until(|platform| platform.responses("p").last().is_some_and(current)).await;
}

#[tokio::test(start_paused = true)]
async fn a_product_leaves_management_and_comes_back() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let mut state = running.device().state();
    running.device().unmanage().await.unwrap();
    state.wait_for(|state| *state == State::Unmanaged).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    let connections = rig.platform.connections();
    rig.platform.cut();
    rig.platform.until(|platform| platform.connections() > connections).await;
    assert_eq!(rig.ask::<Echo>("late").await["rc"], 200, "what comes all the same is answered");
    assert_eq!(
        rig.platform.published(UpRoute::Manage).len(),
        1,
        "neither renewed nor sent on a new connection"
    );
    assert_eq!(rig.platform.published(UpRoute::Unmanage).len(), 1);
    running.device().manage().await.unwrap();
    state.wait_for(|state| *state == State::Managed).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_log_entry_too_large_for_a_message_loses_the_end_of_its_data() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let data = Some("A".repeat(200_000));
    let entry =
        LogEntry { message: "core dump".into(), timestamp: "t".into(), data, severity: Severity::Error };
    running.device().report(Report::AddLog(entry)).await.unwrap();
    rig.platform.until(|platform| platform.published(UpRoute::AddLog).len() == 1).await;
    let sent = &rig.platform.published(UpRoute::AddLog)[0];
    assert!((100_000..=MAX_PAYLOAD_BYTES).contains(&sent.to_string().len()), "{}", sent.to_string().len());
    let kept = sent["d"]["data"].as_str().unwrap().len();
    assert!(kept > 0 && kept.is_multiple_of(4), "{kept}");
}

#[tokio::test(start_paused = true)]
async fn what_is_out_of_bounds_is_declined_and_not_confirmed() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let large = "x".repeat(200_000);
    let entry =
        LogEntry { message: large.clone(), timestamp: "t".into(), data: None, severity: Severity::Error };
    assert_eq!(running.device().report(Report::AddLog(entry)).await, Err(Declined::OutOfBounds));
    assert!(running.device().set_attribute("large", &large).await.is_err());
    assert_eq!(running.device().attribute::<String>("large"), None);
}

#[tokio::test(start_paused = true)]
async fn a_late_request_is_refused_at_once_though_every_place_is_taken() {
    let rig = Rig::new();
    rig.platform.window(200);
    let _running = rig.managed().await;
    rig.platform.offline(true);
    for n in 0..64 {
        rig.send::<Once>(&format!("slow{n}"));
    }
    rig.send::<Fresh>("late");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    rig.platform.offline(false);
    rig.until_run("once slow63").await;
    let began = tokio::time::Instant::now();
    assert_eq!(rig.platform.response("late").await["rc"], 409);
    assert!(began.elapsed().is_zero(), "{:?}", began.elapsed());
}
