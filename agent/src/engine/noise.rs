use std::collections::BTreeMap;
use std::time::Duration;

/// Bounds the log lines that somebody else can cause, cause by cause, and counts what it holds back.
#[derive(Debug)]
pub(super) struct Noise {
    lines_per_window: u32,
    causes: BTreeMap<&'static str, Window>,
}

#[derive(Debug, Default)]
struct Window {
    began: Duration,
    lines: u32,
    held_back: u64,
    total: u64,
}

impl Noise {
    /// For what should not occur: ten lines a minute of each cause.
    pub(super) fn of_troubles() -> Self {
        Self { lines_per_window: TROUBLE_LINES_PER_WINDOW, causes: BTreeMap::new() }
    }

    /// For the steps of requests: a thousand lines a minute of each step.
    pub(super) fn of_steps() -> Self {
        Self { lines_per_window: STEP_LINES_PER_WINDOW, causes: BTreeMap::new() }
    }

    /// Counts an occurrence; `Some` when it may be logged, with how many were held back before it.
    pub(super) fn count(&mut self, cause: &'static str, now: Duration) -> Option<u64> {
        let window = self.causes.entry(cause).or_default();
        window.total += 1;
        if now.saturating_sub(window.began) >= NOISE_WINDOW {
            window.began = now;
            window.lines = 0;
        }
        if window.lines >= self.lines_per_window {
            window.held_back += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.held_back))
    }

    /// How often each cause occurred.
    pub(super) fn totals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.causes.iter().map(|(cause, window)| (*cause, window.total))
    }
}

/// How many lines a trouble may write in each window: enough to see what it is.
const TROUBLE_LINES_PER_WINDOW: u32 = 10;

/// How many lines a step of requests may write in each window: far more than a device that is managed by people, and
/// 17 lines a second in a flood.
const STEP_LINES_PER_WINDOW: u32 = 1000;

/// The length of a window.
const NOISE_WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_writes_ten_lines_a_minute_and_is_counted() {
        let mut noise = Noise::of_troubles();
        let second = Duration::from_secs(1);
        let logged = (0..1000).filter(|_| noise.count("flood", second).is_some()).count();
        assert_eq!(logged, 10);
        assert_eq!(noise.count("flood", second + NOISE_WINDOW), Some(990));
        assert_eq!(noise.totals().collect::<Vec<_>>(), [("flood", 1001)]);
    }
}
