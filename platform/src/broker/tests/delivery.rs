use rumqttc::mqttbytes::v4::SubscribeReasonCode;

use super::client::*;
use crate::broker::{QoS, Subscriptions};

#[tokio::test(start_paused = true)]
async fn a_durable_session_gets_what_it_did_not_acknowledge_again_in_order_and_with_dup() {
    let broker = broker().await;
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    assert!(!device.session_present);
    device.subscribe("iotdm-1/#").await;
    send(&broker, 1..=3);
    assert_eq!(device.messages(3).await, ["1 #1", "2 #2", "3 #3"]);
    device.leave(&broker).await;
    send(&broker, [4]);

    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    assert!(device.session_present);
    assert_eq!(device.ack_messages(4).await, ["1 #1 dup", "2 #2 dup", "3 #3 dup", "4 #4"]);
    broker.drained(DEVICE).await;
    let stats = broker.stats();
    assert_eq!((stats.delivered, stats.redelivered, stats.acked), (4, 3, 4));
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_out_of_order_stays_acknowledged() {
    let broker = broker().await;
    let mut device = Client::subscribed(&broker).await;
    send(&broker, 1..=3);
    device.message().await;
    let second = device.message().await;
    device.ack(&second).await;
    broker.wait_until(|broker| broker.stats().acked == 1).await;
    device.leave(&broker).await;

    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    assert_eq!(device.messages(2).await, ["1 #1 dup", "3 #3 dup"]);
    device.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_never_has_more_in_flight_than_its_window() {
    let broker = broker_with(|options| options.window = 2).await;
    let mut device = Client::subscribed(&broker).await;
    send(&broker, 1..=4);
    let first = device.message().await;
    assert_eq!(device.messages(1).await, ["2 #2"]);
    device.expect_quiet().await;
    let session = broker.session(DEVICE).unwrap();
    assert_eq!((session.in_flight, session.queued), (2, 2));

    device.ack(&first).await;
    assert_eq!(device.messages(1).await, ["3 #3"]);
    device.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_offline_queue_drops_its_oldest_messages_and_counts_them() {
    let broker = broker_with(|options| options.queue_limit = 3).await;
    let device = Client::subscribed(&broker).await;
    device.leave(&broker).await;
    send(&broker, 1..=5);
    assert_eq!(broker.session(DEVICE).unwrap().dropped, 2);
    assert_eq!(broker.stats().dropped, 2);

    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    assert_eq!(device.ack_messages(3).await, ["3 #1", "4 #2", "5 #3"]);
    device.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn five_thousand_messages_wait_for_an_absent_device_by_default() {
    let broker = broker().await;
    let device = Client::subscribed(&broker).await;
    device.leave(&broker).await;
    send(&broker, 1..=5_001);
    let session = broker.session(DEVICE).unwrap();
    assert_eq!((session.queued, session.dropped), (5_000, 1));
}

#[tokio::test(start_paused = true)]
async fn a_clean_session_ends_with_its_connection_and_replaces_a_durable_one() {
    let broker = broker().await;
    let mut device = Client::subscribed(&broker).await;
    send(&broker, [1]);
    device.message().await;
    device.leave(&broker).await;

    let mut device = Client::clean(broker.local_addr(), DEVICE).await;
    assert!(!device.session_present);
    send(&broker, [2]);
    device.expect_quiet().await;
    device.leave(&broker).await;
    assert_eq!(broker.session(DEVICE), None);
    assert!(!Client::durable(broker.local_addr(), DEVICE).await.session_present);
}

#[tokio::test(start_paused = true)]
async fn a_second_connection_with_the_same_client_id_closes_the_first_and_inherits_its_session() {
    let broker = broker().await;
    let mut first = Client::durable(broker.local_addr(), DEVICE).await;
    first.subscribe("iotdm-1/#").await;
    send(&broker, [1]);
    first.message().await;

    let mut second = Client::durable(broker.local_addr(), DEVICE).await;
    first.lost().await;
    assert!(second.session_present);
    assert_eq!(second.messages(1).await, ["1 #1 dup"]);
    assert_eq!(broker.stats().takeovers, 1);
    assert!(broker.session(DEVICE).unwrap().connected);
}

#[tokio::test(start_paused = true)]
async fn a_device_sees_only_its_own_topics_and_the_platform_sees_all_devices() {
    let broker = broker().await;
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    let mut other = Client::durable(broker.local_addr(), OTHER_DEVICE).await;
    let mut platform = Client::durable(broker.local_addr(), PLATFORM).await;
    device.subscribe("iotdm-1/#").await;
    other.subscribe("#").await;
    platform.subscribe("devices/+/+/iotdevice-1/#").await;

    platform.publish("devices/pump/p-1/iotdm-1/response", "to p-1").await;
    let received = device.message().await;
    assert_eq!((received.topic.as_str(), &received.payload[..]), ("iotdm-1/response", &b"to p-1"[..]));
    device.publish("iotdevice-1/response", "from p-1").await;
    let received = platform.message().await;
    assert_eq!(received.topic, "devices/pump/p-1/iotdevice-1/response");
    other.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn without_mounts_there_is_one_topic_tree() {
    let broker = broker_with(|options| options.mount = crate::broker::Mount::Off).await;
    let mut device = Client::subscribed(&broker).await;
    assert_eq!(broker.publish("iotdm-1/response", "all", QoS::AtLeastOnce, false), Ok(1));
    assert_eq!(device.message().await.topic, "iotdm-1/response");
}

#[tokio::test(start_paused = true)]
async fn overlapping_subscriptions_deliver_a_message_once() {
    let broker = broker().await;
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    device.subscribe_at("iotdm-1/#", QoS::AtMostOnce).await;
    device.subscribe("iotdm-1/+").await;
    device.subscribe("#").await;
    send(&broker, [1]);
    assert_eq!(device.messages(1).await, ["1 #1"]);
    device.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn at_qos_0_nothing_waits_for_an_absent_client() {
    let broker = broker().await;
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    device.subscribe_at("iotdm-1/#", QoS::AtMostOnce).await;
    send(&broker, [1]);
    assert_eq!(device.messages(1).await, ["1 #0"]);
    device.leave(&broker).await;
    send(&broker, [2]);
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    device.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_retained_message_comes_with_the_flag_on_subscribe_and_without_it_live() {
    let broker = broker().await;
    let publish = |payload: &'static str| {
        broker.publish("devices/pump/p-1/iotdm-1/x", payload, QoS::AtLeastOnce, true).unwrap()
    };
    publish("kept");
    let mut device = Client::subscribed(&broker).await;
    let kept = device.message().await;
    assert_eq!((kept.retain, brief(&kept).as_str()), (true, "kept #1"));
    publish("live");
    assert!(!device.message().await.retain);

    publish("");
    device.message().await;
    let mut other = Client::durable(broker.local_addr(), PLATFORM).await;
    other.subscribe("#").await;
    other.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn qos_2_is_granted_as_1_and_a_refused_filter_gets_the_failure_code() {
    let broker = broker_with(|options| {
        options.subscriptions =
            Subscriptions::custom(|client, filter| client != DEVICE || filter != "secret/#");
    })
    .await;
    let mut device = Client::durable(broker.local_addr(), DEVICE).await;
    let granted = device.subscribe_at("iotdm-1/#", QoS::ExactlyOnce).await;
    assert_eq!(granted.return_codes, [SubscribeReasonCode::Success(QoS::AtLeastOnce)]);
    let refused = device.subscribe("secret/#").await;
    assert_eq!(refused.return_codes, [SubscribeReasonCode::Failure]);
    broker.publish("devices/pump/p-1/secret/x", "s", QoS::AtLeastOnce, false).unwrap();
    device.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn an_unsubscribed_filter_delivers_nothing_more() {
    let broker = broker().await;
    let mut device = Client::subscribed(&broker).await;
    device.handle.unsubscribe("iotdm-1/#").await.unwrap();
    device.next().await.unwrap();
    send(&broker, [1]);
    device.expect_quiet().await;
}
