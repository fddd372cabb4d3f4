//! Where an update stands, durable before each step that a restart may interrupt.

use iotdm_core::UpdateStatus;
use serde::{Deserialize, Serialize};

use super::super::state::Fault;
use super::installer::Activation;

/// Written to `installed.json` of the staging folder from the start of an installation to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::firmware) struct Marker {
    /// The request, as JSON text: a marker of another one is a leftover.
    pub(in crate::firmware) req_id: Option<String>,
    /// The boot in which the step was written: another one means that the machine has been restarted since.
    pub(in crate::firmware) boot_id: String,
    /// Earlier programs wrote the marker only once it was installed, and none of what follows.
    #[serde(default)]
    pub(in crate::firmware) step: Step,
    /// How often this step was begun.
    #[serde(default)]
    pub(in crate::firmware) starts: u32,
    /// What ran before the installation, where the installer can tell.
    #[serde(default)]
    pub(in crate::firmware) before: Option<String>,
    /// When what was installed is in use.
    #[serde(default)]
    pub(in crate::firmware) activation: Activation,
    /// Since when it is judged.
    #[serde(default)]
    pub(in crate::firmware) judged_since: Option<Since>,
    /// Why it is rolled back, or has failed.
    #[serde(default)]
    pub(in crate::firmware) failure: Option<Recorded>,
}

/// The last step that began, or that ended well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::firmware) enum Step {
    /// The installer was about to begin.
    Installing,
    /// It ended well; the restart is to come, or the judgement.
    #[default]
    Installed,
    /// It was judged healthy; the commit is to come.
    Healthy,
    /// It is being rolled back.
    RollingBack,
    /// It was rolled back; the restart is to come.
    RolledBack,
    /// It failed, and whatever could be rolled back is; the platform is to be told.
    Failed,
}

/// A moment of a boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::firmware) struct Since {
    pub(in crate::firmware) boot_id: String,
    /// Seconds since that boot.
    pub(in crate::firmware) uptime_s: u64,
}

/// A [`Fault`] on its way through a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::firmware) struct Recorded {
    status: UpdateStatus,
    reason: String,
}

impl Recorded {
    pub(super) fn new(fault: Fault) -> Self {
        Self { status: fault.status, reason: fault.reason }
    }

    pub(super) fn fault(&self) -> Fault {
        Fault::new(self.status, self.reason.clone())
    }
}

impl Marker {
    pub(super) fn new(req_id: Option<String>, boot_id: String, before: Option<String>) -> Self {
        Self {
            req_id,
            boot_id,
            step: Step::Installing,
            starts: 1,
            before,
            activation: Activation::AfterRestart,
            judged_since: None,
            failure: None,
        }
    }

    /// The marker of the next step, of which this is the first start.
    pub(super) fn at(self, step: Step, boot_id: String) -> Self {
        Self { step, boot_id, starts: 1, ..self }
    }

    /// Whether something that has never run may stand where the next start of the machine takes it from.
    pub(in crate::firmware) fn is_in_place_unused(&self, boot_id: &str) -> bool {
        let is_in_place = matches!(self.step, Step::Installing | Step::Installed | Step::RollingBack);
        is_in_place && self.boot_id == boot_id && self.activation == Activation::AfterRestart
    }

    /// The fault that it carries; one without is an update that an earlier program left.
    pub(super) fn fault(&self) -> Fault {
        let unknown = || Fault::new(UpdateStatus::UnsupportedImage, "the update failed");
        self.failure.as_ref().map_or_else(unknown, Recorded::fault)
    }
}
