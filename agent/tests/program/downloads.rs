//! Firmware over lines that break, fetched by the program that ships.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use iotdm_core::{FirmwareState, UpdateStatus};
use iotdm_platform::images::ImageServer;
use iotdm_platform::{FirmwareError, FirmwareRequest, Image};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::harness::{Place, World, lamp, within};

fn configuration(rest: &str) -> String {
    format!(
        "[actions.firmware]\nstaging_dir = \"images\"\ninstall_command = [\"/bin/true\", \"{{image}}\"]\n{rest}"
    )
}

pub(crate) fn request(server: &ImageServer) -> FirmwareRequest {
    let image =
        Image { version: "2.0".into(), uri: server.uri(), verifier: server.sha256(), ..Image::default() };
    FirmwareRequest { image: Some(image), ..FirmwareRequest::default() }
}

/// What the platform was told last: `state` and `updateStatus`.
pub(crate) fn told(world: &World) -> (FirmwareState, UpdateStatus) {
    let firmware =
        world.platform.device(&lamp()).and_then(|device| device.firmware).expect("it was notified");
    (firmware.state, firmware.update_status)
}

/// The small sister of `large_image` in the tests' crate, which does it with a gigabyte, ten cuts and two kills.
#[tokio::test]
async fn an_image_arrives_over_three_cuts_and_a_kill_and_nothing_is_fetched_in_vain() {
    let world = World::start().await;
    let server = ImageServer::start(8 << 20).await.unwrap();
    let cuts = [1_000_003, 2_222_222, 7_000_001];
    cuts[..2].iter().for_each(|cut| server.cut_at(*cut));
    // So that the kill meets a transfer on its way, and the last cut the life after it.
    let place = Place::new(world.broker.local_addr(), &configuration("bytes_per_second = 4_000_000\n"));
    let first = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let (lamp, request) = (lamp(), request(&server));
    let killing = async {
        within(server.reached(4_000_000)).await;
        first.signal(Signal::KILL);
        first.ended().await;
        server.cut_at(cuts[2]);
        place.start(&["run"])
    };
    let downloading = within(world.platform.firmware_download(&lamp, &request));
    let (downloaded, _second) = tokio::join!(downloading, killing);
    downloaded.unwrap();
    assert_eq!(told(&world), (FirmwareState::Downloaded, UpdateStatus::Success));
    let mut expected = Vec::new();
    server.write_to(&mut expected).unwrap();
    assert!(fs::read(place.path("images/image")).unwrap() == expected, "the image is another one");
    let transfers = server.transfers();
    let from: Vec<u64> = transfers.iter().map(|transfer| transfer.from).collect();
    assert!(cuts.iter().all(|cut| from.contains(cut)), "each goes on exactly where it was cut: {from:?}");
    assert_eq!(from.iter().filter(|from| **from == 0).count(), 1, "{from:?}");
}

/// Answers CONNECT and passes on what follows; gives out the heads of what it was asked.
async fn proxy() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (sender, heads) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.expect("the agent sends a head"));
                }
                let head = String::from_utf8(head).expect("a head is text");
                let target = head.split(' ').nth(1).expect("CONNECT names a target").to_owned();
                sender.send(head).expect("the test listens");
                client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.expect("the agent listens");
                let mut server = TcpStream::connect(target).await.expect("the server is there");
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, heads)
}

/// What stands in the environment of a service is not meant for images.
#[tokio::test]
async fn the_configured_proxy_is_asked_with_its_credentials_and_the_environments_is_not() {
    let (proxy, mut heads) = proxy().await;
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let environment = format!("http://{nobody}");
    let configured = format!("proxy = \"http://{proxy}\"\nproxy_credentials_file = \"pass\"\n");
    for rest in ["", &configured] {
        let world = World::start().await;
        let server = ImageServer::start(100_000).await.unwrap();
        let place = Place::new(world.broker.local_addr(), &configuration(rest));
        place.write("pass", "lamp-17:s3cr3t\n");
        let agent = place.start_with(&["run"], &[("https_proxy", &environment), ("ALL_PROXY", &environment)]);
        within(world.platform.managed(&lamp())).await;
        within(world.platform.firmware_download(&lamp(), &request(&server))).await.unwrap();
        assert_eq!(told(&world), (FirmwareState::Downloaded, UpdateStatus::Success), "{rest}");
        let head = heads.try_recv();
        assert_eq!(head.is_ok(), !rest.is_empty());
        if let Ok(head) = head {
            assert!(head.contains("Proxy-Authorization: Basic bGFtcC0xNzpzM2NyM3Q=\r\n"), "{head}");
        }
        let log = agent.stop().await.log;
        assert!(!log.contains("s3cr3t") && !log.contains("bGFtcC0xNzpzM2NyM3Q"), "{log}");
    }
}

#[tokio::test]
async fn a_configured_rate_is_kept() {
    let world = World::start().await;
    let server = ImageServer::start(300_000).await.unwrap();
    let place = Place::new(world.broker.local_addr(), &configuration("bytes_per_second = 100_000\n"));
    let _agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let begin = tokio::time::Instant::now();
    within(world.platform.firmware_download(&lamp(), &request(&server))).await.unwrap();
    // Three seconds, less the one that may be made up for. Nothing makes it faster.
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn with_public_keys_a_checksum_alone_is_refused() {
    let world = World::start().await;
    let server = ImageServer::start(1000).await.unwrap();
    let keys = "public_keys = [\"RWQiIBfklrKsRlsto5FOL4KB0F9OCBXTkNsgqO7jpi87yIxuLAyk1fZa\"]\n";
    let place = Place::new(world.broker.local_addr(), &configuration(keys));
    let _agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let result = within(world.platform.firmware_download(&lamp(), &request(&server))).await;
    let Err(FirmwareError::Ended { answer: Some(answer), .. }) = result else { panic!("{result:?}") };
    assert_eq!(answer.rc.as_u16(), 400);
    let message = String::from_utf8_lossy(&answer.payload);
    assert!(message.contains("takes only signed images"), "{message}");
    assert!(server.transfers().is_empty());
}
