//! What passes on the wire, packet by packet, as `tcpdump` would show it: connect, subscribe, manage, a reboot with its
//! `202`, and what follows the restart.
//!
//! A [`Tap`] between agent and broker records the bytes; [`Frame`] cuts and reads them without any code of the agent or
//! of rumqttc. `cargo run -p iotdm-tests --bin wire` prints them beside the sections of `docs/protocol.md`.

mod frame;
mod tap;

use std::sync::Arc;
use std::time::Duration;

use iotdm_agent::testing::{TestSystem, config};
use iotdm_agent::{Agent, Config, Secret};
use iotdm_core::{Accepted, Context, Empty, Failure, Handler, Performed, Reboot, Recovery, Refusal, Restart};
use iotdm_platform::broker::{Broker, BrokerOptions, Mount};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::application::Application;

pub use self::frame::{Frame, Kind};
pub use self::tap::Tap;

/// Lets it happen on the current runtime, whose clock should be paused, and returns every packet of the device's
/// connections in the order in which they passed.
///
/// # Panics
/// Loopback or the temporary folder cannot be used.
pub async fn record() -> Vec<Frame> {
    let options = BrokerOptions { mount: Mount::Off, ..BrokerOptions::default() };
    let broker = Broker::start(options).await.expect("loopback has a free port");
    let tap = Tap::start(broker.local_addr()).await;
    let mut application = Application::connect(broker.local_addr().port()).await;
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let system = TestSystem::new();
    let start = |seed| {
        let agent = Agent::builder(device(&tap))
            .journal(folder.path().join("journal"))
            .system(Arc::new(system.clone()))
            .on::<Reboot>(Machine)
            .seed(seed)
            .build()
            .expect("the agent can be built");
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            agent.run_until(stopped).await.expect("the agent runs");
        });
        (task, stop)
    };
    let (agent, _stop) = start(1);
    application.attend(|seen| seen.manages == 1).await;
    application.attend_for(SETTLING).await;
    application.publish("iotdm-1/mgmt/initiate/device/reboot", r#"{"reqId":"b53eb43e"}"#);
    application.attend(|seen| seen.responses.contains_key("b53eb43e")).await;
    application.attend_for(SETTLING).await;
    // The machine goes down with everything on it.
    end(agent).await;
    system.next_boot();
    let (agent, stop) = start(2);
    application.attend(|seen| seen.manages == 2).await;
    // Until a ping has passed.
    application.attend_for(Duration::from_secs(61)).await;
    drop(stop);
    agent.await.expect("the agent ends as asked");
    application.attend_for(SETTLING).await;
    tap.frames()
}

async fn end(agent: JoinHandle<()>) {
    agent.abort();
    assert!(agent.await.is_err_and(|error| error.is_cancelled()), "the agent did not end by itself");
}

fn device(tap: &Tap) -> Config {
    let mut config = config();
    config.broker.host = tap.local_addr().ip().to_string();
    config.broker.port = tap.local_addr().port();
    config.token = Some(Secret::new(TOKEN));
    config
}

/// The token of the device here.
pub const TOKEN: &str = "a-token-for-this";

/// How long whatever follows at once may take.
const SETTLING: Duration = Duration::from_secs(2);

struct Machine;

impl Handler<Reboot> for Machine {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        cx.system().restart(Restart::Reboot).await.map_err(|error| Failure::new(error.to_string()))
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        if cx.rebooted() { Recovery::Done } else { Recovery::RunAgain }
    }
}
