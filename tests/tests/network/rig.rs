use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use iotdm_agent::testing::{TestSystem, config};
use iotdm_agent::{Agent, Config};
use iotdm_core::{Action, Context, Finished, Handler, Interrupted, Refusal, Route};
use iotdm_platform::broker::{Broker, BrokerOptions, Mount, QoS};
use iotdm_platform::proxy::FaultProxy;
use iotdm_tests::application::{Application, bench_request};
use rumqttc::{AsyncClient, MqttOptions};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Counts, and says what it was asked by name.
struct Echo;

impl Action for Echo {
    const ROUTE: Route = Route::custom("bench", "echo");
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    type Request = Map<String, Value>;
    type Reply = Finished<Vec<String>>;
}

#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl Handler<Echo> for Counter {
    async fn handle(
        &self,
        _: &Context,
        request: &Map<String, Value>,
    ) -> Result<Finished<Vec<String>>, Refusal> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Finished(request.keys().cloned().collect()))
    }
}

/// An agent, its disk, the way to its broker, and somebody on the other side of that.
pub(crate) struct Rig {
    pub(crate) broker: Broker,
    pub(crate) proxy: FaultProxy,
    application: Application,
    folder: TempDir,
    system: TestSystem,
    counter: Counter,
    set_up: Box<dyn Fn(&mut Config) + Send>,
    agent: Option<JoinHandle<()>>,
}

impl Rig {
    /// Everything running, and the device managed.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, set up otherwise.
    pub(crate) async fn with(set_up: impl Fn(&mut Config) + Send + 'static) -> Self {
        let options = BrokerOptions { mount: Mount::Off, payload_limit: 1 << 20, ..BrokerOptions::default() };
        let broker = Broker::start(options).await.expect("loopback has a free port");
        let proxy = FaultProxy::start(broker.local_addr()).await.expect("loopback has a free port");
        let application = Application::connect(broker.local_addr().port()).await;
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let (system, counter) = (TestSystem::new(), Counter::default());
        let set_up = Box::new(set_up);
        let mut rig = Self { broker, proxy, application, folder, system, counter, set_up, agent: None };
        rig.start().await;
        rig
    }

    fn config(&self) -> Config {
        let mut config = config();
        config.broker.host = "127.0.0.1".into();
        config.broker.port = self.proxy.local_addr().port();
        (self.set_up)(&mut config);
        config
    }

    pub(crate) fn client_id(&self) -> String {
        config().identity.client_id()
    }

    async fn start(&mut self) {
        let agent = Agent::builder(self.config())
            .journal(self.folder.path().join("journal"))
            .system(Arc::new(self.system.clone()))
            .on::<Echo>(self.counter.clone())
            .seed(7)
            .build()
            .expect("the agent can be built");
        let manages = self.manages();
        self.agent = Some(tokio::spawn(async move {
            agent.run_until(std::future::pending()).await.expect("the agent runs");
        }));
        self.until_manages(manages + 1).await;
        self.drained().await;
    }

    /// Ends the agent as `kill -9` does, and starts it on the same journal.
    pub(crate) async fn restart(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.abort();
            assert!(agent.await.is_err_and(|error| error.is_cancelled()), "the agent did not end by itself");
        }
        self.start().await;
    }

    pub(crate) fn send(&self, req_id: &str, pad: &str) {
        self.application.bench("echo", req_id, pad);
    }

    /// Publishes anything to the device, past the application's own limits.
    pub(crate) fn inject(&self, payload: Vec<u8>) {
        let sent = self.broker.publish("iotdm-1/mgmt/custom/bench/echo", payload, QoS::AtLeastOnce, false);
        assert_eq!(sent.expect("the broker takes it"), 1);
    }

    /// Asks for an echo of a name of so many bytes, which makes the answer as large as the request.
    pub(crate) fn send_name(&self, req_id: &str, bytes: usize) {
        let d = json!({"fields": [{"field": "n".repeat(bytes), "value": "1"}]});
        let request = json!({"d": d, "reqId": req_id}).to_string();
        self.application.publish("iotdm-1/mgmt/custom/bench/echo", request);
    }

    pub(crate) async fn ask(&mut self, req_id: &str) -> Value {
        let before = self.responses(req_id);
        self.send(req_id, "");
        self.until_responses(req_id, before + 1).await;
        self.application.seen().responses[req_id].last().expect("there is one").clone()
    }

    pub(crate) async fn response(&mut self, req_id: &str) -> Value {
        self.application.response(req_id).await
    }

    pub(crate) fn responses(&self, req_id: &str) -> usize {
        self.application.seen().responses.get(req_id).map_or(0, Vec::len)
    }

    pub(crate) async fn until_responses(&mut self, req_id: &str, times: usize) {
        self.application
            .attend(|seen| seen.responses.get(req_id).is_some_and(|all| all.len() >= times))
            .await;
    }

    pub(crate) fn manages(&self) -> usize {
        self.application.seen().manages
    }

    pub(crate) async fn until_manages(&mut self, times: usize) {
        self.application.attend(|seen| seen.manages >= times).await;
    }

    /// Lets time pass while the platform answers.
    pub(crate) async fn pass(&mut self, span: Duration) {
        self.application.attend_for(span).await;
    }

    pub(crate) fn runs(&self) -> usize {
        self.counter.0.load(Ordering::SeqCst)
    }

    /// Waits until the device has acknowledged everything.
    pub(crate) async fn drained(&self) {
        self.broker.drained(&self.client_id()).await;
    }

    /// Connects once with the device's own client id.
    pub(crate) async fn take_over(&self) {
        let port = self.broker.local_addr().port();
        let mut options = MqttOptions::new(self.client_id(), "127.0.0.1", port);
        options.set_clean_session(false);
        let (_client, mut event_loop) = AsyncClient::new(options, 10);
        event_loop.poll().await.expect("the broker takes the other client");
    }
}

/// A request as [`Rig::send`] makes it.
pub(crate) fn request(req_id: &str, pad: &str) -> String {
    bench_request(req_id, pad)
}
