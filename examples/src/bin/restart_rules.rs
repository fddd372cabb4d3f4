//! Restarts under rules: what the platform is told outside a maintenance window, when the application is busy, and in a
//! loop; then a factory reset that a power cut interrupts.
//!
//! ```sh
//! cargo run -p iotdm-examples --features histories --bin restart_rules
//! ```
//!
//! A charging station in the test bench: the real agent and handlers, with machine, disk and platform in memory, and the
//! hours of the story passing at once. Only the folder that is wiped is a real one, a temporary.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iotdm_agent::testing::{MemoryDisk, Platform, Running, TestSystem, start};
use iotdm_core::{Action, FactoryReset, Reboot, System, UpRoute, attribute, iso8601};
use iotdm_handlers::reboot::{
    FactoryResets, MaintenanceWindows, Question, Reboots, RestartLimit, Rules, Verdict, Wipe,
};
use serde_json::{Value, json};
use tempfile::TempDir;

type Failed = Box<dyn std::error::Error>;

/// A station, its surroundings, and whether a vehicle is being charged.
struct Station {
    platform: Platform,
    disk: MemoryDisk,
    system: TestSystem,
    charging: Arc<AtomicBool>,
    data: TempDir,
    told: Vec<String>,
}

impl Station {
    fn new() -> Result<Self, Failed> {
        Ok(Self {
            platform: Platform::new(),
            disk: MemoryDisk::new(),
            system: TestSystem::new(),
            charging: Arc::default(),
            data: tempfile::tempdir()?,
            told: Vec::new(),
        })
    }

    /// What stays after each step of the story.
    fn tell(&mut self, what: impl Into<String>) {
        self.told.push(format!("{}  {}", iso8601(self.system.wall_clock()), what.into()));
    }

    fn folder(&self) -> Result<PathBuf, Failed> {
        Ok(self.data.path().canonicalize()?)
    }

    fn rules(&self) -> Result<Rules, Failed> {
        let charging = self.charging.clone();
        Ok(Rules::new()
            .within(MaintenanceWindows::new(["Mon-Fri 01:00-04:00"])?)
            .at_most(RestartLimit::new(2, Duration::from_secs(24 * 3600)))
            .veto(move |_: Question| match charging.load(Ordering::Relaxed) {
                true => Verdict::Refuse("a vehicle is being charged".into()),
                false => Verdict::Allow,
            }))
    }

    /// The agent begins, and the platform manages it.
    async fn boot(&self) -> Result<Running, Failed> {
        let manages = self.platform.published(UpRoute::Manage).len();
        let running = self.start()?;
        self.platform.managed(manages + 1).await;
        Ok(running)
    }

    /// The agent begins. In the middle of a reset it does not manage: the platform would take that as the end. A reset
    /// of this station may come at any time; rules of its own would be given to it in the same way.
    fn start(&self) -> Result<Running, Failed> {
        let (rules, wipe) = (self.rules()?, Wipe::new([self.folder()?], &[])?);
        Ok(start(&self.platform, &self.disk, &self.system, |builder| {
            builder.on::<Reboot>(Reboots::new().under(rules)).on::<FactoryReset>(FactoryResets::wiping(wipe))
        }))
    }

    async fn ask<A: Action>(&mut self, req_id: &str) -> Value {
        self.platform.send(A::ROUTE, json!({ "reqId": req_id }));
        let answer = self.platform.response(req_id).await;
        let message = answer["message"].as_str().unwrap_or("accepted").to_owned();
        self.tell(format!("{req_id}: {} {message}", answer["rc"]));
        answer
    }

    /// The machine goes down, and comes up again.
    async fn restarted(&mut self, agent: Running, restarts: usize) -> Result<Running, Failed> {
        while self.system.restarts().len() < restarts {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // What the handler still has to record.
        tokio::time::sleep(Duration::from_secs(1)).await;
        agent.kill().await;
        self.system.next_boot();
        self.tell("the machine has restarted");
        self.boot().await
    }
}

/// When a restart is refused.
async fn rules(station: &mut Station) -> Result<Running, Failed> {
    let mut agent = station.boot().await?;
    station.ask::<Reboot>("at midnight").await;
    tokio::time::advance(Duration::from_secs(2 * 3600)).await;
    station.charging.store(true, Ordering::Relaxed);
    station.ask::<Reboot>("while charging").await;
    station.charging.store(false, Ordering::Relaxed);
    for (restarts, req_id) in ["first", "second"].into_iter().enumerate() {
        station.ask::<Reboot>(req_id).await;
        agent = station.restarted(agent, restarts + 1).await?;
    }
    station.ask::<Reboot>("third").await;
    Ok(agent)
}

/// A reset of thousands of files, and the power goes in the middle of it.
async fn reset(station: &mut Station, agent: Running) -> Result<(), Failed> {
    let folder = station.folder()?;
    for number in 0..3000 {
        std::fs::write(folder.join(format!("session-{number}")), "who charged, and how much")?;
    }
    let restarts = station.system.restarts().len();
    station.ask::<FactoryReset>("reset").await;
    while step(&agent).is_none() {
        tokio::task::yield_now().await;
    }
    agent.kill().await;
    station.system.next_boot();
    station.tell("the power goes while the sessions are wiped");

    let agent = station.start()?;
    while station.system.restarts().len() == restarts {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let left = std::fs::read_dir(&folder)?.count();
    station.tell(format!("the reset has gone on by itself: {left} sessions are left"));
    let agent = station.restarted(agent, restarts + 1).await?;
    let version: Option<Value> = agent.device().attribute(attribute::DEVICE_INFO);
    let reported = station.platform.published(UpRoute::AddErrorCode).len();
    station.tell(format!("it is done: identity kept: {}, failures reported: {reported}", version.is_some()));
    station.ask::<FactoryReset>("reset").await;
    agent.stop().await?;
    Ok(())
}

/// How far the journal knows the reset to be.
fn step(agent: &Running) -> Option<Value> {
    agent.device().attribute::<Value>("agent.factory_reset").filter(|stage| !stage.is_null())
}

async fn story() -> Result<Vec<String>, Failed> {
    let mut station = Station::new()?;
    let agent = rules(&mut station).await?;
    reset(&mut station, agent).await?;
    Ok(station.told)
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Failed> {
    let mut out = stdout().lock();
    for line in story().await? {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_rule_refuses_with_its_reason_and_an_interrupted_reset_is_done() {
        let told = story().await.unwrap();
        for (line, said) in [
            "at midnight: 409 no maintenance window is open; the next one opens at 2026-06-01T01:00:00.000Z",
            "while charging: 409 the application refuses at present: a vehicle is being charged",
            "first: 202 accepted",
            "the machine has restarted",
            "second: 202 accepted",
            "the machine has restarted",
            "third: 409 the limit of 2 restarts within 1d is reached; the next one is possible from 2026-06-02T02:00:",
            "reset: 202 accepted",
            "the power goes while the sessions are wiped",
            "the reset has gone on by itself: 0 sessions are left",
            "the machine has restarted",
            "it is done: identity kept: true, failures reported: 0",
            "reset: 202 accepted",
        ]
        .into_iter()
        .enumerate()
        {
            assert!(told[line].contains(said), "{line}: {told:#?}");
        }
    }
}
