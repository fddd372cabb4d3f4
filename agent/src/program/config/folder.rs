//! The folder of scripts' declarations: who may change what the platform may run.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use iotdm_core::RunAs;

use super::references::open;

/// A file of the folder.
#[derive(Debug)]
pub(super) struct Declarations {
    pub(super) path: PathBuf,
    pub(super) text: Result<String, String>,
}

/// Every `*.toml` of a folder, in the order of their names; hidden ones are left out.
///
/// # Errors
/// What is wrong with the folder, and what would be right. What is wrong with a file stands in its place.
pub(super) fn read(folder: &Path) -> Result<Vec<Declarations>, String> {
    let shown = folder.display();
    let unreadable = |reason: io::Error| {
        let help = match reason.kind() {
            io::ErrorKind::PermissionDenied => "let the agent's user read it",
            _ => "create the folder",
        };
        format!("{shown} cannot be read: {reason}; {help}, or leave the key out")
    };
    let metadata = fs::metadata(folder).map_err(unreadable)?;
    if !metadata.is_dir() {
        return Err(format!("{shown} is no folder; name the one that has the declarations"));
    }
    refuse_shared(folder, &metadata, None)?;
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
        if paths.len() > MAX_FILES {
            return Err(format!(
                "{shown} has more than {MAX_FILES} declarations; put several scripts into a file"
            ));
        }
    }
    paths.sort_unstable();
    Ok(paths.into_iter().map(|path| Declarations { text: text(&path), path }).collect())
}

/// Refuses a program that others could exchange; its own user may. One that is not there is judged by nobody: it may be
/// on a disk that is mounted later.
pub(super) fn check_program(program: &Path, user: Option<RunAs>) -> Result<(), String> {
    match fs::metadata(program) {
        Ok(metadata) if metadata.is_dir() => {
            Err(format!("{} is a folder; name the program in it", program.display()))
        }
        Ok(metadata) => refuse_shared(program, &metadata, user.map(|user| user.uid)),
        Err(_) => Ok(()),
    }
}

/// A file of the folder as text. What is looked at is what was opened.
fn text(path: &Path) -> Result<String, String> {
    let unreadable = |reason| format!("cannot be read: {reason}; let the agent's user read it, or remove it");
    let file = open(path).map_err(unreadable)?;
    refuse_shared(path, &file.metadata().map_err(unreadable)?, None)?;
    let mut bytes = Vec::new();
    let size = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if size as u64 > MAX_FILE_BYTES {
        return Err(format!("has more than {} KiB; is it a declaration?", MAX_FILE_BYTES / 1024));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8; save the file as UTF-8".into())
}

/// Refuses what others than root, the agent's user and perhaps one more may change: they would run what they like.
fn refuse_shared(path: &Path, metadata: &Metadata, more: Option<u32>) -> Result<(), String> {
    let own = rustix::process::geteuid().as_raw();
    let shown = path.display();
    if ![0, own].contains(&metadata.uid()) && more != Some(metadata.uid()) {
        let owner = metadata.uid();
        return Err(format!(
            "{shown} belongs to user {owner}, who could change it; run: chown {own} {shown}"
        ));
    }
    let mode = metadata.permissions().mode();
    if mode & WRITABLE_BY_OTHERS != 0 {
        let mode = mode & 0o7777;
        return Err(format!(
            "{shown} can be changed by others than its owner (mode {mode:04o}); run: chmod go-w {shown}"
        ));
    }
    Ok(())
}

/// The permission bits to write of group and others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// More files than an operator keeps apart.
const MAX_FILES: usize = 256;

/// Generous for declarations that a person writes.
const MAX_FILE_BYTES: u64 = 256 * 1024;
