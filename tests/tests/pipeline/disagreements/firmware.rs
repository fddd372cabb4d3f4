//! `mgmt.firmware` and its two actions, on a device whose server is in memory.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use iotdm_agent::testing::Running;
use iotdm_core::{Action, Download, Route, UpRoute, Update};
use iotdm_handlers::firmware::{
    CommandInstaller, FetchError, FetchRequest, Fetcher, Firmware, FirmwareOptions, InstallOptions, Piece,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::product::Rig;

/// Has one image, whatever is asked for.
struct Server;

impl Fetcher for Server {
    fn fetch(
        &self,
        _: &FetchRequest<'_>,
        sink: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<(), FetchError> {
        let start = Piece::Start { from: 0, total: Some(IMAGE.len() as u64), validator: None };
        for piece in [start, Piece::Bytes(IMAGE)] {
            if sink(piece).is_break() {
                return Err(FetchError::Stopped);
            }
        }
        Ok(())
    }
}

/// A device with firmware actions. Its machine has no programs: an update is taken and then fails.
struct Lamp {
    rig: Rig,
    folder: TempDir,
}

impl Lamp {
    fn new() -> Self {
        Self { rig: Rig::new(), folder: tempfile::tempdir().expect("the temporary folder can be written") }
    }

    async fn managed(&self) -> Running {
        let manages = self.rig.platform.published(UpRoute::Manage).len();
        let running = self.rig.start_with(|builder| builder.with(bundle(self.folder.path())));
        self.rig.platform.managed(manages + 1).await;
        self.rig.platform.drained().await;
        running
    }

    /// Waits for the code of the answer.
    async fn ask<A: Action>(&self, req_id: &str) -> Value {
        self.rig.ask::<A>(req_id).await["rc"].clone()
    }

    async fn set(&self, req_id: &str, value: Value) {
        let d = json!({"fields": [{"field": "mgmt.firmware", "value": value}]});
        self.rig.platform.send(Route::DeviceUpdate, json!({"reqId": req_id, "d": d}));
        assert_eq!(self.rig.platform.response(req_id).await["rc"], 204);
    }

    /// The value in the answer to an observe.
    async fn observe(&self, req_id: &str) -> Value {
        let d = json!({"fields": [{"field": "mgmt.firmware"}]});
        self.rig.platform.send(Route::Observe, json!({"reqId": req_id, "d": d}));
        let answer = self.rig.platform.response(req_id).await;
        assert_eq!(
            (&answer["rc"], &answer["d"]["fields"][0]["field"]),
            (&json!(200), &json!("mgmt.firmware"))
        );
        answer["d"]["fields"][0]["value"].clone()
    }

    /// Has the image described and downloaded.
    async fn download(&self) {
        self.set("describe", image()).await;
        self.observe("watch").await;
        assert_eq!(self.ask::<Download>("download").await, 202);
        let here = |notify: &Value| notify["d"]["fields"][0]["value"]["state"] == 2;
        self.rig.platform.until(|platform| platform.published(UpRoute::Notify).iter().any(here)).await;
    }
}

fn bundle(folder: &Path) -> Firmware {
    let install = InstallOptions::new(CommandInstaller::new(["/usr/bin/install-image", "{image}"]));
    let options = FirmwareOptions { install: Some(install), ..FirmwareOptions::new(folder) };
    Firmware::new(options, Arc::new(Server)).expect("the options are usable")
}

/// What the platform says of the image.
fn image() -> Value {
    let digest: String = Sha256::digest(IMAGE).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({"version": "2.0", "uri": "http://images.example/2.0", "verifier": format!("sha256:{digest}")})
}

const IMAGE: &[u8] = b"an image";

/// `docs/protocol.md` §9 point 6.
#[tokio::test(start_paused = true)]
async fn firmware_that_is_not_supported_is_501() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    assert_eq!(rig.ask::<Download>("d").await["rc"], 501);
    assert_eq!(rig.ask::<Update>("u").await["rc"], 501);
}

/// `docs/protocol.md` §9 point 7.
#[tokio::test(start_paused = true)]
async fn the_answer_to_observe_always_has_the_true_value() {
    let lamp = Lamp::new();
    let _running = lamp.managed().await;
    assert_eq!(lamp.observe("before").await, json!({"state": 0, "updateStatus": 0}));
    lamp.set("describe", json!({"version": "2.0"})).await;
    assert_eq!(lamp.observe("after").await, json!({"version": "2.0", "state": 0, "updateStatus": 0}));
}

/// `docs/protocol.md` §9 point 8.
#[tokio::test(start_paused = true)]
async fn the_observe_before_an_update_is_answered_with_state_2() {
    let lamp = Lamp::new();
    let _running = lamp.managed().await;
    lamp.download().await;
    let value = lamp.observe("again").await;
    assert_eq!((&value["state"], &value["updateStatus"]), (&json!(2), &json!(0)));
    assert!(value["updatedDateTime"].as_str().is_some_and(|time| time.ends_with('Z')), "{value}");
}

/// `docs/protocol.md` §9 point 9.
#[tokio::test(start_paused = true)]
async fn an_update_needs_state_2_also_after_a_restart() {
    let lamp = Lamp::new();
    let running = lamp.managed().await;
    lamp.set("early", image()).await;
    assert_eq!(lamp.ask::<Update>("too early").await, 400);
    lamp.download().await;
    running.kill().await;
    lamp.rig.system.next_boot();
    let _running = lamp.managed().await;
    assert_eq!(lamp.ask::<Update>("update").await, 202);
}

/// `docs/protocol.md` §9 point 10.
#[tokio::test(start_paused = true)]
async fn parameters_of_an_update_keep_the_image_unless_they_name_another() {
    for (parameter, state, rc) in [
        (json!({"state": 0, "updateStatus": 0, "version": "2.0", "name": "lamp"}), 2, 202),
        (json!({"uri": "http://images.example/3.0"}), 0, 400),
        (json!({"version": "3.0"}), 0, 400),
        (json!({"verifier": format!("sha256:{}", "0".repeat(64))}), 0, 400),
    ] {
        let lamp = Lamp::new();
        let _running = lamp.managed().await;
        lamp.download().await;
        lamp.set("parameters", parameter.clone()).await;
        assert_eq!(lamp.observe("look").await["state"], state, "{parameter}");
        assert_eq!(lamp.ask::<Update>("update").await, rc, "{parameter}");
    }
}

/// `docs/protocol.md` §9 point 11.
#[tokio::test(start_paused = true)]
async fn without_a_uri_the_stored_one_counts_and_without_any_it_is_400() {
    let lamp = Lamp::new();
    let _running = lamp.managed().await;
    lamp.set("no uri", json!({"version": "2.0", "verifier": image()["verifier"]})).await;
    let refused = lamp.rig.ask::<Download>("refused").await;
    assert_eq!(refused["rc"], 400);
    assert!(refused["message"].as_str().is_some_and(|message| message.contains("uri")), "{refused}");
    lamp.set("all", image()).await;
    lamp.set("no uri again", json!({"name": "lamp"})).await;
    assert_eq!(lamp.observe("look").await["uri"], image()["uri"]);
    assert_eq!(lamp.ask::<Download>("taken").await, 202);
}

/// `docs/protocol.md` §9 point 19.
#[tokio::test(start_paused = true)]
async fn url_is_taken_and_uri_is_sent() {
    let lamp = Lamp::new();
    let _running = lamp.managed().await;
    for (member, version) in [("url", "2.0"), ("uri", "3.0")] {
        let address = format!("http://images.example/{version}");
        lamp.set(member, json!({ "version": version, member: address })).await;
        let value = lamp.observe(version).await;
        assert_eq!((&value["uri"], &value["url"]), (&json!(address), &Value::Null));
    }
}
