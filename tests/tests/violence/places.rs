//! Places that do not serve a journal: full, read-only, failing, or somebody else's. The journal there is not damaged,
//! and nothing may be set aside for it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use fastrand::Rng;
use iotdm_agent::store::{SledSource, StoreSource};

use crate::mounts::{Mounted, folder};
use crate::records::{Verdict, batch, commit_to, read, resume};
use crate::writer::{read_as, read_with_files};

#[test]
#[ignore = "needs root and loop devices"]
fn a_full_disk_refuses_commits_and_nothing_is_lost_when_there_is_room_again() {
    let mut random = Rng::with_seed(4);
    let (mut refused_commits, mut refused_openings, mut worked) = (0, 0, 0);
    let ourselves = format!("in use by process {}", std::process::id());
    for round in 0..FULL_DISKS {
        let disk = Mounted::create();
        let path = disk.path().join("journal");
        let mut source = SledSource::new(&path);
        let (mut journal, mut done) = resume(&mut source).unwrap();
        let before = random.u64(1..120);
        commit_to(&mut journal, done, before).unwrap();
        done = before;
        let ballast = disk.fill(random.u64(..40) * 4096 * (round % 3));

        // As long as the file has room of its own, commits go on.
        let refused = loop {
            match journal.commit(&batch(done + 1)) {
                Ok(()) => done += 1,
                Err(reason) => break reason,
            }
            assert!(done < before + 2000, "the disk is not full");
        };
        let said = refused.to_string();
        assert_eq!(said, format!("cannot write the journal at {}: no storage space", path.display()));
        refused_commits += 1;
        drop(journal);

        // The device tries again, with the same source, and after a restart with another.
        let mut possible = done..=done + 1;
        for attempt in 0..6 {
            if attempt == 3 {
                drop(source);
                source = SledSource::new(&path);
            }
            match read(&mut source) {
                Verdict::Intact(found) if possible.contains(&found) => {
                    possible = found..=found;
                    worked += 1;
                }
                // A child that another test has just forked holds our lock until it becomes another program.
                Verdict::Refused(reason) if reason.to_string().ends_with(&ourselves) => {}
                Verdict::Refused(reason) => {
                    assert!(reason.to_string().ends_with("no storage space"), "{reason}");
                    refused_openings += 1;
                }
                other => panic!("round {round}: promised {done}: {}", other.line()),
            }
        }
        disk.free(&ballast);
        let (mut journal, found) = resume(&mut source).unwrap();
        assert!(possible.contains(&found), "promised {done}, found {found}");
        commit_to(&mut journal, found, found + 50).unwrap();
        drop(journal);
        assert!(matches!(read(&mut source), Verdict::Intact(last) if last == found + 50));
        nothing_set_aside(&path);
    }
    eprintln!(
        "full disks: {FULL_DISKS}, {refused_commits} commits refused; opened while full: {refused_openings} refused, \
         {worked} worked; 0 lost"
    );
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_journal_is_not_begun_on_a_full_disk_and_begins_when_there_is_room() {
    for left_bytes in [0, 4096, 65_536, 300_000, 600_000] {
        let disk = Mounted::create();
        let path = disk.path().join("journal");
        let ballast = disk.fill(left_bytes);
        let mut source = SledSource::new(&path);
        for _ in 0..2 {
            match read(&mut source) {
                Verdict::Refused(reason) => {
                    let said = reason.to_string();
                    assert!(said.starts_with("cannot ") && said.ends_with("no storage space"), "{said}");
                    assert!(said.contains(path.to_str().unwrap()), "{said}");
                }
                Verdict::Intact(0) => {}
                other => panic!("{left_bytes} bytes left: {}", other.line()),
            }
        }
        disk.free(&ballast);
        let (mut journal, done) = resume(&mut source).unwrap();
        commit_to(&mut journal, done, 30).unwrap();
        nothing_set_aside(&path);
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_damaged_journal_on_a_full_disk_is_set_aside_and_the_next_one_begins_when_there_is_room() {
    let disk = Mounted::create();
    let path = disk.path().join("journal");
    let mut source = SledSource::new(&path);
    let (mut journal, done) = resume(&mut source).unwrap();
    commit_to(&mut journal, done, 30).unwrap();
    drop(journal);
    fs::write(path.join("db.sled/db"), "not what was written").unwrap();
    let ballast = disk.fill(0);
    let verdict = read(&mut source);
    assert!(matches!(verdict, Verdict::Damaged(_)), "{}", verdict.line());
    assert!(source.set_aside().unwrap().ends_with("set-aside-1"));
    let verdict = read(&mut source);
    assert!(matches!(verdict, Verdict::Refused(_) | Verdict::Intact(0)), "{}", verdict.line());
    disk.free(&ballast);
    let verdict = read(&mut source);
    assert!(matches!(verdict, Verdict::Intact(0)), "{}", verdict.line());
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_read_only_file_system_is_refused_by_name_and_the_journal_on_it_left_alone() {
    let disk = Mounted::create();
    let path = disk.path().join("journal");
    let mut source = SledSource::new(&path);
    let (mut journal, done) = resume(&mut source).unwrap();
    commit_to(&mut journal, done, 40).unwrap();
    drop((journal, source));
    disk.remount("ro");
    let absent = disk.path().join("absent");
    for (path, attempt) in [(&path, "open the journal at"), (&absent, "create the journal directory")] {
        let verdict = read(&mut SledSource::new(path));
        let Verdict::Refused(reason) = verdict else { panic!("{}", verdict.line()) };
        let expected = format!("cannot {attempt} {}: read-only filesystem or storage medium", path.display());
        assert_eq!(reason.to_string(), expected);
    }
    disk.remount("rw");
    assert!(matches!(read(&mut SledSource::new(&path)), Verdict::Intact(40)));
    nothing_set_aside(&path);
}

/// As ext4 does by itself after an error of the disk: it keeps reading, and writes no more.
#[test]
#[ignore = "needs root and loop devices"]
fn a_file_system_that_gives_up_under_a_running_agent_loses_nothing() {
    for round in 0..GIVEN_UP {
        let disk = Mounted::create();
        let path = disk.path().join("journal");
        let mut source = SledSource::new(&path);
        let (mut journal, done) = resume(&mut source).unwrap();
        let last = 7 + round * 13;
        commit_to(&mut journal, done, last).unwrap();
        disk.remount("abort");
        let refused = journal.commit(&batch(last + 1)).unwrap_err();
        assert!(refused.to_string().starts_with(&format!("cannot write the journal at {}", path.display())));
        drop(journal);
        for attempt in 0..4 {
            if attempt == 2 {
                drop(source);
                source = SledSource::new(&path);
            }
            match read(&mut source) {
                Verdict::Refused(reason) => {
                    assert!(reason.to_string().contains(path.to_str().unwrap()), "{reason}");
                }
                other => panic!("round {round}, attempt {attempt}: {}", other.line()),
            }
        }
        drop(source);
        let image = disk.image();
        drop(disk);
        let disk = image.mount();
        let path = disk.path().join("journal");
        let verdict = read(&mut SledSource::new(&path));
        assert!(matches!(verdict, Verdict::Intact(found) if found >= last), "{last}: {}", verdict.line());
        nothing_set_aside(&path);
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_journal_of_another_user_is_refused_by_name_and_left_alone() {
    let home = folder();
    let program = home.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let path = home.path().join("journal");
    let (mut journal, done) = resume(&mut SledSource::new(&path)).unwrap();
    commit_to(&mut journal, done, 40).unwrap();
    drop(journal);

    let denied = |attempt| format!("refused: cannot {attempt}: permission denied");
    let open = format!("open the journal at {}", path.display());
    assert_eq!(read_as(NOBODY, &program, &path), denied(&*open));
    let absent = home.path().join("absent");
    let create = format!("create the journal directory {}", absent.display());
    assert_eq!(read_as(NOBODY, &program, &absent), denied(&*create));

    // Somebody ran the agent as root once: one file or folder of the journal is root's.
    let give = |to| {
        for path in everything_in(&path) {
            chown(path, Some(to), Some(to)).unwrap();
        }
    };
    give(NOBODY);
    assert_eq!(read_as(NOBODY, &program, &path), "intact 40");
    // Opening replaces a file: each time they are listed anew.
    for place in 0..everything_in(&path).len() {
        let one = &everything_in(&path)[place];
        let permissions = fs::metadata(one).unwrap().permissions();
        chown(one, Some(0), Some(0)).unwrap();
        fs::set_permissions(one, fs::Permissions::from_mode(if one.is_dir() { 0o700 } else { 0o600 }))
            .unwrap();
        let found = read_as(NOBODY, &program, &path);
        assert_eq!(found, denied(&*open), "{}", one.display());
        fs::set_permissions(one, permissions).unwrap();
        chown(one, Some(NOBODY), Some(NOBODY)).unwrap();
        assert_eq!(read_as(NOBODY, &program, &path), "intact 40");
    }
    nothing_set_aside(&path);
    give(0);
    assert!(matches!(read(&mut SledSource::new(&path)), Verdict::Intact(40)));
}

#[test]
fn a_process_without_file_handles_is_refused_and_the_journal_left_alone() {
    let home = folder();
    let path = home.path().join("journal");
    let (mut journal, done) = resume(&mut SledSource::new(&path)).unwrap();
    commit_to(&mut journal, done, 40).unwrap();
    drop(journal);
    // Three are its standard streams.
    let found: Vec<String> = (4..MANY_FILES).map(|files| read_with_files(files, &path)).collect();
    let refused = format!("refused: cannot open the journal at {}: Too many open files", path.display());
    assert!(found.iter().all(|line| line == "intact 40" || line.starts_with(&refused)), "{found:#?}");
    assert!(found[0].starts_with(&refused), "{found:#?}");
    assert_eq!(found.last().unwrap(), "intact 40", "so many are enough");
    nothing_set_aside(&path);
}

/// The folder itself, then what is in it.
fn everything_in(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(everything_in(&entry));
        } else {
            found.push(entry);
        }
    }
    found
}

fn nothing_set_aside(journal: &Path) {
    let mut names = fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.all(|name| !name.to_string_lossy().starts_with("set-aside")), "it is not damaged");
}

/// File systems that are filled while a journal on them is in use.
const FULL_DISKS: u64 = 24;

/// File systems that give up.
const GIVEN_UP: u64 = 6;

/// Files that a process needs at most to use a journal.
const MANY_FILES: u64 = 14;

/// A user without rights.
const NOBODY: u32 = 65_534;
