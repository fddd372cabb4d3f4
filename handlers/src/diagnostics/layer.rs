//! Warnings and errors of the product's own log as entries of the platform's (`docs/protocol.md` §4.4, §4.5).

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};

use iotdm_core::Severity;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::Diagnostics;
use fields::Fields;

mod fields;

pub use fields::{CODE_FIELD, MAX_FIELDS, MAX_NAME_BYTES, MAX_VALUE_BYTES, SECRET_WORDS};

/// Tells the platform of what the product logs with `tracing`: a warning becomes a log entry of severity 1, an error
/// one of severity 2.
///
/// ```
/// # fn example(system: std::sync::Arc<dyn iotdm_core::System>) {
/// use iotdm_handlers::Diagnostics;
/// use tracing_subscriber::prelude::*;
///
/// let diagnostics = Diagnostics::new(system);
/// let log = tracing_subscriber::registry().with(diagnostics.layer()).with(tracing_subscriber::fmt::layer());
/// # tracing::subscriber::with_default(log, || {
/// tracing::warn!(duty = 40, "the lamp is hotter than 80 °C"); // a log entry, with the duty in its data
/// tracing::error!(iotdm.code = 17, "the lamp does not answer"); // and the error code 17
/// # });
/// # }
/// ```
///
/// # Flow
/// 1. The message is the entry's message. Target, file, line and the other fields are its data, one JSON object:
///    `{"target": …, "file": …, "line": …, "fields": {…}}`.
/// 2. A whole number in the field `iotdm.code` is also reported as an error code, if it fits into 32 bits.
/// 3. It goes into the queue of [`Diagnostics`]: repeats of one line of the product with one message are one entry with
///    a count, whatever their fields; of a line whose message differs each time, four messages leave in a minute and
///    the last one stands for the others.
///
/// # Guarantees
/// * What the agent, its handlers and the libraries below them log is never reported: a report that fails makes no
///   report. Those are the targets `iotdm*`, `rustls*`, `rumqttc*`, `sled*` and `ureq*`, also where they come through
///   the `log` crate.
/// * What is logged while an event is formatted, by a `Debug` of the product, is not reported.
/// * Formatting holds no lock and keeps at most 1 KiB of the message, 16 fields and 256 bytes of each. The queue's lock
///   is held for comparisons in memory only; nothing is sent, written or waited for on the logging thread.
/// * The value of a field whose name speaks of a secret ([`SECRET_WORDS`]) is not even formatted: `"withheld"` stands
///   in its place.
/// * It disables no event for other layers.
///
/// # Caveats
/// * A secret within a message, or in a field of another name, is the product's own text and is sent.
/// * The fields of spans around an event are not sent.
#[derive(Clone, Debug)]
pub struct DiagnosticsLayer {
    diagnostics: Diagnostics,
    silent: Vec<String>,
}

impl Diagnostics {
    /// A layer that reports what the product logs; see [`DiagnosticsLayer`].
    pub fn layer(&self) -> DiagnosticsLayer {
        DiagnosticsLayer { diagnostics: self.clone(), silent: Vec::new() }
    }
}

impl DiagnosticsLayer {
    /// Reports nothing of this crate of the product either, nor of crates whose names go on with `_`.
    #[must_use]
    pub fn without(mut self, name: impl Into<String>) -> Self {
        self.silent.push(name.into());
        self
    }

    fn is_silent(&self, target: &str) -> bool {
        let root = target.split("::").next().unwrap_or_default();
        let begins = |name: &str| {
            root.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '-']))
        };
        BELOW.iter().any(|name| begins(name)) || self.silent.iter().any(|name| begins(name))
    }
}

impl<S: Subscriber> Layer<S> for DiagnosticsLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let severity = match *metadata.level() {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            _ => return,
        };
        if self.is_silent(metadata.target()) {
            return;
        }
        let Some(_busy) = Busy::enter() else { return };
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.log_target().is_some_and(|target| self.is_silent(target)) {
            return;
        }
        let mut origin = DefaultHasher::new();
        (metadata.callsite(), fields.log_target()).hash(&mut origin);
        if let Some(code) = fields.code() {
            self.diagnostics.error_code(code);
        }
        let (message, data) = fields.into_entry(metadata);
        self.diagnostics.log_from(origin.finish(), severity, message, &data);
    }
}

/// That this thread is formatting an event.
struct Busy;

impl Busy {
    fn enter() -> Option<Self> {
        BUSY.with(|busy| (!busy.replace(true)).then_some(Self))
    }
}

impl Drop for Busy {
    // Also when a `Debug` of the product panics.
    fn drop(&mut self) {
        BUSY.with(|busy| busy.set(false));
    }
}

thread_local! {
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// The agent's own crates and what they send reports with: whatever these log may be about a report.
const BELOW: [&str; 5] = ["iotdm", "rustls", "rumqttc", "sled", "ureq"];

#[cfg(test)]
mod tests;
