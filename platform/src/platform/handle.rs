use bytes::Bytes;
use iotdm_core::ReqId;
use tokio::sync::watch;

use crate::space::DeviceName;
use crate::track::{Answer, Key, Outcome, Stage, Tracked};

/// One request of one device, from its initiation to its end. It can be kept after both.
#[derive(Clone, Debug)]
pub struct RequestHandle {
    pub(super) key: Key,
    pub(super) suffix: String,
    pub(super) payload: Bytes,
    pub(super) tracked: watch::Receiver<Tracked>,
}

impl RequestHandle {
    /// The device.
    #[must_use]
    pub const fn device(&self) -> &DeviceName {
        &self.key.0
    }

    /// Its id.
    #[must_use]
    pub const fn req_id(&self) -> &ReqId {
        &self.key.1
    }

    /// The suffix of its topic.
    #[must_use]
    pub fn suffix(&self) -> &str {
        &self.suffix
    }

    /// How far it has come.
    #[must_use]
    pub fn snapshot(&self) -> Tracked {
        self.tracked.borrow().clone()
    }

    /// Waits for the first answer; `None` when the request ended without one. An answer after that end is in the
    /// [`snapshot`](Self::snapshot).
    pub async fn answered(&self) -> Option<Answer> {
        self.until(|tracked| tracked.answer.is_some() || !tracked.is_open()).await.answer
    }

    /// Waits until it was answered this many times; `false` when the platform was dropped before.
    pub async fn answered_times(&self, times: u32) -> bool {
        self.until(|tracked| tracked.answers >= times).await.answers >= times
    }

    /// Waits until a firmware request has only its cancel left; whether it came so far.
    pub async fn reached(&self) -> bool {
        let reached = |tracked: &Tracked| tracked.stage == Stage::Reached || !tracked.is_open();
        matches!(self.until(reached).await.stage, Stage::Reached | Stage::Ended(Outcome::Complete))
    }

    /// Waits for its end.
    pub async fn completed(&self) -> Outcome {
        // The platform was dropped, and with it the request.
        self.until(|tracked| !tracked.is_open()).await.outcome().unwrap_or(Outcome::GivenUp)
    }

    pub(super) const fn key(&self) -> &Key {
        &self.key
    }

    /// The first state that satisfies the condition, or the last one there will be.
    async fn until(&self, condition: impl FnMut(&Tracked) -> bool) -> Tracked {
        let mut tracked = self.tracked.clone();
        let found = tracked.wait_for(condition).await.map(|found| found.clone());
        found.unwrap_or_else(|_| self.snapshot())
    }
}
