//! A device with small bounds.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use iotdm_agent::engine::{AttributeRules, Settings};
use iotdm_agent::{EventLimits, Limits};
use iotdm_core::{Acknowledge, BootId, Interrupted, Late, Manage, Phases, Policy, Route, Subject, Supports};
use serde_json::json;

pub(super) static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let policy = |phases, interrupted, late| Policy {
        phases,
        budget: Duration::from_secs(30),
        perform_budget: Duration::from_secs(30 * 60),
        late,
        interrupted,
        attempts: 3,
        acknowledge: Acknowledge::Durable,
    };
    let refuse = |phases| policy(phases, Interrupted::Refuse, Late::Run);
    let lamp = |action: &'static str| Route::custom("lamp", action);
    let quarter = Late::RefuseAfter(Duration::from_secs(15 * 60));
    Settings {
        subject: Subject::Connected,
        gateway: None,
        policies: BTreeMap::from([
            (Route::Reboot, refuse(Phases::AnswerThenWork)),
            (Route::FactoryReset, policy(Phases::AnswerThenWork, Interrupted::Refuse, quarter)),
            (Route::FirmwareDownload, refuse(Phases::AnswerThenWork)),
            (Route::FirmwareUpdate, refuse(Phases::AnswerThenWork)),
            (lamp("once"), refuse(Phases::WorkThenAnswer)),
            (lamp("again"), policy(Phases::WorkThenAnswer, Interrupted::RunAgain, Late::Run)),
            (lamp("after"), refuse(Phases::AnswerThenWork)),
            (lamp("fresh"), policy(Phases::WorkThenAnswer, Interrupted::Refuse, quarter)),
        ]),
        manage: Manage { lifetime: 3600, supports: Supports::default(), ..Manage::default() },
        configured: vec![("deviceInfo".into(), json!({"model": "m"})), ("level".into(), json!(1))],
        attributes: AttributeRules::default(),
        limits: LIMITS,
        unnoticed: Duration::from_secs(120),
        events_only: false,
        boot: BootId("boot-1".into()),
        seed: 0,
    }
});

/// Small, so that short histories come to them.
const LIMITS: Limits = Limits {
    running: 2,
    pending: 4,
    kept_executed: 6,
    kept_refused: 2,
    kept_bytes: 12_000,
    outbox: 4,
    shutdown_grace: Duration::from_secs(10),
    events: EventLimits::DEFAULT,
};

/// What waits, what is kept for replays, and answers that wait to be sent: at their bound requests are still finished.
pub(super) const MAX_KEPT: usize =
    2 * LIMITS.pending + LIMITS.kept_executed + LIMITS.kept_refused + LIMITS.outbox;

/// The places, the one lane, and after a crash a judgement of each request that was under way; what overran keeps its task,
/// and gives up its place when that has ended.
pub(super) const MAX_RUNNING: usize = LIMITS.running + 1 + LIMITS.pending;
