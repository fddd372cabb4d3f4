//! Calls into sled: its panics caught, its errors told apart.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use super::StoreError;
use super::files::CONFIG_FILE;

/// Opens sled at `path`, waiting a moment for its own threads to let go of the database closed before.
pub(super) fn open_sled(path: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(path)
        .mode(sled::Mode::LowSpace)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .use_compression(false);
    for _ in 0..LOCK_ATTEMPTS {
        match catch(|| config.open()) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Io(reason))) if reason.to_string().contains(SLED_LOCK_MESSAGE) => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Ok(Err(sled::Error::Unsupported(what))) => return Err(from_configuration(path, what)),
            Ok(Err(error)) => return Err(from_reading("open the journal at", path, error)),
            Err(panic) => return Err(StoreError::damaged(path, panic)),
        }
    }
    Err(StoreError::Locked { path: path.to_owned(), pid: None })
}

/// Tells the configuration of another version from a spoilt one: sled compares what it reads although the checksum may
/// be wrong.
fn from_configuration(path: &Path, what: String) -> StoreError {
    let bytes = std::fs::read(path.join(CONFIG_FILE)).unwrap_or_default();
    let in_order = bytes
        .split_last_chunk::<4>()
        .is_some_and(|(text, checksum)| crc32fast::hash(text) == u32::from_le_bytes(*checksum));
    if in_order {
        StoreError::OtherFormat { path: path.to_owned(), what }
    } else {
        StoreError::damaged(path, what)
    }
}

/// An error of a call that only reads: there a disk that fails is damage, and waiting does not mend it.
pub(super) fn from_reading(attempt: &'static str, path: &Path, error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(reason) if reason.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            StoreError::damaged(path, reason.to_string())
        }
        other => from_sled(attempt, path, other),
    }
}

/// An error of any other call: only what sled itself calls corruption is damage.
pub(super) fn from_sled(attempt: &'static str, path: &Path, error: sled::Error) -> StoreError {
    match error {
        sled::Error::Corruption { .. } | sled::Error::CollectionNotFound(_) => {
            StoreError::damaged(path, error.to_string())
        }
        sled::Error::Io(_) | sled::Error::Unsupported(_) | sled::Error::ReportableBug(_) => {
            StoreError::io(attempt, path, io_error(error))
        }
    }
}

/// The file system's error behind one of sled's.
pub(super) fn io_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(reason) => reason,
        other => io::Error::other(other.to_string()),
    }
}

/// Runs a call into sled and turns its panic into the panic's message.
pub(super) fn catch<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    // Whatever the call left half done is never looked at: the store is poisoned or was never returned.
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| format!("sled panicked: {}", panic_message(&*panic)))
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// How sled says that its own lock is taken.
const SLED_LOCK_MESSAGE: &str = "could not acquire lock";

/// Bytes of sled's page cache: the journal is read once, then only written.
const CACHE_BYTES: u64 = 1024 * 1024;

/// Tries to get sled's own lock: its threads hold the file a little longer than the database is open.
const LOCK_ATTEMPTS: u32 = 100;

/// Between two such tries; 100 of them are one second.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
