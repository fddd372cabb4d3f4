//! What only files can show: locks, damage, space, and a process that is killed.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use super::*;

#[test]
fn a_second_source_in_this_process_is_refused_by_our_process_id() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal");
    let mut first = SledSource::new(&journal);
    let store = first.open().unwrap();
    let ours = Some(std::process::id());

    let refused = |error| matches!(error, StoreError::Locked { pid, .. } if pid == ours);
    assert!(refused(SledSource::new(&journal).open().unwrap_err()));
    assert!(refused(SledSource::new(&journal).set_aside().unwrap_err()));
    assert!(refused(first.open().unwrap_err()), "its store is still open");
    assert!(refused(first.set_aside().unwrap_err()), "its store is still open");

    drop(store);
    assert!(refused(SledSource::new(&journal).open().unwrap_err()), "the lock outlives the store");
    drop(first);
    SledSource::new(&journal).open().unwrap();
}

#[test]
fn the_journal_is_closed_to_others_also_where_the_folder_was_open() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (made, found) = (home.path().join("made"), home.path().join("found"));
    fs::create_dir(&found).unwrap();
    fs::set_permissions(&found, fs::Permissions::from_mode(0o777)).unwrap();
    for journal in [&made, &found] {
        SledSource::new(journal).open().unwrap();
        assert_eq!(mode(journal), 0o700, "{}", journal.display());
    }
}

#[test]
fn a_second_process_is_refused_and_told_who_has_the_journal() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal");
    let (mut child, mut commits) = spawn_writer(&journal);
    assert_eq!(next_promise(&mut commits), Some(1));
    let refused = SledSource::new(&journal).open().unwrap_err();
    assert!(matches!(refused, StoreError::Locked { pid: Some(pid), .. } if pid == child.id()), "{refused}");
    child.kill().unwrap();
    child.wait().unwrap();
    SledSource::new(&journal).open().expect("the lock ends with its process");
}

#[test]
fn commits_promised_by_a_killed_process_are_there() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal");
    let mut promised = 0;
    for round in 0..12 {
        let (mut child, mut commits) = spawn_writer(&journal);
        for _ in 0..=round * 17 {
            promised = next_promise(&mut commits).unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it promised between our last look and the kill.
        while let Some(later) = next_promise(&mut commits) {
            promised = later;
        }
        let pairs = content(&*SledSource::new(&journal).open().unwrap()).unwrap();
        let count = read_count(&pairs);
        assert!(count == promised || count == promised + 1, "promised {promised}, found {count}");
        for n in count.saturating_sub(WINDOW)..count {
            assert_eq!(pairs[&number_key(n)], number_value(n), "round {round}");
        }
        assert_eq!(pairs.len() as u64, count.min(WINDOW) + 1, "removals are as atomic as the rest");
    }
}

#[test]
#[ignore = "run as a child process by other tests"]
fn writer_process() {
    let Some(journal) = std::env::var_os(WRITER_JOURNAL) else { return };
    let mut source = SledSource::new(journal);
    let mut store = source.open().unwrap();
    let mut count = read_count(&content(&*store).unwrap());
    // Ends by being killed, or when nobody listens any more.
    loop {
        let mut changes = vec![
            Change::Put { key: number_key(count), value: number_value(count) },
            put("count", (count + 1).to_le_bytes()),
        ];
        if count >= WINDOW {
            changes.push(Change::Remove { key: number_key(count - WINDOW) });
        }
        store.commit(&changes).unwrap();
        count += 1;
        writeln!(std::io::stdout(), "promised {count}").unwrap();
    }
}

#[test]
fn a_damaged_data_file_is_reported_or_harmless_and_setting_it_aside_helps() {
    let home = tempfile::tempdir().unwrap();
    let (pristine, journal) = (home.path().join("pristine"), home.path().join("journal"));
    // Many segments, keys written twice, and a second opening, whose snapshot covers half of it.
    let mut expected = Pairs::new();
    for round in 0..2 {
        let mut source = SledSource::new(&pristine);
        let mut store = source.open().unwrap();
        for n in 0..400 {
            let (key, value) = (format!("key {:04}", n + round * 200), vec![(n + round) as u8; 1500]);
            expected.insert(key.clone().into_bytes(), value.clone());
            store.commit(&[put(&key, value)]).unwrap();
        }
    }
    let whole = fs::read(pristine.join("db.sled/db")).unwrap();
    assert!(whole.len() > 2 * 524_288, "several segments: {}", whole.len());

    let damages: [(&str, Damage); 3] = [
        ("bit flipped", |bytes, at| bytes[at] ^= 4),
        ("truncated", |bytes, at| bytes.truncate(at)),
        ("page zeroed", |bytes, at| bytes.iter_mut().skip(at).take(4096).for_each(|byte| *byte = 0)),
    ];
    let mut reported = 0;
    for step in 0..DAMAGE_POSITIONS {
        let at = step * whole.len() / DAMAGE_POSITIONS + step * 7;
        for (damage, apply) in damages {
            copy_tree(&pristine, &journal);
            let mut bytes = whole.clone();
            apply(&mut bytes, at);
            fs::write(journal.join("db.sled/db"), bytes).unwrap();

            let mut source = SledSource::new(&journal);
            match source.open().and_then(|store| content(&*store)) {
                Ok(found) => assert!(found == expected, "{damage} at {at}: silently different"),
                Err(StoreError::Damaged { .. }) => {
                    reported += 1;
                    source.set_aside().unwrap();
                    assert_eq!(content(&*source.open().unwrap()).unwrap(), pairs([]));
                }
                Err(other) => panic!("{damage} at {at}: {other}"),
            }
            drop(source);
            fs::remove_dir_all(&journal).unwrap();
        }
    }
    assert!(reported > DAMAGE_POSITIONS, "only {reported} damages were noticed");
}

#[test]
fn a_store_that_lost_its_newest_commits_is_damaged() {
    let home = tempfile::tempdir().unwrap();
    let (journal, earlier) = (home.path().join("journal"), home.path().join("earlier"));
    SledSource::new(&journal).open().unwrap().commit(&[put("k", "1")]).unwrap();
    copy_tree(&journal.join("db.sled"), &earlier);
    SledSource::new(&journal).open().unwrap().commit(&[put("k", "2")]).unwrap();
    // An older, self-consistent store under the newer witness.
    fs::copy(journal.join("db.sled/commits"), earlier.join("commits")).unwrap();
    fs::remove_dir_all(journal.join("db.sled")).unwrap();
    copy_tree(&earlier, &journal.join("db.sled"));
    let lost = SledSource::new(&journal).open().unwrap_err();
    assert!(lost.to_string().ends_with("is damaged: its last 1 commits are missing"), "{lost}");
}

#[test]
fn a_store_with_a_pair_that_no_commit_left_is_damaged() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal");
    let mut source = SledSource::new(&journal);
    source.open().unwrap().commit(&[put("k", "old")]).unwrap();
    source.open().unwrap().commit(&[put("k", "new")]).unwrap();
    // As damage to sled's log may leave it: legible, and not the newest.
    guard::open_sled(&journal.join("db.sled")).unwrap().insert("k", "old").unwrap();
    let aged = source.open().unwrap_err();
    assert!(aged.to_string().ends_with("is damaged: its content does not match its seal"), "{aged}");
}

#[test]
fn a_late_or_illegible_witness_does_not_condemn_the_store() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal");
    let witness = journal.join("db.sled/commits");
    let mut source = SledSource::new(&journal);
    source.open().unwrap().commit(&[put("k", "1")]).unwrap();
    let late = fs::read(&witness).unwrap();
    source.open().unwrap().commit(&[put("k", "2")]).unwrap();
    for bytes in [late, Vec::new(), vec![0xff; 16], vec![1; 5]] {
        fs::write(&witness, bytes).unwrap();
        assert_eq!(content(&*source.open().unwrap()).unwrap(), pairs([("k", "2")]));
    }
    fs::remove_file(&witness).unwrap();
    assert_eq!(content(&*source.open().unwrap()).unwrap(), pairs([("k", "2")]));
}

#[test]
fn a_data_file_that_is_empty_or_gone_is_damage_and_not_a_first_start() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal");
    let mut source = SledSource::new(&journal);
    source.open().unwrap().commit(&[put("k", "v")]).unwrap();
    fs::write(journal.join("db.sled/db"), []).unwrap();
    assert!(matches!(source.open(), Err(StoreError::Damaged { .. })));
    fs::remove_file(journal.join("db.sled/db")).unwrap();
    assert!(matches!(source.open(), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_damaged_configuration_or_snapshot_is_damage_and_an_unfinished_snapshot_is_not() {
    let home = tempfile::tempdir().unwrap();
    let (pristine, journal) = (home.path().join("pristine"), home.path().join("journal"));
    for n in ["1", "2"] {
        SledSource::new(&pristine).open().unwrap().commit(&[put("k", n)]).unwrap();
    }
    let names = fs::read_dir(pristine.join("db.sled")).unwrap().map(|entry| entry.unwrap().file_name());
    let snapshot =
        names.filter_map(|name| name.into_string().ok()).find(|name| name.starts_with("snap.")).unwrap();

    for name in [snapshot.as_str(), "conf"] {
        copy_tree(&pristine, &journal);
        let file = journal.join("db.sled").join(name);
        let mut bytes = fs::read(&file).unwrap();
        bytes[0] ^= 0xff;
        fs::write(&file, bytes).unwrap();
        let opened = SledSource::new(&journal).open();
        assert!(matches!(opened, Err(StoreError::Damaged { .. })), "{name}: {opened:?}");
        fs::remove_dir_all(&journal).unwrap();
    }

    copy_tree(&pristine, &journal);
    fs::write(journal.join("db.sled/snap.FFFFFFFFFFFFFFFF.generating"), "half").unwrap();
    assert_eq!(content(&*SledSource::new(&journal).open().unwrap()).unwrap(), pairs([("k", "2")]));
}

#[test]
fn an_interrupted_creation_is_begun_again() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal");
    fs::create_dir_all(journal.join("db.creating/blobs")).unwrap();
    fs::write(journal.join("db.creating/db"), "half a segment").unwrap();
    let mut source = SledSource::new(&journal);
    source.open().unwrap().commit(&[put("k", "v")]).unwrap();
    assert!(!journal.join("db.creating").exists());
}

#[test]
fn a_blob_file_is_damage() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal");
    let mut source = SledSource::new(&journal);
    drop(source.open().unwrap());
    fs::write(journal.join("db.sled/blobs/1"), "never synced").unwrap();
    let error = source.open().unwrap_err();
    assert!(error.to_string().contains("blob files"), "{error}");
}

#[test]
fn only_the_newest_damaged_stores_are_kept_and_their_numbers_go_on() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal");
    for n in 1..=5 {
        let mut source = SledSource::new(&journal);
        source.open().unwrap().commit(&[put("n", [n])]).unwrap();
        assert_eq!(source.set_aside().unwrap(), journal.join(format!("set-aside-{n}")).display().to_string());
    }
    let mut names: Vec<_> = fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["lock", "set-aside-3", "set-aside-4", "set-aside-5"]);
    // What was set aside is complete: under its old name it opens.
    fs::rename(journal.join("set-aside-4"), journal.join("db.sled")).unwrap();
    let store = SledSource::new(&journal).open().unwrap();
    assert_eq!(content(&*store).unwrap(), Pairs::from([(b"n".to_vec(), vec![4])]));
}

#[test]
fn a_place_that_cannot_hold_a_journal_is_named_with_what_was_tried() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();

    let below_a_file = file.join("journal");
    let error = SledSource::new(&below_a_file).open().unwrap_err();
    let expected = format!("cannot create the journal directory {}: not a directory", below_a_file.display());
    assert_eq!(error.to_string(), expected);

    let without_parent = home.path().join("absent/journal");
    let error = SledSource::new(&without_parent).open().unwrap_err();
    let expected =
        format!("cannot create the journal directory {}: entity not found", without_parent.display());
    assert_eq!(error.to_string(), expected);

    let error = SledSource::new(&file).open().unwrap_err();
    assert_eq!(error.to_string(), format!("cannot open the journal at {}: not a directory", file.display()));
}

#[test]
fn the_journal_directory_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal");
    SledSource::new(&journal).open().unwrap();
    assert_eq!(fs::metadata(&journal).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn the_largest_pairs_make_no_blob_files() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal");
    let mut source = SledSource::new(&journal);
    let mut store = source.open().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..1000 {
        let key = format!("{:0>width$}", random.u32(..300), width = MAX_KEY_BYTES);
        let change =
            if random.u8(..4) == 0 { remove(&key) } else { put(&key, [random.u8(..); MAX_VALUE_BYTES]) };
        store.commit(&[change]).unwrap();
    }
    let before = content(&*store).unwrap();
    drop(store);
    assert_eq!(fs::read_dir(journal.join("db.sled/blobs")).unwrap().count(), 0);
    assert!(content(&*source.open().unwrap()).unwrap() == before, "all of it is there after reopening");
}

#[test]
fn the_file_stays_small_under_churn() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal");
    let mut source = SledSource::new(&journal);
    let mut store = source.open().unwrap();
    for n in 0..20_000 {
        let mut changes = vec![put(&format!("{n:08}"), [n as u8; 200])];
        if n >= 200 {
            changes.push(remove(&format!("{:08}", n - 200)));
        }
        store.commit(&changes).unwrap();
    }
    let bytes = fs::metadata(journal.join("db.sled/db")).unwrap().len();
    assert!(bytes < 8 * 1024 * 1024, "{bytes} bytes for 200 pairs of 200");
    assert_eq!(content(&*store).unwrap().len(), 200);
}

/// Spoils a file's bytes at a place.
type Damage = fn(&mut Vec<u8>, usize);

/// Runs `writer_process` on `journal` in a process of its own; its lines say what it has promised.
#[expect(clippy::disallowed_methods, reason = "a test that needs a process to kill")]
fn spawn_writer(journal: &Path) -> (Child, impl BufRead + use<>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "store::tests::disk::writer_process"])
        .env(WRITER_JOURNAL, journal)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

/// The next commit that the writer promised; `None` when it has ended.
fn next_promise(output: &mut impl BufRead) -> Option<u64> {
    loop {
        let mut line = String::new();
        output.by_ref().take(200).read_line(&mut line).unwrap();
        if !line.ends_with('\n') {
            return None;
        }
        if let Some((_, count)) = line.trim_end().split_once("promised ") {
            return Some(count.parse().unwrap());
        }
    }
}

fn read_count(pairs: &Pairs) -> u64 {
    pairs.get(&b"count"[..]).map_or(0, |bytes| u64::from_le_bytes(bytes[..].try_into().unwrap()))
}

fn number_key(n: u64) -> Vec<u8> {
    format!("number {n:08}").into_bytes()
}

fn number_value(n: u64) -> Vec<u8> {
    vec![n as u8; 50 + n as usize % 3000]
}

fn copy_tree(from: &Path, to: &Path) {
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

/// Tells `writer_process` where to write.
const WRITER_JOURNAL: &str = "IOTDM_TEST_WRITER_JOURNAL";

/// Numbers that the writer keeps.
const WINDOW: u64 = 40;

/// Places in the data file that are damaged, each in every way.
const DAMAGE_POSITIONS: usize = 24;
