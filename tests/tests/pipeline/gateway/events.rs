//! Events of a gateway and of the devices it speaks for.

use super::*;

#[tokio::test(start_paused = true)]
async fn events_of_an_attached_device_carry_its_name_and_outlive_an_outage_and_a_crash() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.platform.offline(true);
    for number in 1..=2 {
        let pump = running.attached("pump", &format!("p-{number}")).unwrap();
        pump.events().publish("pressure", &number).await.unwrap();
    }
    running.device().events().publish("uptime", &3).await.unwrap();
    running.kill().await;
    rig.platform.offline(false);
    let _running = rig.start();
    rig.platform.until(|platform| platform.events().len() == 3).await;
    let mut told: Vec<(String, Value)> =
        rig.platform.events().into_iter().map(|event| (event.topic, event.body)).collect();
    told.sort_by(|(one, _), (other, _)| one.cmp(other));
    let topic = |subject: &str, id: &str| format!("iot-2/type/{subject}/evt/{id}/fmt/json");
    assert_eq!(
        told,
        [
            (topic("gw/id/g7", "uptime"), json!(3)),
            (topic("pump/id/p-1", "pressure"), json!(1)),
            (topic("pump/id/p-2", "pressure"), json!(2)),
        ]
    );
}
