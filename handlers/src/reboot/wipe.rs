use std::collections::BTreeSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxAttributes, StatxFlags, openat, statat, statx,
    syncfs, unlinkat,
};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::keep::{self, WipeError};

/// The paths that a factory reset wipes, in their order: a folder is emptied and stays, with its owner and its mode; a
/// file is removed.
///
/// ```
/// use iotdm_handlers::reboot::Wipe;
///
/// let kept = [("the journal", "/var/lib/iotdm-agent/journal".into())];
/// assert!(Wipe::new(["/var/lib/product"], &kept).is_ok());
/// let error = Wipe::new(["/var/lib/iotdm-agent"], &kept).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "/var/lib/iotdm-agent holds the journal (/var/lib/iotdm-agent/journal), which a factory reset keeps; declare \
///      the folders beside it"
/// );
/// ```
///
/// # Guarantees
/// * Nothing outside a declared path is touched: no link is followed, neither on the way to a declared path nor below
///   it, where a link is removed and what it leads to stays.
/// * Other file systems that are mounted below a declared path are left as they are, and named in the log. So is what is
///   kept, also where it is found under another name: bound to its place from below a declared path, or linked there.
/// * What is gone is gone for good: file systems are synced before the wiping counts as done.
/// * It may be done again: what is not there is wiped.
///
/// # Caveats
/// * What the product writes meanwhile may stay.
/// * Before Linux 5.8 a folder that is mounted a second time below a declared path, of the same file system, is not
///   recognised as a mount.
/// * Data is unlinked, not overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wipe {
    paths: Vec<PathBuf>,
    kept: Vec<PathBuf>,
}

impl Wipe {
    /// These paths, unless one of them holds, or is in, something that is kept: each with what it is and where.
    ///
    /// # Errors
    /// [`WipeError`] for a path that is not absolute, leads through a link, belongs to the system, or holds what is
    /// kept.
    pub fn new<P: Into<PathBuf>>(
        paths: impl IntoIterator<Item = P>,
        kept: &[(&str, PathBuf)],
    ) -> Result<Self, WipeError> {
        let paths: Vec<PathBuf> = paths.into_iter().map(Into::into).collect();
        keep::check(&paths, kept)?;
        Ok(Self { paths, kept: kept.iter().map(|(_, place)| place.clone()).collect() })
    }

    /// The paths.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Whether each path can be reached without following a link; blocking.
    pub(super) fn look(&self) -> Result<(), String> {
        let looked =
            self.paths.iter().map(|path| Target::find(path).map(drop).map_err(|error| told(path, &error)));
        looked.collect()
    }

    /// Wipes everything; blocking. What cannot be removed does not keep the rest.
    pub(super) fn carry_out(&self, cancellation: &CancellationToken) -> Result<(), Unwiped> {
        // What is not there cannot be wiped.
        let kept = self.kept.iter().filter_map(|place| Identity::of_place(place).ok()).collect();
        let mut sweep = Sweep { cancellation, kept, device: (0, 0), removed: 0, left: 0, first: None };
        for path in &self.paths {
            let before = sweep.removed;
            match sweep.wipe(path) {
                Err(Stop::Cancelled) => return Err(Unwiped::Cancelled),
                Err(Stop::Io(error)) => sweep.leave(&path.display().to_string(), &error),
                Ok(()) => {}
            }
            tracing::info!(path = %path.display(), entries = sweep.removed - before, "wiped");
        }
        match sweep.first {
            Some(first) => Err(Unwiped::Left { count: sweep.left, first }),
            None => Ok(()),
        }
    }
}

/// Why not everything is wiped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unwiped {
    #[error("the wiping was interrupted")]
    Cancelled,
    #[error("{count} files or folders could not be wiped; the first: {first}")]
    Left { count: u64, first: String },
}

/// What a declared path leads to, opened without following links.
enum Target {
    Nothing,
    Folder(OwnedFd),
    File { parent: OwnedFd, name: PathBuf },
}

impl Target {
    fn find(path: &Path) -> io::Result<Self> {
        let (Some(around), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no name"));
        };
        let mut parent = openat(CWD, "/", OFlags::PATH | FOLDER, Mode::empty())?;
        for component in around.components().filter(|component| *component != Component::RootDir) {
            parent = match openat(&parent, component.as_os_str(), OFlags::PATH | FOLDER, Mode::empty()) {
                Ok(folder) => folder,
                Err(Errno::NOENT) => return Ok(Self::Nothing),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(through_a_link(component.as_os_str().as_ref()));
                }
                Err(error) => return Err(error.into()),
            };
        }
        let found = match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Self::Nothing),
            found => FileType::from_raw_mode(found?.st_mode),
        };
        match found {
            FileType::Symlink => Err(through_a_link(name.as_ref())),
            FileType::Directory => Ok(Self::Folder(openat(&parent, name, FOLDER, Mode::empty())?)),
            _ => Ok(Self::File { parent, name: name.into() }),
        }
    }
}

enum Stop {
    Cancelled,
    Io(io::Error),
}

impl From<Errno> for Stop {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// One wiping.
struct Sweep<'a> {
    cancellation: &'a CancellationToken,
    kept: BTreeSet<Identity>,
    /// The file system of the declared path.
    device: (u32, u32),
    removed: u64,
    left: u64,
    first: Option<String>,
}

impl Sweep<'_> {
    fn wipe(&mut self, path: &Path) -> Result<(), Stop> {
        match Target::find(path)? {
            Target::Nothing => {}
            Target::File { parent, name } => {
                self.refuse_kept(Identity::of(&parent, name.as_path(), AtFlags::SYMLINK_NOFOLLOW)?)?;
                unlinkat(&parent, &name, AtFlags::empty())?;
                self.removed += 1;
                // A handle of a place alone cannot be synced.
                syncfs(openat(&parent, ".", FOLDER, Mode::empty())?)?;
            }
            Target::Folder(folder) => {
                let (identity, _) = place(&folder)?;
                self.refuse_kept(identity)?;
                self.device = identity.device;
                self.empty(&folder, &path.display().to_string(), 0)?;
                syncfs(&folder)?;
            }
        }
        Ok(())
    }

    /// A declared path that has become what is kept.
    fn refuse_kept(&self, identity: Identity) -> io::Result<()> {
        match self.kept.contains(&identity) {
            true => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is kept")),
            false => Ok(()),
        }
    }

    /// Removes what is in a folder; whether it is empty then.
    fn empty(&mut self, folder: &OwnedFd, path: &str, depth: usize) -> Result<bool, Stop> {
        if depth == MAX_DEPTH {
            self.leave(path, &io::Error::other("it is nested too deeply"));
            return Ok(false);
        }
        // Some file systems skip entries of a folder that shrinks: what was skipped is found in the next pass.
        for _ in 0..MAX_PASSES {
            let (mut all, mut some) = (true, false);
            for entry in Dir::read_from(folder)? {
                let entry = entry?;
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                if self.cancellation.is_cancelled() {
                    return Err(Stop::Cancelled);
                }
                let gone = self.remove(folder, name, entry.file_type(), path, depth)?;
                (all, some) = (all && gone, some || gone);
            }
            if !some {
                return Ok(all);
            }
            if !all {
                // Another pass would find, and count, the same.
                return Ok(false);
            }
        }
        // Somebody goes on writing; that the folder stays is not what the reset is about.
        Ok(false)
    }

    /// Removes one entry of a folder; whether it is gone.
    fn remove(
        &mut self,
        folder: &OwnedFd,
        name: &CStr,
        kind: FileType,
        around: &str,
        depth: usize,
    ) -> Result<bool, Stop> {
        let path = format!("{around}/{}", name.to_string_lossy());
        let kind = match kind {
            FileType::Unknown => match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(true),
                found => FileType::from_raw_mode(found?.st_mode),
            },
            known => known,
        };
        let flags = match kind {
            FileType::Directory => match self.empty_below(folder, name, &path, depth) {
                Ok(true) => AtFlags::REMOVEDIR,
                Ok(false) => return Ok(false),
                Err(Stop::Io(error)) => {
                    self.leave(&path, &error);
                    return Ok(false);
                }
                Err(cancelled) => return Err(cancelled),
            },
            _ if self.is_kept(folder, name, &path) => return Ok(false),
            _ => AtFlags::empty(),
        };
        match unlinkat(folder, name, flags) {
            Ok(()) => {
                self.removed += 1;
                if self.removed.is_multiple_of(ENTRIES_PER_LINE) {
                    tracing::info!(entries = self.removed, path, "wiping");
                }
                Ok(true)
            }
            // Somebody else removed it, or has written into it meanwhile.
            Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY) => Ok(false),
            Err(Errno::BUSY) => {
                tracing::warn!(path, "not wiped: something else is mounted there");
                Ok(false)
            }
            Err(error) => {
                self.leave(&path, &error.into());
                Ok(false)
            }
        }
    }

    /// Whether a file is one that is kept, under whatever name.
    fn is_kept(&self, folder: &OwnedFd, name: &CStr, path: &str) -> bool {
        let identity = Identity::of(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_kept = identity.is_ok_and(|identity| self.kept.contains(&identity));
        if is_kept {
            tracing::warn!(path, "not wiped: it is kept");
        }
        is_kept
    }

    /// Empties a folder below a declared one, unless it is kept, or another file system begins there.
    fn empty_below(&mut self, around: &OwnedFd, name: &CStr, path: &str, depth: usize) -> Result<bool, Stop> {
        let folder = match openat(around, name, FOLDER, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(true),
            folder => folder?,
        };
        let (identity, is_mounted) = place(&folder)?;
        if self.kept.contains(&identity) {
            tracing::warn!(path, "not wiped: it is kept, and found here under another name");
            return Ok(false);
        }
        if is_mounted || identity.device != self.device {
            tracing::warn!(
                path,
                "not wiped: another file system is mounted there; declare it by itself to wipe it"
            );
            return Ok(false);
        }
        self.empty(&folder, path, depth + 1)
    }

    fn leave(&mut self, path: &str, error: &io::Error) {
        self.left += 1;
        let path: String = path.chars().take(MAX_PATH_CHARS).collect();
        self.first.get_or_insert_with(|| format!("{path}: {error}"));
    }
}

/// What a file or a folder is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    device: (u32, u32),
    inode: u64,
}

impl Identity {
    /// What is found at a path, behind all links.
    pub(super) fn of_place(path: &Path) -> io::Result<Self> {
        Self::of(CWD, path, AtFlags::empty())
    }

    fn of(folder: impl AsFd, name: impl rustix::path::Arg, flags: AtFlags) -> io::Result<Self> {
        Ok(Self::from(&statx(folder, name, flags, StatxFlags::INO)?))
    }
}

impl From<&Statx> for Identity {
    fn from(found: &Statx) -> Self {
        Self { device: (found.stx_dev_major, found.stx_dev_minor), inode: found.stx_ino }
    }
}

/// What a folder is, and whether something is mounted exactly there.
fn place(folder: impl AsFd) -> io::Result<(Identity, bool)> {
    let found = statx(folder, c"", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    Ok((Identity::from(&found), found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)))
}

fn through_a_link(name: &Path) -> io::Error {
    let reason = format!("{} is a link or no folder, and none is followed", name.display());
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

fn told(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// A folder that is no link, for this process alone.
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How deep folders may be nested. Each level holds two open files, of which a process may have 1024.
const MAX_DEPTH: usize = 128;

/// How often a folder is read while it still shrinks: somebody may go on writing there.
const MAX_PASSES: usize = 8;

/// A line in the log for so many removed entries: some seconds of slow flash.
const ENTRIES_PER_LINE: u64 = 10_000;

/// How much of a path a failure repeats, in characters.
const MAX_PATH_CHARS: usize = 256;

#[cfg(test)]
mod tests;
