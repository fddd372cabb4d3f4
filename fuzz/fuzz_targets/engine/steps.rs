//! What can happen to an engine: by the driver's contract, and a little beyond it.

use std::sync::LazyLock;
use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::Bytes;
use iotdm_agent::engine::{Input, KeyHash, Lost, PublishId, TaskMoment, Ticket};
use iotdm_agent::store::CrashOutcome;
use iotdm_core::{
    Code, Decision, Failure, LogEntry, Performed, Phases, Recovery, Refusal, ReplyParts, Report, Severity,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::world::World;

/// One step of a history.
#[derive(Arbitrary, Debug)]
pub enum Step<'a> {
    /// Connected, subscribed, manage answered with 200, everything acknowledged.
    ComeUp {
        session_present: bool,
    },
    Connected {
        session_present: bool,
    },
    Subscribed {
        granted: bool,
    },
    Disconnected {
        credentials: bool,
    },
    /// A request of the platform, or one of its answers.
    Ask {
        route: u8,
        req_id: u8,
        body: u8,
        retained: bool,
    },
    /// Anything on any topic.
    Message {
        topic: &'a str,
        payload: &'a [u8],
        quality: bool,
        retained: bool,
    },
    /// The platform answers a request of the device.
    Answer {
        which: u8,
        rc: u16,
    },
    /// The broker acknowledges a publish that it has, all of them, or one that nobody made.
    Acknowledge(u8),
    AcknowledgeAll,
    AcknowledgeNothing(u64),
    /// The handler of a task that runs returns.
    Return {
        which: u8,
        how: u8,
    },
    /// A result that nobody waits for: of a task at another moment, or of none.
    Stray {
        req_id: u8,
        moment: u8,
        how: u8,
    },
    /// A task ends without a result.
    End(u8),
    Pass {
        seconds: u16,
        milliseconds: u16,
    },
    PassDays(u8),
    PassToDeadline,
    SetClock(u32),
    Crash,
    /// The process dies after so many further commits and effects.
    CrashAfter(u8),
    CommitFails {
        applied: bool,
    },
    PowerOff,
    SetAttribute {
        name: u8,
        value: u8,
        ticket: bool,
    },
    Report {
        kind: u8,
        ticket: bool,
    },
    WantManaged(bool),
    Stop,
}

impl Step<'_> {
    pub fn take(&self, world: &mut World) {
        match *self {
            Step::ComeUp { session_present } => world.come_up(session_present),
            Step::Connected { session_present } => world.connected(session_present),
            Step::Subscribed { granted } => world.subscribed(granted),
            Step::Disconnected { credentials } => {
                world.disconnected(if credentials { Lost::Credentials } else { Lost::Other });
            }
            Step::Ask { route, req_id, body, retained } => {
                let topic = TOPICS[usize::from(route) % TOPICS.len()];
                world.deliver(topic, payload(req_id, body), true, retained);
            }
            Step::Message { topic, payload, quality, retained } => {
                let topic = if topic.len() < 3 { "iotdm-1/observe" } else { topic };
                world.deliver(topic, Bytes::copy_from_slice(payload), quality, retained);
            }
            Step::Answer { which, rc } => {
                world.answer(which.into(), [200, 404, 409, 400, rc][usize::from(which % 5)])
            }
            Step::Acknowledge(which) => world.acknowledge(which.into()),
            Step::AcknowledgeAll => world.acknowledge_all(),
            Step::AcknowledgeNothing(id) => world.acknowledge_nothing(PublishId(id)),
            Step::Return { which, how } => {
                let Some(task) = world.running(which.into()) else { return };
                let input = result(task.key, task.moment, world.phases(&task), how);
                world.input(input);
                world.end(task.key);
            }
            Step::Stray { req_id, moment, how } => {
                let moment =
                    [TaskMoment::Handle, TaskMoment::AfterAck, TaskMoment::Recover][usize::from(moment % 3)];
                let key = World::key(&req_id_of(req_id));
                // One that runs, at this moment, would be no stray.
                if !world.runs(key, moment) {
                    world.input(result(key, moment, Phases::WorkThenAnswer, how));
                }
            }
            Step::End(which) => {
                if let Some(task) = world.running(which.into()) {
                    world.end(task.key);
                }
            }
            Step::Pass { seconds, milliseconds } => {
                world.pass(Duration::from_secs(seconds.into()) + Duration::from_millis(milliseconds.into()));
            }
            Step::PassDays(days) => world.pass(Duration::from_secs(86_400 * u64::from(days))),
            Step::PassToDeadline => world.pass_to_deadline(),
            Step::SetClock(seconds) => world.set_clock(Duration::from_secs(u64::from(seconds) * 2)),
            Step::Crash => world.crash(),
            Step::CrashAfter(points) => world.crash_after(u32::from(points % 8)),
            Step::CommitFails { applied } => world
                .disk()
                .crash_at_commit(1, if applied { CrashOutcome::Applied } else { CrashOutcome::NotApplied }),
            Step::PowerOff => world.power_off(),
            Step::SetAttribute { name, value, ticket } => {
                let name = FIELDS[usize::from(name) % FIELDS.len()].to_owned();
                let ticket = ticket.then_some(Ticket(value.into()));
                world.input(Input::SetAttributes(vec![(name, attribute(value))], ticket));
            }
            Step::Report { kind, ticket } => {
                world.input(Input::Report(report(kind), ticket.then_some(Ticket(kind.into()))));
            }
            Step::WantManaged(wanted) => world.input(Input::WantManaged(wanted)),
            Step::Stop => world.input(Input::Stop),
        }
    }
}

fn payload(req_id: u8, body: u8) -> Bytes {
    let mut message = json!({});
    match req_id {
        255 => {}
        254 => message["reqId"] = json!([1]),
        253 => message["reqId"] = json!("x".repeat(1100)),
        other => message["reqId"] = serde_json::from_str(&req_id_of(other)).expect("a reqId is JSON"),
    }
    let field = FIELDS[usize::from(body >> 4) % FIELDS.len()];
    match body % 8 {
        0 => {}
        1 => message["d"] = json!({"fields": [field]}),
        2 => message["d"] = json!({"fields": [{"field": field, "value": attribute(body)}]}),
        3 => message["d"] = json!({"data": [{"field": field}, FIELDS[0]]}),
        4 => message["d"] = json!(body),
        5 => {
            message["d"] =
                json!({"fields": [{"field": "", "value": null}, {"field": "x".repeat(300), "value": 1}]})
        }
        6 => message["d"] = json!({"fields": FIELDS}),
        _ => message["d"] = json!({"fields": [], "pad": "x".repeat(9000)}),
    }
    Bytes::from(message.to_string())
}

/// One of a few reqIds, so that they come again, and more than are kept: as JSON text.
fn req_id_of(which: u8) -> String {
    match which % 48 {
        7 => "7".into(),
        8 => "\"7\"".into(),
        9 => "-1.5e300".into(),
        number => format!("\"r{number}\""),
    }
}

fn attribute(value: u8) -> Value {
    match value {
        255 => json!("x".repeat(70_000)),
        254 => json!("x".repeat(110_000)),
        253 => json!({"latitude": 50.5, "longitude": "x"}),
        252 => json!({"uri": "http://h/i", "verifier": "", "state": 0, "updateStatus": 0}),
        other if other % 5 == 0 => json!({"a": [other, null, {"b": 1.5}]}),
        other => json!(other),
    }
}

fn report(kind: u8) -> Report {
    match kind % 5 {
        0 => Report::AddErrorCode(kind.into()),
        1 => Report::ClearErrorCodes,
        2 => Report::ClearLog,
        rest => Report::AddLog(LogEntry {
            message: "m".repeat(usize::from(kind)),
            timestamp: "2026-11-09T00:00:00.000Z".into(),
            data: (rest == 3).then(|| "x".repeat(if kind == 253 { 140_000 } else { 10 })),
            severity: Severity::Warning,
        }),
    }
}

fn result(key: KeyHash, moment: TaskMoment, phases: Phases, how: u8) -> Input {
    match moment {
        TaskMoment::Handle => Input::Decided(key, decision(phases, how)),
        TaskMoment::AfterAck => Input::Performed(
            key,
            match how % 3 {
                0 => Ok(Performed::Complete),
                1 => Ok(Performed::Restarting),
                _ => Err(Failure::new("x".repeat(usize::from(how) * 20))),
            },
        ),
        TaskMoment::Recover => Input::Recovered(
            key,
            [Recovery::Done, Recovery::Abandon, Recovery::RunAgain][usize::from(how % 3)],
        ),
    }
}

fn decision(phases: Phases, how: u8) -> Decision {
    match how {
        0..=7 => Decision::Refused(Refusal::busy("not now")),
        8..=15 => Decision::Refused(Refusal::failed("broken").log("in the log")),
        16..=23 => Decision::Undecodable(Refusal::bad_request("d: what is that?")),
        24 => Decision::Refused(Refusal::failed("y".repeat(140_000))),
        _ if phases == Phases::AnswerThenWork => {
            Decision::Replied(ReplyParts { rc: Code::ACCEPTED, d: None })
        }
        25 => Decision::Replied(ReplyParts { rc: Code::OK, d: Some(HUGE.clone()) }),
        26..=40 => Decision::Replied(ReplyParts { rc: Code::OK, d: Some(LONG.clone()) }),
        _ => Decision::Replied(ReplyParts { rc: Code::CHANGED, d: None }),
    }
}

fn text_of(bytes: usize) -> Box<RawValue> {
    RawValue::from_string(format!("\"{}\"", "z".repeat(bytes))).expect("it is JSON")
}

/// Longer than a payload may be.
static HUGE: LazyLock<Box<RawValue>> = LazyLock::new(|| text_of(140_000));

/// Longer than a value of the store, and enough of them are more than the kept answers may have.
static LONG: LazyLock<Box<RawValue>> = LazyLock::new(|| text_of(5000));

const FIELDS: [&str; 6] = ["level", "location", "mgmt.firmware", "metadata", "deviceInfo", "nothing"];

const TOPICS: [&str; 18] = [
    "iotdm-1/mgmt/initiate/device/reboot",
    "iotdm-1/mgmt/initiate/device/factory_reset",
    "iotdm-1/mgmt/initiate/firmware/download",
    "iotdm-1/mgmt/initiate/firmware/update",
    "iotdm-1/mgmt/custom/lamp/once",
    "iotdm-1/mgmt/custom/lamp/again",
    "iotdm-1/mgmt/custom/lamp/after",
    "iotdm-1/mgmt/custom/lamp/fresh",
    "iotdm-1/mgmt/custom/lamp/once",
    "iotdm-1/mgmt/custom/lamp/again",
    "iotdm-1/observe",
    "iotdm-1/cancel",
    "iotdm-1/device/update",
    "iotdm-1/response",
    "iotdm-1/mgmt/custom/lamp/unknown",
    "iotdm-1/what/is/that",
    "iotdm-1/type/T/id/d/mgmt/initiate/device/reboot",
    "other/topic",
];
