//! A log of the device for the platform, when it asks: `iotdm/uploadLog` (`docs/protocol.md` §5.6, §6.5).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use iotdm_core::{
    Action, Bundle, ChildError, ChildExit, ChildProcess, Context, Finished, Handler, Interrupted,
    MAX_PAYLOAD_BYTES, Policy, Refusal, Route, Table, TableError,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use super::Diagnostics;
use pack::{Packed, pack};
use source::{Text, oldest_first, tail};

mod address;
mod http;
mod options;
mod pack;
mod put;
mod request;
mod source;

pub use address::{UploadHost, UploadHostError};
pub use http::HttpUploader;
pub use options::{
    DEFAULT_UPLOAD_BYTES, LogOrigin, LogSource, MAX_UPLOAD_BYTES, UploadOptions, UploadOptionsError,
};
pub use put::{Put, UploadError, Uploader};
pub use request::{UploadRequest, Uploaded};

use request::Wanted;

/// Lets the platform have the end of a log that the device's maker or operator has declared.
///
/// # Flow
/// 1. The request names a declared source. A source of the journal is read by `journalctl` through the
///    [`System`](iotdm_core::System), a file from its end.
/// 2. What was read is compressed with gzip.
/// 3. With a `url` it is sent there by `PUT`, three times at most. Without one it is the answer's `data` in base64, cut
///    to its newest part where it does not fit.
/// 4. With `clear`, the platform's log of this device is cleared then, as by [`ClearLog`](super::ClearLog).
///
/// # Guarantees
/// * No request names a path, a unit or a program, and none reaches a host that is not declared.
/// * One log at a time is read and sent; another request meanwhile is answered 409.
/// * It is bounded: what is read, what is sent, each attempt, and how many there are.
/// * The address of a request is in no log line, error or `Debug`: it may be signed.
/// * Whatever interrupts it, it may be done again: reading changes nothing, and the same `PUT` replaces the same object.
///
/// # Caveats
/// * The request stays in the journal with its address until it is pruned, as every request does.
/// * A file that is rotated by copying it and cutting it to nothing can come twice in part, if that happens while it is
///   read.
///
/// # Errors
/// 400 names the parameter; 409 while another log is sent; 500 when the source cannot be read or the server does not
/// take it.
#[derive(Clone)]
pub struct LogUpload {
    shared: Arc<Shared>,
}

struct Shared {
    diagnostics: Diagnostics,
    options: UploadOptions,
    uploader: Arc<dyn Uploader>,
    // A log and its compressed form are the largest that the agent ever holds, and a file system may not answer.
    turn: Arc<Semaphore>,
}

/// Over when the last who has it is done: the handler, or a thread that it no longer waits for.
type Turn = Arc<OwnedSemaphorePermit>;

impl LogUpload {
    /// With the sources that may be asked for, and what sends them. `diagnostics` is where a clear takes effect.
    ///
    /// # Errors
    /// [`UploadOptionsError`] for what could only fail later.
    pub fn new(
        diagnostics: Diagnostics,
        options: UploadOptions,
        uploader: Arc<dyn Uploader>,
    ) -> Result<Self, UploadOptionsError> {
        options.check()?;
        let shared = Shared { diagnostics, options, uploader, turn: Arc::new(Semaphore::new(1)) };
        Ok(Self { shared: Arc::new(shared) })
    }

    async fn read(&self, cx: &Context, wanted: &Wanted<'_>, turn: &Turn) -> Result<Text, Refusal> {
        let (bytes, lines) = (wanted.bytes, wanted.lines);
        match &wanted.source.origin {
            LogOrigin::Journal { unit } => {
                let child = self.journalctl(unit.as_deref(), wanted);
                journal(&cx.system().run(child).await, bytes)
            }
            LogOrigin::File(path) => {
                let (wanted, turn) = (path.clone(), turn.clone());
                let read = move |_: &_| {
                    let _turn = turn;
                    tail(&wanted, bytes, lines)
                };
                let text = cx.blocking(read).await;
                text.map_err(|error| cannot_be_read(format!("{}: {error}", path.display())))
            }
        }
    }

    fn journalctl(&self, unit: Option<&str>, wanted: &Wanted<'_>) -> ChildProcess {
        // Newest first: it is the start of the output that is kept.
        let mut args =
            ["--output=short-iso", "--no-pager", "--quiet", "--reverse"].map(String::from).to_vec();
        args.extend(["-n".into(), wanted.lines.unwrap_or(DEFAULT_JOURNAL_LINES).to_string()]);
        args.extend(unit.map(|unit| format!("--unit={unit}")));
        args.extend(wanted.minutes.map(|minutes| format!("--since=-{minutes}min")));
        ChildProcess {
            args,
            env: std::collections::BTreeMap::new(),
            time_limit: JOURNAL_LIMIT,
            output_limit: wanted.bytes,
            ..ChildProcess::new(self.shared.options.journalctl.clone())
        }
    }

    async fn put(&self, cx: &Context, url: &str, body: Arc<[u8]>, turn: &Turn) -> Result<(), Refusal> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let (uploader, url, body) = (self.shared.uploader.clone(), url.to_owned(), body.clone());
            let turn = turn.clone();
            let time_limit = self.shared.options.time_limit.min(cx.remaining());
            let put = move |cancellation: &_| {
                let _turn = turn;
                uploader.put(&Put { url: &url, body: &body, time_limit, cancellation })
            };
            let Err(error) = cx.blocking(put).await else { return Ok(()) };
            if attempt >= ATTEMPTS || !error.may_pass() {
                return Err(not_sent(&error));
            }
            tracing::debug!(%error, attempt, "diagnostics: the log could not be sent yet");
            sleep(pause).await;
            pause *= PAUSE_GROWTH;
        }
        unreachable!("the last attempt returns")
    }
}

impl Handler<UploadLog> for LogUpload {
    async fn handle(&self, cx: &Context, request: &UploadRequest) -> Result<Finished<Uploaded>, Refusal> {
        // Its turn is free at once for the next request. Blocking work looks at the token itself.
        tokio::select! {
            biased;
            () = cx.cancellation().cancelled() => Err(not_sent(&UploadError::Stopped)),
            done = self.carry_out(cx, request) => done,
        }
    }
}

impl LogUpload {
    async fn carry_out(&self, cx: &Context, request: &UploadRequest) -> Result<Finished<Uploaded>, Refusal> {
        let wanted = request.check(&self.shared.options)?;
        let Ok(turn) = self.shared.turn.clone().try_acquire_owned().map(Arc::new) else {
            return Err(Refusal::busy("another log is being uploaded"));
        };
        let Text { bytes, truncated } = self.read(cx, &wanted, &turn).await?;
        let limit = wanted.url.is_none().then_some(MAX_INLINE_BYTES);
        let packed = cx.blocking(move |_| pack(&bytes, limit)).await;
        let Packed { gzip, kept, cut } = packed;
        let mut uploaded = Uploaded {
            source: wanted.source.name.clone(),
            bytes: kept as u64,
            sent_bytes: gzip.len() as u64,
            truncated: truncated || cut,
            encoding: ENCODING,
            data: None,
            cleared: false,
        };
        match wanted.url {
            Some(url) => self.put(cx, url, gzip.into(), &turn).await?,
            None => uploaded.data = Some(STANDARD.encode(&gzip)),
        }
        if wanted.clear {
            self.shared.diagnostics.clear_log_for(cx).await?;
            uploaded.cleared = true;
        }
        Ok(Finished(uploaded))
    }
}

impl Bundle for LogUpload {
    fn register(self, table: &mut Table) -> Result<(), TableError> {
        let budget = self.shared.options.budget();
        table.on_route::<UploadLog>(UploadLog::ROUTE, Policy { budget, ..Policy::of::<UploadLog>() }, self)
    }
}

impl fmt::Debug for LogUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogUpload").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

/// The platform asks for the end of a log.
#[derive(Clone, Copy, Debug)]
pub struct UploadLog;

impl Action for UploadLog {
    const ROUTE: Route = Route::custom("iotdm", "uploadLog");
    const TITLE: &'static str = "Send the end of a log";
    // Reading changes nothing, and the same PUT replaces the same object.
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    type Request = UploadRequest;
    type Reply = Finished<Uploaded>;
}

impl UploadOptions {
    /// How long all of it may take: past this the engine would answer instead of the handler.
    fn budget(&self) -> Duration {
        let pauses = FIRST_PAUSE + FIRST_PAUSE * PAUSE_GROWTH;
        self.time_limit.saturating_mul(ATTEMPTS) + pauses + JOURNAL_LIMIT + BUDGET_MARGIN
    }
}

fn journal(result: &Result<iotdm_core::ChildOutput, ChildError>, limit: usize) -> Result<Text, Refusal> {
    let output = result.as_ref().map_err(|error| cannot_be_read(error.to_string()))?;
    if output.exit != ChildExit::Status(0) {
        return Err(cannot_be_read(format!("journalctl ended with {}", output.reason())));
    }
    // Only one of the two streams may have been cut.
    let truncated = output.truncated && output.stdout.len() >= limit;
    Ok(Text { bytes: oldest_first(&output.stdout, truncated), truncated })
}

fn cannot_be_read(reason: String) -> Refusal {
    Refusal::failed("the log of this source cannot be read").log(reason)
}

fn not_sent(error: &UploadError) -> Refusal {
    let message = match error {
        UploadError::Status(status) => format!("the server answered {status}"),
        UploadError::Transport(_) => "the server could not be reached".into(),
        UploadError::Unusable(_) => "the log cannot be sent to this url".into(),
        UploadError::Stopped => "the upload was stopped".into(),
    };
    Refusal::failed(message).log(error.to_string())
}

/// How often sending is tried.
const ATTEMPTS: u32 = 3;

/// The pause after the first attempt, and how it grows: a server that restarts is back within ten seconds.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const PAUSE_GROWTH: u32 = 4;

/// How long `journalctl` may take: seeking in a large journal on slow flash takes seconds.
const JOURNAL_LIMIT: Duration = Duration::from_secs(30);

/// For reading a file, compressing, and a child's 5 s between TERM and KILL.
const BUDGET_MARGIN: Duration = Duration::from_secs(30);

/// How many entries of the journal are read unless the request says: some screens.
const DEFAULT_JOURNAL_LINES: usize = 1000;

/// Most bytes of a compressed log within an answer: as base64 half of what a message may have, so that envelope and
/// reqId always fit.
pub(super) const MAX_INLINE_BYTES: usize = MAX_PAYLOAD_BYTES / 2 / 4 * 3;

/// How the log is compressed, as the answer names it.
const ENCODING: &str = "gzip";

#[cfg(test)]
mod tests;
