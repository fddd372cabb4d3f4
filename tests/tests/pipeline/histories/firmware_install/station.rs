//! A station whose firmware is a file, or is in one of two slots, on a machine that may stop at any moment of an update.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use iotdm_agent::testing::histories::Machine;
use iotdm_agent::{Builder, Device};
use iotdm_core::{ChildError, ChildExit, ChildOutput, ChildProcess, attribute};
use iotdm_handlers::Restarts;
use iotdm_handlers::firmware::{
    Activation, Conclusion, FileInstaller, Firmware, FirmwareOptions, InstallError, InstallOptions,
    Installer, Job,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use super::super::unit::{Server, image};

/// What installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// [`FileInstaller`].
    File,
    /// The model of an A/B system.
    Slots,
    /// The mistake to write over the file that is in use.
    Overwritten,
    /// The mistake to say that it was rolled back.
    NeverBack,
}

/// What stays when the process dies, and when the power goes.
#[derive(Clone, Debug)]
pub(super) struct Station {
    machine: Machine,
    kind: Kind,
    folder: Arc<TempDir>,
    boot: Arc<Mutex<Boot>>,
}

/// The boot loader's. Slot 0 has the delivery state.
#[derive(Debug)]
struct Boot {
    /// What has been seen of [`Machine::boots`].
    boots: u64,
    slots: [Vec<u8>; 2],
    booted: usize,
    primary: usize,
    /// A slot that is not good is booted once; then it is the other's turn.
    good: [bool; 2],
    tried: bool,
    /// What was done once does no harm twice.
    committed: bool,
}

impl Station {
    pub(super) fn new(machine: &Machine, kind: Kind) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.expect("the temporary folder can be written");
        fs::write(folder.path().join("lamp"), image(DELIVERED)).expect("the folder is ours");
        let boot = Boot {
            boots: 0,
            slots: [image(DELIVERED), Vec::new()],
            booted: 0,
            primary: 0,
            good: [true, false],
            tried: false,
            committed: false,
        };
        let station = Self {
            machine: machine.clone(),
            kind,
            folder: Arc::new(folder),
            boot: Arc::new(Mutex::new(boot)),
        };
        let hardware = machine.clone();
        machine.programs(move |child| check(hardware.clone(), child));
        station
    }

    pub(super) fn register(&self, builder: Builder, worse: fn(&mut InstallOptions)) -> Builder {
        // Each life of the process begins here, and the first of a boot before it has changed anything.
        drop(self.booted());
        let mut install = InstallOptions {
            health_check: Some(vec!["/usr/bin/check".into()]),
            managed_within: Some(Duration::from_secs(300)),
            ..InstallOptions::new(self.clone())
        };
        worse(&mut install);
        let options = FirmwareOptions {
            install: Some(install),
            ..FirmwareOptions::new(self.folder.path().join("staging"))
        };
        let server = Arc::new(Server(self.machine.clone()));
        builder.with(Firmware::new(options, server).expect("the options are usable")).with(Restarts)
    }

    /// A line in the record for each value of `mgmt.firmware`.
    pub(super) fn beside(&self, device: Device) -> impl Future<Output = ()> + Send + use<> {
        let machine = self.machine.clone();
        async move {
            let (mut changes, mut known) = (device.changes(), Value::Null);
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
        }
    }

    /// What an update has left beside the file and in the staging folder.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let folder = self.folder.path();
        let hidden = [".lamp.new", ".lamp.old", "staging/installed.json", "staging/work"];
        let left = hidden.iter().filter(|name| folder.join(name).exists());
        left.map(|name| (*name).to_owned()).collect()
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("lamp")
    }

    fn swap(&self) -> FileInstaller {
        FileInstaller { restart: true, ..FileInstaller::new(self.file()) }
    }

    /// What was booted; the boots since it was asked last are made up for.
    fn booted(&self) -> MutexGuard<'_, Boot> {
        let mut boot = self.boot.lock().expect("no holder of the lock panics");
        if boot.boots == 0 {
            boot.boots = 1;
            self.machine.note(format!("runs: {DELIVERED}"));
        }
        while boot.boots < self.machine.boots() {
            boot.boots += 1;
            // It does not go back to one that is marked bad.
            if !boot.good[boot.primary] && boot.tried && boot.good[1 - boot.primary] {
                boot.primary = 1 - boot.primary;
            }
            boot.tried = !boot.good[boot.primary];
            boot.booted = boot.primary;
            let found = if self.kind == Kind::Slots {
                boot.slots[boot.booted].clone()
            } else {
                fs::read(self.file()).unwrap_or_default()
            };
            let version = ["1.0", "2.0", "3.0"].into_iter().find(|version| found == image(version));
            self.machine.note(format!("runs: {}", version.unwrap_or(TORN)));
        }
        boot
    }

    /// Time passes, and with some luck nothing else.
    async fn weather(&self, when: &str) {
        sleep(Duration::from_secs(self.machine.draw(90))).await;
        match self.machine.draw(9) {
            1 => {
                self.machine.note(format!("the power goes {when}"));
                self.machine.cut_power();
                std::future::pending::<()>().await;
            }
            2 => {
                self.machine.note(format!("the process dies {when}"));
                self.machine.crash();
                std::future::pending::<()>().await;
            }
            _ => {}
        }
    }

    /// The first half of it is written.
    async fn write_half(&self, job: &Job<'_>) -> Vec<u8> {
        let mut whole = fs::read(job.image()).expect("the image is there");
        let rest = whole.split_off(whole.len() / 2);
        match self.kind {
            Kind::Slots => {
                let mut boot = self.booted();
                let other = 1 - boot.booted;
                // As RAUC does: from here on it cannot be booted.
                (boot.primary, boot.good[other]) = (boot.booted, false);
                boot.slots[other].clone_from(&whole);
            }
            Kind::Overwritten => fs::write(self.file(), &whole).expect("the folder is ours"),
            // What an installation that was interrupted leaves.
            _ => fs::write(self.folder.path().join(".lamp.new"), &whole).expect("the folder is ours"),
        }
        self.weather("in the middle of an installation").await;
        whole.extend(rest);
        whole
    }
}

#[async_trait]
impl Installer for Station {
    async fn running(&self, _: &Job<'_>) -> Result<Option<String>, InstallError> {
        Ok((self.kind == Kind::Slots).then(|| format!("slot {}", self.booted().booted)))
    }

    async fn install(&self, job: &Job<'_>) -> Result<Activation, InstallError> {
        let version = job.version().unwrap_or_default();
        self.machine.note(format!("install begins: {version}"));
        self.booted().committed = false;
        let whole = self.write_half(job).await;
        if self.machine.draw(12) == 1 {
            return Err(InstallError::NoRoom("the flash is full".into()));
        }
        match self.kind {
            Kind::Slots => {
                let mut boot = self.booted();
                let other = 1 - boot.booted;
                boot.slots[other] = whole;
                (boot.primary, boot.tried) = (other, false);
            }
            Kind::Overwritten => fs::write(self.file(), whole).expect("the folder is ours"),
            _ => drop(self.swap().install(job).await?),
        }
        self.machine.note(format!("installed: {version}"));
        self.weather("after an installation").await;
        Ok(Activation::AfterRestart)
    }

    async fn verify(&self, job: &Job<'_>) -> Result<(), InstallError> {
        if self.kind == Kind::Slots { Ok(()) } else { self.swap().verify(job).await }
    }

    async fn commit(&self, job: &Job<'_>) -> Result<(), InstallError> {
        self.weather("before a commit").await;
        if !self.booted().committed && self.machine.draw(12) == 1 {
            return Err(InstallError::Failed("the boot loader could not be told".into()));
        }
        if self.kind == Kind::Slots {
            let mut boot = self.booted();
            let booted = boot.booted;
            boot.good[booted] = true;
        } else {
            self.swap().commit(job).await?;
        }
        self.booted().committed = true;
        self.machine.note("committed");
        self.weather("after a commit").await;
        Ok(())
    }

    async fn rollback(&self, job: &Job<'_>) -> Result<Option<Activation>, InstallError> {
        self.machine.note("roll-back begins");
        self.weather("before a roll-back").await;
        let activation = match self.kind {
            Kind::Slots => {
                let mut boot = self.booted();
                let before = usize::from(job.before() == Some("slot 1"));
                (boot.primary, boot.good[1 - before]) = (before, false);
                let activation =
                    if boot.booted == before { Activation::Immediate } else { Activation::AfterRestart };
                Some(activation)
            }
            Kind::NeverBack => Some(Activation::Immediate),
            Kind::Overwritten => None,
            Kind::File => self.swap().rollback(job).await?,
        };
        self.weather("after a roll-back").await;
        Ok(activation)
    }

    async fn conclude(&self, job: &Job<'_>, end: Conclusion) -> Result<(), InstallError> {
        if self.kind != Kind::Slots {
            self.swap().conclude(job, end).await?;
        }
        self.weather("before an update is told").await;
        Ok(())
    }
}

/// What is installed may be no good.
async fn check(machine: Machine, child: ChildProcess) -> Result<ChildOutput, ChildError> {
    assert_eq!(child.program.to_str(), Some("/usr/bin/check"));
    sleep(Duration::from_secs(machine.draw(10))).await;
    let status = i32::from(machine.draw(4) == 1);
    machine.note(if status == 0 { "healthy" } else { "not healthy" });
    Ok(ChildOutput {
        exit: ChildExit::Status(status),
        stdout: Vec::new(),
        stderr: Vec::new(),
        truncated: false,
    })
}

/// What is told of firmware that is neither of the images, but a part of one.
pub(super) const TORN: &str = "half of something";

const DELIVERED: &str = "1.0";
