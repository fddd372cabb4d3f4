//! One process per journal: an advisory lock that ends with the process, whatever ends it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::StoreError;

/// The right to use a journal directory, until dropped.
///
/// The file stays behind: to remove it would let two processes lock two files of one name.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    /// Takes the lock of the journal in `directory` and leaves this process's id for whoever comes second.
    ///
    /// # Errors
    /// [`StoreError::Locked`] naming the process that has it, [`StoreError::Io`] when the file cannot be written.
    pub(super) fn acquire(directory: &Path) -> Result<Self, StoreError> {
        let cannot = |reason| StoreError::io("open the journal at", directory, reason);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(LOCK_FILE))
            .map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { path: directory.to_owned(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(reason)) => return Err(cannot(reason)),
        }
        match write_pid(&mut file) {
            // The id is a courtesy to the second process; a full disk must not keep the first one out.
            Err(reason) if reason.kind() != io::ErrorKind::StorageFull => Err(cannot(reason)),
            _ => Ok(Self { file }),
        }
    }
}

impl Drop for DirectoryLock {
    /// Closing alone is not enough: a child that was forked meanwhile has the file open, too, until it becomes another
    /// program.
    fn drop(&mut self) {
        // What cannot be unlocked is unlocked by the end of the process.
        let _ = self.file.unlock();
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(MAX_PID_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Beside the store's directory, so that it outlives setting the store aside.
const LOCK_FILE: &str = "lock";

/// Bytes of a process id in decimal digits and a line end, generously.
const MAX_PID_BYTES: u64 = 16;
