//! A gateway and two pumps on its bus: one connection, one journal, and each pump managed for itself.
//!
//! ```sh
//! cargo run -p iotdm-examples --bin gateway
//! ```
//!
//! A broker, the platform and the gateway in one process; it tells what happens and ends by itself.

use std::error::Error;
use std::io::{Write, stdout};
use std::time::Duration;

use iotdm_agent::{Agent, Attached, Broker, Config, Device, Limits};
use iotdm_core::{
    Accepted, Context, DeviceInfo, Empty, Failure, Handler, Identity, Performed, Reboot, Recovery, Refusal,
    Subject,
};
use iotdm_platform::broker::{Broker as LocalBroker, BrokerOptions};
use iotdm_platform::{DeviceName, Outcome, Platform, PlatformOptions, Request, RequestHandle};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// The bus that the pumps hang on. One handler serves all of them: the context says which pump is meant.
#[derive(Clone)]
struct Bus {
    said: mpsc::UnboundedSender<String>,
}

impl Handler<Reboot> for Bus {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        let Subject::Named { device_id, .. } = cx.subject() else {
            return Err(Failure::new("only pumps hang on the bus"));
        };
        // A product would switch the pump off and on, and wait until it answers again. Only then is the reboot complete:
        // the next manage of this pump, which waits for it, tells the platform so.
        let _ = self.said.send(format!("bus restarts {device_id}"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(Performed::Complete)
    }

    async fn recover(&self, _: &Context, _: &Empty) -> Recovery {
        // The gateway was interrupted. Restarting a pump twice does no harm.
        Recovery::RunAgain
    }
}

fn pump(id: &str, bus: &Bus) -> Result<Attached, Box<dyn Error>> {
    let info = DeviceInfo { model: Some("pump".into()), ..DeviceInfo::default() };
    Ok(Attached::new("pump", id)?.on::<Reboot>(bus.clone()).device_info(info))
}

/// What is told of it, and by whom.
struct Tour {
    platform: Platform,
    lines: Vec<String>,
    said: mpsc::UnboundedReceiver<String>,
}

impl Tour {
    fn tell(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    async fn managed(&mut self, id: &str) -> Result<(), Box<dyn Error>> {
        self.platform.managed(&DeviceName::new("pump", id)?).await;
        self.tell(format!("platform manages pump/{id}"));
        Ok(())
    }

    async fn reboots(&mut self, id: &str) -> Result<(), Box<dyn Error>> {
        let reboot = self.platform.initiate(&DeviceName::new("pump", id)?, &Request::reboot())?;
        self.tell(format!("pump/{id} answers {}", answer(&reboot).await?["rc"]));
        let said = self.said.recv().await.ok_or("the bus is gone")?;
        self.tell(said);
        let outcome = reboot.completed().await;
        self.tell(format!(
            "platform takes the reboot of pump/{id} for {}",
            if outcome == Outcome::Complete { "complete" } else { "failed" }
        ));
        Ok(())
    }

    async fn comes_and_goes(&mut self, gateway: &Device, bus: &Bus) -> Result<(), Box<dyn Error>> {
        let third = gateway.attach(pump("p-3", bus)?).await?;
        self.managed("p-3").await?;
        third.set_attribute("pressure", &4.5).await?;
        let observe = self.platform.observe(&DeviceName::new("pump", "p-3")?, &["pressure"])?;
        self.tell(format!("pump/p-3 shows {}", answer(&observe).await?["d"]["fields"][0]["value"]));
        gateway.detach(&third).await?;
        self.tell("pump/p-3 has left");
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
    let (said, heard) = mpsc::unbounded_channel();
    let bus = Bus { said };
    let agent = Agent::builder(config(broker.local_addr().port())?)
        .journal(folder.path().join("journal"))
        .attach(pump("p-1", &bus)?)
        .attach(pump("p-2", &bus)?)
        .build()?;
    let gateway = agent.device();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(agent.run_until(async {
        // Whoever drops the sender wants the agent to stop, too.
        let _ = stopped.await;
    }));

    let mut tour = Tour { platform, lines: Vec::new(), said: heard };
    tour.managed("p-1").await?;
    tour.managed("p-2").await?;
    tour.reboots("p-2").await?;
    tour.comes_and_goes(&gateway, &bus).await?;

    drop(stop);
    running.await??;
    tour.platform.shutdown().await;
    broker.shutdown().await;
    Ok(tour.lines)
}

fn config(port: u16) -> Result<Config, Box<dyn Error>> {
    Ok(Config {
        identity: Identity::gateway("org001", "gw", "g7")?,
        broker: Broker::at("127.0.0.1", port),
        token: None,
        lifetime: Duration::from_secs(3600),
        device_info: DeviceInfo { model: Some("gateway".into()), ..DeviceInfo::default() },
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
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_tour_shows_what_it_says() {
        assert_eq!(
            tour().await.unwrap(),
            [
                "platform manages pump/p-1",
                "platform manages pump/p-2",
                "pump/p-2 answers 202",
                "bus restarts p-2",
                "platform takes the reboot of pump/p-2 for complete",
                "platform manages pump/p-3",
                "pump/p-3 shows 4.5",
                "pump/p-3 has left",
            ]
        );
    }
}
