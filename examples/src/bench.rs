//! Custom actions for a driver that tells handler runs from answers.
//!
//! [`Echo`] (`bench/echo`) may run again after a crash, [`Once`] (`bench/once`) may not. Both take the texts `seq` and
//! `pad`, note `start <reqId>` and `end <reqId>` in the [`ExecutionLog`], and give back what they took.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::Duration;

use iotdm_core::{Action, Context, Finished, Handler, Interrupted, Refusal, Route};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `bench/echo`: harmless to repeat.
#[derive(Clone, Copy, Debug)]
pub struct Echo;

/// `bench/once`: never to be started twice.
#[derive(Clone, Copy, Debug)]
pub struct Once;

/// What both are asked, and answer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Parameters {
    /// Tells requests apart.
    pub seq: String,
    /// Makes them as large as the driver wants them.
    pub pad: String,
}

impl Action for Echo {
    const ROUTE: Route = Route::custom("bench", "echo");
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    // A driver that kills the agent time and again must not meet the limit.
    const ATTEMPTS: u32 = 1000;
    type Request = Parameters;
    type Reply = Finished<Parameters>;
}

impl Action for Once {
    const ROUTE: Route = Route::custom("bench", "once");
    type Request = Parameters;
    type Reply = Finished<Parameters>;
}

/// Carries both out.
#[derive(Clone, Debug, Default)]
pub struct Bench {
    log: ExecutionLog,
    delay: Duration,
}

impl Bench {
    /// With the log that `DM_EXEC_LOG` names, and a pause of `DM_HANDLER_DELAY_MS` between start and end.
    ///
    /// # Errors
    /// The log cannot be opened, or the pause is no number.
    pub fn from_environment() -> io::Result<Self> {
        let delay = match std::env::var(DELAY_VARIABLE) {
            Ok(text) => text.parse().map_err(|_| {
                let problem = format!("{DELAY_VARIABLE}={text} is no number of milliseconds");
                io::Error::new(io::ErrorKind::InvalidInput, problem)
            })?,
            Err(_) => 0,
        };
        Ok(Self { log: ExecutionLog::from_environment()?, delay: Duration::from_millis(delay) })
    }

    async fn run(&self, cx: &Context, request: &Parameters) -> Result<Finished<Parameters>, Refusal> {
        let Some(req_id) = cx.req_id() else { return Ok(Finished(request.clone())) };
        self.log.start(req_id).map_err(not_noted)?;
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        self.log.end(req_id).map_err(not_noted)?;
        Ok(Finished(request.clone()))
    }
}

impl Handler<Echo> for Bench {
    async fn handle(&self, cx: &Context, request: &Parameters) -> Result<Finished<Parameters>, Refusal> {
        self.run(cx, request).await
    }
}

impl Handler<Once> for Bench {
    async fn handle(&self, cx: &Context, request: &Parameters) -> Result<Finished<Parameters>, Refusal> {
        self.run(cx, request).await
    }
}

fn not_noted(error: io::Error) -> Refusal {
    Refusal::failed("the execution log cannot be written").log(error.to_string())
}

/// A file with a line for each start and each end of a handler; nothing, where no file is named.
///
/// Each line is one `write` in append mode, so that lines of several runs and of several processes never mix, and one
/// that was written stays when the process is killed.
#[derive(Clone, Debug, Default)]
pub struct ExecutionLog(Option<Arc<File>>);

impl ExecutionLog {
    /// The file that `DM_EXEC_LOG` names.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn from_environment() -> io::Result<Self> {
        let Some(path) = std::env::var_os(LOG_VARIABLE) else { return Ok(Self(None)) };
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        Ok(Self(Some(Arc::new(file))))
    }

    /// Notes that work for this request begins.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn start(&self, req_id: impl fmt::Display) -> io::Result<()> {
        self.note("start", req_id)
    }

    /// Notes that its side effect is done.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn end(&self, req_id: impl fmt::Display) -> io::Result<()> {
        self.note("end", req_id)
    }

    /// Notes that the machine is restarted for this request, in the same moment in which it is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn boot(&self, req_id: impl fmt::Display) -> io::Result<()> {
        self.note("boot", req_id)
    }

    /// How often the machine was restarted; 0 where there is no file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn boots(&self) -> io::Result<usize> {
        let Some(file) = &self.0 else { return Ok(0) };
        let mut count = 0;
        let mut file = &**file;
        file.seek(SeekFrom::Start(0))?;
        for line in BufReader::new(file).lines() {
            count += usize::from(line?.starts_with("boot "));
        }
        Ok(count)
    }

    fn note(&self, what: &str, req_id: impl fmt::Display) -> io::Result<()> {
        match &self.0 {
            Some(file) => (&**file).write_all(format!("{what} {req_id}\n").as_bytes()),
            None => Ok(()),
        }
    }
}

/// Names the execution log.
const LOG_VARIABLE: &str = "DM_EXEC_LOG";

/// How long the side effect takes, in milliseconds.
const DELAY_VARIABLE: &str = "DM_HANDLER_DELAY_MS";
