//! Against a peer that says exactly these bytes, on loopback.

use bytes::BytesMut;
use iotdm_core::{DeviceInfo, Identity};
use rumqttc::v5::mqttbytes::Error as PacketError;
use rumqttc::v5::mqttbytes::v5::{Connect, PublishProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::config::Limits;

use crate::config::Broker;

use super::*;

/// A broker that does what the test says.
struct Peer {
    listener: TcpListener,
    link: Mqtt5Link,
}

/// One connection, from the broker's side.
struct Client {
    stream: TcpStream,
    inbox: BytesMut,
}

impl Peer {
    async fn new() -> Self {
        Self::with(Mqtt5::default(), |_| {}).await
    }

    async fn with(options: Mqtt5, change: impl FnOnce(&mut Broker)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut broker = Broker::at("127.0.0.1", listener.local_addr().unwrap().port());
        broker.protocol = Protocol::Mqtt5(options);
        change(&mut broker);
        let config = Config {
            identity: Identity::device("org001", "lamp", "lamp1").unwrap(),
            broker,
            token: None,
            lifetime: Duration::ZERO,
            device_info: DeviceInfo::default(),
            metadata: None,
            limits: Limits::default(),
        };
        Self { listener, link: Mqtt5Link::new(&config).unwrap() }
    }

    /// Takes the device's connection, and what it says in CONNECT.
    async fn take(&mut self) -> (Box<dyn Connection>, Client, Connect) {
        let connection = self.link.open();
        let (stream, _) = within(self.listener.accept()).await.unwrap();
        let mut client = Client { stream, inbox: BytesMut::new() };
        let Packet::Connect(connect, ..) = client.read().await else { panic!("no CONNECT") };
        (connection, client, connect)
    }

    /// Takes the device's connection, answers this CONNACK, and gives the first event.
    async fn answer(&mut self, connack: &[u8]) -> (Box<dyn Connection>, Client, LinkEvent) {
        let (mut connection, mut client, _) = self.take().await;
        client.say(connack).await;
        let event = within(connection.next()).await;
        (connection, client, event)
    }

    /// A connection that stands.
    async fn connected(&mut self) -> (Box<dyn Connection>, Client) {
        let (connection, client, event) = self.answer(CONNACK).await;
        assert!(matches!(event, LinkEvent::Connected { session_present: false }), "{event:?}");
        (connection, client)
    }
}

impl Client {
    async fn read(&mut self) -> Packet {
        loop {
            match Packet::read(&mut self.inbox, None) {
                Ok(packet) => return packet,
                Err(PacketError::InsufficientBytes(_)) => {}
                Err(error) => panic!("{error}"),
            }
            assert!(within(self.stream.read_buf(&mut self.inbox)).await.unwrap() > 0, "the device has gone");
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.unwrap();
    }

    async fn publish(&mut self, packet: u16, expiry: Option<u32>, payload: &[u8]) {
        let properties = PublishProperties { message_expiry_interval: expiry, ..Default::default() };
        let mut publish =
            Publish::new("iotdm-1/x", QoS::AtLeastOnce, payload.to_vec(), expiry.map(|_| properties));
        publish.pkid = packet;
        let mut bytes = BytesMut::new();
        Packet::Publish(publish).write(&mut bytes, None).unwrap();
        self.say(&bytes).await;
    }
}

async fn within<T>(wait: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), wait).await.expect("it happens at once")
}

async fn lost(connection: &mut dyn Connection) -> (Lost, String) {
    match within(connection.next()).await {
        LinkEvent::Lost(lost, reason) => (lost, reason),
        other => panic!("{other:?}"),
    }
}

const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];

#[tokio::test]
async fn a_durable_session_never_expires_unless_its_expiry_is_given() {
    let week = Some(Duration::from_secs(7 * 24 * 60 * 60));
    for (durable, given, clean_start, expiry) in [
        (true, None, false, Some(u32::MAX)),
        (true, week, false, Some(604_800)),
        (false, None, true, None),
        (false, week, true, None),
    ] {
        let options = Mqtt5 { session_expiry: given, request_expiry: None };
        let mut peer = Peer::with(options, |broker| broker.durable_session = durable).await;
        let (_, _, connect) = peer.take().await;
        let properties = connect.properties.unwrap();
        assert_eq!((connect.clean_start, properties.session_expiry_interval), (clean_start, expiry));
    }
}

#[tokio::test]
async fn connect_announces_what_may_be_sent_to_the_device() {
    let (_, _, connect) = Peer::new().await.take().await;
    assert_eq!((&*connect.client_id, connect.keep_alive), ("d:org001:lamp:lamp1", 60));
    let properties = connect.properties.unwrap();
    let limits = (properties.receive_maximum, properties.max_packet_size, properties.topic_alias_max);
    assert_eq!(limits, (Some(128), Some(200_000), Some(0)));
}

#[tokio::test]
async fn a_session_that_the_broker_still_had_is_known() {
    let (.., event) = Peer::new().await.answer(&[0x20, 3, 1, 0, 0]).await;
    assert!(matches!(event, LinkEvent::Connected { session_present: true }), "{event:?}");
}

#[tokio::test]
async fn a_refused_connection_is_told_in_words() {
    for (code, expected, words) in [
        (0x86, Lost::Credentials, "bad user name or password (0x86)"),
        (0x87, Lost::Credentials, "not authorised (0x87)"),
        (0x8A, Lost::Credentials, "banned"),
        (0x84, Lost::Other, "write mqtt_version = 4"),
        (0x85, Lost::Other, "client id"),
        (0x88, Lost::Other, "not available"),
        (0x89, Lost::Other, "busy"),
        (0x97, Lost::Other, "quota exceeded"),
    ] {
        let (.., event) = Peer::new().await.answer(&[0x20, 3, 0, code, 0]).await;
        let LinkEvent::Lost(lost, reason) = event else { panic!("{event:?}") };
        assert_eq!(lost, expected, "{code:#x}");
        assert!(reason.starts_with("the broker refused") && reason.contains(words), "{reason}");
    }
}

/// rumqttc takes a CONNACK of two bytes, as 3.1.1 has it, for the beginning of a longer one.
#[tokio::test]
async fn a_broker_of_3_1_1_is_told_from_one_that_is_away() {
    let (mut connection, mut client, _) = Peer::new().await.take().await;
    client.say(&[0x20, 2, 0, 1]).await;
    drop(client);
    let (_, reason) = lost(&mut *connection).await;
    let words = "it may not speak MQTT 5: write mqtt_version = 4; does it want TLS?";
    assert!(reason.ends_with(words), "{reason}");
}

#[tokio::test]
async fn a_broker_that_the_device_cannot_use_is_left_with_a_reason() {
    for (property, words) in [
        (&[36, 0][..], "QoS 0 only"),
        (&[33, 0, 0], "receive maximum is 0"),
        (&[40, 0], "no subscriptions with wildcards"),
    ] {
        let length = u8::try_from(property.len()).unwrap();
        let connack = [&[0x20, 3 + length, 0, 0, length], property].concat();
        let (.., event) = Peer::new().await.answer(&connack).await;
        assert!(matches!(&event, LinkEvent::Lost(Lost::Other, text) if text.contains(words)), "{event:?}");
    }
}

#[tokio::test]
async fn the_reason_of_a_disconnect_is_told_in_words() {
    for (code, expected, words) in [
        (0x8E, Lost::Closed, "another client connected with this device's id"),
        (0x89, Lost::Other, "busy"),
        (0x87, Lost::Credentials, "not authorised"),
        (0x95, Lost::Other, "a packet was larger than it takes"),
        (0x8B, Lost::Other, "shutting down"),
        (0x00, Lost::Other, "ended the connection"),
    ] {
        let (mut connection, mut client) = Peer::new().await.connected().await;
        client.say(&[0xE0, 2, code, 0]).await;
        let (lost, reason) = lost(&mut *connection).await;
        assert_eq!(lost, expected, "{code:#x}");
        assert!(reason.contains(words), "{reason}");
    }
}

#[tokio::test]
async fn the_brokers_own_words_stand_behind_the_reason() {
    let (mut connection, mut client) = Peer::new().await.connected().await;
    client.say(b"\xE0\x09\x98\x07\x1F\x00\x04bye\n").await;
    let (_, reason) = lost(&mut *connection).await;
    assert!(reason.ends_with("its administrator wanted that (0x98); it says \"bye\\n\""), "{reason}");
}

/// mosquitto 2.0 leaves the length out, and rumqttc 0.25.1 then waits for more: the reason cannot be read, the end can.
#[tokio::test]
async fn a_disconnect_without_a_length_of_properties_is_the_end_of_the_connection_all_the_same() {
    for (disconnect, expected) in [(&[0xE0, 1, 0x8E][..], Lost::Closed), (&[0xE0, 0], Lost::Other)] {
        let (mut connection, mut client) = Peer::new().await.connected().await;
        client.say(disconnect).await;
        drop(client);
        let (lost, reason) = lost(&mut *connection).await;
        assert_eq!(lost, expected);
        assert!(reason.starts_with("the broker"), "{reason}");
    }
}

#[tokio::test]
async fn a_publish_that_is_refused_is_told_with_its_reason_and_the_others_arrive() {
    let (mut connection, mut client) = Peer::new().await.connected().await;
    for id in 1..=3 {
        connection.publish(PublishId(id), "iotdevice-1/response".into(), Bytes::from_static(b"{}"));
        let Packet::Publish(publish) = client.read().await else { panic!("no PUBLISH") };
        assert_eq!((publish.qos, publish.retain), (QoS::AtLeastOnce, false));
        let [high, low] = publish.pkid.to_be_bytes();
        match id {
            1 => client.say(&[0x40, 3, high, low, 0x87]).await,
            // Nobody has subscribed to it: the broker has taken it.
            2 => client.say(&[0x40, 4, high, low, 0x10, 0]).await,
            _ => client.say(&[0x40, 2, high, low]).await,
        }
    }
    let event = within(connection.next()).await;
    let is_first =
        |id: &PublishId, reason: &str| *id == PublishId(1) && reason.contains("not authorised (0x87)");
    assert!(matches!(&event, LinkEvent::Refused(id, reason) if is_first(id, reason)), "{event:?}");
    for id in 2..=3 {
        let event = within(connection.next()).await;
        assert!(matches!(event, LinkEvent::Published(PublishId(arrived)) if arrived == id), "{event:?}");
    }
}

/// rumqttc would end the connection for it, on every connection anew.
#[tokio::test]
async fn what_is_larger_than_the_broker_takes_is_refused_here_and_the_connection_holds() {
    let (mut connection, mut client, _) =
        Peer::new().await.answer(&[0x20, 8, 0, 0, 5, 39, 0, 0, 0, 100]).await;
    // Fixed header 2, topic 2 + 20, identifier 2, properties 1, payload.
    for (id, bytes) in [(1, 73), (2, 74)] {
        let payload = Bytes::from(vec![b'x'; bytes]);
        connection.publish(PublishId(id), "iotdevice-1/response".into(), payload);
    }
    let event = within(connection.next()).await;
    let text = "101 bytes, and the broker takes packets of 100";
    assert!(matches!(&event, LinkEvent::Refused(PublishId(2), reason) if reason == text), "{event:?}");
    let Packet::Publish(publish) = client.read().await else { panic!("no PUBLISH") };
    client.say(&[0x40, 2, 0, u8::try_from(publish.pkid).unwrap()]).await;
    let event = within(connection.next()).await;
    assert!(matches!(event, LinkEvent::Published(PublishId(1))), "{event:?}");
}

#[tokio::test]
async fn the_time_that_a_request_waited_is_what_is_missing_of_its_expiry() {
    let hour = Some(Duration::from_secs(3600));
    for (request_expiry, left, waited) in [
        (hour, Some(3480), Some(Duration::from_secs(120))),
        (hour, Some(3600), Some(Duration::ZERO)),
        (hour, Some(3601), None),
        (hour, None, None),
        (None, Some(3480), None),
    ] {
        let options = Mqtt5 { session_expiry: None, request_expiry };
        let (mut connection, mut client) = Peer::with(options, |_| {}).await.connected().await;
        client.publish(1, left, b"{}").await;
        let event = within(connection.next()).await;
        let LinkEvent::Message { packet: Some(1), waited: counted, .. } = event else { panic!("{event:?}") };
        assert_eq!(counted, waited, "{left:?} left of {request_expiry:?}");
    }
}

#[tokio::test]
async fn acknowledgements_leave_in_the_order_in_which_they_are_given() {
    let (mut connection, mut client) = Peer::new().await.connected().await;
    for packet in [7, 3, 9] {
        client.publish(packet, None, b"{}").await;
        within(connection.next()).await;
        connection.acknowledge(packet);
    }
    for packet in [7, 3, 9] {
        assert_eq!(client.read().await, Packet::PubAck(PubAck::new(packet, None)));
    }
}

/// A trap of rumqttc that costs time and nothing else: the broker acknowledges by itself.
#[tokio::test]
async fn while_the_brokers_receive_maximum_is_used_up_acknowledgements_wait_behind_it() {
    let (mut connection, mut client, _) = Peer::new().await.answer(&[0x20, 6, 0, 0, 3, 33, 0, 1]).await;
    connection.publish(PublishId(1), "iotdevice-1/response".into(), Bytes::new());
    connection.publish(PublishId(2), "iotdevice-1/response".into(), Bytes::new());
    connection.acknowledge(5);
    let Packet::Publish(first) = client.read().await else { panic!("no PUBLISH") };
    client.say(&[0x40, 2, 0, u8::try_from(first.pkid).unwrap()]).await;
    let Packet::Publish(second) = client.read().await else { panic!("no PUBLISH") };
    client.say(&[0x40, 2, 0, u8::try_from(second.pkid).unwrap()]).await;
    assert_eq!(client.read().await, Packet::PubAck(PubAck::new(5, None)));
}

/// The broker was told the limit; one that does not keep to it would send the message with every connection, for ever.
#[tokio::test]
async fn a_message_above_the_announced_size_is_taken_on_the_next_connection() {
    let mut peer = Peer::new().await;
    let payload = vec![b'x'; 300_000];
    let (mut connection, mut client) = peer.connected().await;
    let sent = tokio::spawn(async move {
        // The device may be gone before all of it is written.
        let _ = client.stream.write_all(&[0x32, 0xE0, 0xA7, 0x12]).await;
        let _ = client.stream.write_all(&[0; 1000]).await;
        client
    });
    assert_eq!(lost(&mut *connection).await.0, Lost::Other);
    drop(sent.await.unwrap());

    let (mut connection, mut client, connect) = peer.take().await;
    assert_eq!(connect.properties.unwrap().max_packet_size, Some(16 * 1024 * 1024));
    client.say(CONNACK).await;
    within(connection.next()).await;
    client.publish(1, None, &payload).await;
    let event = within(connection.next()).await;
    assert!(matches!(&event, LinkEvent::Message { payload, .. } if payload.len() == 300_000), "{event:?}");
}

/// rumqttc obeys at once, and would take the second PINGREQ of the same moment for an unanswered first one.
#[tokio::test]
async fn a_broker_that_wants_no_keep_alive_does_not_end_the_connection() {
    let (mut connection, mut client, event) = Peer::new().await.answer(&[0x20, 6, 0, 0, 3, 19, 0, 0]).await;
    assert!(matches!(event, LinkEvent::Connected { .. }), "{event:?}");
    assert!(matches!(client.read().await, Packet::PingReq(_)));
    client.say(&[0xD0, 0]).await;
    client.publish(1, None, b"{}").await;
    within(connection.next()).await;
    connection.acknowledge(1);
    assert_eq!(client.read().await, Packet::PubAck(PubAck::new(1, None)), "and no other PINGREQ");
}

#[tokio::test]
async fn a_refused_subscription_is_told() {
    for (code, expected) in [(0x01, true), (0x87, false), (0x97, false)] {
        let (mut connection, mut client) = Peer::new().await.connected().await;
        connection.subscribe(&["iotdm-1/#".into()]);
        let Packet::Subscribe(subscribe) = client.read().await else { panic!("no SUBSCRIBE") };
        client.say(&[0x90, 4, 0, u8::try_from(subscribe.pkid).unwrap(), 0, code]).await;
        let event = within(connection.next()).await;
        assert!(
            matches!(event, LinkEvent::Subscribed { granted, .. } if granted == expected),
            "{code:#x}: {event:?}"
        );
    }
}

#[tokio::test]
async fn the_token_does_not_show_in_debug() {
    let mut peer = Peer::new().await;
    peer.link.options.set_credentials(USER_NAME, "s3cr3t");
    assert!(!format!("{:?}", peer.link).contains("s3cr3t"));
}

/// The driver may hand something over after the poller has met the end and before it was told of it. That another client
/// took the id is what makes the pauses long.
#[tokio::test]
async fn with_mqtt_5_too_the_reason_that_the_poller_left_is_told() {
    let (client, _) = AsyncClient::new(MqttOptions::new("d:org001:lamp:lamp1", "127.0.0.1", 1), 1);
    let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
    let mut connection = Mqtt5Connection {
        client,
        receiver,
        submitted: Arc::default(),
        refused: VecDeque::new(),
        largest: Arc::new(AtomicU32::new(u32::MAX)),
        task: tokio::spawn(std::future::pending()),
        broken: Some("the connection takes nothing more"),
    };
    events.send(LinkEvent::Connected { session_present: true }).await.unwrap();
    events.send(LinkEvent::Lost(Lost::Closed, "taken".into())).await.unwrap();
    assert_eq!(lost(&mut connection).await, (Lost::Closed, "taken".into()));
}

/// rumqttc would keep the topic of each alias as long as the connection lasts, and lift no finger at the others.
#[tokio::test]
async fn what_no_broker_of_mqtt_5_may_send_ends_the_connection() {
    let alias = [&[0x32, 19, 0, 9][..], b"iotdm-1/x", &[0, 1, 3, 35, 0, 1], b"{}"].concat();
    for (bytes, words) in [
        (&*alias, "topic alias"),
        (CONNACK, "a second CONNACK"),
        (&[0x90, 4, 0, 1, 0, 1], "a SUBACK that nobody asked for"),
    ] {
        let (mut connection, mut client) = Peer::new().await.connected().await;
        client.say(bytes).await;
        let (lost, reason) = lost(&mut *connection).await;
        assert_eq!(lost, Lost::Other);
        assert!(reason.contains(words), "{reason}");
    }
}

/// A takeover becomes a reset when something was on its way.
#[tokio::test]
async fn a_connection_that_was_reset_counts_as_one_that_the_broker_closed() {
    let (mut connection, client) = Peer::new().await.connected().await;
    connection.publish(PublishId(1), "iotdevice-1/response".into(), Bytes::from_static(b"{}"));
    // Closed with something unread, a socket answers with a reset.
    within(client.stream.readable()).await.unwrap();
    drop(client);
    assert_eq!(lost(&mut *connection).await.0, Lost::Closed);
}

/// Who is no broker cannot make the device take large packets.
#[tokio::test]
async fn a_length_announced_in_place_of_connack_opens_no_room_on_the_next_connection() {
    let mut peer = Peer::new().await;
    let (mut connection, mut client, _) = peer.take().await;
    client.say(&[0x20, 0xE0, 0xA7, 0x12]).await;
    drop(client);
    let waiting = tokio::spawn(async move { lost(&mut *connection).await });
    // The look at who is there.
    drop(within(peer.listener.accept()).await.unwrap());
    waiting.await.unwrap();
    let (_, _, connect) = peer.take().await;
    assert_eq!(connect.properties.unwrap().max_packet_size, Some(200_000));
}

#[tokio::test]
async fn a_captive_portal_is_named_with_mqtt_5_too() {
    const PORTAL: &[u8] = b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/login?mac=1\r\nCache-Control: no-store\r\n\r\n";
    let mut peer = Peer::new().await;
    let (mut connection, mut client, _) = peer.take().await;
    client.say(PORTAL).await;
    let waiting = tokio::spawn(async move { lost(&mut *connection).await });
    let (mut look, _) = within(peer.listener.accept()).await.unwrap();
    let mut question = vec![0; 1024];
    let read = within(look.read(&mut question)).await.unwrap();
    assert_eq!(question[..read], *b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    look.write_all(PORTAL).await.unwrap();
    let (lost, reason) = waiting.await.unwrap();
    assert_eq!(lost, Lost::Other);
    assert!(reason.ends_with("to http://portal.example/login; a captive portal?"), "{reason}");
}
