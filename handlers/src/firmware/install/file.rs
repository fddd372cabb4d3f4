//! Firmware that is one file: it is swapped in one step, and the old one kept until the new one has proved itself.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rustix::fs::OFlags;
use tokio_util::sync::CancellationToken;

use super::super::FirmwareOptionsError;
use super::installer::{Activation, Conclusion, InstallError, Installer, Job, has_program};

/// Puts the image in the place of one file.
///
/// The image is copied beside the file, synced, given the old file's mode and owner, and renamed over it: after a power
/// cut the old file is there or the whole new one. Until the commit the old one is kept beside it as `.NAME.old`, and
/// where it could not be put back, until the next update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInstaller {
    /// The file that is the firmware.
    pub target: PathBuf,
    /// Its permission bits when there was no such file before.
    pub mode: u32,
    /// Puts the file to use, after it was swapped and after it was swapped back: such as restarting a service.
    pub activate: Option<Vec<String>>,
    /// Whether the device has to be restarted for the file to be in use.
    pub restart: bool,
}

impl FileInstaller {
    /// Swaps this file, followed by nothing.
    pub fn new(target: impl Into<PathBuf>) -> Self {
        Self { target: target.into(), mode: DEFAULT_MODE, activate: None, restart: false }
    }

    async fn activated(&self, job: &Job<'_>) -> Result<Activation, InstallError> {
        if let Some(activate) = &self.activate {
            job.run("the activate command", job.command(activate)).await?;
        }
        Ok(if self.restart { Activation::AfterRestart } else { Activation::Immediate })
    }

    fn swap(&self, job: &Job<'_>) -> Swap {
        Swap {
            target: self.target.clone(),
            new: beside(&self.target, "new"),
            old: beside(&self.target, "old"),
            begun: job.folder().join("begun"),
            image: job.image().into(),
            mode: self.mode,
        }
    }
}

#[async_trait]
impl Installer for FileInstaller {
    fn check(&self) -> Result<(), FirmwareOptionsError> {
        if !self.target.is_absolute() || self.target.file_name().is_none() {
            return Err(FirmwareOptionsError::Target(self.target.clone()));
        }
        match &self.activate {
            Some(activate) if !has_program(activate) => Err(FirmwareOptionsError::Program("activate")),
            _ => Ok(()),
        }
    }

    async fn install(&self, job: &Job<'_>) -> Result<Activation, InstallError> {
        let swap = self.swap(job);
        job.blocking(move |stop| swap.put_in_place(stop)).await?;
        self.activated(job).await
    }

    async fn verify(&self, job: &Job<'_>) -> Result<(), InstallError> {
        let swap = self.swap(job);
        let same = job.blocking(move |stop| same_content(&swap.target, &swap.image, stop)).await;
        match same.map_err(|error| step("the file could not be read", &error))? {
            true => Ok(()),
            false => Err(InstallError::Failed("the file is not the image any more".into())),
        }
    }

    async fn rollback(&self, job: &Job<'_>) -> Result<Option<Activation>, InstallError> {
        let swap = self.swap(job);
        let undone = job.blocking(move |_| swap.put_back()).await;
        if !undone.map_err(|error| step("the old file could not be put back", &error))? {
            return Ok(Some(Activation::Immediate));
        }
        self.activated(job).await.map(Some)
    }

    async fn conclude(&self, job: &Job<'_>, end: Conclusion) -> Result<(), InstallError> {
        let swap = self.swap(job);
        let removed = job.blocking(move |_| swap.clean_up(end)).await;
        removed.map_err(|error| step("the old file could not be removed", &error))
    }
}

/// The files of one swap. Whatever is found half done is completed or taken back.
#[derive(Debug)]
struct Swap {
    target: PathBuf,
    /// The new file, until it is complete.
    new: PathBuf,
    /// The old file, from before the swap to the end of the update.
    old: PathBuf,
    /// Durable once `old` is what it should be: whether there was an old file.
    begun: PathBuf,
    image: PathBuf,
    mode: u32,
}

impl Swap {
    fn put_in_place(&self, stop: &CancellationToken) -> Result<(), InstallError> {
        self.refuse_other_than_file()?;
        if self.had_old().is_none() {
            self.keep_old(stop).map_err(|error| step("the old file could not be kept", &error))?;
        }
        self.copy(stop).map_err(|error| step("the new file could not be written", &error))?;
        let renamed = fs::rename(&self.new, &self.target).and_then(|()| self.sync());
        renamed.map_err(|error| step("the file could not be replaced", &error))
    }

    /// A link's target would stay what it was, and a folder cannot be replaced.
    fn refuse_other_than_file(&self) -> Result<(), InstallError> {
        match fs::symlink_metadata(&self.target) {
            Ok(found) if !found.is_file() => {
                tracing::warn!(target_file = %self.target.display(), "firmware: not a plain file: name the file itself");
                Err(InstallError::Failed("the place of the firmware is taken by a link or a folder".into()))
            }
            _ => Ok(()),
        }
    }

    fn keep_old(&self, stop: &CancellationToken) -> io::Result<()> {
        remove(&self.old)?;
        let had_old = self.target.try_exists()?;
        // Not every file system has links to one file.
        if had_old && fs::hard_link(&self.target, &self.old).is_err() {
            self.write_copy(&self.target, &self.old, stop)?;
        }
        self.sync()?;
        let mut begun = File::create(&self.begun)?;
        begun.write_all(if had_old { HAD_OLD } else { HAD_NONE })?;
        begun.sync_all()?;
        sync_folder_of(&self.begun)
    }

    /// Whether there was a file before this update; `None` when nothing has been done yet.
    fn had_old(&self) -> Option<bool> {
        match fs::read(&self.begun).ok()?.as_slice() {
            HAD_OLD => Some(true),
            HAD_NONE => Some(false),
            // A power cut came before it was durable, and so before the swap.
            _ => None,
        }
    }

    fn copy(&self, stop: &CancellationToken) -> io::Result<()> {
        remove(&self.new)?;
        self.write_copy(&self.image, &self.new, stop)
    }

    /// With the mode and the owner of the file that is replaced.
    fn write_copy(&self, from: &Path, to: &Path, stop: &CancellationToken) -> io::Result<()> {
        let no_links = i32::try_from(OFlags::NOFOLLOW.bits()).expect("flags of open are an int in C");
        let mut target =
            OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(no_links).open(to)?;
        let mut source = File::open(from)?;
        each_piece(&mut source, stop, |piece| target.write_all(piece))?;
        match fs::metadata(&self.target) {
            Ok(old) => {
                let made = target.metadata()?;
                if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
                    fchown(&target, Some(old.uid()), Some(old.gid()))?;
                }
                // After the owner: a change of owner takes set-user-ID away.
                target.set_permissions(old.permissions())?;
            }
            Err(_) => target.set_permissions(fs::Permissions::from_mode(self.mode))?,
        }
        target.sync_all()
    }

    /// False when there was nothing to put back.
    fn put_back(&self) -> io::Result<bool> {
        remove(&self.new)?;
        match self.had_old() {
            None => return Ok(false),
            Some(false) => remove(&self.target)?,
            // Without the old file it was put back before a crash.
            Some(true) if !self.old.try_exists()? => {}
            Some(true) => fs::rename(&self.old, &self.target)?,
        }
        self.sync()?;
        Ok(true)
    }

    fn clean_up(&self, end: Conclusion) -> io::Result<()> {
        remove(&self.new)?;
        if end == Conclusion::Failed && !self.is_back()? {
            tracing::error!(old = %self.old.display(), "firmware: the old file is kept: it could not be put back");
            return self.sync();
        }
        remove(&self.old)?;
        self.sync()
    }

    /// Whether there is no old file but the one in its place.
    fn is_back(&self) -> io::Result<bool> {
        let identity = |path: &Path| match fs::symlink_metadata(path) {
            Ok(found) => Ok(Some((found.dev(), found.ino()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let old = identity(&self.old)?;
        Ok(old.is_none() || old == identity(&self.target)?)
    }

    fn sync(&self) -> io::Result<()> {
        sync_folder_of(&self.target)
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().expect("FileInstaller::check wants a file in a folder"))?.sync_all()
}

fn beside(target: &Path, suffix: &str) -> PathBuf {
    let name = target.file_name().expect("FileInstaller::check wants a file");
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(suffix);
    target.with_file_name(hidden)
}

fn same_content(one: &Path, other: &Path, stop: &CancellationToken) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let mut same = true;
    let mut compared = vec![0; PIECE_BYTES];
    each_piece(&mut one, stop, |piece| {
        let compared = &mut compared[..piece.len()];
        other.read_exact(compared)?;
        same &= piece == compared;
        Ok(())
    })?;
    Ok(same)
}

fn each_piece(
    file: &mut File,
    stop: &CancellationToken,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        if stop.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match file.read(&mut piece)? {
            0 => return Ok(()),
            length => take(&piece[..length])?,
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn step(what: &str, error: &io::Error) -> InstallError {
    if error.kind() == io::ErrorKind::Interrupted {
        return InstallError::Interrupted;
    }
    tracing::warn!(%error, "firmware: {what}");
    InstallError::io(what, error)
}

/// What [`Swap::begun`] holds when there was an old file, and when there was none.
const HAD_OLD: &[u8] = b"a file";
const HAD_NONE: &[u8] = b"no file";

/// A program that everybody may run.
const DEFAULT_MODE: u32 = 0o755;

/// How much is copied between two looks whether to stop.
const PIECE_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests;
