//! The bytes below the journal: atomic, durable batches of small values.
//!
//! # Flow
//! A [`StoreSource`] opens a [`Store`]; the journal reads it once with [`Store::scan`] and from then on only
//! writes, one [`Store::commit`] per batch. When a commit fails, the store is dropped and opened again.
//!
//! # Guarantees
//! * A commit applies all of its changes or none, and returns `Ok` only when a power cut can no longer undo it.
//! * A store whose commit failed refuses every later use ([`StoreError::Poisoned`]), because what it would read
//!   back need not be on the disk.
//! * A damaged store is reported as [`StoreError::Damaged`], never as a shorter one, and never by a panic.
//!
//! # Assumptions
//! One thread owns a source and its store. The disk keeps what it says it has synced.
//!
//! # Caveats
//! After a failed commit its changes are there after reopening, or none of them is: which of the two is unknown.
//!
//! # Errors
//! [`StoreError`], worded for the person who reads the device's log.

use std::io;
use std::path::{Path, PathBuf};

mod files;
mod guard;
mod lock;
mod seal;
mod sled;

#[cfg(any(test, feature = "testing"))]
mod memory;

#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "testing"))]
pub use self::memory::{CrashOutcome, MemoryDisk};
pub use self::sled::SledSource;

/// Ordered pairs of bytes that survive a power cut.
pub trait Store: std::fmt::Debug + Send {
    /// Visits every pair in ascending order of the keys.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when a pair cannot be read back as it was written: what was visited before is not
    /// the whole content. Poisons the store.
    fn scan(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError>;

    /// Applies all changes or none, and returns only when a power cut can no longer undo them. Changes apply in
    /// their order: the last one of a key wins. No changes cost nothing.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] before anything is written; the store stays usable. Every other error poisons
    /// the store, and whether the changes are durable is unknown.
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError>;
}

/// Where a store is opened, and opened again after a failed commit.
pub trait StoreSource: std::fmt::Debug + Send {
    /// Opens the store, creating an empty one where there is none. The store opened before must be dropped.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while somebody else has it, [`StoreError::Damaged`] when it must be set aside,
    /// [`StoreError::OtherFormat`] when another program is needed, [`StoreError::Io`] when trying again later, or
    /// another permission, may help.
    fn open(&mut self) -> Result<Box<dyn Store>, StoreError>;

    /// Moves the store out of the way, so that the next [`open`](Self::open) creates an empty one, and says
    /// where to. Only the newest [`MAX_SET_ASIDE`] are kept.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the move failed; [`StoreError::Locked`] while the store is open.
    fn set_aside(&mut self) -> Result<String, StoreError>;
}

/// One change to the store; a commit applies all of its changes or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Stores `value` under `key`, replacing what was there.
    Put {
        /// 1 to [`MAX_KEY_BYTES`] bytes.
        key: Vec<u8>,
        /// At most [`MAX_VALUE_BYTES`] bytes.
        value: Vec<u8>,
    },
    /// Removes `key`; a key that is not there is not an error.
    Remove {
        /// 1 to [`MAX_KEY_BYTES`] bytes.
        key: Vec<u8>,
    },
}

impl Change {
    /// The key this change is about.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Remove { key } => key,
        }
    }

    /// Bytes of key and value together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value } => key.len() + value.len(),
            Self::Remove { key } => key.len(),
        }
    }

    /// Refuses what no store may hold.
    fn check(&self) -> Result<(), StoreError> {
        assert!(!self.key().is_empty(), "a key has at least one byte");
        let check = |part, bytes, limit| {
            if bytes > limit { Err(StoreError::TooLarge { part, bytes, limit }) } else { Ok(()) }
        };
        check(Part::Key, self.key().len(), MAX_KEY_BYTES)?;
        match self {
            Self::Put { value, .. } => check(Part::Value, value.len(), MAX_VALUE_BYTES),
            Self::Remove { .. } => Ok(()),
        }
    }
}

/// Why a store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {attempt} {}: {}", path.display(), spoken(reason))]
    Io {
        /// What was tried, as it reads between "cannot" and the path: "open the journal at".
        attempt: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// Why it failed.
        reason: io::Error,
    },
    /// What is stored cannot be read back as it was written: see [`StoreSource::set_aside`].
    #[error("the journal at {} is damaged: {what}", path.display())]
    Damaged {
        /// Where the store is.
        path: PathBuf,
        /// What was found, for the log.
        what: String,
    },
    /// It is in order, and in a format that this program does not have: it is left as it is.
    #[error(
        "the journal at {} was written in a format that this program does not have: \
         run the program that wrote it, or start with an empty journal ({what})", path.display()
    )]
    OtherFormat {
        /// Where the store is.
        path: PathBuf,
        /// What is different, for the log.
        what: String,
    },
    /// Somebody else has the store open.
    #[error("the journal at {} is in use by {}", path.display(), holder(*pid))]
    Locked {
        /// Where the store is.
        path: PathBuf,
        /// The process that has it, when it left its id.
        pid: Option<u32>,
    },
    /// A change exceeds what one pair may hold; nothing was written.
    #[error("a {part} of {bytes} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Which half of the pair.
        part: Part,
        /// How large it is, in bytes.
        bytes: usize,
        /// How large it may be, in bytes.
        limit: usize,
    },
    /// An earlier use of this store failed.
    #[error("the journal must be opened again: an earlier use of it failed")]
    Poisoned,
}

impl StoreError {
    fn io(attempt: &'static str, path: &Path, reason: io::Error) -> Self {
        Self::Io { attempt, path: path.to_owned(), reason }
    }

    fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.into() }
    }
}

/// Half of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What a value is found by.
    Key,
    /// What is stored.
    Value,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Value => "value",
        })
    }
}

/// "permission denied" rather than "Permission denied (os error 13)", where the kind says enough.
fn spoken(reason: &io::Error) -> String {
    match reason.kind().to_string() {
        by_kind if reason.kind() != io::ErrorKind::Other && by_kind != UNCATEGORIZED => by_kind,
        _ => reason.to_string(),
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// Bytes of one value: sled puts a leaf of up to about 16 values that outgrows 128 KiB into a blob file, which it
/// never syncs. 4 KiB stays below that by a factor of two; larger bodies are chunked above the store.
pub const MAX_VALUE_BYTES: usize = 4096;

/// Bytes of one key, for the same reason: keys share the leaf with their values.
pub const MAX_KEY_BYTES: usize = 256;

/// Damaged stores kept for a diagnosis, in directories: each is a few MiB on a small disk.
pub const MAX_SET_ASIDE: usize = 3;

/// How the standard library names an operating system error that it has no kind for.
const UNCATEGORIZED: &str = "uncategorized error";
