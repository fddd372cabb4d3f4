use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::location::Location;
use crate::model::DeviceInfo;
use crate::topic::UpRoute;

/// The body of manage (`docs/protocol.md` §4.1).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manage {
    /// Seconds within which the next manage follows: 0 means never dormant, else at least 3600.
    pub lifetime: u32,
    /// What the platform may ask for.
    pub supports: Supports,
    /// What the device is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_info: Option<DeviceInfo>,
    /// Free-form data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
}

/// `supports` of manage: which requests the platform may make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Supports {
    /// Reboot and factory reset.
    pub device_actions: bool,
    /// Firmware download and update.
    pub firmware_actions: bool,
    /// One `true` for each extension bundle.
    #[serde(flatten)]
    pub bundles: BTreeMap<String, bool>,
}

/// What a device tells the platform by itself (`docs/protocol.md` §4.3 to §4.5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Report {
    /// Where it is.
    Location(Location),
    /// One error code more.
    AddErrorCode(i32),
    /// No error codes any more.
    ClearErrorCodes,
    /// One log entry more.
    AddLog(LogEntry),
    /// No log entries any more.
    ClearLog,
}

impl Report {
    /// Where it is sent.
    pub fn route(&self) -> UpRoute {
        match self {
            Self::Location(_) => UpRoute::Location,
            Self::AddErrorCode(_) => UpRoute::AddErrorCode,
            Self::ClearErrorCodes => UpRoute::ClearErrorCodes,
            Self::AddLog(_) => UpRoute::AddLog,
            Self::ClearLog => UpRoute::ClearLog,
        }
    }

    /// Its `d`.
    pub fn body(&self) -> Option<Value> {
        match self {
            Self::Location(location) => Some(json!(location)),
            Self::AddErrorCode(code) => Some(json!({ "errorCode": code })),
            Self::AddLog(entry) => Some(json!(entry)),
            Self::ClearErrorCodes | Self::ClearLog => None,
        }
    }
}

/// An entry of the device's log (`docs/protocol.md` §4.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// What happened.
    pub message: String,
    /// When, ISO 8601; see [`iso8601`].
    pub timestamp: String,
    /// More about it, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad a log entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Severity {
    /// 0.
    Information,
    /// 1.
    Warning,
    /// 2.
    Error,
}

impl From<Severity> for u8 {
    fn from(severity: Severity) -> Self {
        severity as Self
    }
}

impl TryFrom<u8> for Severity {
    type Error = &'static str;

    fn try_from(number: u8) -> Result<Self, &'static str> {
        match number {
            0 => Ok(Self::Information),
            1 => Ok(Self::Warning),
            2 => Ok(Self::Error),
            _ => Err("a severity is 0, 1 or 2"),
        }
    }
}

/// A time since the Unix epoch as the protocol writes it: UTC with `Z` (`docs/protocol.md` §9 point 23).
pub fn iso8601(since_epoch: Duration) -> String {
    // Year 9999 is the end of the format; a clock beyond it is broken and shown at its limit.
    const LAST_SECOND: u64 = 253_402_300_799;
    let bounded = since_epoch.min(Duration::from_secs(LAST_SECOND));
    humantime::format_rfc3339_millis(UNIX_EPOCH + bounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_z_and_milliseconds() {
        assert_eq!(iso8601(Duration::from_millis(1_500_000_000_250)), "2017-07-14T02:40:00.250Z");
        assert!(iso8601(Duration::MAX).starts_with("9999-"));
    }

    #[test]
    fn manage_says_what_is_supported_with_booleans() {
        let supports = Supports {
            device_actions: true,
            firmware_actions: false,
            bundles: BTreeMap::from([("lamp".into(), true)]),
        };
        let manage = Manage { lifetime: 3600, supports, ..Manage::default() };
        assert_eq!(
            serde_json::to_value(&manage).unwrap(),
            json!({"lifetime": 3600, "supports": {"deviceActions": true, "firmwareActions": false, "lamp": true}})
        );
    }

    #[test]
    fn reports_have_the_documented_bodies() {
        assert_eq!(Report::AddErrorCode(7).body(), Some(json!({"errorCode": 7})));
        assert_eq!(Report::ClearLog.body(), None);
        let entry =
            LogEntry { message: "m".into(), timestamp: "t".into(), data: None, severity: Severity::Error };
        assert_eq!(
            Report::AddLog(entry).body(),
            Some(json!({"message": "m", "timestamp": "t", "severity": 2}))
        );
    }
}
