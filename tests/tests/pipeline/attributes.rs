//! Attributes, end to end: what a product subscribes to, what the platform may set, where the device is, and which
//! changes are notified. `docs/handlers/attributes.md` says what each test proves.

use std::time::Duration;

use iotdm_agent::testing::Running;
use iotdm_agent::{BuildError, Builder, Threshold};
use iotdm_core::{Code, DeviceInfo, Location, Route, UpRoute};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::product::Rig;

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Metadata {
    report_every_seconds: u16,
}

fn typed(builder: Builder) -> Builder {
    builder.attribute::<Metadata>("metadata").threshold("level", level()).threshold("location", metres())
}

fn level() -> Threshold {
    Threshold::new().min_change(2.0).min_interval(Duration::from_secs(30))
}

fn metres() -> Threshold {
    Threshold::new().min_metres(100.0)
}

async fn managed(rig: &Rig, change: impl FnOnce(Builder) -> Builder) -> Running {
    let manages = rig.platform.published(UpRoute::Manage).len();
    let running = rig.start_with(change);
    rig.platform.managed(manages + 1).await;
    rig.platform.drained().await;
    running
}

fn fields(name: &str, value: Value) -> Value {
    json!({"fields": [{"field": name, "value": value}]})
}

async fn update(rig: &Rig, req_id: &str, name: &str, value: Value) -> Value {
    rig.platform.send(Route::DeviceUpdate, json!({"reqId": req_id, "d": fields(name, value)}));
    rig.platform.response(req_id).await
}

async fn observe(rig: &Rig, req_id: &str, name: &str) -> Value {
    rig.platform.send(Route::Observe, json!({"reqId": req_id, "d": {"fields": [{"field": name}]}}));
    rig.platform.response(req_id).await
}

fn notified(rig: &Rig) -> Vec<Value> {
    let value = |notify: Value| notify["d"]["fields"][0]["value"].clone();
    rig.platform.published(UpRoute::Notify).into_iter().map(value).collect()
}

fn every(report_every_seconds: u16) -> Metadata {
    Metadata { report_every_seconds }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_gets_what_is_stored_and_then_what_the_platform_sets() {
    let rig = Rig::new();
    let running = managed(&rig, typed).await;
    let mut metadata = running.device().subscribe::<Metadata>("metadata");
    assert_eq!(metadata.current(), None);
    assert_eq!(update(&rig, "u1", "metadata", json!({"report_every_seconds": 60})).await["rc"], 204);
    assert_eq!(metadata.next().await, Some(Ok(every(60))));
    running.kill().await;

    let running = managed(&rig, typed).await;
    let mut metadata = running.device().subscribe::<Metadata>("metadata");
    assert_eq!(metadata.next().await, Some(Ok(every(60))), "the stored value comes first");
    update(&rig, "u2", "metadata", json!({"report_every_seconds": 5})).await;
    assert_eq!(metadata.next().await, Some(Ok(every(5))));
    running.stop().await.unwrap();
    assert_eq!(metadata.next().await, None, "the agent has ended");
}

#[tokio::test(start_paused = true)]
async fn device_info_that_the_platform_sets_reaches_its_subscriber_and_the_next_manage() {
    let rig = Rig::new();
    let running = managed(&rig, typed).await;
    let mut info = running.device().subscribe::<DeviceInfo>("deviceInfo");
    assert_eq!(info.next().await.unwrap().unwrap().fw_version.as_deref(), Some("1.0.0"));
    let value = json!({"descriptiveLocation": "pole 17", "fwVersion": "1.0.0"});
    assert_eq!(update(&rig, "u", "deviceInfo", value.clone()).await["rc"], 204);
    assert_eq!(info.next().await.unwrap().unwrap().descriptive_location.as_deref(), Some("pole 17"));
    running.kill().await;
    let _running = managed(&rig, typed).await;
    assert_eq!(rig.platform.published(UpRoute::Manage).last().unwrap()["d"]["deviceInfo"], value);
}

#[tokio::test(start_paused = true)]
async fn a_slow_subscriber_misses_what_is_in_between_and_never_the_newest() {
    let rig = Rig::new();
    let running = managed(&rig, |builder| builder).await;
    let mut level = running.device().subscribe::<u32>("level");
    for n in 0..1000 {
        running.device().set_attribute("level", &n).await.unwrap();
    }
    assert_eq!(level.next().await, Some(Ok(999)));
    running.device().set_attribute("level", &999).await.unwrap();
    let again = tokio::time::timeout(Duration::from_secs(3600), level.next()).await;
    assert!(again.is_err(), "the same value is not given again");
}

#[tokio::test(start_paused = true)]
async fn an_update_that_does_not_fit_the_products_type_is_refused_with_its_place_and_changes_nothing() {
    let rig = Rig::new();
    let running = managed(&rig, typed).await;
    let answer = update(&rig, "u", "metadata", json!({"report_every_seconds": "often"})).await;
    assert_eq!(answer["rc"], 400);
    let message = "metadata.report_every_seconds: invalid type: string \"often\", expected u16";
    assert_eq!(answer["message"], message);
    assert_eq!(running.device().attribute::<Value>("metadata"), None);
    // One that does not fit takes the others of its request with it.
    let d = json!({"fields": [
        {"field": "location", "value": {"longitude": 1, "latitude": 2}},
        {"field": "metadata", "value": {}},
    ]});
    rig.platform.send(Route::DeviceUpdate, json!({"reqId": "two", "d": d}));
    assert_eq!(rig.platform.response("two").await["rc"], 400);
    assert_eq!(running.device().attribute::<Value>("location"), None);
    // Without a reqId nobody can be told; nothing is changed either.
    rig.platform.send(Route::DeviceUpdate, json!({"d": fields("metadata", json!({}))}));
    rig.platform.drained().await;
    assert_eq!(running.device().attribute::<Value>("metadata"), None);
}

#[tokio::test(start_paused = true)]
async fn what_the_product_sets_must_fit_its_own_type() {
    let rig = Rig::new();
    let running = managed(&rig, typed).await;
    let error = running.device().set_attribute("metadata", &json!({})).await.unwrap_err();
    assert_eq!(error.to_string(), "a value does not fit its attribute");
    running.device().set_attribute("metadata", &json!({"report_every_seconds": 1})).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stored_value_of_an_older_program_is_given_as_an_error_with_its_place() {
    let rig = Rig::new();
    let running = managed(&rig, |builder| builder).await;
    update(&rig, "u", "metadata", json!({"report_every_seconds": -1})).await;
    running.kill().await;
    let running = managed(&rig, typed).await;
    let mut metadata = running.device().subscribe::<Metadata>("metadata");
    let misfit = metadata.next().await.unwrap().unwrap_err();
    assert_eq!(misfit.place, "metadata.report_every_seconds");
    assert_eq!(update(&rig, "v", "metadata", json!({"report_every_seconds": 1})).await["rc"], 204);
    assert_eq!(metadata.next().await, Some(Ok(every(1))));
}

#[test]
fn configured_attributes_that_cannot_be_kept_to_are_refused_before_the_agent_runs() {
    let build = |change: fn(Builder) -> Builder| {
        let mut config = iotdm_agent::testing::config();
        config.metadata = Some(json!({"report_every_seconds": 1e9}));
        let rig = Rig::new();
        let builder = iotdm_agent::Agent::builder(config).store(rig.disk.clone()).link(rig.platform.link());
        change(builder).build().err().map(|error| error.to_string())
    };
    let misfit = build(|builder| builder.attribute::<Metadata>("metadata")).unwrap();
    assert!(misfit.starts_with("metadata.report_every_seconds: "), "{misfit}");
    let place = build(|builder| builder.location(Location::at(91.0, 0.0))).unwrap();
    assert_eq!(place, "location: latitude 91 is not within -90 to 90");
    let rule = build(|builder| builder.threshold("mgmt.firmware", level())).unwrap();
    assert!(rule.starts_with("the threshold of mgmt.firmware: "), "{rule}");
    assert_eq!(build(|builder| builder.threshold("level", level())), None);
    assert!(matches!(
        iotdm_agent::Agent::builder(iotdm_agent::testing::config()).threshold("level", metres()).build(),
        Err(BuildError::Threshold { .. })
    ));
}

/// Crash after crash: what was answered 204 is there, and what the subscriber saw is what the journal has.
#[tokio::test(start_paused = true)]
async fn an_update_survives_a_crash_at_every_commit_and_is_carried_out_once() {
    for commit in 1..=3 {
        for outcome in
            [iotdm_agent::testing::CrashOutcome::Applied, iotdm_agent::testing::CrashOutcome::NotApplied]
        {
            let rig = Rig::new();
            let running = managed(&rig, typed).await;
            rig.disk.crash_at_commit(commit, outcome);
            for n in 1..=3 {
                let answer =
                    update(&rig, &format!("u{n}"), "metadata", json!({"report_every_seconds": n})).await;
                assert_eq!(answer["rc"], 204, "commit {commit}");
            }
            let mut metadata = running.device().subscribe::<Metadata>("metadata");
            assert_eq!(metadata.next().await, Some(Ok(every(3))));
            running.kill().await;
            let running = managed(&rig, typed).await;
            let stored = running.device().subscribe::<Metadata>("metadata").next().await;
            assert_eq!(stored, Some(Ok(every(3))), "commit {commit}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_never_sees_what_was_not_made_durable() {
    let rig = Rig::new();
    let running = managed(&rig, typed).await;
    let mut metadata = running.device().subscribe::<Metadata>("metadata");
    rig.disk.disk_full(true);
    rig.platform.send(
        Route::DeviceUpdate,
        json!({"reqId": "u", "d": fields("metadata", json!({"report_every_seconds": 1}))}),
    );
    let early = tokio::time::timeout(Duration::from_secs(60), metadata.next()).await;
    assert!(early.is_err(), "the disk is full");
    assert!(rig.platform.responses("u").is_empty());
    rig.disk.disk_full(false);
    assert_eq!(metadata.next().await, Some(Ok(every(1))));
    assert_eq!(rig.platform.response("u").await["rc"], 204);
}

#[tokio::test(start_paused = true)]
async fn a_replayed_update_is_answered_again_and_does_not_undo_what_came_since() {
    let rig = Rig::new();
    let running = managed(&rig, typed).await;
    update(&rig, "u", "metadata", json!({"report_every_seconds": 1})).await;
    update(&rig, "v", "metadata", json!({"report_every_seconds": 2})).await;
    let again = update(&rig, "u", "metadata", json!({"report_every_seconds": 1})).await;
    assert_eq!(again["rc"], 204);
    assert_eq!(running.device().attribute::<Metadata>("metadata"), Some(every(2)));
}

#[tokio::test(start_paused = true)]
async fn the_products_location_is_stored_reported_and_notified_when_it_moved_far_enough() {
    let rig = Rig::new();
    let running = managed(&rig, typed).await;
    let device = running.device();
    device.set_location(&Location::at(48.0, 11.0)).await.unwrap();
    rig.platform.until(|platform| platform.published(UpRoute::Location).len() == 1).await;
    let answer = observe(&rig, "o", "location").await;
    assert_eq!(answer["d"]["fields"][0]["value"], json!({"latitude": 48.0, "longitude": 11.0}));
    device.set_location(&Location::at(48.0005, 11.0)).await.unwrap(); // 56 m
    rig.platform.until(|platform| platform.published(UpRoute::Location).len() == 2).await;
    assert!(notified(&rig).is_empty());
    device.set_location(&Location::at(48.001, 11.0)).await.unwrap(); // 111 m from where it was told
    rig.platform.until(|platform| !platform.published(UpRoute::Notify).is_empty()).await;
    assert_eq!(notified(&rig)[0]["latitude"], 48.001);
    let error = device.set_location(&Location::at(0.0, 181.0)).await.unwrap_err();
    assert_eq!(error.to_string(), "longitude 181 is not within -180 to 180");
}

#[tokio::test(start_paused = true)]
async fn what_the_platform_says_of_the_location_is_stored_and_not_reported_back() {
    let rig = Rig::new();
    let running = managed(&rig, typed).await;
    let mut location = running.device().subscribe::<Location>("location");
    rig.platform.send(
        Route::DeviceUpdate,
        json!({"d": fields("location", json!({"latitude": 1.0, "longitude": 2.0}))}),
    );
    assert_eq!(location.next().await, Some(Ok(Location::at(1.0, 2.0))));
    running.kill().await;
    let running = managed(&rig, typed).await;
    assert_eq!(running.device().attribute("location"), Some(Location::at(1.0, 2.0)));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(rig.platform.published(UpRoute::Location).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_location_report_is_repeated_until_the_platform_takes_it_also_over_a_crash() {
    let rig = Rig::new();
    let running = managed(&rig, typed).await;
    rig.platform.answer(UpRoute::Location, Some(Code::CONFLICT));
    running.device().set_location(&Location::at(1.0, 2.0)).await.unwrap();
    rig.platform.until(|platform| platform.published(UpRoute::Location).len() >= 2).await;
    running.kill().await;
    rig.platform.answer(UpRoute::Location, None);
    let before = rig.platform.published(UpRoute::Location).len();
    let _running = managed(&rig, typed).await;
    rig.platform.until(|platform| platform.published(UpRoute::Location).len() >= before + 2).await;
    rig.platform.answer(UpRoute::Location, Some(Code::OK));
    let before = rig.platform.published(UpRoute::Location).len();
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert!(rig.platform.published(UpRoute::Location).len() <= before + 1, "it was taken");
}

#[tokio::test(start_paused = true)]
async fn a_configured_location_is_reported_once_and_yields_to_what_came_since() {
    let rig = Rig::new();
    let at = |latitude: f64| move |builder: Builder| builder.location(Location::at(latitude, 2.0));
    let running = managed(&rig, at(1.0)).await;
    rig.platform.until(|platform| platform.published(UpRoute::Location).len() == 1).await;
    rig.platform.drained().await;
    update(&rig, "u", "location", json!({"latitude": 5.0, "longitude": 2.0})).await;
    running.stop().await.unwrap();
    let running = managed(&rig, at(1.0)).await;
    assert_eq!(running.device().attribute("location"), Some(Location::at(5.0, 2.0)));
    running.stop().await.unwrap();
    let running = managed(&rig, at(3.0)).await;
    assert_eq!(running.device().attribute("location"), Some(Location::at(3.0, 2.0)));
    rig.platform.until(|platform| platform.published(UpRoute::Location).len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn notifications_keep_to_their_threshold_and_end_with_the_newest_value() {
    let rig = Rig::new();
    let running = managed(&rig, typed).await;
    running.device().set_attribute("level", &0).await.unwrap();
    assert_eq!(observe(&rig, "o", "level").await["rc"], 200);
    let began = tokio::time::Instant::now();
    for n in 1..=100 {
        running.device().set_attribute("level", &n).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    rig.platform
        .until(|platform| {
            let last = platform.published(UpRoute::Notify).pop();
            last.is_some_and(|notify| notify["d"]["fields"][0]["value"] == 100)
        })
        .await;
    assert!(began.elapsed() <= Duration::from_secs(130));
    let all = notified(&rig);
    assert_eq!(all[0], 2, "the first that counts goes out at once");
    assert_eq!(all.len(), 5, "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_to_be_notified_when_the_process_died_is_notified_after_it() {
    let rig = Rig::new();
    let running = managed(&rig, typed).await;
    running.device().set_attribute("level", &0).await.unwrap();
    observe(&rig, "o", "level").await;
    running.device().set_attribute("level", &10).await.unwrap();
    rig.platform.until(|platform| platform.published(UpRoute::Notify).len() == 1).await;
    rig.platform.drained().await;
    running.device().set_attribute("level", &20).await.unwrap();
    running.kill().await;
    let _running = managed(&rig, typed).await;
    rig.platform.until(|platform| platform.published(UpRoute::Notify).len() >= 2).await;
    assert_eq!(notified(&rig).last(), Some(&json!(20)));
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(notified(&rig), [json!(10), json!(20)]);
}

#[tokio::test(start_paused = true)]
async fn observe_and_cancel_are_answered_again_when_they_are_replayed() {
    let rig = Rig::new();
    let running = managed(&rig, typed).await;
    running.device().set_attribute("level", &1).await.unwrap();
    assert_eq!(observe(&rig, "o", "level").await["d"]["fields"][0]["value"], 1);
    running.device().set_attribute("level", &2).await.unwrap();
    assert_eq!(observe(&rig, "o", "level").await["d"]["fields"][0]["value"], 2, "the current value");
    let cancel = json!({"reqId": "c", "d": {"fields": [{"field": "level"}]}});
    for _ in 0..2 {
        rig.platform.send(Route::Cancel, cancel.clone());
        assert_eq!(rig.platform.response("c").await["rc"], 200);
    }
    running.device().set_attribute("level", &50).await.unwrap();
    running.kill().await;
    let _running = managed(&rig, typed).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(notified(&rig).is_empty(), "nobody observes");
    assert_eq!(observe(&rig, "unknown", "nonsense").await["rc"], 404);
}
