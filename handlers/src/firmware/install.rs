//! The action update: from the accepted request to the last word about it, over as many restarts as it takes.

mod command;
mod file;
mod installer;
mod judge;
mod marker;
mod mender;
mod options;
mod rauc;
mod swupdate;

pub use command::CommandInstaller;
pub use file::FileInstaller;
pub use installer::{Activation, Conclusion, InstallError, Installer, Job};
pub use mender::MenderModuleInstaller;
pub use options::InstallOptions;
pub use rauc::RaucInstaller;
pub use swupdate::SwupdateInstaller;

pub(super) use marker::Marker;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use iotdm_core::{
    Accepted, Context, Declined, Empty, Failure, FirmwareState, Handler, Performed, Recovery, Refusal,
    Restart, Update, UpdateStatus,
};
use tokio::time::timeout;

use super::download::OCCUPIED;
use super::image::Image;
use super::state::{self, Fault};
use super::verify::Verdict;
use super::{Running, Shared};
use marker::Step;

/// `Handler<Update>`.
pub(super) struct Installs {
    shared: Arc<Shared>,
    install: InstallOptions,
}

impl Installs {
    pub(super) fn new(shared: Arc<Shared>, install: InstallOptions) -> Self {
        Self { shared, install }
    }
}

impl Handler<Update> for Installs {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        let firmware = state::current(cx);
        if firmware.state != FirmwareState::Downloaded {
            let number = u8::from(firmware.state);
            return Err(Refusal::bad_request(format!(
                "mgmt.firmware.state is {number}; an update starts from 2 (downloaded)"
            )));
        }
        let image = Image::described_by(&firmware, &self.shared.options).map_err(Refusal::bad_request)?;
        check_version(image.version.as_deref())?;
        if !self.shared.holds(cx, &image).await {
            return Err(Refusal::bad_request("the image is not here any more; download it again"));
        }
        if self.shared.occupy().is_none() {
            return Err(Refusal::busy(OCCUPIED));
        }
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        let running = self.shared.occupy().ok_or(Failure::new(OCCUPIED))?;
        let work = Work { shared: &self.shared, install: &self.install, cx, running, only_judges: false };
        work.told(work.go_on().await).await
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        let Some(running) = self.shared.occupy() else { return Recovery::RunAgain };
        let work = Work { shared: &self.shared, install: &self.install, cx, running, only_judges: true };
        let firmware = state::current(cx);
        let marker = work.own_marker().await;
        match (firmware.state, firmware.update_status, &marker) {
            (FirmwareState::Idle, UpdateStatus::Success, _) => {
                work.clear().await;
                Recovery::Done
            }
            // Its reason is still to be told.
            (FirmwareState::Idle, _, Some(marker)) if marker.step == Step::Failed => Recovery::Resume,
            (FirmwareState::Idle | FirmwareState::Downloading, ..) => {
                work.clear().await;
                Recovery::Abandon
            }
            (FirmwareState::Downloaded, ..) => work.judged_at_once(marker).await,
        }
    }
}

/// One start of the work on an update.
struct Work<'a> {
    shared: &'a Shared,
    install: &'a InstallOptions,
    cx: &'a Context,
    running: Running,
    /// Whether this is `recover`, which has half a minute: what is to be taken back is taken back later.
    only_judges: bool,
}

/// Why an update does not go on.
enum Stop {
    /// It has failed, and nothing of it is left to be undone.
    Fault(Fault),
    Interrupted,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Declined> for Stop {
    fn from(_: Declined) -> Self {
        Self::Interrupted
    }
}

impl Work<'_> {
    /// Goes on where the marker says that the work stands.
    async fn go_on(&self) -> Result<Performed, Stop> {
        let Some(marker) = self.own_marker().await else { return self.perform(None).await };
        let same_boot = marker.boot_id == self.boot_id();
        let restarts = marker.activation == Activation::AfterRestart;
        match marker.step {
            Step::Installing => self.interrupted(marker).await,
            // Only the restart is missing.
            Step::Installed if same_boot && restarts => self.restart(marker).await,
            Step::Installed => self.judge(marker).await,
            Step::Healthy if same_boot => self.commit(marker).await,
            Step::Healthy => self.commit_after_restart(marker).await,
            Step::RollingBack => self.roll_back(marker).await,
            Step::RolledBack if same_boot => self.restart_back(marker).await,
            Step::RolledBack => self.rolled_back(marker).await,
            Step::Failed => {
                let fault = marker.fault();
                Err(self.failed(marker, fault).await)
            }
        }
    }

    /// The judgement that needs neither the connection nor another restart is made before anything else begins.
    async fn judged_at_once(&self, marker: Option<Marker>) -> Recovery {
        let Some(marker) = marker else { return Recovery::RunAgain };
        let restarted = marker.boot_id != self.boot_id();
        if marker.step != Step::Installed || !restarted || self.install.managed_within.is_some() {
            return Recovery::Resume;
        }
        // What is not decided in time goes on after the 202 like anything else.
        let limit = self.cx.remaining().saturating_sub(JUDGEMENT_MARGIN);
        match timeout(limit, self.judge(marker)).await {
            Ok(Ok(Performed::Complete)) => Recovery::Done,
            _ => Recovery::Resume,
        }
    }

    /// The installer was at work when the program or the machine died.
    async fn interrupted(&self, marker: Marker) -> Result<Performed, Stop> {
        let was_restarted = marker.boot_id != self.boot_id();
        if was_restarted && marker.before.is_some() {
            let runs = self.running_now(&marker).await;
            if matches!(&runs, Ok(Some(_))) && runs.ok().flatten() != marker.before {
                // The installation was complete: the power cut was its restart.
                return self.judge(marker.at(Step::Installed, String::new())).await;
            }
        }
        if self.install.installer.is_repeatable() && marker.starts < MAX_STARTS {
            return self.perform(Some(marker)).await;
        }
        let reason = match self.install.installer.is_repeatable() {
            true => format!("the installation was interrupted {MAX_STARTS} times"),
            false => "the installation was interrupted and may not be repeated".to_owned(),
        };
        self.give_up(marker, unusable(reason)).await
    }

    /// From the accepted request, or once more, to the restart.
    async fn perform(&self, again: Option<Marker>) -> Result<Performed, Stop> {
        let path = match (self.proved().await, again.clone()) {
            (Ok(path), _) => path,
            (Err(Stop::Fault(fault)), Some(begun)) => return self.give_up(begun, fault).await,
            (Err(stop), _) => return Err(stop),
        };
        if self.install.dry_run {
            let installer = &self.install.installer;
            tracing::info!(?installer, "firmware: dry run, not installed");
            return self.finish().await;
        }
        let begun = again.is_some();
        let marker = match again {
            Some(marker) => Marker { starts: marker.starts + 1, boot_id: self.boot_id(), ..marker },
            None => self.first_marker().await?,
        };
        match self.write(&marker).await {
            Ok(()) => {}
            // An earlier start of it may be half done.
            Err(fault) if begun => return self.give_up(marker, fault).await,
            Err(fault) => return Err(fault.into()),
        }
        let version = self.version().await;
        tracing::info!(version, image = %path.display(), "firmware: installing");
        let limit = self.install.time_limit.min(self.cx.remaining().saturating_sub(CLOSING_TIME));
        let installed =
            self.install.installer.install(&self.job(&marker, version.as_deref(), limit).job()).await;
        let activation = match installed {
            Ok(activation) => activation,
            Err(InstallError::Interrupted) => return Err(Stop::Interrupted),
            Err(error) => return self.give_up(marker, fault(&error)).await,
        };
        let marker = Marker { activation, ..marker }.at(Step::Installed, self.boot_id());
        if let Err(fault) = self.write(&marker).await {
            // Without it the restart could not be told from a crash in the middle of the installation.
            return self.give_up(marker, fault).await;
        }
        match activation {
            Activation::Immediate => self.judge(marker).await,
            Activation::AfterRestart => self.restart(marker).await,
        }
    }

    /// What runs is asked once, before anything has changed it.
    async fn first_marker(&self) -> Result<Marker, Stop> {
        self.take_back_what_never_ran().await?;
        let (shared, staging) = (self.shared, self.shared.staging.clone());
        let ready = shared.blocking(self.cx, &self.running, move |_| staging.begin_work()).await;
        ready.map_err(|error| unusable(format!("the installation cannot be prepared: {}", error.kind())))?;
        let marker = Marker::new(self.req_id(), self.boot_id(), None);
        match self.running_now(&marker).await {
            Ok(before) => Ok(Marker { before, ..marker }),
            Err(InstallError::Interrupted) => Err(Stop::Interrupted),
            Err(error) => Err(fault(&error).into()),
        }
    }

    /// The image, once it is certain that it is still the one that was accepted.
    async fn proved(&self) -> Result<PathBuf, Stop> {
        let image = Image::described_by(&state::current(self.cx), &self.shared.options).map_err(unusable)?;
        if !self.shared.holds(self.cx, &image).await {
            return Err(unusable("the image is not here any more").into());
        }
        if state::current(self.cx).update_status != UpdateStatus::InProgress {
            state::change(self.cx, FirmwareState::Downloaded, UpdateStatus::InProgress).await?;
        }
        let path = self.shared.staging.image();
        match self.shared.prove(self.cx, &image, &self.running, path.clone()).await.map_err(damaged)? {
            Verdict::Genuine => Ok(path),
            Verdict::Different => Err(unusable("the image has changed since it was downloaded").into()),
            Verdict::Stopped => Err(Stop::Interrupted),
        }
    }

    async fn restart(&self, marker: Marker) -> Result<Performed, Stop> {
        match self.cx.system().restart(Restart::Reboot).await {
            Ok(Performed::Restarting) => Ok(Performed::Restarting),
            Ok(Performed::Complete) => self.finish().await,
            Err(error) => self.give_up(marker, unusable(format!("installed, but not in use: {error}"))).await,
        }
    }

    /// First what the platform sees, then the files: a crash in between leaves files that are removed later.
    async fn finish(&self) -> Result<Performed, Stop> {
        let version = self.version().await;
        tracing::info!(version, "firmware: installed");
        state::installed(self.cx, version).await?;
        self.clear().await;
        Ok(Performed::Complete)
    }

    /// The end of a start of the work, as the agent is told it.
    async fn told(&self, result: Result<Performed, Stop>) -> Result<Performed, Failure> {
        let fault = match result {
            Ok(performed) => return Ok(performed),
            Err(Stop::Interrupted) => return Err(Failure::new("the update was interrupted")),
            Err(Stop::Fault(fault)) => fault,
        };
        let known = state::current(self.cx);
        let failure = if known.state == FirmwareState::Idle && known.update_status == fault.status {
            // A crash came between the attribute and this word.
            Failure::new(fault.reason)
        } else {
            state::fail(self.cx, &fault).await
        };
        if state::current(self.cx).state == FirmwareState::Idle {
            self.clear().await;
        }
        Err(failure)
    }

    async fn version(&self) -> Option<String> {
        let staging = self.shared.staging.clone();
        self.cx.blocking(move |_| staging.record()).await.and_then(|record| record.image.version)
    }

    async fn clear(&self) {
        let staging = self.shared.staging.clone();
        self.cx.blocking(move |_| staging.clear()).await;
    }

    /// This request's marker; one of another request is a leftover.
    async fn own_marker(&self) -> Option<Marker> {
        let staging = self.shared.staging.clone();
        let marker = self.cx.blocking(move |_| staging.marker()).await;
        marker.filter(|marker| marker.req_id == self.req_id())
    }

    /// Makes the marker durable.
    async fn write(&self, marker: &Marker) -> Result<(), Fault> {
        let (staging, marker) = (self.shared.staging.clone(), marker.clone());
        let written =
            self.shared.blocking(self.cx, &self.running, move |_| staging.write_marker(&marker)).await;
        written.map_err(|error| unusable(format!("the update could not be recorded: {}", error.kind())))
    }

    async fn record(&self, marker: &Marker) -> Result<(), Stop> {
        Ok(self.write(marker).await?)
    }

    fn boot_id(&self) -> String {
        self.cx.system().boot_id().0.to_string()
    }

    fn req_id(&self) -> Option<String> {
        self.cx.req_id().map(|req_id| req_id.as_json().to_owned())
    }
}

/// The version may reach an installer as an argument: it must not be taken for an option.
fn check_version(version: Option<&str>) -> Result<(), Refusal> {
    match version {
        Some(version) if version.starts_with('-') || version.contains(char::is_control) => {
            Err(Refusal::bad_request("version: starts with a hyphen or has control characters"))
        }
        _ => Ok(()),
    }
}

fn fault(error: &InstallError) -> Fault {
    let status = match error {
        InstallError::NoRoom(_) => UpdateStatus::OutOfMemory,
        InstallError::Failed(_) | InstallError::Interrupted => UpdateStatus::UnsupportedImage,
    };
    Fault::new(status, error.to_string())
}

fn unusable(reason: impl Into<String>) -> Fault {
    Fault::new(UpdateStatus::UnsupportedImage, reason)
}

fn damaged(error: io::Error) -> Fault {
    unusable(format!("the image cannot be read: {error}"))
}

/// How often an installation, a judgement or a roll-back is started in all, crashes included: what kills the device
/// three times would do it once more.
const MAX_STARTS: u32 = 3;

/// Kept back from the budget to report how the installation ended, or to roll it back.
const CLOSING_TIME: Duration = Duration::from_secs(30);

/// Kept back from the 30 seconds of a judgement before the connection, to record what came of it.
const JUDGEMENT_MARGIN: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests;
