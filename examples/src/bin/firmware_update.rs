//! Two firmware updates that restart the machine: one is healthy and stays, the other is not and is rolled back. Broker,
//! platform and device are in one process.
//!
//! ```sh
//! cargo run -p iotdm-examples --bin firmware_update
//! ```
//!
//! [`product`] is what a device maker writes: firmware that is one file, swapped in one step, and judged after the
//! restart. The machine is played by [`Machine`]; the file is a real one, in a temporary folder.

use std::error::Error;
use std::fs;
use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use iotdm_agent::system::LinuxSystem;
use iotdm_agent::{Agent, Builder, Device};
use iotdm_core::{
    BootId, ChildError, ChildExit, ChildOutput, ChildProcess, Code, DeviceInfo, Performed, Restart,
    RestartError, System, attribute,
};
use iotdm_examples::Options;
use iotdm_handlers::firmware::{
    FetchError, FetchRequest, Fetcher, FileInstaller, Firmware, FirmwareOptions, FirmwareOptionsError,
    InstallOptions, Piece,
};
use iotdm_platform::broker::{Broker, BrokerOptions};
use iotdm_platform::{
    DeviceName, Event, Failure, FirmwareError, FirmwareRequest, Happening, Image, Outcome, Platform,
    PlatformOptions,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::{broadcast, mpsc};
use tokio::time::sleep;

type Failed = Box<dyn Error>;

/// A device whose firmware is one file. After the restart it has to be healthy, and managed within five minutes; else
/// the old file comes back.
fn product(builder: Builder, firmware: &Path, staging: &Path) -> Result<Builder, FirmwareOptionsError> {
    let installer = FileInstaller { restart: true, ..FileInstaller::new(firmware) };
    let install = InstallOptions {
        health_check: Some(vec![HEALTH_CHECK.into()]),
        managed_within: Some(Duration::from_secs(300)),
        ..InstallOptions::new(installer)
    };
    let options = FirmwareOptions { install: Some(install), ..FirmwareOptions::new(staging) };
    Ok(builder.with(Firmware::new(options, Arc::new(Server))?))
}

/// Has an image for each version. That of 3.0 does not light the lamp.
struct Server;

impl Fetcher for Server {
    fn fetch(
        &self,
        request: &FetchRequest<'_>,
        sink: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<(), FetchError> {
        let image = image(request.uri.rsplit('/').next().unwrap_or_default());
        let start = Piece::Start { from: 0, total: Some(image.len() as u64), validator: None };
        match [start, Piece::Bytes(image.as_bytes())].into_iter().try_for_each(sink) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(FetchError::Stopped),
        }
    }
}

fn image(version: &str) -> String {
    format!("firmware {version}, {}", if version == "3.0" { "dark" } else { "lit" })
}

/// A machine that is restarted by whoever hears of it, and plays one program: the health check looks at what is
/// installed.
#[derive(Clone, Debug)]
struct Machine {
    linux: LinuxSystem,
    firmware: PathBuf,
    boot: Arc<AtomicU64>,
    restarts: mpsc::UnboundedSender<Restart>,
    told: Arc<Mutex<Vec<String>>>,
}

impl Machine {
    /// What stays after each step of the story.
    fn tell(&self, what: impl Into<String>) {
        let line = format!("boot {}  {}", self.boot.load(Ordering::Relaxed), what.into());
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn installed(&self) -> String {
        fs::read_to_string(&self.firmware).unwrap_or_default()
    }
}

#[async_trait]
impl System for Machine {
    fn wall_clock(&self) -> Duration {
        self.linux.wall_clock()
    }

    fn uptime(&self) -> Duration {
        self.linux.uptime()
    }

    fn boot_id(&self) -> BootId {
        BootId(format!("boot-{}", self.boot.load(Ordering::Relaxed)).into())
    }

    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError> {
        self.tell(format!("device    restarts into \"{}\"", self.installed()));
        let reason = || "the machine is switched off".to_owned();
        self.restarts.send(kind).map_err(|_| RestartError::Command { kind, reason: reason() })?;
        Ok(Performed::Restarting)
    }

    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        assert_eq!(child.program, Path::new(HEALTH_CHECK));
        let healthy = self.installed().ends_with("lit");
        self.tell(format!("device    asks whether it is healthy: {}", if healthy { "yes" } else { "no" }));
        let exit = ChildExit::Status(i32::from(!healthy));
        Ok(ChildOutput { exit, stdout: Vec::new(), stderr: Vec::new(), truncated: false })
    }
}

/// The device: its machine, what is on its disk, and where it is managed.
struct Lamp {
    machine: Machine,
    folder: TempDir,
    broker: SocketAddr,
    /// The agent's, since it was started last.
    device: Mutex<Option<Device>>,
}

impl Lamp {
    fn new(broker: SocketAddr) -> Result<(Self, mpsc::UnboundedReceiver<Restart>), Failed> {
        let folder = tempfile::tempdir()?;
        let firmware = folder.path().join("lamp");
        fs::write(&firmware, image("1.0.0"))?;
        let (restarts, heard) = mpsc::unbounded_channel();
        let linux = LinuxSystem::new()?;
        let (boot, told) = (Arc::new(AtomicU64::new(1)), Arc::default());
        let machine = Machine { linux, firmware, boot, restarts, told };
        Ok((Self { machine, folder, broker, device: Mutex::default() }, heard))
    }

    fn agent(&self) -> Result<Agent, Failed> {
        let options = Options {
            host: self.broker.ip().to_string(),
            port: self.broker.port(),
            journal: self.folder.path().join("journal"),
            for_seconds: None,
        };
        let builder = Agent::builder(options.config("example", "lamp")?)
            .journal(&options.journal)
            .system(Arc::new(self.machine.clone()));
        let agent = product(builder, &self.machine.firmware, &self.folder.path().join("staging"))?.build()?;
        *self.device.lock().unwrap_or_else(PoisonError::into_inner) = Some(agent.device());
        Ok(agent)
    }

    /// Runs until it is dropped. Whenever the machine is to restart, the process is gone without a word, and comes
    /// again.
    async fn live(&self, mut restarts: mpsc::UnboundedReceiver<Restart>) -> Result<(), Failed> {
        loop {
            let going_down = async {
                restarts.recv().await;
                // What the handler still has to record.
                sleep(TIME_TO_GO_DOWN).await;
            };
            tokio::select! {
                ended = self.agent()?.run_until(std::future::pending::<()>()) => return Ok(ended?),
                () = going_down => {}
            }
            self.machine.boot.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn version(&self) -> Option<String> {
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.as_ref()?.attribute::<DeviceInfo>(attribute::DEVICE_INFO)?.fw_version
    }
}

/// Whoever manages the lamp.
struct Operator<'a> {
    platform: Platform,
    name: DeviceName,
    lamp: &'a Lamp,
}

impl Operator<'_> {
    fn tell(&self, what: impl Into<String>) {
        self.lamp.machine.tell(what);
    }

    /// Download and update of one version, as the platform does them, and what it is told of the update.
    async fn update(&self, version: &str) -> Result<(), Failed> {
        let digest = Sha256::digest(image(version));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let image = Image {
            version: version.into(),
            uri: format!("http://images.example/{version}"),
            verifier: format!("sha256:{digest}"),
            ..Image::default()
        };
        let request = FirmwareRequest { image: Some(image), ..FirmwareRequest::default() };
        self.download(&request).await?;
        self.tell(format!("platform  has {version} downloaded, and asks for the update"));
        let events = self.platform.events();
        let ended = self.platform.firmware_update(&self.name, &FirmwareRequest::default()).await;
        self.tell_ends(events);
        if let Err(error) = ended {
            self.tell(format!("platform  says: {error}"));
            self.tell_log().await;
        }
        let version = self.lamp.version().unwrap_or_default();
        self.tell(format!("device    has \"{}\" and fwVersion {version}", self.lamp.machine.installed()));
        Ok(())
    }

    /// A device is notified of an end a moment before it takes the next image: until then that is answered 409.
    async fn download(&self, request: &FirmwareRequest) -> Result<(), FirmwareError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.platform.firmware_download(&self.name, request).await {
                Err(FirmwareError::Ended {
                    outcome: Outcome::Failed(Failure::Answered(Code::CONFLICT)),
                    ..
                }) if tries < BUSY_TRIES => {
                    sleep(BUSY_PAUSE).await;
                }
                ended => return ended.map(drop),
            }
        }
    }

    /// What the platform was notified of an end; what it was notified of on the way there is left out.
    fn tell_ends(&self, mut events: broadcast::Receiver<Event>) {
        while let Ok(event) = events.try_recv() {
            let Happening::Notified(values) = event.happening else { continue };
            for value in values.iter().filter(|value| value.field == attribute::FIRMWARE) {
                if value.value["state"] == 0 {
                    let status = &value.value["updateStatus"];
                    self.tell(format!("platform  is notified: state 0, updateStatus {status}"));
                }
            }
        }
    }

    async fn tell_log(&self) {
        let log = || self.platform.device(&self.name).map(|device| device.log).filter(|log| !log.is_empty());
        self.platform.wait_until(|_| log().is_some()).await;
        for entry in log().into_iter().flatten() {
            // The reqId before it differs from run to run.
            let why = entry.message.split_once("failed: ").map_or(entry.message.as_str(), |(_, why)| why);
            self.tell(format!("platform  has it in its log: {why}"));
        }
    }
}

/// All of it; what happened, line by line.
async fn story() -> Result<Vec<String>, Failed> {
    let broker = Broker::start(BrokerOptions::default()).await?;
    let platform = Platform::connect(PlatformOptions::new(broker.local_addr())).await?;
    let (lamp, restarts) = Lamp::new(broker.local_addr())?;
    let operator = Operator { platform, name: DeviceName::new("example", "lamp")?, lamp: &lamp };
    let updating = async {
        operator.platform.managed(&operator.name).await;
        operator.update("2.0").await?;
        operator.update("3.0").await
    };
    tokio::select! {
        ended = lamp.live(restarts) => ended?,
        updated = updating => updated?,
    }
    Ok(lamp.machine.told.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let lines = story().await?;
    let mut out = stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    Ok(())
}

/// Played by [`Machine`].
const HEALTH_CHECK: &str = "/usr/lib/lamp/is-lit";

/// How often, and how far apart, a busy device is asked: ten seconds in all.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// From the order to restart until the power is gone.
const TIME_TO_GO_DOWN: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use iotdm_agent::testing::{MemoryDisk, Platform as Bench, TestSystem, start};
    use iotdm_core::{Action, Update};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_healthy_update_stays_and_an_unhealthy_one_is_rolled_back_and_says_why() {
        assert_eq!(
            story().await.unwrap(),
            [
                "boot 1  platform  has 2.0 downloaded, and asks for the update",
                "boot 1  device    restarts into \"firmware 2.0, lit\"",
                "boot 2  device    asks whether it is healthy: yes",
                "boot 2  platform  is notified: state 0, updateStatus 0",
                "boot 2  device    has \"firmware 2.0, lit\" and fwVersion 2.0",
                "boot 2  platform  has 3.0 downloaded, and asks for the update",
                "boot 2  device    restarts into \"firmware 3.0, dark\"",
                "boot 3  device    asks whether it is healthy: no",
                "boot 3  device    restarts into \"firmware 2.0, lit\"",
                "boot 4  platform  is notified: state 0, updateStatus 5",
                "boot 4  platform  says: the firmware action failed: UnsupportedImage",
                "boot 4  platform  has it in its log: the health check ended with exit status 1; rolled back",
                "boot 4  device    has \"firmware 2.0, lit\" and fwVersion 2.0",
            ]
        );
    }
    /// How a product tests its own options: no broker, no disk, no time.
    #[tokio::test(start_paused = true)]
    async fn a_lamp_without_an_image_refuses_an_update_and_keeps_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let firmware = folder.path().join("lamp");
        fs::write(&firmware, image("1.0.0")).unwrap();
        let (platform, disk, system) = (Bench::new(), MemoryDisk::new(), TestSystem::new());
        let _agent = start(&platform, &disk, &system, |builder| {
            product(builder, &firmware, &folder.path().join("staging")).unwrap()
        });
        platform.managed(1).await;
        platform.send(Update::ROUTE, json!({"reqId": "1"}));
        let answer = platform.response("1").await;
        assert_eq!(
            (&answer["rc"], &answer["message"]),
            (&json!(400), &json!("mgmt.firmware.state is 0; an update starts from 2 (downloaded)"))
        );
        assert_eq!(fs::read_to_string(&firmware).unwrap(), image("1.0.0"));
    }
}
