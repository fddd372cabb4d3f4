//! Everything that runs in a sandbox.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use iotdm_agent::{Agent, Broker as BrokerAddress, Config, Limits};
use iotdm_core::{Action, DeviceInfo, Identity, Late, Reboot, System};
use iotdm_handlers::firmware::{
    CommandInstaller, Firmware, FirmwareOptions, HttpFetcher, InstallOptions, Progress,
};
use tempfile::TempDir;
use tokio::sync::{broadcast, mpsc, watch};

use super::device::{CountedReboot, Dim, Lamp, Runs, SelfTest};
use super::machine::{HEALTH_CHECK, INSTALLER, Machine, SandboxSystem};
use super::{SandboxError, machine};
use crate::broker::{Broker, BrokerOptions};
use crate::images::ImageServer;
use crate::{DeviceName, Event, Platform, PlatformOptions};

/// The two sides, what is between them, and what they stand on.
pub(super) struct World {
    pub(super) broker: Broker,
    pub(super) platform: Arc<Platform>,
    pub(super) machine: Machine,
    pub(super) system: SandboxSystem,
    pub(super) images: ImageServer,
    pub(super) runs: Runs,
    pub(super) device: DeviceName,
    folder: TempDir,
}

/// Where a tour sees what happens.
pub(super) struct Sources {
    events: broadcast::Receiver<Event>,
    told: mpsc::UnboundedReceiver<String>,
    progress: watch::Receiver<(u64, u64)>,
}

/// Something that happened.
pub(super) enum Seen {
    Platform(Box<Event>),
    Machine(String),
    Progress(u64, u64),
}

impl World {
    pub(super) async fn start() -> Result<(Self, Sources), SandboxError> {
        let folder = tempfile::Builder::new().prefix("iotdm-sandbox-").tempdir()?;
        let broker = Broker::start(BrokerOptions::default()).await?;
        let platform = Arc::new(Platform::connect(PlatformOptions::new(broker.local_addr())).await?);
        let images = ImageServer::start(IMAGE_BYTES).await?;
        images.cut_at(CUT_AT_BYTE);
        images.pause(BLOCK_PAUSE);
        let identity = Identity::device("sandbx", "lamp", "SN-0001").map_err(io::Error::other)?;
        let device = DeviceName::from(&identity);
        let (system, restarts) = SandboxSystem::new();
        let (told, heard) = mpsc::unbounded_channel();
        let (bytes_here, progress) = watch::channel((0, 0));
        let runs = Runs::default();
        let parts = DeviceParts {
            config: config(identity, broker.local_addr().port()),
            folder: folder.path().to_owned(),
            runs: runs.clone(),
            // The server tells the length of what is left, so that the whole is known here.
            progress: Arc::new(move |here, total| {
                bytes_here.send_replace((here, total.unwrap_or(IMAGE_BYTES)));
            }),
        };
        let assemble: machine::Assemble = Box::new(move |system| parts.assemble(system));
        let machine = Machine::new(system.clone(), restarts, assemble, told);
        let sources = Sources { events: platform.events(), told: heard, progress };
        Ok((Self { broker, platform, machine, system, images, runs, device, folder }, sources))
    }

    /// Stops everything, in the order in which a person would; whether nothing is left.
    pub(super) async fn end(self) -> bool {
        self.machine.off().await;
        drop(self.images);
        self.broker.shutdown().await;
        drop(self.platform);
        let path = self.folder.path().to_owned();
        self.folder.close().is_ok() && !Path::exists(&path)
    }
}

impl Sources {
    pub(super) async fn next(&mut self) -> Seen {
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Ok(event) => return Seen::Platform(Box::new(event)),
                    // Somebody floods the sandbox: the rest of the timeline goes on.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    // The platform outlives the tour.
                    Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
                },
                Some(told) = self.told.recv() => return Seen::Machine(told),
                Ok(()) = self.progress.changed() => {
                    let (here, total) = *self.progress.borrow_and_update();
                    return Seen::Progress(here, total);
                }
            }
        }
    }

    /// What has happened already.
    pub(super) fn try_next(&mut self) -> Option<Seen> {
        loop {
            match self.events.try_recv() {
                Ok(event) => return Some(Seen::Platform(Box::new(event))),
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return self.told.try_recv().ok().map(Seen::Machine),
            }
        }
    }
}

/// What an agent is made of, at each start anew.
struct DeviceParts {
    config: Config,
    folder: PathBuf,
    runs: Runs,
    progress: Progress,
}

impl DeviceParts {
    fn assemble(&self, system: Arc<dyn System>) -> Result<Agent, String> {
        let installer = CommandInstaller { restart: true, ..CommandInstaller::new([INSTALLER, "{image}"]) };
        let install = InstallOptions {
            health_check: Some(vec![HEALTH_CHECK.into()]),
            ..InstallOptions::new(installer)
        };
        let options = FirmwareOptions {
            on_progress: Some(self.progress.clone()),
            install: Some(install),
            ..FirmwareOptions::new(self.folder.join("firmware"))
        };
        let firmware =
            Firmware::new(options, Arc::new(HttpFetcher::new())).map_err(|error| error.to_string())?;
        Agent::builder(self.config.clone())
            .system(system)
            .journal(self.folder.join("journal"))
            .on::<Reboot>(CountedReboot(self.runs.clone()))
            .on::<Dim>(Lamp(self.runs.clone()))
            .on::<SelfTest>(Lamp(self.runs.clone()))
            .with(firmware)
            .policy(Reboot::ROUTE, |policy| policy.late = Late::RefuseAfter(REBOOT_IS_LATE_AFTER))
            .build()
            .map_err(|error| error.to_string())
    }
}

fn config(identity: Identity, port: u16) -> Config {
    Config {
        identity,
        broker: BrokerAddress { keep_alive: Duration::from_secs(30), ..BrokerAddress::at("127.0.0.1", port) },
        token: None,
        lifetime: Duration::from_secs(3_600),
        device_info: DeviceInfo {
            serial_number: Some("SN-0001".into()),
            model: Some("sandbox lamp".into()),
            fw_version: Some("1.0.0".into()),
            ..DeviceInfo::default()
        },
        metadata: None,
        limits: Limits { shutdown_grace: STOP_WITHIN, ..Limits::default() },
    }
}

/// After this a reboot that waited is refused.
pub(super) const REBOOT_IS_LATE_AFTER: Duration = Duration::from_secs(15 * 60);

/// Size of the image: large enough for a progress bar that a person sees.
pub(super) const IMAGE_BYTES: u64 = 5_000_000;

/// Where the first transfer breaks: after more than a third.
pub(super) const CUT_AT_BYTE: u64 = 2_000_000;

/// Pause after each block of 64 KiB: two seconds for the image.
const BLOCK_PAUSE: Duration = Duration::from_millis(26);

/// How long the agent's work may go on when the sandbox ends: a person waits.
const STOP_WITHIN: Duration = Duration::from_millis(200);
