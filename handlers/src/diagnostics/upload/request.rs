//! What a request says, what it may say, and what it is answered.

use std::fmt;

use iotdm_core::Refusal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address;
use super::options::{LogOrigin, LogSource, UploadOptions};

/// What the platform asks for.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadRequest {
    /// The declared name of the log.
    pub source: String,
    /// The newest lines of a file, or the newest entries of the journal: 1 to 100 000. A file has no such limit and
    /// the journal 1000 unless given.
    #[serde(default)]
    #[schemars(range(min = 1, max = MAX_LINES))]
    pub lines: Option<u64>,
    /// The newest bytes, before they are compressed: 1 to what the device allows, which is the default.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub bytes: Option<u64>,
    /// Only what is younger, in minutes: 1 to 525 600. For the journal only.
    #[serde(default)]
    #[schemars(range(min = 1, max = MAX_MINUTES))]
    pub minutes: Option<u64>,
    /// Where it is put; in the answer's `data` when absent.
    #[serde(default)]
    pub url: Option<String>,
    /// Whether the platform's log of this device is cleared once this one has been sent.
    #[serde(default)]
    pub clear: bool,
}

impl fmt::Debug for UploadRequest {
    // The address may be signed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadRequest")
            .field("source", &self.source)
            .field("lines", &self.lines)
            .field("bytes", &self.bytes)
            .field("minutes", &self.minutes)
            .field("url", &self.url.is_some())
            .field("clear", &self.clear)
            .finish()
    }
}

/// What it gets back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Uploaded {
    /// The log.
    pub source: String,
    /// How many bytes of it were taken.
    pub bytes: u64,
    /// How many that is compressed.
    pub sent_bytes: u64,
    /// Whether older bytes were left out because of a limit in bytes.
    pub truncated: bool,
    /// How it is compressed.
    pub encoding: &'static str,
    /// The compressed log in base64, unless it was put somewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Whether the platform's log is being cleared.
    pub cleared: bool,
}

/// A request that makes sense on this device.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) source: &'a LogSource,
    pub(super) lines: Option<usize>,
    pub(super) bytes: usize,
    pub(super) minutes: Option<u64>,
    pub(super) url: Option<&'a str>,
    pub(super) clear: bool,
}

impl UploadRequest {
    /// Everything that can be judged before anything is read.
    pub(super) fn check<'a>(&'a self, options: &'a UploadOptions) -> Result<Wanted<'a>, Refusal> {
        let source = options.sources.iter().find(|source| source.name == self.source).ok_or_else(|| {
            let known: Vec<&str> = options.sources.iter().map(|source| source.name.as_str()).collect();
            Refusal::bad_request(format!("source: there is no such log; there are: {}", known.join(", ")))
        })?;
        if self.minutes.is_some() && matches!(source.origin, LogOrigin::File(_)) {
            return Err(Refusal::bad_request(
                "minutes: this log is a file, whose lines have no time; use lines or bytes",
            ));
        }
        let most = options.max_bytes as u64;
        let bytes = self.bytes.unwrap_or(most);
        if bytes > most {
            let message = format!("bytes: {bytes} is more than {most}, the most that this device sends");
            return Err(Refusal::bad_request(message));
        }
        if let Some(url) = &self.url {
            address::check(url, &options.hosts, options.allow_http)
                .map_err(|reason| Refusal::bad_request(format!("url: {reason}")))?;
        }
        Ok(Wanted {
            source,
            lines: self.lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            minutes: self.minutes,
            url: self.url.as_deref(),
            clear: self.clear,
        })
    }
}

/// More lines than that are asked for in bytes.
const MAX_LINES: u64 = 100_000;

/// A year.
const MAX_MINUTES: u64 = 365 * 24 * 60;
