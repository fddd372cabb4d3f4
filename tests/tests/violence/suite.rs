//! What both stores must stand.

use fastrand::Rng;
use iotdm_agent::testing::MemoryDisk;

use crate::disk::{Directory, Disk};
use crate::records::{Verdict, batch, commit_to, read, resume};

/// Instantiates the suite for a disk.
macro_rules! suite {
    ($name:ident, $disk:ty) => {
        mod $name {
            use super::*;

            #[test]
            fn a_crash_after_any_commit_loses_nothing() {
                check_crash_after_every_commit::<$disk>();
            }

            #[test]
            fn one_crash_after_the_other_loses_nothing() {
                check_crash_after_crash::<$disk>();
            }

            #[test]
            fn a_crash_in_the_middle_of_any_commit_leaves_all_of_it_or_nothing() {
                check_crash_in_every_commit::<$disk>();
            }

            #[test]
            fn a_flipped_bit_is_harmless_or_noticed_and_the_device_starts_again() {
                check_flipped_bits::<$disk>();
            }
        }
    };
}

suite!(in_memory, MemoryDisk);
suite!(on_sled, Directory);

fn check_crash_after_every_commit<D: Disk>() {
    let disk = D::new();
    let (mut journal, _) = resume(&mut *disk.source()).unwrap();
    for number in 1..=COMMITS {
        journal.commit(&batch(number)).unwrap();
        intact(&disk.copy(), number);
    }
}

fn check_crash_after_crash<D: Disk>() {
    let mut disk = D::new();
    for number in 1..=COMMITS {
        let (mut journal, done) = resume(&mut *disk.source()).unwrap();
        assert_eq!(done, number - 1);
        journal.commit(&batch(number)).unwrap();
        // The program that has it open never closes it in time.
        let crashed = disk.copy();
        drop(journal);
        disk = crashed;
    }
    intact(&disk, COMMITS);
}

fn check_crash_in_every_commit<D: Disk>() {
    let mut random = Rng::with_seed(1);
    let mut disk = D::new();
    resume(&mut *disk.source()).unwrap();
    let (mut whole, mut nothing, mut damaged) = (0, 0, 0);
    for number in 1..=INTERRUPTED_COMMITS {
        let mut next = None;
        for (state, may_be_damaged) in disk.interrupted(number, &mut random) {
            let verdict = read(&mut *state.source());
            match verdict {
                Verdict::Intact(found) if found == number => {
                    whole += 1;
                    next = Some(state);
                }
                Verdict::Intact(found) if found == number - 1 => nothing += 1,
                Verdict::Damaged(_) if may_be_damaged => {
                    damaged += 1;
                    start_again(&state);
                }
                other => panic!("commit {number}: {}", other.line()),
            }
        }
        disk = next.expect("a crash after the last write leaves the whole commit");
    }
    eprintln!("crashes in the middle: {whole} left the whole commit, {nothing} nothing, {damaged} damage");
    assert!(whole > 0 && nothing > 0, "both sides of the crash were seen");
}

fn check_flipped_bits<D: Disk>() {
    let pristine = D::new();
    let (mut journal, done) = resume(&mut *pristine.source()).unwrap();
    commit_to(&mut journal, done, COMMITS).unwrap();
    drop(journal);
    let (mut harmless, mut noticed) = (0, 0);
    for seed in 0..FLIPS {
        let disk = pristine.copy();
        let place = disk.flip(&mut Rng::with_seed(seed));
        let verdict = read(&mut *disk.source());
        match verdict {
            Verdict::Intact(found) => {
                assert_eq!(found, COMMITS, "{place}: the newest commits are gone in silence");
                harmless += 1;
            }
            Verdict::Damaged(_) => {
                noticed += 1;
                start_again(&disk);
            }
            other => panic!("{place}: {}", other.line()),
        }
    }
    eprintln!("flipped bits: {harmless} harmless, {noticed} noticed, 0 silent");
    assert!(noticed > 0, "some bits matter");
}

/// What was committed is there, all of it and nothing else.
fn intact(disk: &impl Disk, number: u64) {
    match read(&mut *disk.source()) {
        Verdict::Intact(found) => assert_eq!(found, number),
        other => panic!("after commit {number}: {}", other.line()),
    }
}

/// A damaged journal is set aside under a name that is said, and an empty one takes its place and works.
pub(crate) fn start_again(disk: &impl Disk) {
    let mut source = disk.source();
    let again = read(&mut *source);
    assert!(matches!(again, Verdict::Damaged(_)), "damage does not heal by itself: {}", again.line());
    let place = source.set_aside().unwrap();
    assert!(place.contains("set-aside-"), "{place}");
    let (mut journal, done) = resume(&mut *source).unwrap();
    assert_eq!(done, 0);
    journal.commit(&batch(1)).unwrap();
    drop(journal);
    assert!(matches!(read(&mut *source), Verdict::Intact(1)));
}

/// Commits of one history: every request is written in every stage.
const COMMITS: u64 = 100;

/// Commits that are interrupted, in several ways each.
const INTERRUPTED_COMMITS: u64 = 40;

/// Bits that are flipped, one at a time.
const FLIPS: u64 = 200;
