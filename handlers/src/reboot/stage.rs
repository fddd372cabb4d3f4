//! How far a factory reset has come: what tells, after a restart, a power cut in the middle from the one at the end.

use iotdm_core::{Context, Failure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::rules::request_of;

/// A step of a factory reset, durable before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Step {
    /// The reset's own command runs, or declared paths are wiped.
    Resetting,
    /// Everything declared is gone; the command that follows runs.
    Wiped,
    /// It is done, and the restart begins.
    Restarting,
}

/// The step, and whose and of which boot it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stage {
    request: String,
    pub(super) step: Step,
    boot: String,
}

impl Stage {
    /// This request's. One of another request is a leftover; one that cannot be read tells nothing.
    pub(super) fn of(cx: &Context) -> Option<Self> {
        let stored = cx.attribute::<Value>(ATTRIBUTE).filter(|stored| !stored.is_null())?;
        match serde_json::from_value::<Self>(stored) {
            Ok(stage) => Some(stage).filter(|stage| stage.request == request_of(cx)),
            Err(error) => {
                tracing::warn!(%error, "how far the factory reset had come cannot be read");
                None
            }
        }
    }

    /// The attribute that says this request has come to this step in this boot.
    pub(super) fn at(cx: &Context, step: Step) -> (String, Value) {
        let stage = Self { request: request_of(cx), step, boot: boot_of(cx) };
        (ATTRIBUTE.to_owned(), json!(stage))
    }

    /// Makes it durable.
    pub(super) async fn reach(cx: &Context, step: Step) -> Result<(), Failure> {
        let unrecorded = |error| Failure::new(format!("the reset's progress could not be recorded: {error}"));
        cx.set_attributes(vec![Self::at(cx, step)]).await.map_err(unrecorded)
    }

    /// Forgets what a request of this name left, long ago: reqIds come back some day.
    pub(super) async fn forget(cx: &Context) -> Result<(), iotdm_core::Declined> {
        match Self::of(cx) {
            Some(_) => cx.set_attributes(vec![(ATTRIBUTE.to_owned(), Value::Null)]).await,
            None => Ok(()),
        }
    }

    /// Whether the machine was restarted since.
    pub(super) fn is_of_an_earlier_boot(&self, cx: &Context) -> bool {
        self.boot != boot_of(cx)
    }
}

fn boot_of(cx: &Context) -> String {
    cx.system().boot_id().0.to_string()
}

/// Where it stands: in the journal, beside the request itself, so that neither is ever there without the other. The
/// platform cannot set it.
const ATTRIBUTE: &str = "agent.factory_reset";
