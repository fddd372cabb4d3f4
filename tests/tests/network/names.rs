//! Names: looked up at each connection, all addresses tried, and a name server that never answers.
//!
//! What `/etc/hosts` and `/etc/resolv.conf` say is the same for the whole machine, so these run in a mount namespace of
//! their own, which only root may make: `cargo test -p iotdm-tests --test network names -- --ignored`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::stranger::*;

/// Runs this test again where `/etc/hosts` and `/etc/resolv.conf` are its own; whether it is there already.
#[expect(clippy::disallowed_methods, reason = "a program of the test's")]
fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    for file in ["hosts", "resolv.conf"] {
        fs::write(folder.path().join(file), "").expect("the temporary folder can be written");
    }
    let script = "mount --bind $1/hosts /etc/hosts && mount --bind $1/resolv.conf /etc/resolv.conf && shift && exec \"$@\"";
    let ended = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(folder.path())
        .arg(std::env::current_exe().expect("a test has a file"))
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(ALONE, "1")
        .status();
    assert!(ended.expect("there is unshare").success());
    false
}

/// Set where the test has these files to itself.
const ALONE: &str = "IOTDM_TEST_NAMES_ALONE";

fn hosts(text: &str) {
    fs::write("/etc/hosts", text).expect("root may write it");
}

async fn broker() -> Stranger {
    Stranger::who(|stream| say(stream, CONNACK.to_vec())).await
}

#[tokio::test]
#[ignore = "needs root: a mount namespace"]
async fn a_name_is_looked_up_anew_for_each_connection() {
    if !is_alone("names::a_name_is_looked_up_anew_for_each_connection") {
        return;
    }
    let broker = broker().await;
    let mut config = broker.config();
    config.broker.host = "broker.test".into();
    hosts("");
    // A name server that refuses: there is none on this port.
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
    let said = broker.meets(&config).await.said;
    assert!(said.starts_with("the name broker.test cannot be resolved"), "{said}");
    hosts("127.0.0.9 broker.test\n");
    let said = broker.meets(&config).await.said;
    assert!(said.starts_with("nothing listens at port"), "{said}");
    hosts("127.0.0.1 broker.test\n");
    let mut link = iotdm_agent::link::MqttLink::new(&config).unwrap();
    let mut connection = iotdm_agent::link::Link::open(&mut link);
    let event = connection.next().await;
    assert!(matches!(event, iotdm_agent::link::LinkEvent::Connected { .. }), "{event:?}");
}

#[tokio::test]
#[ignore = "needs root: a mount namespace"]
async fn the_other_addresses_of_a_name_are_tried_when_the_first_refuses() {
    if !is_alone("names::the_other_addresses_of_a_name_are_tried_when_the_first_refuses") {
        return;
    }
    let broker = broker().await;
    assert_eq!(broker.address.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut config = broker.config();
    config.broker.host = "dual.test".into();
    hosts("::1 dual.test\n127.0.0.9 dual.test\n127.0.0.1 dual.test\n");
    let mut link = iotdm_agent::link::MqttLink::new(&config).unwrap();
    let mut connection = iotdm_agent::link::Link::open(&mut link);
    let event = connection.next().await;
    assert!(matches!(event, iotdm_agent::link::LinkEvent::Connected { .. }), "{event:?}");
}

/// In real time: the look-up is a blocking call of the C library, on a thread of its own.
#[tokio::test]
#[ignore = "needs root: a mount namespace"]
async fn a_name_server_that_never_answers_stalls_nothing_and_is_named_within_26_s() {
    if !is_alone("names::a_name_server_that_never_answers_stalls_nothing_and_is_named_within_26_s") {
        return;
    }
    let mute = UdpSocket::bind("127.0.0.53:53").expect("root may bind port 53");
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.53\noptions timeout:30 attempts:1\n").unwrap();
    let broker = broker().await;
    let mut config = broker.config();
    config.broker.host = "broker.test".into();
    let began = Instant::now();
    let ticks = tokio::spawn(async {
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            let before = Instant::now();
            sleep(Duration::from_millis(100)).await;
            longest = longest.max(before.elapsed());
        }
        longest
    });
    let said = broker.meets(&config).await.said;
    let (took, longest) = (began.elapsed(), ticks.await.unwrap());
    eprintln!(
        "given up after {took:?}; the runtime never stood still for more than {longest:?}; said: {said}"
    );
    assert!(took < Duration::from_secs(26) && longest < Duration::from_secs(2), "{took:?}, {longest:?}");
    assert_eq!(said, "the name broker.test is not resolved: no name server answers");
    drop(mute);
}
