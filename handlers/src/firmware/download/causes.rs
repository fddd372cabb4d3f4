//! What a download ends with, cause by cause, and what it does with a server's and a machine's moods.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iotdm_core::{Code, Context, ContextParts, Performed, ReqId, Route};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fake::output;
use crate::firmware::tests::{Rig, Trouble, URI, image, sha256};
use crate::firmware::verify::signed::{KEY, OTHER_KEY, signed, signed_as_2_0};
use crate::firmware::{FetchError, FirmwareOptions, Verification};

const DOWNLOAD: Route = Route::FirmwareDownload;

fn error(error: FetchError) -> impl FnOnce(&mut Rig) {
    move |rig| rig.server.always(Trouble::Error(error))
}

fn status(code: u16) -> impl FnOnce(&mut Rig) {
    error(FetchError::Status(code))
}

fn with(change: impl FnOnce(&mut FirmwareOptions)) -> impl FnOnce(&mut Rig) {
    move |rig| change(&mut rig.options)
}

fn file(rig: &mut Rig, path: &str) {
    rig.options.allow_file_uris = true;
    rig.describe(json!({"uri": format!("file://{path}"), "verifier": sha256(&image())}));
}

/// What it is, how it comes about, and its `updateStatus` (`docs/protocol.md` §6.3).
type Cause = (&'static str, Box<dyn FnOnce(&mut Rig)>, u64);

fn causes() -> impl Iterator<Item = Cause> {
    out_of_memory().into_iter().chain(connection_lost()).chain(verification_failed()).chain(invalid_uri())
}

/// No room, or more than this device takes.
fn out_of_memory() -> Vec<Cause> {
    vec![
        ("larger than the limit", Box::new(with(|options| options.max_image_bytes = 99)), 2),
        (
            "larger than the limit, not announced",
            Box::new(|rig| {
                rig.options.max_image_bytes = 99;
                rig.server.hide_length();
            }),
            2,
        ),
        (
            "larger than the storage",
            Box::new(|rig| {
                rig.options.max_image_bytes = u64::MAX;
                rig.server.announce(1 << 60);
            }),
            2,
        ),
        ("no staging folder", Box::new(|rig| std::fs::write(&rig.options.staging, "a file").unwrap()), 2),
    ]
}

/// It may work another time.
fn connection_lost() -> Vec<Cause> {
    let transport = || FetchError::Transport("reset by peer".into());
    let busy = FetchError::Busy { status: 503, retry_after: Duration::from_secs(1) };
    vec![
        ("no connection", Box::new(error(transport())), 3),
        ("too busy for too long", Box::new(error(busy)), 3),
        ("cut each time", Box::new(|rig| rig.server.always(Trouble::CutAfter(0))), 3),
        ("408", Box::new(status(408)), 3),
        ("425", Box::new(status(425)), 3),
        ("429", Box::new(status(429)), 3),
        ("500", Box::new(status(500)), 3),
        ("599", Box::new(status(599)), 3),
        ("never resumable", Box::new(error(FetchError::NotResumable("416".into()))), 3),
    ]
}

/// What came is not what was announced.
fn verification_failed() -> Vec<Cause> {
    let different = |rig: &mut Rig| rig.server.replace(vec![7; 100], "\"one\"");
    vec![
        ("another image", Box::new(different), 4),
        (
            "a signature of another image",
            Box::new(move |rig| {
                rig.options.public_keys = vec![KEY.parse().unwrap()];
                rig.describe(json!({"uri": URI, "verifier": signed()}));
                different(rig);
            }),
            4,
        ),
        (
            "a signature of another version",
            Box::new(|rig| {
                rig.options.public_keys = vec![KEY.parse().unwrap()];
                rig.describe(json!({"uri": URI, "verifier": signed_as_2_0(), "version": "3.0"}));
            }),
            4,
        ),
        (
            "a key that was taken away after the answer",
            Box::new(|rig| {
                rig.options.public_keys = vec![OTHER_KEY.parse().unwrap()];
                rig.describe(json!({"uri": URI, "verifier": signed()}));
            }),
            4,
        ),
        ("no verifier any more", Box::new(|rig| rig.describe(json!({"uri": URI}))), 4),
    ]
}

/// Nothing will ever come from there.
fn invalid_uri() -> Vec<Cause> {
    vec![
        ("401", Box::new(status(401)), 6),
        ("403", Box::new(status(403)), 6),
        ("404", Box::new(status(404)), 6),
        ("410", Box::new(status(410)), 6),
        ("no image in a success", Box::new(status(204)), 6),
        ("a redirect to nowhere", Box::new(error(FetchError::Unusable("no".into()))), 6),
        ("no address any more", Box::new(|rig| rig.describe(json!({"verifier": sha256(&image())}))), 6),
        ("no such file", Box::new(|rig| file(rig, "/nonexistent/image")), 6),
        ("a device, not a file", Box::new(|rig| file(rig, "/dev/zero")), 6),
        (
            "a file where none is allowed",
            Box::new(|rig| {
                file(rig, "/etc/hostname");
                rig.options.allow_file_uris = false;
            }),
            6,
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn each_cause_ends_with_its_update_status_in_one_notify() {
    for (cause, prepare, expected) in causes() {
        let mut rig = Rig::new();
        rig.options.fruitless_attempts = 3;
        prepare(&mut rig);
        assert!(rig.perform(DOWNLOAD).await.is_err(), "{cause}");
        let notified = rig.notified();
        assert_eq!(notified.last(), Some(&(0, expected)), "{cause}");
        assert!(notified.iter().filter(|(state, _)| *state == 0).count() == 1, "{cause}: {notified:?}");
        assert_eq!(rig.stored_image(), None, "{cause}");
    }
}

/// An image is known to be unsupported only when somebody tries to install it.
#[tokio::test(start_paused = true)]
async fn an_unsupported_image_is_told_by_the_install_command_alone() {
    let rig = Rig::new();
    rig.perform(DOWNLOAD).await.unwrap();
    rig.system.next_run(Ok(output(65, "", "")));
    assert!(rig.perform(Route::FirmwareUpdate).await.is_err());
    assert_eq!(rig.state(), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn an_image_without_room_is_refused_before_its_first_byte_and_what_is_here_stays() {
    let mut rig = Rig::new();
    rig.options.max_image_bytes = u64::MAX;
    rig.server.announce(1 << 60);
    let pieces = Arc::new(Mutex::new(0));
    let count = pieces.clone();
    rig.options.on_progress = Some(Arc::new(move |_, _| *count.lock().unwrap() += 1));
    let reason = rig.perform(DOWNLOAD).await.unwrap_err().to_string();
    assert!(reason.contains("bytes of storage") && reason.contains("are free"), "{reason}");
    assert_eq!(*pieces.lock().unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_signed_image_is_taken_and_a_checksum_alone_is_refused_where_signatures_are_required() {
    let mut rig = Rig::new();
    rig.options.verification = Verification::Signed;
    rig.options.public_keys = vec![KEY.parse().unwrap()];
    let (rc, message) = rig.ask(DOWNLOAD).await;
    assert_eq!(rc, Code::BAD_REQUEST);
    assert!(message.contains("takes only signed images"), "{message}");
    rig.describe(json!({"uri": URI, "verifier": signed_as_2_0(), "version": "2.0"}));
    assert_eq!(rig.ask(DOWNLOAD).await.0, Code::ACCEPTED);
    assert_eq!(rig.perform(DOWNLOAD).await.unwrap(), Performed::Complete);
    assert_eq!(rig.stored_image(), Some(image()));

    rig.options.public_keys = vec![OTHER_KEY.parse().unwrap()];
    let (rc, message) = rig.ask(DOWNLOAD).await;
    assert_eq!(rc, Code::BAD_REQUEST);
    assert!(message.contains("signed by key 46ACB296E4172022"), "{message}");
}

/// How long a download took, from its begin to its end.
async fn duration(rig: &Rig) -> Duration {
    let begin = Instant::now();
    let _ = rig.perform(DOWNLOAD).await;
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_gets_the_pause_it_asks_for_and_at_most_a_quarter_of_an_hour() {
    for (asked, least, most) in [(0, 0, 2), (120, 120, 122), (u64::MAX, 900, 902)] {
        let mut rig = Rig::new();
        rig.options.fruitless_attempts = 2;
        let retry_after = Duration::from_secs(asked);
        rig.server.trouble(Trouble::Error(FetchError::Busy { status: 429, retry_after }));
        let parts = ContextParts { deadline: Instant::now() + Duration::from_secs(7200), ..rig.parts() };
        let begin = Instant::now();
        assert_eq!(rig.perform_as(DOWNLOAD, Context::new(parts)).await.unwrap(), Performed::Complete);
        let pause = begin.elapsed();
        assert!((least..=most).contains(&pause.as_secs()), "{asked}: {pause:?}");
    }
    // A pause that would outlast the budget is not waited for.
    let rig = Rig::new();
    let retry_after = Duration::from_secs(800);
    rig.server.always(Trouble::Error(FetchError::Busy { status: 503, retry_after }));
    assert_eq!(duration(&rig).await, Duration::ZERO);
    assert_eq!(rig.state(), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn pauses_between_fruitless_attempts_grow_to_a_minute_and_differ_from_device_to_device() {
    let mut all = BTreeSet::new();
    for request in ["a", "b", "c", "d"] {
        let rig = Rig::new();
        rig.server.always(Trouble::Error(FetchError::Transport("refused".into())));
        let parts = ContextParts {
            req_id: Some(ReqId::from_text(request)),
            deadline: Instant::now() + Duration::from_secs(7200),
            ..rig.parts()
        };
        let begin = Instant::now();
        assert!(rig.perform_as(DOWNLOAD, Context::new(parts)).await.is_err());
        assert_eq!(rig.server.requests().len(), 20, "bounded");
        let total = begin.elapsed().as_secs();
        assert!((400..=1000).contains(&total), "half of the whole, or more: {total}");
        all.insert(total);
    }
    assert!(all.len() > 1, "a fleet must not come back in step: {all:?}");
}

#[tokio::test(start_paused = true)]
async fn an_image_without_a_name_is_fetched_from_the_start_each_time() {
    let rig = Rig::new();
    rig.server.hide_tag();
    rig.server.trouble(Trouble::CutAfter(5));
    assert_eq!(rig.perform(DOWNLOAD).await.unwrap(), Performed::Complete);
    assert_eq!(rig.server.requests(), [0, 0]);
    assert_eq!(rig.stored_image(), Some(image()));
}

/// The last bytes were written and not synced when the power went: they have a length and no content.
#[tokio::test(start_paused = true)]
async fn after_a_power_cut_a_download_goes_on_behind_what_was_synced() {
    let mut rig = Rig::new();
    let killed = CancellationToken::new();
    let kill = killed.clone();
    rig.options.on_progress = Some(Arc::new(move |done, _| {
        if done == 80 {
            kill.cancel();
        }
    }));
    let cx = Context::new(ContextParts { cancellation: killed, ..rig.parts() });
    assert!(rig.perform_as(DOWNLOAD, cx).await.is_err());
    let part = [&image()[..50], &[0; 30]].concat();
    std::fs::write(rig.path("image.part"), part).unwrap();
    let mut record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(rig.path("image.json")).unwrap()).unwrap();
    assert_eq!(record["synced"], 80, "what a stop leaves is synced");
    record["synced"] = json!(50);
    std::fs::write(rig.path("image.json"), record.to_string()).unwrap();
    rig.options.on_progress = None;
    rig.crash();
    rig.system.set_boot_id("boot-2");
    assert_eq!(rig.perform(DOWNLOAD).await.unwrap(), Performed::Complete);
    assert_eq!(rig.server.requests(), [0, 50]);
    assert_eq!(rig.stored_image(), Some(image()));
}

#[tokio::test(start_paused = true)]
async fn a_large_image_is_synced_on_its_way() {
    let mut rig = Rig::new();
    let mib = 1024 * 1024;
    let large: Vec<u8> = (0..40 * mib).map(|n: usize| (n % 251) as u8).collect();
    rig.describe(json!({"uri": URI, "verifier": sha256(&large)}));
    rig.server.replace(large, "\"large\"");
    rig.server.pieces_of(mib);
    let (record, synced) = (rig.path("image.json"), Arc::new(Mutex::new(BTreeSet::new())));
    let seen = synced.clone();
    rig.options.on_progress = Some(Arc::new(move |_, _| {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
        seen.lock().unwrap().insert(record["synced"].as_u64().unwrap());
    }));
    assert_eq!(rig.perform(DOWNLOAD).await.unwrap(), Performed::Complete);
    assert_eq!(synced.lock().unwrap().iter().copied().collect::<Vec<_>>(), [0, 16 << 20, 32 << 20]);
}

/// Writes down what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0.lock().unwrap()))
    }
}

/// Ten attempts within one moment of the device's clock.
#[tokio::test(start_paused = true)]
async fn a_server_that_cuts_each_piece_does_not_fill_the_log_and_no_secret_is_in_it() {
    let rig = Rig::new();
    let uri = "http://me:s3cr3t@images.example/x?sig=s3cr3t";
    rig.describe(json!({"uri": uri, "verifier": sha256(&image())}));
    for _ in 0..9 {
        rig.server.trouble(Trouble::CutAfter(1));
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    assert_eq!(rig.perform(DOWNLOAD).await.unwrap(), Performed::Complete);
    drop(guard);
    let text = log.to_string();
    for line in ["goes on after a pause", "fetching image=", "fetching bytes="] {
        assert_eq!(text.matches(line).count(), 1, "{line} in {text}");
    }
    assert!(!text.contains("s3cr3t"), "{text}");
}
