//! Random histories of reboots under rules and of a reset in steps. The power goes, or the process dies, while the
//! reset's program runs; the application has a will of its own.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use iotdm_agent::Builder;
use iotdm_agent::testing::histories::{Event, Histories, Machine, Outcome, Part, Record};
use iotdm_core::{
    Action, ChildError, ChildExit, ChildOutput, ChildProcess, FactoryReset, Reboot, Recovery, Route,
};
use iotdm_handlers::Restarts;
use iotdm_handlers::reboot::{FactoryResets, Question, Reboots, RestartLimit, Rules, Verdict, Wipe};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

/// `IOTDM_SEEDS=n` runs so many.
const SEEDS: u64 = 150;

const LIMIT: usize = 2;
const WITHIN: Duration = Duration::from_secs(3600);

/// A folder of the user's data, and the machine that it is on.
#[derive(Debug)]
struct House {
    machine: Machine,
    data: TempDir,
}

impl House {
    fn new(machine: &Machine) -> Self {
        // Not in memory: nothing below /dev may be wiped.
        let data = tempfile::tempdir().expect("the temporary folder can be written");
        let house = Self { machine: machine.clone(), data };
        let (hardware, folder) = (machine.clone(), house.data.path().to_owned());
        machine.programs(move |child| defaults(hardware.clone(), folder.clone(), child));
        house.live_in();
        house
    }

    /// The user has data again.
    fn live_in(&self) {
        fs::create_dir_all(self.data.path().join("rooms")).expect("the folder can be written");
        fs::write(self.data.path().join("rooms/kitchen"), "warm").expect("the folder can be written");
    }

    fn rules(&self) -> Rules {
        let machine = self.machine.clone();
        Rules::new().at_most(RestartLimit::new(LIMIT, WITHIN)).veto(move |_: Question| {
            match machine.draw(8) {
                1 => Verdict::Refuse("somebody is cooking".into()),
                2 => Verdict::Delay(Duration::from_secs(machine.draw(40))),
                3 => Verdict::Failed("nobody answers".into()),
                _ => Verdict::Allow,
            }
        })
    }

    fn register(&self, builder: Builder) -> Builder {
        // Each life of the process finds what the user left since.
        self.live_in();
        let wipe = Wipe::new([self.data.path().canonicalize().expect("the folder is there")], &[]);
        let reset = FactoryResets::wiping(wipe.expect("a temporary folder may be wiped"))
            .then(vec!["/usr/bin/defaults".into()], Duration::from_secs(120));
        builder
            .on::<Reboot>(Reboots::new().under(self.rules()))
            .on::<FactoryReset>(reset.under(self.rules()))
            .policy(FactoryReset::ROUTE, |policy| policy.attempts = 20)
    }
}

/// Makes the settings of the delivery state; it must find nothing of the user's.
async fn defaults(
    machine: Machine,
    folder: std::path::PathBuf,
    child: ChildProcess,
) -> Result<ChildOutput, ChildError> {
    assert_eq!(child.program.to_str(), Some("/usr/bin/defaults"));
    // After a crash the user's data may be there again: the product has started since.
    machine
        .note(format!("defaults begin, {} entries left", fs::read_dir(&folder).map_or(0, Iterator::count)));
    sleep(Duration::from_secs(machine.draw(30))).await;
    match machine.draw(6) {
        1 => {
            machine.note("the power goes in the middle of a reset");
            machine.cut_power();
            std::future::pending::<()>().await;
        }
        2 => {
            machine.note("the process dies in the middle of a reset");
            machine.crash();
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    let exit = ChildExit::Status(i32::from(machine.draw(8) == 1));
    if exit == ChildExit::Status(0) {
        machine.note("defaults are made");
    }
    Ok(ChildOutput { exit, stdout: Vec::new(), stderr: Vec::new(), truncated: false })
}

fn histories() -> Histories<House> {
    Histories::of(House::new, House::register)
        .request(3, Reboot::ROUTE, Value::Null)
        .request(4, FactoryReset::ROUTE, Value::Null)
        .law("a reset that is done was carried out", |record, _| done_is_true(record))
        .law("the first wiping leaves nothing", |record, _| wiped_first(record))
        .law("no loop of restarts", |record, _| limited(record))
}

/// Whatever interrupted it.
fn done_is_true(record: &Record) -> Result<(), String> {
    let (mut made, mut begun) = (0, BTreeMap::new());
    for event in record.events() {
        match event {
            Event::Damaged => begun.clear(),
            Event::Note(note) if note == "defaults are made" => made += 1,
            Event::Started(work) if work.route == FactoryReset::ROUTE && work.part == Part::AfterAck => {
                begun.entry(work.req_id.clone()).or_insert(made);
            }
            Event::Returned(work, Outcome::Judged(Recovery::Done))
                if work.route == FactoryReset::ROUTE
                    && begun.get(&work.req_id).is_none_or(|before| *before == made) =>
            {
                return Err(format!("{work} is done, and no defaults were made"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn wiped_first(record: &Record) -> Result<(), String> {
    let mut fresh = false;
    for event in record.events() {
        match event {
            Event::Started(work) if work.route == FactoryReset::ROUTE && work.part == Part::AfterAck => {
                fresh = work.attempt == 1;
            }
            Event::Note(note)
                if fresh
                    && note.starts_with("defaults begin")
                    && note != "defaults begin, 0 entries left" =>
            {
                return Err(note.clone());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Requests that restarted the machine, each by its first restart.
fn limited(record: &Record) -> Result<(), String> {
    let mut first: BTreeMap<String, Duration> = BTreeMap::new();
    for entry in record.entries() {
        match &entry.event {
            Event::Damaged => first.clear(),
            Event::Restart { by: Some(work), begun: true, .. } => {
                let recent = first
                    .iter()
                    .filter(|(req_id, at)| **req_id != work.req_id && **at + WITHIN > entry.at + SLACK)
                    .count();
                if recent >= LIMIT {
                    return Err(format!("{work} is the third within an hour"));
                }
                first.entry(work.req_id.clone()).or_insert(entry.at);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Records are of whole seconds.
const SLACK: Duration = Duration::from_secs(2);

#[test]
fn restarts_under_rules_and_resets_in_steps_keep_the_laws() {
    histories().check(SEEDS);
}

/// Laws that hold because nothing is ever reset prove nothing.
#[test]
fn the_histories_of_restarts_are_eventful() {
    let histories = histories();
    let mut seen = BTreeMap::<String, usize>::new();
    for seed in 0..SEEDS {
        for event in histories.record(seed).events() {
            match event {
                Event::Note(note) => *seen.entry(note.clone()).or_default() += 1,
                Event::Returned(work, outcome) => {
                    let what = match outcome {
                        Outcome::Failed(message) => {
                            message.split([';', ':']).next().unwrap_or_default().to_owned()
                        }
                        outcome => format!("{outcome:?}"),
                    };
                    *seen.entry(format!("{} {:?} {what}", work.route, work.part)).or_default() += 1;
                }
                _ => {}
            }
        }
    }
    for expected in [
        "defaults are made",
        "the power goes in the middle of a reset",
        "the process dies in the middle of a reset",
        "mgmt/initiate/device/factory_reset Recover Judged(Done)",
        "mgmt/initiate/device/factory_reset Recover Judged(Resume)",
        "mgmt/initiate/device/factory_reset AfterAck the application refuses at present",
        "mgmt/initiate/device/factory_reset AfterAck the program of the factory reset ended with exit status 1",
        "mgmt/initiate/device/reboot Handle Refused(409)",
        "mgmt/initiate/device/reboot Handle Refused(500)",
        "mgmt/initiate/device/reboot Recover Judged(Done)",
        "mgmt/initiate/device/reboot Recover Judged(RunAgain)",
    ] {
        assert!(seen.contains_key(expected), "never seen: {expected}; {seen:#?}");
    }
}

fn broken(histories: &Histories<House>, law: &str) {
    let violation = histories.find(0..4 * SEEDS).unwrap_or_else(|| panic!("not broken: {law}"));
    assert!(violation.law == law && violation.steps.len() <= 12, "{violation}");
}

/// A reset that takes any restart for its own end.
#[test]
fn a_reset_that_takes_a_power_cut_for_its_end_is_found() {
    use iotdm_core::{Accepted, Context, Empty, Failure, Handler, Performed, Refusal};
    struct Credulous(FactoryResets);
    impl Handler<FactoryReset> for Credulous {
        async fn handle(&self, cx: &Context, request: &Empty) -> Result<Accepted, Refusal> {
            self.0.handle(cx, request).await
        }
        async fn after_ack(&self, cx: &Context, request: &Empty) -> Result<Performed, Failure> {
            self.0.after_ack(cx, request).await
        }
        async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
            if cx.rebooted() { Recovery::Done } else { Recovery::RunAgain }
        }
    }
    let product = |house: &House, builder: Builder| {
        let wipe = Wipe::new([house.data.path().canonicalize().expect("the folder is there")], &[]);
        let reset = FactoryResets::wiping(wipe.expect("a temporary folder may be wiped"));
        let reset = reset.then(vec!["/usr/bin/defaults".into()], Duration::from_secs(120));
        builder.on::<FactoryReset>(Credulous(reset))
    };
    let histories = Histories::of(House::new, product)
        .request(1, FactoryReset::ROUTE, Value::Null)
        .law("a reset that is done was carried out", |record, _| done_is_true(record));
    broken(&histories, "a reset that is done was carried out");
}

/// [`Restarts`] has no rules.
#[test]
fn a_loop_of_restarts_without_a_limit_is_found() {
    let product = |_: &House, builder: Builder| builder.with(Restarts);
    let histories = Histories::of(House::new, product)
        .request(1, Route::Reboot, Value::Null)
        .law("no loop of restarts", |record, _| limited(record));
    broken(&histories, "no loop of restarts");
}
