use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use iotdm_core::{
    Accepted, ChildExit, ChildProcess, Context, Declined, Empty, Failure, FirmwareState, Handler, Performed,
    Recovery, Refusal, Restart, Update, UpdateStatus,
};

use super::download::OCCUPIED;
use super::image::Image;
use super::options::InstallOptions;
use super::staging::Marker;
use super::state::{self, Fault};
use super::verify::Verdict;
use super::{Running, Shared};

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
        let result = match self.own_marker(cx).await {
            Some(marker) if !is_of_this_boot(&marker, cx) => self.judge(cx).await,
            // It is installed: only the restart is missing.
            Some(_) => self.restart(cx).await,
            None => self.perform(cx, &running).await,
        };
        match result {
            Ok(performed) => Ok(performed),
            Err(Stop::Fault(fault)) => {
                let failure = state::fail(cx, &fault).await;
                self.clear(cx).await;
                Err(failure)
            }
            Err(Stop::Interrupted) => Err(Failure::new("the update was interrupted")),
        }
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        let firmware = state::current(cx);
        let marker = self.own_marker(cx).await;
        match (firmware.state, firmware.update_status, marker) {
            (FirmwareState::Idle, UpdateStatus::Success, _) => {
                self.clear(cx).await;
                Recovery::Done
            }
            (FirmwareState::Idle | FirmwareState::Downloading, ..) => {
                self.clear(cx).await;
                Recovery::Abandon
            }
            (FirmwareState::Downloaded, _, Some(marker)) if !is_of_this_boot(&marker, cx) => {
                self.judged(cx).await
            }
            (FirmwareState::Downloaded, _, Some(_)) => Recovery::RunAgain,
            (FirmwareState::Downloaded, UpdateStatus::InProgress, None) if !self.may_repeat() => {
                let reason = "the install command was interrupted and may not be repeated";
                self.abandon(cx, &Fault::new(UpdateStatus::UnsupportedImage, reason)).await
            }
            (FirmwareState::Downloaded, _, None) => Recovery::RunAgain,
        }
    }
}

/// Why an update does not go on.
enum Stop {
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

impl Installs {
    async fn perform(&self, cx: &Context, running: &Running) -> Result<Performed, Stop> {
        self.install(cx, running).await?;
        if !self.install.restart_after_install || self.install.dry_run {
            return self.finish(cx).await;
        }
        let marker = Marker { req_id: req_id(cx), boot_id: boot_id(cx) };
        let staging = self.shared.staging.clone();
        let written = self.shared.blocking(cx, running, move |_| staging.write_marker(&marker)).await;
        // Without it the restart could not be told from a crash in the middle of the command.
        written.map_err(|error| unusable(format!("the restart could not be recorded: {error}")))?;
        self.restart(cx).await
    }

    /// From the accepted request to the end of the command.
    async fn install(&self, cx: &Context, running: &Running) -> Result<(), Stop> {
        let image = Image::described_by(&state::current(cx), &self.shared.options).map_err(unusable)?;
        if !self.shared.holds(cx, &image).await {
            return Err(unusable("the image is not here any more").into());
        }
        state::change(cx, FirmwareState::Downloaded, UpdateStatus::InProgress).await?;
        let staging = self.shared.staging.clone();
        // A leftover of another request; ours is written when the command has ended.
        let ready = self.shared.blocking(cx, running, move |_| staging.remove_marker()).await;
        ready.map_err(damaged)?;
        let path = self.shared.staging.image();
        match self.shared.prove(cx, &image, running, path.clone()).await.map_err(damaged)? {
            Verdict::Genuine => {}
            Verdict::Different => {
                return Err(unusable("the image has changed since it was downloaded").into());
            }
            Verdict::Stopped => return Err(Stop::Interrupted),
        }
        Ok(self.run_command(cx, path, image.version.as_deref()).await?)
    }

    async fn run_command(&self, cx: &Context, path: PathBuf, version: Option<&str>) -> Result<(), Fault> {
        let limit = self.install.time_limit.min(cx.remaining().saturating_sub(CLOSING_TIME));
        let child = child(&self.install.command, &path, version, limit);
        if self.install.dry_run {
            // How many, and not which: arguments may hold secrets.
            let (program, args) = (child.program.display(), child.args.len());
            tracing::info!(%program, args, version, "firmware: dry run, not installed");
            return Ok(());
        }
        tracing::info!(program = %child.program.display(), version, "firmware: installing");
        let output = cx.system().run(child).await.map_err(|error| unusable(error.to_string()))?;
        let status = match output.exit {
            ChildExit::Status(0) => return Ok(()),
            ChildExit::Status(EXIT_NO_ROOM) => UpdateStatus::OutOfMemory,
            ChildExit::Status(_) | ChildExit::Signal(_) => UpdateStatus::UnsupportedImage,
        };
        // What the command wrote stays on the device.
        let stderr = String::from_utf8_lossy(&output.stderr);
        tracing::warn!(exit = %output.exit, stderr = stderr.trim_end(), "firmware: the install command failed");
        Err(Fault::new(status, format!("the install command ended with {}", output.exit)))
    }

    async fn restart(&self, cx: &Context) -> Result<Performed, Stop> {
        match cx.system().restart(Restart::Reboot).await {
            Ok(Performed::Restarting) => Ok(Performed::Restarting),
            Ok(Performed::Complete) => self.finish(cx).await,
            Err(error) => Err(unusable(format!("installed, but not in use: {error}")).into()),
        }
    }

    /// After the restart: is what runs healthy?
    async fn judge(&self, cx: &Context) -> Result<Performed, Stop> {
        if let Some(check) = &self.install.check {
            let staging = self.shared.staging.clone();
            let record = cx.blocking(move |_| staging.record()).await;
            let version = record.and_then(|record| record.image.version);
            let limit = CHECK_LIMIT.min(cx.remaining());
            let child = child(check, &self.shared.staging.image(), version.as_deref(), limit);
            let output = cx.system().run(child).await.map_err(|error| unusable(error.to_string()))?;
            if output.exit != ChildExit::Status(0) {
                let stderr = String::from_utf8_lossy(&output.stderr);
                tracing::warn!(exit = %output.exit, stderr = stderr.trim_end(), "firmware: not healthy");
                return Err(
                    unusable(format!("after the restart the check ended with {}", output.exit)).into()
                );
            }
        }
        self.finish(cx).await
    }

    /// [`judge`](Self::judge), as an answer to [`recover`](Handler::recover).
    async fn judged(&self, cx: &Context) -> Recovery {
        match self.judge(cx).await {
            Ok(_) => Recovery::Done,
            Err(Stop::Fault(fault)) => self.abandon(cx, &fault).await,
            // Nothing was written: the next start judges again.
            Err(Stop::Interrupted) => Recovery::RunAgain,
        }
    }

    async fn abandon(&self, cx: &Context, fault: &Fault) -> Recovery {
        state::fail(cx, fault).await;
        self.clear(cx).await;
        Recovery::Abandon
    }

    /// First what the platform sees, then the files: a crash in between leaves files that are removed later.
    async fn finish(&self, cx: &Context) -> Result<Performed, Stop> {
        let staging = self.shared.staging.clone();
        let record = cx.blocking(move |_| staging.record()).await;
        let version = record.and_then(|record| record.image.version);
        tracing::info!(version, "firmware: installed");
        state::installed(cx, version).await?;
        self.clear(cx).await;
        Ok(Performed::Complete)
    }

    async fn clear(&self, cx: &Context) {
        let staging = self.shared.staging.clone();
        cx.blocking(move |_| staging.clear()).await;
    }

    /// This request's marker; one of another request is a leftover.
    async fn own_marker(&self, cx: &Context) -> Option<Marker> {
        let staging = self.shared.staging.clone();
        let marker = cx.blocking(move |_| staging.marker()).await;
        marker.filter(|marker| marker.req_id == req_id(cx))
    }

    fn may_repeat(&self) -> bool {
        self.install.install_is_repeatable || self.install.dry_run
    }
}

/// The version reaches the install command as an argument: it must not be taken for an option.
fn check_version(version: Option<&str>) -> Result<(), Refusal> {
    match version {
        Some(version) if version.starts_with('-') || version.contains(char::is_control) => {
            Err(Refusal::bad_request("version: starts with a hyphen or has control characters"))
        }
        _ => Ok(()),
    }
}

fn child(
    command: &[String],
    image: &std::path::Path,
    version: Option<&str>,
    time_limit: Duration,
) -> ChildProcess {
    let image = image.to_str().expect("FirmwareOptions::check wants a UTF-8 staging folder");
    let argument = |argument: &String| match argument.as_str() {
        "{image}" => image.to_owned(),
        "{version}" => version.unwrap_or_default().to_owned(),
        _ => argument.clone(),
    };
    let (program, args) = command.split_first().expect("FirmwareOptions::check wants a program");
    ChildProcess {
        args: args.iter().map(argument).collect(),
        time_limit,
        output_limit: OUTPUT_LIMIT_BYTES,
        ..ChildProcess::new(program)
    }
}

fn is_of_this_boot(marker: &Marker, cx: &Context) -> bool {
    marker.boot_id == boot_id(cx)
}

fn boot_id(cx: &Context) -> String {
    cx.system().boot_id().0.to_string()
}

fn req_id(cx: &Context) -> Option<String> {
    cx.req_id().map(|req_id| req_id.as_json().to_owned())
}

fn unusable(reason: impl Into<String>) -> Fault {
    Fault::new(UpdateStatus::UnsupportedImage, reason)
}

fn damaged(error: io::Error) -> Fault {
    unusable(format!("the image cannot be read: {error}"))
}

/// `EX_CANTCREAT` of sysexits.h: no room for the image.
const EXIT_NO_ROOM: i32 = 73;

/// How long the check after a restart may take; `recover` has 30 seconds in all.
const CHECK_LIMIT: Duration = Duration::from_secs(20);

/// Kept back from the budget to report how the command ended.
const CLOSING_TIME: Duration = Duration::from_secs(30);

/// How much of the command's output is kept for the log, in bytes.
const OUTPUT_LIMIT_BYTES: usize = 4 * 1024;

#[cfg(test)]
mod tests;
