//! Events on a real connection: every packet that leaves, and the in-process broker.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use iotdm_agent::testing::{MemoryDisk, TestSystem, config};
use iotdm_agent::{Agent, Config, Device};
use iotdm_core::{Declined, Event, Identity, PublishError, Report};
use iotdm_platform::broker::{Broker, BrokerOptions, Observer, Seen};
use iotdm_platform::proxy::FaultProxy;
use iotdm_tests::within;
use rumqttc::QoS;
use rumqttc::mqttbytes::Error;
use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet, PubAck, SubAck, SubscribeReasonCode};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// A broker that writes down every packet that comes, and answers each as it must.
struct Recorder {
    port: u16,
    packets: Arc<Mutex<Vec<Packet>>>,
    changed: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Recorder {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (packets, (changes, changed)) = (Arc::default(), watch::channel(()));
        let kept: Arc<Mutex<Vec<Packet>>> = Arc::clone(&packets);
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("the agent connects");
            stream.set_nodelay(true).expect("it is TCP");
            let mut bytes = BytesMut::new();
            loop {
                let packet = match Packet::read(&mut bytes, 1 << 20) {
                    Ok(packet) => packet,
                    Err(Error::InsufficientBytes(_)) => {
                        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                            return;
                        }
                        continue;
                    }
                    Err(error) => panic!("{error}"),
                };
                let mut answer = BytesMut::new();
                match &packet {
                    Packet::Connect(_) => {
                        ConnAck::new(ConnectReturnCode::Success, false)
                            .write(&mut answer)
                            .expect("the answer is well formed");
                    }
                    Packet::Publish(publish) if publish.qos == QoS::AtLeastOnce => {
                        PubAck::new(publish.pkid).write(&mut answer).expect("the answer is well formed");
                    }
                    Packet::Subscribe(subscribe) => {
                        let granted = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
                        SubAck::new(subscribe.pkid, granted)
                            .write(&mut answer)
                            .expect("the answer is well formed");
                    }
                    _ => {}
                }
                kept.lock().expect("no holder of the lock panics").push(packet);
                changes.send_replace(());
                stream.write_all(&answer).await.expect("the agent is there");
            }
        });
        Self { port, packets, changed, task }
    }

    fn packets(&self) -> Vec<Packet> {
        self.packets.lock().expect("no holder of the lock panics").clone()
    }

    async fn until(&mut self, holds: impl Fn(&[Packet]) -> bool) {
        let packets = Arc::clone(&self.packets);
        let holds = |(): &()| holds(&packets.lock().expect("no holder of the lock panics"));
        within("packet", self.changed.wait_for(holds)).await.expect("the recorder runs");
    }
}

fn events(packets: &[Packet]) -> usize {
    let is_event = |packet: &&Packet| matches!(packet, Packet::Publish(publish) if publish.topic.starts_with("iot-2/evt/"));
    packets.iter().filter(is_event).count()
}

/// An agent without handlers, its journal in memory.
fn start(config: Config) -> (Device, JoinHandle<()>) {
    let agent = Agent::builder(config).store(MemoryDisk::new()).system(Arc::new(TestSystem::new())).seed(7);
    let agent = agent.build().expect("the agent can be built");
    let device = agent.device();
    let task =
        tokio::spawn(async move { agent.run_until(std::future::pending()).await.expect("the agent runs") });
    (device, task)
}

fn at(port: u16) -> Config {
    let mut config = config();
    (config.broker.host, config.broker.port) = ("127.0.0.1".into(), port);
    config
}

#[tokio::test(start_paused = true)]
async fn on_the_wire_events_have_their_topic_and_qos_and_are_never_retained() {
    let mut recorder = Recorder::start().await;
    let (device, task) = start(at(recorder.port));
    device.events().publish("temperature", &21.5).await.unwrap();
    recorder.until(|packets| events(packets) == 1).await;
    device.events().send(Event::bytes("raw", "bin", vec![0]).unwrap().at_most_once()).await.unwrap();
    device.events().publish_bytes("raw", "bin", vec![1]).await.unwrap();
    recorder.until(|packets| events(packets) == 3).await;
    let sent: Vec<_> = recorder
        .packets()
        .into_iter()
        .filter_map(|packet| match packet {
            Packet::Publish(p) if p.topic.starts_with("iot-2") => {
                Some((p.topic, p.qos, p.retain, p.dup, p.payload))
            }
            _ => None,
        })
        .collect();
    let event =
        |topic: &str, qos, payload: &'static [u8]| (topic.to_owned(), qos, false, false, payload.into());
    assert_eq!(
        sent,
        [
            event("iot-2/evt/temperature/fmt/json", QoS::AtLeastOnce, b"21.5"),
            event("iot-2/evt/raw/fmt/bin", QoS::AtMostOnce, &[0]),
            event("iot-2/evt/raw/fmt/bin", QoS::AtLeastOnce, &[1]),
        ]
    );
    // The link has matched each PUBACK with its event, and told of the one that has none.
    let counters = || device.events().counters();
    while counters().arrived < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((counters().waiting, counters().sent_once), (0, 1));
    task.abort();
}

fn quickstart(port: u16) -> Config {
    let mut config = at(port);
    config.identity = Identity::device("quickstart", "lamp", "lamp1").expect("it keeps the grammar");
    config.broker.durable_session = false;
    config
}

#[tokio::test(start_paused = true)]
async fn quickstart_connects_without_credentials_and_sends_events_at_qos_0_alone() {
    let mut recorder = Recorder::start().await;
    let (device, task) = start(quickstart(recorder.port));
    recorder.until(|packets| !packets.is_empty()).await;
    let events_of = device.events();
    let event = || Event::json("status", &1).unwrap().at_most_once();
    while events_of.send(event()).await.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    recorder.until(|packets| events(packets) == 1).await;
    // Longer than manage, or its renewal, would wait.
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    let packets = recorder.packets();
    let Packet::Connect(connect) = &packets[0] else { panic!("{:?}", packets[0]) };
    assert_eq!(connect.client_id, "d:quickstart:lamp:lamp1");
    assert!(connect.login.is_none() && connect.clean_session && connect.last_will.is_none());
    let others: Vec<_> = packets[1..].iter().filter(|packet| !matches!(packet, Packet::PingReq)).collect();
    assert!(
        matches!(others[..], [Packet::Publish(publish)] if publish.qos == QoS::AtMostOnce && !publish.retain),
        "{others:?}"
    );
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn quickstart_refuses_qos_1_stored_events_reports_and_more_than_one_event_a_second_at_the_call() {
    let mut recorder = Recorder::start().await;
    let (device, task) = start(quickstart(recorder.port));
    recorder.until(|packets| !packets.is_empty()).await;
    let events_of = device.events();
    assert_eq!(events_of.publish("status", &1).await, Err(PublishError::QuickstartQos));
    let event = || Event::json("status", &1).unwrap().at_most_once();
    assert_eq!(events_of.send(event().stored()).await, Err(PublishError::QuickstartQos));
    while events_of.send(event()).await.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(events_of.send(event()).await, Err(PublishError::QuickstartRate));
    tokio::time::sleep(Duration::from_millis(990)).await;
    assert_eq!(events_of.send(event()).await, Err(PublishError::QuickstartRate));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(events_of.send(event()).await, Ok(()));
    assert_eq!(device.report(Report::AddErrorCode(7)).await, Err(Declined::Unsupported));
    recorder.until(|packets| events(packets) == 2).await;
    task.abort();
}

#[test]
fn quickstart_takes_no_handlers() {
    let agent = Agent::builder(quickstart(1883)).store(MemoryDisk::new());
    let error = agent.on::<iotdm_core::Reboot>(crate::product::Product::default()).build().unwrap_err();
    let expected = "the quickstart organization offers no device management: register no handlers";
    assert_eq!(error.to_string(), expected);
}

/// A device on a real disk behind a proxy, and what its broker has taken of it.
struct Site {
    proxy: FaultProxy,
    published: mpsc::UnboundedReceiver<u64>,
    folder: TempDir,
    _broker: Broker,
}

impl Site {
    async fn new() -> Self {
        let (sender, published) = mpsc::unbounded_channel();
        let observer = Observer::new(move |sighting| {
            if let Seen::Published { topic, payload } = &sighting.what
                && topic == "iot-2/evt/reading/fmt/json"
            {
                sender.send(serde_json::from_slice(payload).expect("a number")).expect("the test runs");
            }
        });
        let options = BrokerOptions { observer, ..BrokerOptions::default() };
        let broker = Broker::start(options).await.expect("loopback has a free port");
        let proxy = FaultProxy::start(broker.local_addr()).await.expect("loopback has a free port");
        Self {
            proxy,
            published,
            folder: tempfile::tempdir().expect("the temporary folder can be written"),
            _broker: broker,
        }
    }

    fn start(&self) -> (Device, JoinHandle<()>) {
        let agent = Agent::builder(at(self.proxy.local_addr().port()))
            .journal(self.folder.path().join("journal"))
            .system(Arc::new(TestSystem::new()))
            .build()
            .expect("the agent can be built");
        let device = agent.device();
        let task =
            tokio::spawn(
                async move { agent.run_until(std::future::pending()).await.expect("the agent runs") },
            );
        (device, task)
    }

    async fn next_event(&mut self) -> u64 {
        within("event", self.published.recv()).await.expect("the broker outlives the wait")
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_an_outage_survive_a_kill_on_the_real_disk_and_arrive_in_order_over_a_real_connection() {
    let mut site = Site::new().await;
    let (device, task) = site.start();
    device.events().publish("reading", &0).await.unwrap();
    assert_eq!(site.next_event().await, 0);
    site.proxy.refuse(true);
    site.proxy.cut();
    for number in 1..=100 {
        device.events().publish("reading", &number).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    site.proxy.refuse(false);
    let (_device, task) = site.start();
    // The removal of the first one may have been lost with the process.
    let mut expected = 1;
    while expected <= 100 {
        let number = site.next_event().await;
        assert!(number == expected || number == 0, "{number} instead of {expected}");
        expected = expected.max(number + 1);
    }
    task.abort();
}
