//! One attempt to fetch an image into its part file, on a thread that may block.

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use iotdm_core::{Context, UpdateStatus};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::fetch::{FetchError, FetchRequest, Piece, Resume, fetch_file};
use super::image::{Image, file_path};
use super::staging::Record;
use super::state::Fault;

/// What one attempt needs.
pub(super) struct Attempt {
    pub(super) shared: Arc<Shared>,
    pub(super) cx: Context,
    pub(super) image: Image,
    pub(super) stop: CancellationToken,
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
        let record = self.shared.staging.begin(&self.image).map_err(storage)?;
        let (file, length) = self.shared.staging.open_part().map_err(storage)?;
        let total = record.total;
        Ok(Intake {
            attempt: self,
            file,
            record,
            length,
            total,
            resumed: false,
            end: None,
            due: Duration::ZERO,
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
    /// When to log next, by the time since boot.
    due: Duration,
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
            self.record = Record { validator, total, ..self.record.clone() };
            self.attempt.shared.staging.write_record(&self.record).map_err(stored)?;
        } else if from != self.length {
            return Err(End::StartOver("the transfer does not go on where the part ends".into()));
        }
        self.resumed = from > 0;
        self.total = total.or(if from > 0 { self.total } else { None });
        tracing::info!(image = self.attempt.image.place(), from, total, "firmware: fetching");
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
        self.tell();
        self.attempt.pace(bytes.len() as u64)
    }

    fn tell(&mut self) {
        if let Some(on_progress) = &self.attempt.shared.options.on_progress {
            on_progress(self.length, self.total);
        }
        let uptime = self.attempt.cx.system().uptime();
        if uptime < self.due {
            return;
        }
        self.due = uptime + LOG_INTERVAL;
        let percent = self.total.filter(|total| *total > 0).map(|total| self.length * 100 / total);
        tracing::info!(bytes = self.length, percent, "firmware: fetching");
    }

    fn finish(mut self, result: Result<(), FetchError>) -> Outcome {
        let mut end = match self.end.take() {
            Some(end) => end,
            None => ending(result, self.length, self.total),
        };
        // Also after a break: what is here need not be fetched again after a power cut.
        if let Err(error) = self.file.sync_all()
            && end == End::Complete
        {
            end = stored(error);
        }
        Outcome { end, length: self.length, resumed: self.resumed }
    }
}

impl Attempt {
    /// Waits as long as these bytes may take at the highest rate.
    fn pace(&self, bytes: u64) -> Result<(), End> {
        let Some(rate) = self.shared.options.bytes_per_second else { return Ok(()) };
        let mut left = Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
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

/// How often progress is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Longest sleep while the rate is kept down; the token is looked at in between.
const PACE_SLICE: Duration = Duration::from_millis(200);
