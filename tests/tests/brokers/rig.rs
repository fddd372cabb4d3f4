use std::collections::VecDeque;
use std::time::Duration;

use iotdm_agent::{Mqtt5, Secret, State};
use iotdm_core::{Identity, TopicPrefix};
use iotdm_tests::application::{Access, Application};
use iotdm_tests::device::Device;
use iotdm_tests::within;
use rumqttc::mqttbytes::v4::SubscribeReasonCode;
use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, Publish, QoS};
use tokio::time::{sleep, timeout};

use super::server::{Server, Who};

/// What the agent speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5; the plain client stays at 3.1.1.
    V5,
}

/// The template of `docs/brokers`.
pub(crate) const TEMPLATE: &str = "devices/{type}/{id}/";

/// The client id of a lamp.
pub(crate) fn client_id(number: u8) -> String {
    identity(number).client_id()
}

fn identity(number: u8) -> Identity {
    Identity::device("org001", "lamp", &format!("lamp-{number}")).expect("it keeps the grammar")
}

/// What stands before the topics of a lamp.
pub(crate) fn prefix(number: u8) -> String {
    let template: TopicPrefix = TEMPLATE.parse().expect("it is a template");
    let Identity { type_id, device_id, .. } = identity(number);
    template.of(&type_id, &device_id)
}

/// The lamp of this number with an empty journal, switched off.
pub(crate) fn lamp(server: &impl Server, protocol: Protocol, number: u8) -> Device {
    lamp_with(server, protocol, number, Who::Lamp(number).password())
}

/// The same, with another password than the broker knows.
pub(crate) fn lamp_with(server: &impl Server, protocol: Protocol, number: u8, password: String) -> Device {
    let user = server.user(Who::Lamp(number));
    Device::new(server.port()).configured(move |config| {
        config.identity = identity(number);
        config.token = Some(Secret::new(password.clone()));
        config.broker.user_name = Some(user.clone());
        config.broker.topic_prefix = Some(TEMPLATE.parse().expect("it is a template"));
        match protocol {
            Protocol::V4 => {}
            Protocol::V5 => config.broker.protocol = iotdm_agent::Protocol::Mqtt5(Mqtt5::default()),
        }
    })
}

/// A lamp that the application has seen managed.
pub(crate) async fn managed(server: &impl Server, protocol: Protocol) -> (Device, Application) {
    managed_by(server, protocol, application(server).await).await
}

/// The same, seen by this application.
pub(crate) async fn managed_by(
    server: &impl Server,
    protocol: Protocol,
    mut application: Application,
) -> (Device, Application) {
    forget(server, 1).await;
    let mut device = lamp(server, protocol, 1);
    device.start();
    application.attend(|seen| seen.manages == 1).await;
    is(&device, State::Managed).await;
    (device, application)
}

/// Waits until a device is connected, or managed, or not.
pub(crate) async fn is(device: &Device, wanted: State) {
    let mut state = device.product().state();
    within("change of state", state.wait_for(|state| *state == wanted)).await.expect("the agent runs");
}

/// The platform's side of lamp 1.
pub(crate) async fn application(server: &impl Server) -> Application {
    Application::connect_to(access(server)).await
}

/// The same with a durable session, which ends when the next one connects.
pub(crate) async fn durable_application(server: &impl Server) -> Application {
    Application::connect_to(Access { durable: true, ..access(server) }).await
}

fn access(server: &impl Server) -> Access {
    let who = Who::Platform;
    Access {
        port: server.platform_port(),
        credentials: Some((server.user(who), who.password())),
        prefix: prefix(1),
        durable: false,
    }
}

/// Ends the session that a lamp had in an earlier scenario.
pub(crate) async fn forget(server: &impl Server, number: u8) {
    let (probe, _) = Probe::connect(server, Who::Lamp(number), &client_id(number), true).await;
    probe.leave().await;
}

/// A plain client: it acknowledges what it is told to, and nothing else.
pub(crate) struct Probe {
    client: AsyncClient,
    event_loop: EventLoop,
    /// Came while something else was awaited.
    arrived: VecDeque<Publish>,
}

/// What became of a subscription or a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was granted, or acknowledged.
    Taken,
    /// SUBACK says 0x80.
    Refused,
    /// The broker ended the connection.
    Closed,
}

impl Probe {
    /// Connects, and says whether the broker had a session.
    pub(crate) async fn connect(
        server: &impl Server,
        who: Who,
        client_id: &str,
        clean_session: bool,
    ) -> (Self, bool) {
        let connected = async {
            loop {
                match Self::try_connect(server, who, client_id, clean_session).await {
                    Ok(connected) => return connected,
                    Err(error @ ConnectionError::ConnectionRefused(_)) => panic!("{client_id}: {error}"),
                    // NATS holds a client id back that has just changed hands.
                    Err(_) => sleep(CONNECT_PAUSE).await,
                }
            }
        };
        within("connection of the plain client", connected).await
    }

    /// The same, where the broker may refuse.
    pub(crate) async fn try_connect(
        server: &impl Server,
        who: Who,
        client_id: &str,
        clean_session: bool,
    ) -> Result<(Self, bool), ConnectionError> {
        let port = if who == Who::Platform { server.platform_port() } else { server.port() };
        let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
        options
            .set_credentials(server.user(who), who.password())
            .set_clean_session(clean_session)
            .set_manual_acks(true)
            .set_max_packet_size(PACKET_LIMIT_BYTES, PACKET_LIMIT_BYTES);
        let (client, event_loop) = AsyncClient::new(options, CHANNEL_LIMIT);
        let mut probe = Self { client, event_loop, arrived: VecDeque::new() };
        let connected = async {
            loop {
                if let Event::Incoming(Packet::ConnAck(ack)) = probe.event_loop.poll().await? {
                    return Ok::<_, ConnectionError>(ack.session_present);
                }
            }
        };
        let session_present = within("connection of the plain client", connected).await?;
        Ok((probe, session_present))
    }

    /// Subscribes at QoS 1.
    pub(crate) async fn subscribe(&mut self, filter: &str) -> Outcome {
        self.client.try_subscribe(filter, QoS::AtLeastOnce).expect("the channel has room");
        let answer = |packet: &Packet| match packet {
            Packet::SubAck(ack) if ack.return_codes.contains(&SubscribeReasonCode::Failure) => {
                Some(Outcome::Refused)
            }
            Packet::SubAck(_) => Some(Outcome::Taken),
            _ => None,
        };
        self.until(answer).await
    }

    /// Publishes at QoS 1.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &str) -> Outcome {
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).expect("the channel has room");
        self.until(|packet| matches!(packet, Packet::PubAck(_)).then_some(Outcome::Taken)).await
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Publish {
        if let Some(message) = self.arrived.pop_front() {
            return message;
        }
        within("message for the plain client", async {
            loop {
                match self.event_loop.poll().await {
                    Ok(Event::Incoming(Packet::Publish(message))) => return message,
                    Ok(_) => {}
                    Err(error) => panic!("the connection of the plain client ended: {error}"),
                }
            }
        })
        .await
    }

    /// Whether a message comes before the connection ends, in a while.
    pub(crate) async fn hears(&mut self) -> bool {
        let hears = async {
            loop {
                match self.event_loop.poll().await {
                    Ok(Event::Incoming(Packet::Publish(_))) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        !self.arrived.is_empty() || timeout(A_WHILE, hears).await.unwrap_or(false)
    }

    /// Whether the connection ends in a while.
    pub(crate) async fn ends(&mut self) -> bool {
        timeout(A_WHILE, async { while self.event_loop.poll().await.is_ok() {} }).await.is_ok()
    }

    /// Acknowledges, and returns when that was written.
    pub(crate) async fn acknowledge(&mut self, message: &Publish) {
        self.client.try_ack(message).expect("the channel has room");
        loop {
            match within("sending of an acknowledgement", self.event_loop.poll()).await {
                Ok(Event::Outgoing(Outgoing::PubAck(_))) => return,
                Ok(Event::Incoming(Packet::Publish(message))) => self.arrived.push_back(message),
                Ok(_) => {}
                Err(error) => panic!("the connection of the plain client ended: {error}"),
            }
        }
    }

    /// Ends the connection with DISCONNECT.
    pub(crate) async fn leave(mut self) {
        self.client.try_disconnect().expect("the channel has room");
        // rumqttc ends with an error when the broker closes, and with an event before.
        let left = async {
            while let Ok(event) = self.event_loop.poll().await {
                if event == Event::Outgoing(Outgoing::Disconnect) {
                    return;
                }
            }
        };
        within("end of the plain client", left).await;
    }

    async fn until(&mut self, answer: impl Fn(&Packet) -> Option<Outcome>) -> Outcome {
        within("answer to the plain client", async {
            loop {
                match self.event_loop.poll().await {
                    Ok(Event::Incoming(Packet::Publish(message))) => self.arrived.push_back(message),
                    Ok(Event::Incoming(packet)) => {
                        if let Some(outcome) = answer(&packet) {
                            return outcome;
                        }
                    }
                    Ok(Event::Outgoing(_)) => {}
                    Err(_) => return Outcome::Closed,
                }
            }
        })
        .await
    }
}

/// How long something is awaited that is not to come.
const A_WHILE: Duration = Duration::from_secs(3);

/// The pause before another attempt to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(300);

/// Largest packet in bytes: above the service's limit.
const PACKET_LIMIT_BYTES: usize = 1024 * 1024;

/// Messages that may wait to be sent: more than a scenario sends at once.
const CHANNEL_LIMIT: usize = 1024;
