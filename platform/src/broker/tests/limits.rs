use std::collections::BTreeMap;
use std::time::Duration;

use rumqttc::{LastWill, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::client::*;
use crate::broker::{Authentication, Mount, PublishError};

#[tokio::test(start_paused = true)]
async fn the_largest_payload_passes_and_one_byte_more_closes_the_connection() {
    let broker = broker().await;
    let mut platform = Client::durable(broker.local_addr(), PLATFORM).await;
    platform.subscribe("devices/#").await;
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    device.publish("up", vec![b'x'; 131_072]).await;
    device.puback().await;
    assert_eq!(platform.message().await.payload.len(), 131_072);

    device.publish("up", vec![b'x'; 131_073]).await;
    device.lost().await;
    platform.expect_quiet().await;
    assert_eq!(broker.stats().violations, 1);
    let own = broker.publish("up", vec![b'x'; 131_073], QoS::AtLeastOnce, false);
    assert_eq!(own, Err(PublishError::PayloadTooLarge { bytes: 131_073, limit: 131_072 }));
}

#[tokio::test(start_paused = true)]
async fn a_packet_that_announces_more_than_any_publish_closes_the_connection_unread() {
    let broker = broker().await;
    let mut socket = TcpStream::connect(broker.local_addr()).await.unwrap();
    socket.write_all(&[0x30, 0xff, 0xff, 0xff, 0x7f]).await.unwrap();
    assert_eq!(socket.read(&mut [0; 8]).await.unwrap(), 0);
    broker.wait_until(|broker| broker.stats().violations == 1).await;
}

#[tokio::test(start_paused = true)]
async fn bad_credentials_are_answered_as_such() {
    let broker = broker_with(|options| {
        let users = BTreeMap::from([("use-token-auth".to_owned(), "secret".to_owned())]);
        options.authentication = Authentication::Users(users);
    })
    .await;
    for (password, admitted) in [("secret", true), ("wrong", false)] {
        let mut options = options(broker.local_addr(), DEVICE);
        options.set_credentials("use-token-auth", password);
        let outcome = Client::connect(options).await.map(|_| ());
        assert_eq!(outcome.is_ok(), admitted, "{outcome:?}");
        if let Err(error) = outcome {
            assert!(error.contains("BadUserNamePassword"), "{error}");
        }
    }
    assert!(Client::connect(options(broker.local_addr(), DEVICE)).await.is_err());
    broker.wait_until(|broker| broker.stats().refused == 2).await;
}

#[tokio::test(start_paused = true)]
async fn rules_of_the_caller_decide_who_is_admitted_and_where_a_client_lives() {
    let broker = broker_with(|options| {
        options.authentication = Authentication::custom(|applicant| applicant.client_id != "nobody");
        options.mount = Mount::custom(|applicant| Some(format!("{}/", applicant.client_id)));
    })
    .await;
    assert!(Client::connect(options(broker.local_addr(), "nobody")).await.is_err());
    let mut client = Client::durable(broker.local_addr(), "somebody").await;
    client.subscribe("x").await;
    assert_eq!(broker.publish("somebody/x", "hello", QoS::AtLeastOnce, false), Ok(1));
    assert_eq!(client.message().await.topic, "x");
}

#[tokio::test(start_paused = true)]
async fn a_malformed_device_id_is_refused() {
    let broker = broker().await;
    let refused = Client::connect(options(broker.local_addr(), "d:org:pump:+")).await.map(|_| ());
    assert!(refused.clone().is_err_and(|error| error.contains("BadClientId")), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn one_and_a_half_keep_alives_of_silence_end_a_connection() {
    let broker = broker().await;
    let mut socket = TcpStream::connect(broker.local_addr()).await.unwrap();
    socket.set_nodelay(true).unwrap();
    // CONNECT, MQTT 3.1.1, clean session, keep-alive 10 s, client id "raw".
    let connect = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x0a\x00\x03raw";
    socket.write_all(connect).await.unwrap();
    let mut connack = [0; 4];
    socket.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    let connected = Instant::now();
    tokio::time::sleep(Duration::from_secs(10)).await;
    socket.write_all(&[0xc0, 0]).await.unwrap();
    socket.read_exact(&mut [0; 2]).await.unwrap();
    assert_eq!(socket.read(&mut [0; 8]).await.unwrap(), 0);
    let lasted = connected.elapsed();
    assert!((Duration::from_secs(25)..Duration::from_millis(25_010)).contains(&lasted), "{lasted:?}");
    broker.wait_until(|broker| broker.stats().violations == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_closed() {
    let broker = broker().await;
    let mut socket = TcpStream::connect(broker.local_addr()).await.unwrap();
    assert_eq!(socket.read(&mut [0; 8]).await.unwrap(), 0);
    broker.wait_until(|broker| broker.stats().violations == 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_does_not_offer_closes_the_connection_or_is_ignored() {
    let broker = broker().await;
    let mut with_will = options(broker.local_addr(), DEVICE);
    with_will.set_last_will(LastWill::new("gone", "will", QoS::AtLeastOnce, false));
    let mut device = Client::connect(with_will).await.unwrap();
    let mut platform = Client::durable(broker.local_addr(), PLATFORM).await;
    platform.subscribe("#").await;
    device.handle.publish("up", QoS::ExactlyOnce, false, "twice").await.unwrap();
    device.lost().await;
    platform.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_closes_the_port_and_every_connection() {
    let broker = broker().await;
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    broker.shutdown().await;
    device.lost().await;
    assert!(TcpStream::connect(broker.local_addr()).await.is_err());
    broker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_broker_closes_its_connections() {
    let broker = broker().await;
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    drop(broker);
    device.lost().await;
}
