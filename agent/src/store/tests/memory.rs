//! Faults on demand.

use super::*;

#[test]
fn a_failed_commit_leaves_nothing_and_poisons_the_store() {
    let mut disk = MemoryDisk::new();
    let mut store = disk.open().unwrap();
    disk.fail_commit(2);
    store.commit(&[put("k", "1")]).unwrap();
    assert!(matches!(store.commit(&[put("k", "2")]), Err(StoreError::Io { .. })));
    assert!(matches!(store.commit(&[put("k", "3")]), Err(StoreError::Poisoned)));
    assert!(matches!(store.commit(&[]), Err(StoreError::Poisoned)));
    assert!(matches!(content(&*store), Err(StoreError::Poisoned)));

    let mut store = disk.open().unwrap();
    assert_eq!(content(&*store).unwrap(), pairs([("k", "1")]));
    store.commit(&[put("k", "4")]).unwrap();
    assert_eq!(disk.entries(), pairs([("k", "4")]));
}

#[test]
fn a_crash_at_a_commit_applies_all_of_its_changes_or_none() {
    for (outcome, expected) in [
        (CrashOutcome::Applied, pairs([("a", "new"), ("b", "new")])),
        (CrashOutcome::NotApplied, pairs([("a", "old")])),
    ] {
        let mut disk = MemoryDisk::new();
        let mut store = disk.open().unwrap();
        store.commit(&[put("a", "old")]).unwrap();
        disk.crash_at_commit(1, outcome);
        assert!(matches!(store.commit(&[put("a", "new"), put("b", "new")]), Err(StoreError::Io { .. })));
        assert!(matches!(content(&*store), Err(StoreError::Poisoned)));
        assert_eq!(content(&*disk.open().unwrap()).unwrap(), expected);
    }
}

#[test]
fn a_torn_commit_leaves_a_beginning_of_its_changes_and_is_damage() {
    let names = ["a", "b", "c", "d"];
    let mut lengths = std::collections::BTreeSet::new();
    for earlier in 0..8 {
        let mut disk = MemoryDisk::new();
        let mut store = disk.open().unwrap();
        (0..earlier).for_each(|n| store.commit(&[put("n", [n])]).unwrap());
        let commits = disk.commits();
        disk.crash_at_commit(1, CrashOutcome::Torn);
        assert!(matches!(store.commit(&names.map(|name| put(name, "new"))), Err(StoreError::Io { .. })));
        assert_eq!(disk.commits(), commits);

        let found = disk.entries().into_keys().filter(|key| key != b"n").collect::<Vec<_>>();
        assert!(found.len() < names.len(), "never all of them");
        assert!(found.iter().zip(names).all(|(found, name)| found == name.as_bytes()), "{found:?}");
        lengths.insert(found.len());
        assert!(matches!(disk.fork().open(), Err(StoreError::Damaged { .. })), "a copy has the damage, too");
        assert!(matches!(disk.open(), Err(StoreError::Damaged { .. })));
        disk.set_aside().unwrap();
        assert_eq!(content(&*disk.open().unwrap()).unwrap(), pairs([]));
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn rot_flips_one_bit_of_one_value_and_a_seed_repeats_it() {
    let mut disk = MemoryDisk::new();
    disk.rot(0);
    assert_eq!(disk.pairs(), 0, "nothing to spoil");
    disk.open().unwrap().commit(&[put("empty", ""), put("a", "first"), put("b", "second")]).unwrap();
    let before = disk.entries();
    for seed in 0..50 {
        let (rotten, same) = (disk.fork(), disk.fork());
        rotten.rot(seed);
        same.rot(seed);
        assert_eq!(rotten.entries(), same.entries());
        let flipped: u32 = before
            .iter()
            .zip(rotten.entries())
            .map(|((key, old), (rotten_key, new))| {
                assert_eq!((key, old.len()), (&rotten_key, new.len()));
                old.iter().zip(new).map(|(old, new)| (old ^ new).count_ones()).sum::<u32>()
            })
            .sum();
        assert_eq!(flipped, 1, "seed {seed}");
    }
}

#[test]
fn what_it_holds_is_counted() {
    let mut disk = MemoryDisk::new();
    let mut store = disk.open().unwrap();
    assert_eq!((disk.pairs(), disk.bytes()), (0, 0));
    store.commit(&[put("key", "value"), put("k", "")]).unwrap();
    assert_eq!((disk.pairs(), disk.bytes()), (2, 9));
    store.commit(&[remove("key")]).unwrap();
    assert_eq!((disk.pairs(), disk.bytes()), (1, 1));
}

#[test]
fn a_full_disk_refuses_commits_until_it_has_room_and_is_opened_again() {
    let mut disk = MemoryDisk::new();
    let mut store = disk.open().unwrap();
    disk.disk_full(true);
    let refused = store.commit(&[put("k", "v")]).unwrap_err();
    assert_eq!(refused.to_string(), "cannot write the journal at memory: no storage space");
    let mut store = disk.open().unwrap();
    assert!(store.commit(&[put("k", "v")]).is_err());
    disk.disk_full(false);
    assert!(matches!(store.commit(&[put("k", "v")]), Err(StoreError::Poisoned)));
    disk.open().unwrap().commit(&[put("k", "v")]).unwrap();
    assert_eq!(disk.entries(), pairs([("k", "v")]));
}

#[test]
fn damage_lasts_until_the_store_is_set_aside() {
    let mut disk = MemoryDisk::new();
    disk.open().unwrap().commit(&[put("k", "v")]).unwrap();
    disk.damage();
    for _ in 0..2 {
        assert!(matches!(disk.open(), Err(StoreError::Damaged { .. })));
    }
    assert_eq!(disk.set_aside().unwrap(), "memory/set-aside-1");
    assert_eq!(content(&*disk.open().unwrap()).unwrap(), pairs([]));
}

#[test]
fn only_the_newest_stores_set_aside_are_kept() {
    let mut disk = MemoryDisk::new();
    for _ in 0..5 {
        disk.set_aside().unwrap();
    }
    assert_eq!(disk.set_aside_names(), ["set-aside-3", "set-aside-4", "set-aside-5"]);
}

#[test]
fn a_lock_names_its_holder_until_it_is_released() {
    let mut disk = MemoryDisk::new();
    disk.lock_by(Some(42));
    assert!(matches!(disk.open(), Err(StoreError::Locked { pid: Some(42), .. })));
    disk.lock_by(None);
    disk.open().unwrap();
}

#[test]
fn opening_again_cuts_off_the_store_opened_before() {
    let mut disk = MemoryDisk::new();
    let mut before = disk.open().unwrap();
    let mut after = disk.open().unwrap();
    assert!(matches!(before.commit(&[put("k", "before")]), Err(StoreError::Poisoned)));
    after.commit(&[put("k", "after")]).unwrap();
    assert_eq!(disk.entries(), pairs([("k", "after")]));
}

#[test]
fn commits_changes_and_bytes_are_counted_when_they_are_durable() {
    let mut disk = MemoryDisk::new();
    let mut store = disk.open().unwrap();
    store.commit(&[]).unwrap();
    assert_eq!((disk.commits(), disk.changes(), disk.bytes_written()), (0, 0, 0));
    store.commit(&[put("key", "value"), remove("k")]).unwrap();
    assert_eq!((disk.commits(), disk.changes(), disk.bytes_written()), (1, 2, 9));
    disk.crash_at_commit(1, CrashOutcome::NotApplied);
    assert!(store.commit(&[put("key", "value")]).is_err());
    assert_eq!(disk.commits(), 1);
    disk.crash_at_commit(1, CrashOutcome::Applied);
    assert!(disk.open().unwrap().commit(&[put("key", "value")]).is_err());
    assert_eq!((disk.commits(), disk.changes(), disk.bytes_written()), (2, 3, 17));
}

#[test]
fn a_fork_goes_its_own_way_without_the_planned_faults() {
    let mut disk = MemoryDisk::new();
    disk.open().unwrap().commit(&[put("k", "v")]).unwrap();
    disk.fail_commit(1);
    let mut fork = disk.fork();
    fork.open().unwrap().commit(&[put("k", "forked")]).unwrap();
    assert_eq!(fork.entries(), pairs([("k", "forked")]));
    assert_eq!(disk.entries(), pairs([("k", "v")]));
    assert_eq!((fork.commits(), disk.commits()), (2, 1));
}
