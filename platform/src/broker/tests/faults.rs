use super::client::*;
use crate::broker::{Observer, Seen, Sighting};

#[tokio::test(start_paused = true)]
async fn killed_connections_lose_nothing_of_a_durable_session() {
    let broker = broker().await;
    let mut device = Client::subscribed(&broker).await;
    send(&broker, [1]);
    device.message().await;
    broker.kill_connections();
    device.lost().await;
    assert!(!broker.session(DEVICE).unwrap().connected);
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    assert_eq!(device.messages(1).await, ["1 #1 dup"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_not_present_and_remembers_nothing() {
    let broker = broker().await;
    let mut device = Client::subscribed(&broker).await;
    send(&broker, [1]);
    device.message().await;
    assert!(broker.drop_session(DEVICE));
    assert!(!broker.drop_session(DEVICE));
    device.lost().await;
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    assert!(!device.session_present);
    send(&broker, [2]);
    device.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn refused_connections_are_told_that_the_server_is_unavailable() {
    let broker = broker().await;
    broker.refuse_connections(true);
    let refused = Client::connect(options(broker.local_addr(), DEVICE)).await.map(|_| ());
    assert!(refused.clone().is_err_and(|error| error.contains("ServiceUnavailable")), "{refused:?}");
    broker.refuse_connections(false);
    Client::durable(broker.local_addr(), DEVICE).await;
}

#[tokio::test(start_paused = true)]
async fn a_held_puback_comes_when_it_is_released_though_the_message_was_delivered() {
    let broker = broker().await;
    let mut platform = Client::durable(broker.local_addr(), PLATFORM).await;
    platform.subscribe("devices/#").await;
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    broker.hold_pubacks(DEVICE, true);
    device.publish("iotdevice-1/response", "answer").await;
    platform.message().await;
    let early = tokio::time::timeout(std::time::Duration::from_secs(30), device.puback()).await;
    assert!(early.is_err());
    assert_eq!(broker.session(DEVICE).unwrap().withheld, 1);
    broker.hold_pubacks(DEVICE, false);
    assert_eq!(device.puback().await, 1);
    device.publish("iotdevice-1/response", "next").await;
    assert_eq!(device.puback().await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_puback_held_on_a_connection_that_ended_is_gone() {
    let broker = broker().await;
    let device = Client::durable(broker.local_addr(), DEVICE).await;
    broker.hold_pubacks(DEVICE, true);
    device.publish("iotdevice-1/response", "answer").await;
    broker.wait_until(|broker| broker.session(DEVICE).is_some_and(|session| session.withheld == 1)).await;
    device.leave(&broker).await;
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    broker.hold_pubacks(DEVICE, false);
    device.publish("iotdevice-1/response", "again").await;
    assert_eq!(device.puback().await, 1);
    device.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn redelivery_on_the_live_connection_repeats_what_is_in_flight() {
    let broker = broker().await;
    let mut device = Client::subscribed(&broker).await;
    send(&broker, 1..=2);
    device.messages(2).await;
    assert_eq!(broker.redeliver_in_flight(DEVICE), 2);
    assert_eq!(device.ack_messages(2).await, ["1 #1 dup", "2 #2 dup"]);
    broker.drained(DEVICE).await;
    assert_eq!(broker.redeliver_in_flight(DEVICE), 0);
}

#[tokio::test(start_paused = true)]
async fn the_dup_flag_can_be_left_out() {
    let broker = broker().await;
    broker.set_dup_flag(false);
    let mut device = Client::subscribed(&broker).await;
    send(&broker, [1]);
    device.message().await;
    device.leave(&broker).await;
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    assert_eq!(device.messages(1).await, ["1 #1"]);
}

/// As on RabbitMQ, where acknowledging packet id 2 of the earlier connection would lose message 3.
#[tokio::test(start_paused = true)]
async fn packet_ids_can_be_renumbered_at_a_reconnect() {
    let broker = broker().await;
    broker.renumber(true);
    let mut device = Client::subscribed(&broker).await;
    send(&broker, 1..=3);
    device.ack_messages(1).await;
    device.messages(2).await;
    broker.wait_until(|broker| broker.stats().acked == 1).await;
    device.leave(&broker).await;
    send(&broker, [4]);
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    assert_eq!(device.messages(3).await, ["2 #1 dup", "3 #2 dup", "4 #3"]);
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_of_nothing_is_counted_and_harmless() {
    let broker = broker().await;
    let mut device = Client::subscribed(&broker).await;
    send(&broker, [1]);
    let message = device.message().await;
    device.ack(&message).await;
    device.ack(&message).await;
    broker.wait_until(|broker| broker.stats().stray_acks == 1).await;
    send(&broker, [2]);
    assert_eq!(device.messages(1).await, ["2 #2"]);
}

#[tokio::test(start_paused = true)]
async fn a_duplicated_delivery_comes_twice_with_one_packet_id_and_is_acknowledged_once() {
    let broker = broker().await;
    broker.duplicate(true);
    let mut device = Client::subscribed(&broker).await;
    send(&broker, [1]);
    let copies = [device.message().await, device.message().await];
    assert_eq!(copies.each_ref().map(|copy| copy.pkid), [1, 1]);
    device.ack(&copies[0]).await;
    device.ack(&copies[1]).await;
    broker.wait_until(|broker| broker.stats().stray_acks > 0).await;
    assert_eq!((broker.stats().acked, broker.stats().stray_acks), (1, 1));
    broker.duplicate(false);
    send(&broker, [2]);
    device.message().await;
    device.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn an_observer_sees_what_happens_in_order_and_may_ask_the_broker() {
    let (sightings, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let observer = Observer::new(move |sighting| sightings.send(sighting).unwrap());
    let broker = broker_with(|options| options.observer = observer).await;
    let mut device = Client::subscribed(&broker).await;
    send(&broker, [1]);
    let message = device.message().await;
    device.ack(&message).await;
    broker.drained(DEVICE).await;
    device.publish("iotdevice-1/response", "answer").await;
    device.puback().await;
    broker.kill_connections();
    device.lost().await;
    let mut kinds = Vec::new();
    while let Ok(Sighting { client_id, what, .. }) = seen.try_recv() {
        assert_eq!(client_id, DEVICE);
        kinds.push(match what {
            Seen::Connected { session_present } => format!("connected {session_present}"),
            Seen::Disconnected => "disconnected".to_owned(),
            Seen::Subscribed { filter } => format!("subscribed {filter}"),
            Seen::Published { topic, .. } => format!("published {topic}"),
            Seen::Delivered { packet_id, again, .. } => format!("delivered {packet_id} {again}"),
            Seen::Acknowledged { packet_id, .. } => format!("acknowledged {packet_id}"),
        });
    }
    let expected = [
        "connected false",
        "subscribed iotdm-1/#",
        "delivered 1 false",
        "acknowledged 1",
        "published iotdevice-1/response",
        "disconnected",
    ];
    assert_eq!(kinds, expected);
}
