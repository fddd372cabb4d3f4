//! The end of a log, from a file or from what `journalctl` wrote.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::pack::newest;

/// What was read, oldest line first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    /// Whether older bytes were left out because of a limit in bytes.
    pub(super) truncated: bool,
}

/// The last bytes of a log file, whole lines of them. A file that was just rotated is short or not there: what is
/// missing comes from `<path>.1`, where it was moved to.
pub(super) fn tail(path: &Path, limit: usize, lines: Option<usize>) -> io::Result<Text> {
    let current = match End::of(path, limit) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        end => Some(end?),
    };
    let mut text = Text { bytes: Vec::new(), truncated: false };
    if current.as_ref().is_none_or(|end| !end.cut && end.bytes.len() < limit) {
        let room = limit - current.as_ref().map_or(0, |end| end.bytes.len());
        match End::of(&rotated(path), room) {
            // Moved in this very moment: it has been read already.
            Ok(older) if current.as_ref().is_some_and(|end| end.file == older.file) => {}
            Ok(older) => text = Text { bytes: older.bytes, truncated: older.cut },
            Err(error) if current.is_none() => return Err(error),
            // There need not be one.
            Err(_) => {}
        }
    }
    if let Some(end) = current {
        text.truncated |= end.cut;
        text.bytes.extend(end.bytes);
    }
    if let Some(lines) = lines {
        text.bytes.drain(..start_of_last(&text.bytes, lines));
    }
    Ok(text)
}

/// Entries of the journal come newest first, each of one line and its continuations, which are indented.
pub(super) fn oldest_first(newest_first: &[u8], truncated: bool) -> Vec<u8> {
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for line in newest_first.split_inclusive(|byte| *byte == b'\n') {
        match entries.last_mut() {
            Some(entry) if line.starts_with(b" ") || line.starts_with(b"\t") => entry.extend(line),
            _ => entries.push(line.to_vec()),
        }
    }
    if truncated && entries.len() > 1 {
        // The oldest one was cut.
        entries.pop();
    }
    if let Some(entry) = entries.last_mut().filter(|entry| !entry.ends_with(b"\n")) {
        entry.push(b'\n');
    }
    entries.into_iter().rev().flatten().collect()
}

/// The end of one file.
struct End {
    bytes: Vec<u8>,
    cut: bool,
    /// Device and number: which file it is, whatever it is called by now.
    file: (u64, u64),
}

impl End {
    fn of(path: &Path, limit: usize) -> io::Result<Self> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let flags = i32::try_from(flags).expect("flags of open are an int in C");
        let mut file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        // One byte more than is kept: it tells whether the first kept line is whole.
        let wanted = limit as u64 + 1;
        file.seek(SeekFrom::Start(metadata.len().saturating_sub(wanted)))?;
        let mut bytes = Vec::new();
        file.take(wanted).read_to_end(&mut bytes)?;
        let cut = bytes.len() > limit;
        if cut {
            let kept = newest(&bytes, limit).len();
            bytes.drain(..bytes.len() - kept);
        }
        Ok(Self { bytes, cut, file: (metadata.dev(), metadata.ino()) })
    }
}

/// Where logrotate moves a file that it does not compress at once.
fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Where the last so many lines begin.
fn start_of_last(text: &[u8], lines: usize) -> usize {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let newlines = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    newlines.map(|(at, _)| at + 1).nth(lines.saturating_sub(1)).unwrap_or(0)
}
