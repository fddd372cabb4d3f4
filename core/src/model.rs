use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names of the attributes that the protocol itself speaks of (`docs/protocol.md` §5.1).
pub mod attribute {
    /// [`DeviceInfo`](crate::DeviceInfo).
    pub const DEVICE_INFO: &str = "deviceInfo";
    /// A free-form object.
    pub const METADATA: &str = "metadata";
    /// [`Location`](crate::Location).
    pub const LOCATION: &str = "location";
    /// [`Firmware`](crate::Firmware).
    pub const FIRMWARE: &str = "mgmt.firmware";
}

/// What the device is (`docs/protocol.md` §4.1). Sent with manage, it replaces what the platform has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceInfo {
    /// Serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// Model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Class of device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_class: Option<String>,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Version of the firmware that runs. A finished firmware update sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fw_version: Option<String>,
    /// Version of the hardware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hw_version: Option<String>,
    /// Where it is, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptive_location: Option<String>,
}

/// `mgmt.firmware`: the image the platform speaks of and how far the device is with it (`docs/protocol.md` §6.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Firmware {
    /// Version of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Name of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the image is. Some clients call it `url`; both are read, `uri` is written (§9 point 19).
    #[serde(skip_serializing_if = "Option::is_none", alias = "url")]
    pub uri: Option<String>,
    /// What proves the image, such as a checksum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verifier: Option<String>,
    /// Where the image stands.
    pub state: FirmwareState,
    /// How the last step ended.
    pub update_status: UpdateStatus,
    /// When this last changed, ISO 8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_date_time: Option<String>,
}

/// `mgmt.firmware.state`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(into = "u8", try_from = "u8")]
#[schemars(with = "u8")]
pub enum FirmwareState {
    /// 0: no image.
    #[default]
    Idle,
    /// 1: an image is being fetched.
    Downloading,
    /// 2: an image is here and verified.
    Downloaded,
}

/// `mgmt.firmware.updateStatus`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(into = "u8", try_from = "u8")]
#[schemars(with = "u8")]
pub enum UpdateStatus {
    /// 0: also the value before anything happened.
    #[default]
    Success,
    /// 1: the image is being installed.
    InProgress,
    /// 2: memory or space did not suffice.
    OutOfMemory,
    /// 3: the transfer broke for good.
    ConnectionLost,
    /// 4: the image is not what the verifier says.
    VerificationFailed,
    /// 5: the device cannot use this image.
    UnsupportedImage,
    /// 6: nothing can be fetched from this address.
    InvalidUri,
}

impl From<FirmwareState> for u8 {
    fn from(state: FirmwareState) -> Self {
        state as Self
    }
}

impl TryFrom<u8> for FirmwareState {
    type Error = UnknownNumber;

    fn try_from(number: u8) -> Result<Self, UnknownNumber> {
        [Self::Idle, Self::Downloading, Self::Downloaded]
            .into_iter()
            .find(|state| u8::from(*state) == number)
            .ok_or(UnknownNumber { number, max: 2 })
    }
}

impl From<UpdateStatus> for u8 {
    fn from(status: UpdateStatus) -> Self {
        status as Self
    }
}

impl TryFrom<u8> for UpdateStatus {
    type Error = UnknownNumber;

    fn try_from(number: u8) -> Result<Self, UnknownNumber> {
        [
            Self::Success,
            Self::InProgress,
            Self::OutOfMemory,
            Self::ConnectionLost,
            Self::VerificationFailed,
            Self::UnsupportedImage,
            Self::InvalidUri,
        ]
        .into_iter()
        .find(|status| u8::from(*status) == number)
        .ok_or(UnknownNumber { number, max: 6 })
    }
}

/// A state or status outside its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{number} is not a number from 0 to {max}")]
pub struct UnknownNumber {
    number: u8,
    max: u8,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json, to_value};

    #[test]
    fn firmware_is_written_as_the_protocol_has_it() {
        let firmware = Firmware {
            version: Some("2.0".into()),
            state: FirmwareState::Downloaded,
            update_status: UpdateStatus::VerificationFailed,
            ..Firmware::default()
        };
        let value = json!({"version": "2.0", "state": 2, "updateStatus": 4});
        assert_eq!(to_value(&firmware).unwrap(), value);
        assert_eq!(from_value::<Firmware>(value).unwrap(), firmware);
    }

    #[test]
    fn url_is_read_as_uri() {
        let firmware: Firmware = from_value(json!({"url": "http://x/y"})).unwrap();
        assert_eq!(firmware.uri.as_deref(), Some("http://x/y"));
    }

    #[test]
    fn a_state_or_status_outside_its_table_is_refused() {
        for value in
            [json!({"state": 3}), json!({"updateStatus": 7}), json!({"state": -1}), json!({"state": "0"})]
        {
            assert!(from_value::<Firmware>(value.clone()).is_err(), "{value}");
        }
    }
}
