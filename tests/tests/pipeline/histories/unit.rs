//! A unit with everything that the reference handlers need, and its hardware as a model.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iotdm_agent::testing::histories::Machine;
use iotdm_agent::{Builder, Device};
use iotdm_core::{ChildError, ChildExit, ChildOutput, ChildProcess, Severity, attribute};
use iotdm_handlers::firmware::{
    CommandInstaller, FetchError, FetchRequest, Fetcher, Firmware, FirmwareOptions, InstallOptions, Piece,
};
use iotdm_handlers::{Diagnostics, Restarts, ScriptSpec, Scripts};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::time::sleep;

/// What stays when the process dies.
#[derive(Debug)]
pub(super) struct Unit {
    machine: Machine,
    staging: TempDir,
    diagnostics: Mutex<Option<Diagnostics>>,
}

impl Unit {
    pub(super) fn new(machine: &Machine) -> Self {
        let hardware = machine.clone();
        machine.programs(move |child| program(hardware.clone(), child));
        // In memory where there is such a folder: thousands of syncs are no part of what is tested.
        let staging = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let staging = staging.expect("the temporary folder can be written");
        Self { machine: machine.clone(), staging, diagnostics: Mutex::default() }
    }

    /// The reference handlers, with firmware options that a test may make worse.
    pub(super) fn register(&self, builder: Builder, worse: fn(&mut FirmwareOptions)) -> Builder {
        let installer = CommandInstaller::new(["/usr/bin/install", "{image}", "{version}"]);
        let install = InstallOptions {
            health_check: Some(vec!["/usr/bin/check".into(), "{version}".into()]),
            ..InstallOptions::new(CommandInstaller { restart: true, ..installer })
        };
        let mut options = FirmwareOptions {
            install: Some(install),
            fruitless_attempts: 2,
            ..FirmwareOptions::new(self.staging.path().join("staging"))
        };
        worse(&mut options);
        let server = Arc::new(Server(self.machine.clone()));
        let firmware = Firmware::new(options, server).expect("the options are usable");
        let diagnostics = Diagnostics::new(Arc::new(self.machine.clone()));
        *self.diagnostics.lock().expect("no holder of the lock panics") = Some(diagnostics.clone());
        builder
            .with(firmware)
            .with(Restarts)
            .with(Scripts::new().add(ScriptSpec::new("lamp", "dim", "/usr/bin/dim")))
            .with(diagnostics)
    }

    /// Diagnostics of this life of the process, and a line in the record for each value of `mgmt.firmware`.
    pub(super) fn beside(&self, device: Device) -> impl Future<Output = ()> + Send + use<> {
        let diagnostics = self.diagnostics.lock().expect("no holder of the lock panics").clone();
        let diagnostics = diagnostics.expect("the product was registered");
        diagnostics.error_code(17);
        diagnostics.log(Severity::Information, "started");
        let (reporter, machine) = (device.clone(), self.machine.clone());
        async move {
            let send = move |report| {
                let reporter = reporter.clone();
                async move { reporter.report(report).await }
            };
            let mut changes = device.changes();
            let mut known = Value::Null;
            let watching = async {
                loop {
                    let firmware = device.attribute::<Value>(attribute::FIRMWARE).unwrap_or_default();
                    if firmware != known && !firmware.is_null() {
                        machine.note(format!("firmware: {firmware}"));
                        known = firmware;
                    }
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            };
            tokio::join!(watching, diagnostics.run(send));
        }
    }
}

/// `device/update` of `mgmt.firmware`: where the image of one version is, and the checksum of another's.
pub(super) fn describe(version: &str, of: &str) -> Value {
    let digest: String = Sha256::digest(image(of)).iter().map(|byte| format!("{byte:02x}")).collect();
    let uri = format!("http://images.example/{version}");
    let value = json!({"version": version, "uri": uri, "verifier": format!("sha256:{digest}")});
    json!({"fields": [{"field": "mgmt.firmware", "value": value}]})
}

pub(super) fn image(version: &str) -> Vec<u8> {
    format!("this is what version {version} is made of; ").repeat(10).into_bytes()
}

/// Has an image for each version; its luck is the history's.
pub(super) struct Server(pub(super) Machine);

/// Pieces of an image.
const PIECE_BYTES: usize = 100;

impl Fetcher for Server {
    fn fetch(
        &self,
        request: &FetchRequest<'_>,
        sink: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<(), FetchError> {
        let version = request.uri.rsplit('/').next().unwrap_or_default();
        let mut image = image(version);
        let trouble = self.0.draw(16);
        match trouble {
            1 => return Err(FetchError::Transport("nobody listens".into())),
            2 => return Err(FetchError::Status(503)),
            3 => return Err(FetchError::Status(404)),
            9 => {
                let retry_after = Duration::from_secs(self.0.draw(600));
                return Err(FetchError::Busy { status: 503, retry_after });
            }
            4 => image[7] ^= 1,
            _ => {}
        }
        let validator = format!("\"{version}\"");
        let from =
            request.resume.filter(|resume| resume.validator == validator).map_or(0, |resume| resume.from);
        let total = Some(image.len() as u64);
        let mut give = |piece: Piece<'_>| match sink(piece) {
            ControlFlow::Continue(()) if !request.cancellation.is_cancelled() => Ok(()),
            _ => Err(FetchError::Stopped),
        };
        give(Piece::Start { from, total, validator: Some(validator) })?;
        for (index, bytes) in image[usize::try_from(from).unwrap_or(0)..].chunks(PIECE_BYTES).enumerate() {
            if index == 2 {
                match trouble {
                    5..=6 => return Err(FetchError::Transport("cut".into())),
                    7 => self.0.cut_power(),
                    8 => self.0.crash(),
                    _ => {}
                }
                if trouble == 7 || trouble == 8 {
                    let what = if trouble == 7 { "the power goes" } else { "the process dies" };
                    self.0.note(format!("{what} while an image is fetched"));
                    return Err(FetchError::Stopped);
                }
            }
            give(Piece::Bytes(bytes))?;
        }
        Ok(())
    }
}

async fn program(machine: Machine, child: ChildProcess) -> Result<ChildOutput, ChildError> {
    let status = match child.program.to_str().unwrap_or_default() {
        "/usr/bin/install" => install(&machine, Path::new(&child.args[0]), &child.args[1]).await,
        "/usr/bin/check" => check(&machine, &child.args[0]).await,
        "/usr/bin/dim" => {
            let input: Value = serde_json::from_slice(&child.stdin).expect("the script gets JSON");
            machine.note(format!("dim: {}", input["reqId"]));
            sleep(Duration::from_secs(machine.draw(20))).await;
            [0, 0, 0, 64, 75, 1][draw(&machine, 6)]
        }
        other => panic!("nobody has installed {other}"),
    };
    Ok(ChildOutput {
        exit: ChildExit::Status(status),
        stdout: Vec::new(),
        stderr: Vec::new(),
        truncated: false,
    })
}

/// Takes its time, in which anything may happen.
async fn install(machine: &Machine, path: &Path, version: &str) -> i32 {
    let genuine = std::fs::read(path).is_ok_and(|bytes| bytes == image(version));
    machine
        .note(format!("install begins: {version}{}", if genuine { "" } else { ", and it is another image" }));
    sleep(Duration::from_secs(machine.draw(120))).await;
    let status = [0, 0, 0, 0, 0, 0, 73, 65, 1][draw(machine, 9)];
    if status == 0 {
        machine.note(format!("installed: {version}"));
    }
    status
}

/// The boot loader may have fallen back.
async fn check(machine: &Machine, version: &str) -> i32 {
    sleep(Duration::from_secs(machine.draw(5))).await;
    let status = i32::from(draw(machine, 4) == 3);
    machine.note(format!("{}: {version}", if status == 0 { "healthy" } else { "not healthy" }));
    status
}

fn draw(machine: &Machine, below: usize) -> usize {
    usize::try_from(machine.draw(below as u64)).expect("it is below a usize")
}
