//! RAUC: A/B systems whose slots and boot loader it knows.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use iotdm_core::{ChildExit, ChildProcess};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::super::FirmwareOptionsError;
use super::installer::{Activation, InstallError, Installer, Job, failed};

/// Installs bundles with [RAUC](https://rauc.io): `rauc install`, then a restart; the booted slot has to be another one
/// then. It is committed by `rauc status mark-good` and given up by `rauc status mark-bad`.
///
/// # Caveats
/// * RAUC's service goes on installing when its client ends, as it does when this agent crashes: an installation that
///   finds it busy waits for it, within its time limit, and then installs once more.
/// * The service is asked over D-Bus by the `rauc` program; `rauc.service` starts it by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaucInstaller {
    /// The `rauc` program.
    pub program: PathBuf,
}

impl RaucInstaller {
    /// `/usr/bin/rauc`.
    pub fn new() -> Self {
        Self { program: "/usr/bin/rauc".into() }
    }

    fn child(&self, job: &Job<'_>, args: &[&str]) -> ChildProcess {
        let program = std::iter::once(self.program.to_string_lossy().into_owned());
        let words: Vec<String> = program.chain(args.iter().map(ToString::to_string)).collect();
        let mut child = job.command(&words);
        // What it writes is compared.
        child.env.insert("LC_ALL".into(), "C".into());
        child
    }

    async fn status(&self, job: &Job<'_>) -> Result<Status, InstallError> {
        let child = self.child(job, &["status", "--output-format=json"]);
        let output = job.run("rauc status", child).await?;
        serde_json::from_slice(&output.stdout).map_err(|error| {
            tracing::warn!(%error, "firmware: what rauc status wrote is not understood");
            InstallError::Failed("rauc status wrote something else than its status".into())
        })
    }
}

impl Default for RaucInstaller {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Installer for RaucInstaller {
    fn check(&self) -> Result<(), FirmwareOptionsError> {
        if self.program.is_absolute() && self.program.to_str().is_some() {
            return Ok(());
        }
        Err(FirmwareOptionsError::Program("rauc"))
    }

    async fn running(&self, job: &Job<'_>) -> Result<Option<String>, InstallError> {
        let status = self.status(job).await?;
        let Some(booted) = status.booted.filter(|booted| !booted.is_empty()) else {
            return Err(InstallError::Failed("RAUC does not know which slot is booted".into()));
        };
        tracing::info!(booted, primary = status.boot_primary, "firmware: the slots of RAUC");
        Ok(Some(booted))
    }

    async fn install(&self, job: &Job<'_>) -> Result<Activation, InstallError> {
        let until = Instant::now() + job.time_limit();
        loop {
            let mut child = self.child(job, &["install", "{image}"]);
            child.time_limit = until.saturating_duration_since(Instant::now());
            let output = job.output(child).await?;
            if output.exit == ChildExit::Status(0) {
                return Ok(Activation::AfterRestart);
            }
            let is_busy = [&output.stdout, &output.stderr]
                .into_iter()
                .any(|written| String::from_utf8_lossy(written).contains(BUSY));
            if !is_busy || Instant::now() + BUSY_PAUSE >= until {
                return Err(failed("rauc install", &output));
            }
            tracing::info!("firmware: RAUC is still at an earlier installation");
            sleep(BUSY_PAUSE).await;
        }
    }

    async fn commit(&self, job: &Job<'_>) -> Result<(), InstallError> {
        job.run("rauc status mark-good", self.child(job, &["status", "mark-good"])).await.map(drop)
    }

    async fn rollback(&self, job: &Job<'_>) -> Result<Option<Activation>, InstallError> {
        if self.running(job).await?.as_deref() == job.before() {
            // Never booted: the slot that runs is to be the one that boots.
            let child = self.child(job, &["status", "mark-active", "booted"]);
            job.run("rauc status mark-active", child).await?;
            return Ok(Some(Activation::Immediate));
        }
        job.run("rauc status mark-bad", self.child(job, &["status", "mark-bad"])).await?;
        Ok(Some(Activation::AfterRestart))
    }
}

/// What `rauc status --output-format=json` writes, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Status {
    booted: Option<String>,
    boot_primary: Option<String>,
}

/// What the service answers while it installs, with either letter in front (RAUC's `src/service.c`).
const BUSY: &str = "lready processing a different method";

/// How long to wait between two looks whether RAUC is ready: an installation takes minutes.
const BUSY_PAUSE: Duration = Duration::from_secs(10);
