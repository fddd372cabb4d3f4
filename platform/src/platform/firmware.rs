//! The firmware sequences of `docs/protocol.md` §6.3.

use std::fmt;
use std::time::Duration;

use iotdm_core::{AttributeValue, attribute};
use serde_json::json;

use super::{Platform, Request, RequestHandle};
use crate::space::DeviceName;
use crate::track::{Answer, InitiateError, Outcome};

/// A firmware image as the operator describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Its version.
    pub version: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub uri: String,
    /// What proves it, such as `sha256:…`.
    pub verifier: String,
}

/// How a firmware sequence is run.
#[derive(Clone, Debug, Default)]
pub struct FirmwareRequest {
    /// What the device is told first; `None` leaves the device/update out.
    pub image: Option<Image>,
    /// How long the action itself may take, from the request to the notify; `None` for ever.
    pub timeout: Option<Duration>,
    /// Whether a pending firmware request of the device is given up.
    pub overriding: bool,
}

/// A step of a firmware sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirmwareStep {
    /// device/update of `mgmt.firmware`.
    Describe,
    /// observe of `mgmt.firmware`.
    Observe,
    /// The download or update itself, until its notify.
    Act,
    /// cancel of `mgmt.firmware`.
    Cancel,
}

impl fmt::Display for FirmwareStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Describe => "device/update",
            Self::Observe => "observe",
            Self::Act => "the firmware action",
            Self::Cancel => "cancel",
        })
    }
}

/// Where a firmware sequence ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FirmwareError {
    /// A step could not be initiated.
    #[error("{step}: {reason}")]
    NotInitiated {
        /// The step.
        step: FirmwareStep,
        /// Why.
        reason: InitiateError,
    },
    /// A step did not end as it should.
    #[error("{step} {outcome}")]
    Ended {
        /// The step.
        step: FirmwareStep,
        /// Its end.
        outcome: Outcome,
        /// What the device answered to it, if anything.
        answer: Option<Answer>,
    },
}

impl Platform {
    /// Has a device fetch an image, until the request is complete: describe, observe, download, notify, cancel. Returns
    /// the download's handle.
    ///
    /// # Errors
    /// The step that did not end as it should; the steps after it were not made, except for the cancel, which is tried
    /// after a download that ended otherwise.
    pub async fn firmware_download(
        &self,
        device: &DeviceName,
        request: &FirmwareRequest,
    ) -> Result<RequestHandle, FirmwareError> {
        self.run_firmware(device, request, Request::download()).await
    }

    /// Has a device install the image it fetched, until the request is complete. Returns the update's handle.
    ///
    /// # Errors
    /// As [`firmware_download`](Self::firmware_download).
    pub async fn firmware_update(
        &self,
        device: &DeviceName,
        request: &FirmwareRequest,
    ) -> Result<RequestHandle, FirmwareError> {
        self.run_firmware(device, request, Request::update()).await
    }

    async fn run_firmware(
        &self,
        device: &DeviceName,
        request: &FirmwareRequest,
        action: Request,
    ) -> Result<RequestHandle, FirmwareError> {
        if let Some(image) = &request.image {
            self.step(device, FirmwareStep::Describe, Request::device_update(&[description(image)])).await?;
        }
        self.step(device, FirmwareStep::Observe, Request::observe(&[attribute::FIRMWARE])).await?;
        let action = request.timeout.map_or(action.clone(), |timeout| action.timeout(timeout));
        let action = if request.overriding { action.overriding() } else { action };
        let action = self.start(device, FirmwareStep::Act, &action)?;
        let reached = action.reached().await;
        let cancelled =
            self.step(device, FirmwareStep::Cancel, Request::cancel(&[attribute::FIRMWARE])).await;
        if !reached {
            return Err(ended(FirmwareStep::Act, action.completed().await, &action));
        }
        cancelled?;
        match action.completed().await {
            Outcome::Complete => Ok(action),
            outcome => Err(ended(FirmwareStep::Act, outcome, &action)),
        }
    }

    /// Makes a step that is over with its answer.
    async fn step(
        &self,
        device: &DeviceName,
        step: FirmwareStep,
        request: Request,
    ) -> Result<(), FirmwareError> {
        let handle = self.start(device, step, &request.timeout(STEP_TIMEOUT))?;
        match handle.completed().await {
            Outcome::Complete => Ok(()),
            outcome => Err(ended(step, outcome, &handle)),
        }
    }

    fn start(
        &self,
        device: &DeviceName,
        step: FirmwareStep,
        request: &Request,
    ) -> Result<RequestHandle, FirmwareError> {
        self.initiate(device, request).map_err(|reason| FirmwareError::NotInitiated { step, reason })
    }
}

fn ended(step: FirmwareStep, outcome: Outcome, handle: &RequestHandle) -> FirmwareError {
    FirmwareError::Ended { step, outcome, answer: handle.snapshot().answer }
}

/// The attribute as the platform sends it (`docs/protocol.md` §5.1): complete, in its initial state.
fn description(image: &Image) -> AttributeValue {
    let Image { version, name, uri, verifier } = image;
    let value = json!({
        "version": version, "name": name, "uri": uri, "verifier": verifier,
        "state": 0, "updateStatus": 0, "updatedDateTime": "",
    });
    AttributeValue { field: attribute::FIRMWARE.into(), value }
}

/// How long a device may take to answer device/update, observe and cancel, which cost it no work.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);
