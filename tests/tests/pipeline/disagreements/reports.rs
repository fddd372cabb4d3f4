//! What a device tells by itself.

use std::sync::Arc;

use iotdm_core::{Location, LogEntry, MAX_PAYLOAD_BYTES, Report, Route, Severity, UpRoute};
use iotdm_handlers::Diagnostics;
use serde_json::{Value, json};

use crate::product::Rig;

/// The only thing published there, once it is.
async fn published(rig: &Rig, route: UpRoute) -> Value {
    rig.platform.until(|platform| !platform.published(route).is_empty()).await;
    rig.platform.published(route).remove(0)
}

/// `docs/protocol.md` §9 point 20.
#[tokio::test(start_paused = true)]
async fn log_data_is_sent_as_data() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let entry = LogEntry {
        message: "dry".into(),
        timestamp: "2026-01-15T08:30:00Z".into(),
        data: Some("bGV2ZWw=".into()),
        severity: Severity::Warning,
    };
    running.device().report(Report::AddLog(entry)).await.unwrap();
    let sent = published(&rig, UpRoute::AddLog).await;
    let expected =
        json!({"message": "dry", "timestamp": "2026-01-15T08:30:00Z", "data": "bGV2ZWw=", "severity": 1});
    assert_eq!(sent["d"], expected);
}

/// `docs/protocol.md` §9 point 21.
#[tokio::test(start_paused = true)]
async fn how_sure_a_location_is_is_sent_as_accuracy() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let place: Location =
        serde_json::from_value(json!({"longitude": 1.0, "latitude": 2.0, "accuracy": 3.5})).unwrap();
    assert_eq!(place.accuracy, Some(3.5));
    running.device().report(Report::Location(place)).await.unwrap();
    let sent = published(&rig, UpRoute::Location).await;
    assert_eq!(sent["d"], json!({"longitude": 1.0, "latitude": 2.0, "accuracy": 3.5}));
}

/// `docs/protocol.md` §9 point 22.
#[tokio::test(start_paused = true)]
async fn what_is_supported_is_sent_as_booleans() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    let sent = published(&rig, UpRoute::Manage).await;
    let supports = json!({"deviceActions": true, "firmwareActions": false, "test": true});
    assert_eq!(sent["d"]["supports"], supports);
}

/// `docs/protocol.md` §9 point 23.
#[tokio::test(start_paused = true)]
async fn times_of_any_zone_are_taken() {
    let rig = Rig::new();
    let running = rig.managed().await;
    for time in
        ["2026-01-15T08:30:00Z", "2026-01-15T08:30:00.25+05:30", "2026-01-15T08:30:00", "20260115T0830Z"]
    {
        let value = json!({"longitude": 1.0, "latitude": 2.0, "measuredDateTime": time});
        let d = json!({"fields": [{"field": "location", "value": value}]});
        rig.platform.send(Route::DeviceUpdate, json!({"reqId": time, "d": d}));
        assert_eq!(rig.platform.response(time).await["rc"], 204, "{time}");
        assert_eq!(running.device().attribute::<Value>("location"), Some(value));
    }
}

/// `docs/protocol.md` §9 point 24.
#[tokio::test(start_paused = true)]
async fn log_data_is_shortened_until_the_message_fits() {
    let rig = Rig::new();
    let running = rig.managed().await;
    let diagnostics = Diagnostics::new(Arc::new(rig.system.clone()));
    diagnostics.log_with_data(Severity::Error, "core dump", &vec![0xff; 2 * MAX_PAYLOAD_BYTES]);
    let (device, sender) = (running.device().clone(), diagnostics.clone());
    tokio::spawn(async move {
        sender
            .run(|report| {
                let device = device.clone();
                async move { device.report(report).await }
            })
            .await
    });
    let sent = published(&rig, UpRoute::AddLog).await;
    let size = sent.to_string().len();
    assert!((8 * 1024..=MAX_PAYLOAD_BYTES).contains(&size), "{size}");
    assert!(sent["d"]["data"].as_str().is_some_and(|data| data.starts_with("////")));
}
