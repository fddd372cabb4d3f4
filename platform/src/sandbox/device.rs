//! What the sandbox's device can do: restart, firmware, and two custom actions of a lamp.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use iotdm_core::{
    Accepted, Action, Context, Empty, Failure, Finished, Handler, Interrupted, Performed, Reboot, Recovery,
    Refusal, ReqId, Route,
};
use iotdm_handlers::Restarts;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How often each request was carried out: the evidence for "runs once".
#[derive(Clone, Debug, Default)]
pub(super) struct Runs(Arc<Mutex<BTreeMap<ReqId, u32>>>);

impl Runs {
    fn count(&self, cx: &Context) {
        if let Some(req_id) = cx.req_id() {
            let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if runs.len() < RUNS_LIMIT || runs.contains_key(req_id) {
                *runs.entry(req_id.clone()).or_default() += 1;
            }
        }
    }

    pub(super) fn of(&self, req_id: &ReqId) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(req_id).copied().unwrap_or(0)
    }
}

/// The library's reboot, counted.
pub(super) struct CountedReboot(pub(super) Runs);

impl Handler<Reboot> for CountedReboot {
    async fn handle(&self, cx: &Context, request: &Empty) -> Result<Accepted, Refusal> {
        Handler::<Reboot>::handle(&Restarts, cx, request).await
    }

    async fn after_ack(&self, cx: &Context, request: &Empty) -> Result<Performed, Failure> {
        self.0.count(cx);
        Handler::<Reboot>::after_ack(&Restarts, cx, request).await
    }

    async fn recover(&self, cx: &Context, request: &Empty) -> Recovery {
        Handler::<Reboot>::recover(&Restarts, cx, request).await
    }
}

/// Sets the lamp's brightness.
pub(super) struct Dim;

/// The parameters of [`Dim`].
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct DimRequest {
    /// 0 to 100; parameters travel as text (`docs/protocol.md` §5.6).
    level: String,
}

/// The lamp as the platform sees it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LampState {
    level: u8,
}

impl Action for Dim {
    const ROUTE: Route = Route::custom("lamp", "dim");
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    type Request = DimRequest;
    type Reply = Finished<LampState>;
}

/// Tests the lamp, and takes far longer than it may.
pub(super) struct SelfTest;

impl Action for SelfTest {
    const ROUTE: Route = Route::custom("lamp", "selfTest");
    const BUDGET: Duration = Duration::from_secs(1);
    type Request = Empty;
    type Reply = Finished<()>;
}

/// Carries out the lamp's actions.
pub(super) struct Lamp(pub(super) Runs);

impl Handler<Dim> for Lamp {
    async fn handle(&self, cx: &Context, request: &DimRequest) -> Result<Finished<LampState>, Refusal> {
        self.0.count(cx);
        let level = request.level.parse().ok().filter(|level| *level <= FULL);
        let level = level.ok_or(Refusal::bad_request("level: a number from 0 to 100 is needed"))?;
        let state = LampState { level };
        cx.set_attribute("lamp", &state).await.map_err(|failure| Refusal::failed(failure.to_string()))?;
        Ok(Finished(state))
    }
}

impl Handler<SelfTest> for Lamp {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        self.0.count(cx);
        // Its budget ends long before; a well-behaved handler then ends at once, any other is dropped a little later.
        tokio::select! {
            () = tokio::time::sleep(TEST_TIME) => Ok(Finished(())),
            () = cx.cancellation().cancelled() => Err(Refusal::failed("the self test was ended")),
        }
    }
}

/// Full brightness, in percent.
const FULL: u8 = 100;

/// How long the self test would take.
const TEST_TIME: Duration = Duration::from_secs(3_600);

/// Requests that are counted: more than a person sends in `--stay`.
const RUNS_LIMIT: usize = 100_000;
