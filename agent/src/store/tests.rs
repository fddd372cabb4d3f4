//! One suite over both stores, then what only one of them can show.

use std::collections::BTreeMap;

use super::*;

mod disk;
mod memory;

/// Pairs as a test writes them down.
type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Both kinds of source, empty, each with the directory that must outlive it.
fn sources() -> Vec<(Box<dyn StoreSource>, Option<tempfile::TempDir>)> {
    let home = tempfile::tempdir().unwrap();
    let on_disk = SledSource::new(home.path().join("journal"));
    vec![(Box::new(on_disk), Some(home)), (Box::new(MemoryDisk::new()), None)]
}

fn put(key: &str, value: impl Into<Vec<u8>>) -> Change {
    Change::Put { key: key.into(), value: value.into() }
}

fn remove(key: &str) -> Change {
    Change::Remove { key: key.into() }
}

fn content(store: &dyn Store) -> Result<Pairs, StoreError> {
    let mut pairs = Pairs::new();
    store.scan(&mut |key, value| assert_eq!(pairs.insert(key.to_vec(), value.to_vec()), None))?;
    Ok(pairs)
}

fn pairs<const N: usize>(expected: [(&str, &str); N]) -> Pairs {
    expected.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

#[test]
fn an_absent_store_opens_empty() {
    for (mut source, _home) in sources() {
        assert_eq!(content(&*source.open().unwrap()).unwrap(), pairs([]));
    }
}

#[test]
fn a_scan_visits_pairs_in_key_order() {
    for (mut source, _home) in sources() {
        let mut store = source.open().unwrap();
        store.commit(&[put("b", "2"), put("aa", "1"), put("\u{7f}", "4")]).unwrap();
        store.commit(&[put("c", "3")]).unwrap();
        let mut keys = Vec::new();
        store.scan(&mut |key, _| keys.push(key.to_vec())).unwrap();
        assert_eq!(keys, [&b"aa"[..], b"b", b"c", b"\x7f"]);
    }
}

#[test]
fn a_commit_replaces_and_removes_and_the_last_change_of_a_key_wins() {
    for (mut source, _home) in sources() {
        let mut store = source.open().unwrap();
        store.commit(&[put("replaced", "old"), put("removed", "old")]).unwrap();
        let changes = [
            put("replaced", "new"),
            remove("removed"),
            remove("never there"),
            put("gone", "x"),
            remove("gone"),
            remove("back"),
            put("back", "y"),
        ];
        store.commit(&changes).unwrap();
        assert_eq!(content(&*store).unwrap(), pairs([("back", "y"), ("replaced", "new")]));
    }
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    for (mut source, _home) in sources() {
        for round in 0..3 {
            let mut store = source.open().unwrap();
            assert_eq!(content(&*store).unwrap().len(), round);
            store.commit(&[put(&format!("round {round}"), "")]).unwrap();
        }
        let names = [("round 0", ""), ("round 1", ""), ("round 2", "")];
        assert_eq!(content(&*source.open().unwrap()).unwrap(), pairs(names));
    }
}

#[test]
fn a_pair_of_the_largest_size_is_kept_and_a_larger_one_refused_with_its_whole_commit() {
    for (mut source, _home) in sources() {
        let mut store = source.open().unwrap();
        let key = "k".repeat(MAX_KEY_BYTES);
        store.commit(&[put(&key, [7; MAX_VALUE_BYTES])]).unwrap();

        let large_value = store.commit(&[put("small", "x"), put("large", [7; MAX_VALUE_BYTES + 1])]);
        let large_value = large_value.unwrap_err();
        assert!(matches!(large_value, StoreError::TooLarge { part: Part::Value, bytes: 4097, limit: 4096 }));
        assert_eq!(large_value.to_string(), "a value of 4097 bytes exceeds the limit of 4096 bytes");
        let large_key = store.commit(&[put("small", "x"), remove(&format!("{key}k"))]).unwrap_err();
        assert!(matches!(large_key, StoreError::TooLarge { part: Part::Key, bytes: 257, limit: 256 }));

        let kept = Pairs::from([(key.clone().into_bytes(), vec![7; MAX_VALUE_BYTES])]);
        assert_eq!(content(&*store).unwrap(), kept, "nothing of the refused commits was written");
        store.commit(&[remove(&key)]).expect("a refusal does not poison the store");
        drop(store);
        assert_eq!(content(&*source.open().unwrap()).unwrap(), pairs([]));
    }
}

#[test]
fn a_commit_without_changes_changes_nothing() {
    for (mut source, _home) in sources() {
        let mut store = source.open().unwrap();
        store.commit(&[put("k", "v")]).unwrap();
        store.commit(&[]).unwrap();
        assert_eq!(content(&*store).unwrap(), pairs([("k", "v")]));
    }
}

#[test]
fn setting_aside_leaves_an_empty_store_that_works() {
    for (mut source, _home) in sources() {
        source.open().unwrap().commit(&[put("k", "old")]).unwrap();
        let place = source.set_aside().unwrap();
        assert!(place.ends_with("set-aside-1"), "{place}");
        let mut store = source.open().unwrap();
        assert_eq!(content(&*store).unwrap(), pairs([]));
        store.commit(&[put("k", "new")]).unwrap();
        drop(store);
        assert_eq!(content(&*source.open().unwrap()).unwrap(), pairs([("k", "new")]));
    }
}

#[test]
fn errors_read_as_sentences() {
    let denied =
        StoreError::io("open the journal at", Path::new("/var/lib/x"), io::Error::from_raw_os_error(13));
    assert_eq!(denied.to_string(), "cannot open the journal at /var/lib/x: permission denied");
    let locked = |pid| StoreError::Locked { path: "/var/lib/x".into(), pid };
    assert_eq!(locked(Some(7)).to_string(), "the journal at /var/lib/x is in use by process 7");
    assert_eq!(locked(None).to_string(), "the journal at /var/lib/x is in use by another process");
}
