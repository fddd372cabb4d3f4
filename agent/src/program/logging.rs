use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::filter::LevelFilter;

/// How the log is written, always to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogSettings {
    /// How lines look.
    pub(crate) format: LogFormat,
    /// The least severe lines that are written.
    pub(crate) level: Level,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// Lines for people, in colour on a terminal.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

/// How severe a line must be to be logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Level {
    /// What failed.
    Error,
    /// And what should be looked at.
    Warn,
    /// And what was done.
    #[default]
    Info,
    /// And how.
    Debug,
    /// And every message.
    Trace,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// Starts the process's log. It can be started once.
pub(crate) fn start(settings: LogSettings) {
    let ansi = settings.format == LogFormat::Human && io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_writer(move || Lines { out: io::stderr(), ansi })
        .with_max_level(LevelFilter::from(settings.level));
    match settings.format {
        LogFormat::Human => log.with_ansi(ansi).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// Writes each event as one line, whatever texts of the platform, of a server or of a script are in it: nobody else
/// writes lines of this log, moves the cursor of the terminal that shows it, or turns its text around.
struct Lines<W> {
    out: W,
    /// Whether escape sequences are the subscriber's own; it escapes those of values.
    ansi: bool,
}

impl<W: Write> Write for Lines<W> {
    /// Takes one whole event, which is how the subscriber writes.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        self.out.write_all(one_line(&text, self.ansi).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The text with all that steers a terminal or a reader escaped as JSON does, but for the line end after it.
fn one_line(event: &str, ansi: bool) -> Cow<'_, str> {
    let (text, end) = event.strip_suffix('\n').map_or((event, ""), |text| (text, "\n"));
    let steers = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns || c.is_control() && !(ansi && c == '\u{1b}')
    };
    if !text.contains(steers) {
        return Cow::Borrowed(event);
    }
    let mut line = String::with_capacity(event.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            c if steers(c) => {
                write!(line, "\\u{:04x}", u32::from(c)).expect("writing to a string does not fail");
            }
            c => line.push(c),
        }
    }
    line.push_str(end);
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(event: &str, ansi: bool) -> String {
        let mut lines = Lines { out: Vec::new(), ansi };
        lines.write_all(event.as_bytes()).unwrap();
        String::from_utf8(lines.out).unwrap()
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        assert_eq!(written("WARN a: one\n  INFO b: two\r\n", false), "WARN a: one\\n  INFO b: two\\u000d\n");
        assert_eq!(written("\u{1b}[31m\0\u{7f}\u{9b}\n", false), "\\u001b[31m\\u0000\\u007f\\u009b\n");
        assert_eq!(written("a\u{202e}b\u{2028}c\n", false), "a\\u202eb\\u2028c\n");
        let controls = "\u{1}\n".repeat(512);
        assert_eq!(written(&(controls + "\n"), false).matches('\n').count(), 1);
        assert_eq!(written("plain é\n", false), "plain é\n");
    }

    #[test]
    fn colours_of_a_terminal_stay_and_lines_still_do_not_break() {
        assert_eq!(written("\u{1b}[2mone\ntwo\u{1b}[0m\n", true), "\u{1b}[2mone\\ntwo\u{1b}[0m\n");
    }

    #[test]
    fn a_line_of_json_stays_json() {
        let line = written("{\"message\":\"a\u{9b}\u{2028}\\n\"}\n", false);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "a\u{9b}\u{2028}\n");
    }
}
