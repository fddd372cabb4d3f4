use std::time::Duration;

use rumqttc::mqttbytes::v4::Packet;
use tokio::time::{Instant, sleep};

use super::client::*;
use crate::proxy::{Direction, FaultProxy};

/// Fifty virtual minutes of traffic through a proxy that delays, cuts in the middle of a packet and swallows; what
/// the device saw, and when.
async fn scenario() -> Vec<String> {
    // Linux sends ten small packets before it waits for an acknowledgement, which may come from a real timer (40 ms)
    // when the machine is busy. With a window of six nothing here ever waits for one.
    let broker = broker_with(|options| options.window = 6).await;
    let proxy = FaultProxy::start(broker.local_addr()).await.unwrap();
    let mut platform = Client::durable(broker.local_addr(), PLATFORM).await;
    platform.subscribe("devices/#").await;
    let begin = Instant::now();
    let mut trace = Vec::new();
    for round in 0..50_usize {
        proxy.delay(Duration::from_millis(round as u64 % 4));
        match round % 5 {
            1 => proxy.cut_after_bytes(Direction::Down, 7 + 97 * round as u64),
            2 => proxy.cut_after_bytes(Direction::Up, 60 + round as u64),
            _ => {}
        }
        let Ok(mut device) = Client::connect(options(proxy.local_addr(), DEVICE)).await else {
            trace.push(format!("{:?} connecting failed", begin.elapsed()));
            continue;
        };
        trace.push(format!("{:?} connected, session {}", begin.elapsed(), device.session_present));
        let _ = device.handle.subscribe("iotdm-1/#", rumqttc::QoS::AtLeastOnce).await;
        send(&broker, round * 6..round * 6 + 6);
        let _ = device.handle.publish("iotdevice-1/response", rumqttc::QoS::AtLeastOnce, false, "a").await;
        loop {
            let packet = tokio::time::timeout(Duration::from_secs(20), device.next()).await;
            let now = begin.elapsed();
            match packet {
                Ok(Ok(Packet::Publish(publish))) => {
                    trace.push(format!("{now:?} {}", brief(&publish)));
                    let _ = device.handle.ack(&publish).await;
                }
                Ok(Ok(other)) => trace.push(format!("{now:?} {other:?}")),
                Ok(Err(error)) => {
                    trace.push(format!("{now:?} {error}"));
                    break;
                }
                Err(_) => break,
            }
        }
        proxy.black_hole(round % 5 == 3);
        sleep(Duration::from_secs(40)).await;
        drop(device);
        proxy.black_hole(false);
        proxy.cut();
    }
    trace.push(format!("{:?} {:?} {:?}", begin.elapsed(), broker.stats(), broker.session(DEVICE)));
    trace
}

#[test]
fn the_same_scenario_has_the_same_trace() {
    let run = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(scenario())
    };
    let first = run();
    assert!(first.len() > 300, "too little happened: {first:?}");
    for _ in 0..5 {
        let again = run();
        let differs = first.iter().zip(&again).find(|(one, other)| one != other);
        assert_eq!(differs, None);
        assert_eq!(first.len(), again.len());
    }
}
