//! A disk that can be hurt.

use std::fs;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use iotdm_agent::store::{SledSource, StoreSource};
use iotdm_agent::testing::{CrashOutcome, MemoryDisk};
use tempfile::TempDir;

use crate::records::{batch, resume};

/// What a journal stands on, with what can happen to it.
pub(crate) trait Disk: Sized {
    /// An empty one.
    fn new() -> Self;

    /// The journal on it, as a program finds it that has just started.
    fn source(&self) -> Box<dyn StoreSource>;

    /// What a crash leaves at this moment, whoever has the journal open.
    fn copy(&self) -> Self;

    /// States that a crash during the commit of this number may leave, and whether damage is one of their excuses.
    fn interrupted(&self, number: u64, random: &mut Rng) -> Vec<(Self, MayBeDamaged)>;

    /// Flips a bit of what is stored, and says where.
    fn flip(&self, random: &mut Rng) -> String;
}

/// Whether a state can be had only from a disk that breaks its word.
pub(crate) type MayBeDamaged = bool;

impl Disk for MemoryDisk {
    fn new() -> Self {
        Self::new()
    }

    fn source(&self) -> Box<dyn StoreSource> {
        Box::new(self.clone())
    }

    fn copy(&self) -> Self {
        self.fork()
    }

    fn interrupted(&self, number: u64, _: &mut Rng) -> Vec<(Self, MayBeDamaged)> {
        let crash = |outcome| {
            let disk = self.fork();
            let (mut journal, _) = resume(&mut disk.clone()).unwrap();
            disk.crash_at_commit(1, outcome);
            journal.commit(&batch(number)).unwrap_err();
            (disk, outcome == CrashOutcome::Torn)
        };
        [CrashOutcome::Applied, CrashOutcome::NotApplied, CrashOutcome::Torn].map(crash).into()
    }

    fn flip(&self, random: &mut Rng) -> String {
        let seed = random.u64(..);
        self.rot(seed);
        format!("seed {seed}")
    }
}

/// A journal directory in a temporary folder.
pub(crate) struct Directory {
    home: TempDir,
}

impl Directory {
    /// The journal's own folder.
    pub(crate) fn journal(&self) -> PathBuf {
        self.home.path().join("journal")
    }

    /// The files of the store, without their folder, in a fixed order.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.store()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| path.is_file()).collect();
        files.sort();
        files
    }

    /// States between this one and `after`, with any of the data file's sectors of the one and of the other: first none,
    /// then all of `after`. The other files stay.
    pub(crate) fn towards(&self, after: &Self, random: &mut Rng) -> Vec<Self> {
        let data = |disk: &Self| fs::read(disk.store().join("db")).unwrap();
        let (old, new) = (data(self), data(after));
        let changed: Vec<usize> =
            (0..new.len().div_ceil(SECTOR)).filter(|sector| at(&old, *sector) != at(&new, *sector)).collect();
        let mut states = vec![(Vec::new(), new.len()), (changed.clone(), new.len())];
        for _ in 0..INTERRUPTIONS {
            let length = if random.bool() { new.len() } else { old.len() };
            let mut written = changed.clone();
            if random.bool() {
                written.truncate(random.usize(..=changed.len()));
            } else {
                written.retain(|_| random.bool());
            }
            states.push((written, length));
        }
        let state = |(written, length): (Vec<usize>, usize)| {
            let disk = self.copy();
            let mut bytes = old.clone();
            bytes.resize(length.max(old.len()), 0);
            for sector in written {
                let end = ((sector + 1) * SECTOR).min(new.len());
                if end <= bytes.len() {
                    bytes[sector * SECTOR..end].copy_from_slice(&new[sector * SECTOR..end]);
                }
            }
            fs::write(disk.store().join("db"), bytes).unwrap();
            disk
        };
        states.into_iter().map(state).collect()
    }

    /// The folder that sled works in.
    pub(crate) fn store(&self) -> PathBuf {
        self.journal().join("db.sled")
    }
}

impl Disk for Directory {
    fn new() -> Self {
        // Where a sync costs nothing: what these tests spoil is bytes. What reaches a real disk is for `power`.
        let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self { home: home.unwrap() }
    }

    fn source(&self) -> Box<dyn StoreSource> {
        Box::new(SledSource::new(self.journal()))
    }

    fn copy(&self) -> Self {
        let copy = Self::new();
        copy_tree(&self.journal(), &copy.journal());
        copy
    }

    /// The data file is synced as a whole: before that, any of its sectors may be on the disk, and any not. The file
    /// of the number of commits is written only afterwards.
    fn interrupted(&self, number: u64, random: &mut Rng) -> Vec<(Self, MayBeDamaged)> {
        let working = self.copy();
        let (mut journal, _) = resume(&mut *working.source()).unwrap();
        let before = working.copy();
        journal.commit(&batch(number)).unwrap();
        let after = working.copy();
        assert_eq!(names(&before), names(&after), "a commit makes no files");

        before.towards(&after, random).into_iter().map(|disk| (disk, false)).collect()
    }

    fn flip(&self, random: &mut Rng) -> String {
        let files = self.files();
        let file = random.choice(&files).expect("a store has files");
        let mut bytes = fs::read(file).unwrap();
        let (at, bit) = (random.usize(..bytes.len()), random.u32(..u8::BITS));
        bytes[at] ^= 1 << bit;
        fs::write(file, bytes).unwrap();
        format!("bit {bit} of byte {at} of {}", file.display())
    }
}

/// Copies a folder as it is at this moment.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn names(disk: &Directory) -> Vec<std::ffi::OsString> {
    disk.files().iter().map(|path| path.file_name().expect("a file has a name").to_owned()).collect()
}

fn at(bytes: &[u8], sector: usize) -> &[u8] {
    let start = (sector * SECTOR).min(bytes.len());
    &bytes[start..(start + SECTOR).min(bytes.len())]
}

/// Bytes that a disk writes as one.
const SECTOR: usize = 512;

/// Random states between before and after, for each commit.
const INTERRUPTIONS: usize = 6;
