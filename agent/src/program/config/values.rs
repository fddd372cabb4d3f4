//! Values and their ranges. Each is checked while it is read, so that the error knows its line.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use iotdm_core::{Late, Name, Route};
use iotdm_handlers::firmware::PublicKey;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

pub(super) mod events;
mod images;

pub(super) use images::ProxyChoice;
use images::{credentials_variable, proxy, public_key};

/// A kind of value and its range; durations in seconds.
pub(super) trait Range {
    /// What it is, to be continued with "is 1 to 9".
    const WHAT: &'static str;
    const LEAST: u64;
    const MOST: u64;
    /// What zero means where it is allowed outside the range.
    const ZERO: Option<&'static str> = None;
}

macro_rules! ranges {
    ($($(#[$doc:meta])* $name:ident: $what:literal, $least:expr, $most:expr $(, zero: $zero:literal)?;)+) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name;

        impl Range for $name {
            const WHAT: &'static str = $what;
            const LEAST: u64 = $least;
            const MOST: u64 = $most;
            $(const ZERO: Option<&'static str> = Some($zero);)?
        }
    )+};
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const MIB: u64 = 1024 * 1024;

ranges! {
    Port: "a TCP port", 1, 65_535;
    /// MQTT counts it in 16 bits; below five seconds a slow mobile network looks like a dead one.
    KeepAlive: "a keep-alive time", 5, 65_535;
    /// `docs/protocol.md` §4.1.
    Lifetime: "a lifetime", HOUR, 365 * DAY, zero: "for ever";
    /// Below 16 a burst of redeliveries would push out what it repeats.
    Kept: "a number of kept requests", 16, 1_000_000;
    KeptBytes: "a size of kept answers in bytes", 64 * 1024, 1024 * MIB;
    Running: "a number of running handlers", 1, 1024;
    Pending: "a number of pending requests", 1, 65_536;
    Outbox: "a number of unsent messages", 64, 65_536;
    ShutdownGrace: "a grace time", 1, 10 * MINUTE, zero: "not at all";
    Budget: "a budget", 1, 7 * DAY;
    RestartCount: "a number of restarts", 1, 100;
    /// Below a minute it would limit nothing: a restart takes about as long.
    LimitSpan: "a time for a number of restarts", MINUTE, 365 * DAY;
    /// A decision on a restart has 30 s, and logind may need some of them.
    VetoTime: "a time limit", 1, 8;
    MaxDelay: "a delay", 1, HOUR, zero: "no delay";
    TimeLimit: "a time limit", 1, DAY;
    /// An answer is at most 128 KiB (`docs/protocol.md` §1.5), so that more could not be sent.
    OutputLimit: "an output limit in bytes", 1, 128 * 1024;
    ImageBytes: "an image size in bytes", 1, 64 * 1024 * MIB;
    /// Below this a slow link would look like a fault of the server.
    Rate: "a rate in bytes per second", 1024, 1024 * MIB;
    /// Below five seconds a mobile link that changes its cell would be cut.
    StallLimit: "a stall limit", 5, HOUR;
    Attempts: "a number of attempts", 1, 10_000;
    /// A network takes a while to come up; longer than an hour nobody waits for a verdict on an update.
    ManagedWithin: "a time to be managed", 10, HOUR;
    RefuseAfter: "an age", 1, 365 * DAY;
    MinInterval: "a time between notifications", 1, DAY;
    /// It is held in memory, once as it is and once compressed.
    UploadBytes: "a size of a log in bytes", 1024, 16 * MIB;
    UploadLimit: "a time limit of an attempt to send a log", 1, HOUR;
    FactsInterval: "an interval of facts", 10, DAY, zero: "only when asked";
    Percent: "a share in percent", 1, 100;
}

/// A whole number in a range.
#[derive(Debug)]
pub(super) struct Whole<R>(u64, PhantomData<R>);

impl<R: Range> Whole<R> {
    pub(super) fn get(&self) -> u64 {
        self.0
    }

    /// For counts and sizes of what is in memory.
    pub(super) fn get_usize(&self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<'de, R: Range> Deserialize<'de> for Whole<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers<R>(PhantomData<R>);

        impl<R: Range> Visitor<'_> for Numbers<R> {
            type Value = Whole<R>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}, a whole number from {} to {}", R::WHAT, R::LEAST, R::MOST)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                match u64::try_from(number) {
                    Ok(value) if (R::LEAST..=R::MOST).contains(&value) => Ok(Whole(value, PhantomData)),
                    _ => Err(E::custom(format_args!(
                        "{number} is out of range; {} is {} to {}",
                        R::WHAT,
                        R::LEAST,
                        R::MOST
                    ))),
                }
            }
        }

        deserializer.deserialize_any(Numbers(PhantomData))
    }
}

/// A duration in a range, written as "90s", "15m" or "1h 30m".
#[derive(Debug)]
pub(super) struct Span<R>(Duration, PhantomData<R>);

impl<R: Range> Span<R> {
    pub(super) fn get(&self) -> Duration {
        self.0
    }

    fn check(duration: Duration, written: &str) -> Result<Self, String> {
        let in_range = (Duration::from_secs(R::LEAST)..=Duration::from_secs(R::MOST)).contains(&duration);
        if in_range || (duration.is_zero() && R::ZERO.is_some()) {
            return Ok(Self(duration, PhantomData));
        }
        let (least, most) = (plain(Duration::from_secs(R::LEAST)), plain(Duration::from_secs(R::MOST)));
        let zero = R::ZERO.map(|meaning| format!(", or 0 for \"{meaning}\"")).unwrap_or_default();
        Err(format!("{written} is out of range; {} is {least} to {most}{zero}", R::WHAT))
    }
}

impl<'de, R: Range> Deserialize<'de> for Span<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Durations<R>(PhantomData<R>);

        impl<R: Range> Visitor<'_> for Durations<R> {
            type Value = Span<R>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}, a text such as {DURATION_FORMS}", R::WHAT)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let duration = humantime::parse_duration(text).map_err(|_| {
                    E::custom(format_args!(
                        "{text:?} is not a duration; write numbers with units, such as {DURATION_FORMS}"
                    ))
                })?;
                Span::check(duration, text).map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                match number {
                    0 => Span::check(Duration::ZERO, "0").map_err(E::custom),
                    _ => Err(E::custom(format_args!(
                        "{number} has no unit; write a text such as {DURATION_FORMS}"
                    ))),
                }
            }
        }

        deserializer.deserialize_any(Durations(PhantomData))
    }
}

const DURATION_FORMS: &str = "\"90s\", \"15m\" or \"1h 30m\"";

/// A duration in its largest unit that leaves no rest.
pub(crate) fn plain(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() != 0 {
        return humantime::format_duration(duration).to_string();
    }
    let (unit, name) = [(DAY, "d"), (HOUR, "h"), (MINUTE, "m")]
        .into_iter()
        .find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit))
        .unwrap_or((1, "s"));
    format!("{}{name}", seconds / unit)
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident($inner:ty): $expecting:literal, $parse:expr;)+) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(in crate::program::config) struct $name(pub(in crate::program::config) $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: Error>(self, text: &str) -> Result<$name, E> {
                        let parse: fn(&str) -> Result<$inner, String> = $parse;
                        parse(text).map($name).map_err(E::custom)
                    }
                }

                deserializer.deserialize_any(Text)
            }
        }
    )+};
}

mod shared;

use shared::host;
pub(super) use shared::{PrefixText, UserName};

texts! {
    /// A part of the identity.
    NameText(Name): "an identifier in quotes", |text| text.parse().map_err(|error: iotdm_core::NameError| error.to_string());
    /// A host name or address.
    Host(String): "a host name or address in quotes", host;
    /// A path, not yet joined with the file's folder.
    FilePath(PathBuf): "a path in quotes", file_path;
    /// An environment variable's name.
    VariableName(String): "the name of an environment variable in quotes", variable_name;
    /// A proxy's address, or `environment`.
    ProxyText(ProxyChoice): "a proxy's address in quotes", proxy;
    /// An environment variable with a proxy's user and password.
    CredentialsVariable(String): "the name of an environment variable in quotes", credentials_variable;
    /// A public key of minisign.
    PublicKeyText(PublicKey): "a public key of minisign in quotes", public_key;
    /// A bundle or action id (`docs/protocol.md` §5.6).
    CustomId(String): "an id in quotes", custom_id;
}

fn file_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("is empty; write a path, or leave the key out".into());
    }
    // What has lines is a file's content, perhaps a key: it is not repeated here.
    if text.contains(char::is_control) || text.len() > MAX_PATH_BYTES {
        return Err("is no path; write the path of a file, not its content".into());
    }
    Ok(text.into())
}

fn variable_name(text: &str) -> Result<String, String> {
    let mut bytes = text.bytes();
    let starts_well = bytes.next().is_some_and(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let goes_on = bytes.all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    if starts_well && goes_on {
        return Ok(text.into());
    }
    // It may be the token itself: it is not repeated here.
    Err("is not the name of an environment variable; write a name of A-Z, 0-9 and _, such as \"IOTDM_TOKEN\", \
         and put the token into that variable"
        .into())
}

fn custom_id(text: &str) -> Result<String, String> {
    let route = Route::Custom { bundle: Cow::Owned(text.into()), action: Cow::Borrowed("a") };
    if route.is_well_formed() {
        return Ok(text.into());
    }
    Err(format!("{text:?} is no id; write 1 to 255 characters of a-z A-Z 0-9 - _ ."))
}

/// A program and its arguments, as a list.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) program: FilePath,
    pub(super) args: Vec<String>,
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl<'de> Visitor<'de> for Words {
            type Value = Command;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(COMMAND_FORM)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut words: A) -> Result<Command, A::Error> {
                let Some(program) = words.next_element()? else {
                    return Err(A::Error::custom(format_args!("is empty; write {COMMAND_FORM}")));
                };
                let mut args = Vec::new();
                while let Some(word) = words.next_element()? {
                    args.push(word);
                }
                Ok(Command { program, args })
            }
        }

        deserializer.deserialize_any(Words)
    }
}

const COMMAND_FORM: &str = "a list of the program and its arguments, such as [\"systemctl\", \"reboot\"]";

/// What becomes of late requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct LateChoice(pub(super) Late);

impl Default for LateChoice {
    /// The protocol's own.
    fn default() -> Self {
        Self(Late::Run)
    }
}

impl<'de> Deserialize<'de> for LateChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            refuse_after: Span<RefuseAfter>,
        }

        impl<'de> Visitor<'de> for Forms {
            type Value = LateChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(LATE_FORMS)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<LateChoice, E> {
                match text {
                    "run" => Ok(LateChoice(Late::Run)),
                    _ => {
                        Err(E::custom(format_args!("{text:?} is not one of the choices; write {LATE_FORMS}")))
                    }
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LateChoice, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(LateChoice(Late::RefuseAfter(table.refuse_after.get())))
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

const LATE_FORMS: &str = "\"run\" or { refuse_after = \"15m\" }";

/// Longest path that Linux takes, in bytes.
const MAX_PATH_BYTES: usize = 4095;
