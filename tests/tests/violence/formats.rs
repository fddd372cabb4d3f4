//! A device is updated, and put back, with its journal full: what an earlier program wrote opens for ever, and what a later
//! one wrote is refused by name and left as it is.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use iotdm_agent::store::Change;

use crate::disk::{Directory, Disk};
use crate::records::{Verdict, commit_to, read, resume};

#[test]
fn a_directory_written_by_the_first_version_opens_and_goes_on() {
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/violence/format-1.hex");
    let Ok(text) = fs::read_to_string(&fixture) else {
        fs::write(&fixture, pack(&written())).unwrap();
        panic!("{} was not there; it was written by this version", fixture.display());
    };
    for text in [text, pack(&written())] {
        let disk = unpack(&text);
        let (mut journal, done) = resume(&mut *disk.source()).unwrap();
        assert_eq!(done, COMMITS);
        commit_to(&mut journal, done, COMMITS + 100).unwrap();
        drop(journal);
        assert!(matches!(read(&mut *disk.source()), Verdict::Intact(found) if found == COMMITS + 100));
    }
}

#[test]
fn a_store_of_another_version_is_refused_by_name_and_left_alone() {
    for version in ["0.33", "0.35", "1.0"] {
        let disk = written();
        let configuration = disk.store().join("conf");
        let whole = fs::read(&configuration).unwrap();
        fs::write(&configuration, other_version(&whole, version)).unwrap();
        let before = contents(&disk);
        for _ in 0..2 {
            let verdict = read(&mut *disk.source());
            let Verdict::Refused(reason) = verdict else { panic!("{}", verdict.line()) };
            let (said, path) = (reason.to_string(), disk.journal());
            assert!(said.starts_with(&format!("the journal at {}", path.display())), "{said}");
            assert!(said.contains("in a format") && said.contains(version), "{said}");
        }
        assert_eq!(contents(&disk), before);
        fs::write(&configuration, whole).unwrap();
        assert!(matches!(read(&mut *disk.source()), Verdict::Intact(COMMITS)));
    }
}

#[test]
fn a_version_that_is_only_spoilt_is_damage() {
    let disk = written();
    let configuration = disk.store().join("conf");
    let mut bytes = other_version(&fs::read(&configuration).unwrap(), "7.7");
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&configuration, bytes).unwrap();
    let verdict = read(&mut *disk.source());
    assert!(matches!(verdict, Verdict::Damaged(_)), "{}", verdict.line());
}

#[test]
fn a_record_of_a_later_format_is_refused_by_name_and_left_alone() {
    let disk = written();
    let mut record = vec![2, 0, 0, 0, 0];
    record.extend_from_slice(b"what a later program writes");
    let checksum = crc32fast::hash(&[&record[..1], &record[5..]].concat());
    record[1..5].copy_from_slice(&checksum.to_be_bytes());
    let mark = b"m\0\0".to_vec();
    disk.source()
        .open()
        .unwrap()
        .commit(&[Change::Put { key: mark.clone(), value: record.clone() }])
        .unwrap();
    for _ in 0..2 {
        let verdict = read(&mut *disk.source());
        let Verdict::Refused(reason) = verdict else { panic!("{}", verdict.line()) };
        assert!(reason.to_string().starts_with("the journal has format 2"), "{reason}");
    }
    let mut found = None;
    let store = disk.source().open().unwrap();
    store
        .scan(&mut |key, value| found = if key == mark { Some(value.to_vec()) } else { found.take() })
        .unwrap();
    assert_eq!(found, Some(record), "the later program finds what it wrote");
}

fn written() -> Directory {
    let disk = Directory::new();
    let (mut journal, done) = resume(&mut *disk.source()).unwrap();
    commit_to(&mut journal, done, COMMITS).unwrap();
    drop(journal);
    disk
}

/// The configuration as another version of sled writes it: text, then its checksum.
pub(crate) fn other_version(configuration: &[u8], version: &str) -> Vec<u8> {
    let text = String::from_utf8(configuration[..configuration.len() - 4].to_vec()).unwrap();
    let ours = text.lines().find(|line| line.starts_with("version: ")).expect("it names its version");
    let mut bytes = text.replace(ours, &format!("version: {version}")).into_bytes();
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

fn contents(disk: &Directory) -> BTreeMap<PathBuf, Vec<u8>> {
    disk.files().into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

/// A line for each file: its name, its length, and its bytes without the zeros at the end.
fn pack(disk: &Directory) -> String {
    let mut text = String::new();
    for (file, bytes) in contents(disk) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        write!(text, "{name} {} ", bytes.len()).unwrap();
        bytes[..used].iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    text
}

fn unpack(text: &str) -> Directory {
    let disk = Directory::new();
    fs::create_dir_all(disk.store().join("blobs")).unwrap();
    for line in text.lines() {
        let [name, length, hex] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let mut bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        bytes.resize(length.parse().unwrap(), 0);
        fs::write(disk.store().join(Path::new(name)), bytes).unwrap();
    }
    disk
}

/// Commits of the journal that is kept.
const COMMITS: u64 = 5;
