use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iotdm_core::{ReqId, Route, Subject};
use serde_json::value::RawValue;

use crate::journal::{AnswerRecord, DoneRequest, OpenRequest, StageRecord};

use super::answers::{Answer, Body};
use super::command::Handled;
use super::key::Fingerprint;
use super::time::{Age, Moment};

/// A request that is not finished.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) subject: Subject,
    pub(super) req_id: ReqId,
    pub(super) route: Route,
    pub(super) d: Option<Arc<RawValue>>,
    pub(super) fingerprint: Fingerprint,
    pub(super) sequence: u64,
    /// Which start of the work is under way or next, from 1.
    pub(super) attempt: u32,
    pub(super) arrived: Moment,
    /// How old it may have been when it arrived.
    pub(super) age: Age,
    /// Whether a `handle` that was started does the work, and does not only decide: another program may have started it.
    pub(super) works: bool,
    /// A command that is recorded nowhere, and acknowledged when its handler has ended.
    pub(super) handled: Option<Handled>,
    pub(super) stage: Stage,
}

/// What a request waits for.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// A place, or the lane.
    Queued,
    /// The handler's decision.
    Deciding,
    /// The broker's acknowledgement of the 202, then the lane's previous task and the gate. The work `resumes` when its
    /// handler judged that it has to come to its end.
    Settled { response: Bytes, boot: Box<str>, acknowledged: bool, resumes: bool },
    /// The handler's judgement on work that a restart interrupted.
    Judging { response: Bytes, boot: Box<str> },
    /// The work after the 202.
    Performing { response: Bytes, boot: Box<str>, step: Step },
}

/// How far the work after the 202 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It waits until what still runs has ended, since it restarts the device.
    Draining,
    /// It runs.
    Working,
    /// It is done but for the restart.
    Restarting,
}

impl Request {
    /// The 202 that was stored, where there is one.
    pub(super) fn response(&self) -> Option<&Bytes> {
        match &self.stage {
            Stage::Queued | Stage::Deciding => None,
            Stage::Settled { response, .. }
            | Stage::Judging { response, .. }
            | Stage::Performing { response, .. } => Some(response),
        }
    }

    /// How much its body takes.
    pub(super) fn body_bytes(&self) -> usize {
        self.d.as_deref().map_or(0, |d| d.get().len())
    }

    /// Whether it is brought to its end also when it is late (P9): it began in time.
    pub(super) fn resumes(&self) -> bool {
        matches!(self.stage, Stage::Settled { resumes: true, .. })
    }

    /// Whether it waits for something that a stop of the agent need not wait for.
    pub(super) fn is_parked(&self) -> bool {
        match &self.stage {
            Stage::Queued | Stage::Settled { .. } => true,
            Stage::Performing { step, .. } => *step == Step::Restarting,
            Stage::Deciding | Stage::Judging { .. } => false,
        }
    }

    pub(super) fn to_record(&self) -> OpenRequest {
        let stage = match &self.stage {
            Stage::Queued => StageRecord::Recorded { started: false },
            Stage::Deciding => StageRecord::Recorded { started: true },
            Stage::Settled { response, boot, .. } => {
                StageRecord::Settled { response: raw(response), boot: boot.clone() }
            }
            Stage::Judging { response, boot } | Stage::Performing { response, boot, .. } => {
                StageRecord::Performing { response: raw(response), boot: boot.clone() }
            }
        };
        OpenRequest {
            sequence: self.sequence,
            subject: self.subject.to_string(),
            req_id: self.req_id.to_raw(),
            route: self.route.to_string(),
            d: self.d.as_deref().map(RawValue::to_owned),
            fingerprint: self.fingerprint.0,
            attempt: self.attempt,
            arrived: self.arrived.clone(),
            age: self.age,
            works: self.works,
            stage,
        }
    }
}

impl Answer {
    pub(super) fn to_record(&self) -> DoneRequest {
        let answer = match &self.body {
            Body::Stored(bytes) => AnswerRecord::Stored(raw(bytes)),
            Body::Observed { req_id, fields } => {
                AnswerRecord::Observed { req_id: req_id.to_raw(), fields: fields.clone() }
            }
        };
        DoneRequest {
            sequence: self.sequence,
            subject: self.subject.to_string(),
            fingerprint: self.fingerprint.0,
            class: self.class,
            answer,
            failure: self.failure.as_deref().map(ToOwned::to_owned),
        }
    }
}

/// The lane is shared by what restarts or replaces the device's software.
pub(super) fn takes_lane(route: &Route) -> bool {
    matches!(route, Route::Reboot | Route::FactoryReset | Route::FirmwareDownload | Route::FirmwareUpdate)
}

/// Whether the work after the 202 always ends in a restart, so that nothing new starts once it has begun, and no
/// manage is sent before it has happened.
pub(super) fn restarts(route: &Route) -> bool {
    matches!(route, Route::Reboot | Route::FactoryReset)
}

fn raw(response: &[u8]) -> Box<RawValue> {
    let text = String::from_utf8(response.to_vec()).expect("responses are made of text");
    RawValue::from_string(text).expect("responses are made as JSON")
}

/// How long a request waits for the lane before it is answered 409.
pub(super) const LANE_WAIT: Duration = Duration::from_secs(10);

/// How long running handlers may go on once a restart is due.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long a restart may take to come; then it is taken to have failed.
pub(super) const RESTART_WITHIN: Duration = Duration::from_secs(5 * 60);

/// The longest time a task has, however long its budget is. Adding one without end to a clock would panic before the
/// request is recorded, and so at each of its deliveries.
pub(super) const LONGEST_BUDGET: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long the judgement on interrupted work may take.
pub(super) const RECOVER_BUDGET: Duration = Duration::from_secs(30);
