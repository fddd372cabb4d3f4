//! The store on sled 0.34.7, with what that version needs before its promise holds after a power cut.
//!
//! ```text
//! <path>/lock            who uses this journal
//! <path>/db.sled/        the store; its name appears only when it is complete and synced
//! <path>/db.creating/    a store whose creation was interrupted; removed
//! <path>/set-aside-<n>/  damaged stores, the newest few
//! ```
//!
//! sled's `flush` hands the bytes to the kernel and does not wait for the disk (it calls `sync_file_range`): every
//! commit ends with `sync_data` on a handle of our own to its data file. Blob files it never syncs at all, which
//! is why keys and values are bounded, and why a blob file counts as damage. What its own checks overlook after
//! damage, `seal` finds.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::files::{
    BLOB_DIRECTORY, CONFIG_FILE, DATA_FILE, LIVE_DIRECTORY, STAGING_DIRECTORY, create_directory,
    directory_is_empty, forget_cached, move_aside, parent, remove_directory, remove_unfinished_snapshots,
    sync_directory,
};
use super::guard::{catch, from_reading, from_sled, io_error, open_sled};
use super::lock::DirectoryLock;
use super::seal::{SEAL_KEY, Seal, Witness};
use super::{Change, Store, StoreError, StoreSource};

/// A journal directory on disk, locked from its first [`open`](StoreSource::open) until this is dropped.
#[derive(Debug)]
pub struct SledSource {
    path: PathBuf,
    lock: Option<DirectoryLock>,
    history: Arc<History>,
}

impl SledSource {
    /// The journal in the directory `path`, whose parent must exist. Touches nothing yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), lock: None, history: Arc::default() }
    }

    /// Makes sure that nobody else, in this process or another, has the store open.
    fn claim(&mut self) -> Result<(), StoreError> {
        if Arc::strong_count(&self.history) > 1 {
            return Err(StoreError::Locked { path: self.path.clone(), pid: Some(std::process::id()) });
        }
        if self.lock.is_none() {
            let cannot = |reason| StoreError::io("create the journal directory", &self.path, reason);
            create_directory(&self.path).map_err(cannot)?;
            self.lock = Some(DirectoryLock::acquire(&self.path)?);
        }
        Ok(())
    }

    /// Builds an empty store under another name and gives it its own only when a power cut cannot take it back:
    /// a store that is there was complete once, and what it lacks was lost.
    fn create(&self) -> Result<(), StoreError> {
        let staging = self.path.join(STAGING_DIRECTORY);
        let cannot = |reason| StoreError::io("create the journal at", &self.path, reason);
        remove_directory(&staging).map_err(cannot)?;
        let db = open_sled(&staging).map_err(|error| match error {
            // Nothing was stored yet, so nothing can be set aside.
            StoreError::Damaged { what, .. } => cannot(io::Error::other(what)),
            other => other,
        })?;
        let flushed = catch(|| db.insert(SEAL_KEY, &Seal::default().to_bytes()).and_then(|_| db.flush()));
        let closed = catch(|| drop(db));
        closed
            .and(flushed)
            .map_err(|panic| cannot(io::Error::other(panic)))?
            .map_err(|e| cannot(io_error(e)))?;
        let sync = || {
            let witness = Witness::open(&staging)?;
            witness.promise(0)?;
            witness.sync()?;
            for file in [DATA_FILE, CONFIG_FILE] {
                File::open(staging.join(file))?.sync_all()?;
            }
            sync_directory(&staging)?;
            fs::rename(&staging, self.path.join(LIVE_DIRECTORY))?;
            sync_directory(&self.path)?;
            sync_directory(parent(&self.path))
        };
        sync().map_err(cannot)
    }

    /// Leaves the files as sled must find them, and returns our own handle to its data file.
    fn prepare(&self, live: &Path) -> Result<File, StoreError> {
        let cannot = |reason| StoreError::io("open the journal at", &self.path, reason);
        let damaged = |what| StoreError::damaged(&self.path, what);
        let data = match OpenOptions::new().read(true).write(true).open(live.join(DATA_FILE)) {
            Ok(data) => data,
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("its data file is missing"));
            }
            Err(reason) => return Err(cannot(reason)),
        };
        if data.metadata().map_err(cannot)?.len() == 0 {
            return Err(damaged("its data file is empty"));
        }
        if !directory_is_empty(&live.join(BLOB_DIRECTORY)).map_err(cannot)? {
            return Err(damaged("it has blob files, which are never synced"));
        }
        // A process killed between flush and sync leaves bytes that only the kernel has. Opening reads them and
        // writes a synced snapshot that vouches for them: they must reach the disk first.
        data.sync_data().map_err(cannot)?;
        if self.history.commit_failed.load(Ordering::Relaxed) {
            forget_cached(&data);
        }
        remove_unfinished_snapshots(live).map_err(cannot)?;
        Ok(data)
    }
}

impl StoreSource for SledSource {
    fn open(&mut self) -> Result<Box<dyn Store>, StoreError> {
        self.claim()?;
        let live = self.path.join(LIVE_DIRECTORY);
        let cannot = |reason| StoreError::io("open the journal at", &self.path, reason);
        if !live.try_exists().map_err(cannot)? {
            self.create()?;
        }
        let data = self.prepare(&live)?;
        let db = open_sled(&live).map_err(|error| match error {
            StoreError::Damaged { what, .. } => StoreError::damaged(&self.path, what),
            StoreError::OtherFormat { what, .. } => StoreError::OtherFormat { path: self.path.clone(), what },
            StoreError::Io { reason, .. } => cannot(reason),
            other => other,
        })?;
        let mut store = SledStore {
            path: self.path.clone(),
            db: Some(db),
            data,
            seal: Seal::default(),
            witness: Witness::open(&live).map_err(cannot)?,
            poisoned: AtomicBool::new(false),
            history: Arc::clone(&self.history),
        };
        store.verify()?;
        store.sync()?;
        sync_directory(&live).map_err(cannot)?;
        self.history.commit_failed.store(false, Ordering::Relaxed);
        Ok(Box::new(store))
    }

    fn set_aside(&mut self) -> Result<String, StoreError> {
        self.claim()?;
        let cannot = |reason| StoreError::io("set aside the journal at", &self.path, reason);
        let destination = move_aside(&self.path).map_err(cannot)?;
        Ok(destination.display().to_string())
    }
}

/// What a source must know of the stores it opened; one reference more than the source's own means one is open.
#[derive(Debug, Default)]
struct History {
    /// The kernel may hold bytes that it has given up writing.
    commit_failed: AtomicBool,
    /// A commit panicked and none has succeeded since.
    commit_panicked: AtomicBool,
}

/// An open sled database and our own handle to its data file.
struct SledStore {
    path: PathBuf,
    /// `None` only while being dropped.
    db: Option<sled::Db>,
    data: File,
    seal: Seal,
    witness: Witness,
    poisoned: AtomicBool,
    history: Arc<History>,
}

impl SledStore {
    fn db(&self) -> Result<&sled::Db, StoreError> {
        if self.poisoned.load(Ordering::Relaxed) {
            return Err(StoreError::Poisoned);
        }
        Ok(self.db.as_ref().expect("the database is taken out only by drop"))
    }

    /// Visits every pair, the seal among them.
    fn read(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let mut pairs = self.db()?.iter();
        loop {
            let next = catch(|| pairs.next()).map_err(|panic| StoreError::damaged(&self.path, panic))?;
            let Some(pair) = next else { return Ok(()) };
            let (key, value) =
                pair.map_err(|error| from_reading("read the journal at", &self.path, error))?;
            visit(&key, &value);
        }
    }

    /// Compares the content with its seal and its witness.
    fn verify(&mut self) -> Result<(), StoreError> {
        let (mut sealed, mut found) = (None, Seal::default());
        self.read(&mut |key, value| match key {
            SEAL_KEY => sealed = Seal::from_bytes(value),
            _ => found.add(key, value),
        })?;
        let damaged = |what: &str| StoreError::damaged(&self.path, what);
        self.seal = sealed.ok_or_else(|| damaged("its seal is missing"))?;
        if !self.seal.matches(found) {
            return Err(damaged("its content does not match its seal"));
        }
        let cannot = |reason| StoreError::io("open the journal at", &self.path, reason);
        match self.witness.commits().map_err(cannot)? {
            Some(promised) if promised > self.seal.commits => {
                let lost = promised - self.seal.commits;
                Err(damaged(&format!("its last {lost} commits are missing")))
            }
            Some(_) => Ok(()),
            None => {
                tracing::warn!(path = %self.path.display(), "the journal's witness is not legible; written anew");
                self.witness.promise(self.seal.commits).map_err(cannot)
            }
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        let db = self.db()?;
        catch(|| db.flush())
            .map_err(|panic| StoreError::damaged(&self.path, panic))?
            .map_err(|error| from_sled("sync the journal at", &self.path, error))?;
        self.sync_data()
    }

    fn sync_data(&self) -> Result<(), StoreError> {
        self.data.sync_data().map_err(|reason| StoreError::io("sync the journal at", &self.path, reason))
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let db = self.db()?;
        self.poisoned.store(true, Ordering::Relaxed);
        self.history.commit_failed.store(true, Ordering::Relaxed);
        let cannot = |error| from_sled("write the journal at", &self.path, error);
        let seal = catch(|| {
            let (batch, seal) = sealed_batch(db, self.seal, changes)?;
            db.apply_batch(batch)?;
            db.flush()?;
            Ok(seal)
        });
        let seal = seal.map_err(|panic| self.commit_panicked(panic))?.map_err(cannot)?;
        self.sync_data()?;
        let promised = self.witness.promise(seal.commits);
        promised.map_err(|reason| StoreError::io("write the journal at", &self.path, reason))?;
        self.seal = seal;
        Ok(())
    }

    /// sled also panics where the disk is at fault, and reopening tells: only the second panic in a row is damage.
    fn commit_panicked(&self, panic: String) -> StoreError {
        if self.history.commit_panicked.swap(true, Ordering::Relaxed) {
            StoreError::damaged(&self.path, panic)
        } else {
            StoreError::io("write the journal at", &self.path, io::Error::other(panic))
        }
    }
}

impl Store for SledStore {
    fn scan(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let mut visit_unsealed = |key: &[u8], value: &[u8]| {
            if key != SEAL_KEY {
                visit(key, value);
            }
        };
        self.read(&mut visit_unsealed).inspect_err(|_| self.poisoned.store(true, Ordering::Relaxed))
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.db()?;
        changes.iter().try_for_each(Change::check)?;
        if changes.is_empty() {
            return Ok(());
        }
        self.write(changes)?;
        self.poisoned.store(false, Ordering::Relaxed);
        self.history.commit_failed.store(false, Ordering::Relaxed);
        self.history.commit_panicked.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        let db = self.db.take();
        // Closing flushes, and panics where the disk refuses that; what mattered is committed.
        if let Err(panic) = catch(|| drop(db)) {
            tracing::warn!(path = %self.path.display(), %panic, "closing the journal failed");
        }
    }
}

impl std::fmt::Debug for SledStore {
    /// Without the database, which would print its whole content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledStore")
            .field("path", &self.path)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

/// The batch that makes `changes`, and the seal of the content it leaves, which is part of it.
fn sealed_batch(db: &sled::Db, mut seal: Seal, changes: &[Change]) -> sled::Result<(sled::Batch, Seal)> {
    let mut last: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
    for change in changes {
        match change {
            Change::Put { key, value } => last.insert(key, Some(value)),
            Change::Remove { key } => last.insert(key, None),
        };
    }
    let mut batch = sled::Batch::default();
    for (key, value) in last {
        if let Some(old) = db.get(key)? {
            seal.subtract(key, &old);
        }
        match value {
            Some(value) => {
                seal.add(key, value);
                batch.insert(key, value);
            }
            None => batch.remove(key),
        }
    }
    seal.commits += 1;
    batch.insert(SEAL_KEY, &seal.to_bytes());
    Ok((batch, seal))
}
