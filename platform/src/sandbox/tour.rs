//! The tour: one chapter after the other, and what each has shown.

mod chapters;
mod promises;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use iotdm_core::Code;
use tokio::time::{Instant, sleep, timeout};

use super::SandboxError;
use super::narrator::Narrator;
use super::screen::{Look, Screen, Who, seconds};
use super::world::{Seen, Sources, World};
use crate::{Failure, InitiateError, Outcome, Platform, Request, RequestHandle};
use promises::Evidence;

/// A sandbox that is being shown.
pub(super) struct Tour {
    world: World,
    sources: Sources,
    screen: Screen,
    narrator: Narrator,
    rows: Vec<Row>,
    evidence: Evidence,
}

/// A line of the table at the end.
struct Row {
    request: String,
    rc: Option<Code>,
    outcome: String,
    runs: u32,
    time: Duration,
}

impl Tour {
    pub(super) fn new(world: World, sources: Sources, screen: Screen) -> Self {
        let (narrator, rows, evidence) = (Narrator::default(), Vec::new(), Evidence::default());
        Self { world, sources, screen, narrator, rows, evidence }
    }

    /// Keeps the timeline going; ends only with the sandbox.
    pub(super) async fn stay(&mut self) -> Result<(), SandboxError> {
        let (port, device) = (self.world.broker.local_addr().port(), self.world.device.clone());
        let connect = format!("-h 127.0.0.1 -p {port} -q 1");
        self.screen.chapter("The sandbox stays", "send requests with any MQTT client; Ctrl-C ends it")?;
        for line in [
            format!("  mosquitto_sub {connect} -v -t 'devices/{device}/iotdevice-1/#'"),
            format!(
                "  mosquitto_pub {connect} -t 'devices/{device}/iotdm-1/mgmt/custom/lamp/dim' \\\n    -m '{{\"d\":{{\"fields\":[{{\"field\":\"level\",\"value\":\"40\"}}]}},\"reqId\":\"mine-1\"}}'"
            ),
            format!(
                "  mosquitto_pub {connect} -t 'devices/{device}/iotdm-1/mgmt/initiate/device/reboot' -m '{{\"reqId\":\"mine-2\"}}'"
            ),
            "Send the same reqId twice: it is answered twice, and carried out once.\n".into(),
        ] {
            self.screen.plain(line)?;
        }
        loop {
            let seen = self.sources.next().await;
            self.show(seen)?;
        }
    }

    /// Ends everything that runs; whether nothing is left.
    pub(super) async fn end(mut self) -> (Screen, bool) {
        self.screen.end_progress();
        (self.screen, self.world.end().await)
    }

    /// Waits for a step while the timeline goes on.
    async fn during<T>(
        &mut self,
        step: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, SandboxError> {
        let mut work = pin!(timeout(STEP_LIMIT, work));
        let result = loop {
            let seen = tokio::select! {
                biased;
                seen = self.sources.next() => seen,
                result = &mut work => break result,
            };
            self.show(seen)?;
        };
        while let Some(seen) = self.sources.try_next() {
            self.show(seen)?;
        }
        result.map_err(|_| SandboxError::Overdue(step))
    }

    fn show(&mut self, seen: Seen) -> Result<(), SandboxError> {
        match seen {
            Seen::Platform(event) => {
                self.evidence.note(&event);
                if let Some((who, line)) = self.narrator.tell(&event) {
                    self.screen.line(who, &line)?;
                }
            }
            Seen::Machine(line) => self.screen.line(Who::Machine, &line)?,
            Seen::Progress(here, total) => self.screen.progress(here, total)?,
        }
        Ok(())
    }

    /// The head of a chapter; on a terminal, after a moment to read the last one.
    async fn chapter(&mut self, title: &'static str, about: &str) -> Result<(), SandboxError> {
        if self.screen.look() == Look::Terminal {
            self.during(title, sleep(READING_TIME)).await?;
        }
        Ok(self.screen.chapter(title, about)?)
    }

    fn platform(&self) -> Arc<Platform> {
        self.world.platform.clone()
    }

    fn initiate(&self, step: &'static str, request: &Request) -> Result<RequestHandle, SandboxError> {
        self.world.platform.initiate(&self.world.device, request).map_err(failed(step))
    }

    /// Makes a request, waits for its end, and puts it into the table.
    async fn ask(&mut self, step: &'static str, request: &Request) -> Result<RequestHandle, SandboxError> {
        let began = Instant::now();
        let handle = self.initiate(step, request)?;
        let outcome = self.during(step, handle.completed()).await?;
        self.row(step, &handle, outcome, began);
        Ok(handle)
    }

    fn row(&mut self, request: &str, handle: &RequestHandle, outcome: Outcome, began: Instant) {
        // The code stands beside it.
        let outcome = match outcome {
            Outcome::Failed(Failure::Answered(Code::FAILED)) => "failed".into(),
            Outcome::Failed(Failure::Answered(_)) => "refused".into(),
            outcome => outcome.to_string(),
        };
        let rc = handle.snapshot().answer.map(|answer| answer.rc);
        let runs = self.world.runs.of(handle.req_id());
        self.rows.push(Row { request: request.into(), rc, outcome, runs, time: began.elapsed() });
    }

    fn table(&mut self) -> Result<(), SandboxError> {
        let mut cells = vec![["request", "rc", "outcome", "runs", "time"].map(String::from)];
        cells.extend(self.rows.iter().map(|row| {
            let rc = row.rc.map_or("none".into(), |rc| rc.to_string());
            [row.request.clone(), rc, row.outcome.clone(), row.runs.to_string(), seconds(row.time)]
        }));
        Ok(self.screen.table(&cells)?)
    }
}

fn failed(step: &'static str) -> impl Fn(InitiateError) -> SandboxError {
    move |reason| SandboxError::Failed { step, reason: reason.to_string() }
}

/// How long one step may take: the longest, a download with its pause, takes four seconds.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// A moment to read a chapter on a terminal.
const READING_TIME: Duration = Duration::from_millis(700);
