use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::action::{Action, Phases};
use crate::event::{Event, PublishError};
use crate::reply::{Failure, Performed, Refusal, Reply};
use crate::report::Report;
use crate::req_id::ReqId;
use crate::system::System;
use crate::table::{Table, TableError};
use crate::topic::Subject;

/// Carries out an action. Implementors write plain `async fn`.
///
/// # Flow
/// 1. The request is recorded and acknowledged to the broker; then [`handle`](Self::handle) runs.
/// 2. Its answer is stored, then published. Actions that reply [`Finished`](crate::Finished) or
///    [`Changed`](crate::Changed) end here.
/// 3. Where the reply is [`Accepted`](crate::Accepted), the broker's acknowledgement of the answer starts
///    [`after_ack`](Self::after_ack).
/// 4. A restart in the middle of `after_ack` is judged by [`recover`](Self::recover).
///
/// # Guarantees
/// * A replay of a request is answered from the journal and never reaches a handler again.
/// * `handle` is started once, unless the action says [`Interrupted::RunAgain`](crate::Interrupted::RunAgain); then it
///   may be started again after a crash, and [`Context::attempt`] tells.
/// * `after_ack` starts only when the broker has the 202.
/// * A panic is caught and becomes 500, or a failure once the 202 is out.
///
/// # Assumptions
/// * A future may be dropped at any `.await`: at the end of its budget, or when the agent stops.
/// * Blocking work goes through [`Context::blocking`]; it looks at its cancellation at least once a second.
///
/// # Caveats
/// * `recover` runs at start, before the agent is connected.
///
/// # Errors
/// A [`Refusal`] is the answer; a [`Failure`] comes after the answer and is reported as a log entry of severity 2 and
/// an error code.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot carry out `{A}`",
    label = "a `Handler<{A}>` is needed here",
    note = "write `impl Handler<{A}> for {Self}` with `async fn handle(&self, cx: &Context, request: &<{A} as Action>::Request) -> Result<<{A} as Action>::Reply, Refusal>`"
)]
pub trait Handler<A: Action>: Send + Sync + 'static {
    /// Decides on a 202 action, without doing it; does the work of any other.
    fn handle(
        &self,
        cx: &Context,
        request: &A::Request,
    ) -> impl Future<Output = Result<A::Reply, Refusal>> + Send;

    /// Does what [`Accepted`](crate::Accepted) promised. A handler that replies `Accepted` and leaves it out does not
    /// compile where it is registered.
    fn after_ack(
        &self,
        _cx: &Context,
        _request: &A::Request,
    ) -> impl Future<Output = Result<Performed, Failure>> + Send {
        const {
            assert!(
                matches!(<A::Reply as Reply>::PHASES, Phases::WorkThenAnswer),
                "the action replies `Accepted` and nothing would follow: write `async fn after_ack(&self, cx: &Context, request: &<the action as Action>::Request) -> Result<Performed, Failure>` in this `impl Handler`"
            );
        }
        async { Ok(Performed::Complete) }
    }

    /// Judges, after a restart, an `after_ack` that had begun: [`Context::rebooted`] tells whether the machine has
    /// been restarted since. It has 30 seconds; a panic or a timeout counts as [`Recovery::Abandon`].
    fn recover(&self, _cx: &Context, _request: &A::Request) -> impl Future<Output = Recovery> + Send {
        async { Recovery::Abandon }
    }
}

impl<A: Action, H: Handler<A>> Handler<A> for Arc<H> {
    fn handle(
        &self,
        cx: &Context,
        request: &A::Request,
    ) -> impl Future<Output = Result<A::Reply, Refusal>> + Send {
        (**self).handle(cx, request)
    }

    fn after_ack(
        &self,
        cx: &Context,
        request: &A::Request,
    ) -> impl Future<Output = Result<Performed, Failure>> + Send {
        (**self).after_ack(cx, request)
    }

    fn recover(&self, cx: &Context, request: &A::Request) -> impl Future<Output = Recovery> + Send {
        (**self).recover(cx, request)
    }
}

/// What became of an interrupted `after_ack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// It is done.
    Done,
    /// It is not done and will not be: recorded and reported as failed.
    Abandon,
    /// It is to be done again, within the action's attempts, and unless it is too late by then
    /// ([`Late`](crate::Late)).
    RunAgain,
    /// It began in time and has left something half done: `after_ack` is called again to bring that to its end, within
    /// the action's attempts, however late it is by then.
    Resume,
}

/// Several actions that share state, registered in one go.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a bundle of actions",
    note = "write `on::<TheAction>(…)` for a handler of one action; `with` takes a `Bundle` of several"
)]
pub trait Bundle {
    /// Puts the actions into the table.
    fn register(self, table: &mut Table) -> Result<(), TableError>;
}

/// All a handler sees of the agent.
#[derive(Clone)]
pub struct Context {
    parts: Arc<ContextParts>,
}

/// What the agent makes a [`Context`] of; a test of a handler makes its own.
pub struct ContextParts {
    /// The request.
    pub req_id: Option<ReqId>,
    /// Whose request it is.
    pub subject: Subject,
    /// Which start of the work this is, from 1.
    pub attempt: u32,
    /// When the budget ends.
    pub deadline: Instant,
    /// Whether the machine was restarted since `after_ack` began.
    pub rebooted: bool,
    /// Set when the work is to stop.
    pub cancellation: CancellationToken,
    /// The machine.
    pub system: Arc<dyn System>,
    /// The agent.
    pub services: Arc<dyn Services>,
}

/// What the agent does for a running handler.
#[async_trait]
pub trait Services: Send + Sync + 'static {
    /// An attribute's current value.
    fn attribute(&self, name: &str) -> Option<Value>;
    /// Sets attributes in one durable step; each observed one that changed is notified in one message.
    async fn set_attributes(&self, changes: Vec<(String, Value)>) -> Result<(), Declined>;
    /// Queues a report durably.
    async fn report(&self, report: Report) -> Result<(), Declined>;
    /// Publishes an event. An agent that has no events declines it.
    async fn publish(&self, _event: Event) -> Result<(), PublishError> {
        Err(Declined::Unsupported.into())
    }
    /// Waits until the platform has answered manage of the present connection with 200; returns at once when it has.
    /// An agent that does not know never says so.
    async fn managed(&self) {
        std::future::pending().await
    }
    /// Runs work on a thread that may block. The request's place stays taken until it has ended.
    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>);
}

/// Why the agent did not do what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Declined {
    /// It is stopping.
    #[error("the agent is stopping")]
    Stopping,
    /// It is more than a message or the device model may hold: asking again changes nothing.
    #[error("it is larger than a message or the device model may hold")]
    OutOfBounds,
    /// A value does not fit the type of its attribute, or is outside its range: asking again changes nothing. The log
    /// says which and why.
    #[error("a value does not fit its attribute")]
    Misfit,
    /// As much is stored as may be, and what is stored has precedence.
    #[error("as much is stored as may be")]
    Full,
    /// There is no connection that could take it, and it was not to be stored.
    #[error("there is no connection, and it was not to be stored")]
    NotConnected,
    /// Whoever this device is connected to has no place for it.
    #[error("the service that this device is connected to does not take it")]
    Unsupported,
}

impl From<Declined> for Failure {
    fn from(declined: Declined) -> Self {
        Self::new(declined.to_string())
    }
}

impl From<Declined> for Refusal {
    fn from(declined: Declined) -> Self {
        Self::failed(declined.to_string())
    }
}

impl Context {
    /// A context of these parts.
    pub fn new(parts: ContextParts) -> Self {
        Self { parts: Arc::new(parts) }
    }

    /// The request's identifier; none for a request that wants no answer.
    pub fn req_id(&self) -> Option<&ReqId> {
        self.parts.req_id.as_ref()
    }

    /// Whose request it is: the connected device, or one that a gateway speaks for.
    pub fn subject(&self) -> &Subject {
        &self.parts.subject
    }

    /// Which start of this work it is: 1, and more after each crash.
    pub fn attempt(&self) -> u32 {
        self.parts.attempt
    }

    /// How much of the budget is left.
    pub fn remaining(&self) -> Duration {
        self.parts.deadline.saturating_duration_since(Instant::now())
    }

    /// In [`Handler::recover`]: whether the machine was restarted since `after_ack` began.
    pub fn rebooted(&self) -> bool {
        self.parts.rebooted
    }

    /// Set when the work is to stop: its budget is over, the device restarts, or the agent does.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.parts.cancellation
    }

    /// The machine.
    pub fn system(&self) -> &dyn System {
        &*self.parts.system
    }

    /// An attribute's current value; `None` when it has none or holds something else.
    pub fn attribute<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.parts.services.attribute(name)?).ok()
    }

    /// Sets one attribute durably; see [`set_attributes`](Self::set_attributes).
    pub async fn set_attribute<T: Serialize + Sync>(&self, name: &str, value: &T) -> Result<(), Failure> {
        let value = serde_json::to_value(value).map_err(|error| Failure::new(error.to_string()))?;
        Ok(self.set_attributes(vec![(name.to_owned(), value)]).await?)
    }

    /// Sets attributes in one durable step. Observed ones that changed are notified, each in one message.
    pub async fn set_attributes(&self, changes: Vec<(String, Value)>) -> Result<(), Declined> {
        self.parts.services.set_attributes(changes).await
    }

    /// Queues a report to the platform; on return it is durable.
    pub async fn report(&self, report: Report) -> Result<(), Declined> {
        self.parts.services.report(report).await
    }

    /// Publishes an event; on return it is durable, or, at QoS 0, handed to the connection.
    pub async fn publish(&self, event: Event) -> Result<(), PublishError> {
        self.parts.services.publish(event).await
    }

    /// Waits until the platform manages the device on the present connection (`docs/protocol.md` §6.1); returns at
    /// once when it does. It may never happen: give it a limit. [`Handler::recover`] runs before the connection, so
    /// that waiting there is in vain.
    pub async fn managed(&self) {
        self.parts.services.managed().await;
    }

    /// Runs blocking work on a thread of its own. The work looks at the token at least once a second: the request's
    /// place, and the agent's stop, wait for it.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CancellationToken) -> T + Send + 'static,
    ) -> T {
        let (sender, receiver) = oneshot::channel();
        let cancellation = self.parts.cancellation.clone();
        self.parts.services.spawn_blocking(Box::new(move || {
            // Nobody may be waiting any more: the handler's future was dropped.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(|| work(&cancellation))));
        }));
        match receiver.await.expect("blocking work always sends, also when it panics") {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("req_id", &self.parts.req_id)
            .field("subject", &self.parts.subject)
            .field("attempt", &self.parts.attempt)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ContextParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextParts").field("req_id", &self.req_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
