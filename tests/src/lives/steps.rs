//! What each step of a plan does to the world.

use std::time::Duration;

use iotdm_agent::testing::config;
use iotdm_core::{Location, LogEntry, Report, Severity};
use iotdm_platform::proxy::Direction;
use rumqttc::{AsyncClient, MqttOptions, NetworkOptions};
use serde_json::json;
use tokio::time::timeout;

use super::chronicle::What;
use super::plan::{Event, Kind, OBSERVED};
use super::world::{Due, World};

impl World {
    pub(super) async fn carry_out(&mut self, event: &Event) {
        let client = config().identity.client_id();
        match *event {
            Event::Ask(ref ask) => self.ask(ask),
            Event::AskWithoutReqId => {
                let update = Kind::Update(0);
                let d = update.body().expect("an update has a body");
                self.publish(&update.topic(), json!({ "d": d }).to_string());
            }
            Event::Garbage => drop(self.publish("iotdm-1/mgmt/initiate/device/reboot", "{\"reqId\"".into())),
            Event::Report(number) => self.report(number),
            Event::SetAttribute(number) => self.set_attribute(number),
            Event::Crash(away) => {
                if self.kill_agent("killed").await {
                    self.fall_due(away, Due::Start);
                }
            }
            Event::Leave(away) => {
                if let Some(agent) = &mut self.agent {
                    agent.away = away;
                    agent.stop = None;
                }
            }
            Event::Cut => self.proxy.cut(),
            Event::CutAfter(direction, bytes) => self.proxy.cut_after_bytes(direction, bytes),
            Event::Delay(delay) => self.proxy.delay(delay),
            Event::BlackHole => self.proxy.black_hole(true),
            Event::HalfOpen(direction) => self.proxy.half_open(direction, true),
            Event::Refuse => {
                self.proxy.refuse(true);
                self.proxy.cut();
            }
            Event::Heal => self.heal(),
            Event::BrokerRestart => self.broker.kill_connections(),
            Event::SessionLost => drop(self.broker.drop_session(&client)),
            Event::Takeover => self.take_over(client).await,
            Event::HoldPubacks(hold) => self.broker.hold_pubacks(&client, hold),
            Event::Redeliver => drop(self.broker.redeliver_in_flight(&client)),
            Event::Duplicate(on) => self.broker.duplicate(on),
            Event::DupFlag(on) => self.broker.set_dup_flag(on),
            Event::Renumber(on) => self.broker.renumber(on),
            Event::Unavailable(on) => self.broker.refuse_connections(on),
            Event::Mood(mood) => self.mood = mood,
            Event::Fate(fate) => self.machine.set_fate(fate),
            Event::ClockLost(lost) => self.machine.lose_clock(lost),
        }
    }

    fn report(&mut self, number: u32) {
        let Some(agent) = &self.agent else { return };
        let (device, chronicle) = (agent.device.clone(), self.chronicle.clone());
        let report = report(number);
        self.errands.spawn(async move {
            if device.report(report.clone()).await.is_ok() {
                chronicle.write(What::Confirmed(report));
            }
        });
    }

    pub(super) fn set_attribute(&mut self, number: u32) {
        let Some(agent) = &self.agent else { return };
        let device = agent.device.clone();
        self.errands.spawn(async move {
            // The agent may end first.
            let _ = device.set_attribute(OBSERVED, &number).await;
        });
    }

    /// The network works; what lies broken in it ends.
    pub(super) fn heal(&self) {
        self.proxy.delay(Duration::ZERO);
        self.proxy.black_hole(false);
        self.proxy.refuse(false);
        for direction in [Direction::Up, Direction::Down] {
            self.proxy.cut_after_bytes(direction, u64::MAX);
        }
        self.proxy.cut();
    }

    /// Connects once with the device's own client id.
    async fn take_over(&self, client: String) {
        let mut options = MqttOptions::new(client, "127.0.0.1", self.broker.local_addr().port());
        options.set_clean_session(false);
        let (_client, mut event_loop) = AsyncClient::new(options, 1);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        event_loop.set_network_options(network);
        // A broker that is unavailable refuses it.
        let _ = timeout(TAKEOVER_WITHIN, event_loop.poll()).await;
    }
}

/// A report that no other has.
fn report(number: u32) -> Report {
    match number % 3 {
        0 => Report::AddErrorCode(i32::try_from(number).unwrap_or(i32::MAX)),
        1 => Report::Location(Location {
            longitude: f64::from(number % 180),
            latitude: f64::from(number % 90),
            elevation: Some(f64::from(number)),
            accuracy: None,
            measured_date_time: None,
            updated_date_time: None,
        }),
        _ => Report::AddLog(LogEntry {
            message: format!("entry {number}"),
            timestamp: "2026-06-01T00:00:00.000Z".into(),
            data: None,
            severity: Severity::Information,
        }),
    }
}

/// How long the other client waits for its CONNACK.
const TAKEOVER_WITHIN: Duration = Duration::from_secs(1);
