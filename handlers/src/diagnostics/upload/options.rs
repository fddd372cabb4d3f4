use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::address::UploadHost;

/// Which logs may be asked for, and where they may go.
#[derive(Clone, Debug)]
pub struct UploadOptions {
    /// The logs that a request may name, 1 to 32 of them.
    pub sources: Vec<LogSource>,
    /// The hosts that a request's `url` may name; with none, a log comes in the answer only.
    pub hosts: Vec<UploadHost>,
    /// Whether `http` addresses are taken: what is sent is then for everybody on the way to read.
    pub allow_http: bool,
    /// Most bytes of a log that are read for one request, before they are compressed: 1 KiB to 16 MiB.
    pub max_bytes: usize,
    /// How long one attempt to send may take; there are three.
    pub time_limit: Duration,
    /// The program that reads the journal; `journalctl`, found in `PATH`.
    pub journalctl: PathBuf,
}

impl UploadOptions {
    /// These logs, within answers only, 1 MiB of each at most.
    pub fn new(sources: impl IntoIterator<Item = LogSource>) -> Self {
        Self {
            sources: sources.into_iter().collect(),
            hosts: Vec::new(),
            allow_http: false,
            max_bytes: DEFAULT_UPLOAD_BYTES,
            time_limit: DEFAULT_TIME_LIMIT,
            journalctl: "journalctl".into(),
        }
    }

    /// Judges everything that can be judged before a request comes; [`LogUpload::new`](super::LogUpload::new) does, too.
    ///
    /// # Errors
    /// What could only fail later.
    pub fn check(&self) -> Result<(), UploadOptionsError> {
        if self.sources.is_empty() || self.sources.len() > MAX_SOURCES {
            return Err(UploadOptionsError::Sources);
        }
        for (index, source) in self.sources.iter().enumerate() {
            if !is_name(&source.name) {
                return Err(UploadOptionsError::Name(source.name.clone()));
            }
            if self.sources[..index].iter().any(|other| other.name == source.name) {
                return Err(UploadOptionsError::Twice(source.name.clone()));
            }
            match &source.origin {
                LogOrigin::File(path) if !path.is_absolute() => {
                    return Err(UploadOptionsError::Path(path.clone()));
                }
                LogOrigin::Journal { unit: Some(unit) } if !is_unit(unit) => {
                    return Err(UploadOptionsError::Unit(unit.clone()));
                }
                LogOrigin::File(_) | LogOrigin::Journal { .. } => {}
            }
        }
        if !(MIN_UPLOAD_BYTES..=MAX_UPLOAD_BYTES).contains(&self.max_bytes) {
            return Err(UploadOptionsError::MaxBytes);
        }
        if self.time_limit.is_zero() || self.time_limit > MAX_TIME_LIMIT {
            return Err(UploadOptionsError::TimeLimit);
        }
        Ok(())
    }
}

/// A log that may be asked for by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSource {
    /// What a request calls it: 1 to 64 characters of `a-z A-Z 0-9 - _ .`.
    pub name: String,
    /// Where it is.
    pub origin: LogOrigin,
}

impl LogSource {
    /// A file, by its absolute path. Where it has been rotated to `<path>.1` and is short, the end of that comes first.
    pub fn file(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), origin: LogOrigin::File(path.into()) }
    }

    /// What one unit of systemd wrote to the journal, or everybody.
    pub fn journal(name: impl Into<String>, unit: Option<&str>) -> Self {
        Self { name: name.into(), origin: LogOrigin::Journal { unit: unit.map(str::to_owned) } }
    }
}

/// Where a log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOrigin {
    /// A regular file; a link in its place is not followed.
    File(PathBuf),
    /// systemd's journal. The agent's user has to be in the group `systemd-journal`.
    Journal {
        /// The unit; all of them when absent.
        unit: Option<String>,
    },
}

impl fmt::Display for LogOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Journal { unit: Some(unit) } => write!(f, "the journal of {unit}"),
            Self::Journal { unit: None } => f.write_str("the whole journal"),
        }
    }
}

/// Why options cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UploadOptionsError {
    /// None, or too many.
    #[error("1 to {MAX_SOURCES} logs may be declared")]
    Sources,
    /// A name outside the grammar.
    #[error("{0:?} is no name of a log: write 1 to 64 characters of a-z A-Z 0-9 - _ .")]
    Name(String),
    /// One name for two logs.
    #[error("two logs are called {0:?}")]
    Twice(String),
    /// A path that depends on where the agent was started.
    #[error("the path {0:?} of a log has to be absolute")]
    Path(PathBuf),
    /// A unit's name outside systemd's grammar.
    #[error("{0:?} is no unit of systemd: write its whole name, such as \"lamp.service\"")]
    Unit(String),
    /// Out of its range.
    #[error("a log is read up to {MIN_UPLOAD_BYTES} to {MAX_UPLOAD_BYTES} bytes")]
    MaxBytes,
    /// Out of its range.
    #[error("an attempt to send a log may take up to an hour, and more than nothing")]
    TimeLimit,
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_CHARS).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// systemd's grammar without its patterns: a unit is one unit.
fn is_unit(unit: &str) -> bool {
    let is_unit_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'@' | b'\\');
    unit.len() <= MAX_UNIT_CHARS
        && unit.bytes().all(is_unit_byte)
        && unit.split_once('.').is_some_and(|(name, kind)| !name.is_empty() && !kind.is_empty())
}

/// How many logs may be declared: a refusal names them all.
const MAX_SOURCES: usize = 32;

/// A name is repeated in answers.
const MAX_NAME_CHARS: usize = 64;

/// systemd's own bound.
const MAX_UNIT_CHARS: usize = 255;

/// 1 KiB: less shows nothing.
pub(super) const MIN_UPLOAD_BYTES: usize = 1024;

/// How much of a log is read for one request unless the options say, in bytes: some ten thousand lines.
pub const DEFAULT_UPLOAD_BYTES: usize = 1024 * 1024;

/// The most that options may allow, in bytes: it is held in memory, once as it is and once compressed.
pub const MAX_UPLOAD_BYTES: usize = 16 * 1024 * 1024;

/// A megabyte of compressed text over a slow mobile link.
const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(60);

const MAX_TIME_LIMIT: Duration = Duration::from_secs(60 * 60);
