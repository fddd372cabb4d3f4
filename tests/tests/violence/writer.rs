//! A process of its own that uses a journal: so that it can be stopped, killed, or be another user's.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use iotdm_agent::store::SledSource;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::records::{batch, read, resume};

/// Starts this test as a writer: it goes on committing to the journal and prints `promised <n>` when commit `n` has
/// returned.
#[expect(clippy::disallowed_methods, reason = "a process that must be killed")]
pub(crate) fn start_writer(journal: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "writer::writer_process"])
        .env(JOURNAL, journal)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a process of another user finds in the journal: the line of a verdict. `program` is a copy of this test that the
/// user may run.
pub(crate) fn read_as(user: u32, program: &Path, journal: &Path) -> String {
    found_by(reader(program, journal).uid(user).gid(user))
}

/// What a process finds in the journal that may open only so many files at a time.
pub(crate) fn read_with_files(files: u64, journal: &Path) -> String {
    found_by(reader(&std::env::current_exe().unwrap(), journal).env(FILES, files.to_string()))
}

#[expect(clippy::disallowed_methods, reason = "a process with rights of its own")]
fn reader(program: &Path, journal: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--ignored", "--exact", "--nocapture", "writer::reader_process"]);
    command.env(JOURNAL, journal).current_dir("/");
    command
}

fn found_by(reader: &mut Command) -> String {
    let output = reader.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.split_once(FOUND)).map(|(_, verdict)| verdict.to_owned());
    line.unwrap_or_else(|| panic!("it said nothing: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
#[ignore = "run as a child process by other tests"]
fn writer_process() {
    let Some(journal) = std::env::var_os(JOURNAL) else { return };
    let (mut journal, mut done) = resume(&mut SledSource::new(journal)).unwrap();
    // Ends by being killed, or when nobody listens any more.
    loop {
        journal.commit(&batch(done + 1)).unwrap();
        done += 1;
        writeln!(std::io::stdout(), "{PROMISED}{done}").unwrap();
    }
}

#[test]
#[ignore = "run as a child process by other tests"]
fn reader_process() {
    let Some(journal) = std::env::var_os(JOURNAL) else { return };
    if let Ok(files) = std::env::var(FILES) {
        let files = Some(files.parse().unwrap());
        setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files }).unwrap();
    }
    let verdict = read(&mut SledSource::new(journal));
    writeln!(std::io::stdout(), "{FOUND}{}", verdict.line()).unwrap();
}

/// How the writer says that a commit has returned.
pub(crate) const PROMISED: &str = "promised ";

/// How the reader says what it found.
const FOUND: &str = "found ";

/// Tells a child process which journal to use.
const JOURNAL: &str = "IOTDM_TEST_JOURNAL";

/// Tells a reader how many files it may have open.
const FILES: &str = "IOTDM_TEST_FILES";
