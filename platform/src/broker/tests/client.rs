//! A rumqttc client that tests can wait for.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::mqttbytes::v4::{Packet, Publish, SubAck};
use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::broker::{Broker, BrokerOptions, QoS};

pub(crate) const DEVICE: &str = "d:org:pump:p-1";
pub(crate) const OTHER_DEVICE: &str = "d:org:pump:p-2";
pub(crate) const PLATFORM: &str = "a:org:platform";

/// Virtual time after which what a test waits for is not coming.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// Virtual time in which anything on its way would have arrived.
const QUIET: Duration = Duration::from_secs(5);

/// One connection, with manual acknowledgements. Dropping it drops the socket, without DISCONNECT.
pub(crate) struct Client {
    pub(crate) handle: AsyncClient,
    pub(crate) session_present: bool,
    incoming: mpsc::UnboundedReceiver<Result<Packet, String>>,
    task: JoinHandle<()>,
}

impl Client {
    /// A client with a durable session, a keep-alive of 60 s, and limits above the broker's.
    pub(crate) async fn durable(address: SocketAddr, client_id: &str) -> Self {
        Self::connect(options(address, client_id)).await.expect("the broker admits it")
    }

    /// The device `p-1` with a durable session, subscribed to its requests.
    pub(crate) async fn subscribed(broker: &Broker) -> Self {
        let mut device = Self::durable(broker.local_addr(), DEVICE).await;
        device.subscribe("iotdm-1/#").await;
        device
    }

    pub(crate) async fn clean(address: SocketAddr, client_id: &str) -> Self {
        let mut options = options(address, client_id);
        options.set_clean_session(true);
        Self::connect(options).await.expect("the broker admits it")
    }

    /// Connects, or says why not.
    pub(crate) async fn connect(options: MqttOptions) -> Result<Self, String> {
        let (handle, mut event_loop) = AsyncClient::new(options, 1_024);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        event_loop.set_network_options(network);
        let (sender, incoming) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let outcome = event_loop.poll().await;
                let ended = outcome.is_err();
                let packet = match outcome {
                    Ok(Event::Incoming(packet)) => Ok(packet),
                    Ok(Event::Outgoing(_)) => continue,
                    Err(error) => Err(error.to_string()),
                };
                if sender.send(packet).is_err() || ended {
                    return;
                }
            }
        });
        let mut client = Self { handle, session_present: false, incoming, task };
        match client.next().await? {
            Packet::ConnAck(ack) => client.session_present = ack.session_present,
            other => panic!("{other:?} before CONNACK"),
        }
        Ok(client)
    }

    /// The next packet, or the error that ended the connection.
    pub(crate) async fn next(&mut self) -> Result<Packet, String> {
        timeout(PATIENCE, self.incoming.recv())
            .await
            .expect("nothing came")
            .expect("the connection had ended")
    }

    /// The next message; other packets are passed over.
    pub(crate) async fn message(&mut self) -> Publish {
        loop {
            if let Packet::Publish(publish) = self.next().await.expect("the connection lives") {
                return publish;
            }
        }
    }

    /// The next `count` messages in short.
    pub(crate) async fn messages(&mut self, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        for _ in 0..count {
            seen.push(brief(&self.message().await));
        }
        seen
    }

    /// Fails when a message comes that nobody waits for.
    pub(crate) async fn expect_quiet(&mut self) {
        if let Ok(unexpected) = timeout(QUIET, self.message()).await {
            panic!("unexpected message {}", brief(&unexpected));
        }
    }

    /// The error that ends this connection; packets before it are passed over.
    pub(crate) async fn lost(&mut self) -> String {
        loop {
            if let Err(error) = self.next().await {
                return error;
            }
        }
    }

    /// Drops the socket of the device `p-1`, and waits until the broker has noticed.
    pub(crate) async fn leave(self, broker: &Broker) {
        drop(self);
        gone(broker, DEVICE).await;
    }

    pub(crate) async fn subscribe(&mut self, filter: &str) -> SubAck {
        self.subscribe_at(filter, QoS::AtLeastOnce).await
    }

    pub(crate) async fn subscribe_at(&mut self, filter: &str, qos: QoS) -> SubAck {
        self.handle.subscribe(filter, qos).await.expect("the event loop lives");
        match self.next().await.expect("the connection lives") {
            Packet::SubAck(ack) => ack,
            other => panic!("{other:?} instead of SUBACK"),
        }
    }

    pub(crate) async fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.handle.publish(topic, QoS::AtLeastOnce, false, payload).await.expect("the event loop lives");
    }

    /// Waits for the PUBACK of what this client published.
    pub(crate) async fn puback(&mut self) -> u16 {
        loop {
            if let Packet::PubAck(ack) = self.next().await.expect("the connection lives") {
                return ack.pkid;
            }
        }
    }

    pub(crate) async fn ack(&self, publish: &Publish) {
        self.handle.ack(publish).await.expect("the event loop lives");
    }

    pub(crate) async fn ack_messages(&mut self, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        for _ in 0..count {
            let publish = self.message().await;
            seen.push(brief(&publish));
            self.ack(&publish).await;
        }
        seen
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Options of a durable client.
pub(crate) fn options(address: SocketAddr, client_id: &str) -> MqttOptions {
    let mut options = MqttOptions::new(client_id, address.ip().to_string(), address.port());
    options
        .set_clean_session(false)
        .set_manual_acks(true)
        .set_keep_alive(Duration::from_secs(60))
        .set_max_packet_size(300_000, 300_000);
    options
}

pub(crate) async fn broker() -> Broker {
    broker_with(|_| {}).await
}

pub(crate) async fn broker_with(change: impl FnOnce(&mut BrokerOptions)) -> Broker {
    let mut options = BrokerOptions::default();
    change(&mut options);
    Broker::start(options).await.expect("a free port on loopback")
}

/// Sends a numbered row of messages to the device `p-1`.
pub(crate) fn send(broker: &Broker, numbers: impl IntoIterator<Item = usize>) {
    for number in numbers {
        broker
            .publish("devices/pump/p-1/iotdm-1/x", number.to_string(), QoS::AtLeastOnce, false)
            .expect("within the limits");
    }
}

/// Waits until the broker has noticed that this client is gone.
pub(crate) async fn gone(broker: &Broker, client_id: &str) {
    broker.wait_until(|broker| broker.session(client_id).is_none_or(|session| !session.connected)).await;
}

/// A message in short: its payload, its packet id, and whether DUP is set.
pub(crate) fn brief(publish: &Publish) -> String {
    let payload = String::from_utf8_lossy(&publish.payload);
    format!("{payload} #{}{}", publish.pkid, if publish.dup { " dup" } else { "" })
}
