//! Small file systems of a test's own, on loop devices. Only root may mount them.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

/// An ext4 in a file, mounted until this is dropped, whatever becomes of the test.
pub(crate) struct Mounted {
    folder: TempDir,
}

impl Mounted {
    /// An empty one.
    pub(crate) fn create() -> Self {
        let folder = folder();
        File::create(folder.path().join(IMAGE)).unwrap().set_len(IMAGE_BYTES).unwrap();
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), folder.path().join(IMAGE).as_ref()]);
        Self::mount(folder)
    }

    /// The disk as it is at this moment: what the kernel has not written yet is not in it.
    pub(crate) fn image(&self) -> Image {
        let folder = folder();
        fs::copy(self.folder.path().join(IMAGE), folder.path().join(IMAGE)).unwrap();
        Image { folder }
    }

    /// Where the file system begins.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join(POINT)
    }

    /// Mounts it again with other options, such as `ro`.
    pub(crate) fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        run("mount", &["-o".as_ref(), options.as_ref(), self.path().as_ref()]);
    }

    /// Takes all the space but so much, and returns the file that takes it.
    pub(crate) fn fill(&self, left_bytes: u64) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = File::create(&path).unwrap();
        // Each time the file system takes from its reserves until it has none left.
        for size in [1 << 20, 1 << 12, 1 << 9, 1 << 9] {
            let block = vec![7; size];
            let refused = loop {
                if let Err(reason) = file.write_all(&block) {
                    break reason;
                }
            };
            assert_eq!(refused.kind(), ErrorKind::StorageFull, "{refused}");
            file.sync_all().unwrap();
        }
        let taken = file.metadata().unwrap().len();
        file.set_len(taken.saturating_sub(left_bytes)).unwrap();
        file.sync_all().unwrap();
        path
    }

    /// Gives the space back that `ballast` takes: ext4 hands it out again when the removal is in its own journal.
    pub(crate) fn free(&self, ballast: &Path) {
        let remove = |path: &Path| {
            fs::remove_file(path).unwrap();
            File::open(self.path()).unwrap().sync_all().unwrap();
        };
        remove(ballast);
        // On a busy machine that may be a little after the sync.
        let probe = self.path().join("probe");
        for _ in 0..ROOM_TRIES {
            let is_there =
                fs::write(&probe, [0; PROBE_BYTES]).and_then(|()| File::open(&probe)?.sync_all()).is_ok();
            remove(&probe);
            if is_there {
                return;
            }
            std::thread::sleep(ROOM_PAUSE);
        }
        panic!("there is no room although {} was removed", ballast.display());
    }

    /// Writes that its device has completed, and whether it has some under way.
    pub(crate) fn device_writes(&self) -> (u64, bool) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let path = self.path();
        let device = mounts.lines().find_map(|line| {
            let (device, rest) = line.split_once(" /")?;
            (Path::new("/").join(rest.split(' ').next()?) == path).then(|| device.to_owned())
        });
        let device = device.expect("it is mounted").replace("/dev", "/sys/block");
        let numbers = fs::read_to_string(format!("{device}/stat")).unwrap();
        let numbers: Vec<u64> = numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
        (numbers[WRITES_COMPLETED], numbers[IN_FLIGHT] > 0)
    }

    fn mount(folder: TempDir) -> Self {
        let point = folder.path().join(POINT);
        fs::create_dir_all(&point).unwrap();
        run("mount", &["-o".as_ref(), "loop".as_ref(), folder.path().join(IMAGE).as_ref(), point.as_ref()]);
        Self { folder }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A thread or a killed process may hold a file for a moment longer. Without a mount the loop device goes, too.
        for _ in 0..UNMOUNT_ATTEMPTS {
            if attempt("umount", &[self.path().as_ref()]).status.success() {
                return;
            }
            std::thread::sleep(UNMOUNT_PAUSE);
        }
        attempt("umount", &["--lazy".as_ref(), self.path().as_ref()]);
    }
}

/// A file system in a file, as a power cut left it.
pub(crate) struct Image {
    folder: TempDir,
}

impl Image {
    /// Mounts it: the file system replays its own journal.
    pub(crate) fn mount(self) -> Mounted {
        Mounted::mount(self.folder)
    }
}

/// Other users may pass through it: some tests are theirs.
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap()
}

fn run(program: &str, arguments: &[&std::ffi::OsStr]) {
    let output = attempt(program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[expect(clippy::disallowed_methods, reason = "the tools of the machine")]
fn attempt(program: &str, arguments: &[&std::ffi::OsStr]) -> Output {
    let output = Command::new(program).args(arguments).env("PATH", PATH).output();
    output.unwrap_or_else(|reason| panic!("{program}: {reason}"))
}

/// The tools are where not every user looks.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

const IMAGE: &str = "image";
const POINT: &str = "mounted";

/// Bytes of a file system: a journal of a few MiB, ext4's own, and little to copy for each cut.
const IMAGE_BYTES: u64 = 32 * 1024 * 1024;

/// How often, and how far apart, room is looked for: a minute in all.
const ROOM_TRIES: u32 = 600;
const ROOM_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Bytes of the file that looks for it: less than any ballast has.
const PROBE_BYTES: usize = 64 * 1024;

/// Numbers in the statistics of a block device.
const WRITES_COMPLETED: usize = 4;
const IN_FLIGHT: usize = 8;

const UNMOUNT_ATTEMPTS: u32 = 100;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(50);
