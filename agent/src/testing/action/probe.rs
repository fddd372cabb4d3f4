//! Around the handler: what begins and ends is written down, and a part can be held where a crash is to come.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use iotdm_core::{Context, Decision, Erased, ExtensionAction, Failure, Performed, Recovery, Refusal, Route};
use schemars::{Schema, SchemaGenerator};
use serde_json::value::RawValue;
use tokio::sync::watch;

use crate::testing::histories::record::{Event, Log, Outcome, Part, Work};

/// Where a part of the handler stops, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// It has been started, and has done nothing.
    Before(Part),
    /// It has done everything, and nobody knows.
    After(Part),
}

/// What the bench and the handler's surroundings share.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    log: Log,
    hold: Arc<Mutex<Option<Hold>>>,
    /// Changes with everything that is written down.
    changed: Arc<watch::Sender<()>>,
}

impl Probe {
    pub(super) fn new(log: Log) -> Self {
        Self { log, hold: Arc::default(), changed: Arc::new(watch::Sender::new(())) }
    }

    /// Stops the next part that comes there.
    pub(super) fn hold(&self, hold: Hold) {
        *self.hold.lock().expect("no holder of the lock panics") = Some(hold);
    }

    /// Whether a part has come to where it was to be held.
    pub(super) fn is_held(&self) -> bool {
        self.hold.lock().expect("no holder of the lock panics").is_none()
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Puts the probe around a handler.
    pub(super) fn around(&self, route: &Route, handler: Arc<dyn Erased>) -> Arc<dyn Erased> {
        Arc::new(Probed { route: route.clone(), handler, probe: self.clone() })
    }

    fn write(&self, event: Event) {
        self.log.push(event);
        self.changed.send_replace(());
    }

    async fn stop_at(&self, here: Hold) {
        {
            let mut hold = self.hold.lock().expect("no holder of the lock panics");
            if *hold != Some(here) {
                return;
            }
            *hold = None;
        }
        self.changed.send_replace(());
        std::future::pending().await
    }
}

struct Probed {
    route: Route,
    handler: Arc<dyn Erased>,
    probe: Probe,
}

impl Probed {
    async fn run<T>(
        &self,
        cx: &Context,
        part: Part,
        future: impl Future<Output = T>,
        outcome: impl FnOnce(&T) -> Outcome,
    ) -> T {
        let req_id = cx.req_id().map(|id| id.as_json().to_owned()).unwrap_or_default();
        let work = Work { req_id, route: self.route.clone(), part, attempt: cx.attempt() };
        self.probe.write(Event::Started(work.clone()));
        self.probe.stop_at(Hold::Before(part)).await;
        let result = future.await;
        self.probe.write(Event::Returned(work, outcome(&result)));
        self.probe.stop_at(Hold::After(part)).await;
        result
    }
}

#[async_trait]
impl Erased for Probed {
    async fn handle(&self, cx: &Context, d: Option<&RawValue>) -> Decision {
        self.run(cx, Part::Handle, self.handler.handle(cx, d), Outcome::of_decision).await
    }

    async fn after_ack(&self, cx: &Context, d: Option<&RawValue>) -> Result<Performed, Failure> {
        self.run(cx, Part::AfterAck, self.handler.after_ack(cx, d), Outcome::of_work).await
    }

    async fn recover(&self, cx: &Context, d: Option<&RawValue>) -> Recovery {
        let judged = |recovery: &Recovery| Outcome::Judged(*recovery);
        self.run(cx, Part::Recover, self.handler.recover(cx, d), judged).await
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
