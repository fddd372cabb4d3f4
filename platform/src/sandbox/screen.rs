//! What a person reads: a timeline, a progress bar, a table.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// Where the sandbox writes.
pub(super) struct Screen {
    out: Box<dyn Write + Send>,
    look: Look,
    started: Instant,
    bar: Option<ProgressBar>,
    percent_told: u64,
}

/// How it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Colours, symbols, a bar that moves.
    Terminal,
    /// One plain ASCII line after the other.
    Plain,
}

/// What a line of the timeline is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The platform to the device.
    Down,
    /// The device to the platform.
    Up,
    /// The device's machine.
    Machine,
    /// A request that is complete.
    Result,
    /// A request that came to nothing.
    Failure,
}

impl Screen {
    pub(super) fn new(out: Box<dyn Write + Send>, look: Look) -> Self {
        Self { out, look, started: Instant::now(), bar: None, percent_told: 0 }
    }

    pub(super) const fn look(&self) -> Look {
        self.look
    }

    /// A line outside the timeline.
    pub(super) fn plain(&mut self, text: impl Display) -> io::Result<()> {
        self.write(&format!("{text}\n"))
    }

    /// The head of a chapter, with what is about to be seen.
    pub(super) fn chapter(&mut self, title: &str, about: &str) -> io::Result<()> {
        let line = match self.look {
            Look::Terminal => format!("\n\x1b[1m{title}\x1b[0m  \x1b[2m{about}\x1b[0m\n"),
            Look::Plain => format!("\n== {title}: {about}\n"),
        };
        self.write(&line)
    }

    /// A line of the timeline.
    pub(super) fn line(&mut self, who: Who, text: &str) -> io::Result<()> {
        let time = seconds(self.started.elapsed());
        let text = clean(text);
        let line = match self.look {
            Look::Terminal => {
                let (colour, sign) = match who {
                    Who::Down => ("36", "→"),
                    Who::Up => ("32", "←"),
                    Who::Machine => ("33", "⏻"),
                    Who::Result => ("1", "✓"),
                    Who::Failure => ("31", "✗"),
                };
                format!("  \x1b[2m{time:>7}\x1b[0m \x1b[{colour}m{sign} {text}\x1b[0m\n")
            }
            Look::Plain => {
                let sign = match who {
                    Who::Down => "->",
                    Who::Up => "<-",
                    Who::Machine => "**",
                    Who::Result => "ok",
                    Who::Failure => "!!",
                };
                format!("  {time:>7} {sign} {text}\n")
            }
        };
        self.write(&line)
    }

    /// How far the download is; the bar goes when it is complete.
    pub(super) fn progress(&mut self, here: u64, total: u64) -> io::Result<()> {
        if self.look == Look::Plain {
            let percent = (here * 100).checked_div(total).unwrap_or(0);
            if percent < self.percent_told + PERCENT_STEP {
                return Ok(());
            }
            self.percent_told = percent - percent % PERCENT_STEP;
            return self.line(Who::Up, &format!("download {}%", self.percent_told));
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stdout());
            let template = "          {bar:40.cyan/blue} {decimal_bytes:>10} of {decimal_total_bytes}";
            bar.with_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            )
        });
        bar.set_position(here);
        if here >= total {
            self.end_progress();
        }
        Ok(())
    }

    /// Takes the bar away; the next download begins another one.
    pub(super) fn end_progress(&mut self) {
        self.percent_told = 0;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Rows in columns as wide as they need to be.
    pub(super) fn table(&mut self, rows: &[[String; 5]]) -> io::Result<()> {
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 5] = std::array::from_fn(width);
        for (number, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            let line = match (self.look, number) {
                (Look::Terminal, 0) => format!("  \x1b[1m{}\x1b[0m\n", line.trim_end()),
                _ => format!("  {}\n", line.trim_end()),
            };
            self.write(&line)?;
        }
        Ok(())
    }

    /// A promise, whether it was shown, and by what.
    pub(super) fn promise(&mut self, shown: bool, text: &str, evidence: &str) -> io::Result<()> {
        let line = match (self.look, shown) {
            (Look::Terminal, true) => format!("  \x1b[32m✓\x1b[0m {text}  \x1b[2m({evidence})\x1b[0m\n"),
            (Look::Terminal, false) => format!("  \x1b[31m✗ {text}\x1b[0m  ({evidence})\n"),
            (Look::Plain, true) => format!("  [shown] {text} ({evidence})\n"),
            (Look::Plain, false) => format!("  [NOT SHOWN] {text} ({evidence})\n"),
        };
        self.write(&line)
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        let out = &mut self.out;
        let mut write = || out.write_all(text.as_bytes()).and_then(|()| out.flush());
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

pub(super) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// What a device wrote reaches no terminal with its control characters, nor at any length.
fn clean(text: &str) -> String {
    let visible = text.chars().map(|c| if c.is_control() { '?' } else { c });
    visible.take(LINE_LIMIT_CHARS).collect()
}

/// Longest line of the timeline, in characters.
const LINE_LIMIT_CHARS: usize = 160;

/// How often a plain download tells how far it is, in percent.
const PERCENT_STEP: u64 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_long_lines_do_not_reach_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\n"), "a?[31mb?");
        assert_eq!(clean(&"x".repeat(1_000)).len(), LINE_LIMIT_CHARS);
    }
}
