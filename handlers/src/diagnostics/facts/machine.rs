//! What Linux tells in `/proc`, in `/sys` and of a file system. What is not there, or not understood, is `None`.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::{Disk, Space, Temperature};

/// `MemTotal` and `MemAvailable` of `/proc/meminfo`.
pub(super) fn memory(root: &Path) -> Option<Space> {
    let text = read(&root.join("proc/meminfo"))?;
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Space { total_bytes: bytes("MemTotal")?, available_bytes: bytes("MemAvailable")? })
}

/// The three means of `/proc/loadavg`.
pub(super) fn load(root: &Path) -> Option<[f64; 3]> {
    let text = read(&root.join("proc/loadavg"))?;
    let mut means =
        text.split_ascii_whitespace().map(|mean| mean.parse().ok().filter(|mean: &f64| mean.is_finite()));
    Some([means.next()??, means.next()??, means.next()??])
}

/// The file system that a folder is in.
pub(super) fn disk(root: &Path, path: &Path) -> Option<Disk> {
    let status = rustix::fs::statvfs(root.join(path.strip_prefix("/").unwrap_or(path))).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(status.f_frsize);
    let space = Space { total_bytes: bytes(status.f_blocks), available_bytes: bytes(status.f_bavail) };
    // A file system without a size, such as /proc, is no disk.
    (space.total_bytes > 0).then(|| Disk { path: path.to_string_lossy().into_owned(), space })
}

/// The zones of `/sys/class/thermal` that have a temperature, in the order of their numbers.
pub(super) fn temperatures(root: &Path) -> Vec<Temperature> {
    let folder = root.join("sys/class/thermal");
    let entries = fs::read_dir(&folder).into_iter().flatten().take(MAX_ENTRIES).filter_map(Result::ok);
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("thermal_zone")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let zones = numbers.into_iter().filter_map(|number| {
        let zone = folder.join(format!("thermal_zone{number}"));
        let thousandths: i32 = read(&zone.join("temp"))?.trim().parse().ok()?;
        let name = read(&zone.join("type")).unwrap_or_default();
        let name = name.trim();
        let name = if name.is_empty() { format!("thermal_zone{number}") } else { name.to_owned() };
        let zone = name[..name.floor_char_boundary(MAX_ZONE_BYTES)].to_owned();
        Some(Temperature { zone, celsius: f64::from(thousandths) / 1000.0 })
    });
    zones.take(MAX_ZONES).collect()
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_FILE_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// How much of a file is read, in bytes: `/proc/meminfo` has some two thousand.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// How many entries of the folder of zones are looked at; it holds cooling devices, too.
const MAX_ENTRIES: usize = 256;

/// How many temperatures are told.
const MAX_ZONES: usize = 16;

/// How much of a zone's name is told, in bytes.
const MAX_ZONE_BYTES: usize = 64;
