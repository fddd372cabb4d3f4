//! A firmware download in the whole agent, ended at every moment: `docs/handlers/firmware-download.md` has the table.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use iotdm_agent::testing::{CrashOutcome, Running};
use iotdm_core::{Action, Download, Route, UpRoute};
use iotdm_handlers::firmware::{
    FetchError, FetchRequest, Fetcher, Firmware, FirmwareOptions, Piece, Verification,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::product::Rig;

/// A server in memory: pieces of ten bytes, and what each attempt met.
#[derive(Debug, Default)]
struct Server(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// After so many bytes of the image the attempts wait until they are stopped.
    holds_at: Option<usize>,
    refuses: Option<FetchError>,
    /// Where each attempt went on.
    requests: Vec<u64>,
    /// Whether an attempt waits.
    holding: bool,
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of the lock panics")
    }

    fn requests(&self) -> Vec<u64> {
        self.state().requests.clone()
    }

    /// Waits until an attempt waits. The attempt is on a thread: this lets time stand still.
    async fn held(&self) {
        while !self.state().holding {
            tokio::task::yield_now().await;
        }
    }
}

impl Fetcher for Server {
    fn fetch(
        &self,
        request: &FetchRequest<'_>,
        sink: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<(), FetchError> {
        let from = request.resume.filter(|resume| resume.validator == TAG).map_or(0, |resume| resume.from);
        let (holds_at, refuses) = {
            let mut state = self.state();
            state.requests.push(from);
            (state.holds_at, state.refuses.clone())
        };
        if let Some(error) = refuses {
            return Err(error);
        }
        let mut give = |piece: Piece<'_>| match sink(piece) {
            ControlFlow::Continue(()) if !request.cancellation.is_cancelled() => Ok(()),
            _ => Err(FetchError::Stopped),
        };
        let image = image();
        give(Piece::Start { from, total: Some(image.len() as u64), validator: Some(TAG.into()) })?;
        let mut at = usize::try_from(from).expect("it is within the image");
        for bytes in image[at..].chunks(10) {
            if holds_at.is_some_and(|holds_at| at >= holds_at) {
                self.state().holding = true;
                while !request.cancellation.is_cancelled() {
                    std::thread::yield_now();
                }
                self.state().holding = false;
                return Err(FetchError::Stopped);
            }
            give(Piece::Bytes(bytes))?;
            at += bytes.len();
        }
        Ok(())
    }
}

const TAG: &str = "\"2.0\"";

fn image() -> Vec<u8> {
    (0..100).collect()
}

/// A device that fetches images, and its server.
struct Lamp {
    rig: Rig,
    server: Arc<Server>,
    folder: TempDir,
}

impl Lamp {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        Self { rig: Rig::new(), server: Arc::default(), folder }
    }

    async fn managed(&self) -> Running {
        let manages = self.rig.platform.published(UpRoute::Manage).len();
        let options = FirmwareOptions {
            fruitless_attempts: 3,
            verification: Verification::Required,
            ..FirmwareOptions::new(self.folder.path().join("staging"))
        };
        let firmware = Firmware::new(options, self.server.clone()).expect("the options are usable");
        let running = self.rig.start_with(|builder| builder.with(firmware));
        self.rig.platform.managed(manages + 1).await;
        self.rig.platform.drained().await;
        running
    }

    /// Describes the image and observes it, as the platform does before it asks.
    async fn describe(&self) {
        let digest: String = Sha256::digest(image()).iter().map(|byte| format!("{byte:02x}")).collect();
        let uri = "http://images.example/2.0";
        let value = json!({"version": "2.0", "uri": uri, "verifier": format!("sha256:{digest}")});
        self.set("describe", value).await;
        let d = json!({"fields": [{"field": "mgmt.firmware"}]});
        self.rig.platform.send(Route::Observe, json!({"reqId": "observe", "d": d}));
        assert_eq!(self.rig.platform.response("observe").await["rc"], 200);
    }

    async fn set(&self, req_id: &str, value: Value) {
        let d = json!({"fields": [{"field": "mgmt.firmware", "value": value}]});
        self.rig.platform.send(Route::DeviceUpdate, json!({"reqId": req_id, "d": d}));
        assert_eq!(self.rig.platform.response(req_id).await["rc"], 204);
    }

    /// `state` and `updateStatus` of each notify, without the repetition of one that was not known to have arrived.
    fn notified(&self) -> Vec<(u64, u64)> {
        let place = |notify: &Value| {
            let value = &notify["d"]["fields"][0]["value"];
            Some((value["state"].as_u64()?, value["updateStatus"].as_u64()?))
        };
        let mut places: Vec<_> =
            self.rig.platform.published(UpRoute::Notify).iter().filter_map(place).collect();
        places.dedup();
        places
    }

    async fn until(&self, place: (u64, u64)) {
        self.rig.platform.until(|_| self.notified().last() == Some(&place)).await;
    }

    async fn downloaded(&self) {
        self.until((2, 0)).await;
        let staged = self.folder.path().join("staging/image");
        assert_eq!(std::fs::read(staged).expect("it was reported as here"), image());
    }

    /// Waits until so much is synced: what the thread of a killed agent does last, which a killed process would not have.
    async fn synced(&self, bytes: u64) {
        let record = self.folder.path().join("staging/image.json");
        let synced = || {
            let record: Value = serde_json::from_slice(&std::fs::read(&record).ok()?).ok()?;
            record["synced"].as_u64()
        };
        while synced() != Some(bytes) {
            tokio::task::yield_now().await;
        }
    }

    fn codes(&self, req_id: &str) -> Vec<u64> {
        self.rig.platform.responses(req_id).iter().filter_map(|answer| answer["rc"].as_u64()).collect()
    }
}

/// Lets time pass while a thread waits, which keeps the paused clock where it is.
async fn push_time(step: Duration, times: u64, happened: impl Fn() -> bool) {
    for _ in 0..times {
        if happened() {
            return;
        }
        tokio::time::advance(step).await;
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }
    assert!(happened(), "it did not happen");
}

#[tokio::test(start_paused = true)]
async fn a_download_is_answered_202_then_notified_as_downloading_and_downloaded() {
    let lamp = Lamp::new();
    let _running = lamp.managed().await;
    lamp.describe().await;
    assert_eq!(lamp.rig.ask::<Download>("d").await["rc"], 202);
    lamp.downloaded().await;
    assert_eq!(lamp.notified(), [(1, 0), (2, 0)]);
    assert_eq!(lamp.server.requests(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_download_that_cannot_begin_is_refused_with_400_and_nothing_is_fetched() {
    let lamp = Lamp::new();
    let _running = lamp.managed().await;
    for (index, value) in [
        json!({"version": "2.0"}),
        json!({"uri": "ftp://images.example/2.0"}),
        json!({"uri": "file:///etc/shadow"}),
        json!({"uri": "http://images.example/2.0", "verifier": ""}),
        json!({"verifier": "9".repeat(32)}),
        json!({"verifier": "minisign:AAAA"}),
    ]
    .into_iter()
    .enumerate()
    {
        lamp.set(&format!("describe{index}"), value.clone()).await;
        let answer = lamp.rig.ask::<Download>(&format!("d{index}")).await;
        assert_eq!(answer["rc"], 400, "{value}");
        assert!(answer["message"].as_str().is_some_and(|text| text.contains(':')), "{answer}");
    }
    assert_eq!(lamp.server.requests(), Vec::<u64>::new());
}

#[tokio::test(start_paused = true)]
async fn a_second_download_is_refused_while_one_is_under_way() {
    let lamp = Lamp::new();
    let running = lamp.managed().await;
    lamp.describe().await;
    lamp.server.state().holds_at = Some(50);
    assert_eq!(lamp.rig.ask::<Download>("first").await["rc"], 202);
    lamp.server.held().await;
    lamp.rig.send::<Download>("second");
    // The lane lets the next one wait for ten seconds.
    push_time(Duration::from_secs(1), 60, || !lamp.codes("second").is_empty()).await;
    assert_eq!(lamp.codes("second"), [409]);
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_silent_ends_as_connection_lost_before_the_budget_does() {
    let lamp = Lamp::new();
    let _running = lamp.managed().await;
    lamp.describe().await;
    lamp.server.state().holds_at = Some(50);
    assert_eq!(lamp.rig.ask::<Download>("d").await["rc"], 202);
    lamp.server.held().await;
    let minutes = Download::PERFORM_BUDGET.as_secs() / 60;
    push_time(Duration::from_secs(60), minutes, || lamp.notified().last() == Some(&(0, 3))).await;
    assert_eq!(lamp.notified(), [(1, 0), (0, 3)]);
    // What is here is not lost: the next download goes on behind it.
    lamp.server.state().holds_at = None;
    assert_eq!(lamp.rig.ask::<Download>("again").await["rc"], 202);
    lamp.downloaded().await;
    assert_eq!(lamp.server.requests(), [0, 50]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_never_there_ends_as_connection_lost_and_the_device_takes_the_next_download() {
    let lamp = Lamp::new();
    let _running = lamp.managed().await;
    lamp.describe().await;
    lamp.server.state().refuses = Some(FetchError::Transport("refused".into()));
    assert_eq!(lamp.rig.ask::<Download>("d").await["rc"], 202);
    lamp.until((0, 3)).await;
    assert_eq!(lamp.notified(), [(1, 0), (0, 3)]);
    lamp.server.state().refuses = None;
    assert_eq!(lamp.rig.ask::<Download>("again").await["rc"], 202);
    lamp.downloaded().await;
}

/// At each commit in turn: of the request, of its 202, of the states, of its end.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_commit_of_a_download_ends_with_the_image_and_one_answer() {
    for outcome in [CrashOutcome::Applied, CrashOutcome::NotApplied] {
        for at in 1..=6 {
            let lamp = Lamp::new();
            let _running = lamp.managed().await;
            lamp.describe().await;
            lamp.rig.disk.crash_at_commit(at, outcome);
            lamp.rig.send::<Download>("d");
            lamp.downloaded().await;
            lamp.rig.platform.until(|_| !lamp.codes("d").is_empty()).await;
            assert!(lamp.codes("d").iter().all(|rc| *rc == 202), "{:?} at {at} {outcome:?}", lamp.codes("d"));
            let requests = lamp.server.requests();
            assert!(
                requests.len() <= 2 && requests.iter().all(|from| *from == 0),
                "{requests:?} at {at} {outcome:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_whose_answer_the_broker_did_not_confirm_begins_only_after_it_has() {
    let lamp = Lamp::new();
    let running = lamp.managed().await;
    lamp.describe().await;
    lamp.rig.platform.hold_pubacks(true);
    assert_eq!(lamp.rig.ask::<Download>("d").await["rc"], 202);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(lamp.server.requests(), Vec::<u64>::new());
    running.kill().await;
    lamp.rig.platform.hold_pubacks(false);
    let _running = lamp.managed().await;
    lamp.downloaded().await;
    assert_eq!(lamp.server.requests(), [0]);
    assert!(lamp.codes("d").iter().all(|rc| *rc == 202));
}

/// The process dies, or the whole device, with half of the image here.
#[tokio::test(start_paused = true)]
async fn a_download_that_was_killed_goes_on_where_it_was_also_after_a_reboot() {
    for reboots in [false, true] {
        let lamp = Lamp::new();
        let running = lamp.managed().await;
        lamp.describe().await;
        lamp.server.state().holds_at = Some(50);
        assert_eq!(lamp.rig.ask::<Download>("d").await["rc"], 202);
        lamp.server.held().await;
        running.kill().await;
        lamp.synced(50).await;
        if reboots {
            lamp.rig.system.next_boot();
        }
        lamp.server.state().holds_at = None;
        let _running = lamp.managed().await;
        lamp.downloaded().await;
        assert_eq!(lamp.server.requests(), [0, 50], "reboots: {reboots}");
        assert_eq!(lamp.notified(), [(1, 0), (2, 0)], "an interruption is no failure");
        assert_eq!(lamp.codes("d"), [202], "answered before the crash");
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_that_comes_again_is_answered_again_and_fetched_once() {
    let lamp = Lamp::new();
    let running = lamp.managed().await;
    lamp.describe().await;
    lamp.server.state().holds_at = Some(50);
    assert_eq!(lamp.rig.ask::<Download>("d").await["rc"], 202);
    lamp.server.held().await;
    assert_eq!(lamp.rig.ask::<Download>("d").await["rc"], 202, "while it runs");
    running.kill().await;
    lamp.synced(50).await;
    lamp.server.state().holds_at = None;
    let running = lamp.managed().await;
    lamp.downloaded().await;
    assert_eq!(lamp.rig.ask::<Download>("d").await["rc"], 202, "when it is done");
    running.kill().await;
    lamp.rig.system.next_boot();
    let _running = lamp.managed().await;
    assert_eq!(lamp.rig.ask::<Download>("d").await["rc"], 202, "and in another boot");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(lamp.server.requests(), [0, 50]);
    let answers = lamp.rig.platform.responses("d");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}
