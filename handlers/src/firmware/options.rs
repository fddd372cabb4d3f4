use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::InstallOptions;
use super::verify::PublicKey;

/// How this device fetches and installs firmware.
#[derive(Clone)]
pub struct FirmwareOptions {
    /// A folder of the agent's own, on storage that survives a restart and has room for one image. Nothing else may
    /// write there: an image is installed from it.
    pub staging: PathBuf,
    /// Whether an image needs a verifier.
    pub verification: Verification,
    /// Keys that may vouch for images. Without one no signature is taken.
    pub public_keys: Vec<PublicKey>,
    /// Largest image that is fetched, in bytes.
    pub max_image_bytes: u64,
    /// Whether `file://` addresses are taken: for tests and for devices that get images on a medium.
    pub allow_file_uris: bool,
    /// How many attempts in a row may bring nothing before the transfer is given up as lost.
    pub fruitless_attempts: u32,
    /// How long a server may be silent before the attempt counts as lost.
    pub stall_limit: Duration,
    /// Most bytes per second, on average.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Called with each piece that arrives, from the thread that fetches: what is here, and how much it will be.
    pub on_progress: Option<Progress>,
    /// How an image is installed; without it the device answers an update with 501.
    pub install: Option<InstallOptions>,
}

/// Gets the bytes that are here and, where the server tells, how many it will be.
pub type Progress = Arc<dyn Fn(u64, Option<u64>) + Send + Sync>;

/// Whether an image needs a verifier (`docs/protocol.md` §6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// A download without a verifier is answered 400.
    #[default]
    Required,
    /// An image without a verifier is taken as it comes.
    IfGiven,
    /// A download without a signature by one of [`FirmwareOptions::public_keys`] is answered 400: whoever may describe an
    /// image to the platform can make a checksum, but not that.
    Signed,
}

impl FirmwareOptions {
    /// Downloads only, with careful defaults: a verifier is required, 256 MiB at most, no `file:` addresses.
    pub fn new(staging: impl Into<PathBuf>) -> Self {
        Self {
            staging: staging.into(),
            verification: Verification::Required,
            public_keys: Vec::new(),
            max_image_bytes: DEFAULT_MAX_IMAGE_BYTES,
            allow_file_uris: false,
            fruitless_attempts: DEFAULT_FRUITLESS_ATTEMPTS,
            stall_limit: DEFAULT_STALL_LIMIT,
            bytes_per_second: None,
            on_progress: None,
            install: None,
        }
    }
}

impl fmt::Debug for FirmwareOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirmwareOptions")
            .field("staging", &self.staging)
            .field("verification", &self.verification)
            .field("public_keys", &self.public_keys)
            .field("max_image_bytes", &self.max_image_bytes)
            .field("allow_file_uris", &self.allow_file_uris)
            .field("install", &self.install)
            .finish_non_exhaustive()
    }
}

/// Why options cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FirmwareOptionsError {
    /// A command has no program, or one without its path: no search path decides what installs firmware.
    #[error("the {0} command has to start with a program's absolute path")]
    Program(&'static str),
    /// A file that is to be replaced is named by its whole path.
    #[error("the firmware file {0:?} has to be an absolute path")]
    Target(PathBuf),
    /// A name that becomes one of a file in a folder.
    #[error("{0:?} has to be the plain name of a file")]
    FileName(String),
    /// The image's path is handed to the install command as an argument, which is text.
    #[error("the staging folder {0:?} has to be an absolute path in UTF-8")]
    Staging(PathBuf),
    /// Signatures are required, and there is no key that could have made one.
    #[error("signatures are required and there is no public key")]
    NoPublicKey,
    /// A limit of zero lets nothing through.
    #[error("{0} has to be more than zero")]
    Zero(&'static str),
}

impl FirmwareOptions {
    pub(super) fn check(&self) -> Result<(), FirmwareOptionsError> {
        if !self.staging.is_absolute() || self.staging.to_str().is_none() {
            return Err(FirmwareOptionsError::Staging(self.staging.clone()));
        }
        if self.verification == Verification::Signed && self.public_keys.is_empty() {
            return Err(FirmwareOptionsError::NoPublicKey);
        }
        let zeroes = [
            ("max_image_bytes", self.max_image_bytes == 0),
            ("fruitless_attempts", self.fruitless_attempts == 0),
            ("stall_limit", self.stall_limit.is_zero()),
        ];
        if let Some((name, _)) = zeroes.iter().find(|(_, zero)| *zero) {
            return Err(FirmwareOptionsError::Zero(name));
        }
        self.install.as_ref().map_or(Ok(()), InstallOptions::check)
    }
}

/// 256 MiB: more than the root file systems of the devices this is for.
const DEFAULT_MAX_IMAGE_BYTES: u64 = 256 * 1024 * 1024;

/// With the pauses between attempts this bridges an outage of a quarter of an hour.
const DEFAULT_FRUITLESS_ATTEMPTS: u32 = 20;

/// A mobile link that changes its cell is silent for some ten seconds.
const DEFAULT_STALL_LIMIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::super::CommandInstaller;
    use super::*;

    #[test]
    fn options_that_could_only_fail_later_are_refused_at_once() {
        let good = FirmwareOptions::new("/staging");
        let with = |command: &[&str]| FirmwareOptions {
            install: Some(InstallOptions::new(CommandInstaller::new(command.iter().copied()))),
            ..good.clone()
        };
        assert_eq!(good.check(), Ok(()));
        assert_eq!(with(&["/bin/install", "{image}"]).check(), Ok(()));
        assert_eq!(with(&[]).check(), Err(FirmwareOptionsError::Program("install")));
        assert_eq!(with(&["install"]).check(), Err(FirmwareOptionsError::Program("install")));
        assert!(matches!(FirmwareOptions::new("staging").check(), Err(FirmwareOptionsError::Staging(_))));
        let keyless = FirmwareOptions { verification: Verification::Signed, ..good.clone() };
        assert_eq!(keyless.check(), Err(FirmwareOptionsError::NoPublicKey));
        let zero = FirmwareOptions { max_image_bytes: 0, ..good };
        assert_eq!(zero.check(), Err(FirmwareOptionsError::Zero("max_image_bytes")));
    }
}
