//! A disk in memory that can fail, fill up, lose power and be damaged, on demand.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Change, MAX_SET_ASIDE, Store, StoreError, StoreSource};

/// A store source whose content outlives the stores opened on it, as a disk outlives a crash.
///
/// Clones share the disk; [`fork`](Self::fork) copies it. Opening again cuts off the store opened before, as a
/// restart does: it refuses every use.
///
/// A commit is durable when it returns, so there is no state between written and flushed, and nothing that a power cut
/// between two commits could take away. What was not flushed is the commit that fails: [`fail_commit`](Self::fail_commit)
/// and [`crash_at_commit`](Self::crash_at_commit).
///
/// ```
/// use iotdm_agent::store::{Change, CrashOutcome, MemoryDisk, StoreSource};
///
/// let mut disk = MemoryDisk::new();
/// disk.crash_at_commit(1, CrashOutcome::Applied);
/// let mut store = disk.open().unwrap();
/// assert!(store.commit(&[Change::Put { key: b"k".to_vec(), value: b"v".to_vec() }]).is_err());
/// assert_eq!(disk.entries()[b"k".as_slice()], b"v");
/// ```
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

impl MemoryDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// An empty disk without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk of its own with the same durable content, damage and counters, and without planned faults.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.state();
        let copy = State {
            durable: state.durable.clone(),
            set_aside: state.set_aside.clone(),
            set_aside_count: state.set_aside_count,
            damaged: state.damaged,
            attempts: state.attempts,
            commits: state.commits,
            changes: state.changes,
            bytes_written: state.bytes_written,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// The `n`-th commit from here fails and leaves nothing behind; `1` is the next one.
    pub fn fail_commit(&self, n: u64) {
        self.plan(n, Fault::Fail);
    }

    /// The power goes during the `n`-th commit from here: it returns an error, and `outcome` says whether its
    /// changes are found after reopening. `1` is the next one.
    pub fn crash_at_commit(&self, n: u64, outcome: CrashOutcome) {
        self.plan(n, Fault::Crash(outcome));
    }

    /// While full, every commit fails and leaves nothing behind.
    pub fn disk_full(&self, full: bool) {
        self.state().full = full;
    }

    /// It has room, and no planned fault is left.
    pub fn heal(&self) {
        let mut state = self.state();
        state.full = false;
        state.faults.clear();
    }

    /// Opening says [`StoreError::Damaged`] until the store is set aside.
    pub fn damage(&self) {
        self.state().damaged = Some("damaged on demand");
    }

    /// Flips one bit of one stored value, both chosen by `seed`. Nothing here notices: that is left to whoever reads the
    /// value, as on a disk without checksums. A disk without a value that has bits stays as it is.
    pub fn rot(&self, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut state = self.state();
        let mut values: Vec<_> = state.durable.values_mut().filter(|value| !value.is_empty()).collect();
        if let Some(value) = random.choice(&mut values) {
            let byte = random.usize(..value.len());
            value[byte] ^= 1 << random.u32(..u8::BITS);
        }
    }

    /// Opening says [`StoreError::Locked`] while `pid` names another process.
    pub fn lock_by(&self, pid: Option<u32>) {
        self.state().locked_by = pid;
    }

    /// Commits that became durable, including one whose caller did not live to know. An empty commit is none.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.state().commits
    }

    /// Changes in those commits.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Bytes of keys and values in those commits.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.state().bytes_written
    }

    /// How many pairs it holds.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.state().durable.len()
    }

    /// Whether it holds a pair with this key.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.state().durable.contains_key(key)
    }

    /// Bytes of the keys and values that it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.state().durable.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// The durable content.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.state().durable.clone()
    }

    /// The names of the stores set aside and kept, oldest first.
    #[must_use]
    pub fn set_aside_names(&self) -> Vec<String> {
        self.state().set_aside.iter().map(|(name, _)| name.clone()).collect()
    }

    fn plan(&self, n: u64, fault: Fault) {
        assert!(n > 0, "commits are counted from 1, the next one");
        let mut state = self.state();
        let attempt = state.attempts + n;
        state.faults.insert(attempt, fault);
    }
}

impl StoreSource for MemoryDisk {
    fn open(&mut self) -> Result<Box<dyn Store>, StoreError> {
        let mut state = self.state();
        if let Some(pid) = state.locked_by {
            return Err(StoreError::Locked { path: path(), pid: Some(pid) });
        }
        if let Some(what) = state.damaged {
            return Err(StoreError::damaged(&path(), what));
        }
        state.generation += 1;
        let generation = state.generation;
        drop(state);
        Ok(Box::new(MemoryStore { state: Arc::clone(&self.state), generation }))
    }

    fn set_aside(&mut self) -> Result<String, StoreError> {
        let mut state = self.state();
        state.generation += 1;
        state.damaged = None;
        state.set_aside_count += 1;
        let name = format!("set-aside-{}", state.set_aside_count);
        let content = std::mem::take(&mut state.durable);
        state.set_aside.push((name.clone(), content));
        if state.set_aside.len() > MAX_SET_ASIDE {
            state.set_aside.remove(0);
        }
        Ok(path().join(name).display().to_string())
    }
}

/// What a power cut during a commit leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashOutcome {
    /// The changes are durable, and nobody was told.
    Applied,
    /// No change is durable.
    NotApplied,
    /// Some of the first changes are durable, never all of them, and the store notices: opening says
    /// [`StoreError::Damaged`] until it is set aside. How many they are differs from commit to commit, and is the same
    /// whenever the same commits are made.
    Torn,
}

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Default)]
struct State {
    durable: Pairs,
    set_aside: Vec<(String, Pairs)>,
    set_aside_count: u64,
    /// The store that may be used is the one opened last, until a commit fails.
    generation: u64,
    /// Commits begun, whatever became of them.
    attempts: u64,
    commits: u64,
    changes: u64,
    bytes_written: u64,
    /// By the attempt they befall.
    faults: BTreeMap<u64, Fault>,
    full: bool,
    /// What opening says of it.
    damaged: Option<&'static str>,
    locked_by: Option<u32>,
}

impl State {
    fn apply(&mut self, changes: &[Change]) {
        self.commits += 1;
        self.changes += changes.len() as u64;
        self.bytes_written += changes.iter().map(|change| change.bytes() as u64).sum::<u64>();
        self.write(changes);
    }

    fn write(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put { key, value } => drop(self.durable.insert(key.clone(), value.clone())),
                Change::Remove { key } => drop(self.durable.remove(key)),
            }
        }
    }

    /// Poisons the store in use and says why its commit failed.
    fn fail(&mut self, reason: io::Error) -> StoreError {
        self.generation += 1;
        StoreError::io("write the journal at", &path(), reason)
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Fail,
    Crash(CrashOutcome),
}

#[derive(Debug)]
struct MemoryStore {
    state: Arc<Mutex<State>>,
    generation: u64,
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    fn check_usable(&self) -> Result<(), StoreError> {
        if self.state().generation == self.generation { Ok(()) } else { Err(StoreError::Poisoned) }
    }
}

impl Store for MemoryStore {
    fn scan(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        self.check_usable()?;
        // A copy, so that the visitor may use the disk.
        let content = self.state().durable.clone();
        content.iter().for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.check_usable()?;
        changes.iter().try_for_each(Change::check)?;
        if changes.is_empty() {
            return Ok(());
        }
        let mut state = self.state();
        state.attempts += 1;
        let attempt = state.attempts;
        match state.faults.remove(&attempt) {
            Some(Fault::Fail) => Err(state.fail(io::Error::other("failed on demand"))),
            _ if state.full => Err(state.fail(io::ErrorKind::StorageFull.into())),
            Some(Fault::Crash(outcome)) => {
                match outcome {
                    CrashOutcome::Applied => state.apply(changes),
                    CrashOutcome::NotApplied => {}
                    CrashOutcome::Torn => {
                        state.write(&changes[..attempt as usize % changes.len()]);
                        state.damaged = Some("a commit was torn");
                    }
                }
                Err(state.fail(io::Error::other("the power went")))
            }
            None => {
                state.apply(changes);
                Ok(())
            }
        }
    }
}

fn path() -> PathBuf {
    PathBuf::from("memory")
}
