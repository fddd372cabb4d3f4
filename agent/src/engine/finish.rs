//! The ends that a request can come to.

use bytes::Bytes;
use iotdm_core::{
    Firmware, FirmwareState, LogEntry, Refusal, Report, Response, Route, Severity, UpdateStatus, attribute,
    iso8601,
};
use serde_json::{Value, json};
use tracing::{error, warn};

use crate::journal::Class;

use super::Engine;
use super::answers::{Answer, Body};
use super::event::Timer;
use super::key::KeyHash;
use super::request::{LANE_WAIT, Request, Stage, restarts};

impl Engine {
    pub(super) fn finish_refused(&mut self, key: KeyHash, class: Class, refusal: &Refusal) {
        if self.requests.get(&key).is_some_and(Request::is_command) {
            return self.end_command(key, Some((class, refusal)));
        }
        let may_tell = self.may_tell("refused by its handler");
        let Some(request) = self.requests.get(&key) else { return };
        if let Some(held_back) = may_tell {
            warn!(reqId = %request.req_id, action = %request.route, held_back, "refused: {refusal}");
        }
        let raw = request.req_id.to_raw();
        let response = Response::new(&raw, refusal.rc()).message(Some(refusal.message())).to_bytes();
        self.finish(key, class, response.into());
    }

    pub(super) fn finish(&mut self, key: KeyHash, class: Class, response: Bytes) {
        if self.requests.get(&key).is_some_and(Request::is_command) {
            return self.end_command(key, None);
        }
        let Some(request) = self.forget_open(key) else { return };
        self.tell("answered", &request.req_id, &request.route);
        self.keep(key, &request, class, Body::Stored(Vec::from(response).into()));
    }

    /// Ends a request whose 202 was stored. Its answer stays what it was: the protocol cannot take it back.
    pub(super) fn finish_performed(&mut self, key: KeyHash, failure: Option<String>) {
        let Some(request) = self.forget_open(key) else { return };
        let response = request.response().expect("only a request with a stored 202 performs").to_vec();
        match &failure {
            None => self.tell("done", &request.req_id, &request.route),
            Some(failure) => {
                if let Some(held_back) = self.may_tell("failed") {
                    error!(reqId = %request.req_id, action = %request.route, held_back, "failed: {failure}");
                }
                self.report_failure(&request, failure);
                let began = !matches!(request.stage, Stage::Settled { .. });
                self.end_firmware_step(&request.route, began);
            }
        }
        let body = Body::Stored(response.into());
        self.answers.insert(key, Answer::of(&request, Class::Executed, body, failure));
        self.write_due(key);
        self.prune();
        if restarts(&request.route) {
            self.hold_ended();
        }
    }

    pub(super) fn forget_open(&mut self, key: KeyHash) -> Option<Request> {
        let request = self.requests.remove(&key)?;
        for timer in [Timer::Task(key), Timer::Lane(key), Timer::Restart(key)] {
            self.timers.clear(&timer);
        }
        if self.restarting == Some(key) {
            self.restarting = None;
            self.timers.clear(&Timer::Drain);
            self.restart_lane_waits();
        }
        Some(request)
    }

    /// Those who wait for the lane could not have had it while a restart was due: they wait from here on.
    pub(super) fn restart_lane_waits(&mut self) {
        let waiting: Vec<KeyHash> =
            self.lanes.values().flat_map(|lane| lane.waiting.iter().copied()).collect();
        for key in waiting {
            self.timers.set(Timer::Lane(key), self.now.monotonic + LANE_WAIT);
        }
    }

    /// A firmware request may end without a word of its handler: given up, out of time, its restart never came. The
    /// platform waits for the end in `mgmt.firmware` (`docs/protocol.md` §6.3), which must not say for ever that
    /// something is under way.
    fn end_firmware_step(&mut self, route: &Route, began: bool) {
        let Some(Value::Object(stored)) = self.model.read(attribute::FIRMWARE) else { return };
        let mut firmware = stored.clone();
        let Ok(known) = serde_json::from_value::<Firmware>(Value::Object(stored.clone())) else { return };
        let status = match (route, known.state, known.update_status) {
            (Route::FirmwareDownload, FirmwareState::Downloading, _) => UpdateStatus::ConnectionLost,
            (Route::FirmwareUpdate, FirmwareState::Downloaded, UpdateStatus::InProgress) => {
                UpdateStatus::UnsupportedImage
            }
            // Its handler was never asked, and has said nothing.
            (Route::FirmwareDownload, ..) if !began => UpdateStatus::ConnectionLost,
            (Route::FirmwareUpdate, ..) if !began => UpdateStatus::UnsupportedImage,
            _ => return,
        };
        firmware.insert("state".into(), json!(FirmwareState::Idle));
        firmware.insert("updateStatus".into(), json!(status));
        firmware.insert("updatedDateTime".into(), json!(iso8601(self.now.wall)));
        self.set_attributes(vec![(attribute::FIRMWARE.into(), Value::Object(firmware))], None);
    }

    pub(super) fn report_failure(&mut self, request: &Request, failure: &str) {
        let failure: String = failure.chars().take(MAX_FAILURE_CHARS).collect();
        let message = match &request.route {
            // The platform knows nothing of the reqId that a command has here.
            command @ Route::Command { .. } => format!("{} failed: {failure}", spoken(command)),
            route => format!("{} (reqId {}) failed: {failure}", spoken(route), request.req_id),
        };
        let timestamp = iso8601(self.now.wall);
        self.report(Report::AddErrorCode(ERROR_CODE_ACTION_FAILED), None);
        self.report(
            Report::AddLog(LogEntry { message, timestamp, data: None, severity: Severity::Error }),
            None,
        );
    }
}

pub(super) fn spoken(route: &Route) -> String {
    match route {
        Route::Reboot => "a reboot".into(),
        Route::FactoryReset => "a factory reset".into(),
        Route::FirmwareDownload => "a firmware download".into(),
        Route::FirmwareUpdate => "a firmware update".into(),
        Route::Command { id, format } => format!("the command {id} ({format})"),
        other => other.to_string(),
    }
}

/// How much of a failure's text is reported: a message may be no larger than 128 KiB.
const MAX_FAILURE_CHARS: usize = 1024;

/// The error code added when work fails after its 202 was sent.
const ERROR_CODE_ACTION_FAILED: i32 = 500;
