//! How the program ends, and what it says then.

use std::net::{Ipv4Addr, SocketAddr};

use iotdm_platform::Request;
use iotdm_platform::broker::{Authentication, Broker, BrokerOptions};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::harness::{Place, World, lamp, nowhere, until, within};

#[tokio::test]
async fn sigterm_ends_with_0_and_a_disconnect() {
    let world = World::start().await;
    let (address, sent) = recorder(world.broker.local_addr()).await;
    let place = Place::new(address, "");
    let mut agent = place.start(&["run"]);
    agent.line("managed as").await;
    agent.stop().await.check(0, "stopping; running work has 10s");
    let sent = within(sent).await.unwrap();
    assert!(sent.ends_with(&[0xe0, 0]), "the last packet is DISCONNECT: {sent:?}");
}

#[tokio::test]
async fn a_second_ctrl_c_ends_at_once_while_a_script_still_runs() {
    let world = World::start().await;
    let place = Place::new(
        world.broker.local_addr(),
        "[limits]\nshutdown_grace = \"10m\"\n\
         [[actions.script]]\nbundle = \"acme\"\naction = \"wait\"\nprogram = \"sh\"\ndirectory = \".\"\n\
         args = [\"-c\", \"touch started; while test -e started; do sleep 1; done\"]\n",
    );
    let mut agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    world.platform.initiate(&lamp(), &Request::custom("acme", "wait")).unwrap();
    until(|| place.path("started").exists()).await;
    agent.signal(Signal::INT);
    agent.line("stopping; running work has 600s").await;
    agent.signal(Signal::INT);
    assert_eq!(agent.ended().await.code, Some(130));
}

#[tokio::test]
async fn a_second_agent_on_one_journal_ends_with_75_and_names_the_first() {
    let place = Place::new(nowhere().await, "");
    let mut first = place.start(&["run"]);
    first.line("an empty journal was created for").await;
    let owner =
        format!("the journal {} is in use by process {};", place.path("journal").display(), first.pid());
    place.start(&["run"]).ended().await.check(75, &owner);
    first.stop().await.check(0, "");
}

#[tokio::test]
async fn a_journal_of_another_device_ends_with_78_and_is_left_alone() {
    let place = Place::new(nowhere().await, "");
    let mut agent = place.start(&["run"]);
    agent.line("an empty journal was created for").await;
    agent.stop().await.check(0, "");
    let text = std::fs::read_to_string(place.path("agent.toml")).unwrap();
    place.write("agent.toml", &text.replace("lamp-17", "lamp-18"));
    let told = "the journal belongs to d:abc123:lamp:lamp-17, this device is d:abc123:lamp:lamp-18";
    place.start(&["run"]).ended().await.check(78, told);
    place.write("agent.toml", &text);
    let mut agent = place.start(&["run"]);
    agent.line("trying again in").await;
    assert!(!agent.stop().await.log.contains("an empty journal"), "its own journal was kept");
}

#[tokio::test]
async fn a_broker_that_refuses_the_credentials_ends_it_with_77() {
    let options =
        BrokerOptions { authentication: Authentication::custom(|_| false), ..BrokerOptions::default() };
    let broker = Broker::start(options).await.unwrap();
    let address = broker.local_addr();
    let place = Place::new(address, "");
    let ended = place.start(&["run"]).ended().await;
    ended.check(77, &format!("{address} refuses the credentials of this device; check [device] and [auth]"));
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_tried_again_and_again_until_sigterm() {
    let address = nowhere().await;
    let place = Place::new(address, "");
    let mut agent = place.start(&["run"]);
    for _ in 0..2 {
        agent.line(&format!("no connection to {address}: ")).await;
        agent.line("trying again in").await;
    }
    agent.stop().await.check(0, "");
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_ends_with_69_and_is_named() {
    for path in ["agent.toml", "not/there"] {
        let place = Place::new(nowhere().await, "");
        let text = std::fs::read_to_string(place.path("agent.toml")).unwrap();
        place.write("agent.toml", &text.replace("path = \"journal\"", &format!("path = \"{path}\"")));
        let ended = place.start(&["run"]).ended().await;
        ended.check(69, &format!(" {}: ", place.path(path).display()));
        assert!(ended.log.contains("exit_code=69"), "{}", ended.log);
    }
}

/// Stands before a broker, and gives out what the first client has sent when it is gone.
async fn recorder(broker: SocketAddr) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let sent = tokio::spawn(async move {
        let (client, _) = listener.accept().await.expect("the agent connects");
        let (mut from_client, mut to_client) = client.into_split();
        let broker = TcpStream::connect(broker).await.expect("the broker listens");
        let (mut from_broker, mut to_broker) = broker.into_split();
        tokio::spawn(async move { copy(&mut from_broker, &mut to_client).await });
        let (mut sent, mut piece) = (Vec::new(), [0; 1024]);
        while let Ok(count @ 1..) = from_client.read(&mut piece).await {
            sent.extend_from_slice(&piece[..count]);
            to_broker.write_all(&piece[..count]).await.expect("the broker reads");
        }
        sent
    });
    (address, sent)
}
