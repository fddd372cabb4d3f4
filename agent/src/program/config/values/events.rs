//! The ranges of events.

use super::{DAY, MIB, Range};

/// What the store of events may hold in memory.
#[derive(Debug)]
pub(in super::super) struct EventStoreBytes;

#[derive(Debug)]
pub(in super::super) struct EventCount;

#[derive(Debug)]
pub(in super::super) struct EventInterval;

impl Range for EventStoreBytes {
    const WHAT: &'static str = "a size of the store of events in bytes";
    const LEAST: u64 = 1024;
    const MOST: u64 = 1024 * MIB;
}

impl Range for EventCount {
    const WHAT: &'static str = "a number of stored events";
    const LEAST: u64 = 1;
    const MOST: u64 = 1_000_000;
}

impl Range for EventInterval {
    const WHAT: &'static str = "an interval of events";
    const LEAST: u64 = 10;
    const MOST: u64 = DAY;
    const ZERO: Option<&'static str> = Some("none");
}
