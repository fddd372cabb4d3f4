//! What waits to be reported, and what was reported within the last minute.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use iotdm_core::{LogEntry, MAX_PAYLOAD_BYTES, Report, Severity, iso8601};
use tokio::time::Instant;

/// Architecture invariant: it reads no clock and waits for nothing.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    sent: VecDeque<Sent>,
    dropped: u64,
}

/// What is to be done next.
pub(super) enum Next {
    /// Report this.
    Send(Report),
    /// Ask again then.
    At(Instant),
    /// Ask again when something was pushed.
    Idle,
}

/// Something to be reported.
pub(super) enum Item {
    Code(i32),
    Log {
        severity: u8,
        message: String,
        data: Vec<u8>,
        /// The line of the product that logs it; none for what was reported by a call.
        origin: Option<u64>,
    },
    ClearCodes,
    ClearLog,
}

struct Waiting {
    item: Item,
    first: Duration,
    last: Duration,
    count: u64,
    /// How many others of the same origin it stands for.
    others: u64,
}

struct Sent {
    at: Instant,
    // Whole entries would hold their data for a minute. `None` once a clear made the item worth repeating.
    fingerprint: Option<u64>,
    origin: Option<u64>,
    concerns_codes: bool,
}

impl Queue {
    /// Takes an item, merges it with an equal one that waits, or drops and counts it when there is no place.
    pub(super) fn push(&mut self, item: Item, wall_clock: Duration) {
        self.forget(&item);
        if let Some(equal) = self.waiting.iter_mut().find(|waiting| waiting.item.is_repeated_by(&item)) {
            equal.count += 1;
            equal.last = wall_clock;
            return;
        }
        if let Some(standing) = self.stands_for(&item) {
            standing.others += 1;
            standing.last = wall_clock;
            return;
        }
        let bytes: usize = self.waiting.iter().map(|waiting| waiting.item.data_bytes()).sum();
        let fits = self.waiting.len() < MAX_WAITING && bytes + item.data_bytes() <= MAX_WAITING_BYTES;
        // A clear always has a place: at most one of each kind waits.
        if fits || item.is_clear() {
            self.waiting.push_back(Waiting::new(item, wall_clock));
        } else {
            self.dropped += 1;
        }
    }

    /// Forgets what a clear makes pointless: what it would clear at once, and an earlier clear of the same kind.
    pub(super) fn forget(&mut self, clear: &Item) {
        if !clear.is_clear() {
            return;
        }
        let codes = clear.concerns_codes();
        self.waiting.retain(|waiting| waiting.item.concerns_codes() != codes);
        for sent in self.sent.iter_mut().filter(|sent| sent.concerns_codes == codes) {
            (sent.fingerprint, sent.origin) = (None, None);
        }
    }

    /// What is to be done at this time.
    pub(super) fn next(&mut self, now: Instant, wall_clock: Duration) -> Next {
        while self.sent.front().is_some_and(|sent| sent.at + MINUTE <= now) {
            self.sent.pop_front();
        }
        self.tell_what_was_dropped(wall_clock);
        if self.waiting.is_empty() {
            return Next::Idle;
        }
        let ready = self.waiting.iter().position(|waiting| {
            let (fingerprint, origin) = (Some(waiting.item.fingerprint()), waiting.item.origin());
            let of_origin = self.sent.iter().filter(|sent| origin.is_some() && sent.origin == origin).count();
            of_origin < MAX_PER_ORIGIN && !self.sent.iter().any(|sent| sent.fingerprint == fingerprint)
        });
        match (ready, self.sent.front()) {
            (Some(index), _) if self.sent.len() < MAX_PER_MINUTE => {
                let waiting = self.waiting.remove(index).expect("the index was just found");
                self.sent.push_back(Sent {
                    at: now,
                    fingerprint: (!waiting.item.is_clear()).then(|| waiting.item.fingerprint()),
                    origin: waiting.item.origin(),
                    concerns_codes: waiting.item.concerns_codes(),
                });
                Next::Send(waiting.report())
            }
            (_, Some(oldest)) => Next::At(oldest.at + MINUTE),
            (_, None) => unreachable!("an item waits only for one that was sent"),
        }
    }

    fn tell_what_was_dropped(&mut self, wall_clock: Duration) {
        // Told only once there is some place again: otherwise it would be one entry for each that is dropped.
        if self.dropped == 0 || self.waiting.len() > MAX_WAITING / 2 {
            return;
        }
        let message =
            format!("{} entries were dropped: they came faster than they can be sent", self.dropped);
        self.dropped = 0;
        let item = Item::log(Severity::Warning, message, &[]);
        self.waiting.push_back(Waiting::new(item, wall_clock));
    }

    /// The entry that is to stand for this one: one line of the product whose message differs each time must not take
    /// the places of all others.
    fn stands_for(&mut self, item: &Item) -> Option<&mut Waiting> {
        let origin = item.origin()?;
        let mut same = self.waiting.iter_mut().rev().filter(|waiting| waiting.item.origin() == Some(origin));
        let last = same.next()?;
        (same.count() + 1 >= MAX_PER_ORIGIN).then_some(last)
    }
}

impl Item {
    /// A log entry, cut to what a report can carry.
    pub(super) fn log(severity: Severity, message: String, data: &[u8]) -> Self {
        Self::log_from(None, severity, message, data)
    }

    /// A log entry of a line of the product. What differs only in its data is the same entry again.
    pub(super) fn log_from(
        origin: Option<u64>,
        severity: Severity,
        mut message: String,
        data: &[u8],
    ) -> Self {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        let data = data[..data.len().min(MAX_LOG_DATA_BYTES)].to_vec();
        Self::Log { severity: severity.into(), message, data, origin }
    }

    /// What makes two items the same one.
    fn identity(&self) -> (u8, i32, &str, Option<u64>, &[u8]) {
        match self {
            Self::Code(code) => (0, *code, "", None, &[]),
            Self::ClearCodes => (1, 0, "", None, &[]),
            Self::ClearLog => (2, 0, "", None, &[]),
            Self::Log { severity, message, data, origin } => {
                let data = if origin.is_some() { &[][..] } else { data };
                (3, i32::from(*severity), message, *origin, data)
            }
        }
    }

    fn is_repeated_by(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }

    fn origin(&self) -> Option<u64> {
        if let Self::Log { origin, .. } = self { *origin } else { None }
    }

    fn is_clear(&self) -> bool {
        matches!(self, Self::ClearCodes | Self::ClearLog)
    }

    /// Whether it is about the error codes; the log otherwise.
    fn concerns_codes(&self) -> bool {
        matches!(self, Self::Code(_) | Self::ClearCodes)
    }

    fn data_bytes(&self) -> usize {
        if let Self::Log { data, .. } = self { data.len() } else { 0 }
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.identity().hash(&mut hasher);
        hasher.finish()
    }
}

impl Waiting {
    fn new(item: Item, wall_clock: Duration) -> Self {
        Self { item, first: wall_clock, last: wall_clock, count: 1, others: 0 }
    }

    fn report(self) -> Report {
        match self.item {
            Item::Code(code) => Report::AddErrorCode(code),
            Item::ClearCodes => Report::ClearErrorCodes,
            Item::ClearLog => Report::ClearLog,
            Item::Log { severity, mut message, data, .. } => {
                let last = iso8601(self.last);
                match (self.count, self.others) {
                    (1, 0) => {}
                    (count, 0) => message += &format!(" ({count} times, last at {last})"),
                    (count, others) => {
                        message += &format!(
                            " ({count} times, and {others} other messages of the same line, last at {last})"
                        );
                    }
                }
                Report::AddLog(LogEntry {
                    message,
                    timestamp: iso8601(self.first),
                    data: (!data.is_empty()).then(|| STANDARD.encode(data)),
                    severity: severity.try_into().expect("it was made from a severity"),
                })
            }
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// How many reports leave in any minute: more than a person can follow, and little beside the device's other traffic.
pub(super) const MAX_PER_MINUTE: usize = 20;

/// How many different messages of one line of the product wait, and leave in any minute: enough to see what differs.
pub(super) const MAX_PER_ORIGIN: usize = 4;

/// How many items wait: three minutes' worth. Older ones tell nobody what is wrong at present.
pub(super) const MAX_WAITING: usize = 64;

/// How much data waits in all, in bytes: it is memory of a small device.
pub(super) const MAX_WAITING_BYTES: usize = 256 * 1024;

/// Longest message of a log entry, in bytes: a few lines. More belongs into its data.
pub(super) const MAX_MESSAGE_BYTES: usize = 1024;

/// Most data of a log entry, in bytes before base64.
pub(super) const MAX_LOG_DATA_BYTES: usize = 64 * 1024;

// A control character takes six bytes as JSON, and three bytes of data take four as base64. The rest is for member
// names, times, counts and the reqId.
const _: () = assert!(6 * MAX_MESSAGE_BYTES + MAX_LOG_DATA_BYTES.div_ceil(3) * 4 + 1024 <= MAX_PAYLOAD_BYTES);
