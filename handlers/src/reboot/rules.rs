use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use iotdm_core::{Context, Failure, Performed, Refusal, Restart, iso8601};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::limit::RestartLimit;
use super::logind::Logind;
use super::veto::{self, Moment, Question, Verdict, Veto};
use super::window::MaintenanceWindows;

/// What must be so for a restart. Without rules each one is allowed.
///
/// # Flow
/// 1. Before the answer: maintenance window, limit, logind and application in this order. The first that says no
///    decides, and the platform is told why.
/// 2. Once the platform has the 202: all of them again, since the answer may have waited for the network for days.
///    A no fails the restart. Here the application may have it delayed; after a delay the others are asked once more.
/// 3. The restart is recorded for the limit, in one durable step, and begun.
///
/// # Errors
/// 409 outside the maintenance windows, with when the next one opens; with a wall clock that was never set; beyond the
/// limit, with until when; when logind or the application says no, with its reason. 500 when one of those two cannot
/// be asked.
#[derive(Clone)]
pub struct Rules {
    windows: Option<MaintenanceWindows>,
    limit: Option<RestartLimit>,
    logind: Option<Logind>,
    veto: Option<Arc<dyn Veto>>,
    max_delay: Duration,
    earliest_wall_clock: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("windows", &self.windows)
            .field("limit", &self.limit)
            .field("logind", &self.logind.is_some())
            .field("veto", &self.veto.is_some())
            .field("max_delay", &self.max_delay)
            .finish_non_exhaustive()
    }
}

impl Rules {
    /// No rules.
    #[must_use]
    pub fn new() -> Self {
        Self {
            windows: None,
            limit: None,
            logind: None,
            veto: None,
            max_delay: DEFAULT_MAX_DELAY,
            earliest_wall_clock: EARLIEST_WALL_CLOCK,
        }
    }

    /// With restarts in these windows alone. A wall clock that was never set tells no window: the restart is refused.
    #[must_use]
    pub fn within(self, windows: MaintenanceWindows) -> Self {
        Self { windows: Some(windows), ..self }
    }

    /// With a guard against a loop of restarts.
    #[must_use]
    pub fn at_most(self, limit: RestartLimit) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// With a look at who blocks a shutdown, and at whether logind would carry it out.
    #[must_use]
    pub fn logind(self, logind: Logind) -> Self {
        Self { logind: Some(logind), ..self }
    }

    /// With the application's word.
    #[must_use]
    pub fn veto(self, veto: impl Veto) -> Self {
        Self { veto: Some(Arc::new(veto)), ..self }
    }

    /// With another time than 60 s that the application may have one restart delayed in all. It counts against the
    /// action's [`PERFORM_BUDGET`](iotdm_core::Action::PERFORM_BUDGET).
    #[must_use]
    pub fn max_delay(self, max_delay: Duration) -> Self {
        Self { max_delay, ..self }
    }

    /// With another time since the Unix epoch than that of 2026-01-01 before which the wall clock cannot have been set.
    #[must_use]
    pub fn earliest_wall_clock(self, since_epoch: Duration) -> Self {
        Self { earliest_wall_clock: since_epoch, ..self }
    }

    /// Before the answer.
    pub(super) async fn admit(&self, cx: &Context, kind: Restart) -> Result<(), Refusal> {
        self.outside_application(cx).await?;
        let Some(veto) = &self.veto else { return Ok(()) };
        match veto::ask(veto, cx, Question { kind, moment: Moment::Request }).await {
            Verdict::Allow | Verdict::Delay(_) => Ok(()),
            no => Err(refusal(&no)),
        }
    }

    /// After the answer, before the restart or what comes before that.
    pub(super) async fn ready(&self, cx: &Context, kind: Restart) -> Result<(), Failure> {
        self.outside_application(cx).await.map_err(failure)?;
        let Some(veto) = &self.veto else { return Ok(()) };
        let mut left = self.max_delay;
        loop {
            match veto::ask(veto, cx, Question { kind, moment: Moment::Restart }).await {
                Verdict::Allow => break,
                Verdict::Delay(_) if left.is_zero() => {
                    tracing::warn!(%kind, limit = ?self.max_delay, "the application has delayed it long enough");
                    break;
                }
                Verdict::Delay(wanted) => {
                    // A delay of nothing would ask in a circle.
                    let delay = wanted.max(SHORTEST_DELAY).min(left);
                    tracing::info!(%kind, ?delay, "the application delays it");
                    left -= delay;
                    sleep(delay).await;
                }
                no => return Err(failure(refusal(&no))),
            }
        }
        // The delay may have gone beyond the window, and others may block by now.
        if left < self.max_delay { self.outside_application(cx).await.map_err(failure) } else { Ok(()) }
    }

    /// Records a restart, with what else is to be durable then, and begins it.
    pub(super) async fn restart(
        &self,
        cx: &Context,
        kind: Restart,
        mut recorded: Vec<(String, Value)>,
    ) -> Result<Performed, Failure> {
        recorded.extend(self.limit.map(|limit| limit.record(cx, self.earliest_wall_clock)));
        if !recorded.is_empty() {
            let unrecorded = |error| Failure::new(format!("the restart could not be recorded: {error}"));
            cx.set_attributes(recorded).await.map_err(unrecorded)?;
        }
        tracing::info!(%kind, attempt = cx.attempt(), "restarting");
        let result = cx.system().restart(kind).await;
        if self.limit.is_some() && result == Ok(Performed::Complete) {
            // A dry run. One that failed counts: a command that was too slow may have restarted the machine all the
            // same. So does a dry run that could not be taken back.
            let _ = cx.set_attributes(vec![RestartLimit::withdraw(cx)]).await;
        }
        result.map_err(|error| Failure::new(error.to_string()))
    }

    /// Everybody's word but the application's.
    async fn outside_application(&self, cx: &Context) -> Result<(), Refusal> {
        let now = cx.system().wall_clock();
        if let Some(windows) = &self.windows {
            if now < self.earliest_wall_clock {
                return Err(Refusal::busy(
                    "the clock is not set: whether this is a maintenance window is not known",
                ));
            }
            if !windows.contains(now) {
                let next = iso8601(windows.next_opening(now));
                return Err(Refusal::busy(format!(
                    "no maintenance window is open; the next one opens at {next}"
                )));
            }
        }
        if let Some(limit) = &self.limit {
            limit
                .check(cx, self.earliest_wall_clock)
                .map_err(|too_many| Refusal::busy(too_many.message()))?;
        }
        match &self.logind {
            Some(logind) => logind.check(cx).await,
            None => Ok(()),
        }
    }
}

/// A "no" of the application's.
fn refusal(verdict: &Verdict) -> Refusal {
    match verdict {
        Verdict::Refuse(reason) if reason.trim().is_empty() => {
            Refusal::busy("the application refuses at present")
        }
        Verdict::Refuse(reason) => {
            let reason: String =
                reason.trim().chars().take(MAX_REASON_CHARS).flat_map(char::escape_debug).collect();
            Refusal::busy(format!("the application refuses at present: {reason}"))
        }
        Verdict::Failed(log) => Refusal::failed("the application could not be asked").log(log.as_str()),
        Verdict::Allow | Verdict::Delay(_) => unreachable!("those are no refusals"),
    }
}

/// What was a refusal before the answer is a failure after it. The platform gets its message as a log entry; what is for
/// the device's log alone goes there.
fn failure(refusal: Refusal) -> Failure {
    if let Some(log) = refusal.log_message() {
        tracing::warn!(log, "{}", refusal.message());
    }
    Failure::new(refusal.message().to_owned())
}

/// A request's name in records: 128 bits of a hash, since a reqId may have 1 KiB.
pub(super) fn request_of(cx: &Context) -> String {
    let req_id = cx.req_id().map_or("", |req_id| req_id.as_json());
    let digest = Sha256::new()
        .chain_update(cx.subject().to_string())
        .chain_update([0])
        .chain_update(req_id)
        .finalize();
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An application that finishes what it writes needs seconds; a minute leaves most of the five that a reboot has.
const DEFAULT_MAX_DELAY: Duration = Duration::from_secs(60);

/// Between two questions.
const SHORTEST_DELAY: Duration = Duration::from_secs(1);

/// 2026-01-01T00:00:00Z: a wall clock before it has not been set yet. The agent judges ages by the same time.
const EARLIEST_WALL_CLOCK: Duration = Duration::from_secs(1_767_225_600);

/// How much of an application's reason the platform is told, in characters.
const MAX_REASON_CHARS: usize = 256;
