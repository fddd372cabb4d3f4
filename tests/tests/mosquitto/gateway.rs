//! A gateway and its devices on a broker without mount points.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use iotdm_agent::testing::TestSystem;
use iotdm_agent::{Agent, Attached, Broker, Config, Device};
use iotdm_core::{Accepted, Context, Empty, Failure, Handler, Identity, Performed, Reboot, Refusal};
use iotdm_platform::{DeviceName, Outcome, Platform, PlatformOptions, Request, Space};
use iotdm_tests::mosquitto::Mosquitto;
use iotdm_tests::within;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Pump;

impl Handler<Reboot> for Pump {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, _: &Context, _: &Empty) -> Result<Performed, Failure> {
        Ok(Performed::Complete)
    }
}

struct Gateway {
    device: Device,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), iotdm_agent::RunError>>,
}

fn start(port: u16, journal: &std::path::Path) -> Gateway {
    let config = Config {
        identity: Identity::gateway("org001", "gw", "g7").expect("it can be made"),
        broker: Broker::at("127.0.0.1", port),
        ..iotdm_agent::testing::config()
    };
    let pump = |id| Attached::new("pump", id).expect("it can be made").on::<Reboot>(Pump);
    let agent = Agent::builder(config)
        .journal(journal)
        .system(std::sync::Arc::new(TestSystem::new()))
        .attach(pump("p-1"))
        .attach(pump("p-2"))
        .build()
        .expect("it can be made");
    let device = agent.device();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(agent.run_until(async {
        let _ = stopped.await;
    }));
    Gateway { device, stop, task }
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_a_gateway_speaks_for_its_devices_and_takes_what_waited_for_them() {
    let mosquitto = Mosquitto::start();
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, mosquitto.port()));
    let space = Space::single("", DeviceName::new("gw", "g7").unwrap()).unwrap();
    let mut options = PlatformOptions::new(address);
    options.space = space;
    let platform = Platform::connect(options).await.unwrap();
    let gateway = start(mosquitto.port(), &journal);
    let names: Vec<DeviceName> = [("gw", "g7"), ("pump", "p-1"), ("pump", "p-2")]
        .map(|(t, id)| DeviceName::new(t, id).unwrap())
        .into();
    for name in &names {
        within("manage", platform.managed(name)).await;
    }
    let reboot = platform.initiate(&names[1], &Request::reboot()).unwrap();
    assert_eq!(within("end of the reboot", reboot.completed()).await, Outcome::Complete);
    assert!(gateway.device.attached_as().is_none());
    drop(gateway.stop);
    within("end of the agent", gateway.task).await.unwrap().unwrap();

    let late = platform.initiate(&names[2], &Request::reboot()).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let gateway = start(mosquitto.port(), &journal);
    assert!(within("answer", late.answered()).await.is_some());
    drop(gateway.stop);
    within("end of the agent", gateway.task).await.unwrap().unwrap();
}
