//! Plays the exchanges of `docs/vectors` with an agent, over a real broker. Their README says what a player owes them.

mod image;
mod matching;

use iotdm_core::{AttributeValue, Report};
use serde::Deserialize;
use serde_json::Value;

use crate::application::{Application, bench_request};
use crate::device::Device;
use crate::within;

use self::image::ImageServer;
use self::matching::Captures;

/// An exchange.
#[derive(Debug, Deserialize)]
struct Vector {
    steps: Vec<Step>,
}

/// One message of it.
#[derive(Debug, Deserialize)]
struct Step {
    from: Side,
    topic: String,
    payload: Option<Value>,
    payload_text: Option<String>,
    note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    Platform,
    Device,
}

/// Plays an exchange with a device that is switched off and has an empty journal.
///
/// # Panics
/// The exchange cannot be read, or the device does something else.
pub async fn play(text: &str, port: u16, device: Device) {
    let vector: Vector = serde_json::from_str(text).expect("a vector is as the README of the vectors says");
    let images = ImageServer::start().await;
    let captures = Captures::new([("uri", images.uri()), ("verifier", images.verifier())]);
    let application = Application::connect(port).await;
    let mut player = Player { application, device, images, captures, restart_promised: false };
    player.device.start();
    if !vector.steps[0].topic.ends_with("mgmt/manage") {
        player.application.attend(|seen| seen.manages == 1).await;
    }
    for (index, step) in vector.steps.iter().enumerate() {
        if let Err(problem) = player.step(step).await {
            panic!("step {} ({}): {problem}", index + 1, step.note);
        }
    }
    player.nothing_more().await;
}

struct Player {
    application: Application,
    device: Device,
    images: ImageServer,
    captures: Captures,
    /// A restart was asked for; the 202 to it means that it is going to happen.
    restart_promised: bool,
}

impl Player {
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step.from {
            Side::Platform => {
                let payload = match (&step.payload, &step.payload_text) {
                    (Some(payload), None) => self.captures.filled(payload).to_string(),
                    (None, Some(text)) => text.clone(),
                    _ => return Err("a platform step has either payload or payload_text".into()),
                };
                self.restart_promised |=
                    step.topic.contains("mgmt/initiate/device/") && !self.has_restarted();
                self.application.publish(&step.topic, payload);
                Ok(())
            }
            Side::Device => {
                let expected = step.payload.as_ref().ok_or("a device step has a payload")?;
                self.bring_about(&step.topic, expected).await;
                let message = self.application.next().await;
                if message.topic != step.topic {
                    return Err(format!(
                        "expected {}, got {} {}",
                        step.topic, message.topic, message.payload
                    ));
                }
                self.captures.take(expected, &message.payload)?;
                self.let_go_on(&message.payload);
                Ok(())
            }
        }
    }

    fn has_restarted(&self) -> bool {
        self.device.machine().restarts() > 0
    }

    /// Makes the device do what it does by itself.
    async fn bring_about(&mut self, topic: &str, expected: &Value) {
        let d = matching::with_a_time(&expected["d"]);
        let read = "the values of the step are the report's";
        let report = match topic.strip_prefix("iotdevice-1/").unwrap_or_default() {
            "mgmt/manage" if self.restart_promised => {
                self.restart_promised = false;
                return self.device.restart().await;
            }
            "device/update/location" => Report::Location(serde_json::from_value(d).expect(read)),
            "add/diag/errorCodes" => {
                Report::AddErrorCode(serde_json::from_value(d["errorCode"].clone()).expect(read))
            }
            "add/diag/log" => Report::AddLog(serde_json::from_value(d).expect(read)),
            "clear/diag/errorCodes" => Report::ClearErrorCodes,
            "clear/diag/log" => Report::ClearLog,
            "notify" => {
                let fields: Vec<AttributeValue> = serde_json::from_value(d["fields"].clone()).expect(read);
                // Firmware changes by itself: its handler is at work.
                for AttributeValue { field, value } in fields.iter().filter(|f| f.field != "mgmt.firmware") {
                    self.device.product().set_attribute(field, value).await.expect("the agent runs");
                }
                return;
            }
            "mgmt/unmanage" => return self.device.product().unmanage().await.expect("the agent runs"),
            _ => return,
        };
        self.device.product().report(report).await.expect("the agent runs");
    }

    /// Download and installation wait until their beginning was seen.
    fn let_go_on(&self, payload: &Value) {
        let value = &payload["d"]["fields"][0]["value"];
        if payload["rc"].is_null() && value["state"] == 1 {
            self.images.let_download();
        }
        if payload["rc"].is_null() && value["updateStatus"] == 1 {
            self.device.machine().let_install();
        }
    }

    /// What comes next is the answer to a probe, and nothing before it.
    async fn nothing_more(mut self) {
        self.application.publish("iotdm-1/mgmt/custom/bench/echo", bench_request("probe", ""));
        let message = self.application.next().await;
        assert_eq!((&message.payload["reqId"], &message.payload["rc"]), (&"probe".into(), &200.into()));
        within("orderly end", self.device.stop()).await;
    }
}
