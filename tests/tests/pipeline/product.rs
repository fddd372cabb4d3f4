//! A device with everything a test asks for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iotdm_agent::Builder;
use iotdm_agent::testing::{MemoryDisk, Platform, Running, TestSystem, start};
use iotdm_core::{
    Accepted, Action, Context, Empty, Failure, Finished, Handler, Interrupted, Late, Performed, Reboot,
    Recovery, Refusal, Restart, Route,
};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

/// What happened to the device, and how it behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Product {
    pub(crate) runs: Arc<Mutex<Vec<String>>>,
    pub(crate) began: Arc<watch::Sender<()>>,
    pub(crate) gate: Arc<Notify>,
    pub(crate) blocked: Arc<AtomicUsize>,
    pub(crate) ended: Arc<AtomicUsize>,
}

/// Counts the futures of handlers that have ended, dropped ones included.
struct Ended(Arc<AtomicUsize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// May run again; ends at once.
pub(crate) struct Echo;
/// May not run again; ends when the gate opens.
pub(crate) struct Once;
/// Panics.
pub(crate) struct Broken;
/// Never ends, and panics when it is dropped.
pub(crate) struct Bomb;
/// Holds a thread until it is cancelled.
pub(crate) struct Blocking;
/// Refused when it may be older than a quarter of an hour.
pub(crate) struct Fresh;

impl Action for Echo {
    const ROUTE: Route = Route::custom("test", "echo");
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    type Request = Empty;
    type Reply = Finished<u64>;
}

impl Action for Once {
    const ROUTE: Route = Route::custom("test", "once");
    type Request = Empty;
    type Reply = Finished<()>;
}

impl Action for Broken {
    const ROUTE: Route = Route::custom("test", "broken");
    type Request = Empty;
    type Reply = Finished<()>;
}

impl Action for Bomb {
    const ROUTE: Route = Route::custom("test", "bomb");
    type Request = Empty;
    type Reply = Finished<()>;
}

impl Action for Blocking {
    const ROUTE: Route = Route::custom("test", "blocking");
    const BUDGET: Duration = Duration::from_secs(5);
    type Request = Empty;
    type Reply = Finished<()>;
}

impl Action for Fresh {
    const ROUTE: Route = Route::custom("test", "fresh");
    const LATE: Late = Late::RefuseAfter(Duration::from_secs(15 * 60));
    type Request = Empty;
    type Reply = Finished<()>;
}

impl Product {
    fn note(&self, cx: &Context, what: &str) {
        let req_id = cx.req_id().map(ToString::to_string).unwrap_or_default();
        self.runs.lock().expect("no holder of the lock panics").push(format!("{what} {req_id}"));
        self.began.send_replace(());
    }

    pub(crate) fn runs(&self) -> Vec<String> {
        self.runs.lock().expect("no holder of the lock panics").clone()
    }
}

impl Handler<Echo> for Product {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<u64>, Refusal> {
        self.note(cx, "echo");
        Ok(Finished(7))
    }
}

impl Handler<Once> for Product {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        self.note(cx, "once");
        let _ended = Ended(self.ended.clone());
        self.gate.notified().await;
        Ok(Finished(()))
    }
}

impl Handler<Broken> for Product {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        self.note(cx, "broken");
        panic!("as it was told to")
    }
}

impl Handler<Bomb> for Product {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        struct Armed;
        impl Drop for Armed {
            fn drop(&mut self) {
                panic!("as it was told to");
            }
        }
        self.note(cx, "bomb");
        let _armed = Armed;
        std::future::pending().await
    }
}

impl Handler<Blocking> for Product {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        self.note(cx, "blocking");
        let blocked = self.blocked.clone();
        cx.blocking(move |cancellation| {
            blocked.fetch_add(1, Ordering::SeqCst);
            while !cancellation.is_cancelled() {
                std::thread::yield_now();
            }
            blocked.fetch_sub(1, Ordering::SeqCst);
        })
        .await;
        Ok(Finished(()))
    }
}

impl Handler<Fresh> for Product {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        self.note(cx, "fresh");
        Ok(Finished(()))
    }
}

impl Handler<Reboot> for Product {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        self.note(cx, "reboot");
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        self.note(cx, "restart");
        cx.system().restart(Restart::Reboot).await.map_err(|error| Failure::new(error.to_string()))
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        if cx.rebooted() { Recovery::Done } else { Recovery::RunAgain }
    }
}

/// A device, its disk, its machine and its platform.
#[derive(Clone, Debug)]
pub(crate) struct Rig {
    pub(crate) platform: Platform,
    pub(crate) disk: MemoryDisk,
    pub(crate) system: TestSystem,
    pub(crate) product: Product,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self {
            platform: Platform::new(),
            disk: MemoryDisk::new(),
            system: TestSystem::new(),
            product: Product::default(),
        }
    }

    pub(crate) fn start(&self) -> Running {
        self.start_with(|builder| builder)
    }

    pub(crate) fn start_with(&self, change: impl FnOnce(Builder) -> Builder) -> Running {
        let product = self.product.clone();
        start(&self.platform, &self.disk, &self.system, |builder| {
            change(
                builder
                    .on::<Reboot>(product.clone())
                    .on::<Echo>(product.clone())
                    .on::<Once>(product.clone())
                    .on::<Broken>(product.clone())
                    .on::<Bomb>(product.clone())
                    .on::<Blocking>(product.clone())
                    .on::<Fresh>(product),
            )
        })
    }

    /// Starts the agent and waits until the platform has taken its manage and the fence is lifted.
    pub(crate) async fn managed(&self) -> Running {
        let manages = self.platform.published(iotdm_core::UpRoute::Manage).len();
        let running = self.start();
        self.platform.managed(manages + 1).await;
        self.platform.drained().await;
        running
    }

    /// Sends a request of an action and waits for its response.
    pub(crate) async fn ask<A: Action>(&self, req_id: &str) -> Value {
        self.send::<A>(req_id);
        self.platform.response(req_id).await
    }

    pub(crate) fn send<A: Action>(&self, req_id: &str) {
        self.platform.send(A::ROUTE, json!({ "reqId": req_id }));
    }

    /// Waits until a handler has begun something.
    pub(crate) async fn until_run(&self, what: &str) {
        let mut began = self.product.began.subscribe();
        while !self.product.runs().iter().any(|run| run == what) {
            began.changed().await.expect("the product outlives the wait");
        }
    }
}
