use std::collections::BTreeMap;
use std::time::Duration;

/// Bounds the log lines that somebody else can cause, cause by cause, and counts what it holds back.
#[derive(Debug, Default)]
pub(super) struct Noise {
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
    /// Counts an occurrence; `Some` when it may be logged, with how many were held back before it.
    pub(super) fn count(&mut self, cause: &'static str, now: Duration) -> Option<u64> {
        let window = self.causes.entry(cause).or_default();
        window.total += 1;
        if now.saturating_sub(window.began) >= NOISE_WINDOW {
            window.began = now;
            window.lines = 0;
        }
        if window.lines >= LINES_PER_WINDOW {
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

/// How many lines a cause may write in each window.
const LINES_PER_WINDOW: u32 = 10;

/// The length of a window.
const NOISE_WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_writes_ten_lines_a_minute_and_is_counted() {
        let mut noise = Noise::default();
        let second = Duration::from_secs(1);
        let logged = (0..1000).filter(|_| noise.count("flood", second).is_some()).count();
        assert_eq!(logged, 10);
        assert_eq!(noise.count("flood", second + NOISE_WINDOW), Some(990));
        assert_eq!(noise.totals().collect::<Vec<_>>(), [("flood", 1001)]);
    }
}
