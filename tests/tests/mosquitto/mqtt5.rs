//! MQTT 5 on mosquitto 2: the session and its expiry, the expiry of requests, and what is refused.

use std::time::Duration;

use bytes::Bytes;
use iotdm_agent::engine::{Lost, PublishId};
use iotdm_agent::link::{self, Connection, LinkEvent};
use iotdm_agent::{Mqtt5, Protocol, State};
use iotdm_tests::application::Application;
use iotdm_tests::device::Device;
use iotdm_tests::mosquitto::Mosquitto;
use iotdm_tests::within;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Requests of one absence: more than the window of mosquitto.
const REQUESTS: usize = 50;

const HOUR: Duration = Duration::from_secs(60 * 60);

fn device(mosquitto: &Mosquitto, session_expiry: Option<Duration>) -> Device {
    let options = Mqtt5 { session_expiry, request_expiry: Some(HOUR) };
    Device::new(mosquitto.port()).speaking(Protocol::Mqtt5(options))
}

/// The device is managed, and the application has seen it.
async fn managed(mosquitto: &Mosquitto, device: &mut Device) -> Application {
    let mut application = Application::connect(mosquitto.port()).await;
    device.start();
    application.attend(|seen| seen.manages == 1).await;
    let mut state = device.product().state();
    within("state", state.wait_for(|state| *state == State::Managed)).await.expect("the agent runs");
    application
}

/// A connection of this device's link, made and subscribed; and whether the broker had its session.
async fn connected(device: &Device) -> (Box<dyn Connection>, bool) {
    let mut connection = link::of(&device.config()).expect("there is no TLS").open();
    let event = within("CONNACK", connection.next()).await;
    let LinkEvent::Connected { session_present } = event else { panic!("{event:?}") };
    connection.subscribe(&["iotdm-1/#".into()]);
    (connection, session_present)
}

/// Begins the session of this device, and goes away without a word.
async fn away(device: &Device) {
    let (mut connection, present) = connected(device).await;
    let event = within("SUBACK", connection.next()).await;
    assert!(!present && matches!(event, LinkEvent::Subscribed { granted: true, .. }), "{event:?}");
}

/// The next event that is no SUBACK.
async fn event(connection: &mut dyn Connection) -> LinkEvent {
    loop {
        match within("event", connection.next()).await {
            LinkEvent::Subscribed { granted, .. } => assert!(granted),
            event => return event,
        }
    }
}

/// Publishes requests with an expiry, and waits until the broker has them.
async fn publish(mosquitto: &Mosquitto, expiry: Option<Duration>, payloads: &[Vec<u8>]) {
    let (client, mut event_loop) =
        AsyncClient::new(MqttOptions::new("a:org001:v5", "127.0.0.1", mosquitto.port()), 64);
    let seconds = expiry.map(|expiry| u32::try_from(expiry.as_secs()).expect("it is an hour"));
    for payload in payloads {
        let properties = PublishProperties { message_expiry_interval: seconds, ..Default::default() };
        let topic = "iotdm-1/mgmt/custom/bench/echo";
        let result =
            client.try_publish_with_properties(topic, QoS::AtLeastOnce, false, payload.clone(), properties);
        result.expect("fewer messages wait than the channel holds");
    }
    for _ in payloads {
        let acknowledged =
            async { while !matches!(event_loop.poll().await, Ok(Event::Incoming(Packet::PubAck(_)))) {} };
        within("PUBACK", acknowledged).await;
    }
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_with_mqtt_5_requests_of_an_absence_are_answered_after_a_stop_and_after_a_kill() {
    let mosquitto = Mosquitto::start();
    let mut device = device(&mosquitto, None);
    let mut application = managed(&mosquitto, &mut device).await;
    for absence in 1..=2 {
        if absence == 1 {
            device.stop().await
        } else {
            device.kill().await
        }
        let req_ids: Vec<String> = (0..REQUESTS).map(|number| format!("{absence}-{number}")).collect();
        for req_id in &req_ids {
            application.bench("echo", req_id, "");
        }
        application.acknowledged().await;
        device.start();
        let seen = application.attend(|seen| req_ids.iter().all(|id| seen.responses.contains_key(id))).await;
        assert!(req_ids.iter().all(|id| seen.responses[id][0]["rc"] == 200));
        application.attend(|seen| seen.manages == 1 + absence).await;
    }
    device.stop().await;
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_with_mqtt_5_what_was_not_acknowledged_comes_again_with_the_next_connection() {
    let mosquitto = Mosquitto::start();
    let device = device(&mosquitto, None);
    away(&device).await;
    let payloads: Vec<Vec<u8>> =
        (0..3).map(|number| format!("{{\"reqId\":{number}}}").into_bytes()).collect();
    publish(&mosquitto, Some(HOUR), &payloads).await;
    for (acknowledges, expected) in [(true, 3), (false, 2), (false, 2)] {
        let (mut connection, present) = connected(&device).await;
        assert!(present);
        for place in 0..expected {
            let event = event(&mut *connection).await;
            let LinkEvent::Message { packet: Some(packet), payload, .. } = event else { panic!("{event:?}") };
            assert_eq!(payload, payloads[3 - expected + place], "in the order in which they were sent");
            if acknowledges && place == 0 {
                connection.acknowledge(packet);
            }
        }
        // Answered in order: what was acknowledged before it has arrived.
        connection.publish(PublishId(1), "iotdevice-1/response".into(), Bytes::from_static(b"{}"));
        assert!(matches!(event(&mut *connection).await, LinkEvent::Published(_)));
    }
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_with_mqtt_5_a_session_ends_with_its_expiry_and_not_before() {
    for (expiry, present) in [(Duration::from_secs(1), false), (HOUR, true)] {
        let mosquitto = Mosquitto::start();
        let device = device(&mosquitto, Some(expiry));
        away(&device).await;
        // mosquitto looks for sessions that are over once a second.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let (_, found) = connected(&device).await;
        assert_eq!(found, present, "an expiry of {expiry:?}");
    }
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_with_mqtt_5_the_expiry_of_a_request_is_counted_down_while_it_waits() {
    let mosquitto = Mosquitto::start();
    let device = device(&mosquitto, None);
    away(&device).await;
    publish(&mosquitto, Some(HOUR), &[b"{}".to_vec()]).await;
    let published = tokio::time::Instant::now();
    for pause in [0, 3, 2] {
        tokio::time::sleep(Duration::from_secs(pause)).await;
        let (mut connection, _) = connected(&device).await;
        let event = event(&mut *connection).await;
        let LinkEvent::Message { waited: Some(waited), .. } = event else { panic!("{event:?}") };
        let truly = published.elapsed();
        println!("waited {waited:?} by mosquitto's count, {truly:?} truly");
        // The count is of whole seconds at both ends.
        assert!(waited <= truly + Duration::from_secs(1), "{waited:?} of {truly:?}");
        assert!(waited + Duration::from_secs(2) >= truly, "{waited:?} of {truly:?}");
    }
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_with_mqtt_5_a_request_whose_expiry_is_over_never_arrives() {
    let mosquitto = Mosquitto::start();
    let device = device(&mosquitto, None);
    away(&device).await;
    publish(&mosquitto, Some(Duration::from_secs(1)), &[b"{\"reqId\":\"over\"}".to_vec()]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    publish(&mosquitto, Some(HOUR), &[b"{\"reqId\":\"live\"}".to_vec()]).await;
    let (mut connection, _) = connected(&device).await;
    let event = event(&mut *connection).await;
    assert!(
        matches!(&event, LinkEvent::Message { payload, .. } if payload == "{\"reqId\":\"live\"}"),
        "{event:?}"
    );
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_with_mqtt_5_a_request_above_the_announced_size_is_not_even_sent() {
    let mosquitto = Mosquitto::start();
    let mut device = device(&mosquitto, None);
    let mut application = managed(&mosquitto, &mut device).await;
    application.bench("echo", "too-large", &"x".repeat(250_000));
    application.bench("echo", "after", "");
    assert_eq!(application.response("after").await["rc"], 200);
    assert_eq!(application.seen().manages, 1, "the connection held");
    assert!(!application.seen().responses.contains_key("too-large"));
    device.stop().await;
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_with_mqtt_5_an_answer_that_the_broker_forbids_is_told_and_the_connection_holds() {
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let acl = folder.path().join("acl");
    std::fs::write(&acl, "topic read iotdm-1/#\ntopic write iotdevice-1/mgmt/#\n")
        .expect("it can be written");
    let mosquitto = Mosquitto::with_config(&format!("acl_file {}\n", acl.display()));
    let (mut connection, _) = connected(&device(&mosquitto, None)).await;
    connection.publish(PublishId(1), "iotdevice-1/response".into(), Bytes::from_static(b"{}"));
    connection.publish(PublishId(2), "iotdevice-1/mgmt/manage".into(), Bytes::from_static(b"{}"));
    let refused = event(&mut *connection).await;
    let is_it = |reason: &str| reason.contains("not authorised (0x87)");
    assert!(matches!(&refused, LinkEvent::Refused(PublishId(1), reason) if is_it(reason)), "{refused:?}");
    let taken = event(&mut *connection).await;
    assert!(matches!(taken, LinkEvent::Published(PublishId(2))), "{taken:?}");
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_with_mqtt_5_an_answer_above_the_brokers_limit_is_refused_here() {
    let mosquitto = Mosquitto::with_config("max_packet_size 2000\n");
    let (mut connection, _) = connected(&device(&mosquitto, None)).await;
    connection.publish(PublishId(1), "iotdevice-1/response".into(), Bytes::from(vec![b'x'; 2000]));
    connection.publish(PublishId(2), "iotdevice-1/response".into(), Bytes::from(vec![b'x'; 1900]));
    let refused = event(&mut *connection).await;
    assert!(matches!(&refused, LinkEvent::Refused(PublishId(1), _)), "{refused:?}");
    let taken = event(&mut *connection).await;
    assert!(matches!(taken, LinkEvent::Published(PublishId(2))), "{taken:?}");
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_with_mqtt_5_a_device_whose_session_is_taken_over_loses_its_connection_and_comes_back() {
    let mosquitto = Mosquitto::start();
    let mut device = device(&mosquitto, None);
    let mut application = managed(&mosquitto, &mut device).await;
    let (thief, present) = connected(&device).await;
    assert!(present);
    let mut state = device.product().state();
    within("takeover", state.wait_for(|state| *state == State::Disconnected)).await.expect("the agent runs");
    drop(thief);
    application.attend(|seen| seen.manages == 2).await;
    device.stop().await;
}

/// Why the log cannot say there that the session was taken over.
#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_with_mqtt_5_a_takeover_has_no_reason_and_an_error_one_that_rumqttc_cannot_read() {
    let mosquitto = Mosquitto::start();
    let mut first = raw_connection(mosquitto.port()).await;
    let mut second = raw_connection(mosquitto.port()).await;
    assert_eq!(rest(&mut first).await, [0; 0]);
    // PUBLISH with a topic alias above what it takes.
    second.write_all(b"\x30\x07\0\0\x03\x23\0\x63x").await.expect("it reads");
    assert_eq!(rest(&mut second).await, [0xE0, 1, 0x94], "DISCONNECT without a length of properties");
}

/// A client named `d`, connected with MQTT 5.
async fn raw_connection(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    stream.write_all(b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01d").await.expect("it reads");
    let mut header = [0; 2];
    stream.read_exact(&mut header).await.expect("it answers");
    let mut connack = vec![0; header[1].into()];
    stream.read_exact(&mut connack).await.expect("it answers");
    stream
}

/// What still comes on a connection.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    within("end of the connection", stream.read_to_end(&mut bytes)).await.expect("it is closed");
    bytes
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_with_mqtt_5_wrong_credentials_are_refused_credentials() {
    let mosquitto = Mosquitto::with_config("allow_anonymous false\n");
    let mut connection = link::of(&device(&mosquitto, None).config()).expect("there is no TLS").open();
    let event = within("CONNACK", connection.next()).await;
    assert!(matches!(event, LinkEvent::Lost(Lost::Credentials, _)), "{event:?}");
}
