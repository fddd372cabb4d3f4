use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use iotdm_core::{Code, Context, Performed, Recovery, Route, UpdateStatus, attribute};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::firmware::tests::{Rig, Trouble, URI, image, sha256, status};
use crate::firmware::{FetchError, Verification};

const DOWNLOAD: Route = Route::FirmwareDownload;

async fn download(rig: &Rig) -> Result<Performed, String> {
    rig.perform(DOWNLOAD).await.map_err(|failure| failure.to_string())
}

/// A download that fails: what an observer sees last, and that it sees it in one step.
async fn check_failure(rig: &Rig, expected: UpdateStatus) {
    download(rig).await.unwrap_err();
    assert_eq!(rig.notified(), [(1, 0), (0, status(expected))]);
    assert_eq!(rig.stored_image(), None);
}

#[tokio::test(start_paused = true)]
async fn a_download_is_notified_as_downloading_then_downloaded() {
    let rig = Rig::new();
    assert_eq!(rig.ask(DOWNLOAD).await, (Code::ACCEPTED, String::new()));
    assert!(rig.services.changes().is_empty(), "nothing happens before the platform has its 202");
    assert_eq!(download(&rig).await, Ok(Performed::Complete));
    assert_eq!(rig.notified(), [(1, 0), (2, 0)]);
    assert_eq!(rig.firmware()["updatedDateTime"], "2017-07-14T02:40:00.000Z");
    assert_eq!(rig.firmware()["version"], "2.0");
    assert_eq!(rig.stored_image(), Some(image()));
    assert_eq!(rig.files(), ["image", "image.json"]);
}

#[tokio::test(start_paused = true)]
async fn a_download_that_cannot_begin_is_refused_with_400_and_the_reason() {
    let verifier = sha256(&image());
    for (firmware, reason) in [
        (json!({"verifier": verifier}), "uri"),
        (json!({"uri": "ftp://h/x", "verifier": verifier}), "uri"),
        (json!({"uri": "file:///x", "verifier": verifier}), "uri"),
        (json!({"uri": URI}), "verifier"),
        (json!({"uri": URI, "verifier": "9".repeat(32)}), "MD5 is too weak"),
    ] {
        let rig = Rig::new();
        rig.describe(firmware.clone());
        let (rc, message) = rig.ask(DOWNLOAD).await;
        assert_eq!(rc, Code::BAD_REQUEST, "{firmware}");
        assert!(message.contains(reason), "{firmware}: {message}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_download_is_refused_while_an_image_is_here_or_one_is_fetched() {
    let rig = Rig::new();
    download(&rig).await.unwrap();
    let (rc, message) = rig.ask(DOWNLOAD).await;
    assert_eq!(rc, Code::BAD_REQUEST);
    assert!(message.contains("state is 2 (downloaded)"), "{message}");

    let rig = Rig::new();
    rig.server.trouble(Trouble::Silence);
    let (table, cx) = (rig.table(), rig.cx());
    let handler = table.handler(&DOWNLOAD).unwrap();
    let mut first = std::pin::pin!(handler.after_ack(&cx, None));
    while rig.server.requests().is_empty() {
        tokio::select! {
            biased;
            _ = &mut first => unreachable!("the server is silent"),
            () = tokio::task::yield_now() => {}
        }
    }
    let iotdm_core::Decision::Refused(refusal) = handler.handle(&rig.cx(), None).await else {
        panic!("a download is running");
    };
    assert!(refusal.message().contains("state is 1 (downloading)"));
    let other = handler.after_ack(&rig.cx(), None).await;
    assert!(other.is_err(), "two never work in one staging folder");
    cx.cancellation().cancel();
    assert!(first.await.is_err());
}

/// A request that ran out of attempts, or a staging folder that somebody emptied, must not lock the device.
#[tokio::test(start_paused = true)]
async fn a_state_that_is_not_true_any_more_does_not_lock_the_device() {
    for state in [1, 2] {
        let rig = Rig::new();
        let mut firmware = rig.firmware();
        firmware["state"] = json!(state);
        rig.describe(firmware);
        assert_eq!(rig.ask(DOWNLOAD).await.0, Code::ACCEPTED, "state {state}");
        assert_eq!(download(&rig).await, Ok(Performed::Complete));
        assert_eq!(rig.state(), (2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_transfer_cut_at_any_piece_goes_on_there() {
    for pieces in 0..10 {
        let rig = Rig::new();
        rig.server.trouble(Trouble::CutAfter(pieces));
        assert_eq!(download(&rig).await, Ok(Performed::Complete));
        assert_eq!(rig.server.requests(), [0, 10 * pieces as u64]);
        assert_eq!(rig.stored_image(), Some(image()));
    }
}

/// The program dies after each piece in turn; another one finds its state and its part.
#[tokio::test(start_paused = true)]
async fn a_download_killed_at_any_piece_is_resumed_by_the_next_start() {
    for pieces in 1..=10_u64 {
        let mut rig = Rig::new();
        let killed = CancellationToken::new();
        let (kill, at) = (killed.clone(), 10 * pieces);
        rig.options.on_progress = Some(Arc::new(move |done, _| {
            if done == at {
                kill.cancel();
            }
        }));
        let cx = Context::new(iotdm_core::ContextParts { cancellation: killed, ..rig.parts() });
        assert!(rig.perform_as(DOWNLOAD, cx).await.is_err());
        rig.crash();
        rig.options.on_progress = None;
        assert_eq!(rig.state(), (1, 0), "an interruption is no failure");
        assert_eq!(rig.recover(DOWNLOAD).await, Recovery::RunAgain);
        assert_eq!(download(&rig).await, Ok(Performed::Complete));
        // The last piece was here already: nothing more is asked for.
        let expected = if pieces == 10 { vec![0] } else { vec![0, 10 * pieces] };
        assert_eq!(rig.server.requests(), expected);
        assert_eq!(rig.stored_image(), Some(image()));
        assert_eq!(rig.recover(DOWNLOAD).await, Recovery::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_state_is_written_starts_again() {
    let mut rig = Rig::new();
    rig.services.stop();
    assert!(download(&rig).await.is_err());
    rig.crash();
    assert_eq!(rig.state(), (0, 0));
    assert_eq!(rig.recover(DOWNLOAD).await, Recovery::RunAgain);
    assert_eq!(download(&rig).await, Ok(Performed::Complete));
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_the_image_and_its_state_fetches_nothing_again() {
    let mut rig = Rig::new();
    let services = rig.services.clone();
    rig.options.on_progress = Some(Arc::new(move |done, _| {
        if done == 100 {
            services.stop();
        }
    }));
    assert!(download(&rig).await.is_err());
    rig.crash();
    rig.options.on_progress = None;
    assert_eq!((rig.state(), rig.files()), ((1, 0), vec!["image".into(), "image.json".into()]));
    assert_eq!(rig.recover(DOWNLOAD).await, Recovery::RunAgain);
    assert_eq!(download(&rig).await, Ok(Performed::Complete));
    assert_eq!(rig.server.requests(), [0]);
}

/// A power cut can leave a part of the right length with zeroes in it.
#[tokio::test(start_paused = true)]
async fn a_part_damaged_by_a_power_cut_is_fetched_once_more_from_the_start() {
    for damaged in [vec![0; 50], vec![0; 100]] {
        let mut rig = Rig::new();
        let cx = rig.cx();
        let token = cx.cancellation().clone();
        rig.options.on_progress = Some(Arc::new(move |_, _| token.cancel()));
        assert!(rig.perform_as(DOWNLOAD, cx).await.is_err());
        std::fs::write(rig.path("image.part"), &damaged).unwrap();
        rig.options.on_progress = None;
        assert_eq!(download(&rig).await, Ok(Performed::Complete));
        assert_eq!(rig.stored_image(), Some(image()));
        assert_eq!(rig.server.requests().last(), Some(&0));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_verifier_nothing_an_earlier_run_left_is_trusted() {
    let mut rig = Rig::new();
    rig.options.verification = Verification::IfGiven;
    rig.describe(json!({"uri": URI}));
    let cx = rig.cx();
    let token = cx.cancellation().clone();
    rig.options.on_progress = Some(Arc::new(move |_, _| token.cancel()));
    assert!(rig.perform_as(DOWNLOAD, cx).await.is_err());
    rig.options.on_progress = None;
    rig.server.trouble(Trouble::Error(FetchError::Transport("refused".into())));
    rig.server.trouble(Trouble::CutAfter(3));
    assert_eq!(download(&rig).await, Ok(Performed::Complete));
    assert_eq!(rig.server.requests(), [0, 0, 0, 30]);
    assert_eq!(rig.stored_image(), Some(image()));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_changes_on_the_server_is_fetched_from_the_start() {
    let rig = Rig::new();
    rig.server.replace(vec![7; 100], "\"zero\"");
    rig.server.trouble(Trouble::CutAfter(5));
    let server = rig.server.clone();
    let swap = async {
        while rig.server.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.replace(image(), "\"one\"");
    };
    let (result, ()) = tokio::join!(download(&rig), swap);
    assert_eq!(result, Ok(Performed::Complete));
    assert_eq!(rig.server.requests(), [0, 50]);
    assert_eq!(rig.stored_image(), Some(image()));
}

#[tokio::test(start_paused = true)]
async fn a_range_that_the_server_cannot_give_starts_over() {
    let rig = Rig::new();
    rig.server.trouble(Trouble::CutAfter(5));
    rig.server.trouble(Trouble::Error(FetchError::NotResumable("416".into())));
    assert_eq!(download(&rig).await, Ok(Performed::Complete));
    assert_eq!(rig.server.requests(), [0, 50, 0]);
    assert_eq!(rig.stored_image(), Some(image()));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_away_ends_as_connection_lost_and_keeps_the_part() {
    let mut rig = Rig::new();
    rig.options.fruitless_attempts = 4;
    rig.server.trouble(Trouble::CutAfter(2));
    rig.server.always(Trouble::Error(FetchError::Status(503)));
    check_failure(&rig, UpdateStatus::ConnectionLost).await;
    assert_eq!(rig.server.requests(), [0, 20, 20, 20, 20]);
    assert_eq!(std::fs::read(rig.path("image.part")).unwrap(), image()[..20]);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_bring_something_are_not_counted() {
    let mut rig = Rig::new();
    rig.options.fruitless_attempts = 2;
    for _ in 0..9 {
        rig.server.trouble(Trouble::CutAfter(1));
    }
    assert_eq!(download(&rig).await, Ok(Performed::Complete));
    assert_eq!(rig.server.requests().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_checksum_ends_as_verification_failed_and_leaves_no_file() {
    let rig = Rig::new();
    rig.server.replace(vec![7; 100], "\"one\"");
    check_failure(&rig, UpdateStatus::VerificationFailed).await;
    assert_eq!(rig.files(), Vec::<String>::new());
    assert_eq!(rig.server.requests(), [0], "a complete wrong image is not asked for again");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_image_in_two_pieces_is_fetched_twice_and_not_for_ever() {
    let rig = Rig::new();
    rig.server.replace(vec![7; 100], "\"one\"");
    for _ in 0..9 {
        rig.server.trouble(Trouble::CutAfter(9));
    }
    check_failure(&rig, UpdateStatus::VerificationFailed).await;
    assert_eq!(rig.server.requests(), [0, 90, 0, 90]);
}

#[tokio::test(start_paused = true)]
async fn an_image_above_the_limit_ends_as_out_of_memory_announced_or_not() {
    for announced in [true, false] {
        let mut rig = Rig::new();
        rig.options.max_image_bytes = 99;
        if !announced {
            rig.server.hide_length();
        }
        check_failure(&rig, UpdateStatus::OutOfMemory).await;
        assert_eq!(rig.files(), Vec::<String>::new());
    }
    let mut rig = Rig::new();
    rig.options.max_image_bytes = 100;
    assert_eq!(download(&rig).await, Ok(Performed::Complete));
}

#[tokio::test(start_paused = true)]
async fn a_staging_folder_that_cannot_be_written_ends_as_out_of_memory() {
    let rig = Rig::new();
    std::fs::write(&rig.options.staging, "a file stands in the way").unwrap();
    check_failure(&rig, UpdateStatus::OutOfMemory).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_without_an_image_ends_as_invalid_uri_at_once() {
    for error in [FetchError::Status(404), FetchError::Status(403), FetchError::Unusable("no".into())] {
        let rig = Rig::new();
        rig.server.trouble(Trouble::Error(error));
        check_failure(&rig, UpdateStatus::InvalidUri).await;
        assert_eq!(rig.server.requests(), [0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_transfer_is_given_up_before_the_budget_ends() {
    let rig = Rig::new();
    rig.server.always(Trouble::Error(FetchError::Transport("refused".into())));
    let cx = rig.cx();
    let deadline = Instant::now() + cx.remaining();
    assert!(rig.perform_as(DOWNLOAD, cx).await.is_err());
    assert_eq!(rig.state(), (0, status(UpdateStatus::ConnectionLost)));
    assert!(Instant::now() < deadline - Duration::from_secs(55), "time was left to report");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_not_wanted_any_more_is_not_reported_as_downloaded() {
    let mut rig = Rig::new();
    let services = rig.services.clone();
    rig.options.on_progress = Some(Arc::new(move |_, _| {
        services.preset(attribute::FIRMWARE, json!({"uri": URI, "verifier": "a".repeat(64), "state": 1}));
    }));
    assert!(download(&rig).await.is_err());
    assert_eq!(rig.state(), (0, status(UpdateStatus::VerificationFailed)));
}

#[tokio::test(start_paused = true)]
async fn a_file_is_copied_where_that_is_allowed() {
    let mut rig = Rig::new();
    rig.options.allow_file_uris = true;
    let source = rig.folder.path().join("source");
    let uri = format!("file://{}", source.display());
    rig.describe(json!({"uri": uri, "verifier": sha256(&image())}));
    check_failure(&rig, UpdateStatus::InvalidUri).await;
    std::fs::write(&source, image()).unwrap();
    assert_eq!(download(&rig).await, Ok(Performed::Complete));
    assert_eq!(rig.stored_image(), Some(image()));
    assert_eq!(rig.server.requests(), Vec::<u64>::new());
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_and_a_progress_callback_change_nothing_about_the_image() {
    let mut rig = Rig::new();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let record = seen.clone();
    rig.options.bytes_per_second = NonZeroU64::new(100_000);
    rig.options.on_progress = Some(Arc::new(move |done, total| record.lock().unwrap().push((done, total))));
    assert_eq!(download(&rig).await, Ok(Performed::Complete));
    let seen = seen.lock().unwrap();
    assert_eq!((seen.len(), seen[0], seen[9]), (10, (10, Some(100)), (100, Some(100))));
}
