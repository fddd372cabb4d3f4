//! Random lives of a device whose operator changes its scripts all the time, while it runs and while it does not.
//!
//! The harness watches handlers that are there at the start; of those that come later the programs themselves write down
//! what they did, and the laws here are judged by that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use iotdm_agent::Device;
use iotdm_agent::testing::histories::{Event, Histories, Machine, Record};
use iotdm_core::{Action, ChildExit, ChildOutput, Interrupted, Reboot, Route};
use iotdm_handlers::{Restarts, ScriptSpec, Scripts};
use serde_json::Value;
use tokio::time::sleep;

/// `IOTDM_SEEDS=n` runs so many.
const SEEDS: u64 = 60;

/// What an action has unless it says otherwise.
const ATTEMPTS: u32 = 3;

const ONCE: Route = Route::custom("tool", "once");
const AGAIN: Route = Route::custom("tool", "again");
const SOMETIMES: Route = Route::custom("shed", "sometimes");

/// What the operator has declared: all, or not all.
fn declared(once: Interrupted, with_again: bool, with_sometimes: bool) -> Scripts {
    let mut scripts =
        Scripts::new().add(ScriptSpec { interrupted: once, ..ScriptSpec::new("tool", "once", "/once") });
    if with_again {
        let again = ScriptSpec::new("tool", "again", "/again");
        scripts = scripts.add(ScriptSpec { interrupted: Interrupted::RunAgain, ..again });
    }
    if with_sometimes {
        scripts = scripts.add(ScriptSpec::new("shed", "sometimes", "/sometimes"));
    }
    scripts
}

fn workshop(machine: &Machine) -> Machine {
    let hardware = machine.clone();
    machine.programs(move |child| {
        let machine = hardware.clone();
        async move {
            let input: Value = serde_json::from_slice(&child.stdin).expect("a script gets JSON");
            let req_id = input["reqId"].to_string();
            machine.note(format!("run {} {req_id}", child.program.display()));
            sleep(Duration::from_secs(machine.draw(20))).await;
            let status = if machine.draw(5) == 4 { 75 } else { 0 };
            machine.note(format!("end {} {req_id}", child.program.display()));
            Ok(ChildOutput {
                exit: ChildExit::Status(status),
                stdout: Vec::new(),
                stderr: Vec::new(),
                truncated: false,
            })
        }
    });
    machine.clone()
}

/// The operator, for as long as this process lives.
async fn operate(machine: Machine, device: Device, once: Interrupted) {
    loop {
        sleep(Duration::from_secs(5 + machine.draw(3600))).await;
        let (with_again, with_sometimes) = (machine.draw(2) == 0, machine.draw(2) == 0);
        if device.replace(declared(once, with_again, with_sometimes)).await.is_err() {
            return;
        }
        machine.note(format!("replaced: again {with_again}, sometimes {with_sometimes}"));
    }
}

fn histories() -> Histories<Machine> {
    with(Interrupted::Refuse)
}

fn with(once: Interrupted) -> Histories<Machine> {
    Histories::of(workshop, move |_, builder| builder.replaceable(declared(once, true, true)).with(Restarts))
        .beside(move |machine, device| operate(machine.clone(), device, once))
        .request(6, ONCE, Value::Null)
        .request(6, AGAIN, Value::Null)
        .request(4, SOMETIMES, Value::Null)
        .request(1, Reboot::ROUTE, Value::Null)
        .law("a script that may not be repeated runs once", |record, _| one_run_each(record))
        .law("no script begins more often than it has attempts", |record, _| within_its_attempts(record))
}

fn runs(record: &Record) -> impl Iterator<Item = (&str, &str, &str)> {
    record.notes().filter_map(|note| {
        let mut words = note.split(' ');
        Some((words.next()?, words.next()?, words.next()?))
    })
}

fn one_run_each(record: &Record) -> Result<(), String> {
    let mut run = BTreeSet::new();
    for event in record.events() {
        match event {
            // The memory of it was lost, and that was told.
            Event::Damaged => run.clear(),
            Event::Note(note)
                if note.starts_with("run ") && !note.starts_with("run /again") && !run.insert(note) =>
            {
                return Err(format!("{note}, and not for the first time"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whatever is declared meanwhile.
fn within_its_attempts(record: &Record) -> Result<(), String> {
    if record.events().any(|event| matches!(event, Event::Damaged)) {
        return Ok(());
    }
    let mut starts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for (what, program, req_id) in runs(record) {
        if what == "run" {
            let count = starts.entry((program, req_id)).or_default();
            *count += 1;
            if *count > ATTEMPTS {
                return Err(format!("{program} of {req_id} began {count} times"));
            }
        }
    }
    Ok(())
}

#[test]
fn scripts_that_change_all_the_time_keep_the_laws() {
    histories().check(SEEDS);
}

#[test]
fn the_histories_of_changing_scripts_are_eventful() {
    let (mut seen, mut codes) = (BTreeMap::<String, usize>::new(), BTreeMap::<u64, usize>::new());
    for seed in 0..SEEDS {
        let record = histories().record(seed);
        for note in record.notes() {
            let kind = note.split_once(' ').map_or(note, |(what, _)| what);
            *seen.entry(kind.to_owned()).or_default() += 1;
        }
        for event in record.events() {
            if let Event::Delivered(asked) = event {
                *codes.entry(record.answer(&asked.req_id).unwrap_or_default()).or_default() += 1;
            }
        }
    }
    for expected in ["run", "end", "replaced:"] {
        assert!(seen.get(expected).is_some_and(|count| *count > 100), "{expected}: {seen:?}");
    }
    for expected in [200, 409, 500, 501] {
        assert!(codes.contains_key(&expected), "no {expected}: {codes:?}");
    }
}

/// Laws that no life could break prove nothing.
#[test]
fn a_script_that_is_wrongly_declared_repeatable_is_found() {
    let violation = with(Interrupted::RunAgain).find(0..4 * SEEDS).expect("some life interrupts it");
    assert_eq!(violation.law, "a script that may not be repeated runs once", "{violation}");
}
