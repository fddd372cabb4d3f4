//! An engine among others on one connection: a gateway's, and those of the devices it speaks for.
//!
//! The gateway's engine leads: it connects, and its restart is a restart of all. An attached device's engine is told of
//! the connection, and of a restart that takes its work with it. Everything else each of them does alone.

use std::time::Duration;

use iotdm_core::{BootId, Name};
use serde_json::{Map, Value};
use tracing::info;

use super::event::{Delivered, Effect, Ticket, Timer};
use super::events::PUBACK_WITHIN;
use super::key::KeyHash;
use super::request::{DRAIN_LIMIT, Request, Stage, Step};
use super::send::WINDOW_CLOSED_LIMIT;
use super::{Engine, Settings};

/// What an engine knows of the others on its connection.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// The gateway is about to restart: nothing starts here.
    pub(super) restart: bool,
    /// Tasks of attached devices run: a restart of the gateway waits for them.
    running: bool,
}

/// Whether the gateway is about to restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GatewayRestart {
    /// It is not.
    #[default]
    None,
    /// It waits for what still runs.
    Draining,
    /// It has begun.
    Begun,
}

impl Settings {
    /// Whether a gateway speaks for this device.
    pub fn is_attached(&self) -> bool {
        self.gateway.is_some()
    }

    /// Which boot the clocks count from.
    pub(super) fn clock(&self) -> &BootId {
        self.gateway.as_ref().unwrap_or(&self.boot)
    }
}

impl Engine {
    /// Whether this engine takes part in the present connection.
    pub fn is_connected(&self) -> bool {
        !self.session.is_down()
    }

    /// Whether the connection is subscribed.
    pub fn is_up(&self) -> bool {
        self.session.is_up()
    }

    /// Whether the subscription is not answered yet.
    pub fn is_subscribing(&self) -> bool {
        self.session.is_subscribing()
    }

    /// Whether a task runs.
    pub fn has_tasks(&self) -> bool {
        !self.running.is_empty()
    }

    /// Whether this device is about to restart, for the engines that share its machine.
    pub fn restart(&self) -> GatewayRestart {
        match self.restarting.and_then(|key| self.requests.get(&key)).map(|request| &request.stage) {
            None => GatewayRestart::None,
            Some(Stage::Performing { step: Step::Draining, .. }) => GatewayRestart::Draining,
            Some(_) => GatewayRestart::Begun,
        }
    }

    /// Tells the gateway's engine whether tasks of attached devices run: its restart waits for them.
    pub fn others_run(&mut self, now: super::Now, running: bool) {
        self.advance(now);
        self.others.running = running;
        self.go_on_draining();
        self.settle_down();
    }

    /// Tells an attached device's engine whether its gateway is about to restart: what runs has as long as the gateway's
    /// own work, and nothing starts until it is over.
    pub fn gateway_restarts(&mut self, now: super::Now, restart: GatewayRestart) {
        self.advance(now);
        let before = std::mem::replace(&mut self.others.restart, restart != GatewayRestart::None);
        match restart {
            GatewayRestart::Draining if self.has_tasks() => {
                self.timers.set(Timer::Drain, self.now.monotonic + DRAIN_LIMIT);
            }
            GatewayRestart::Draining | GatewayRestart::Begun => {}
            GatewayRestart::None if before => {
                self.timers.clear(&Timer::Drain);
                self.restart_lane_waits();
                self.go_on_draining();
            }
            GatewayRestart::None => {}
        }
        self.settle_down();
    }

    /// Whether deliveries wait here that are not acknowledged yet: no acknowledgement behind them leaves.
    pub fn defers(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Tells an engine whether another on its connection [defers](Self::defers): the broker may keep back meanwhile what
    /// is for this one, too, and it grows old there.
    pub(crate) fn others_withhold(&mut self, now: super::Now, withhold: bool) {
        self.advance(now);
        self.withheld.others(self.now.monotonic, withhold);
        self.session.heard(self.now.monotonic);
        self.settle_down();
    }

    /// The broker acknowledged something on the connection at that time: what this device sent waits for its turn.
    pub(crate) fn connection_moved(&mut self, at: Duration) {
        self.timers.put_off(&Timer::Window, at + WINDOW_CLOSED_LIMIT);
        self.timers.put_off(&Timer::EventsStuck, at + PUBACK_WITHIN);
    }

    pub(super) fn nothing_runs(&self) -> bool {
        self.running.is_empty() && !self.others.running
    }

    /// Begins the restart that waited for what ran.
    pub(super) fn go_on_draining(&mut self) {
        let draining = self.restarting.filter(|restarting| {
            matches!(
                self.requests.get(restarting),
                Some(Request { stage: Stage::Performing { step: Step::Draining, .. }, .. })
            )
        });
        if let Some(restarting) = draining
            && self.nothing_runs()
            && !self.others.restart
        {
            self.work(restarting);
        }
    }

    /// The attached device was restarted, as its product knows: work that ended in a restart is judged.
    pub(super) fn booted(&mut self, boot: BootId, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.effect(Effect::Confirm(ticket));
        }
        if self.settings.gateway.is_none() || self.settings.boot == boot {
            return;
        }
        let before = std::mem::replace(&mut self.settings.boot, boot);
        if before.0.is_empty() {
            // Nobody knew which boot it was: this one is no other.
            return;
        }
        info!(boot = &*self.settings.boot.0, "the attached device was restarted");
        let restarted: Vec<KeyHash> = self
            .requests
            .iter()
            .filter(|(_, request)| matches!(request.stage, Stage::Performing { step: Step::Restarting, .. }))
            .map(|(key, _)| *key)
            .collect();
        for key in restarted {
            self.timers.clear(&Timer::Restart(key));
            if self.restarting == Some(key) {
                self.restarting = None;
            }
            let request = self.requests.get_mut(&key).expect("it was there a moment ago");
            if let Stage::Performing { response, boot, .. } = &request.stage {
                request.stage = Stage::Judging { response: response.clone(), boot: boot.clone() };
            }
        }
    }

    /// The boot that a record names. Of a device whose boots nobody tells apart, every boot is the present one.
    pub(super) fn boot_of_record(&self, boot: Box<str>) -> Box<str> {
        let untold = boot.is_empty() || self.settings.boot.0.is_empty();
        if self.settings.is_attached() && untold { (*self.settings.boot.0).into() } else { boot }
    }

    /// What is on no topic of the device's tree. A gateway hears there what the platform did not take
    /// (`docs/protocol.md` §3).
    pub(super) fn foreign(&mut self, delivered: &Delivered) {
        match (&self.settings.subject, notice_about(&delivered.topic)) {
            (iotdm_core::Subject::Named { .. }, Some(device)) => {
                let detail = format!("{device}: {}", told(&delivered.payload));
                self.note("the platform reports an error to the gateway", &detail);
            }
            _ => self.note("message on a foreign topic", "it is dropped"),
        }
    }
}

/// Which device a topic of the gateway's error channel names.
fn notice_about(topic: &str) -> Option<String> {
    let (type_id, rest) = topic.strip_prefix("iot-2/type/")?.split_once('/')?;
    let device_id = rest.strip_prefix("id/")?.strip_suffix("/notify")?;
    let is_name = |text: &str| text.parse::<Name>().is_ok();
    (is_name(type_id) && is_name(device_id)).then(|| format!("{type_id}/{device_id}"))
}

/// The documented fields of an error, in their order; the text itself where it has none of them.
fn told(payload: &[u8]) -> String {
    let fields: Map<String, Value> = serde_json::from_slice(payload).unwrap_or_default();
    let known = ["Request", "Time", "Topic", "Type", "Id", "Client", "RC", "Message"];
    let told: Vec<String> =
        known.iter().filter_map(|name| fields.get(*name).map(|value| format!("{name} {value}"))).collect();
    if told.is_empty() { String::from_utf8_lossy(payload).into_owned() } else { told.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_platform_is_told_with_its_fields_in_their_order() {
        let payload = br#"{"Message":"no","RC":403,"Id":"p-1","Other":1,"Request":"publish"}"#;
        assert_eq!(told(payload), r#"Request "publish", Id "p-1", RC 403, Message "no""#);
        assert_eq!(told(b"plain words"), "plain words");
    }

    #[test]
    fn only_the_error_channel_is_taken_for_it() {
        assert_eq!(notice_about("iot-2/type/gw/id/g7/notify").as_deref(), Some("gw/g7"));
        for topic in ["iot-2/type/gw/id/g7/evt/notify", "iot-2/type/g w/id/g7/notify", "iot-2/notify"] {
            assert_eq!(notice_about(topic), None, "{topic}");
        }
    }
}
