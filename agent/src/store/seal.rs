//! How a store notices that what it reads is not what was committed.
//!
//! sled checks each page it reads, but after damage to its log it may come up without the last commits, or with
//! older values of single keys, and say nothing: a request would run twice. Two records close that.
//!
//! * The **seal** is a pair in the store itself, rewritten by every commit: how many commits there were, and a
//!   digest of all pairs. A store that lost or aged a pair no longer matches its seal.
//! * The **witness** is a file beside the store with the number of commits. It is written after each commit and
//!   never synced, so it is never ahead of the store: a store behind its witness lost its newest commits. After a
//!   power cut the witness may be late, which only makes it witness less.
//!
//! What both cannot see: a directory that is an older one as a whole, as from a backup or a snapshot of the file system,
//! and an older data file whose witness is older, illegible or missing. On the disk nothing else remembers.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a store says about its own content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seal {
    /// Commits since the store was created.
    pub(super) commits: u64,
    /// The sum of the pairs' hashes: it depends on all pairs and not on their history.
    digest: u64,
}

impl Seal {
    /// Accounts for a pair that is there.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.digest = self.digest.wrapping_add(hash(key, value));
    }

    /// Accounts for a pair that goes.
    pub(super) fn subtract(&mut self, key: &[u8], value: &[u8]) {
        self.digest = self.digest.wrapping_sub(hash(key, value));
    }

    /// Whether both speak of the same pairs.
    pub(super) fn matches(self, other: Self) -> bool {
        self.digest == other.digest
    }

    pub(super) fn to_bytes(self) -> [u8; SEAL_BYTES] {
        join(self.commits, self.digest)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        split(bytes).map(|(commits, digest)| Self { commits, digest })
    }
}

/// The file that remembers how many commits the store has promised.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
}

impl Witness {
    /// The witness in the store's directory, created when it is not there.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(WITNESS_FILE))?;
        Ok(Self { file })
    }

    /// The number of commits promised; `None` when the file is not legible, and the seal stands alone.
    pub(super) fn commits(&self) -> io::Result<Option<u64>> {
        let mut bytes = [0; SEAL_BYTES];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(reason) if reason.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(reason) => return Err(reason),
        }
        Ok(split(&bytes).and_then(|(commits, check)| (check == !commits).then_some(commits)))
    }

    /// Remembers a commit that is durable. In place and within one sector, so that no power cut tears it.
    pub(super) fn promise(&self, commits: u64) -> io::Result<()> {
        self.file.write_all_at(&join(commits, !commits), 0)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// FNV-1a over the key's length, the key and the value: damage is an accident, not an adversary, and the hash must
/// be the same in every version of this program.
fn hash(key: &[u8], value: &[u8]) -> u64 {
    let length = (key.len() as u64).to_le_bytes();
    let bytes = length.iter().chain(key).chain(value);
    bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

fn join(first: u64, second: u64) -> [u8; SEAL_BYTES] {
    (u128::from(first) | u128::from(second) << 64).to_le_bytes()
}

fn split(bytes: &[u8]) -> Option<(u64, u64)> {
    let (first, second) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*first), u64::from_le_bytes(second.try_into().ok()?)))
}

/// The key of the seal: no change may have an empty key.
pub(super) const SEAL_KEY: &[u8] = b"";

/// Bytes of a seal, and of the witness: two numbers.
const SEAL_BYTES: usize = 16;

/// In sled's own directory, so that it is set aside with the store. sled looks at names it knows and no others.
const WITNESS_FILE: &str = "commits";

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
