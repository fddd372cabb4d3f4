//! One attempt to fetch an image into its part file, on a thread that may block.

use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use iotdm_core::{Context, UpdateStatus};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::fetch::{FetchError, FetchRequest, Piece, Resume, fetch_file};
use super::image::{Image, file_path};
use super::pace::Pace;
use super::staging::Record;
use super::state::Fault;

/// What one attempt needs.
pub(super) struct Attempt {
    pub(super) shared: Arc<Shared>,
    pub(super) cx: Context,
    pub(super) image: Image,
    pub(super) stop: CancellationToken,
    pub(super) told: Arc<Told>,
}

/// When a line was last logged, over all attempts: a server that cuts each one must not fill the log.
#[derive(Debug, Default)]
pub(super) struct Told {
    attempt: Mutex<Option<Duration>>,
    progress: Mutex<Option<Duration>>,
    pause: Mutex<Option<Duration>>,
}

impl Told {
    /// Whether a line about a pause is due.
    pub(super) fn pause_is_due(&self, uptime: Duration) -> bool {
        is_due(&self.pause, uptime)
    }

    fn attempt_is_due(&self, uptime: Duration) -> bool {
        is_due(&self.attempt, uptime)
    }

    fn progress_is_due(&self, uptime: Duration) -> bool {
        is_due(&self.progress, uptime)
    }
}

fn is_due(last: &Mutex<Option<Duration>>, uptime: Duration) -> bool {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    let due = last.is_none_or(|last| uptime >= last + LOG_INTERVAL);
    if due {
        *last = Some(uptime);
    }
    due
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) end: End,
    /// How long the part is.
    pub(super) length: u64,
    /// Whether it begins with what an earlier attempt left.
    pub(super) resumed: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All is here and synced; it is not proved yet.
    Complete,
    /// Another attempt may bring the rest.
    Lost(String),
    /// As [`Lost`](Self::Lost), and the server asks for this pause.
    Busy(String, Duration),
    /// Another attempt may bring it, from the first byte.
    StartOver(String),
    /// It was to stop.
    Stopped,
    /// No attempt will bring it.
    Fault(Fault),
}

impl Attempt {
    pub(super) fn run(&self) -> Outcome {
        match self.open() {
            Ok(intake) => self.fetch(intake),
            Err(fault) => Outcome { end: End::Fault(fault), length: 0, resumed: false },
        }
    }

    fn open(&self) -> Result<Intake<'_>, Fault> {
        let staging = &self.shared.staging;
        let mut record = staging.begin(&self.image).map_err(storage)?;
        let boot_id = self.cx.system().boot_id().0;
        let (file, length) = staging.open_part(&mut record, &boot_id).map_err(storage)?;
        let total = record.total;
        Ok(Intake {
            attempt: self,
            file,
            record,
            length,
            total,
            resumed: false,
            end: None,
            pace: self.shared.options.bytes_per_second.map(Pace::new),
        })
    }

    fn fetch(&self, mut intake: Intake<'_>) -> Outcome {
        if intake.length > 0 && intake.total == Some(intake.length) {
            intake.resumed = true;
            return intake.finish(Ok(()));
        }
        let validator = intake.record.validator.clone().filter(|_| intake.length > 0);
        let request = FetchRequest {
            uri: &self.image.uri,
            resume: validator.as_deref().map(|validator| Resume { from: intake.length, validator }),
            stall_limit: self.shared.options.stall_limit,
            cancellation: &self.stop,
        };
        let mut sink = |piece: Piece<'_>| intake.take(piece);
        let result = match file_path(&self.image.uri) {
            Some(path) => fetch_file(path, &self.stop, &mut sink),
            None => self.shared.fetcher.fetch(&request, &mut sink),
        };
        intake.finish(result)
    }
}

/// Where the pieces go.
struct Intake<'a> {
    attempt: &'a Attempt,
    file: File,
    record: Record,
    length: u64,
    total: Option<u64>,
    resumed: bool,
    /// Why nothing more is taken.
    end: Option<End>,
    pace: Option<Pace>,
}

impl Intake<'_> {
    fn take(&mut self, piece: Piece<'_>) -> ControlFlow<()> {
        let result = match piece {
            Piece::Start { from, total, validator } => self.start(from, total, validator),
            Piece::Bytes(bytes) => self.append(bytes),
        };
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(end) => {
                self.end = Some(end);
                ControlFlow::Break(())
            }
        }
    }

    fn start(&mut self, from: u64, total: Option<u64>, validator: Option<String>) -> Result<(), End> {
        self.check_room(from, total)?;
        if from == 0 {
            // The part is empty before the record names other bytes: a crash in between resumes nothing.
            self.file.set_len(0).and_then(|()| self.file.sync_all()).map_err(stored)?;
            self.length = 0;
            self.record = Record { validator, total, synced: 0, ..self.record.clone() };
            self.attempt.shared.staging.write_record(&self.record).map_err(stored)?;
        } else if from != self.length {
            return Err(End::StartOver("the transfer does not go on where the part ends".into()));
        }
        self.resumed = from > 0;
        self.total = total.or(if from > 0 { self.total } else { None });
        if self.attempt.told.attempt_is_due(self.uptime()) {
            tracing::info!(image = self.attempt.image.place(), from, total, "firmware: fetching");
        }
        Ok(())
    }

    fn check_room(&self, from: u64, total: Option<u64>) -> Result<(), End> {
        let Some(total) = total else { return Ok(()) };
        let limit = self.attempt.shared.options.max_image_bytes;
        if total > limit {
            return Err(too_large(total, limit));
        }
        // A start from 0 first frees what the part takes.
        let freed = if from == 0 { self.length } else { 0 };
        let needed = (total - from.min(total)).saturating_add(SPARE_BYTES);
        match self.attempt.shared.staging.free_bytes() {
            Some(free) if free.saturating_add(freed) < needed => Err(End::Fault(Fault::new(
                UpdateStatus::OutOfMemory,
                format!("the image needs {needed} bytes of storage and {free} are free"),
            ))),
            _ => Ok(()),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), End> {
        let length = self.length + bytes.len() as u64;
        let options = &self.attempt.shared.options;
        if length > options.max_image_bytes {
            return Err(too_large(length, options.max_image_bytes));
        }
        if self.total.is_some_and(|total| length > total) {
            return Err(End::StartOver("the server sends more than it announced".into()));
        }
        self.file.write_all(bytes).map_err(stored)?;
        self.length = length;
        if self.length - self.record.synced >= SYNC_INTERVAL_BYTES {
            self.sync().map_err(stored)?;
        }
        self.tell();
        let uptime = self.uptime();
        match &mut self.pace {
            Some(pace) => self.attempt.rest(pace.pause(bytes.len() as u64, uptime)),
            None => Ok(()),
        }
    }

    /// What is here need not be fetched again after a power cut.
    fn sync(&mut self) -> io::Result<()> {
        if self.record.synced == self.length {
            return Ok(());
        }
        self.file.sync_all()?;
        self.record.synced = self.length;
        self.attempt.shared.staging.write_record(&self.record)
    }

    fn uptime(&self) -> Duration {
        self.attempt.cx.system().uptime()
    }

    fn tell(&mut self) {
        if let Some(on_progress) = &self.attempt.shared.options.on_progress {
            on_progress(self.length, self.total);
        }
        if !self.attempt.told.progress_is_due(self.uptime()) {
            return;
        }
        let percent = self.total.filter(|total| *total > 0).map(|total| self.length * 100 / total);
        tracing::info!(bytes = self.length, percent, "firmware: fetching");
    }

    fn finish(mut self, result: Result<(), FetchError>) -> Outcome {
        let mut end = match self.end.take() {
            Some(end) => end,
            None => ending(result, self.length, self.total),
        };
        // Also after a break.
        if let Err(error) = self.sync()
            && end == End::Complete
        {
            end = stored(error);
        }
        Outcome { end, length: self.length, resumed: self.resumed }
    }
}

impl Attempt {
    /// Sleeps in slices.
    fn rest(&self, mut left: Duration) -> Result<(), End> {
        while !left.is_zero() {
            if self.stop.is_cancelled() {
                return Err(End::Stopped);
            }
            let slice = left.min(PACE_SLICE);
            thread::sleep(slice);
            left -= slice;
        }
        Ok(())
    }
}

fn ending(result: Result<(), FetchError>, length: u64, total: Option<u64>) -> End {
    match result {
        Ok(()) => match total {
            Some(total) if length < total => End::Lost(format!("{length} of {total} bytes arrived")),
            _ => End::Complete,
        },
        Err(FetchError::Stopped) => End::Stopped,
        Err(FetchError::NotResumable(reason)) => End::StartOver(reason),
        Err(FetchError::Transport(reason)) => End::Lost(reason),
        Err(FetchError::Busy { retry_after, .. }) => End::Busy(BUSY.into(), retry_after),
        // Timeout, too early, too many requests, and the server's own troubles pass.
        Err(error @ FetchError::Status(408 | 425 | 429 | 500..=599)) => End::Lost(error.to_string()),
        Err(error @ (FetchError::Status(_) | FetchError::Unusable(_))) => {
            End::Fault(Fault::new(UpdateStatus::InvalidUri, error.to_string()))
        }
    }
}

/// Storage that cannot be written: the protocol's nearest word is "out of memory".
pub(super) fn storage(error: std::io::Error) -> Fault {
    Fault::new(UpdateStatus::OutOfMemory, format!("the staging folder cannot be used: {error}"))
}

fn stored(error: std::io::Error) -> End {
    End::Fault(storage(error))
}

fn too_large(length: u64, limit: u64) -> End {
    let reason = format!("the image has {length} bytes or more and this device takes {limit}");
    End::Fault(Fault::new(UpdateStatus::OutOfMemory, reason))
}

/// Left free on the storage, in bytes: records, markers and the file system's own needs.
const SPARE_BYTES: u64 = 1024 * 1024;

/// How often progress is logged, and how often that an attempt begins or has failed.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// How much is written between two syncs, in bytes: what a power cut costs at most. Flash takes it in seconds.
const SYNC_INTERVAL_BYTES: u64 = 16 * 1024 * 1024;

/// What is said of an attempt that the server put off.
const BUSY: &str = "the server is busy";

/// Longest sleep while the rate is kept down; the token is looked at in between.
const PACE_SLICE: Duration = Duration::from_millis(200);
