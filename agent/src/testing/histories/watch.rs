//! Around each handler: every start and every end is written down, and blocking work is done on the spot.

use std::sync::Arc;

use async_trait::async_trait;
use iotdm_core::{
    Context, ContextParts, Decision, Declined, Erased, ExtensionAction, Failure, Performed, Recovery,
    Refusal, Report, Route, Services, Table,
};
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::machine::Machine;
use super::record::{Event, Log, Outcome, Part, Work};

tokio::task_local! {
    /// The handler that runs in this task.
    static RUNNING: Work;
}

/// The handler on whose behalf this is called; `None` outside of handlers.
pub(super) fn running() -> Option<Work> {
    RUNNING.try_with(Clone::clone).ok()
}

/// Puts a watcher around every handler.
pub(super) fn watch(table: &mut Table, machine: &Machine, log: &Log) {
    table.wrap(|route, handler| {
        Arc::new(Watched { route: route.clone(), handler, machine: machine.clone(), log: log.clone() })
    });
}

struct Watched {
    route: Route,
    handler: Arc<dyn Erased>,
    machine: Machine,
    log: Log,
}

/// The agent as a handler sees it, except that blocking work is done on the spot: on threads its order would differ
/// from run to run. Once the machine or the process has died, nothing is done any more, until the handler is dropped.
struct OnTheSpot {
    cx: Context,
    machine: Machine,
}

/// Written down as dropped unless it has returned.
struct Started<'a> {
    log: &'a Log,
    work: Option<Work>,
}

impl Watched {
    fn context(&self, cx: &Context) -> Context {
        Context::new(ContextParts {
            req_id: cx.req_id().cloned(),
            subject: cx.subject().clone(),
            attempt: cx.attempt(),
            deadline: Instant::now() + cx.remaining(),
            rebooted: cx.rebooted(),
            cancellation: cx.cancellation().clone(),
            system: Arc::new(self.machine.clone()),
            services: Arc::new(OnTheSpot { cx: cx.clone(), machine: self.machine.clone() }),
        })
    }

    async fn run<T>(
        &self,
        cx: &Context,
        part: Part,
        future: impl Future<Output = T>,
        outcome: impl FnOnce(&T) -> Outcome,
    ) -> T {
        let req_id = cx.req_id().map(|id| id.as_json().to_owned()).unwrap_or_default();
        let work = Work { req_id, route: self.route.clone(), part, attempt: cx.attempt() };
        self.log.push(Event::Started(work.clone()));
        let mut started = Started { log: &self.log, work: Some(work.clone()) };
        let result = RUNNING.scope(work, future).await;
        if let Some(work) = started.work.take() {
            self.log.push(Event::Returned(work, outcome(&result)));
        }
        result
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.log.push(Event::Dropped(work));
        }
    }
}

#[async_trait]
impl Services for OnTheSpot {
    fn attribute(&self, name: &str) -> Option<Value> {
        self.cx.attribute(name)
    }

    async fn set_attributes(&self, changes: Vec<(String, Value)>) -> Result<(), Declined> {
        self.machine.unless_dead().await;
        self.cx.set_attributes(changes).await
    }

    async fn report(&self, report: Report) -> Result<(), Declined> {
        self.machine.unless_dead().await;
        self.cx.report(report).await
    }

    async fn managed(&self) {
        self.machine.unless_dead().await;
        self.cx.managed().await;
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        if let Some(work) = self.machine.hold_if_dead(work) {
            work();
        }
    }
}

#[async_trait]
impl Erased for Watched {
    async fn handle(&self, cx: &Context, d: Option<&RawValue>) -> Decision {
        let cx = self.context(cx);
        self.run(&cx, Part::Handle, self.handler.handle(&cx, d), Outcome::of_decision).await
    }

    async fn after_ack(&self, cx: &Context, d: Option<&RawValue>) -> Result<Performed, Failure> {
        let cx = self.context(cx);
        self.run(&cx, Part::AfterAck, self.handler.after_ack(&cx, d), Outcome::of_work).await
    }

    async fn recover(&self, cx: &Context, d: Option<&RawValue>) -> Recovery {
        let judged = |recovery: &Recovery| Outcome::Judged(*recovery);
        self.run(cx, Part::Recover, self.handler.recover(&self.context(cx), d), judged).await
    }

    fn check(&self, d: Option<&RawValue>) -> Result<(), Refusal> {
        self.handler.check(d)
    }

    fn describe(&self, id: &str) -> ExtensionAction {
        self.handler.describe(id)
    }

    fn schemas(&self, generator: &mut SchemaGenerator) -> (Schema, Option<Schema>) {
        self.handler.schemas(generator)
    }
}
