//! Attributes: a typed subscription, an update that is refused, a location from both sides, and thresholds.
//!
//! ```sh
//! cargo run -p iotdm-examples --bin attributes
//! ```
//!
//! A broker, the platform and a greenhouse in one process; it tells what happens and ends by itself.

use std::error::Error;
use std::io::{Write, stdout};
use std::time::Duration;

use iotdm_agent::{Agent, Broker, Builder, Config, Device, Limits, Subscription, Threshold};
use iotdm_core::{AttributeValue, DeviceInfo, Identity, Location};
use iotdm_platform::broker::{Broker as LocalBroker, BrokerOptions};
use iotdm_platform::{DeviceName, Platform, PlatformOptions, RequestHandle};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// What the platform may set. A value that does not fit is answered 400, and the greenhouse never sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct Metadata {
    /// How warm it shall be, in degrees Celsius.
    wanted_celsius: u8,
}

/// What makes an agent a greenhouse.
fn greenhouse(builder: Builder) -> Builder {
    builder
        .attribute::<Metadata>("metadata")
        .threshold("temperature", Threshold::new().min_change(0.5).min_interval(INTERVAL))
        .threshold("location", Threshold::new().min_metres(100.0))
}

/// How long at the least between two notifications of the temperature.
const INTERVAL: Duration = Duration::from_secs(1);

/// The platform's side, and what is told of it.
struct Tour {
    platform: Platform,
    greenhouse: DeviceName,
    lines: Vec<String>,
}

impl Tour {
    fn tell(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    async fn update(&mut self, name: &str, value: Value) -> Result<(), Box<dyn Error>> {
        let sent = format!("platform sets {name} = {value}");
        let values = [AttributeValue { field: name.to_owned(), value }];
        let request = self.platform.update_attributes(&self.greenhouse, &values)?;
        let answer = answer(&request).await?;
        let message = answer["message"].as_str().map(|text| format!(", {text}")).unwrap_or_default();
        self.tell(format!("{sent}: {}{message}", answer["rc"]));
        Ok(())
    }

    async fn observe(&mut self, name: &str) -> Result<(), Box<dyn Error>> {
        let request = self.platform.observe(&self.greenhouse, &[name])?;
        let answer = answer(&request).await?;
        self.tell(format!("platform observes {name}: {}", answer["d"]["fields"][0]["value"]));
        Ok(())
    }

    /// Waits until the platform was notified of this value.
    async fn notified(&mut self, name: &str, value: Value) {
        let greenhouse = &self.greenhouse;
        let is_known = |platform: &Platform| {
            platform.device(greenhouse).is_some_and(|device| device.notified.get(name) == Some(&value))
        };
        self.platform.wait_until(is_known).await;
        self.tell(format!("platform is notified: {name} = {value}"));
    }

    async fn metadata(
        &mut self,
        metadata: &mut Subscription<Metadata>,
        device: &Device,
    ) -> Result<(), Box<dyn Error>> {
        self.update("metadata", json!({ "wanted_celsius": 21 })).await?;
        let wanted = metadata.next().await.ok_or("the agent has ended")??;
        self.tell(format!("greenhouse heats to {} degrees", wanted.wanted_celsius));
        self.update("metadata", json!({ "wanted_celsius": "cosy" })).await?;
        let kept: Option<Metadata> = device.attribute("metadata");
        self.tell(format!("greenhouse still has {kept:?}"));
        Ok(())
    }

    async fn location(&mut self, device: &Device) -> Result<(), Box<dyn Error>> {
        device.set_location(&Location::at(48.137_4, 11.575_5)).await?;
        let greenhouse = &self.greenhouse;
        let is_reported =
            |platform: &Platform| platform.device(greenhouse).is_some_and(|device| device.location.is_some());
        self.platform.wait_until(is_reported).await;
        self.tell("greenhouse reports where it is");
        self.update("location", json!({ "latitude": 48.2, "longitude": 11.6 })).await?;
        let place: Option<Location> = device.attribute("location");
        let latitude = place.map(|place| place.latitude);
        self.tell(format!(
            "greenhouse is at latitude {latitude:?}; it does not report back what it was told"
        ));
        let nowhere = device.set_location(&Location::at(91.0, 0.0)).await;
        self.tell(format!("greenhouse at latitude 91: {}", nowhere.err().ok_or("it was taken")?));
        Ok(())
    }

    async fn temperature(&mut self, device: &Device) -> Result<(), Box<dyn Error>> {
        device.set_attribute("temperature", &20.0).await?;
        self.observe("temperature").await?;
        device.set_attribute("temperature", &20.4).await?;
        self.tell("greenhouse measures 20.4: too small a change");
        device.set_attribute("temperature", &20.5).await?;
        self.tell("greenhouse measures 20.5");
        self.notified("temperature", json!(20.5)).await;
        for celsius in [22.0, 23.0, 24.0] {
            device.set_attribute("temperature", &celsius).await?;
        }
        self.tell("greenhouse measures 22, 23 and 24 within the interval");
        self.notified("temperature", json!(24.0)).await;
        Ok(())
    }
}

async fn answer(request: &RequestHandle) -> Result<Value, Box<dyn Error>> {
    let answer = request.answered().await.ok_or("the request was given up")?;
    Ok(serde_json::from_slice(&answer.payload)?)
}

/// All of it; what happened, line by line.
async fn tour() -> Result<Vec<String>, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let broker = LocalBroker::start(BrokerOptions::default()).await?;
    let platform = Platform::connect(PlatformOptions::new(broker.local_addr())).await?;
    let config = config(broker.local_addr().port())?;
    let agent = greenhouse(Agent::builder(config)).journal(folder.path().join("journal")).build()?;
    let device = agent.device();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(agent.run_until(async {
        // Whoever drops the sender wants the agent to stop, too.
        let _ = stopped.await;
    }));

    let mut tour =
        Tour { platform, greenhouse: DeviceName::new("example", "greenhouse")?, lines: Vec::new() };
    tour.platform.managed(&tour.greenhouse).await;
    let mut metadata = device.subscribe::<Metadata>("metadata");
    tour.metadata(&mut metadata, &device).await?;
    tour.location(&device).await?;
    tour.temperature(&device).await?;

    drop(stop);
    running.await??;
    tour.platform.shutdown().await;
    broker.shutdown().await;
    Ok(tour.lines)
}

fn config(port: u16) -> Result<Config, Box<dyn Error>> {
    Ok(Config {
        identity: Identity::device("org001", "example", "greenhouse")?,
        broker: Broker::at("127.0.0.1", port),
        token: None,
        lifetime: Duration::from_secs(3600),
        device_info: DeviceInfo { model: Some("greenhouse".into()), ..DeviceInfo::default() },
        metadata: None,
        limits: Limits::default(),
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let lines = tour().await?;
    let mut out = stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use iotdm_agent::testing::{MemoryDisk, Platform as Bench, TestSystem, start};
    use iotdm_core::{Route, UpRoute};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_tour_shows_what_it_says() {
        assert_eq!(
            tour().await.unwrap(),
            [
                "platform sets metadata = {\"wanted_celsius\":21}: 204",
                "greenhouse heats to 21 degrees",
                "platform sets metadata = {\"wanted_celsius\":\"cosy\"}: 400, metadata.wanted_celsius: invalid type: \
                 string \"cosy\", expected u8",
                "greenhouse still has Some(Metadata { wanted_celsius: 21 })",
                "greenhouse reports where it is",
                "platform sets location = {\"latitude\":48.2,\"longitude\":11.6}: 204",
                "greenhouse is at latitude Some(48.2); it does not report back what it was told",
                "greenhouse at latitude 91: latitude 91 is not within -90 to 90",
                "platform observes temperature: 20.0",
                "greenhouse measures 20.4: too small a change",
                "greenhouse measures 20.5",
                "platform is notified: temperature = 20.5",
                "greenhouse measures 22, 23 and 24 within the interval",
                "platform is notified: temperature = 24.0",
            ]
        );
    }

    /// How a product tests its own attributes: no broker, no disk, no time.
    #[tokio::test(start_paused = true)]
    async fn a_greenhouse_that_died_knows_how_warm_it_shall_be() {
        let (platform, disk, system) = (Bench::new(), MemoryDisk::new(), TestSystem::new());
        let agent = start(&platform, &disk, &system, greenhouse);
        platform.managed(1).await;
        let d = json!({"fields": [{"field": "metadata", "value": {"wanted_celsius": 18}}]});
        platform.send(Route::DeviceUpdate, json!({"reqId": "1", "d": d}));
        assert_eq!(platform.response("1").await["rc"], 204);
        agent.kill().await;
        let agent = start(&platform, &disk, &system, greenhouse);
        let mut metadata = agent.device().subscribe::<Metadata>("metadata");
        assert_eq!(metadata.next().await, Some(Ok(Metadata { wanted_celsius: 18 })));
        assert!(platform.published(UpRoute::Notify).is_empty());
    }
}
