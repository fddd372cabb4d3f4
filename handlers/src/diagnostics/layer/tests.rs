use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use iotdm_core::{LogEntry, MAX_PAYLOAD_BYTES, Report};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::sleep;
use tracing::subscriber::with_default;
use tracing_subscriber::prelude::*;

use super::*;
use crate::diagnostics::queue::{MAX_MESSAGE_BYTES, MAX_PER_ORIGIN};
use crate::fake::FakeSystem;

// The tests themselves log from `iotdm_handlers`: a product has its own target.
macro_rules! warn {
    ($($args:tt)+) => { tracing::warn!(target: "lamp", $($args)+) };
}

fn diagnostics() -> Diagnostics {
    Diagnostics::new(std::sync::Arc::new(FakeSystem::new()))
}

/// What is reported within this time of the paused clock.
async fn within(diagnostics: &Diagnostics, time: Duration) -> Vec<Report> {
    let reports = std::sync::Mutex::new(Vec::new());
    let send = async |report| {
        reports.lock().unwrap().push(report);
        Ok(())
    };
    assert!(tokio::time::timeout(time, diagnostics.run(send)).await.is_err());
    reports.into_inner().unwrap()
}

/// What is reported of what this logs.
async fn reported(log: impl FnOnce()) -> Vec<Report> {
    let diagnostics = diagnostics();
    with_default(tracing_subscriber::registry().with(diagnostics.layer()), log);
    within(&diagnostics, Duration::from_secs(1)).await
}

fn entry(report: &Report) -> (&LogEntry, Value) {
    let Report::AddLog(entry) = report else { panic!("{report:?}") };
    let data = STANDARD.decode(entry.data.as_ref().expect("an event has data")).unwrap();
    (entry, serde_json::from_slice(&data).expect("its data is JSON"))
}

fn messages(reports: &[Report]) -> Vec<&str> {
    reports.iter().map(|report| entry(report).0.message.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_warning_and_an_error_become_entries_of_their_severity_with_their_fields() {
    let reports = reported(|| {
        warn!(duty = 40, hot = true, part = "lens", "hotter than {} °C", 80);
        tracing::error!(target: "lamp", cause = ?Some("short"), "the lamp does not answer");
    })
    .await;
    let (warning, data) = entry(&reports[0]);
    assert_eq!((&*warning.message, warning.severity), ("hotter than 80 °C", Severity::Warning));
    assert_eq!(warning.timestamp, "2017-07-14T02:40:00.000Z");
    assert_eq!(data["fields"], json!({"duty": 40, "hot": true, "part": "lens"}));
    assert!(data["file"].as_str().unwrap().ends_with("layer/tests.rs") && data["line"].is_u64(), "{data}");
    let (error, data) = entry(&reports[1]);
    assert_eq!((&*error.message, error.severity), ("the lamp does not answer", Severity::Error));
    assert_eq!(data["fields"], json!({"cause": "Some(\"short\")"}));
    assert_eq!(reports.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_warning_is_not_reported() {
    let reports = reported(|| {
        tracing::info!(target: "lamp", { iotdm.code = 1 }, "on");
        tracing::debug!(target: "lamp", "on");
        tracing::trace!(target: "lamp", "on");
    })
    .await;
    assert!(reports.is_empty(), "{reports:?}");
}

#[tokio::test(start_paused = true)]
async fn a_code_is_reported_besides_the_entry_unless_it_does_not_fit() {
    let reports = reported(|| {
        tracing::error!(target: "lamp", { iotdm.code = 42 }, "short");
        tracing::error!(target: "lamp", { iotdm.code = 17_u64 }, "open");
        tracing::error!(target: "lamp", { iotdm.code = u64::MAX }, "no code");
        tracing::error!(target: "lamp", { iotdm.code = "42" }, "a text");
    })
    .await;
    let codes: Vec<_> = reports.iter().filter(|report| matches!(report, Report::AddErrorCode(_))).collect();
    assert_eq!(codes, [&Report::AddErrorCode(42), &Report::AddErrorCode(17)]);
    assert_eq!(reports[0], Report::AddErrorCode(42));
    assert!(entry(&reports[1]).1.get("fields").is_none(), "the code is told once");
    let kept = reports.iter().filter(|report| matches!(report, Report::AddLog(_)));
    assert_eq!(
        kept.map(|report| entry(report).1["fields"].clone()).nth(2),
        Some(json!({"iotdm.code": u64::MAX}))
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_agent_and_the_libraries_below_it_log_is_not_reported() {
    let reports = reported(|| {
        tracing::error!(target: "iotdm_agent::driver", "x");
        tracing::error!(target: "iotdm", "x");
        tracing::error!(target: "rumqttc::state", "x");
        tracing::error!(target: "rustls_native_certs", "x");
        tracing::error!(target: "sled::pagecache", "x");
        tracing::error!(target: "ureq_proto::client", "x");
        // As `tracing-log` writes what comes through the `log` crate.
        tracing::error!(target: "log", { log.target = "rustls::conn", log.line = 7 }, "x");
        tracing::error!(target: "iotdmesh", "a product of another name");
        tracing::error!(target: "log", { log.target = "i2c", log.line = 7 }, "a library of the product");
    })
    .await;
    assert_eq!(messages(&reports), ["a product of another name", "a library of the product"]);
    let (_, data) = entry(&reports[1]);
    assert_eq!((&data["target"], data.get("fields")), (&json!("i2c"), None));
}

#[tokio::test(start_paused = true)]
async fn a_crate_of_the_product_can_be_left_out() {
    let diagnostics = diagnostics();
    let layer = diagnostics.layer().without("chatty");
    with_default(tracing_subscriber::registry().with(layer), || {
        tracing::warn!(target: "chatty::radio", "x");
        tracing::warn!(target: "chatty_radio", "x");
        tracing::warn!(target: "chattyish", "kept");
    });
    assert_eq!(messages(&within(&diagnostics, Duration::from_secs(1)).await), ["kept"]);
}

/// The worst case: whoever sends reports logs an error of the product's own for each.
#[tokio::test(start_paused = true)]
async fn a_report_that_fails_and_is_logged_makes_no_flood_of_reports() {
    let diagnostics = diagnostics();
    let sent = std::sync::atomic::AtomicU32::new(0);
    let subscriber = tracing_subscriber::registry().with(diagnostics.layer());
    let _default = tracing::subscriber::set_default(subscriber);
    warn!("the first");
    let send = async |_| {
        sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tracing::error!(target: "iotdm_agent", "the report could not be sent");
        tracing::error!(target: "rumqttc", "broken pipe");
        tracing::error!(target: "lamp", "the report could not be sent");
        Err(iotdm_core::Declined::OutOfBounds)
    };
    assert!(tokio::time::timeout(Duration::from_secs(3600), diagnostics.run(send)).await.is_err());
    let sent = sent.into_inner();
    assert!(
        (2..=62).contains(&sent),
        "once a minute for the product's own mistake, never for the agent's: {sent}"
    );
}

#[tokio::test(start_paused = true)]
async fn repeats_of_a_line_are_one_entry_whatever_their_fields() {
    let reports = reported(|| {
        for duty in 0..50 {
            warn!(duty, "hot");
        }
        warn!("hot");
    })
    .await;
    let merged = "hot (50 times, last at 2017-07-14T02:40:00.000Z)";
    assert_eq!(messages(&reports), [merged, "hot"], "another line is another entry");
    assert_eq!(entry(&reports[0]).1["fields"], json!({"duty": 0}), "with the fields of the first");
}

#[tokio::test(start_paused = true)]
async fn a_line_that_never_repeats_itself_leaves_room_for_others() {
    let diagnostics = diagnostics();
    let chatter = async {
        for n in 0..600 {
            warn!("pulse {n} was missed");
            if n == 300 {
                warn!("the lamp is off");
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let subscriber = tracing_subscriber::registry().with(diagnostics.layer());
    let _default = tracing::subscriber::set_default(subscriber);
    let (reports, ()) = tokio::join!(within(&diagnostics, Duration::from_secs(180)), chatter);
    let all = messages(&reports);
    let (pulses, others): (Vec<&str>, Vec<&str>) =
        all.iter().copied().partition(|message| message.starts_with("pulse"));
    assert_eq!(others, ["the lamp is off"], "{all:?}");
    assert_eq!(pulses.len(), 2 * MAX_PER_ORIGIN, "{all:?}");
    assert!(pulses[7].contains("and 592 other messages of the same line"), "{pulses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_withheld_and_not_even_formatted() {
    struct Armed;
    impl fmt::Debug for Armed {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("a secret was formatted")
        }
    }
    let reports = reported(|| {
        warn!(access_token = "s3cr3t", wifi.Password = ?Armed, "Api-Key" = 7, user = "me", "refused");
    })
    .await;
    let (_, data) = entry(&reports[0]);
    let withheld = "withheld";
    assert_eq!(
        data["fields"],
        json!({"access_token": withheld, "wifi.Password": withheld, "Api-Key": withheld, "user": "me"})
    );
    assert!(!format!("{reports:?}").contains("s3cr3t"));
}

#[tokio::test(start_paused = true)]
async fn what_is_logged_while_an_event_is_formatted_is_not_reported() {
    struct Chatty;
    impl fmt::Debug for Chatty {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            warn!(inner = ?Self, "in the middle");
            f.write_str("chatty")
        }
    }
    let reports = reported(|| warn!(part = ?Chatty, "outer")).await;
    assert_eq!(messages(&reports), ["outer"]);
}

#[tokio::test(start_paused = true)]
async fn a_debug_that_panics_or_fails_costs_only_its_own_event() {
    struct Bad(bool);
    impl fmt::Debug for Bad {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            if self.0 { panic!("as it was told to") } else { Err(fmt::Error) }
        }
    }
    let reports = reported(|| {
        let panics = std::panic::catch_unwind(|| warn!(part = ?Bad(true), "gone"));
        assert!(panics.is_err());
        warn!(part = ?Bad(false), "kept");
    })
    .await;
    assert_eq!(messages(&reports), ["kept"]);
}

#[tokio::test(start_paused = true)]
async fn threads_that_log_at_once_lose_nothing_and_wait_for_nobody() {
    let diagnostics = diagnostics();
    let subscriber = tracing_subscriber::registry().with(diagnostics.layer());
    let dispatch = tracing::Dispatch::new(subscriber);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                tracing::dispatcher::with_default(&dispatch, || {
                    for _ in 0..500 {
                        warn!("hot");
                    }
                });
            });
        }
    });
    let reports = within(&diagnostics, Duration::from_secs(1)).await;
    assert!(messages(&reports)[0].starts_with("hot (2000 times, "), "{reports:?}");
}

/// The layer keeps no event from the product's own log.
#[test]
fn other_layers_still_see_every_event() {
    #[derive(Clone, Default)]
    struct Seen(std::sync::Arc<std::sync::atomic::AtomicU32>);
    impl<S: Subscriber> Layer<S> for Seen {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let seen = Seen::default();
    let subscriber = tracing_subscriber::registry().with(diagnostics().layer()).with(seen.clone());
    with_default(subscriber, || {
        tracing::trace!(target: "lamp", "x");
        tracing::error!(target: "rustls", "x");
        warn!("x");
    });
    assert_eq!(seen.0.load(std::sync::atomic::Ordering::Relaxed), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Whatever is logged: an entry that fits into a message, whose data is whole.
    #[test]
    fn an_entry_is_within_its_bounds_whatever_is_logged(
        message in ".{0,40}|\\PC{0,3}\u{1}{900,1400}|(é|😀){250,600}",
        value in ".{0,40}|[\u{0}-\u{1f}]{200,400}|(é|😀){60,130}",
        password in "[a-z]{12}",
        number in any::<i64>(),
        float in any::<f64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let v = value.as_str();
        let reports = runtime.block_on(reported(|| {
            warn!(
                password, number, float, a = v, b = v, c = ?v, d = %v, e = v, f = v, g = v, h = v, i = v, j = v,
                k = v, l = v, m = v, n = v, o = v, p = v, q = v, r = v, "{message}"
            );
        }));
        let (entry, data) = entry(&reports[0]);
        prop_assert!(entry.message.len() <= MAX_MESSAGE_BYTES);
        prop_assert!(entry.message.is_empty() || message.starts_with(entry.message.as_str()) || message.is_empty());
        let fields = data["fields"].as_object().unwrap();
        prop_assert_eq!(fields.len(), MAX_FIELDS);
        prop_assert_eq!(&data["omitted"], &json!(21 - MAX_FIELDS));
        for text in fields.values().filter_map(Value::as_str) {
            prop_assert!(text.len() <= MAX_VALUE_BYTES);
        }
        prop_assert_eq!(&fields["password"], "withheld");
        prop_assert!(reports[0].body().unwrap().to_string().len() + 64 <= MAX_PAYLOAD_BYTES);
    }
}
