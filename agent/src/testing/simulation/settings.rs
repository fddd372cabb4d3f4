//! The device of the simulation: what it offers, and within which bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use iotdm_core::{Acknowledge, BootId, Interrupted, Late, Manage, Phases, Policy, Route, Subject, Supports};
use serde_json::json;

use crate::config::{DropPolicy, EventLimits, Limits};
use crate::engine::{AttributeRules, Settings, Threshold};

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) fn minutes(minutes: u64) -> Duration {
    secs(minutes * 60)
}

pub(crate) fn policy(phases: Phases, interrupted: Interrupted) -> Policy {
    Policy {
        phases,
        budget: secs(30),
        perform_budget: minutes(30),
        late: Late::Run,
        interrupted,
        attempts: 3,
        acknowledge: Acknowledge::Durable,
    }
}

/// How long a dead connection may go unnoticed.
pub(crate) const UNNOTICED: Duration = Duration::from_secs(120);

/// What the device offers.
pub(crate) fn settings() -> Settings {
    let refuse = |phases| policy(phases, Interrupted::Refuse);
    let lamp = |action: &'static str| Route::custom("lamp", action);
    let fresh = Policy { late: Late::RefuseAfter(FRESH_FOR), ..refuse(Phases::WorkThenAnswer) };
    let policies = BTreeMap::from([
        (Route::Reboot, refuse(Phases::AnswerThenWork)),
        (Route::FactoryReset, refuse(Phases::AnswerThenWork)),
        (Route::FirmwareDownload, refuse(Phases::AnswerThenWork)),
        (Route::FirmwareUpdate, refuse(Phases::AnswerThenWork)),
        (lamp("once"), refuse(Phases::WorkThenAnswer)),
        (lamp("again"), policy(Phases::WorkThenAnswer, Interrupted::RunAgain)),
        (lamp("after"), refuse(Phases::AnswerThenWork)),
        (lamp("late"), Policy { late: Late::RefuseAfter(FRESH_FOR), ..refuse(Phases::AnswerThenWork) }),
        (lamp("fresh"), fresh),
        (Route::command("once", "json"), refuse(Phases::WorkThenAnswer)),
        (Route::command("again", "json"), policy(Phases::WorkThenAnswer, Interrupted::RunAgain)),
        (Route::command("fresh", "+"), fresh),
        (
            Route::command("held", "json"),
            Policy {
                acknowledge: Acknowledge::Handled,
                ..policy(Phases::WorkThenAnswer, Interrupted::RunAgain)
            },
        ),
    ]);
    let supports = Supports {
        device_actions: true,
        firmware_actions: true,
        bundles: BTreeMap::from([("lamp".into(), true)]),
    };
    Settings {
        subject: Subject::Connected,
        gateway: None,
        policies,
        manage: Manage { lifetime: 0, supports, ..Manage::default() },
        configured: vec![
            ("deviceInfo".into(), json!({"model": "m"})),
            ("metadata".into(), json!({})),
            ("mgmt.firmware".into(), json!({"state": 0, "updateStatus": 0})),
            ("level".into(), json!(1)),
        ],
        attributes: AttributeRules::default(),
        limits: Limits { events: EVENTS, ..Limits::default() },
        unnoticed: UNNOTICED,
        events_only: false,
        boot: BootId("boot-1".into()),
        seed: 0,
    }
}

/// The store of events, small enough to be filled by a burst or two.
const EVENTS: EventLimits = EventLimits { bytes: 300 * 1024, count: 64, policy: DropPolicy::Oldest };

/// When a change of `level` is notified, in lives that have it.
pub(crate) fn threshold() -> Threshold {
    Threshold::new().min_change(LEVEL_LEAST as f64).min_interval(LEVEL_INTERVAL)
}

/// The least change of `level` that is notified, and the least time between two notifications.
pub(crate) const LEVEL_LEAST: i64 = 2;
pub(crate) const LEVEL_INTERVAL: Duration = Duration::from_secs(30);

/// How old a request for `lamp/fresh` and `lamp/late` may be.
pub(crate) const FRESH_FOR: Duration = Duration::from_secs(15 * 60);
