//! What a request says, what it may say, and what it is answered.

use std::fmt;

use iotdm_core::Refusal;
use schemars::JsonSchema;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::address;
use super::options::{LogOrigin, LogSource, UploadOptions};

/// What the platform asks for. Numbers and truth values may come as text (`docs/protocol.md` §5.6).
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadRequest {
    /// The declared name of the log.
    pub source: String,
    /// The newest lines of a file, or the newest entries of the journal: 1 to 100 000. A file has no such limit and
    /// the journal 1000 unless given.
    #[serde(default)]
    pub lines: Option<WholeNumber>,
    /// The newest bytes, before they are compressed: 1 to what the device allows, which is the default.
    #[serde(default)]
    pub bytes: Option<WholeNumber>,
    /// Only what is younger, in minutes: 1 to 525 600. For the journal only.
    #[serde(default)]
    pub minutes: Option<WholeNumber>,
    /// Where it is put; in the answer's `data` when absent.
    #[serde(default)]
    pub url: Option<String>,
    /// Whether the platform's log of this device is cleared once this one has been sent.
    #[serde(default)]
    pub clear: Option<Flag>,
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
        let bytes = in_range("bytes", self.bytes, most)?.unwrap_or(most);
        let lines = in_range("lines", self.lines, MAX_LINES)?;
        let minutes = in_range("minutes", self.minutes, MAX_MINUTES)?;
        if let Some(url) = &self.url {
            address::check(url, &options.hosts, options.allow_http)
                .map_err(|reason| Refusal::bad_request(format!("url: {reason}")))?;
        }
        Ok(Wanted {
            source,
            lines: lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            minutes,
            url: self.url.as_deref(),
            clear: self.clear.is_some_and(|flag| flag.0),
        })
    }
}

fn in_range(name: &str, number: Option<WholeNumber>, most: u64) -> Result<Option<u64>, Refusal> {
    match number {
        Some(WholeNumber(number)) if !(1..=most).contains(&number) => {
            Err(Refusal::bad_request(format!("{name}: {number} is out of range; it is 1 to {most}")))
        }
        number => Ok(number.map(|number| number.0)),
    }
}

/// A whole number, also as decimal text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(with = "u64")]
pub struct WholeNumber(pub u64);

/// Yes or no, also as the text `true` or `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(with = "bool")]
pub struct Flag(pub bool);

impl<'de> Deserialize<'de> for WholeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl Visitor<'_> for Forms {
            type Value = WholeNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<WholeNumber, E> {
                Ok(WholeNumber(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<WholeNumber, E> {
                // `parse` would also take a sign.
                let is_decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let number = text.parse().ok().filter(|_| is_decimal);
                number.map(WholeNumber).ok_or_else(|| E::custom("expected a whole number"))
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl Visitor<'_> for Forms {
            type Value = Flag;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true or false")
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<Flag, E> {
                Ok(Flag(flag))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Flag, E> {
                match text {
                    "true" => Ok(Flag(true)),
                    "false" => Ok(Flag(false)),
                    _ => Err(E::custom("expected true or false")),
                }
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

/// More lines than that are asked for in bytes.
const MAX_LINES: u64 = 100_000;

/// A year.
const MAX_MINUTES: u64 = 365 * 24 * 60;
