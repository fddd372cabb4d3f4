//! What the platform knows about one device.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use iotdm_core::{AttributeValue, DeviceInfo, Firmware, Location, LogEntry, Report, attribute};
use serde_json::Value;
use tokio::time::Instant;

/// A device as it has shown itself.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DeviceView {
    /// Whether it is managed: the last manage neither expired nor was taken back.
    pub managed: bool,
    /// How many manages were taken.
    pub manages: u64,
    /// When it turns dormant without another manage; `None` for a lifetime of 0.
    pub dormant_at: Option<Instant>,
    /// When it was last heard.
    pub last_activity: Option<Instant>,
    /// `supports.deviceActions` of the last manage.
    pub device_actions: bool,
    /// `supports.firmwareActions` of the last manage.
    pub firmware_actions: bool,
    /// The custom bundles of the last manage.
    pub bundles: BTreeSet<String>,
    /// `deviceInfo` of the last manage that had one.
    pub device_info: Option<DeviceInfo>,
    /// `metadata` of the last manage that had one.
    pub metadata: Option<Value>,
    /// The attributes the platform observes: those whose observe was answered 200.
    pub observed: BTreeSet<String>,
    /// The newest values notified, by name; at most [`ATTRIBUTES_LIMIT`].
    pub notified: BTreeMap<String, Value>,
    /// `mgmt.firmware` as last notified.
    pub firmware: Option<Firmware>,
    /// Where it is.
    pub location: Option<Location>,
    /// Its error codes, the oldest first; at most [`DIAGNOSTICS_LIMIT`].
    pub error_codes: VecDeque<i32>,
    /// Its log, the oldest first; at most [`DIAGNOSTICS_LIMIT`].
    pub log: VecDeque<LogEntry>,
}

/// The body of a manage, read as tolerantly as the protocol's sources differ (`docs/protocol.md` §4.1, §9 point 22).
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ManageBody {
    /// Seconds; 0 means never dormant.
    pub lifetime: u32,
    /// `supports.deviceActions`.
    pub device_actions: bool,
    /// `supports.firmwareActions`.
    pub firmware_actions: bool,
    /// The other members of `supports` that are true.
    pub bundles: BTreeSet<String>,
    /// `deviceInfo`.
    pub device_info: Option<DeviceInfo>,
    /// `metadata`.
    pub metadata: Option<Value>,
}

impl ManageBody {
    /// Reads `d`; `None` where the platform answers 400.
    #[must_use]
    pub fn read(d: Option<&Value>) -> Option<Self> {
        let Some(d) = d else { return Some(Self::default()) };
        let d = d.as_object()?;
        let lifetime = match d.get("lifetime") {
            None => 0,
            Some(seconds) => u32::try_from(seconds.as_u64()?).ok()?,
        };
        if (1..SHORTEST_LIFETIME_SECONDS).contains(&lifetime) {
            return None;
        }
        let mut body = Self { lifetime, metadata: d.get("metadata").cloned(), ..Self::default() };
        if let Some(info) = d.get("deviceInfo") {
            body.device_info = Some(serde_json::from_value(info.clone()).ok()?);
        }
        for (name, value) in d.get("supports").and_then(Value::as_object).into_iter().flatten() {
            let on = value.as_bool().or_else(|| value.as_i64().map(|number| number != 0))?;
            match name.as_str() {
                "deviceActions" => body.device_actions = on,
                "firmwareActions" => body.firmware_actions = on,
                bundle if on => drop(body.bundles.insert(bundle.into())),
                _ => {}
            }
        }
        Some(body)
    }
}

impl DeviceView {
    pub(super) fn manage(&mut self, now: Instant, body: ManageBody) {
        self.managed = true;
        self.manages += 1;
        self.dormant_at = (body.lifetime > 0).then(|| now + Duration::from_secs(u64::from(body.lifetime)));
        self.device_actions = body.device_actions;
        self.firmware_actions = body.firmware_actions;
        self.bundles = body.bundles;
        // What is sent replaces what is stored; what is left out stays (`docs/protocol.md` §4.1).
        self.device_info = body.device_info.or(self.device_info.take());
        self.metadata = body.metadata.or(self.metadata.take());
    }

    /// Unmanaged by its own wish, or dormant: the `mgmt.*` attributes are deleted (`docs/protocol.md` §4.1).
    pub(super) fn unmanage(&mut self) {
        self.managed = false;
        self.dormant_at = None;
        self.firmware = None;
        self.notified.retain(|name, _| !name.starts_with("mgmt."));
    }

    pub(super) fn report(&mut self, report: Report) {
        match report {
            Report::Location(location) => self.location = Some(location),
            Report::AddErrorCode(code) => push(&mut self.error_codes, code),
            Report::ClearErrorCodes => self.error_codes.clear(),
            Report::AddLog(entry) => push(&mut self.log, entry),
            Report::ClearLog => self.log.clear(),
            _ => {}
        }
    }

    /// Takes one notify; whether every attribute in it is observed, itself or as a member of an observed one.
    pub(super) fn notify(&mut self, fields: &[AttributeValue]) -> bool {
        let mut all_observed = true;
        for AttributeValue { field, value } in fields {
            all_observed &= self.observes(field);
            if self.notified.len() < ATTRIBUTES_LIMIT || self.notified.contains_key(field) {
                self.notified.insert(field.clone(), value.clone());
            }
            self.note_firmware(field, value);
        }
        all_observed
    }

    fn observes(&self, field: &str) -> bool {
        self.observed.iter().any(|observed| {
            let (long, short) = if observed.len() > field.len() {
                (observed.as_str(), field)
            } else {
                (field, observed.as_str())
            };
            long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    fn note_firmware(&mut self, field: &str, value: &Value) {
        let firmware = if field == attribute::FIRMWARE {
            serde_json::from_value(value.clone())
        } else if let Some(member) = field.strip_prefix("mgmt.firmware.") {
            let mut whole =
                serde_json::to_value(self.firmware.clone().unwrap_or_default()).unwrap_or_default();
            whole[member] = value.clone();
            serde_json::from_value(whole)
        } else {
            return;
        };
        // A value outside the model is shown with the event; it does not change what is known.
        if let Ok(firmware) = firmware {
            self.firmware = Some(firmware);
        }
    }
}

fn push<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() >= DIAGNOSTICS_LIMIT {
        list.pop_front();
    }
    list.push_back(item);
}

/// Error codes and log entries kept of one device, each: enough for a test to look at, the oldest go first.
pub const DIAGNOSTICS_LIMIT: usize = 256;

/// Notified attributes kept of one device: the model has a few dozen.
pub const ATTRIBUTES_LIMIT: usize = 64;

/// Shorter lifetimes than this, and not 0, are invalid (`docs/protocol.md` §4.1).
const SHORTEST_LIFETIME_SECONDS: u32 = 3_600;
