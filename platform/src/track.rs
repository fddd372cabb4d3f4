//! What became of each request, on each device: pure, no I/O and no clock.
//!
//! `handle_*` takes the world in, with the time at which it happened; [`Tracker::poll_change`] gives out which
//! requests changed; [`Tracker::poll_timeout`] says when [`Tracker::handle_timeout`] is due.
//!
//! A request is complete as `docs/protocol.md` §7 has it:
//!
//! | action | complete with |
//! |---|---|
//! | reboot, factory reset | 202, and a manage after it |
//! | download | 202, notify of state 2, 200 to a cancel of `mgmt.firmware` |
//! | update | 202, notify of state 0 and updateStatus 0, 200 to that cancel |
//! | custom, observe, cancel | 200 |
//! | device/update | 204 |
//! | anything else | any success |

mod device;
mod request;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use iotdm_core::{
    AttributeValue, Code, Firmware, FirmwareState, Incoming, Report, ReqId, Route, UpdateStatus, attribute,
};
use tokio::time::Instant;

pub use device::{ATTRIBUTES_LIMIT, DIAGNOSTICS_LIMIT, DeviceView, ManageBody};
pub use request::{Answer, Failure, InitiateError, Initiation, Outcome, Stage, Tracked};
use request::{is_documented, is_firmware, is_restart};

use crate::space::DeviceName;

/// The requests of a platform and the devices they are for. See the [module](self).
#[derive(Debug, Default)]
pub struct Tracker {
    devices: BTreeMap<DeviceName, DeviceView>,
    requests: BTreeMap<Key, Tracked>,
    /// Each device's open requests, in the order in which they were made.
    open: BTreeMap<DeviceName, Vec<ReqId>>,
    /// Ended requests, in the order of their ends; the oldest are forgotten first.
    ended: VecDeque<Key>,
    deadlines: BTreeSet<(Instant, Key)>,
    changes: VecDeque<Key>,
    forgotten: VecDeque<Key>,
}

/// Which request: reqIds are unique per device.
pub type Key = (DeviceName, ReqId);

impl Tracker {
    /// Starts to track a request.
    ///
    /// # Errors
    /// The platform would not make it now; nothing has changed.
    pub fn initiate(&mut self, now: Instant, initiation: Initiation) -> Result<(), InitiateError> {
        let Initiation { key, route, fields, timeout, overriding, even_unmanaged } = initiation;
        let managed = self.devices.get(&key.0).is_some_and(|device| device.managed);
        if !managed && !even_unmanaged {
            return Err(InitiateError::NotManaged(key.0));
        }
        if self.requests.contains_key(&key) {
            return Err(InitiateError::ReqIdInUse(key.1));
        }
        if self.requests.len() - self.ended.len() >= OPEN_LIMIT {
            return Err(InitiateError::TooManyOpen);
        }
        if is_firmware(&route) {
            let pending = self.open(&key.0, is_firmware);
            match pending.first() {
                Some((device, pending)) if !overriding => {
                    return Err(InitiateError::FirmwarePending {
                        device: device.clone(),
                        pending: pending.clone(),
                    });
                }
                _ => pending.iter().for_each(|key| self.end(key, Outcome::GivenUp)),
            }
        }
        let deadline = timeout.map(|timeout| now + timeout);
        self.deadlines.extend(deadline.map(|deadline| (deadline, key.clone())));
        let tracked = Tracked {
            route,
            fields,
            stage: Stage::Initiated,
            initiated: now,
            answer: None,
            answers: 0,
            differing_answers: 0,
            deadline,
        };
        self.open.entry(key.0.clone()).or_default().push(key.1.clone());
        self.requests.insert(key, tracked);
        Ok(())
    }

    /// Takes a manage that the platform accepts; `false` when there is no room for another device.
    pub fn handle_manage(&mut self, now: Instant, device: &DeviceName, body: ManageBody) -> bool {
        let Some(view) = self.view(now, device) else { return false };
        view.manage(now, body);
        for key in self.open(device, is_restart) {
            if self.requests[&key].stage == Stage::Answered {
                self.end(&key, Outcome::Complete);
            }
        }
        true
    }

    /// Takes an unmanage.
    pub fn handle_unmanage(&mut self, now: Instant, device: &DeviceName) {
        if let Some(view) = self.view(now, device) {
            view.unmanage();
        }
    }

    /// Takes a location, error code or log entry.
    pub fn handle_report(&mut self, now: Instant, device: &DeviceName, report: Report) {
        if let Some(view) = self.view(now, device) {
            view.report(report);
        }
    }

    /// Takes a notify; whether all its attributes are observed.
    pub fn handle_notify(&mut self, now: Instant, device: &DeviceName, fields: &[AttributeValue]) -> bool {
        let Some(view) = self.view(now, device) else { return false };
        let observed = view.notify(fields);
        let tells_firmware = fields.iter().any(|field| field.field.starts_with(attribute::FIRMWARE));
        let firmware = view.firmware.clone();
        if let Some(firmware) = firmware.filter(|_| tells_firmware) {
            for key in self.open(device, is_firmware) {
                self.judge_firmware(&key, &firmware);
            }
        }
        observed
    }

    /// Takes an answer with the payload it came in; whether it belongs to a request that is known.
    pub fn handle_response(
        &mut self,
        now: Instant,
        device: &DeviceName,
        answer: &Incoming,
        payload: &Bytes,
    ) -> bool {
        self.view(now, device);
        let key = (device.clone(), answer.req_id.clone());
        let Some(request) = self.requests.get_mut(&key) else { return false };
        request.answers = request.answers.saturating_add(1);
        if let Some(first) = &request.answer {
            request.differing_answers += u32::from(first.payload != *payload);
        } else {
            let (rc, message) = (answer.rc, answer.message.clone());
            request.answer = Some(Answer { rc, message, payload: payload.clone() });
        }
        self.note_change(&key);
        if self.requests[&key].stage == Stage::Initiated {
            self.judge_answer(&key, answer.rc);
        }
        true
    }

    /// Gives a request up; whether it was open. The device does not learn of it (`docs/protocol.md` §7).
    pub fn give_up(&mut self, key: &Key) -> bool {
        let open = self.requests.get(key).is_some_and(Tracked::is_open);
        if open {
            self.end(key, Outcome::GivenUp);
        }
        open
    }

    /// Ends what is over by now, requests and lifetimes.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((deadline, key)) = self.deadlines.first().cloned()
            && deadline <= now
        {
            self.end(&key, Outcome::TimedOut);
        }
        for device in self.devices.values_mut() {
            if device.dormant_at.is_some_and(|at| at <= now) {
                device.unmanage();
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let dormant = self.devices.values().filter_map(|device| device.dormant_at);
        self.deadlines.first().map(|(at, _)| *at).into_iter().chain(dormant).min()
    }

    /// A request that has changed, until there is none.
    pub fn poll_change(&mut self) -> Option<Key> {
        self.changes.pop_front()
    }

    /// An ended request that is not kept any longer, until there is none. [`ENDED_LIMIT`] are kept.
    pub fn poll_forgotten(&mut self) -> Option<Key> {
        self.forgotten.pop_front()
    }

    /// One request.
    #[must_use]
    pub fn request(&self, key: &Key) -> Option<&Tracked> {
        self.requests.get(key)
    }

    /// One device, once it has been heard.
    #[must_use]
    pub fn device(&self, device: &DeviceName) -> Option<&DeviceView> {
        self.devices.get(device)
    }

    /// Every device that has been heard.
    pub fn devices(&self) -> impl Iterator<Item = (&DeviceName, &DeviceView)> {
        self.devices.iter()
    }

    fn view(&mut self, now: Instant, device: &DeviceName) -> Option<&mut DeviceView> {
        if self.devices.len() >= DEVICES_LIMIT && !self.devices.contains_key(device) {
            return None;
        }
        let view = self.devices.entry(device.clone()).or_default();
        view.last_activity = Some(now);
        Some(view)
    }

    fn judge_answer(&mut self, key: &Key, rc: Code) {
        let request = &self.requests[key];
        let (route, fields) = (request.route.clone(), request.fields.clone());
        if !is_documented(&route, rc) {
            return self.end(key, Outcome::Failed(Failure::Answered(rc)));
        }
        if is_restart(&route) || is_firmware(&route) {
            return self.advance(key, Stage::Answered);
        }
        self.end(key, Outcome::Complete);
        let Some(view) = self.devices.get_mut(&key.0) else { return };
        match route {
            Route::Observe => view.observed.extend(fields),
            Route::Cancel => {
                view.observed.retain(|observed| !fields.contains(observed));
                if fields.iter().any(|field| field == attribute::FIRMWARE) {
                    self.complete_firmware(&key.0);
                }
            }
            _ => {}
        }
    }

    /// Only after the 202: before it, a notify speaks of an earlier request.
    fn judge_firmware(&mut self, key: &Key, firmware: &Firmware) {
        let request = &self.requests[key];
        if request.stage != Stage::Answered {
            return;
        }
        let status = firmware.update_status;
        let failed = !matches!(status, UpdateStatus::Success | UpdateStatus::InProgress);
        let reached = if request.route == Route::FirmwareDownload {
            firmware.state == FirmwareState::Downloaded
        } else {
            firmware.state == FirmwareState::Idle && status == UpdateStatus::Success
        };
        if reached {
            self.advance(key, Stage::Reached);
        } else if failed {
            self.end(key, Outcome::Failed(Failure::Firmware(status)));
        }
    }

    fn complete_firmware(&mut self, device: &DeviceName) {
        for key in self.open(device, is_firmware) {
            if self.requests[&key].stage == Stage::Reached {
                self.end(&key, Outcome::Complete);
            }
        }
    }

    /// The open requests of this kind, in the order in which they were made.
    fn open(&self, device: &DeviceName, kind: fn(&Route) -> bool) -> Vec<Key> {
        let open = self.open.get(device).into_iter().flatten().map(|req_id| (device.clone(), req_id.clone()));
        open.filter(|key| kind(&self.requests[key].route)).collect()
    }

    fn advance(&mut self, key: &Key, stage: Stage) {
        let request = self.requests.get_mut(key).expect("callers hold the key of a request that is there");
        request.stage = stage;
        self.note_change(key);
    }

    fn note_change(&mut self, key: &Key) {
        if self.changes.back() != Some(key) {
            self.changes.push_back(key.clone());
        }
    }

    fn end(&mut self, key: &Key, outcome: Outcome) {
        self.advance(key, Stage::Ended(outcome));
        if let Some(deadline) = self.requests[key].deadline {
            self.deadlines.remove(&(deadline, key.clone()));
        }
        if let Some(open) = self.open.get_mut(&key.0) {
            open.retain(|req_id| *req_id != key.1);
        }
        self.ended.push_back(key.clone());
        if self.ended.len() > ENDED_LIMIT
            && let Some(oldest) = self.ended.pop_front()
        {
            self.requests.remove(&oldest);
            self.forgotten.push_back(oldest);
        }
    }
}

/// Devices that are known at once: the service's bound for one request (`docs/protocol.md` §7).
pub const DEVICES_LIMIT: usize = 5_000;

/// Requests that are open at once: two for each device.
pub const OPEN_LIMIT: usize = 10_000;

/// Ended requests that are kept, so that a second answer still finds its request.
pub const ENDED_LIMIT: usize = 1_024;

#[cfg(test)]
mod tests;
