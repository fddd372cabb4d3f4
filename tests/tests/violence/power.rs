//! The power goes at any moment, again and again.
//!
//! A process commits to a journal on a file system of its own and says which commits have returned. At a random moment it
//! is stopped, what it has said is read, and then the disk below the file system is copied: what only the kernel knew is
//! not in the copy. The copy is mounted and must hold every commit that was promised. Which of the writes of one sync reach
//! the disk first is not seen here, but in `suite`.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout};
use std::time::Duration;

use fastrand::Rng;
use iotdm_agent::store::SledSource;
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::mounts::{Image, Mounted};
use crate::records::{Verdict, read};
use crate::writer::{PROMISED, start_writer};

#[test]
#[ignore = "needs root and loop devices"]
fn a_power_cut_at_any_moment_loses_no_commit_that_returned() {
    let cuts = std::env::var("IOTDM_CUTS").map_or(CUTS, |cuts| cuts.parse().expect("IOTDM_CUTS is a number"));
    let seed = fastrand::u64(..);
    eprintln!("{cuts} cuts, seed {seed} (for the choices; the moments are this machine's)");
    let mut random = Rng::with_seed(seed);
    let mut rig = Rig { disk: Mounted::create(), journals: 0, durable: 0 };
    let mut writer = None;
    let mut tally = Tally::default();
    for cut in 1..=cuts {
        let begins = writer.is_none();
        let running = writer.get_or_insert_with(|| Writer::start(&rig.journal()));
        // One in four cuts finds a journal that is just being opened, or made.
        let longest = if begins && random.u8(..4) == 0 { LONGEST_START } else { LONGEST_PAUSE };
        if longest == LONGEST_PAUSE {
            running.wait_for_a_promise();
        }
        std::thread::sleep(random.u32(..=1000) * longest / 1000);
        let (after, promised) =
            rig.cut(running, &mut tally).unwrap_or_else(|what| panic!("cut {cut}: {what}"));
        match random.u8(..5) {
            0 | 1 => running.signal(Signal::CONT),
            2 => {
                tally.kills += 1;
                writer = None;
            }
            3 => {
                tally.cascades += 1;
                writer = None;
                rig.durable = promised;
                rig.disk = after;
            }
            _ => {
                tally.creations += 1;
                writer = None;
                rig.begin_journal();
            }
        }
    }
    eprintln!("{tally:#?}");
    assert!(tally.promised > cuts, "hardly anything was written: {tally:?}");
}

/// What the cuts showed. Lost is not among it: the first loss ends the test.
#[derive(Debug, Default)]
struct Tally {
    /// Cuts whose journal held what was promised, and nothing that was not written.
    intact: u64,
    /// Cuts before the first commit of a journal.
    before_the_first_commit: u64,
    /// Cuts after which a commit was there that had not returned yet.
    one_more: u64,
    /// Copies that were no moment, because the device wrote meanwhile, and were made again.
    copied_again: u64,
    /// Commits that returned.
    promised: u64,
    /// How the next round began: with a killed process on the same disk,
    kills: u64,
    /// with the disk that the cut left,
    cascades: u64,
    /// with a journal that did not exist.
    creations: u64,
}

/// The disk in use and what its journal must hold.
struct Rig {
    disk: Mounted,
    journals: u64,
    /// The commit that is known to be durable.
    durable: u64,
}

impl Rig {
    /// Cuts the power, and returns the disk with the last commit on it.
    fn cut(&mut self, writer: &mut Writer, tally: &mut Tally) -> Result<(Mounted, u64), String> {
        let before = self.durable;
        writer.signal(Signal::STOP);
        self.durable = self.durable.max(writer.promised());
        let image = self.moment(tally);
        tally.promised += self.durable - before;

        let after = image.mount();
        let journal = after.path().join(self.journal().file_name().expect("it has a name"));
        match read(&mut SledSource::new(journal)) {
            Verdict::Intact(found) if found >= self.durable => {
                tally.intact += 1;
                tally.one_more += u64::from(found > self.durable);
                tally.before_the_first_commit += u64::from(found == 0);
                Ok((after, found))
            }
            other => Err(format!("promised {}, found {}", self.durable, other.line())),
        }
    }

    /// The disk at one moment. The process is stopped, but a sync that it is in goes on, and so does the kernel: what is
    /// copied while the device writes may have a later write without an earlier one, which no power cut leaves.
    fn moment(&self, tally: &mut Tally) -> Image {
        for _ in 0..COPIES {
            let before = self.disk.device_writes();
            let image = self.disk.image();
            if before == self.disk.device_writes() && !before.1 {
                return image;
            }
            tally.copied_again += 1;
        }
        panic!("the device never stops writing, though nobody writes to it");
    }

    fn journal(&self) -> PathBuf {
        self.disk.path().join(format!("journal-{}", self.journals))
    }

    fn begin_journal(&mut self) {
        match std::fs::remove_dir_all(self.journal()) {
            Err(reason) if reason.kind() != ErrorKind::NotFound => panic!("{reason}"),
            _ => {}
        }
        self.journals += 1;
        self.durable = 0;
    }
}

/// A process that writes; killed when it is dropped.
struct Writer {
    process: Child,
    output: ChildStdout,
    line: Vec<u8>,
    promised: u64,
}

impl Writer {
    fn start(journal: &Path) -> Self {
        let mut process = start_writer(journal);
        let output = process.stdout.take().expect("its output is piped");
        rustix::fs::fcntl_setfl(&output, OFlags::NONBLOCK).unwrap();
        Self { process, output, line: Vec::new(), promised: 0 }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    fn wait_for_a_promise(&mut self) {
        for _ in 0..PROMISE_ATTEMPTS {
            if self.promised() > 0 {
                return;
            }
            std::thread::sleep(PROMISE_PAUSE);
        }
        panic!("the writer commits nothing");
    }

    /// The last commit that it has said to have returned.
    fn promised(&mut self) -> u64 {
        let mut bytes = [0; 4096];
        loop {
            match self.output.read(&mut bytes) {
                Ok(0) => panic!("the writer ended by itself"),
                Ok(count) => self.take(&bytes[..count]),
                Err(reason) if reason.kind() == ErrorKind::WouldBlock => return self.promised,
                Err(reason) => panic!("{reason}"),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8(std::mem::take(&mut self.line)).unwrap();
            if let Some((_, number)) = line.split_once(PROMISED) {
                self.promised = number.parse().unwrap();
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Also where it is stopped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Cuts where `IOTDM_CUTS` does not say.
const CUTS: u64 = 25;

/// Copies that are made at most until one is a moment.
const COPIES: u32 = 200;

/// The longest time from the start of the writer to a cut: it may not have opened its journal yet.
const LONGEST_START: Duration = Duration::from_millis(120);

/// A minute for the first commit of a process, in short looks.
const PROMISE_ATTEMPTS: u32 = 60_000;
const PROMISE_PAUSE: Duration = Duration::from_millis(1);

/// The longest time from one cut to the next.
const LONGEST_PAUSE: Duration = Duration::from_millis(40);
