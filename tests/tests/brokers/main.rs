//! The same suite against every broker that can be had: what each does, measured, beside what
//! `docs/brokers/README.md` says it does. The brokers run with the configuration files of `docs/brokers`, with ports and
//! paths put in.
//!
//!     cargo test -p iotdm-tests --test brokers -- --include-ignored --nocapture --test-threads 1
//!
//! * [`server`]: a broker as the suite sees it. Each is one small file: [`mosquitto`], [`rabbitmq`], [`nats`],
//!   [`embedded`].
//! * [`scenarios`]: each is one function over any broker, and answers rows of the table.
//! * [`rig`]: the agent, the platform and the plain client that scenarios are made of.
//! * [`table`]: the table, as the document has it.

mod embedded;
mod mosquitto;
mod nats;
mod process;
mod rabbitmq;
mod rig;
mod scenarios;
mod server;
mod table;

use rig::Protocol;
use server::Server;

/// Plays every scenario, and compares its answers with a column of the table.
async fn check(server: &mut impl Server, protocol: Protocol) {
    let answers = scenarios::play(server, protocol).await;
    table::check(server.name(), &answers);
}

#[tokio::test]
async fn the_embedded_broker_does_what_its_column_says() {
    check(&mut embedded::Embedded::start().await, Protocol::V4).await;
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn mosquitto_does_what_its_column_says() {
    check(&mut mosquitto::Mosquitto::start().await, Protocol::V4).await;
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn mosquitto_does_the_same_over_mqtt_5() {
    check(&mut mosquitto::Mosquitto::start().await, Protocol::V5).await;
}

#[tokio::test]
#[ignore = "needs rabbitmq-server"]
async fn rabbitmq_does_what_its_column_says() {
    check(&mut rabbitmq::Rabbitmq::start(1).await, Protocol::V4).await;
}

/// Devices are connected to the first node, the platform to the second, and it is the first that is restarted.
#[tokio::test]
#[ignore = "needs rabbitmq-server"]
async fn three_nodes_of_rabbitmq_do_what_their_column_says() {
    check(&mut rabbitmq::Rabbitmq::start(3).await, Protocol::V4).await;
}

#[tokio::test]
#[ignore = "needs nats-server"]
async fn nats_does_what_its_column_says() {
    check(&mut nats::Nats::start().await, Protocol::V4).await;
}

/// MQTT at QoS 1 needs the right to `$MQTT.sub.>`, below which there is what goes to everybody.
#[tokio::test]
#[ignore = "needs nats-server"]
async fn at_the_port_of_nats_itself_no_device_gets_in() {
    let nats = nats::Nats::start().await;
    for who in [server::Who::Lamp(1), server::Who::Lamp(2), server::Who::Gateway] {
        assert_eq!(nats.answer_to(who).await, "-ERR 'Authorization Violation'", "{who:?}");
    }
    assert_eq!(nats.answer_to(server::Who::Platform).await, "+OK");
}
