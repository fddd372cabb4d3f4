//! Diagnostics in the whole agent: logs and facts on request, clears, and what the product logs by itself.

use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use iotdm_agent::Device;
use iotdm_agent::testing::{CrashOutcome, Running, TestSystem};
use iotdm_core::{
    Action, BootId, ChildError, ChildExit, ChildOutput, ChildProcess, Code, Performed, Report, Restart,
    RestartError, Route, System, UpRoute, attribute,
};
use iotdm_handlers::Diagnostics;
use iotdm_handlers::diagnostics::{
    ClearErrorCodes, ClearLog, FactsOptions, LogSource, LogUpload, Put, ReadFacts, SystemFacts, UploadError,
    UploadLog, UploadOptions, Uploader,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{advance, sleep};

use crate::product::Rig;

const WRITABLE: &str = "the temporary folder can be written";
const USABLE: &str = "the options are usable";

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("no holder of the lock panics")
}

/// The machine, with a journal.
#[derive(Clone, Debug)]
struct Machine {
    system: TestSystem,
    /// What `journalctl` does each time; for ever once there is nothing more.
    journal: Arc<Mutex<VecDeque<&'static str>>>,
    asked: Arc<watch::Sender<usize>>,
}

#[async_trait]
impl System for Machine {
    fn wall_clock(&self) -> Duration {
        self.system.wall_clock()
    }
    fn uptime(&self) -> Duration {
        self.system.uptime()
    }
    fn boot_id(&self) -> BootId {
        self.system.boot_id()
    }
    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError> {
        self.system.restart(kind).await
    }
    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        assert_eq!(child.program, PathBuf::from("journalctl"));
        self.asked.send_modify(|asked| *asked += 1);
        let Some(stdout) = locked(&self.journal).pop_front() else { std::future::pending().await };
        let exit = ChildExit::Status(0);
        Ok(ChildOutput { exit, stdout: stdout.into(), stderr: Vec::new(), truncated: false })
    }
}

/// The server that logs are put to.
#[derive(Clone, Debug, Default)]
struct Server {
    answers: Arc<Mutex<VecDeque<UploadError>>>,
    puts: Arc<Mutex<Vec<Vec<u8>>>>,
    put: Arc<watch::Sender<()>>,
}

impl Uploader for Server {
    fn put(&self, put: &Put<'_>) -> Result<(), UploadError> {
        locked(&self.puts).push(put.body.to_vec());
        self.put.send_replace(());
        locked(&self.answers).pop_front().map_or(Ok(()), Err)
    }
}

/// A device whose maker declared two logs, and its surroundings.
struct Unit {
    rig: Rig,
    machine: Machine,
    server: Server,
    home: tempfile::TempDir,
}

impl Unit {
    fn new() -> Self {
        let rig = Rig::new();
        let machine = Machine {
            system: rig.system.clone(),
            journal: Arc::default(),
            asked: Arc::new(watch::Sender::new(0)),
        };
        let unit =
            Self { rig, machine, server: Server::default(), home: tempfile::tempdir().expect(WRITABLE) };
        unit.write("pwm.log", "one\ntwo\n");
        unit.write("proc/loadavg", "0.50 0.25 0.10 1/1 1\n");
        unit
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.home.path().join(path);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect(WRITABLE);
        fs::write(path, text).expect(WRITABLE);
    }

    fn facts(&self) -> SystemFacts {
        let options =
            FactsOptions { disks: Vec::new(), root: self.home.path().into(), ..FactsOptions::default() };
        SystemFacts::new(options).expect(USABLE)
    }

    fn start(&self) -> Running {
        let machine = Arc::new(self.machine.clone());
        let diagnostics = Diagnostics::new(machine.clone());
        let sources =
            [LogSource::file("pwm", self.home.path().join("pwm.log")), LogSource::journal("all", None)];
        let options = UploadOptions {
            hosts: vec!["logs.example.com".parse().expect("it is a host")],
            ..UploadOptions::new(sources)
        };
        let upload =
            LogUpload::new(diagnostics.clone(), options, Arc::new(self.server.clone())).expect(USABLE);
        let facts = self.facts();
        self.rig.start_with(|builder| builder.system(machine).with(diagnostics).with(upload).with(facts))
    }

    async fn managed(&self) -> Running {
        let manages = self.rig.platform.published(UpRoute::Manage).len();
        let running = self.start();
        self.rig.platform.managed(manages + 1).await;
        self.rig.platform.drained().await;
        running
    }

    fn send(&self, request: &Request, req_id: &str) {
        self.rig.platform.send(request.route.clone(), json!({"reqId": req_id, "d": request.d}));
    }

    async fn ask(&self, request: &Request, req_id: &str) -> Value {
        self.send(request, req_id);
        self.rig.platform.response(req_id).await
    }

    fn puts(&self) -> usize {
        locked(&self.server.puts).len()
    }

    /// How often each effect was seen from outside: the log was put, the journal read, the log and the codes cleared.
    fn effects(&self) -> [usize; 4] {
        let published = |route| self.rig.platform.published(route).len();
        let asked = *self.machine.asked.borrow();
        [self.puts(), asked, published(UpRoute::ClearLog), published(UpRoute::ClearErrorCodes)]
    }
}

/// A request of the platform, and what it does when it is done once: see [`Unit::effects`].
#[derive(Clone, Debug)]
struct Request {
    route: Route,
    d: Value,
    effects: [usize; 4],
}

fn upload(parameters: &[(&str, &str)]) -> Value {
    let field = |(field, value): &(&str, &str)| json!({"field": field, "value": value});
    json!({"fields": parameters.iter().map(field).collect::<Vec<_>>()})
}

const URL: (&str, &str) = ("url", "https://logs.example.com/lamp1?sig=s1gnature");

/// Every action, and both ways of an upload.
fn requests() -> [Request; 6] {
    let request = |route, d, effects| Request { route, d, effects };
    let file = ("source", "pwm");
    [
        request(UploadLog::ROUTE, upload(&[file]), [0, 0, 0, 0]),
        request(UploadLog::ROUTE, upload(&[file, URL, ("clear", "true")]), [1, 0, 1, 0]),
        request(UploadLog::ROUTE, upload(&[("source", "all")]), [0, 1, 0, 0]),
        request(ReadFacts::ROUTE, json!({"fields": []}), [0, 0, 0, 0]),
        request(ClearErrorCodes::ROUTE, json!({"fields": []}), [0, 0, 0, 1]),
        request(ClearLog::ROUTE, json!({"fields": []}), [0, 0, 1, 0]),
    ]
}

/// A unit in whose journal there is enough for a crash or two.
fn unit() -> Unit {
    let unit = Unit::new();
    locked(&unit.machine.journal).extend(["2 b\n1 a\n"; 4]);
    unit
}

fn text_of(answer: &Value) -> String {
    let gzip = STANDARD.decode(answer["d"]["data"].as_str().expect("it has data")).expect("it is base64");
    let mut text = String::new();
    GzDecoder::new(&gzip[..]).read_to_string(&mut text).expect("it is gzip");
    text
}

/// Waits until a clear that was reported before the answer has arrived, too.
async fn settled(unit: &Unit, request: &Request) {
    let clears = |unit: &Unit| unit.effects()[2] + unit.effects()[3];
    let wanted = request.effects[2] + request.effects[3];
    unit.rig.platform.until(|_| clears(unit) >= wanted).await;
    unit.rig.platform.drained().await;
}

#[tokio::test(start_paused = true)]
async fn each_request_is_carried_out_and_answered() {
    let unit = unit();
    let _running = unit.managed().await;
    let [file, put, journal, facts, codes, log] = requests();
    assert_eq!(text_of(&unit.ask(&file, "file").await), "one\ntwo\n");
    assert_eq!(text_of(&unit.ask(&journal, "journal").await), "1 a\n2 b\n");
    let answer = unit.ask(&put, "put").await;
    assert_eq!(
        (&answer["rc"], answer["d"].get("data"), &answer["d"]["cleared"]),
        (&json!(200), None, &json!(true))
    );
    assert_eq!(unit.ask(&facts, "facts").await["d"]["load"], json!([0.5, 0.25, 0.1]));
    for (request, req_id) in [(codes, "codes"), (log, "log")] {
        let answer = unit.ask(&request, req_id).await;
        assert_eq!(answer, json!({"rc": 200, "reqId": req_id}));
    }
    unit.rig.platform.until(|_| unit.effects() == [1, 1, 2, 1]).await;
    // `docs/protocol.md` §4.4, §4.5: a clear has no `d`.
    for route in [UpRoute::ClearLog, UpRoute::ClearErrorCodes] {
        assert!(unit.rig.platform.published(route).iter().all(|body| body.get("d").is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_done_is_refused_and_nothing_happens() {
    let unit = Unit::new();
    let _running = unit.managed().await;
    let file = ("source", "pwm");
    let refused = [
        (UploadLog::ROUTE, upload(&[]), 400, "d: missing field `source`"),
        (
            UploadLog::ROUTE,
            upload(&[("source", "shadow")]),
            400,
            "source: there is no such log; there are: pwm, all",
        ),
        (
            UploadLog::ROUTE,
            upload(&[file, ("url", "https://evil.example/")]),
            400,
            "url: this device sends no logs to that host",
        ),
        (
            UploadLog::ROUTE,
            upload(&[file, ("lines", "many")]),
            400,
            "d.lines: invalid type: string \"many\", expected u64",
        ),
        (ReadFacts::ROUTE, json!("all"), 400, "d: expected an object with the list `fields`"),
        (ClearErrorCodes::ROUTE, json!({"fields": 7}), 400, "d.fields: expected a list of {field, value}"),
        (ClearLog::ROUTE, json!([]), 400, "d: expected an object with the list `fields`"),
    ];
    for (index, (route, d, rc, message)) in refused.into_iter().enumerate() {
        let answer = unit.ask(&Request { route, d, effects: [0; 4] }, &format!("r{index}")).await;
        assert_eq!((&answer["rc"], &answer["message"]), (&json!(rc), &json!(message)));
    }
    fs::remove_file(unit.home.path().join("pwm.log")).unwrap();
    let answer = unit.ask(&requests()[1], "gone").await;
    assert_eq!(
        (&answer["rc"], &answer["message"]),
        (&json!(500), &json!("the log of this source cannot be read"))
    );
    unit.write("pwm.log", "x");
    locked(&unit.server.answers).push_back(UploadError::Status(403));
    let answer = unit.ask(&requests()[1], "denied").await;
    assert_eq!((&answer["rc"], &answer["message"]), (&json!(500), &json!("the server answered 403")));
    assert_eq!(unit.effects(), [1, 0, 0, 0], "what was not sent clears nothing");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_never_ends_is_answered_500_at_the_end_of_its_budget() {
    let unit = Unit::new();
    let _running = unit.managed().await;
    let began = tokio::time::Instant::now();
    let [file, _, journal, ..] = requests();
    unit.send(&journal, "stuck");
    unit.machine.asked.subscribe().wait_for(|asked| *asked == 1).await.unwrap();
    assert_eq!(unit.ask(&file, "meanwhile").await["rc"], 409);
    assert_eq!(unit.rig.platform.response("stuck").await["rc"], 500);
    assert_eq!(began.elapsed().as_secs(), 3 * 60 + 10 + 30 + 30);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(unit.ask(&file, "afterwards").await["rc"], 200, "the next one has its turn");
}

/// A file system that hangs: here a pipe that nobody writes to, in the place of a file.
#[tokio::test(start_paused = true)]
async fn facts_that_cannot_be_read_in_time_are_answered_500() {
    let unit = Unit::new();
    let pipe = unit.home.path().join("proc/meminfo");
    let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, mode, 0).unwrap();
    let _running = unit.managed().await;
    let facts = &requests()[3];
    unit.send(facts, "stuck");
    unit.rig.platform.drained().await;
    // Time stands still while a thread works.
    for _ in 0..7 {
        tokio::task::yield_now().await;
        advance(Duration::from_secs(5)).await;
    }
    assert_eq!(unit.rig.platform.response("stuck").await["rc"], 500);
    // Its thread is still there, and the next request waits for it no longer than its own budget.
    unit.send(facts, "behind");
    for _ in 0..7 {
        tokio::task::yield_now().await;
        advance(Duration::from_secs(5)).await;
    }
    assert_eq!(unit.rig.platform.response("behind").await["rc"], 500);
    // Both ends, so that neither this nor the reader waits.
    let ends = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    fs::remove_file(&pipe).unwrap();
    drop(ends);
    assert_eq!(unit.ask(facts, "afterwards").await["rc"], 200);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_recorded_before_a_crash_is_carried_out_once_after_it() {
    for request in requests() {
        let unit = unit();
        let _running = unit.managed().await;
        unit.rig.disk.crash_at_commit(1, CrashOutcome::Applied);
        assert_eq!(unit.ask(&request, "r").await["rc"], 200, "{request:?}");
        settled(&unit, &request).await;
        assert_eq!(unit.effects(), request.effects, "{request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_commit_ends_in_the_same_answer() {
    for request in requests() {
        for outcome in [CrashOutcome::Applied, CrashOutcome::NotApplied] {
            for at in 1..=4 {
                let unit = unit();
                let _running = unit.managed().await;
                unit.rig.disk.crash_at_commit(at, outcome);
                let answer = unit.ask(&request, "r").await;
                assert_eq!(answer["rc"], 200, "{request:?} {at} {outcome:?}");
                settled(&unit, &request).await;
                // What was not recorded as done is done again, and what was not answered is sent again.
                for ((seen, once), at_most) in
                    unit.effects().into_iter().zip(request.effects).zip([2, 2, 4, 4])
                {
                    let within = (once..=at_most * once).contains(&seen);
                    assert!(within, "{request:?} {at} {outcome:?} {:?}", unit.effects());
                }
                assert_eq!(unit.ask(&request, "r").await, answer);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_broker_did_not_get_is_sent_again_after_a_crash_and_nothing_is_done_again() {
    for request in requests() {
        let unit = unit();
        let running = unit.managed().await;
        unit.rig.platform.hold_pubacks(true);
        let answer = unit.ask(&request, "r").await;
        settled(&unit, &request).await;
        running.kill().await;
        unit.rig.platform.hold_pubacks(false);
        let _running = unit.managed().await;
        assert_eq!(unit.rig.platform.response("r").await, answer, "{request:?}");
        sleep(Duration::from_secs(600)).await;
        let [puts, journal, ..] = unit.effects();
        assert_eq!([puts, journal], request.effects[..2], "{request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_a_crash_interrupts_is_made_again() {
    // While the journal is read.
    let unit = Unit::new();
    let running = unit.managed().await;
    let [_, put, journal, ..] = requests();
    unit.send(&journal, "journal");
    unit.machine.asked.subscribe().wait_for(|asked| *asked == 1).await.unwrap();
    running.kill().await;
    locked(&unit.machine.journal).push_back("1 a\n");
    let running = unit.managed().await;
    assert_eq!(text_of(&unit.rig.platform.response("journal").await), "1 a\n");
    assert_eq!(unit.effects()[1], 2);

    // Between two attempts to send.
    let mut put_to = unit.server.put.subscribe();
    locked(&unit.server.answers).push_back(UploadError::Transport("connection reset".into()));
    unit.send(&put, "put");
    put_to.changed().await.unwrap();
    running.kill().await;
    assert!(unit.rig.platform.responses("put").is_empty());
    let _running = unit.managed().await;
    assert_eq!(unit.rig.platform.response("put").await["rc"], 200);
    settled(&unit, &put).await;
    assert_eq!(unit.effects(), [2, 2, 1, 0]);
    let puts = locked(&unit.server.puts);
    assert_eq!(puts[0], puts[1], "the same object again");
}

/// It looks at its cancellation, and must not take that for a reason to refuse.
#[tokio::test(start_paused = true)]
async fn an_upload_that_a_stop_interrupts_is_made_again() {
    let unit = Unit::new();
    let running = unit.managed().await;
    unit.send(&requests()[2], "journal");
    unit.machine.asked.subscribe().wait_for(|asked| *asked == 1).await.unwrap();
    running.stop().await.unwrap();
    assert!(unit.rig.platform.responses("journal").is_empty());
    locked(&unit.machine.journal).push_back("1 a\n");
    let _running = unit.managed().await;
    assert_eq!(text_of(&unit.rig.platform.response("journal").await), "1 a\n");
}

/// An upload that never gets through must not come back at every start for ever.
#[tokio::test(start_paused = true)]
async fn an_upload_that_ends_the_process_each_time_is_given_up() {
    let unit = Unit::new();
    let journal = &requests()[2];
    let mut running = unit.managed().await;
    unit.send(journal, "r");
    for start in 1..=3 {
        unit.machine.asked.subscribe().wait_for(|asked| *asked == start).await.unwrap();
        running.kill().await;
        running = unit.managed().await;
    }
    assert_eq!(unit.rig.platform.response("r").await["rc"], 500);
    assert_eq!(unit.effects()[1], 3);
}

#[tokio::test(start_paused = true)]
async fn a_replay_gets_the_stored_answer_and_does_nothing() {
    for request in requests() {
        let unit = unit();
        let running = unit.managed().await;
        let answer = unit.ask(&request, "r").await;
        settled(&unit, &request).await;
        assert_eq!(unit.ask(&request, "r").await, answer, "{request:?}");
        running.kill().await;
        unit.rig.system.next_boot();
        let _running = unit.managed().await;
        assert_eq!(unit.ask(&request, "r").await, answer, "{request:?}");
        sleep(Duration::from_secs(600)).await;
        assert_eq!(unit.effects(), request.effects, "{request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clear_waits_for_a_full_disk_and_is_sent_once_there_is_room() {
    for request in &requests()[4..] {
        let unit = Unit::new();
        let _running = unit.managed().await;
        unit.rig.disk.disk_full(true);
        unit.send(request, "r");
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(unit.effects(), [0; 4], "nothing is done of what is not recorded");
        unit.rig.disk.disk_full(false);
        assert_eq!(unit.rig.platform.response("r").await["rc"], 200);
        settled(&unit, request).await;
        assert_eq!(unit.effects(), request.effects);
    }
}

/// `docs/protocol.md` §4: 409 and silence mean later, with another reqId; 404 is final.
#[tokio::test(start_paused = true)]
async fn a_clear_is_sent_until_the_platform_has_carried_it_out() {
    for (route, action) in
        [(UpRoute::ClearErrorCodes, ClearErrorCodes::ROUTE), (UpRoute::ClearLog, ClearLog::ROUTE)]
    {
        for (first, sent) in
            [(Some(Code::CONFLICT), 2), (None, 2), (Some(Code::NOT_FOUND), 1), (Some(Code::OK), 1)]
        {
            let unit = Unit::new();
            let _running = unit.managed().await;
            unit.rig.platform.answer(route, first);
            let request = Request { route: action.clone(), d: json!({}), effects: [0; 4] };
            assert_eq!(unit.ask(&request, "r").await["rc"], 200);
            unit.rig.platform.until(|platform| platform.published(route).len() == 1).await;
            unit.rig.platform.answer(route, Some(Code::OK));
            sleep(Duration::from_secs(3600)).await;
            let clears = unit.rig.platform.published(route);
            assert_eq!(clears.len(), sent, "{route} {first:?}");
            let mut req_ids: Vec<_> = clears.iter().map(|clear| clear["reqId"].to_string()).collect();
            req_ids.dedup();
            assert_eq!(req_ids.len(), sent, "each with a reqId of its own");
        }
    }
}

/// Hands over reports for as long as the agent runs.
fn beside(diagnostics: &Diagnostics, device: &Device) {
    let (diagnostics, device) = (diagnostics.clone(), device.clone());
    tokio::spawn(async move {
        let send = |report: Report| {
            let device = device.clone();
            async move { device.report(report).await }
        };
        diagnostics.run(send).await
    });
}

#[tokio::test(start_paused = true)]
async fn what_the_product_logs_arrives_merged_and_bounded() {
    use tracing_subscriber::prelude::*;
    let unit = Unit::new();
    let diagnostics = Diagnostics::new(Arc::new(unit.machine.clone()));
    let _log = tracing_subscriber::registry().with(diagnostics.layer()).set_default();
    let running = unit.managed().await;
    beside(&diagnostics, running.device());
    for n in 0..1000 {
        tracing::warn!(target: "lamp", n, "hot");
        tracing::warn!(target: "lamp", "pulse {n} was missed");
    }
    tracing::error!(target: "lamp", { iotdm.code = 17, password = "s3cr3t" }, "no lamp");
    sleep(Duration::from_secs(3600)).await;
    let entries = unit.rig.platform.published(UpRoute::AddLog);
    let messages: Vec<&str> = entries.iter().map(|entry| entry["d"]["message"].as_str().unwrap()).collect();
    let [hot, first, _, _, last, error] = messages[..] else { panic!("{messages:#?}") };
    assert!(hot.starts_with("hot (1000 times, last at 2026-06-01T"), "{hot}");
    assert_eq!(first, "pulse 0 was missed");
    assert!(last.starts_with("pulse 3 was missed (1 times, and 996 other messages"), "{last}");
    assert_eq!(error, "no lamp");
    let severities: Vec<_> = entries.iter().map(|entry| entry["d"]["severity"].as_u64().unwrap()).collect();
    assert_eq!(severities, [1, 1, 1, 1, 1, 2]);
    assert_eq!(unit.rig.platform.published(UpRoute::AddErrorCode)[0]["d"], json!({"errorCode": 17}));
    assert!(!format!("{entries:?}").contains("s3cr3t"));
}

#[tokio::test(start_paused = true)]
async fn the_address_of_an_upload_is_in_no_log_line_and_in_no_answer() {
    use tracing_subscriber::prelude::*;
    let lines = Lines::default();
    let written = lines.clone();
    let log = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || written.clone());
    let _log = tracing_subscriber::registry().with(log).set_default();
    let unit = Unit::new();
    let running = unit.managed().await;
    let put = &requests()[1];
    unit.ask(put, "good").await;
    for (index, error) in [
        UploadError::Status(403),
        UploadError::Transport("broken pipe".into()),
        UploadError::Unusable("x".into()),
        UploadError::Stopped,
    ]
    .into_iter()
    .enumerate()
    {
        locked(&unit.server.answers).push_back(error);
        unit.ask(put, &format!("bad{index}")).await;
    }
    let elsewhere = upload(&[("source", "pwm"), ("url", "http://s1gnature@logs.example.com/?sig=s1gnature")]);
    let refused = Request { d: elsewhere, ..put.clone() };
    assert_eq!(unit.ask(&refused, "refused").await["rc"], 400);
    running.kill().await;
    let _running = unit.managed().await;
    let lines = String::from_utf8_lossy(&locked(&lines.0)).into_owned();
    assert!(lines.contains("TRACE") || lines.contains("DEBUG"), "every line is seen: {lines}");
    assert!(lines.contains("the server answered 403"), "{lines}");
    assert!(!lines.contains("s1gnature"), "{lines}");
    assert!(!format!("{:?}", unit.rig.platform.everything()).contains("s1gnature"));
}

/// What a log has written.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        locked(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A report that fails is logged by the agent, and that must not become a report, which fails.
#[tokio::test(start_paused = true)]
async fn reports_that_the_platform_refuses_make_no_reports() {
    use tracing_subscriber::prelude::*;
    for refusal in [Some(Code::BAD_REQUEST), Some(Code::FAILED), None] {
        let unit = Unit::new();
        unit.rig.platform.answer(UpRoute::AddLog, refusal);
        let diagnostics = Diagnostics::new(Arc::new(unit.machine.clone()));
        let seen = Seen::default();
        let log = tracing_subscriber::registry().with(diagnostics.layer()).with(seen.clone());
        let _log = log.set_default();
        let running = unit.managed().await;
        beside(&diagnostics, running.device());
        tracing::warn!(target: "lamp", "hot");
        for _ in 0..20 {
            sleep(Duration::from_secs(3600)).await;
            unit.rig.platform.cut();
        }
        assert!(locked(&seen.0).iter().any(|target| target.starts_with("iotdm_agent")), "it was said");
        let messages: std::collections::BTreeSet<String> = unit
            .rig
            .platform
            .published(UpRoute::AddLog)
            .iter()
            .map(|entry| entry["d"]["message"].to_string())
            .collect();
        assert_eq!(Vec::from_iter(messages), ["\"hot\""]);
        assert!(unit.rig.platform.published(UpRoute::AddLog).len() <= 6);
    }
}

/// The targets of all warnings and errors.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Seen {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if *event.metadata().level() <= tracing::Level::WARN {
            locked(&self.0).push(event.metadata().target().to_owned());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn facts_become_metadata_which_an_observer_hears_of_and_manage_carries() {
    let unit = Unit::new();
    let running = unit.managed().await;
    let set = d_of_metadata(&json!({"pole": 7}));
    unit.rig.platform.send(Route::DeviceUpdate, json!({"reqId": "u", "d": set}));
    assert_eq!(unit.rig.platform.response("u").await["rc"], 204);
    let (facts, machine, device) = (unit.facts(), Arc::new(unit.machine.clone()), running.device().clone());
    tokio::spawn(async move {
        let metadata = || device.attribute::<Value>(attribute::METADATA);
        let set = |value: Value| {
            let device = device.clone();
            async move { device.set_attribute(attribute::METADATA, &value).await }
        };
        facts.run(machine, metadata, set).await
    });
    let mut changes = running.device().changes();
    let metadata = || running.device().attribute::<Value>(attribute::METADATA).unwrap_or_default();
    while metadata().get("facts").is_none() {
        changes.changed().await.unwrap();
    }
    assert_eq!((&metadata()["pole"], &metadata()["facts"]["load"][1]), (&json!(7), &json!(0.25)));

    let observe = json!({"reqId": "o", "d": {"fields": [{"field": "metadata"}]}});
    unit.rig.platform.send(Route::Observe, observe);
    assert_eq!(unit.rig.platform.response("o").await["rc"], 200);
    let commits = unit.rig.disk.commits();
    sleep(Duration::from_secs(1800)).await;
    assert!(unit.rig.platform.published(UpRoute::Notify).is_empty(), "nothing has changed");
    assert!(unit.rig.disk.commits() <= commits + 4, "and next to nothing is written");
    sleep(Duration::from_secs(150)).await;
    unit.write("proc/loadavg", "8 8 8 1/1 1");
    unit.rig.platform.until(|platform| !platform.published(UpRoute::Notify).is_empty()).await;
    sleep(Duration::from_secs(3600)).await;
    let notified = unit.rig.platform.published(UpRoute::Notify);
    assert_eq!(
        (notified.len(), &notified[0]["d"]["fields"][0]["value"]["facts"]["load"][1]),
        (1, &json!(8.0))
    );

    let manages = unit.rig.platform.published(UpRoute::Manage).len();
    unit.rig.platform.cut();
    unit.rig.platform.managed(manages + 1).await;
    let manage = unit.rig.platform.published(UpRoute::Manage).pop().unwrap();
    assert_eq!(
        (&manage["d"]["metadata"]["pole"], &manage["d"]["metadata"]["facts"]["load"][1]),
        (&json!(7), &json!(8.0))
    );
}

fn d_of_metadata(value: &Value) -> Value {
    json!({"fields": [{"field": "metadata", "value": value}]})
}
