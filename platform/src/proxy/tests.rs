use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::*;
use crate::broker::tests::client::{Client, DEVICE, PLATFORM, broker, gone, options, send};

/// A listener and a connection to it through a proxy: the client's end and the server's end.
async fn through() -> (FaultProxy, TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = FaultProxy::start(listener.local_addr().unwrap()).await.unwrap();
    let client = TcpStream::connect(proxy.local_addr()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (server, _) = listener.accept().await.unwrap();
    server.set_nodelay(true).unwrap();
    (proxy, listener, client, server)
}

async fn read_all(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset after the data is as good an end as any.
    let _ = socket.read_to_end(&mut bytes).await;
    bytes
}

async fn silent(socket: &mut TcpStream) -> bool {
    timeout(Duration::from_secs(60), socket.read(&mut [0; 1])).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn bytes_and_the_end_of_a_connection_pass_in_both_directions() {
    let (proxy, _listener, mut client, mut server) = through().await;
    client.write_all(b"up").await.unwrap();
    server.write_all(b"down!").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, b"up");
    drop(server);
    assert_eq!(read_all(&mut client).await, b"down!");
    assert_eq!((proxy.bytes(Direction::Up), proxy.bytes(Direction::Down), proxy.connections()), (2, 5, 1));
}

#[tokio::test(start_paused = true)]
async fn a_cut_comes_after_exactly_the_bytes_asked_for() {
    for count in [0, 1, 99_999, 200_000] {
        let (proxy, _listener, mut client, mut server) = through().await;
        proxy.cut_after_bytes(Direction::Up, count);
        let sent = async {
            let _ = client.write_all(&vec![7; 200_001]).await;
            read_all(&mut client).await
        };
        let (_, received) = tokio::join!(sent, read_all(&mut server));
        assert_eq!(received.len() as u64, count);
        assert_eq!(proxy.bytes(Direction::Up), count);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_ends_both_sides() {
    let (proxy, _listener, mut client, mut server) = through().await;
    proxy.cut();
    assert_eq!(read_all(&mut client).await, b"");
    assert_eq!(read_all(&mut server).await, b"");
}

#[tokio::test(start_paused = true)]
async fn a_half_open_connection_is_silent_in_one_direction_only() {
    let (proxy, _listener, mut client, mut server) = through().await;
    proxy.half_open(Direction::Up, true);
    client.write_all(b"lost").await.unwrap();
    server.write_all(b"arrives").await.unwrap();
    let mut arrived = [0; 7];
    client.read_exact(&mut arrived).await.unwrap();
    assert!(silent(&mut server).await);
    // A stream with a hole in it stays silent, and its end is not told either.
    proxy.half_open(Direction::Up, false);
    client.write_all(b"later").await.unwrap();
    drop(client);
    assert!(silent(&mut server).await);
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_the_same_for_every_byte_and_keeps_the_order() {
    let (proxy, _listener, mut client, mut server) = through().await;
    proxy.delay(Duration::from_secs(3));
    let begin = Instant::now();
    let mut arrived = [0; 3];
    client.write_all(b"one").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.write_all(b"two").await.unwrap();
    server.read_exact(&mut arrived).await.unwrap();
    assert_eq!((&arrived, begin.elapsed()), (b"one", Duration::from_secs(3)));
    server.read_exact(&mut arrived).await.unwrap();
    assert_eq!((&arrived, begin.elapsed()), (b"two", Duration::from_secs(4)));
}

#[tokio::test(start_paused = true)]
async fn a_refusing_proxy_closes_what_it_accepts() {
    let broker = broker().await;
    let proxy = FaultProxy::start(broker.local_addr()).await.unwrap();
    proxy.refuse(true);
    assert!(Client::connect(options(proxy.local_addr(), DEVICE)).await.is_err());
    proxy.refuse(false);
    Client::durable(proxy.local_addr(), DEVICE).await;
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_proxy_cuts_its_connections() {
    let (proxy, _listener, mut client, mut server) = through().await;
    drop(proxy);
    assert_eq!(read_all(&mut client).await, b"");
    assert_eq!(read_all(&mut server).await, b"");
}

#[tokio::test(start_paused = true)]
async fn wherever_a_delivery_is_cut_the_session_delivers_it_again() {
    for cut_at in 1..60 {
        let broker = broker().await;
        let proxy = FaultProxy::start(broker.local_addr()).await.unwrap();
        let mut device = Client::durable(proxy.local_addr(), DEVICE).await;
        device.subscribe("iotdm-1/#").await;
        proxy.cut_after_bytes(Direction::Down, cut_at);
        send(&broker, 1..=4);
        device.lost().await;
        gone(&broker, DEVICE).await;
        let mut device = Client::durable(proxy.local_addr(), DEVICE).await;
        assert_eq!(device.ack_messages(4).await, ["1 #1 dup", "2 #2 dup", "3 #3 dup", "4 #4 dup"]);
        broker.drained(DEVICE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_is_detected_by_keep_alive_on_both_sides() {
    let broker = broker().await;
    let proxy = FaultProxy::start(broker.local_addr()).await.unwrap();
    let mut watcher = Client::durable(broker.local_addr(), PLATFORM).await;
    let mut device = Client::durable(proxy.local_addr(), DEVICE).await;
    device.subscribe("iotdm-1/#").await;
    let begin = Instant::now();
    proxy.black_hole(true);
    send(&broker, [1]);

    // The device's keep-alive is 60 s: the broker waits 90 s, rumqttc for the answer to its first ping.
    gone(&broker, DEVICE).await;
    assert_eq!(begin.elapsed().as_secs(), 90);
    device.lost().await;
    assert_eq!(begin.elapsed().as_secs(), 120);
    assert_eq!(broker.stats().violations, 1);

    proxy.black_hole(false);
    let mut device = Client::durable(proxy.local_addr(), DEVICE).await;
    assert!(device.session_present);
    assert_eq!(device.ack_messages(1).await, ["1 #1 dup"]);
    watcher.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_line_takes_its_time_for_all_that_it_carries_each_way() {
    let (proxy, _listener, mut client, mut server) = through().await;
    proxy.slow(1_000);
    let began = Instant::now();
    client.write_all(&[1; 3_000]).await.unwrap();
    server.write_all(&[2; 2_000]).await.unwrap();
    let mut received = [0; 3_000];
    client.read_exact(&mut received[..2_000]).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 2);
    server.read_exact(&mut received).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 3);
    // What comes later does not overtake, and does not pay for what came before.
    client.write_all(&[1; 500]).await.unwrap();
    server.read_exact(&mut received[..500]).await.unwrap();
    assert_eq!(began.elapsed().as_millis(), 3_500);
}
