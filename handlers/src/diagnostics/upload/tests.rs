use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Mutex;

use flate2::read::GzDecoder;
use iotdm_core::{Code, Decision, Report, Severity};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::address::check;
use super::source::oldest_first;
use super::*;
use crate::fake::{FakeServices, FakeSystem, ask, context, output, parts};

/// A server that answers as it was told, then takes everything.
#[derive(Clone, Default)]
struct Server {
    answers: Arc<Mutex<VecDeque<Result<(), UploadError>>>>,
    puts: Arc<Mutex<Vec<Attempt>>>,
}

/// Address, body and time limit.
type Attempt = (String, Vec<u8>, Duration);

impl Server {
    fn then(&self, answer: Result<(), UploadError>) {
        self.answers.lock().unwrap().push_back(answer);
    }

    fn puts(&self) -> Vec<Attempt> {
        self.puts.lock().unwrap().clone()
    }
}

impl Uploader for Server {
    fn put(&self, put: &Put<'_>) -> Result<(), UploadError> {
        self.puts.lock().unwrap().push((put.url.into(), put.body.to_vec(), put.time_limit));
        self.answers.lock().unwrap().pop_front().unwrap_or(Ok(()))
    }
}

struct Bench {
    system: FakeSystem,
    services: FakeServices,
    server: Server,
    diagnostics: Diagnostics,
    home: tempfile::TempDir,
    table: Table,
}

fn bench() -> Bench {
    bench_with(|_| {})
}

fn bench_with(change: impl FnOnce(&mut UploadOptions)) -> Bench {
    let (system, services, server) = (FakeSystem::new(), FakeServices::new(), Server::default());
    let diagnostics = Diagnostics::new(Arc::new(system.clone()));
    let home = tempfile::tempdir().unwrap();
    let mut options = UploadOptions {
        hosts: vec!["logs.example.com".parse().unwrap()],
        max_bytes: 100_000,
        ..UploadOptions::new([
            LogSource::file("pwm", home.path().join("pwm.log")),
            LogSource::journal("lamp", Some("lamp.service")),
            LogSource::journal("all", None),
        ])
    };
    change(&mut options);
    let upload = LogUpload::new(diagnostics.clone(), options, Arc::new(server.clone())).unwrap();
    let mut table = Table::new();
    table.with(upload).unwrap();
    Bench { system, services, server, diagnostics, home, table }
}

impl Bench {
    fn path(&self) -> PathBuf {
        self.home.path().join("pwm.log")
    }

    async fn ask(&self, parameters: Value) -> Decision {
        let fields: Vec<Value> = parameters
            .as_object()
            .unwrap()
            .iter()
            .map(|(field, value)| json!({"field": field, "value": value}))
            .collect();
        let cx = context(&self.system, &self.services);
        ask(&self.table, &UploadLog::ROUTE, &cx, json!({"fields": fields})).await
    }

    async fn d(&self, parameters: Value) -> Value {
        match self.ask(parameters).await {
            Decision::Replied(parts) => serde_json::from_str(parts.d.unwrap().get()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn refused(&self, parameters: Value) -> (u16, String) {
        match self.ask(parameters).await {
            Decision::Refused(refusal) | Decision::Undecodable(refusal) => {
                assert!(!refusal.to_string().contains("s1gnature"), "{refusal}");
                (refusal.rc().as_u16(), refusal.message().to_owned())
            }
            Decision::Replied(parts) => panic!("{parts:?}"),
        }
    }
}

fn unpacked(gzip: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(gzip).read_to_string(&mut text).unwrap();
    text
}

fn text_of(d: &Value) -> String {
    unpacked(&STANDARD.decode(d["data"].as_str().unwrap()).unwrap())
}

const URL: &str = "https://logs.example.com/lamp1?sig=s1gnature";

#[tokio::test(start_paused = true)]
async fn a_file_comes_in_the_answer() {
    let bench = bench();
    fs::write(bench.path(), "one\ntwo\nthree\n").unwrap();
    let d = bench.d(json!({"source": "pwm"})).await;
    assert_eq!(text_of(&d), "one\ntwo\nthree\n");
    assert_eq!(
        (&d["source"], &d["bytes"], &d["truncated"], &d["encoding"], &d["cleared"]),
        (&json!("pwm"), &json!(14), &json!(false), &json!("gzip"), &json!(false))
    );
}

#[tokio::test(start_paused = true)]
async fn numbers_may_be_texts_and_bound_what_comes() {
    let bench = bench();
    fs::write(bench.path(), "one\ntwo\nthree\n").unwrap();
    for two in [json!(2), json!("2")] {
        let d = bench.d(json!({"source": "pwm", "lines": two})).await;
        assert_eq!((text_of(&d), &d["truncated"]), ("two\nthree\n".into(), &json!(false)));
    }
    let d = bench.d(json!({"source": "pwm", "bytes": "8"})).await;
    assert_eq!((text_of(&d), &d["truncated"]), ("three\n".into(), &json!(true)), "whole lines");
    let d = bench.d(json!({"source": "pwm", "bytes": 3})).await;
    assert_eq!(text_of(&d), "ee\n", "of one line its end");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_just_rotated_goes_on_in_the_file_before() {
    let bench = bench();
    let older = bench.home.path().join("pwm.log.1");
    fs::write(&older, "one\ntwo\n").unwrap();
    assert_eq!(text_of(&bench.d(json!({"source": "pwm"})).await), "one\ntwo\n", "not there for a moment");
    fs::write(bench.path(), "three\n").unwrap();
    assert_eq!(text_of(&bench.d(json!({"source": "pwm"})).await), "one\ntwo\nthree\n");
    let d = bench.d(json!({"source": "pwm", "bytes": 11})).await;
    assert_eq!((text_of(&d), &d["truncated"]), ("two\nthree\n".into(), &json!(true)));
    let d = bench.d(json!({"source": "pwm", "bytes": 6})).await;
    assert_eq!(text_of(&d), "three\n");
    // Moved between the two looks: one file under both names.
    fs::remove_file(&older).unwrap();
    fs::hard_link(bench.path(), &older).unwrap();
    assert_eq!(text_of(&bench.d(json!({"source": "pwm"})).await), "three\n");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_regular_file_is_not_read() {
    let bench = bench();
    let cannot = (500, "the log of this source cannot be read".to_owned());
    assert_eq!(bench.refused(json!({"source": "pwm"})).await, cannot, "there is none");
    let secret = bench.home.path().join("secret");
    fs::write(&secret, "s3cr3t\n").unwrap();
    symlink(&secret, bench.path()).unwrap();
    assert_eq!(bench.refused(json!({"source": "pwm"})).await, cannot, "a planted link");
    fs::remove_file(bench.path()).unwrap();
    fs::create_dir(bench.path()).unwrap();
    assert_eq!(bench.refused(json!({"source": "pwm"})).await, cannot, "a folder");
    fs::remove_dir(bench.path()).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, bench.path(), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    assert_eq!(bench.refused(json!({"source": "pwm"})).await, cannot, "a pipe would never end");
}

#[tokio::test(start_paused = true)]
async fn the_journal_is_asked_for_a_units_newest_entries() {
    let bench = bench();
    bench.system.next_run(Ok(output(0, "3 c\n2 b\n  more of b\n1 a\n", "")));
    let d = bench.d(json!({"source": "lamp", "lines": "7", "minutes": 90, "bytes": 5000})).await;
    assert_eq!(text_of(&d), "1 a\n2 b\n  more of b\n3 c\n");
    bench.system.next_run(Ok(output(0, "", "")));
    assert_eq!(bench.d(json!({"source": "all"})).await["bytes"], 0);
    let runs = bench.system.runs();
    assert_eq!(runs[0].program, PathBuf::from("journalctl"));
    let flags = ["--output=short-iso", "--no-pager", "--quiet", "--reverse", "-n"];
    assert_eq!(runs[0].args[..5], flags);
    assert_eq!(runs[0].args[5..], ["7", "--unit=lamp.service", "--since=-90min"]);
    assert_eq!(runs[0].output_limit, 5000);
    assert_eq!(runs[1].args[5..], ["1000"]);
}

#[tokio::test(start_paused = true)]
async fn of_a_long_journal_the_newest_whole_entries_are_kept() {
    let bench = bench();
    let cut = iotdm_core::ChildOutput { truncated: true, ..output(0, "4 d\n3 c\n2 b\n  mor", "") };
    bench.system.next_run(Ok(cut));
    let d = bench.d(json!({"source": "all", "bytes": 17})).await;
    assert_eq!((text_of(&d), &d["truncated"]), ("3 c\n4 d\n".into(), &json!(true)));
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_be_read_is_told_without_its_reason() {
    let bench = bench();
    bench.system.next_run(Ok(output(1, "", "No journal files were found in /var/log")));
    let cannot = (500, "the log of this source cannot be read".to_owned());
    assert_eq!(bench.refused(json!({"source": "all"})).await, cannot);
    bench
        .system
        .next_run(Err(ChildError::TimedOut { program: "journalctl".into(), limit: Duration::from_secs(30) }));
    assert_eq!(bench.refused(json!({"source": "all"})).await, cannot);
}

#[tokio::test(start_paused = true)]
async fn a_bad_request_is_answered_400_with_its_parameter() {
    let bench = bench();
    fs::write(bench.path(), "x\n").unwrap();
    let cases = [
        (json!({}), "d: missing field `source`"),
        (json!({"source": 7}), "d.source: invalid type: integer `7`, expected a string"),
        (json!({"source": "/etc/shadow"}), "source: there is no such log; there are: pwm, lamp, all"),
        (
            json!({"source": "pwm", "path": "/etc/shadow"}),
            "d.path: unknown field `path`, expected one of `source`, `lines`, `bytes`, `minutes`, `url`, `clear`",
        ),
        (json!({"source": "pwm", "lines": 0}), "d.lines: 0 is less than 1 (the minimum)"),
        (json!({"source": "pwm", "lines": "-1"}), "d.lines: -1 is less than 1 (the minimum)"),
        (json!({"source": "pwm", "lines": "+1"}), "d.lines: invalid type: string \"+1\", expected u64"),
        (json!({"source": "pwm", "lines": ""}), "d.lines: invalid type: string \"\", expected u64"),
        (json!({"source": "pwm", "lines": 1.5}), "d.lines: invalid type: floating point `1.5`, expected u64"),
        (
            json!({"source": "pwm", "bytes": 100_001}),
            "bytes: 100001 is more than 100000, the most that this device sends",
        ),
        (
            json!({"source": "lamp", "minutes": 525_601}),
            "d.minutes: 525601 is more than 525600 (the maximum)",
        ),
        (
            json!({"source": "pwm", "minutes": 5}),
            "minutes: this log is a file, whose lines have no time; use lines or bytes",
        ),
        (
            json!({"source": "pwm", "clear": "yes"}),
            "d.clear: invalid type: string \"yes\", expected a boolean",
        ),
        (json!({"source": "pwm", "url": "logs"}), "url: expected an https address"),
        (
            json!({"source": "pwm", "url": "http://logs.example.com/?sig=s1gnature"}),
            "url: expected an https address",
        ),
        (
            json!({"source": "pwm", "url": "https://me:s1gnature@logs.example.com/"}),
            "url: expected a host, and neither a user name nor a password before it",
        ),
        (
            json!({"source": "pwm", "url": "https://elsewhere.example/?sig=s1gnature"}),
            "url: this device sends no logs to that host",
        ),
        (
            json!({"source": "pwm", "url": format!("https://logs.example.com/{}", "x".repeat(5000))}),
            "url: it is longer than 4096 bytes",
        ),
    ];
    for (parameters, message) in cases {
        assert_eq!(bench.refused(parameters.clone()).await, (400, message.to_owned()), "{parameters}");
    }
    assert!(bench.system.runs().is_empty() && bench.server.puts().is_empty());
    let inline = bench_with(|options| options.hosts.clear());
    let alone = "url: this device sends logs in its answer only; leave it out";
    assert_eq!(inline.refused(json!({"source": "pwm", "url": URL})).await, (400, alone.into()));
}

#[test]
fn only_the_declared_host_and_port_are_taken() {
    let hosts = ["Logs.example.com", "store:9000", "[::1]:8443"].map(|host| host.parse().unwrap());
    for url in [
        "https://logs.example.com/a",
        "https://LOGS.example.com:443/a?b",
        "HTTPS://store:9000",
        "https://[::1]:8443/x",
        "http://store:9000/",
        "http://logs.example.com/",
        "http://logs.example.com:80/",
    ] {
        assert_eq!(check(url, &hosts, true), Ok(()), "{url}");
    }
    for url in [
        "https://logs.example.com:8443/a",
        "https://logs.example.com.evil.example/a",
        "https://evil.example/logs.example.com",
        "https://logs.example.com@evil.example/",
        "https://evil.example\\@logs.example.com/",
        "https://store/",
        "https://[::1]/",
        "https://logs.example.com:99999/",
        "https://logs.example.com:/",
        "ftp://logs.example.com/",
        "//logs.example.com/",
        "https:///a",
        "",
    ] {
        assert!(check(url, &hosts, true).is_err(), "{url}");
    }
    for host in ["", "a/b", "https://a", "a:b", "me@a", "a b", "a?b", "a#b", "a:99999", "a:"] {
        assert!(host.parse::<UploadHost>().is_err(), "{host}");
    }
    assert_eq!("Logs.example.com:8443".parse::<UploadHost>().unwrap().to_string(), "logs.example.com:8443");
}

#[tokio::test(start_paused = true)]
async fn a_log_is_put_where_the_request_says_and_the_platforms_log_is_cleared_if_asked() {
    let bench = bench();
    fs::write(bench.path(), "one\n").unwrap();
    bench.diagnostics.log(Severity::Error, "is in that log");
    let d = bench.d(json!({"source": "pwm", "url": URL, "clear": "true"})).await;
    assert_eq!((d.get("data"), &d["cleared"], &d["bytes"]), (None, &json!(true), &json!(4)));
    let [(url, body, limit)] = &bench.server.puts()[..] else { panic!("one attempt") };
    assert_eq!((url.as_str(), unpacked(body).as_str(), *limit), (URL, "one\n", Duration::from_secs(60)));
    assert_eq!(bench.services.reports(), [Report::ClearLog]);
    let nothing_waits = bench.diagnostics.run(|_| async { Err(iotdm_core::Declined::Stopping) });
    assert!(tokio::time::timeout(Duration::from_secs(1), nothing_waits).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stumbles_is_tried_three_times() {
    let bench = bench();
    fs::write(bench.path(), "one\n").unwrap();
    bench.server.then(Err(UploadError::Transport("connection refused".into())));
    bench.server.then(Err(UploadError::Status(503)));
    let began = tokio::time::Instant::now();
    assert_eq!(bench.d(json!({"source": "pwm", "url": URL})).await["bytes"], 4);
    assert_eq!((bench.server.puts().len(), began.elapsed().as_secs()), (3, 10));
    for _ in 0..3 {
        bench.server.then(Err(UploadError::Transport("timed out".into())));
    }
    let unreachable = (500, "the server could not be reached".to_owned());
    let parameters = json!({"source": "pwm", "url": URL, "clear": true});
    assert_eq!(bench.refused(parameters).await, unreachable);
    assert_eq!(bench.server.puts().len(), 6);
    assert!(bench.services.reports().is_empty(), "what was not sent clears nothing");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_is_asked_once() {
    let bench = bench();
    fs::write(bench.path(), "one\n").unwrap();
    for (error, message) in [
        (UploadError::Status(403), "the server answered 403"),
        (UploadError::Status(302), "the server answered 302"),
        (UploadError::Unusable("x".into()), "the log cannot be sent to this url"),
        (UploadError::Stopped, "the upload was stopped"),
    ] {
        let before = bench.server.puts().len();
        bench.server.then(Err(error));
        assert_eq!(bench.refused(json!({"source": "pwm", "url": URL})).await, (500, message.into()));
        assert_eq!(bench.server.puts().len(), before + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_has_no_more_time_than_the_request() {
    let bench = bench();
    fs::write(bench.path(), "one\n").unwrap();
    let late = Context::new(iotdm_core::ContextParts {
        deadline: tokio::time::Instant::now() + Duration::from_secs(7),
        ..parts(&bench.system, &bench.services)
    });
    let fields = json!([{"field": "source", "value": "pwm"}, {"field": "url", "value": URL}]);
    ask(&bench.table, &UploadLog::ROUTE, &late, json!({"fields": fields})).await;
    assert_eq!(bench.server.puts()[0].2, Duration::from_secs(7));
    let policy = bench.table.policies().next().unwrap().1;
    assert_eq!((policy.budget.as_secs(), policy.interrupted), (3 * 60 + 10 + 30 + 30, Interrupted::RunAgain));
}

#[tokio::test(start_paused = true)]
async fn a_second_log_meanwhile_is_refused() {
    let bench = bench();
    fs::write(bench.path(), "one\n").unwrap();
    bench.server.then(Err(UploadError::Status(503)));
    let first = bench.d(json!({"source": "pwm", "url": URL}));
    let second = async {
        sleep(Duration::from_secs(1)).await;
        bench.refused(json!({"source": "pwm"})).await
    };
    let (_, second) = tokio::join!(first, second);
    assert_eq!(second, (409, "another log is being uploaded".into()));
    bench.d(json!({"source": "pwm"})).await;
}

/// A server that keeps its thread must not get one more with each request.
#[tokio::test(start_paused = true)]
async fn a_thread_that_a_request_no_longer_waits_for_still_has_its_turn() {
    struct Stuck(Mutex<std::sync::mpsc::Receiver<()>>);
    impl Uploader for Stuck {
        fn put(&self, _: &Put<'_>) -> Result<(), UploadError> {
            // Ends when the test drops the other end.
            let _ = self.0.lock().unwrap().recv();
            Ok(())
        }
    }
    let bench = bench();
    fs::write(bench.path(), "one\n").unwrap();
    let (release, receiver) = std::sync::mpsc::channel();
    let options = UploadOptions {
        hosts: vec!["logs.example.com".parse().unwrap()],
        ..UploadOptions::new([LogSource::file("pwm", bench.path())])
    };
    let stuck = Arc::new(Stuck(Mutex::new(receiver)));
    let upload = LogUpload::new(bench.diagnostics.clone(), options, stuck).unwrap();
    let cx = context(&bench.system, &bench.services);
    let request: UploadRequest = serde_json::from_value(json!({"source": "pwm", "url": URL})).unwrap();
    let again: UploadRequest = serde_json::from_value(json!({"source": "pwm"})).unwrap();
    {
        let mut first = std::pin::pin!(Handler::<UploadLog>::handle(&upload, &cx, &request));
        while upload.shared.turn.available_permits() == 1 {
            assert!(look_at(&mut first).await.is_none());
        }
        // Until the thread has the log.
        while Arc::strong_count(&upload.shared.uploader) < 2 {
            assert!(look_at(&mut first).await.is_none());
        }
    }
    let refused = upload.handle(&cx, &again).await.unwrap_err();
    assert_eq!(refused.rc(), Code::CONFLICT);
    drop(release);
    while upload.shared.turn.available_permits() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(upload.handle(&cx, &again).await.is_ok());
}

/// One look at a future.
async fn look_at<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    tokio::select! {
        biased;
        done = future => Some(done),
        () = tokio::task::yield_now() => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_clear_that_cannot_be_stored_is_told() {
    let bench = bench();
    fs::write(bench.path(), "one\n").unwrap();
    bench.services.stop();
    assert_eq!(bench.refused(json!({"source": "pwm", "clear": true})).await.0, Code::FAILED.as_u16());
}

#[test]
fn options_that_could_only_fail_later_are_refused_at_once() {
    let with = |source: LogSource| UploadOptions::new([source]).check();
    assert_eq!(with(LogSource::file("a", "/a")), Ok(()));
    assert_eq!(UploadOptions::new([]).check(), Err(UploadOptionsError::Sources));
    assert_eq!(with(LogSource::file("a b", "/a")), Err(UploadOptionsError::Name("a b".into())));
    assert_eq!(with(LogSource::file("a", "a")), Err(UploadOptionsError::Path("a".into())));
    for unit in ["lamp", "", ".service", "lamp.", "a b.service", "*.service", "--lines=1"] {
        assert_eq!(with(LogSource::journal("a", Some(unit))), Err(UploadOptionsError::Unit(unit.into())));
    }
    assert_eq!(with(LogSource::journal("a", Some("getty@tty1.service"))), Ok(()));
    let twice = [LogSource::file("a", "/a"), LogSource::journal("a", None)];
    assert_eq!(UploadOptions::new(twice).check(), Err(UploadOptionsError::Twice("a".into())));
    let good = UploadOptions::new([LogSource::file("a", "/a")]);
    let large = UploadOptions { max_bytes: MAX_UPLOAD_BYTES + 1, ..good.clone() };
    assert_eq!(large.check(), Err(UploadOptionsError::MaxBytes));
    let endless = UploadOptions { time_limit: Duration::MAX, ..good };
    assert_eq!(endless.check(), Err(UploadOptionsError::TimeLimit));
}

#[test]
fn an_address_does_not_show_in_debug() {
    let request: UploadRequest = serde_json::from_value(json!({"source": "a", "url": URL})).unwrap();
    let cancellation = tokio_util::sync::CancellationToken::new();
    let body = Arc::from(&b"x"[..]);
    let put = Put { url: URL, body: &body, time_limit: Duration::ZERO, cancellation: &cancellation };
    assert!(!format!("{request:?} {put:?}").contains("s1gnature"));
}

/// Text that does not compress: an answer would be too large with all of it.
fn noise(bytes: usize) -> String {
    let mut state = 1_u64;
    let lines = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        format!("{state:020}\n")
    });
    lines.take(bytes / 21).collect()
}

#[tokio::test(start_paused = true)]
async fn an_answer_holds_the_newest_part_that_fits_and_is_a_message() {
    let bench = bench_with(|options| options.max_bytes = 1_000_000);
    let text = noise(900_000);
    fs::write(bench.path(), &text).unwrap();
    let d = bench.d(json!({"source": "pwm"})).await;
    let kept = text_of(&d);
    assert!(text.ends_with(&kept) && kept.len() > 50_000 && kept.len().is_multiple_of(21), "{}", kept.len());
    assert_eq!((&d["truncated"], &d["bytes"]), (&json!(true), &json!(kept.len())));
    assert!(d.to_string().len() < MAX_PAYLOAD_BYTES - 10_000, "{}", d.to_string().len());
    let d = bench.d(json!({"source": "pwm", "url": URL})).await;
    assert_eq!(
        (&d["truncated"], &d["bytes"]),
        (&json!(false), &json!(text.len())),
        "a server gets all of it"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_packed_is_the_end_of_the_text_within_the_limit(
        text in proptest::collection::vec(prop_oneof![4 => any::<u8>(), 1 => Just(b'\n')], 0..4000),
        limit in 30_usize..3000,
    ) {
        let packed = pack(&text, Some(limit));
        prop_assert!(packed.gzip.len() <= limit);
        let mut kept = Vec::new();
        GzDecoder::new(&packed.gzip[..]).read_to_end(&mut kept).unwrap();
        prop_assert_eq!(kept.len(), packed.kept);
        prop_assert!(text.ends_with(&kept));
        prop_assert_eq!(packed.cut, kept.len() < text.len());
    }

    #[test]
    fn a_tail_is_the_end_of_the_file_within_its_limits(
        text in "([a-z]{0,20}\n){0,30}[a-z]{0,5}",
        limit in 1_usize..300,
        lines in proptest::option::of(1_usize..20),
    ) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("log");
        fs::write(&path, &text).unwrap();
        let tail = tail(&path, limit, lines).unwrap();
        let kept = String::from_utf8(tail.bytes).unwrap();
        prop_assert!(text.ends_with(&kept) && kept.len() <= limit);
        prop_assert!(lines.is_none_or(|lines| kept.lines().count() <= lines));
        prop_assert_eq!(tail.truncated, text.len() > limit);
        if lines.is_none() && !tail.truncated {
            prop_assert_eq!(kept, text);
        }
    }

    #[test]
    fn a_journal_turned_around_has_the_same_lines(entries in proptest::collection::vec("[a-z]{1,5}\n( [a-z]{1,5}\n){0,2}", 0..9)) {
        let newest_first: String = entries.concat();
        let oldest: String = entries.iter().rev().map(String::as_str).collect();
        prop_assert_eq!(oldest_first(newest_first.as_bytes(), false), oldest.into_bytes());
    }
}

mod wire;
