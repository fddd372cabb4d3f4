//! What must hold for firmware and scripts (`docs/protocol.md` §6.3).

use std::collections::{BTreeMap, BTreeSet};

use iotdm_agent::testing::histories::{Event, Part, Record, Work};
use iotdm_core::{Route, UpRoute};
use serde_json::Value;

type Law = fn(&Record) -> Result<(), String>;

pub(super) const ALL: &[(&str, Law)] = &[
    ("no image is installed that is not the one that was proved", only_the_proved_image),
    ("no request installs twice", one_installation_each),
    ("a script runs once", one_run_each),
    ("mgmt.firmware moves as the protocol has it", legal_moves),
    ("an update restarts once into what it installed", one_restart_each_way),
    ("success is reported only of what was installed and is healthy", success_is_true),
    ("the platform hears how an update ended", an_update_ends),
    ("an observation survives", an_observation_survives),
];

/// The value of `mgmt.firmware` that a line of the record tells.
pub(super) fn firmware(note: &str) -> Option<Value> {
    serde_json::from_str(note.strip_prefix("firmware: ")?).ok()
}

fn only_the_proved_image(record: &Record) -> Result<(), String> {
    match record.notes().find(|note| note.contains("another image")) {
        Some(note) => Err(note.to_owned()),
        None => Ok(()),
    }
}

fn one_installation_each(record: &Record) -> Result<(), String> {
    let mut updating: Option<&Work> = None;
    let mut installed: BTreeSet<&str> = BTreeSet::new();
    for event in record.events() {
        match event {
            Event::Damaged => installed.clear(),
            Event::Started(work) if work.route == Route::FirmwareUpdate && work.part == Part::AfterAck => {
                updating = Some(work);
            }
            Event::Note(note) if note.starts_with("install begins") => {
                let work = updating.ok_or("an installation without a request")?;
                if !installed.insert(&work.req_id) {
                    return Err(format!("{work} installs again"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn one_run_each(record: &Record) -> Result<(), String> {
    let mut run: BTreeSet<&str> = BTreeSet::new();
    for event in record.events() {
        match event {
            Event::Damaged => run.clear(),
            Event::Note(note) if note.starts_with("dim: ") && !run.insert(note) => {
                return Err(format!("{note} ran again"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// `state` and `updateStatus`.
fn place(firmware: &Value) -> (u64, u64) {
    (firmware["state"].as_u64().unwrap_or(9), firmware["updateStatus"].as_u64().unwrap_or(9))
}

fn legal_moves(record: &Record) -> Result<(), String> {
    // `updated`: whether the platform may have changed the attribute since.
    let (mut last, mut updated) = ((0, 0), false);
    for event in record.events() {
        match event {
            Event::Damaged => last = (0, 0),
            Event::Delivered(asked) => updated |= asked.route == Route::DeviceUpdate,
            Event::Note(note) => {
                let Some(next) = firmware(note).map(|firmware| place(&firmware)) else { continue };
                let other = std::mem::take(&mut updated);
                let legal = match (last, next) {
                    // The platform describes another image: what is here is of no use.
                    (_, (0, 0)) if other => true,
                    // Another member changed.
                    _ if last == next => true,
                    // A download begins: from 0, or where nobody downloads and no image is here any more.
                    (_, (1, 0)) => true,
                    ((1, 0), (2, 0)) | ((2, 0), (2, 1)) | ((2, 1), (0, 0)) => true,
                    // A download failed; also one that was given up before it changed the state.
                    ((0 | 1, _), (0, 2 | 3 | 4 | 6)) => true,
                    // An update failed.
                    ((2, _), (0, 2 | 5)) => true,
                    _ => false,
                };
                if !legal {
                    return Err(format!("from {last:?} to {next:?}"));
                }
                last = next;
            }
            _ => {}
        }
    }
    Ok(())
}

fn success_is_true(record: &Record) -> Result<(), String> {
    let (mut last, mut installed, mut healthy) = ((0, 0), 0, 0);
    for event in record.events() {
        match event {
            Event::Damaged => last = (0, 0),
            Event::Note(note) => {
                installed += i32::from(note.starts_with("installed"));
                healthy += i32::from(note.starts_with("healthy"));
                let Some(next) = firmware(note).map(|firmware| place(&firmware)) else { continue };
                if (last, next) == ((2, 1), (0, 0)) {
                    if installed == 0 || healthy == 0 {
                        return Err("there was no installation, or nothing was healthy".into());
                    }
                    (installed, healthy) = (0, 0);
                }
                last = next;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Once into what was installed, and once into what ran before, which a roll-back has made ready.
pub(super) fn one_restart_each_way(record: &Record) -> Result<(), String> {
    let (mut boot, mut restarted) = (1, BTreeMap::<&str, u64>::new());
    for event in record.events() {
        match event {
            Event::Damaged => restarted.clear(),
            Event::Boot(number) => boot = *number,
            Event::Note(note) if note == "roll-back begins" => restarted.clear(),
            Event::Restart { by: Some(work), begun: true, .. } if work.route == Route::FirmwareUpdate => {
                let earlier = restarted.insert(&work.req_id, boot);
                if earlier.is_some_and(|earlier| earlier != boot) {
                    return Err(format!("{work} restarts the machine again"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Unless a request used up its attempts, nothing is left in the middle of an installation.
fn an_update_ends(record: &Record) -> Result<(), String> {
    let mut last = (0, 0);
    let mut starts: BTreeMap<&str, u32> = BTreeMap::new();
    for event in record.events() {
        match event {
            Event::Damaged => {
                last = (0, 0);
                starts.clear();
            }
            Event::Started(work) if work.route == Route::FirmwareUpdate && work.part != Part::Handle => {
                *starts.entry(&work.req_id).or_default() += 1;
            }
            Event::Note(note) => last = firmware(note).map_or(last, |firmware| place(&firmware)),
            _ => {}
        }
    }
    let attempts = record.policies()[&Route::FirmwareUpdate].attempts;
    if last == (2, 1) && starts.values().all(|starts| *starts <= attempts) {
        return Err("it is left in the middle of an installation".into());
    }
    Ok(())
}

/// Who observes has seen the last value.
fn an_observation_survives(record: &Record) -> Result<(), String> {
    // A reqId may be used for a second request: a cancel may then be what was answered.
    let mut cancels: BTreeSet<&str> = BTreeSet::new();
    let mut answered: BTreeSet<String> = BTreeSet::new();
    let (mut observed, mut current) = (None::<Value>, Value::Null);
    for event in record.events() {
        match event {
            Event::Damaged => {
                observed = None;
                answered.clear();
            }
            Event::Sent(asked) if asked.route == Route::Cancel => drop(cancels.insert(&asked.req_id)),
            Event::Note(note) => current = firmware(note).unwrap_or(current),
            Event::Published(message) if message.route == Some(UpRoute::Notify) && observed.is_some() => {
                observed = Some(message.body["d"]["fields"][0]["value"].clone());
            }
            Event::Published(message) if message.route == Some(UpRoute::Response) => {
                let req_id = message.body["reqId"].to_string();
                if message.body["rc"] != 200 || !answered.insert(req_id.clone()) {
                    continue;
                }
                let field = &message.body["d"]["fields"][0];
                if field["field"] == "mgmt.firmware" {
                    observed = Some(field["value"].clone());
                } else if cancels.contains(req_id.as_str()) {
                    observed = None;
                }
            }
            _ => {}
        }
    }
    match observed {
        Some(seen) if seen != current => Err(format!("the platform last saw {seen}, and it is {current}")),
        _ => Ok(()),
    }
}
