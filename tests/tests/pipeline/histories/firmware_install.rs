//! Random histories of updates over restarts: the reference firmware handlers with a file that is swapped, and with two
//! slots and a boot loader that falls back. The power goes, or the process dies, at any moment of them.

mod station;

use std::collections::{BTreeMap, BTreeSet};

use iotdm_agent::testing::histories::{Event, Histories, Outcome, Part, Record, Work};
use iotdm_core::{Action, Download, Performed, Reboot, Recovery, Route, Update};
use iotdm_handlers::firmware::InstallOptions;
use serde_json::{Value, json};

use super::laws::{firmware, one_restart_each_way};
use super::unit::describe;
use station::{Kind, Station};

/// `IOTDM_SEEDS=n` runs so many.
const SEEDS: u64 = 60;

/// What an update may be installed in all (`docs/handlers/firmware-install.md`).
const MOST_INSTALLATIONS: u32 = 3;

fn histories(kind: Kind) -> Histories<Station> {
    with(kind, |_| {})
}

fn with(kind: Kind, worse: fn(&mut InstallOptions)) -> Histories<Station> {
    let attribute = json!({"fields": [{"field": "mgmt.firmware"}]});
    Histories::of(
        move |machine| Station::new(machine, kind),
        move |station, builder| station.register(builder, worse),
    )
    .beside(Station::beside)
    .request(2, Route::DeviceUpdate, describe("2.0", "2.0"))
    .request(2, Route::DeviceUpdate, describe("3.0", "3.0"))
    .request(2, Route::Observe, attribute)
    .request(6, Download::ROUTE, Value::Null)
    .request(8, Update::ROUTE, Value::Null)
    .request(1, Reboot::ROUTE, Value::Null)
    .law("what runs is whole", |record, _| whole(record))
    .law("an image is installed three times at the most", |record, _| few_installations(record))
    .law("nothing is rolled back after its commit", |record, _| commits_stay(record))
    .law("an update restarts once each way", |record, _| one_restart_each_way(record))
    .law("the platform is told what runs", |record, _| ends_are_true(record))
    .law("nothing is under way at rest", nothing_under_way)
}

fn whole(record: &Record) -> Result<(), String> {
    match record.notes().find(|note| note.ends_with(station::TORN)) {
        Some(note) => Err(note.to_owned()),
        None => Ok(()),
    }
}

/// The update at work, where one is.
fn updating(event: &Event) -> Option<&Work> {
    match event {
        Event::Started(work) if work.route == Route::FirmwareUpdate && work.part != Part::Handle => {
            Some(work)
        }
        _ => None,
    }
}

fn few_installations(record: &Record) -> Result<(), String> {
    let (mut work, mut installations) = (None, BTreeMap::<&str, u32>::new());
    for event in record.events() {
        work = updating(event).or(work);
        match event {
            Event::Damaged => installations.clear(),
            Event::Note(note) if note.starts_with("install begins") => {
                let work = work.ok_or("an installation without a request")?;
                let count = installations.entry(&work.req_id).or_default();
                *count += 1;
                if *count > MOST_INSTALLATIONS {
                    return Err(format!("{work} installs the {count}th time"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn commits_stay(record: &Record) -> Result<(), String> {
    let (mut work, mut committed) = (None, None::<&str>);
    for event in record.events() {
        work = updating(event).or(work);
        match event {
            Event::Damaged => committed = None,
            Event::Note(note) if note == "committed" => committed = work.map(|work| work.req_id.as_str()),
            Event::Note(note) if note == "roll-back begins" => {
                let work = work.ok_or("a roll-back without a request")?;
                if committed == Some(work.req_id.as_str()) {
                    return Err(format!("{work} was committed, and is rolled back"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// How a part of an update that is over ended; `None` while something of it is still to come.
fn end(event: &Event) -> Option<Result<(), &str>> {
    match event {
        Event::Returned(work, _) if work.route != Route::FirmwareUpdate => None,
        Event::Returned(_, Outcome::Performed(Performed::Complete) | Outcome::Judged(Recovery::Done)) => {
            Some(Ok(()))
        }
        Event::Returned(_, Outcome::Failed(why))
            if !why.contains("interrupted") || why.contains(" times") || why.contains("repeated") =>
        {
            Some(Err(why))
        }
        // The agent ended it; its handler hears of that with the next update.
        event if event.to_string().contains(&format!("failed: {NO_RESTART}")) => Some(Err(NO_RESTART)),
        _ => None,
    }
}

const NO_RESTART: &str = "the restart did not come";

/// After a success what was installed runs, and says so in `fwVersion`; after a failure what ran before does, unless the
/// reason says otherwise.
fn ends_are_true(record: &Record) -> Result<(), String> {
    // More than one may be gone back to where the restart of an earlier update never came.
    let (mut runs, mut before, mut installed) = ("", BTreeSet::new(), None);
    for event in record.events() {
        if let Event::Note(note) = event {
            if let Some(version) = note.strip_prefix("runs: ") {
                runs = version;
            } else if let Some(version) = note.strip_prefix("install begins: ") {
                if installed.is_none() {
                    before.insert(runs);
                }
                installed = Some(version);
            }
        }
        if *event == Event::Damaged {
            (before, installed) = (BTreeSet::new(), None);
        }
        match (end(event), installed) {
            (Some(Ok(())), Some(installed)) if runs != installed => {
                return Err(format!("{installed} was successful, and {runs} runs"));
            }
            (Some(Err(NO_RESTART)), _) => installed = None,
            (Some(Err(why)), Some(_)) if !before.contains(runs) && !is_honest(why) => {
                return Err(format!("{why}: but {runs} runs, and {before:?} did before"));
            }
            (Some(_), _) => (before, installed) = (BTreeSet::new(), None),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a reason admits that what ran before does not run.
fn is_honest(why: &str) -> bool {
    let admissions = [
        "not in use",
        "still runs",
        "roll-back failed",
        "roll-back was interrupted",
        "no way back",
        NO_RESTART,
    ];
    admissions.iter().any(|admission| why.contains(admission))
}

/// Of an update that has ended nothing is left, neither in the attribute nor beside the file.
fn nothing_under_way(record: &Record, station: &Station) -> Result<(), String> {
    let (mut state, mut ended, mut forgotten) = (Value::Null, true, false);
    for event in record.events() {
        match event {
            // What the journal knew of it is gone.
            Event::Damaged => {
                // An installation that nobody remembers leaves the old file, until the next one has been kept.
                forgotten |= !ended;
                ended = false;
            }
            Event::Note(note) if note.starts_with("install begins") => ended = false,
            Event::Note(note) => state = firmware(note).unwrap_or(state),
            event => {
                let end = end(event);
                ended |= end.is_some();
                // The only way back is kept where it was not gone to its end, and until the next update where the
                // restart that would have shown what was installed never came.
                forgotten |= matches!(end, Some(Err(why)) if is_honest(why));
            }
        }
    }
    match (ended, state["state"] == 2 && state["updateStatus"] == 1, station.leftovers()) {
        (true, true, _) => Err(format!("it is left at {state}")),
        (true, false, left) if !left.is_empty() && !forgotten => Err(format!("left behind: {left:?}")),
        _ => Ok(()),
    }
}

#[test]
fn updates_that_swap_a_file_keep_the_laws() {
    histories(Kind::File).check(SEEDS);
}

#[test]
fn updates_of_two_slots_keep_the_laws() {
    histories(Kind::Slots).check(SEEDS);
}

/// Laws that hold because nothing is ever installed prove nothing.
#[test]
fn the_histories_of_updates_are_eventful() {
    for kind in [Kind::File, Kind::Slots] {
        let histories = histories(kind);
        let mut seen = BTreeMap::<String, usize>::new();
        for seed in 0..2 * SEEDS {
            for event in histories.record(seed).events() {
                match event {
                    Event::Note(note) if !note.starts_with("firmware") => {
                        *seen.entry(note.clone()).or_default() += 1;
                    }
                    Event::Returned(work, outcome) if work.route == Route::FirmwareUpdate => {
                        *seen.entry(format!("{:?} {outcome:?}", work.part)).or_default() += 1;
                    }
                    _ => {}
                }
            }
        }
        for expected in [
            "install begins: 2.0",
            "installed: 3.0",
            "the power goes in the middle of an installation",
            "the process dies in the middle of an installation",
            "the power goes after an installation",
            "the power goes after a commit",
            "healthy",
            "not healthy",
            "committed",
            "roll-back begins",
            "runs: 2.0",
            "AfterAck Performed(Complete)",
            "Recover Judged(Done)",
        ] {
            assert!(seen.contains_key(expected), "{kind:?}: never seen: {expected}; {seen:#?}");
        }
    }
}

/// The law that is broken first, among so many seeds.
fn broken(histories: &Histories<Station>, law: &str) {
    let violation = histories.find(0..4 * SEEDS).unwrap_or_else(|| panic!("not broken: {law}"));
    assert!(violation.law == law && violation.steps.len() <= 12, "{violation}");
}

/// An installer that writes over the file in its place.
#[test]
fn a_file_that_is_written_in_its_place_is_found() {
    broken(&histories(Kind::Overwritten), "what runs is whole");
}

/// An installer that says that it has rolled back.
#[test]
fn a_roll_back_that_is_none_is_found() {
    broken(&histories(Kind::NeverBack), "the platform is told what runs");
}
