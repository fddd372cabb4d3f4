//! What happened, told line by line.

use std::time::Duration;

/// What happened, line by line, where somebody wants to read it.
#[derive(Debug, Default)]
pub(crate) struct Story {
    is_told: bool,
    pub(crate) lines: Vec<String>,
}

impl Story {
    pub(crate) fn told() -> Self {
        Self { is_told: true, lines: Vec::new() }
    }

    pub(crate) fn tell(&mut self, at: Duration, what: impl FnOnce() -> String) {
        if self.is_told {
            self.lines.push(format!("{:>9.1} {}", at.as_secs_f64(), what()));
        }
    }
}

/// As much of a payload as a line has room for.
pub(super) fn shown(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(payload);
    text.chars().take(SHOWN_CHARS).collect::<String>().escape_debug().to_string()
}

/// How much of a payload a story shows.
const SHOWN_CHARS: usize = 160;
