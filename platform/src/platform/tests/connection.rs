//! Connections that break, and brokers that refuse.

use super::*;

#[tokio::test(start_paused = true)]
async fn order_per_device_holds_across_a_broken_connection() {
    let broker = broker().await;
    let proxy = FaultProxy::start(broker.local_addr()).await.unwrap();
    let options = PlatformOptions { broker: proxy.local_addr(), ..options(&broker) };
    let platform = Platform::connect(options).await.unwrap();
    let mut device = Device::managed(&broker, "p-1").await;
    // The messages reach the broker and their acknowledgements do not come back: all are sent again.
    broker.hold_pubacks("a:iotdm:platform", true);
    for number in 0..5 {
        platform.initiate(&pump(), &Request::custom("lamp", "on").field("n", number)).unwrap();
    }
    let mut seen = Vec::new();
    let mut number = async |device: &mut Device| {
        seen.push(device.next().await.1["d"]["fields"][0]["value"].as_u64().unwrap());
        seen.clone()
    };
    for _ in 0..5 {
        number(&mut device).await;
    }
    proxy.cut();
    platform.initiate(&pump(), &Request::custom("lamp", "on").field("n", 5)).unwrap();
    for _ in 0..5 {
        number(&mut device).await;
    }
    assert_eq!(number(&mut device).await, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_acknowledged_is_sent_again_on_the_next_connection() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::managed(&broker, "p-1").await;
    broker.hold_pubacks("a:iotdm:platform", true);
    let action = platform.initiate(&pump(), &Request::custom("lamp", "on")).unwrap();
    device.answer("mgmt/custom/lamp/on", 200).await;
    assert_eq!(soon(action.completed()).await, Outcome::Complete);
    broker.kill_connections();
    broker.hold_pubacks("a:iotdm:platform", false);
    let mut device = Device::connect(&broker, "p-1").await;
    device.answer("mgmt/custom/lamp/on", 200).await;
    assert!(soon(action.answered_times(2)).await);
    assert_eq!(action.snapshot().differing_answers, 0);
}

#[tokio::test(start_paused = true)]
async fn answers_given_while_the_platform_was_away_are_not_lost() {
    let broker = broker().await;
    let proxy = FaultProxy::start(broker.local_addr()).await.unwrap();
    let options = PlatformOptions { broker: proxy.local_addr(), ..options(&broker) };
    let platform = Platform::connect(options).await.unwrap();
    let mut device = Device::managed(&broker, "p-1").await;
    let reboot = platform.initiate(&pump(), &Request::reboot()).unwrap();
    let (_, request) = device.next().await;
    proxy.refuse(true);
    proxy.cut();
    soon(platform.wait_until(|platform| !platform.is_connected())).await;
    device.publish("response", &json!({"rc": 202, "reqId": request["reqId"]})).await;
    tokio::time::sleep(MINUTE).await;
    proxy.refuse(false);
    assert_eq!(soon(reboot.answered()).await.unwrap().rc, Code::ACCEPTED);
}

#[tokio::test(start_paused = true)]
async fn more_requests_than_fit_the_window_all_arrive() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::managed(&broker, "p-1").await;
    for number in 0..600 {
        platform.initiate(&pump(), &Request::custom("lamp", "on").field("n", number)).unwrap();
    }
    for number in 0..600 {
        assert_eq!(device.next().await.1["d"]["fields"][0]["value"], json!(number));
    }
}

#[tokio::test(start_paused = true)]
async fn connect_says_why_there_is_no_connection() {
    let broker = broker_with(|options| {
        options.subscriptions = Subscriptions::custom(|_, _| false);
    })
    .await;
    let error = Platform::connect(options(&broker)).await.unwrap_err();
    assert!(error.to_string().contains("refuses the subscription"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_the_connection_and_every_wait() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let _device = Device::managed(&broker, "p-1").await;
    let reboot = platform.initiate(&pump(), &Request::reboot()).unwrap();
    soon(platform.shutdown()).await;
    assert_eq!(soon(reboot.completed()).await, Outcome::GivenUp);
    soon(crate::broker::tests::client::gone(&broker, "a:iotdm:platform")).await;
}
