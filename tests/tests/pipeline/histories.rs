//! Random histories of the reference handlers: real firmware, restart, script and diagnostics handlers in the whole agent.
//! The hardware below them is a model: a server that breaks, an installer, two slots, programs.

mod diagnostics;
mod firmware_install;
mod laws;
mod resets;
mod scripts;
mod unit;

use std::sync::Arc;

use iotdm_agent::testing::histories::{Event, Histories};
use iotdm_core::{Action, Download, FactoryReset, Reboot, Route, Update};
use iotdm_handlers::diagnostics::ClearErrorCodes;
use iotdm_handlers::firmware::{CommandInstaller, FirmwareOptions, InstallOptions, Verification};
use serde_json::{Value, json};

use unit::{Unit, describe};

/// `IOTDM_SEEDS=n` runs so many.
const SEEDS: u64 = 150;

fn histories() -> Histories<Unit> {
    with(|_| {})
}

fn with(worse: fn(&mut FirmwareOptions)) -> Histories<Unit> {
    let firmware = json!({"fields": [{"field": "mgmt.firmware"}]});
    let dim = json!({"fields": [{"field": "percent", "value": "40"}]});
    let mut histories = Histories::of(Unit::new, move |unit, builder| unit.register(builder, worse))
        .beside(Unit::beside)
        .request(3, Route::DeviceUpdate, describe("2.0", "2.0"))
        .request(2, Route::DeviceUpdate, describe("3.0", "3.0"))
        .request(1, Route::DeviceUpdate, describe("2.0", "3.0"))
        .request(4, Route::Observe, firmware.clone())
        .request(1, Route::Cancel, firmware)
        .request(8, Download::ROUTE, Value::Null)
        .request(8, Update::ROUTE, Value::Null)
        .request(3, Route::custom("lamp", "dim"), dim)
        .request(2, Reboot::ROUTE, Value::Null)
        .request(1, FactoryReset::ROUTE, Value::Null)
        .request(1, ClearErrorCodes::ROUTE, Value::Null);
    for (name, law) in laws::ALL {
        histories = histories.law(*name, |record, _| law(record));
    }
    histories
}

#[test]
fn the_reference_handlers_keep_the_laws() {
    histories().check(SEEDS);
}

/// Laws that hold because nothing is ever installed prove nothing.
#[test]
fn the_histories_of_the_reference_handlers_are_eventful() {
    let histories = histories();
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for seed in 0..SEEDS {
        for event in histories.record(seed).events() {
            match event {
                Event::Note(note) => {
                    let kind = note.split(['{', ':']).next().unwrap_or_default().trim();
                    *seen.entry(kind.to_owned()).or_default() += 1;
                    if let Some(firmware) = laws::firmware(note) {
                        *seen
                            .entry(format!("{} {}", firmware["state"], firmware["updateStatus"]))
                            .or_default() += 1;
                    }
                }
                Event::Returned(work, outcome) => {
                    *seen.entry(format!("{} {:?} {outcome:?}", work.route, work.part)).or_default() += 1;
                }
                _ => {}
            }
        }
    }
    for expected in [
        "1 0",
        "2 0",
        "2 1",
        "0 3",
        "0 4",
        "0 5",
        "0 6",
        "install begins",
        "installed",
        "healthy",
        "not healthy",
        "the power goes while an image is fetched",
        "the process dies while an image is fetched",
        "mgmt/initiate/firmware/update Recover Judged(Done)",
        "mgmt/initiate/firmware/update Recover Judged(Resume)",
        "mgmt/initiate/firmware/download Recover Judged(RunAgain)",
    ] {
        assert!(seen.contains_key(expected), "never seen: {expected}; {seen:#?}");
    }
}

/// The law that is broken first, among so many seeds.
fn broken(histories: &Histories<Unit>, law: &str) {
    let violation = histories.find(0..4 * SEEDS).unwrap_or_else(|| panic!("not broken: {law}"));
    assert!(violation.law == law && violation.steps.len() <= 12, "{violation}");
}

fn install(options: &mut FirmwareOptions) -> &mut InstallOptions {
    options.install.as_mut().expect("the unit installs")
}

#[test]
fn an_installation_that_is_wrongly_called_repeatable_is_found() {
    let repeatable = |options: &mut FirmwareOptions| {
        let installer = CommandInstaller::new(["/usr/bin/install", "{image}", "{version}"]);
        install(options).installer =
            Arc::new(CommandInstaller { restart: true, repeatable: true, ..installer });
    };
    broken(&with(repeatable), "no request installs twice");
}

#[test]
fn a_success_without_a_look_at_what_runs_is_found() {
    let law = "success is reported only of what was installed and is healthy";
    broken(&with(|options| install(options).health_check = None), law);
}

/// Without a verifier nothing shows that the server sent another image.
#[test]
fn an_image_that_nobody_proved_is_found() {
    let mut unproved = describe("2.0", "2.0");
    unproved["fields"][0]["value"]["verifier"] = "".into();
    let histories = with(|options| options.verification = Verification::IfGiven).request(
        20,
        Route::DeviceUpdate,
        unproved,
    );
    broken(&histories, "no image is installed that is not the one that was proved");
}

#[test]
fn the_same_seed_is_the_same_history_of_the_reference_handlers() {
    for seed in 0..30 {
        assert_eq!(histories().record(seed).to_string(), histories().record(seed).to_string(), "seed {seed}");
    }
}
