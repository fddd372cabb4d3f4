//! Firmware: fetches the image that `mgmt.firmware` describes, proves it and has it installed (`docs/protocol.md`
//! §6.3).
//!
//! ```
//! # fn bundle() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use iotdm_core::Table;
//! use iotdm_handlers::firmware::{Firmware, FirmwareOptions, HttpFetcher, InstallOptions, RaucInstaller};
//!
//! let install = InstallOptions::new(RaucInstaller::new());
//! let install = InstallOptions { managed_within: Some(Duration::from_secs(300)), ..install };
//! let options = FirmwareOptions { install: Some(install), ..FirmwareOptions::new("/var/lib/iotdm/firmware") };
//! let mut table = Table::new();
//! table.with(Firmware::new(options, Arc::new(HttpFetcher::new()))?)?;
//! # Ok(())
//! # }
//! # bundle().unwrap();
//! ```
//!
//! # Flow
//! ```text
//!  download ─ 202 ─▶ state 1 ─▶ image.part ─▶ synced, proved ─▶ image ─▶ state 2
//!  update ─ 202 ─▶ updateStatus 1 ─▶ proved again ─▶ installer ─▶ restart ─▶ judgement ─▶ commit ─▶ state 0
//!                                                                                  └──▶ roll-back ─▶ restart ─▶ state 0
//! ```
//!
//! # Guarantees
//! * An image reaches the installer only after its checksum was right twice: when it had arrived, and again
//!   right before, read back from storage both times.
//! * A failure is one change of the attribute, and so one notify: state 0 and the reason in `updateStatus`.
//! * State 1 with nobody downloading, and state 2 without the image, do not lock the device: the next download is
//!   taken. They are what a request leaves that ran out of attempts, or a staging folder that somebody emptied.
//!
//! # After a crash
//! Each row: the last thing that is durable, and what the next start does.
//!
//! | download: last durable step | state | `recover` says | what happens then |
//! |---|---|---|---|
//! | 202 delivered | 0 | run again | starts |
//! | state 1 | 1 | run again | starts |
//! | `image.json` | 1 | run again | starts |
//! | some of `image.part` | 1 | run again | goes on behind it, after a reboot behind what was synced, if the server still has exactly this image; else from 0 |
//! | all of `image.part` | 1 | run again | proves it; if a power cut damaged it, fetches it once more from 0 |
//! | `image` | 1 | run again | proves it and reports state 2 |
//! | state 2 | 2 | done | |
//! | state 0 with a reason | 0 | run again | one more try: the failure itself is repeated or was transient |
//!
//! The marker is `installed.json`. What has more than one row under an installation is the same for each
//! [`Installer`]; what is special to one stands in `docs/handlers/firmware-install.md`.
//!
//! | update: last durable step | state, status | `recover` says | what happens then |
//! |---|---|---|---|
//! | 202 delivered | 2, 0 | run again | starts |
//! | status 1, no marker | 2, 1 | run again | starts |
//! | marker: installing | 2, 1 | resume | another firmware runs: judged; else repeatable: once more; else rolled back |
//! | marker: installed, same boot | 2, 1 | resume | does not install again: restarts |
//! | marker: installed, another boot | 2, 1 | done, or resume | the judgement: commit, or roll-back |
//! | marker: healthy | 2, 1 | resume | commits |
//! | marker: rolling back | 2, 1 | resume | rolls back once more |
//! | marker: rolled back, same boot | 2, 1 | resume | restarts |
//! | marker: rolled back, another boot | 2, 1 | resume | state 0, status 5 or 2, and why |
//! | marker: failed | 2, 1 | resume | state 0, status 5 or 2, and why |
//! | state 0, status 0 | 0, 0 | done | files are removed |
//! | state 0 with a reason | 0, 5 or 2 | resume, or abandon | tells why, and removes the files |
//!
//! An installation, a judgement and a roll-back are each begun three times at the most.
//!
//! # Caveats
//! * The protocol names no algorithm for the verifier: SHA-256, SHA-512 and signatures of minisign are taken, MD5 and
//!   SHA-1 are answered 400.
//! * A checksum proves that the image is the one the platform spoke of, not who made it: that is what
//!   [`Verification::Signed`] is for.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use iotdm_core::{Bundle, Context, Download, Table, TableError, Update};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

mod download;
mod fetch;
#[cfg(fuzzing)]
pub mod fuzzing;
mod http;
mod image;
mod install;
mod options;
mod pace;
mod staging;
mod state;
mod transfer;
mod verify;

pub use fetch::{FetchError, FetchRequest, Fetcher, Piece, Resume};
pub use http::HttpFetcher;
pub use install::{
    Activation, CommandInstaller, Conclusion, FileInstaller, InstallError, InstallOptions, Installer, Job,
    MenderModuleInstaller, RaucInstaller, SwupdateInstaller,
};
pub use options::{FirmwareOptions, FirmwareOptionsError, Progress, Verification};
pub use verify::{PublicKey, PublicKeyError};

use download::Downloads;
use image::Image;
use install::Installs;
use staging::Staging;
use verify::Verdict;

/// Firmware download and, where an install command is given, update. See the [module](self).
pub struct Firmware {
    shared: Arc<Shared>,
}

impl Firmware {
    /// With these options; `http:` and `https:` addresses go through the fetcher.
    pub fn new(options: FirmwareOptions, fetcher: Arc<dyn Fetcher>) -> Result<Self, FirmwareOptionsError> {
        options.check()?;
        let staging = Staging::new(options.staging.clone());
        let shared = Shared { options, staging, fetcher, running: Arc::default() };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Bundle for Firmware {
    fn register(self, table: &mut Table) -> Result<(), TableError> {
        if let Some(install) = self.shared.options.install.clone() {
            table.on::<Update>(Installs::new(self.shared.clone(), install))?;
        }
        table.on::<Download>(Downloads::new(self.shared))
    }
}

impl fmt::Debug for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Firmware").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

/// What both actions stand on.
struct Shared {
    options: FirmwareOptions,
    staging: Staging,
    fetcher: Arc<dyn Fetcher>,
    /// Held while one of the two works on the staging folder. The agent runs one firmware action of a device at a
    /// time; this keeps the folder safe where one staging folder serves several devices of a gateway, or where the
    /// blocking part of an action outlives it for a moment.
    running: Arc<Mutex<()>>,
}

impl Shared {
    /// The right to work in the staging folder, if nobody has it.
    fn occupy(&self) -> Option<Running> {
        self.running.clone().try_lock_owned().ok().map(Arc::new)
    }

    /// Blocking work in the staging folder, which stays occupied until it has ended.
    async fn blocking<T: Send + 'static>(
        &self,
        cx: &Context,
        running: &Running,
        work: impl FnOnce(&CancellationToken) -> T + Send + 'static,
    ) -> T {
        let running = running.clone();
        cx.blocking(move |stop| {
            let _running = running;
            work(stop)
        })
        .await
    }

    /// Whether exactly this image is here, complete.
    async fn holds(&self, cx: &Context, image: &Image) -> bool {
        let (staging, image) = (self.staging.clone(), image.clone());
        cx.blocking(move |_| staging.holds(&image)).await
    }

    /// Compares a file with the image's verifier, and with the keys where that is a signature; without one every file is taken for genuine.
    async fn prove(
        &self,
        cx: &Context,
        image: &Image,
        running: &Running,
        file: PathBuf,
    ) -> io::Result<Verdict> {
        let Some(verifier) = image.verifier.clone() else { return Ok(Verdict::Genuine) };
        let (keys, version) = (self.options.public_keys.clone(), image.version.clone());
        self.blocking(cx, running, move |stop| verifier.check(&file, &keys, version.as_deref(), stop)).await
    }
}

/// Held by an action and by each blocking piece of its work.
type Running = Arc<OwnedMutexGuard<()>>;

#[cfg(test)]
mod tests;
