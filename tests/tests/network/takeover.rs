//! Two agents with one client id, by mistake: MQTT 3.1.1 shows each only that its connection is closed.

use iotdm_platform::broker::{Broker, BrokerOptions, Mount};
use tokio::time::sleep;

use crate::stranger::{HOUR, Lonely, at};

async fn broker() -> Broker {
    let options = BrokerOptions { mount: Mount::Off, ..BrokerOptions::default() };
    Broker::start(options).await.expect("loopback has a free port")
}

#[tokio::test(start_paused = true)]
async fn two_agents_with_one_client_id_take_it_from_each_other_at_most_30_times_an_hour() {
    let broker = broker().await;
    let config = at(broker.local_addr());
    let agents = [Lonely::agent(config.clone(), 7), Lonely::agent(config, 8)];
    let mut hours = Vec::new();
    for _ in 0..24 {
        let before = broker.stats().connects;
        sleep(HOUR).await;
        hours.push(broker.stats().connects - before);
    }
    eprintln!("connects of two agents with one client id, hour by hour: {hours:?}");
    assert!(agents.iter().all(Lonely::runs));
    assert!(hours[0] <= 60 && hours[1..].iter().all(|connects| (4..=30).contains(connects)), "{hours:?}");
    assert!(broker.stats().takeovers > 100, "they do want the same id");
}

#[tokio::test(start_paused = true)]
async fn when_the_other_agent_has_left_the_first_one_stays() {
    let broker = broker().await;
    let config = at(broker.local_addr());
    let one = Lonely::agent(config.clone(), 7);
    let other = Lonely::agent(config, 8);
    sleep(HOUR).await;
    drop(other);
    sleep(HOUR / 2).await;
    let before = broker.stats().connects;
    sleep(24 * HOUR).await;
    assert_eq!(broker.stats().connects, before);
    assert!(one.runs());
}
