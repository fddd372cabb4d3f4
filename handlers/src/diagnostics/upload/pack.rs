//! Compressed, and cut to what a message takes.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// A compressed text.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) gzip: Vec<u8>,
    /// How many of the newest bytes are in it.
    pub(super) kept: usize,
    /// Whether older ones were left out.
    pub(super) cut: bool,
}

/// Compresses the newest part of a text that fits into so many bytes.
pub(super) fn pack(text: &[u8], limit: Option<usize>) -> Packed {
    let mut kept = text;
    loop {
        let gzip = gzip(kept);
        match limit {
            Some(limit) if gzip.len() > limit && !kept.is_empty() => {
                // As much as would fit if it were alike all over, and a tenth less. The share is below one: each round
                // is over less.
                let share = limit as f64 / gzip.len() as f64 * 0.9;
                kept = newest(kept, (kept.len() as f64 * share) as usize);
            }
            _ => return Packed { gzip, kept: kept.len(), cut: kept.len() < text.len() },
        }
    }
}

/// The last so many bytes at most, from the start of a line on where one begins in them.
pub(super) fn newest(text: &[u8], limit: usize) -> &[u8] {
    if text.len() <= limit {
        return text;
    }
    let start = text.len() - limit;
    if text[..start].last() == Some(&b'\n') {
        return &text[start..];
    }
    let line = text[start..].iter().position(|byte| *byte == b'\n').map(|newline| start + newline + 1);
    match line {
        Some(line) if line < text.len() => &text[line..],
        // One line alone: its end is better than nothing.
        _ => &text[start..],
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).expect("writing to memory does not fail");
    encoder.finish().expect("writing to memory does not fail")
}
