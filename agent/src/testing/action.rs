//! The one-line test of an action: what its declaration promises, proven with its own handler.
//!
//! ```
//! use iotdm_agent::testing::action::action;
//! use iotdm_core::{Action, Context, Finished, Handler, Interrupted, Refusal, Route};
//! use serde_json::json;
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! struct Level {
//!     #[schemars(range(max = 100))]
//!     percent: u8,
//! }
//!
//! struct Dim;
//! impl Action for Dim {
//!     const ROUTE: Route = Route::custom("lamp", "dim");
//!     const INTERRUPTED: Interrupted = Interrupted::RunAgain;
//!     type Request = Level;
//!     type Reply = Finished<()>;
//! }
//!
//! struct Lamp;
//! impl Handler<Dim> for Lamp {
//!     async fn handle(&self, _: &Context, _: &Level) -> Result<Finished<()>, Refusal> {
//!         Ok(Finished(()))
//!     }
//! }
//!
//! // In a product this is the body of a plain `#[test]`.
//! action::<Dim, _>(|| Lamp).proves(json!({"percent": 40}));
//! ```
//!
//! It needs the feature `testing`; [the bench's page](super) has the lines for `Cargo.toml`.
//!
//! # What is proven
//! | situation | what has to come of it |
//! |---|---|
//! | the request, its values as texts like the platform's | the code of [`Action::Reply`], within [`Action::BUDGET`]; [`Accepted`](iotdm_core::Accepted) is followed by work that succeeds |
//! | a needed member left out, a value of another type or out of its bounds | 400 that names the member, and the handler is not started |
//! | the same request again, at once and after a restart | the same answer, and the handler is not started |
//! | a crash before `handle` has begun its work, or before its answer is stored | what [`Action::INTERRUPTED`] says: 500, or a second start that gives the same code |
//! | a crash when the answer has been sent | the answer once more, and no second start |
//! | a crash or a power cut around `after_ack` | `recover` judges, and what it starts again comes to its end |
//! | work that does not end | 500 after [`Action::BUDGET`]; a failed `after_ack` after [`Action::PERFORM_BUDGET`] |
//! | a request that waited while the device was away | what [`Action::LATE`] says: 409, or it runs |
//! | twenty random [histories](super::histories) | their laws |
//!
//! So a handler that calls itself repeatable and says no the second time is found, one that needs longer than its
//! budget, one whose `recover` repeats for ever what restarts the machine.
//!
//! # Caveats
//! * A handler lives through its whole situation, crashes included: what it keeps in memory counts as the hardware.
//!   Where that matters, [histories](super::histories) tell the two apart.
//! * The clock is tokio's, and paused; there are no sockets, and the machine has no programs.

mod bench;
mod bodies;
mod probe;
mod situations;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use iotdm_core::{Action, Handler, Policy, Reply, Route};
use serde_json::{Value, json};

use self::bench::Bench;
use self::situations::Situation;
use super::histories::Histories;
use crate::Builder;

/// The test of an action; `handler` makes the handler of each situation.
pub fn action<A: Action, H: Handler<A>>(handler: impl Fn() -> H + 'static) -> ActionTest<A, H> {
    ActionTest { handler: Arc::new(handler), action: PhantomData }
}

/// An action and its handler, to be proven.
pub struct ActionTest<A, H> {
    handler: Arc<dyn Fn() -> H>,
    action: PhantomData<fn() -> A>,
}

impl<A: Action, H: Handler<A>> ActionTest<A, H> {
    /// Proves the declaration with one request that the handler takes: for a custom action its parameters as one object,
    /// for any other its `d`; `null` for none.
    ///
    /// # Panics
    /// Where the handler and its declaration differ: with the situation, what was expected, and what happened. Also
    /// inside of an asynchronous runtime.
    pub fn proves(&self, example: Value) {
        for situation in Situation::ALL {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime without I/O can be made");
            if let Some(found) = runtime.block_on(self.live_through(situation, &example)) {
                panic!("{found}");
            }
        }
        let handler = self.handler.clone();
        Histories::of(move |_| Arc::new(handler()), |handler, builder| builder.on::<A>(handler.clone()))
            .request(1, A::ROUTE, as_sent(&A::ROUTE, &example))
            .check(HISTORIES);
    }

    /// What was found, and its story.
    async fn live_through(&self, situation: Situation, example: &Value) -> Option<String> {
        let handler = Arc::new((self.handler)());
        let register = move |builder: Builder| builder.on::<A>(handler.clone());
        let declared = (A::ROUTE, Policy::of::<A>(), <A::Reply as Reply>::CODE.as_u16());
        let mut bench = Bench::new(declared, &register, example).await;
        let found = situation.prove(&mut bench).await.err()?;
        Some(format!("{}: {situation}: {found}\nwhat happened:\n{}", A::ROUTE, bench.story()))
    }
}

impl<A: Action, H> fmt::Debug for ActionTest<A, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActionTest({})", A::ROUTE)
    }
}

/// A request's `d` as the platform sends it: the parameters of a custom action are texts (`docs/protocol.md` §5.6).
fn as_sent(route: &Route, example: &Value) -> Value {
    let (Route::Custom { .. }, Value::Object(parameters)) = (route, example) else { return example.clone() };
    let fields = parameters.iter().map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        json!({"field": name, "value": text})
    });
    json!({"fields": fields.collect::<Vec<_>>()})
}

/// Enough to meet each kind of crash several times, in some tenths of a second.
const HISTORIES: u64 = 20;

#[cfg(test)]
mod tests;
