use std::time::Duration;

use iotdm_core::{Code, Decision, LogEntry, MAX_PAYLOAD_BYTES};
use serde_json::json;

use super::queue::{MAX_LOG_DATA_BYTES, MAX_MESSAGE_BYTES, MAX_PER_MINUTE, MAX_WAITING, MAX_WAITING_BYTES};
use super::*;
use crate::fake::{FakeServices, FakeSystem, WALL_CLOCK_AT_START, ask, context};

struct Bench {
    system: FakeSystem,
    services: FakeServices,
    diagnostics: Diagnostics,
}

fn bench() -> Bench {
    let system = FakeSystem::new();
    let diagnostics = Diagnostics::new(Arc::new(system.clone()));
    Bench { system, services: FakeServices::new(), diagnostics }
}

impl Bench {
    /// Lets it run for so long, on the paused clock, and gives what was reported in all.
    async fn run_for(&self, time: Duration) -> Vec<Report> {
        let run = self.diagnostics.run(|report| {
            let services = self.services.clone();
            async move { iotdm_core::Services::report(&services, report).await }
        });
        let ended = tokio::time::timeout(time, run).await;
        assert!(ended.is_err(), "the agent takes reports");
        self.services.reports()
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.with(self.diagnostics.clone()).unwrap();
        table
    }
}

fn messages(reports: &[Report]) -> Vec<&str> {
    let message = |report| match report {
        &Report::AddLog(LogEntry { ref message, .. }) => message.as_str(),
        other => panic!("{other:?}"),
    };
    reports.iter().map(message).collect()
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn codes_and_entries_are_reported_in_order_with_the_time_they_came() {
    let bench = bench();
    bench.diagnostics.error_code(7);
    bench.diagnostics.log_with_data(Severity::Error, "lamp", &[0, 255, 1, 2]);
    bench.system.set_wall_clock(WALL_CLOCK_AT_START + Duration::from_millis(1500));
    bench.diagnostics.log(Severity::Information, "ok");
    let expected = [
        Report::AddErrorCode(7),
        Report::AddLog(LogEntry {
            message: "lamp".into(),
            timestamp: "2017-07-14T02:40:00.000Z".into(),
            data: Some("AP8BAg==".into()),
            severity: Severity::Error,
        }),
        Report::AddLog(LogEntry {
            message: "ok".into(),
            timestamp: "2017-07-14T02:40:01.500Z".into(),
            data: None,
            severity: Severity::Information,
        }),
    ];
    assert_eq!(bench.run_for(SECOND).await, expected);
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_it_runs_is_reported_at_once() {
    let bench = bench();
    let later = async {
        tokio::time::sleep(10 * SECOND).await;
        bench.diagnostics.error_code(7);
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        bench.services.reports()
    };
    let (_, at_once) = tokio::join!(bench.run_for(11 * SECOND), later);
    assert_eq!(at_once, [Report::AddErrorCode(7)]);
}

#[tokio::test(start_paused = true)]
async fn repeats_become_one_entry_with_a_count() {
    let bench = bench();
    for second in 0..5 {
        bench.system.set_wall_clock(WALL_CLOCK_AT_START + second * SECOND);
        bench.diagnostics.log(Severity::Warning, "hot");
        bench.diagnostics.error_code(3);
    }
    bench.diagnostics.log(Severity::Error, "hot");
    let reports = bench.run_for(300 * SECOND).await;
    let [merged, Report::AddErrorCode(3), other] = &reports[..] else { panic!("{reports:?}") };
    let merged_message = "hot (5 times, last at 2017-07-14T02:40:04.000Z)";
    assert_eq!(messages(&[merged.clone(), other.clone()]), [merged_message, "hot"]);
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_repeats_is_told_once_a_minute() {
    let bench = bench();
    let fault = async {
        for _ in 0..150 {
            bench.diagnostics.log(Severity::Warning, "hot");
            tokio::time::sleep(SECOND).await;
        }
    };
    let (reports, ()) = tokio::join!(bench.run_for(200 * SECOND), fault);
    let counts: Vec<_> = messages(&reports)
        .iter()
        .map(|message| message.split(['(', ' ']).nth(2).map_or(1, |count| count.parse().unwrap()))
        .collect();
    assert_eq!(counts.len(), 4, "{counts:?}");
    assert_eq!(counts.iter().sum::<u32>(), 150, "none is lost: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_repeats_holds_up_no_other() {
    let bench = bench();
    bench.diagnostics.error_code(1);
    bench.run_for(SECOND).await;
    bench.diagnostics.error_code(1);
    bench.diagnostics.error_code(2);
    assert_eq!(bench.run_for(SECOND).await, [1, 2].map(Report::AddErrorCode));
    assert_eq!(bench.run_for(60 * SECOND).await, [1, 2, 1].map(Report::AddErrorCode));
}

#[tokio::test(start_paused = true)]
async fn no_more_leave_in_a_minute_than_are_allowed() {
    let bench = bench();
    for code in 0..MAX_WAITING as i32 {
        bench.diagnostics.error_code(code);
    }
    let almost_a_minute = Duration::from_millis(59_990);
    assert_eq!(bench.run_for(almost_a_minute).await.len(), MAX_PER_MINUTE);
    assert_eq!(bench.run_for(SECOND).await.len(), 2 * MAX_PER_MINUTE);
    let all = bench.run_for(120 * SECOND).await;
    assert_eq!(all, Vec::from_iter((0..MAX_WAITING as i32).map(Report::AddErrorCode)));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_counted_and_the_count_is_told() {
    let bench = bench();
    for code in 0..1000 {
        bench.diagnostics.error_code(code);
    }
    let reports = bench.run_for(600 * SECOND).await;
    assert_eq!(reports.len(), MAX_WAITING + 1);
    let note = messages(&reports[MAX_WAITING..])[0];
    assert!(note.starts_with(&format!("{} entries were dropped", 1000 - MAX_WAITING)), "{note}");
}

#[tokio::test(start_paused = true)]
async fn waiting_data_is_bounded_in_bytes() {
    let bench = bench();
    let data = vec![0; MAX_LOG_DATA_BYTES];
    for n in 0..10 {
        bench.diagnostics.log_with_data(Severity::Error, n.to_string(), &data);
    }
    let reports = bench.run_for(SECOND).await;
    assert_eq!(reports.len(), MAX_WAITING_BYTES / MAX_LOG_DATA_BYTES + 1);
    assert!(messages(&reports).last().unwrap().starts_with("6 entries were dropped"));
}

#[tokio::test(start_paused = true)]
async fn a_report_fits_into_a_message_whatever_is_logged() {
    // What stands around `d`, with a reqId as long as one of ours.
    const ENVELOPE_BYTES: usize = 64;
    let bench = bench();
    for _ in 0..2 {
        bench.diagnostics.log_with_data(Severity::Error, "\u{1}".repeat(500_000), &vec![255; 500_000]);
        bench.diagnostics.log(Severity::Error, "é".repeat(500_000));
    }
    let reports = bench.run_for(SECOND).await;
    for report in &reports {
        let bytes = report.body().unwrap().to_string().len();
        assert!(bytes + ENVELOPE_BYTES <= MAX_PAYLOAD_BYTES, "{bytes}");
    }
    let [_, cut] = messages(&reports)[..] else { panic!("two of each") };
    assert_eq!(cut.split(' ').next().unwrap().len(), MAX_MESSAGE_BYTES);
}

#[tokio::test(start_paused = true)]
async fn a_clear_takes_what_waits_with_it_and_nothing_else() {
    let bench = bench();
    bench.diagnostics.error_code(1);
    bench.diagnostics.log(Severity::Error, "kept");
    bench.diagnostics.clear_error_codes();
    bench.diagnostics.clear_error_codes();
    bench.diagnostics.error_code(2);
    let reports = bench.run_for(SECOND).await;
    let [entry, Report::ClearErrorCodes, Report::AddErrorCode(2)] = &reports[..] else {
        panic!("{reports:?}")
    };
    assert_eq!(messages(std::slice::from_ref(entry)), ["kept"]);

    bench.diagnostics.log(Severity::Error, "gone");
    bench.diagnostics.error_code(3);
    bench.diagnostics.clear_log();
    assert_eq!(bench.run_for(SECOND).await[3..], [Report::AddErrorCode(3), Report::ClearLog]);
}

#[tokio::test(start_paused = true)]
async fn what_a_clear_removed_may_be_told_again_at_once() {
    let bench = bench();
    bench.diagnostics.error_code(1);
    bench.run_for(SECOND).await;
    bench.diagnostics.clear_error_codes();
    bench.diagnostics.error_code(1);
    let expected = [Report::AddErrorCode(1), Report::ClearErrorCodes, Report::AddErrorCode(1)];
    assert_eq!(bench.run_for(SECOND).await, expected);
}

#[tokio::test(start_paused = true)]
async fn the_platform_can_ask_for_a_clear() {
    let bench = bench();
    bench.diagnostics.error_code(1);
    bench.diagnostics.log(Severity::Error, "gone");
    let cx = context(&bench.system, &bench.services);
    for route in [ClearErrorCodes::ROUTE, ClearLog::ROUTE] {
        let decision = ask(&bench.table(), &route, &cx, json!({"fields": []})).await;
        let Decision::Replied(parts) = decision else { panic!("{decision:?}") };
        assert!(parts.rc == Code::OK && parts.d.is_none());
    }
    let expected = [Report::ClearErrorCodes, Report::ClearLog];
    assert_eq!(bench.services.reports(), expected, "before the answer");
    assert_eq!(bench.run_for(SECOND).await, expected, "nothing waits any more");
}

#[tokio::test(start_paused = true)]
async fn a_clear_that_cannot_be_stored_is_refused() {
    let bench = bench();
    bench.services.stop();
    let cx = context(&bench.system, &bench.services);
    let decision = ask(&bench.table(), &ClearLog::ROUTE, &cx, json!({})).await;
    let Decision::Refused(refusal) = decision else { panic!("{decision:?}") };
    assert_eq!(refusal.rc(), Code::FAILED);
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_agent_does() {
    let bench = bench();
    bench.diagnostics.error_code(1);
    assert_eq!(bench.diagnostics.run(|_| async { Err(Declined::Stopping) }).await, Declined::Stopping);
}
