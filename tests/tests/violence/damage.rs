//! What can happen to the files of a journal: each of them flipped, cut, missing, or older than the others.
//!
//! The seed of every case is its number. What came of all of them is printed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use fastrand::Rng;

use crate::disk::{Directory, Disk};
use crate::records::{Verdict, commit_to, read, resume};
use crate::suite::start_again;

#[test]
fn a_bit_flipped_anywhere_in_any_file_is_harmless_or_noticed() {
    for pristine in [closed(), killed()] {
        for file in pristine.files() {
            let mut tally = Tally::default();
            let whole = fs::read(&file).unwrap();
            for seed in 0..FLIPS {
                let mut random = Rng::with_seed(seed);
                let (at, bit) = (random.usize(..whole.len()), random.u32(..u8::BITS));
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let disk = pristine.copy();
                fs::write(disk.store().join(name(&file)), bytes).unwrap();
                tally.judge(&disk, &format!("bit {bit} of byte {at} of {}", name(&file)));
            }
            tally.print("flipped bits", &file);
        }
    }
}

#[test]
fn any_file_cut_at_any_length_is_harmless_or_noticed() {
    for pristine in [closed(), killed()] {
        for file in pristine.files() {
            let mut tally = Tally::default();
            let whole = fs::read(&file).unwrap();
            for seed in 0..CUTS {
                let length = match seed {
                    0 => 0,
                    1 => whole.len() - 1,
                    _ => Rng::with_seed(seed).usize(..whole.len()),
                };
                let disk = pristine.copy();
                fs::write(disk.store().join(name(&file)), &whole[..length]).unwrap();
                tally.judge(&disk, &format!("{} cut to {length} bytes", name(&file)));
            }
            tally.print("lengths", &file);
        }
    }
}

#[test]
fn a_page_of_zeros_is_harmless_or_noticed() {
    for pristine in [closed(), killed()] {
        let file = pristine.store().join("db");
        let whole = fs::read(&file).unwrap();
        let mut tally = Tally::default();
        for page in 0..whole.len() / PAGE {
            let mut bytes = whole.clone();
            bytes[page * PAGE..(page + 1) * PAGE].fill(0);
            let disk = pristine.copy();
            fs::write(disk.store().join("db"), bytes).unwrap();
            tally.judge(&disk, &format!("page {page} zeroed"));
        }
        tally.print("zeroed pages", &file);
    }
}

/// A copy that was interrupted, or a backup played over what was there: each file is the newest, an older one, or absent.
///
/// The data file is what is written; the count of commits beside it is what betrays that it is old. Without either of the
/// newest two nothing on the disk remembers the newest commits: that is a whole older journal.
#[test]
fn files_of_different_ages_are_noticed_unless_the_journal_is_an_older_one_as_a_whole() {
    let (older, newest) = two_ages();
    let kinds = ["commits", "conf", "db", "snap"];
    let mut tally = Tally::default();
    for case in 0..AGES.pow(kinds.len() as u32) {
        let disk = Directory::new();
        fs::create_dir_all(disk.store().join("blobs")).unwrap();
        let mut ages = BTreeMap::new();
        for (place, kind) in kinds.iter().enumerate() {
            let age = case / AGES.pow(place as u32) % AGES;
            ages.insert(*kind, age);
            let from = [&newest, &older].into_iter().nth(age);
            for file in
                from.into_iter().flat_map(Directory::files).filter(|file| name(file).starts_with(kind))
            {
                fs::copy(&file, disk.store().join(name(&file))).unwrap();
            }
        }
        let older_as_a_whole = ages["db"] == 1 && ages["commits"] != 0;
        tally.judge_unless(older_as_a_whole, &disk, &format!("newest 0, older 1, absent 2: {ages:?}"));
    }
    tally.print("mixtures", Path::new("all files"));
}

/// A disk that said it had written, and had not: some stretch of the data file is as it was before.
#[test]
fn a_write_that_the_disk_dropped_is_harmless_or_noticed() {
    let (older, newest) = two_ages();
    let data = |disk: &Directory| fs::read(disk.store().join("db")).unwrap();
    let (old, new) = (data(&older), data(&newest));
    for (kind, stretch) in [("dropped pages", PAGE), ("dropped segments", SEGMENT)] {
        let mut tally = Tally::default();
        for start in (0..old.len().min(new.len())).step_by(stretch) {
            let end = (start + stretch).min(old.len()).min(new.len());
            let mut bytes = new.clone();
            bytes[start..end].copy_from_slice(&old[start..end]);
            if bytes != new {
                let disk = newest.copy();
                fs::write(disk.store().join("db"), bytes).unwrap();
                tally.judge(&disk, &format!("bytes {start} to {end} are of before"));
            }
        }
        tally.print(kind, &newest.store().join("db"));
    }
}

/// Opening makes another snapshot, which is synced, and writes to the data file, which is not synced until the end.
#[test]
fn a_crash_while_a_journal_is_opened_changes_nothing() {
    let begun = Directory::new();
    drop(begun.source().open().unwrap());
    let mut tally = BTreeMap::new();
    for (before, last) in [(begun, 0), (closed(), LAST), (killed(), LAST)] {
        let opened = before.copy();
        let (journal, _) = resume(&mut *opened.source()).unwrap();
        let after = opened.copy();
        drop(journal);
        let snapshots = |disk: &Directory| {
            disk.files().into_iter().filter(|file| name(file).starts_with("snap")).collect::<Vec<_>>()
        };
        for seed in 0..OPENINGS {
            let mut random = Rng::with_seed(seed);
            for disk in before.towards(&after, &mut random) {
                let kept = random.bool();
                for file in snapshots(&disk).iter().filter(|_| !kept) {
                    fs::remove_file(file).unwrap();
                }
                for file in snapshots(&after).iter().filter(|_| !kept || random.bool()) {
                    fs::copy(file, disk.store().join(name(file))).unwrap();
                }
                *tally.entry((last, read(&mut *disk.source()).line())).or_insert(0) += 1;
            }
        }
    }
    eprintln!("crashes while opening: {tally:#?}");
    let intact = |(last, line): &(u64, String)| *line == format!("intact {last}");
    assert!(tally.keys().all(intact), "{tally:#?}");
}

/// Without its snapshot sled reads the whole log, and believes what is left of it.
#[test]
fn a_damaged_data_file_without_its_snapshot_is_harmless_or_noticed() {
    let pristine = killed();
    let whole = fs::read(pristine.store().join("db")).unwrap();
    let mut tally = Tally::default();
    for page in 0..whole.len() / PAGE {
        let mut bytes = whole.clone();
        bytes[page * PAGE..(page + 1) * PAGE].fill(0);
        let disk = pristine.copy();
        fs::write(disk.store().join("db"), bytes).unwrap();
        for file in disk.files().iter().filter(|file| name(file).starts_with("snap")) {
            fs::remove_file(file).unwrap();
        }
        tally.judge(&disk, &format!("page {page} zeroed, and no snapshot"));
    }
    tally.print("zeroed pages without a snapshot", &pristine.store().join("db"));
}

/// As `cp` leaves it when it is interrupted while it overwrites.
#[test]
fn a_data_file_that_is_half_newest_and_half_older_is_harmless_or_noticed() {
    let (older, newest) = two_ages();
    let data = |disk: &Directory| fs::read(disk.store().join("db")).unwrap();
    let (old, new) = (data(&older), data(&newest));
    let mut tally = Tally::default();
    for seed in 0..CUTS {
        let at = Rng::with_seed(seed).usize(..new.len());
        for (first, second) in [(&new, &old), (&old, &new)] {
            let mut bytes = first[..at.min(first.len())].to_vec();
            bytes.extend_from_slice(&second[at.min(second.len())..]);
            let disk = newest.copy();
            fs::write(disk.store().join("db"), bytes).unwrap();
            tally.judge(&disk, &format!("the two ages meet at byte {at}"));
        }
    }
    tally.print("halves", &newest.store().join("db"));
}

/// A journal of several lives, closed in order.
fn closed() -> Directory {
    let disk = Directory::new();
    for commits in [LAST / 3, LAST * 2 / 3, LAST] {
        let (mut journal, done) = resume(&mut *disk.source()).unwrap();
        commit_to(&mut journal, done, commits).unwrap();
    }
    disk
}

/// The same, but never closed.
fn killed() -> Directory {
    let disk = Directory::new();
    for commits in [LAST / 3, LAST * 2 / 3] {
        let (mut journal, done) = resume(&mut *disk.source()).unwrap();
        commit_to(&mut journal, done, commits).unwrap();
    }
    let (mut journal, done) = resume(&mut *disk.source()).unwrap();
    commit_to(&mut journal, done, LAST).unwrap();
    disk.copy()
}

/// One journal at two moments.
fn two_ages() -> (Directory, Directory) {
    let disk = Directory::new();
    let (mut journal, done) = resume(&mut *disk.source()).unwrap();
    commit_to(&mut journal, done, LAST * 2 / 3).unwrap();
    drop(journal);
    let older = disk.copy();
    let (mut journal, done) = resume(&mut *disk.source()).unwrap();
    commit_to(&mut journal, done, LAST).unwrap();
    drop(journal);
    (older, disk)
}

/// What became of damaged journals.
#[derive(Default)]
struct Tally {
    intact: u64,
    noticed: u64,
    older: u64,
}

impl Tally {
    fn judge(&mut self, disk: &Directory, what: &str) {
        self.judge_unless(false, disk, what);
    }

    /// All of it is there, or it says that it is damaged; nothing else, unless it is another journal.
    fn judge_unless(&mut self, another: bool, disk: &Directory, what: &str) {
        let verdict = read(&mut *disk.source());
        match verdict {
            Verdict::Intact(LAST) => self.intact += 1,
            Verdict::Intact(_) if another => self.older += 1,
            Verdict::Damaged(_) => {
                if self.noticed.is_multiple_of(STARTED_AGAIN) {
                    start_again(disk);
                }
                self.noticed += 1;
            }
            other => panic!("{what}: {}", other.line()),
        }
    }

    fn print(&self, cases: &str, file: &Path) {
        let Self { intact, noticed, older } = self;
        eprintln!(
            "{cases}, {}: {intact} intact, {noticed} noticed, {older} older as a whole, 0 silent",
            name(file)
        );
    }
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned()
}

/// The last commit.
const LAST: u64 = 300;

/// Flipped bits of each file.
const FLIPS: u64 = 200;

/// Lengths of each file.
const CUTS: u64 = 40;

/// Rounds of crashes while a journal is opened.
const OPENINGS: u64 = 8;

/// Newest, older, absent.
const AGES: usize = 3;

/// Bytes that a disk, and the kernel, write as one.
const PAGE: usize = 4096;

/// Bytes that sled uses, and uses again, as one.
const SEGMENT: usize = 512 * 1024;

/// Of so many damaged journals one is set aside and begun anew.
const STARTED_AGAIN: u64 = 20;
