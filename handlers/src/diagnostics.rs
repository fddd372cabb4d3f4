//! Error codes and log entries for the platform (`docs/protocol.md` §4.4, §4.5).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iotdm_core::{
    Action, Bundle, Context, Declined, Empty, Finished, Handler, Interrupted, Refusal, Report, Route,
    Severity, System, Table, TableError,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use queue::{Item, Next, Queue};

mod facts;
#[cfg(feature = "layer")]
mod layer;
mod queue;
mod upload;

pub use facts::{
    Disk, Facts, FactsOptions, FactsOptionsError, ReadFacts, Space, SystemFacts, Temperature, Thresholds,
};
#[cfg(feature = "layer")]
pub use layer::{CODE_FIELD, DiagnosticsLayer, MAX_FIELDS, MAX_NAME_BYTES, MAX_VALUE_BYTES, SECRET_WORDS};
pub use upload::{
    DEFAULT_UPLOAD_BYTES, HttpUploader, LogOrigin, LogSource, LogUpload, MAX_UPLOAD_BYTES, Put, UploadError,
    UploadHost, UploadHostError, UploadLog, UploadOptions, UploadOptionsError, UploadRequest, Uploaded,
    Uploader,
};

/// Sends error codes and log entries to the platform: from anywhere in the product, merged, at a bounded rate.
///
/// Clones share one queue. Whoever owns the agent runs [`run`](Self::run) beside it; registered as a [`Bundle`], it
/// also lets the platform ask for its error codes or its log to be cleared.
///
/// ```no_run
/// # async fn report(_: iotdm_core::Report) -> Result<(), iotdm_core::Declined> { Ok(()) }
/// # async fn example(system: std::sync::Arc<dyn iotdm_core::System>) {
/// use iotdm_core::Severity;
/// use iotdm_handlers::Diagnostics;
///
/// let diagnostics = Diagnostics::new(system);
/// diagnostics.error_code(17);
/// diagnostics.log(Severity::Warning, "the lamp is hotter than 80 °C");
/// diagnostics.run(report).await;
/// # }
/// ```
///
/// # Flow
/// 1. An entry gets its time and waits in memory. One that equals a waiting one only raises its count.
/// 2. `run` hands them over in order, at most 20 in any minute. What equals something sent within the last minute
///    waits until that minute is over, so that a repeating fault becomes one entry a minute that says how often.
/// 3. What does not fit any more is dropped and counted; a warning tells the platform how many.
///
/// What the product logs with `tracing` comes in by a layer (`DiagnosticsLayer`, with the feature `layer`).
///
/// # Guarantees
/// * No call blocks or fails: a fault must not become two.
/// * A report fits into a message: texts longer than 1 KiB and data longer than 64 KiB are cut.
/// * At most 64 entries with 256 KiB of data wait.
/// * What is reported before [`clear_error_codes`](Self::clear_error_codes) or [`clear_log`](Self::clear_log) is
///   cleared by it, what is reported after it stays.
///
/// # Caveats
/// * What waits is lost when the process ends. What `run` has handed over is as durable as its `send` makes it.
/// * When the platform asks for a clear, what is being sent at that moment may come after it.
/// * Registering it makes manage claim the bundle `iotdm`. A platform that has no such bundle answers 403 (§4.1).
#[derive(Clone)]
pub struct Diagnostics {
    shared: Arc<Shared>,
}

struct Shared {
    system: Arc<dyn System>,
    queue: Mutex<Queue>,
    changed: Notify,
}

impl Diagnostics {
    /// With the machine whose wall clock the entries get their times from.
    pub fn new(system: Arc<dyn System>) -> Self {
        let shared = Shared { system, queue: Mutex::default(), changed: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Reports an error code. Repeats within a minute of each other are one.
    pub fn error_code(&self, code: i32) {
        self.push(Item::Code(code));
    }

    /// Reports a log entry.
    pub fn log(&self, severity: Severity, message: impl Into<String>) {
        self.push(Item::log(severity, message.into(), &[]));
    }

    /// Reports a log entry with data; the platform gets it as base64.
    pub fn log_with_data(&self, severity: Severity, message: impl Into<String>, data: &[u8]) {
        self.push(Item::log(severity, message.into(), data));
    }

    /// A log entry of one line of the product.
    #[cfg(feature = "layer")]
    fn log_from(&self, origin: u64, severity: Severity, message: String, data: &[u8]) {
        self.push(Item::log_from(Some(origin), severity, message, data));
    }

    /// Has the platform forget all error codes, those that still wait included.
    pub fn clear_error_codes(&self) {
        self.push(Item::ClearCodes);
    }

    /// Has the platform forget the log, entries that still wait included.
    pub fn clear_log(&self) {
        self.push(Item::ClearLog);
    }

    /// Hands everything over to `send`, which is the agent's own `report`, for as long as it takes reports.
    pub async fn run<F, Sent>(&self, send: F) -> Declined
    where
        F: Fn(Report) -> Sent,
        Sent: Future<Output = Result<(), Declined>>,
    {
        loop {
            let changed = self.shared.changed.notified();
            let next = self.queue().next(Instant::now(), self.shared.system.wall_clock());
            match next {
                Next::Send(report) => match send(report).await {
                    Ok(()) => {}
                    Err(Declined::OutOfBounds) => tracing::warn!("a report was out of bounds; it is dropped"),
                    Err(declined) => return declined,
                },
                Next::At(instant) => tokio::select! {
                    () = sleep_until(instant) => {}
                    () = changed => {}
                },
                Next::Idle => changed.await,
            }
        }
    }

    /// Has the log cleared on behalf of a request: on return the clear is durable.
    async fn clear_log_for(&self, cx: &Context) -> Result<(), Refusal> {
        self.queue().forget(&Item::ClearLog);
        Ok(cx.report(Report::ClearLog).await?)
    }

    fn push(&self, item: Item) {
        let wall_clock = self.shared.system.wall_clock();
        self.queue().push(item, wall_clock);
        self.shared.changed.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Diagnostics").finish_non_exhaustive()
    }
}

impl Bundle for Diagnostics {
    fn register(self, table: &mut Table) -> Result<(), TableError> {
        table.on::<ClearErrorCodes>(self.clone())?;
        table.on::<ClearLog>(self)
    }
}

/// The platform asks the device to have its error codes cleared. The protocol's own clear goes the other way only.
#[derive(Clone, Copy, Debug)]
pub struct ClearErrorCodes;

impl Action for ClearErrorCodes {
    const ROUTE: Route = Route::custom("iotdm", "clearErrorCodes");
    const TITLE: &'static str = "Clear the error codes";
    // Clearing what is clear does no harm.
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    type Request = Empty;
    type Reply = Finished<()>;
}

/// The platform asks the device to have its log cleared; see [`ClearErrorCodes`].
#[derive(Clone, Copy, Debug)]
pub struct ClearLog;

impl Action for ClearLog {
    const ROUTE: Route = Route::custom("iotdm", "clearLog");
    const TITLE: &'static str = "Clear the log";
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    type Request = Empty;
    type Reply = Finished<()>;
}

// Both report through the request's own context: the answer may leave only when the report is durable.
impl Handler<ClearErrorCodes> for Diagnostics {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        self.queue().forget(&Item::ClearCodes);
        cx.report(Report::ClearErrorCodes).await?;
        Ok(Finished(()))
    }
}

impl Handler<ClearLog> for Diagnostics {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        self.clear_log_for(cx).await?;
        Ok(Finished(()))
    }
}

#[cfg(test)]
mod tests;
