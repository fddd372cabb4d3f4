//! The file system around the store: names, directories that stay after a power cut, and stores set aside.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::MAX_SET_ASIDE;

/// Creates the journal's own directory where there is none, and closes one that is open to others.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => sync_directory(parent(path)),
        Err(reason) if reason.kind() == io::ErrorKind::AlreadyExists => {
            close_to_others(path);
            Ok(())
        }
        Err(reason) => Err(reason),
    }
}

/// Whoever may write here may put a request in, or take the memory of an executed one out.
fn close_to_others(path: &Path) {
    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o7777);
    let Ok(mode) = mode else { return };
    if mode & MODE_OF_OTHERS == 0 {
        return;
    }
    match fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE)) {
        Ok(()) => {
            tracing::warn!(path = %path.display(), "the journal was open to others (mode {mode:04o}); it is closed")
        }
        Err(reason) => {
            tracing::warn!(path = %path.display(), %reason, "the journal is open to others (mode {mode:04o}) and cannot be closed");
        }
    }
}

/// Renames the store in `root` to the next free name, removes the oldest ones of that kind, and returns the name.
pub(super) fn move_aside(root: &Path) -> io::Result<PathBuf> {
    let named = |number: u64| root.join(format!("{SET_ASIDE_PREFIX}{number}"));
    let mut kept = set_aside_numbers(root)?;
    let number = kept.last().map_or(1, |newest| newest + 1);
    fs::rename(root.join(LIVE_DIRECTORY), named(number))?;
    sync_directory(root)?;
    kept.push(number);
    for old in &kept[..kept.len().saturating_sub(MAX_SET_ASIDE)] {
        if let Err(reason) = fs::remove_dir_all(named(*old)) {
            // It only takes space; the device must start.
            tracing::warn!(path = %named(*old).display(), %reason, "cannot remove an old journal");
        }
    }
    Ok(named(number))
}

/// The numbers of the stores set aside, ascending.
fn set_aside_numbers(root: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(SET_ASIDE_PREFIX)?.parse::<u64>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn directory_is_empty(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(reason) => Err(reason),
    }
}

pub(super) fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(reason) if reason.kind() != io::ErrorKind::NotFound => Err(reason),
        _ => Ok(()),
    }
}

/// Makes the names in a directory survive a power cut.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// sled prefers the file of an interrupted snapshot over the complete one beside it, and calls it corruption. The
/// complete one is deleted only after the rename, so the unfinished one is never needed.
pub(super) fn remove_unfinished_snapshots(live: &Path) -> io::Result<()> {
    for entry in fs::read_dir(live)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().ends_with(UNFINISHED_SNAPSHOT_SUFFIX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// After a failed sync the kernel calls its pages clean, though the disk never had them: reopening must read the
/// disk, or it would build on bytes that the next power cut takes away.
pub(super) fn forget_cached(data: &File) {
    #[cfg(target_os = "linux")]
    if let Err(reason) = rustix::fs::fadvise(data, 0, None, rustix::fs::Advice::DontNeed) {
        tracing::warn!(%reason, "cannot drop cached pages of the journal");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = data;
}

/// The name of a complete store.
pub(super) const LIVE_DIRECTORY: &str = "db.sled";
/// The name of a store being created.
pub(super) const STAGING_DIRECTORY: &str = "db.creating";
const SET_ASIDE_PREFIX: &str = "set-aside-";

/// Names that sled gives to its files.
pub(super) const DATA_FILE: &str = "db";
pub(super) const CONFIG_FILE: &str = "conf";
pub(super) const BLOB_DIRECTORY: &str = "blobs";
const UNFINISHED_SNAPSHOT_SUFFIX: &[u8] = b".generating";

/// The journal holds what the platform asked and what was answered: nobody else's business.
const DIRECTORY_MODE: u32 = 0o700;

/// The permission bits of everybody but the owner.
const MODE_OF_OTHERS: u32 = 0o077;
