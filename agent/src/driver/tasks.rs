use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use iotdm_core::{
    Context, ContextParts, Decision, Erased, Failure, Performed, Recovery, Refusal, ReqId, Route, Subject,
    System, Table,
};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, info_span, warn};

use crate::engine::{KeyHash, Task, TaskMoment};

use super::services::{Handle, TaskServices};

/// What a task tells the driver.
#[derive(Debug)]
pub(super) enum TaskEvent {
    Decided(KeyHash, Decision),
    Performed(KeyHash, Result<Performed, Failure>),
    Recovered(KeyHash, Recovery),
    /// The task and all blocking work it started have ended.
    Ended(KeyHash),
}

/// The handlers that run.
pub(super) struct Tasks {
    table: Arc<Table>,
    system: Arc<dyn System>,
    handle: Handle,
    events: mpsc::UnboundedSender<(Subject, TaskEvent)>,
    running: BTreeMap<KeyHash, Running>,
    all: TaskTracker,
}

/// The two ways to end a task.
struct Running {
    of: Subject,
    cancellation: CancellationToken,
    abort: AbortHandle,
}

impl Drop for Tasks {
    // A driver that is dropped has crashed, and handlers do not outlive a crash.
    fn drop(&mut self) {
        for task in self.running.values() {
            task.cancellation.cancel();
            task.abort.abort();
        }
    }
}

impl Tasks {
    pub(super) fn new(
        table: Arc<Table>,
        system: Arc<dyn System>,
        handle: Handle,
        events: mpsc::UnboundedSender<(Subject, TaskEvent)>,
    ) -> Self {
        Self { table, system, handle, events, running: BTreeMap::new(), all: TaskTracker::new() }
    }

    /// Tasks that start from here on have these handlers.
    pub(super) fn replace(&mut self, table: Arc<Table>) {
        self.table = table;
    }

    /// Starts a task of the agent's own device.
    pub(super) fn start(&mut self, task: Task) {
        let (table, system, handle) = (self.table.clone(), self.system.clone(), self.handle.clone());
        self.start_with(task, &table, system, handle);
    }

    /// Starts a task of any device.
    pub(super) fn start_with(&mut self, task: Task, table: &Table, system: Arc<dyn System>, handle: Handle) {
        let cancellation = CancellationToken::new();
        let (key, cancelled) = (task.key, cancellation.clone());
        let blocking = TaskTracker::new();
        let cx = Context::new(ContextParts {
            req_id: Some(task.req_id.clone()),
            subject: task.subject.clone(),
            attempt: task.attempt,
            deadline: Instant::now() + task.budget,
            rebooted: task.rebooted,
            cancellation: cancellation.clone(),
            system,
            services: Arc::new(TaskServices { handle, blocking: blocking.clone() }),
        });
        let handler = table.handler(&task.route).expect("the engine starts only what the table has");
        let events = self.events.clone();
        let span = request_span(&task);
        let subject = task.subject.clone();
        let of = subject.clone();
        let run = async move {
            let key = task.key;
            let ended = async {
                cancellation.cancelled().await;
                sleep(CANCEL_GRACE).await;
            };
            let watched = Watched {
                work: run(&*handler, &cx, &task).boxed(),
                req_id: &task.req_id,
                route: &task.route,
            };
            let outcome = async {
                tokio::select! {
                    biased;
                    event = watched => Some(event),
                    () = ended => None,
                }
            };
            // A future may panic when it is dropped, too; its place and its lane must be free again all the same.
            let event = AssertUnwindSafe(outcome).catch_unwind().await.unwrap_or_else(|panic| {
                warn!("the handler panicked when it was dropped: {}", panic_message(&*panic));
                None
            });
            // The driver may have ended with the engine that asked.
            let _ = event.map(|event| events.send((of.clone(), event)));
            drop(cx);
            blocking.close();
            blocking.wait().await;
            let _ = events.send((of, TaskEvent::Ended(key)));
        };
        let abort = self.all.spawn(run.instrument(span)).abort_handle();
        self.running.insert(key, Running { of: subject, cancellation: cancelled, abort });
    }

    /// Tells a task to stop; a little later its future is dropped.
    pub(super) fn cancel(&mut self, key: KeyHash) {
        if let Some(task) = self.running.get(&key) {
            task.cancellation.cancel();
        }
    }

    /// Tells every task of a device to stop.
    pub(super) fn cancel_all_of(&mut self, of: &Subject) {
        for task in self.running.values().filter(|task| task.of == *of) {
            task.cancellation.cancel();
        }
    }

    /// Whether a task of this device has not ended.
    pub(super) fn has_any_of(&self, of: &Subject) -> bool {
        self.running.values().any(|task| task.of == *of)
    }

    pub(super) fn ended(&mut self, key: KeyHash) {
        self.running.remove(&key);
    }

    /// Ends every task and waits until it has ended, blocking work included: what comes after may start the same work.
    pub(super) async fn end_all(&mut self) {
        for task in self.running.values() {
            task.cancellation.cancel();
        }
        self.all.close();
        while timeout(STILL_WAITING_EVERY, self.all.wait()).await.is_err() {
            warn!(tasks = self.all.len(), "waiting for handlers that do not look at their cancellation");
        }
    }
}

/// What a request's log lines have in common. A device that is alone on its connection needs no name.
fn request_span(task: &Task) -> Span {
    let device = match &task.subject {
        Subject::Connected => None,
        Subject::Named { type_id, device_id } => Some(format!("{type_id}/{device_id}")),
    };
    let device = device.map(tracing::field::display);
    info_span!("request", device, reqId = %task.req_id, action = %task.route, attempt = task.attempt)
}

async fn run(handler: &dyn Erased, cx: &Context, task: &Task) -> TaskEvent {
    let d: Option<&RawValue> = task.d.as_deref();
    match task.moment {
        TaskMoment::Handle => {
            let decision = AssertUnwindSafe(handler.handle(cx, d)).catch_unwind().await;
            TaskEvent::Decided(
                task.key,
                decision.unwrap_or_else(|panic| {
                    let refusal = Refusal::failed("the handler failed unexpectedly");
                    Decision::Refused(refusal.log(format!("it panicked: {}", panic_message(&*panic))))
                }),
            )
        }
        TaskMoment::AfterAck => {
            let result = AssertUnwindSafe(handler.after_ack(cx, d)).catch_unwind().await;
            TaskEvent::Performed(
                task.key,
                result.unwrap_or_else(|panic| {
                    Err(Failure::new(format!("the handler panicked: {}", panic_message(&*panic))))
                }),
            )
        }
        TaskMoment::Recover => {
            let recovery = AssertUnwindSafe(handler.recover(cx, d)).catch_unwind().await;
            TaskEvent::Recovered(
                task.key,
                recovery.unwrap_or_else(|panic| {
                    warn!("the handler panicked: {}", panic_message(&*panic));
                    Recovery::Abandon
                }),
            )
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Names the handler that holds the runtime: while it does, nothing else is received, answered or timed.
struct Watched<'a, F> {
    work: F,
    req_id: &'a ReqId,
    route: &'a Route,
}

impl<F: Future + Unpin> Future for Watched<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        let before = Instant::now();
        let result = self.work.poll_unpin(cx);
        let held = before.elapsed();
        if held > STALL_LIMIT {
            warn!(reqId = %self.req_id, action = %self.route, ?held, "this handler held the agent: blocking work belongs in Context::blocking");
        }
        result
    }
}

/// How long a cancelled handler may take to end by itself before its future is dropped.
const CANCEL_GRACE: Duration = Duration::from_secs(2);

/// How long a handler may hold the runtime in one go.
const STALL_LIMIT: Duration = Duration::from_secs(1);

/// How often it is said that ended tasks are still waited for.
const STILL_WAITING_EVERY: Duration = Duration::from_secs(10);
