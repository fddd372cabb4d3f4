//! A platform, or whoever has its credentials, sends as much as it can.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use iotdm_agent::Limits;
use iotdm_core::{Route, Topic};
use serde_json::json;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::bench::{Bench, WORK};

/// Requests in the flood, unless `IOTDM_FLOOD` says otherwise: enough to overflow every bound several times. A million
/// are for the release profile; `docs/threats.md` has the command.
const FLOOD: usize = 6_000;

/// Between two of them: 100 000 a second.
const PAUSE: Duration = Duration::from_micros(10);

/// As many as a broker may have in flight: RabbitMQ's and EMQX's window is larger than mosquitto's 20.
const WINDOW: usize = 100;

/// What a record of an unfinished request, a kept refusal and an outbox entry take in the journal at the most here, in
/// bytes; a request of the flood has 20.
const RECORD_BYTES: usize = 1024;

#[test]
fn a_flood_of_a_hundred_thousand_requests_a_second_is_answered_within_bounds() {
    let lines = Lines::default();
    let count = lines.0.clone();
    tracing::subscriber::with_default(lines, || {
        let flood = std::env::var("IOTDM_FLOOD").map_or(FLOOD, |text| text.parse().expect("a number"));
        let (mut bench, limits) = (Bench::new(), Limits::default());
        let (topic, before) = (Topic::own(WORK).to_string(), bench.acknowledged);
        let most = limits.pending + limits.kept_refused + WINDOW;
        for n in 0..flood {
            bench.deliver(&topic, format!("{{\"reqId\":\"r{n}\"}}"));
            bench.pass(PAUSE);
            if bench.in_flight == WINDOW {
                bench.settle();
                assert!(bench.engine.kept() <= most, "{} requests are kept", bench.engine.kept());
            }
        }
        bench.settle();
        // Nothing was acknowledged without being recorded or answered, and everything was acknowledged.
        assert_eq!(bench.acknowledged - before, flood);
        assert_eq!(bench.answered, [(409, flood - limits.pending)].into());
        let stored = bench.stored_bytes();
        assert!(stored <= most * RECORD_BYTES, "{stored} bytes in the journal");

        // Fair to the ones that came first: each of them is carried out.
        bench.finish();
        assert_eq!(bench.answered[&200], limits.pending);
        // And it is over when it is over.
        bench.ask(WORK, &json!({"reqId": "afterwards"}));
        bench.finish();
        assert_eq!((&bench.last["reqId"], &bench.last["rc"]), (&json!("afterwards"), &json!(200)));
        let lines = count.load(Ordering::SeqCst);
        println!("{flood} requests: {stored} bytes stored, {lines} log lines, peak {} bytes", peak_bytes());
    });
    let lines = count.load(Ordering::SeqCst);
    assert!(lines < 5000, "{lines} lines in the log");
}

#[test]
fn a_flood_of_replays_and_of_small_updates_writes_no_line_for_each() {
    let lines = Lines::default();
    let count = lines.0.clone();
    tracing::subscriber::with_default(lines, || {
        let mut bench = Bench::new();
        for n in 0..5_000 {
            bench.ask(WORK, &json!({"reqId": "the same"}));
            let fields = json!([{"field": "metadata", "value": {"n": n}}]);
            bench.ask(Route::DeviceUpdate, &json!({"reqId": format!("u{n}"), "d": {"fields": fields}}));
            bench.finish();
        }
    });
    // Four steps, a thousand lines each at the most.
    let lines = count.load(Ordering::SeqCst);
    assert!(lines < 4100, "{lines} lines in the log");
}

#[test]
fn while_no_answer_gets_through_the_window_stays_closed_and_what_is_held_is_bounded() {
    let limits = Limits { pending: 128, kept_refused: 128, outbox: 512, ..Limits::default() };
    let mut bench = Bench::with(limits);
    let (topic, mut sent) = (Topic::own(WORK).to_string(), 0);
    let most = limits.pending + limits.kept_refused + limits.outbox + WINDOW;
    bench.holds_pubacks = true;
    while bench.in_flight < WINDOW {
        bench.deliver(&topic, format!("{{\"reqId\":\"r{sent}\"}}"));
        bench.settle();
        sent += 1;
        assert!(sent <= most, "the window never closes");
    }
    assert!(bench.engine.kept() <= most);
    bench.holds_pubacks = false;
    bench.settle();
    assert_eq!(bench.in_flight, 0);
    assert_eq!(bench.answered[&409], sent - limits.pending);
}

#[test]
fn the_bodies_that_wait_are_bounded_in_bytes_and_not_only_in_number() {
    let (mut bench, pad) = (Bench::new(), "x".repeat(100_000));
    for n in 0..200 {
        bench.ask(WORK, &json!({"reqId": format!("r{n}"), "d": {"pad": pad}}));
    }
    let stored = bench.stored_bytes();
    assert!(stored < 10 << 20, "{stored} bytes in the journal");
    let refused = bench.answered[&409];
    assert!(refused > 100, "{refused} were refused");
    bench.finish();
    assert_eq!(bench.answered[&200], 200 - refused);
    bench.ask(WORK, &json!({"reqId": "afterwards", "d": {"pad": pad}}));
    bench.finish();
    assert_eq!(bench.last["rc"], 200);
}

#[test]
fn messages_without_a_window_end_the_connection_before_they_fill_the_memory() {
    let limits = Limits { pending: 128, kept_refused: 128, outbox: 512, ..Limits::default() };
    let mut bench = Bench::with(limits);
    bench.holds_pubacks = true;
    for n in 0..limits.outbox {
        bench.ask(Route::Unknown("nonsense".into()), &json!({"reqId": n}));
    }
    let (topic, payload) = (Topic::own(WORK).to_string(), vec![b'x'; 100_000]);
    let mut held = 0;
    while bench.disconnects == 0 {
        bench.deliver_at_most_once(&topic, payload.clone());
        bench.settle();
        held += payload.len();
        assert!(held < 5 << 20, "{held} bytes are held");
    }
}

/// The list is shorter than a message; what it asks for has five hundred megabytes.
#[test]
fn an_observe_that_names_a_large_attribute_a_thousand_times_is_refused_in_little_memory() {
    let mut bench = Bench::new();
    let metadata = json!([{"field": "metadata", "value": {"pad": "x".repeat(100_000)}}]);
    bench.ask(Route::DeviceUpdate, &json!({"reqId": "u", "d": {"fields": metadata}}));
    assert_eq!(bench.last["rc"], 204);
    let before = peak_bytes();
    let fields = vec![json!({"field": "metadata"}); 5000];
    bench.ask(Route::Observe, &json!({"reqId": "o", "d": {"fields": fields}}));
    assert_eq!(bench.last["rc"], 500, "{}", bench.last["message"]);
    let grown = peak_bytes() - before;
    assert!(grown < 128 << 20, "{grown} bytes more");
    bench.ask(Route::Observe, &json!({"reqId": "o2", "d": {"fields": [{"field": "metadata"}]}}));
    assert_eq!(bench.last["rc"], 200);
}

#[test]
fn attributes_too_deep_or_too_large_are_refused_and_manage_still_fits() {
    let mut bench = Bench::new();
    let deep = format!("{}{}", "{\"a\":".repeat(20_000) + "1", "}".repeat(20_000));
    let body =
        format!("{{\"reqId\":\"deep\",\"d\":{{\"fields\":[{{\"field\":\"metadata\",\"value\":{deep}}}]}}}}");
    bench.deliver("iotdm-1/device/update", body);
    bench.settle();
    assert_eq!((&bench.last["reqId"], &bench.last["rc"]), (&json!("deep"), &json!(400)));
    let large = json!([{"field": "metadata", "value": {"pad": "x".repeat(110_000)}}]);
    bench.ask(Route::DeviceUpdate, &json!({"reqId": "large", "d": {"fields": large}}));
    assert_eq!((&bench.last["reqId"], &bench.last["rc"]), (&json!("large"), &json!(400)));
}

/// The largest size this process has had, as the kernel counts it.
fn peak_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells");
    let kilobytes = line.trim().trim_end_matches("kB").trim();
    kilobytes.parse::<usize>().expect("it is a number") * 1024
}

/// A log that only counts its lines.
#[derive(Clone, Default)]
struct Lines(Arc<AtomicUsize>);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
