//! Random histories of diagnostics: logs on request, facts and clears, with a server and a journal that are out of luck.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use iotdm_agent::testing::histories::{Event, Histories, Machine, Outcome, Record};
use iotdm_agent::{Builder, Device};
use iotdm_core::{Action, ChildExit, ChildOutput, Interrupted, Policy, Route, Severity, UpRoute};
use iotdm_handlers::Diagnostics;
use iotdm_handlers::diagnostics::{
    ClearErrorCodes, ClearLog, FactsOptions, LogSource, LogUpload, Put, ReadFacts, SystemFacts, UploadError,
    UploadLog, UploadOptions, Uploader,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

/// What stays when the process dies.
struct Unit {
    machine: Machine,
    home: TempDir,
}

const LOG: &str = "one\ntwo\n";
/// `IOTDM_SEEDS=n` runs so many.
const SEEDS: u64 = 60;

impl Unit {
    fn new(machine: &Machine) -> Self {
        let hardware = machine.clone();
        machine.programs(move |_| {
            let hardware = hardware.clone();
            async move {
                hardware.note("the journal is read");
                sleep(Duration::from_secs(hardware.draw(40))).await;
                let exit = ChildExit::Status(i32::from(hardware.draw(8) == 7));
                Ok(ChildOutput { exit, stdout: LOG.into(), stderr: Vec::new(), truncated: false })
            }
        });
        let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let home = home.expect("the temporary folder can be written");
        std::fs::write(home.path().join("pwm.log"), LOG).expect("the temporary folder can be written");
        Self { machine: machine.clone(), home }
    }

    fn diagnostics(&self) -> Diagnostics {
        Diagnostics::new(Arc::new(self.machine.clone()))
    }

    fn facts(&self) -> SystemFacts {
        let options =
            FactsOptions { disks: Vec::new(), root: self.home.path().into(), ..FactsOptions::default() };
        SystemFacts::new(options).expect("the options are usable")
    }

    fn register(&self, builder: Builder) -> Builder {
        let sources =
            [LogSource::file("pwm", self.home.path().join("pwm.log")), LogSource::journal("all", None)];
        let hosts = vec!["logs.example.com".parse().expect("it is a host")];
        let options = UploadOptions { hosts, ..UploadOptions::new(sources) };
        let server = Arc::new(Server(self.machine.clone()));
        let upload = LogUpload::new(self.diagnostics(), options, server).expect("the options are usable");
        builder.with(self.diagnostics()).with(upload).with(self.facts())
    }

    /// Reports of this life of the process. Facts become metadata from a thread of their own, whose moment no seed
    /// decides: they are not in here.
    fn beside(&self, device: Device) -> impl Future<Output = ()> + Send + use<> {
        let diagnostics = self.diagnostics();
        diagnostics.error_code(17);
        diagnostics.log(Severity::Information, "started");
        async move {
            let send = move |report| {
                let device = device.clone();
                async move { device.report(report).await }
            };
            diagnostics.run(send).await;
        }
    }
}

/// Takes a log, or stumbles, or is where the process dies.
struct Server(Machine);

impl Uploader for Server {
    fn put(&self, put: &Put<'_>) -> Result<(), UploadError> {
        let key = put.url.rsplit('/').next().unwrap_or_default();
        match self.0.draw(10) {
            1 => return Err(UploadError::Transport("nobody listens".into())),
            2 => return Err(UploadError::Status(503)),
            3 => return Err(UploadError::Status(403)),
            trouble @ (4 | 5) => {
                // Whether the server has it by then is a matter of luck, too.
                if self.0.draw(2) == 0 {
                    self.0.note(format!("has {key}"));
                }
                if trouble == 4 {
                    self.0.cut_power()
                } else {
                    self.0.crash()
                }
                self.0.note("the process ends while a log is sent");
                return Err(UploadError::Transport("nobody is there any more".into()));
            }
            _ => {}
        }
        self.0.note(format!("has {key}"));
        Ok(())
    }
}

fn upload(parameters: &[(&str, &str)]) -> Value {
    let field = |(field, value): &(&str, &str)| json!({"field": field, "value": value});
    json!({"fields": parameters.iter().map(field).collect::<Vec<_>>()})
}

fn histories() -> Histories<Unit> {
    with(|builder| builder)
}

fn with(change: fn(Builder) -> Builder) -> Histories<Unit> {
    let url = ("url", "https://logs.example.com/object");
    let file = ("source", "pwm");
    Histories::of(Unit::new, move |unit, builder| change(unit.register(builder)))
        .beside(Unit::beside)
        .request(6, UploadLog::ROUTE, upload(&[file, url, ("clear", "true")]))
        .request(3, UploadLog::ROUTE, upload(&[("source", "all"), url]))
        .request(3, UploadLog::ROUTE, upload(&[file]))
        .request(1, UploadLog::ROUTE, upload(&[("source", "shadow")]))
        .request(2, ReadFacts::ROUTE, Value::Null)
        .request(2, ClearLog::ROUTE, Value::Null)
        .request(2, ClearErrorCodes::ROUTE, Value::Null)
        .law("a log that was put is on the server", |record, _| put_is_true(record))
        .law("nothing is lost by an interruption", |record, _| no_interruption(record))
        .law("the log is cleared only by who asked for it", |record, _| no_clear_unasked(record))
}

fn is_upload(route: &Route) -> bool {
    *route == UploadLog::ROUTE
}

/// Who is told that a log was sent finds it there.
fn put_is_true(record: &Record) -> Result<(), String> {
    let mut objects = 0;
    for event in record.events() {
        match event {
            Event::Note(note) if note == "has object" => objects += 1,
            Event::Returned(work, Outcome::Replied(200)) if is_upload(&work.route) => {
                let asked = asked(record, &work.req_id);
                if asked.iter().any(|d| d.to_string().contains("\"url\"")) && asked.len() == 1 && objects == 0
                {
                    return Err(format!("{work} was not put"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The bodies that were sent with a reqId: a plan uses some twice.
fn asked<'a>(record: &'a Record, req_id: &str) -> Vec<&'a Value> {
    let mut bodies: Vec<&Value> = Vec::new();
    for event in record.events() {
        if let Event::Sent(asked) = event
            && asked.req_id == req_id
            && !bodies.contains(&&asked.d)
        {
            bodies.push(&asked.d);
        }
    }
    bodies
}

/// Everything here may be done again: it may be given up at its last attempt, and is never left in doubt.
fn no_interruption(record: &Record) -> Result<(), String> {
    for event in record.events() {
        if let Event::Published(published) = event
            && published.body["message"] == "interrupted; it may have happened"
        {
            return Err(published.body.to_string());
        }
    }
    Ok(())
}

fn no_clear_unasked(record: &Record) -> Result<(), String> {
    let (mut log, mut codes) = (false, false);
    for event in record.events() {
        match event {
            Event::Started(work) => {
                log |= work.route == ClearLog::ROUTE;
                log |= asked(record, &work.req_id).iter().any(|d| d.to_string().contains("\"clear\""));
                codes |= work.route == ClearErrorCodes::ROUTE;
            }
            Event::Published(published) => {
                let unasked = match published.route {
                    Some(UpRoute::ClearLog) => !log,
                    Some(UpRoute::ClearErrorCodes) => !codes,
                    _ => false,
                };
                if unasked {
                    return Err(format!("{published:?}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn diagnostics_keep_the_laws() {
    histories().check(SEEDS);
}

/// Laws that hold because nothing ever happens prove nothing.
#[test]
fn the_histories_of_diagnostics_are_eventful() {
    let histories = histories();
    let mut seen = BTreeMap::<String, usize>::new();
    for seed in 0..SEEDS {
        for event in histories.record(seed).events() {
            match event {
                Event::Note(note) => *seen.entry(note.clone()).or_default() += 1,
                Event::Returned(work, outcome) => {
                    let repeated = if work.attempt > 1 { " again" } else { "" };
                    *seen.entry(format!("{} {outcome:?}{repeated}", work.route)).or_default() += 1;
                }
                _ => {}
            }
        }
    }
    for expected in [
        "has object",
        "the journal is read",
        "the process ends while a log is sent",
        "mgmt/custom/iotdm/uploadLog Replied(200)",
        "mgmt/custom/iotdm/uploadLog Replied(200) again",
        "mgmt/custom/iotdm/uploadLog Refused(400)",
        "mgmt/custom/iotdm/uploadLog Refused(409)",
        "mgmt/custom/iotdm/uploadLog Refused(500)",
        "mgmt/custom/iotdm/facts Replied(200)",
        "mgmt/custom/iotdm/clearLog Replied(200)",
        "mgmt/custom/iotdm/clearErrorCodes Replied(200)",
    ] {
        assert!(seen.contains_key(expected), "never seen: {expected}; {seen:#?}");
    }
}

#[test]
fn an_upload_that_is_not_repeated_is_found() {
    let careful = |builder: Builder| {
        builder.policy(UploadLog::ROUTE, |policy: &mut Policy| policy.interrupted = Interrupted::Refuse)
    };
    let violation = with(careful).find(0..4 * SEEDS).expect("it is found");
    assert_eq!(violation.law, "nothing is lost by an interruption", "{violation}");
}

#[test]
fn the_same_seed_is_the_same_history_of_diagnostics() {
    for seed in 0..20 {
        assert_eq!(histories().record(seed).to_string(), histories().record(seed).to_string(), "seed {seed}");
    }
}
