use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use iotdm_core::{
    Accepted, Context, Declined, Download, Empty, Failure, FirmwareState, Handler, Performed, Recovery,
    Refusal, UpdateStatus,
};
use tokio::time::{Instant, sleep_until};

use super::image::Image;
use super::state::{self, Fault};
use super::transfer::{Attempt, End, Outcome, Told, storage};
use super::verify::Verdict;
use super::{Running, Shared};

/// `Handler<Download>`.
pub(super) struct Downloads {
    shared: Arc<Shared>,
}

impl Downloads {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Whether this device waits for a download: in state 0, or in a state that is not true any more.
    async fn is_ready(&self, cx: &Context, state: FirmwareState, image: &Image) -> bool {
        match state {
            FirmwareState::Idle => true,
            FirmwareState::Downloading => self.shared.occupy().is_some(),
            FirmwareState::Downloaded => !self.shared.holds(cx, image).await,
        }
    }
}

impl Handler<Download> for Downloads {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        let firmware = state::current(cx);
        let image = Image::described_by(&firmware, &self.shared.options).map_err(Refusal::bad_request)?;
        if !self.is_ready(cx, firmware.state, &image).await {
            let number = u8::from(firmware.state);
            return Err(Refusal::bad_request(format!(
                "mgmt.firmware.state is {number} ({}); a download starts from 0 (idle)",
                word(firmware.state)
            )));
        }
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        let running = self.shared.occupy().ok_or(Failure::new(OCCUPIED))?;
        let image = match Image::judge(&state::current(cx), &self.shared.options) {
            Ok(image) => image,
            // It was changed since the answer, or the configuration was.
            Err(fault) => return Err(state::fail(cx, &fault).await),
        };
        state::change(cx, FirmwareState::Downloading, UpdateStatus::Success).await?;
        let told = Arc::default();
        let work = Work { shared: self.shared.clone(), running, image, until: last_moment(cx), told };
        match work.obtain(cx).await {
            Ok(()) if !work.is_still_wanted(cx) => {
                let reason = "mgmt.firmware was changed while its image was fetched";
                Err(state::fail(cx, &Fault::new(UpdateStatus::VerificationFailed, reason)).await)
            }
            Ok(()) => {
                state::change(cx, FirmwareState::Downloaded, UpdateStatus::Success).await?;
                tracing::info!(image = work.image.place(), "firmware: downloaded");
                Ok(Performed::Complete)
            }
            // The state stays 1: the next start, or the next download, goes on behind what is here.
            Err(Stop::Interrupted) => Err(Failure::new("the download was interrupted")),
            Err(Stop::Fault(fault)) => {
                let failure = state::fail(cx, &fault).await;
                work.drop_useless(cx, fault.status).await;
                Err(failure)
            }
        }
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        let firmware = state::current(cx);
        let image = Image::described_by(&firmware, &self.shared.options);
        match (firmware.state, image) {
            (FirmwareState::Downloaded, Ok(image)) if self.shared.holds(cx, &image).await => Recovery::Done,
            _ => Recovery::RunAgain,
        }
    }
}

/// One download, from the first attempt to the proved image.
struct Work {
    shared: Arc<Shared>,
    running: Running,
    image: Image,
    /// When to give up, so that there is time left to say so.
    until: Instant,
    told: Arc<Told>,
}

/// Why there is no image.
enum Stop {
    Fault(Fault),
    Interrupted,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Fault(storage(error))
    }
}

impl From<Declined> for Stop {
    fn from(_: Declined) -> Self {
        Self::Interrupted
    }
}

impl Work {
    async fn obtain(&self, cx: &Context) -> Result<(), Stop> {
        if self.is_here(cx).await? {
            return Ok(());
        }
        if self.image.verifier.is_none() {
            // Without a checksum nothing would show that a power cut damaged what an earlier run left.
            self.remove_part(cx).await?;
        }
        let mut tries = Tries::default();
        loop {
            let outcome = self.attempt(cx).await;
            tries.resumed |= outcome.resumed;
            let length = outcome.length;
            let (reason, asked) = match outcome.end {
                End::Complete => match self.prove_part(cx).await? {
                    true => return Ok(()),
                    // What an earlier run left may be damaged, and a server may not keep its word about ranges.
                    false if tries.resumed && !tries.repeated => {
                        tries = Tries { repeated: true, ..Tries::default() };
                        continue;
                    }
                    false => return Err(self.different().into()),
                },
                End::Fault(fault) => return Err(fault.into()),
                End::Stopped if cx.cancellation().is_cancelled() => return Err(Stop::Interrupted),
                End::Stopped => return Err(lost("it was not complete in its time").into()),
                End::StartOver(reason) => {
                    self.remove_part(cx).await?;
                    (reason, Duration::ZERO)
                }
                End::Lost(reason) => (reason, Duration::ZERO),
                End::Busy(reason, asked) => (reason, asked.min(LONGEST_ASKED)),
            };
            tries.note(length);
            if tries.fruitless >= self.shared.options.fruitless_attempts {
                return Err(lost(&reason).into());
            }
            self.pause(cx, asked + backoff(tries.fruitless, cx), &reason).await?;
        }
    }

    /// Whether an earlier run left the image complete and proved.
    async fn is_here(&self, cx: &Context) -> Result<bool, Stop> {
        if !self.shared.holds(cx, &self.image).await {
            return Ok(false);
        }
        match self.shared.prove(cx, &self.image, &self.running, self.shared.staging.image()).await? {
            Verdict::Genuine => Ok(true),
            Verdict::Different => {
                let staging = self.shared.staging.clone();
                self.blocking(cx, move || staging.remove_image()).await?;
                Ok(false)
            }
            Verdict::Stopped => Err(Stop::Interrupted),
        }
    }

    /// One attempt, which the end of the time stops as the token does.
    async fn attempt(&self, cx: &Context) -> Outcome {
        let stop = cx.cancellation().child_token();
        // Also when this future is dropped: the thread has to see it.
        let _stop_at_end = stop.clone().drop_guard();
        let attempt = Attempt {
            shared: self.shared.clone(),
            cx: cx.clone(),
            image: self.image.clone(),
            stop: stop.clone(),
            told: self.told.clone(),
        };
        let mut outcome = std::pin::pin!(self.blocking(cx, move || attempt.run()));
        tokio::select! {
            biased;
            outcome = &mut outcome => outcome,
            () = sleep_until(self.until) => {
                stop.cancel();
                outcome.await
            }
        }
    }

    /// Proves the part and makes it the image; one that is another image is removed.
    async fn prove_part(&self, cx: &Context) -> Result<bool, Stop> {
        let staging = self.shared.staging.clone();
        match self.shared.prove(cx, &self.image, &self.running, staging.part()).await? {
            Verdict::Genuine => {
                self.blocking(cx, move || staging.complete()).await?;
                Ok(true)
            }
            Verdict::Different => {
                self.remove_part(cx).await?;
                Ok(false)
            }
            Verdict::Stopped => Err(Stop::Interrupted),
        }
    }

    async fn remove_part(&self, cx: &Context) -> io::Result<()> {
        let staging = self.shared.staging.clone();
        self.blocking(cx, move || staging.remove_part()).await
    }

    /// Whether the model still describes this image.
    fn is_still_wanted(&self, cx: &Context) -> bool {
        Image::described_by(&state::current(cx), &self.shared.options).as_ref() == Ok(&self.image)
    }

    async fn pause(&self, cx: &Context, pause: Duration, reason: &str) -> Result<(), Stop> {
        let until = Instant::now() + pause;
        if until >= self.until {
            return Err(lost(reason).into());
        }
        if self.told.pause_is_due(cx.system().uptime()) {
            tracing::info!(reason, seconds = pause.as_secs_f32(), "firmware: fetching goes on after a pause");
        }
        tokio::select! {
            () = sleep_until(until) => Ok(()),
            () = cx.cancellation().cancelled() => Err(Stop::Interrupted),
        }
    }

    /// A part of a lost transfer is what the next download goes on with; everything else is of no use.
    async fn drop_useless(&self, cx: &Context, status: UpdateStatus) {
        if status != UpdateStatus::ConnectionLost {
            let staging = self.shared.staging.clone();
            self.blocking(cx, move || staging.clear()).await;
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        cx: &Context,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.shared.blocking(cx, &self.running, move |_| work()).await
    }

    fn different(&self) -> Fault {
        Fault::new(UpdateStatus::VerificationFailed, "the image is not the one that the verifier names")
    }
}

/// How the attempts went so far.
#[derive(Default)]
struct Tries {
    /// Whether the part begins with what an earlier attempt left.
    resumed: bool,
    /// Whether a whole image was different already, and this is the second one.
    repeated: bool,
    /// How far the part has ever come.
    furthest: u64,
    /// Attempts in a row that did not get further.
    fruitless: u32,
}

impl Tries {
    fn note(&mut self, length: u64) {
        if length > self.furthest {
            self.furthest = length;
            self.fruitless = 0;
        } else {
            self.fruitless += 1;
        }
    }
}

fn lost(reason: &str) -> Fault {
    Fault::new(UpdateStatus::ConnectionLost, format!("the image could not be fetched: {reason}"))
}

/// 1 s, doubled with each fruitless attempt, at most a minute; between half of that and all of it, so that a fleet
/// that lost its server does not come back in step. Made of the request's identifier: a test replays it.
fn backoff(fruitless: u32, cx: &Context) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << fruitless.min(MAX_DOUBLINGS)).min(LONGEST_PAUSE);
    let mut hasher = DefaultHasher::new();
    (cx.req_id(), cx.subject(), fruitless).hash(&mut hasher);
    let share = (hasher.finish() % 1000) as f64 / 1000.0;
    whole.mul_f64(0.5 + share / 2.0)
}

fn last_moment(cx: &Context) -> Instant {
    let remaining = cx.remaining();
    Instant::now() + (remaining - CLOSING_TIME.min(remaining / 10))
}

fn word(state: FirmwareState) -> &'static str {
    match state {
        FirmwareState::Idle => "idle",
        FirmwareState::Downloading => "downloading",
        FirmwareState::Downloaded => "downloaded",
    }
}

/// What a second firmware action gets while one runs.
pub(super) const OCCUPIED: &str = "another firmware action is running";

/// Pause after the first attempt that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Longest pause that a server may ask for with `Retry-After`; ours comes on top, so that a fleet does not return in
/// step. One that asks for more is asked again after this, and counted as fruitless each time.
const LONGEST_ASKED: Duration = Duration::from_secs(15 * 60);

/// 2^6 seconds is beyond the longest pause.
const MAX_DOUBLINGS: u32 = 6;

/// Kept back from the budget to prove the image and to report; a tenth of the budget when that is less.
const CLOSING_TIME: Duration = Duration::from_secs(60);

#[cfg(test)]
mod causes;
#[cfg(test)]
mod tests;
