//! Events of a product: readings that an outage delays and does not lose, and a picture that is worth nothing later.
//!
//! ```sh
//! cargo run -p iotdm-examples --bin events
//! ```
//!
//! The broker is in this process, behind a proxy that cuts the line. The readings of the outage are in the agent's
//! journal until the broker has acknowledged them.

use std::error::Error;
use std::io::{Write, stdout};
use std::time::Duration;

use iotdm_agent::{Agent, Device, EventLimits, Events};
use iotdm_core::{Event, PublishError};
use iotdm_examples::Options;
use iotdm_platform::broker::{Broker, BrokerOptions, Observer, Seen};
use iotdm_platform::proxy::FaultProxy;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// What the product measures.
#[derive(Serialize)]
struct Reading {
    number: u32,
    lux: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    timeout(PATIENCE, story(&mut stdout())).await?
}

async fn story(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (sender, mut seen) = mpsc::unbounded_channel();
    let observer = Observer::new(move |sighting| {
        if let Seen::Published { topic, payload } = sighting.what
            && topic.starts_with("iot-2/evt/")
        {
            // The story may have ended.
            let _ = sender.send(format!("{topic}  {}", String::from_utf8_lossy(&payload)));
        }
    });
    let broker = Broker::start(BrokerOptions { observer, ..BrokerOptions::default() }).await?;
    let line = FaultProxy::start(broker.local_addr()).await?;
    let options = Options {
        host: line.local_addr().ip().to_string(),
        port: line.local_addr().port(),
        journal: folder.path().join("journal"),
        for_seconds: None,
    };
    // The last four readings count; an older one gives way.
    let store = EventLimits { count: 4, ..EventLimits::default() };
    let agent = Agent::builder(options.config("lamp", "lamp1")?)
        .journal(&options.journal)
        .event_store(store)
        .build()?;
    let device = agent.device();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = agent.run_until(async {
        let _ = stopped.await;
    });
    let told = async {
        let told = tell(out, &device, &line, &mut seen).await;
        // The agent may have ended by itself.
        let _ = stop.send(());
        told
    };
    let (ran, told) = tokio::join!(running, told);
    told?;
    Ok(ran?)
}

async fn tell(
    out: &mut impl Write,
    device: &Device,
    line: &FaultProxy,
    seen: &mut mpsc::UnboundedReceiver<String>,
) -> Result<(), Box<dyn Error>> {
    let events = device.events();
    measure(&events, 1).await?;
    writeln!(out, "The broker has: {}", seen.recv().await.ok_or("it runs")?)?;

    // Until the broker has said that it has it.
    while events.counters().waiting > 0 {
        sleep(MOMENT).await;
    }

    line.refuse(true);
    line.cut();
    // The agent does not know at once that the connection is lost.
    while picture(&events).await.is_ok() {
        sleep(MOMENT).await;
    }
    while seen.try_recv().is_ok() {}
    writeln!(out, "The line is cut. A picture at QoS 0 is refused, six readings are stored.")?;
    for number in 2..=7 {
        measure(&events, number).await?;
    }
    let counters = events.counters();
    writeln!(out, "{} wait, {} were dropped at the bound.", counters.waiting, counters.dropped_full)?;

    line.refuse(false);
    for _ in 0..counters.waiting {
        writeln!(out, "The broker has: {}", seen.recv().await.ok_or("it runs")?)?;
    }

    let mistake = events.publish("light/1", &1).await;
    writeln!(out, "A mistake: {}", mistake.err().ok_or("a slash is none of an id")?)?;
    Ok(())
}

/// Durable when this returns: it is sent now or after the outage.
async fn measure(events: &Events, number: u32) -> Result<(), PublishError> {
    events.publish("light", &Reading { number, lux: 230.5 }).await
}

/// Worth something now or never.
async fn picture(events: &Events) -> Result<(), PublishError> {
    events.send(Event::bytes("camera", "jpeg", "(a picture)")?.at_most_once()).await
}

/// How long to wait before looking again.
const MOMENT: Duration = Duration::from_millis(10);

/// Far above what all of it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readings_of_an_outage_come_after_it_and_the_oldest_give_way() {
        let mut out = Vec::new();
        timeout(PATIENCE, story(&mut out)).await.unwrap().unwrap();
        let told = String::from_utf8(out).unwrap();
        let after: Vec<&str> = told.lines().skip_while(|line| !line.starts_with("4 wait, 2 were")).collect();
        assert_eq!(
            after,
            [
                "4 wait, 2 were dropped at the bound.",
                r#"The broker has: iot-2/evt/light/fmt/json  {"number":4,"lux":230.5}"#,
                r#"The broker has: iot-2/evt/light/fmt/json  {"number":5,"lux":230.5}"#,
                r#"The broker has: iot-2/evt/light/fmt/json  {"number":6,"lux":230.5}"#,
                r#"The broker has: iot-2/evt/light/fmt/json  {"number":7,"lux":230.5}"#,
                "A mistake: the id of the event `light/1` has '/' as character 6: it would begin another level of the topic",
            ],
            "{told}"
        );
    }
}
