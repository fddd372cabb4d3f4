//! `kill -9`, failed commits and stops.

use std::time::Duration;

use iotdm_agent::RunError;
use iotdm_agent::journal::JournalError;
use iotdm_agent::store::StoreError;
use iotdm_agent::testing::CrashOutcome;
use iotdm_core::{Report, UpRoute};

use crate::product::{Blocking, Broken, Echo, Once, Rig};

#[tokio::test(start_paused = true)]
async fn what_may_not_run_twice_is_answered_500_after_a_crash() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.send::<Once>("o");
    rig.until_run("once o").await;
    running.kill().await;
    let _running = rig.managed().await;
    let answer = rig.platform.response("o").await;
    assert_eq!(
        (&answer["rc"], &answer["message"]),
        (&500.into(), &"interrupted; it may have happened".into())
    );
    assert_eq!(rig.ask::<Once>("o").await, answer);
    assert_eq!(rig.product.runs(), ["once o"]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_every_commit_loses_nothing_and_repeats_nothing() {
    for outcome in [CrashOutcome::Applied, CrashOutcome::NotApplied] {
        for at in 1..=6 {
            let rig = Rig::new();
            let _running = rig.managed().await;
            rig.disk.crash_at_commit(at, outcome);
            for n in 0..4 {
                rig.product.gate.notify_one();
                rig.send::<Once>(&format!("o{n}"));
                rig.send::<Echo>(&format!("e{n}"));
                tokio::time::advance(Duration::from_millis(1)).await;
            }
            for n in 0..4 {
                let once = rig.platform.response(&format!("o{n}")).await;
                assert!(once["rc"] == 200 || once["rc"] == 500, "{once} at {at} {outcome:?}");
                assert_eq!(rig.platform.response(&format!("e{n}")).await["rc"], 200);
                let starts = rig.product.runs().iter().filter(|run| **run == format!("once o{n}")).count();
                assert!(starts <= 1, "o{n} started {starts} times at {at} {outcome:?}");
            }
            rig.platform.drained().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_acknowledges_nothing_and_is_lived_through() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.disk.disk_full(true);
    rig.send::<Echo>("r");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(rig.platform.unacknowledged(), 1);
    assert!(rig.product.runs().is_empty());
    rig.disk.disk_full(false);
    assert_eq!(rig.platform.response("r").await["rc"], 200);
    assert_eq!(rig.product.runs(), ["echo r"]);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_journal_is_set_aside_and_what_may_not_be_repeated_is_refused_first() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.product.gate.notify_one();
    assert_eq!(rig.ask::<Once>("o").await["rc"], 200);
    running.kill().await;
    // The replay comes before the agent can know that nothing old waits.
    rig.send::<Once>("o");
    rig.send::<Echo>("e");
    rig.disk.damage();
    let _running = rig.managed().await;
    assert_eq!(rig.platform.response("e").await["rc"], 200);
    assert_eq!(rig.platform.response("o").await["rc"], 409);
    assert_eq!(rig.disk.set_aside_names().len(), 1);
    rig.product.gate.notify_one();
    assert_eq!(rig.ask::<Once>("afterwards").await["rc"], 200);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_answered_500_and_the_agent_lives() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    let answer = rig.ask::<Broken>("b").await;
    assert_eq!((&answer["rc"], &answer["message"]), (&500.into(), &"the handler failed unexpectedly".into()));
    assert_eq!(rig.ask::<Echo>("e").await["rc"], 200);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_overruns_its_budget_is_answered_500_and_its_result_is_dropped() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    let began = tokio::time::Instant::now();
    assert_eq!(rig.ask::<Once>("o").await["rc"], 500);
    assert_eq!(began.elapsed().as_secs(), 30);
    rig.product.gate.notify_one();
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(rig.platform.responses("o").len(), 1);
    assert_eq!(rig.ask::<Once>("o").await["rc"], 500);
    assert_eq!(rig.product.runs(), ["once o"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_running_work_and_leaves_nothing_unsent() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.send::<Once>("o");
    rig.until_run("once o").await;
    let gate = rig.product.gate.clone();
    let (stopped, ()) = tokio::join!(running.stop(), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        gate.notify_one();
    });
    stopped.unwrap();
    assert_eq!(rig.platform.responses("o").len(), 1);
    let commits = rig.disk.commits();
    let _running = rig.managed().await;
    assert_eq!(rig.platform.responses("o").len(), 1, "the answer was not sent again");
    assert!(rig.disk.commits() > commits);
}

#[tokio::test(start_paused = true)]
async fn a_stop_parks_what_outlasts_its_grace() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.send::<Once>("o");
    rig.until_run("once o").await;
    let began = tokio::time::Instant::now();
    running.stop().await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(15), "{:?}", began.elapsed());
    let _running = rig.managed().await;
    assert_eq!(rig.platform.response("o").await["rc"], 500);
}

#[tokio::test]
async fn a_stop_cancels_blocking_work() {
    let rig = Rig::new();
    let running = rig.start_with(|builder| builder);
    rig.platform.managed(1).await;
    rig.send::<Blocking>("b");
    assert_eq!(rig.platform.response("b").await["rc"], 500);
    running.stop().await.unwrap();
    assert_eq!(rig.product.blocked.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_agent_on_the_same_journal_is_refused_and_told_who_has_it() {
    let rig = Rig::new();
    rig.disk.lock_by(Some(17));
    let error = rig.start().ended().await.unwrap_err();
    assert!(
        matches!(error, RunError::Journal(JournalError::Store(StoreError::Locked { pid: Some(17), .. }))),
        "{error}"
    );
}

/// A child that was forked at that moment holds the lock until it becomes another program.
#[tokio::test(start_paused = true)]
async fn a_journal_that_is_still_locked_by_this_process_is_opened_again_later() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.disk.lock_by(Some(std::process::id()));
    rig.disk.fail_commit(1);
    rig.send::<Echo>("r");
    tokio::time::sleep(Duration::from_secs(60)).await;
    rig.disk.lock_by(None);
    assert_eq!(rig.platform.response("r").await["rc"], 200);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handler_does_not_outlive_a_crash() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.send::<Once>("o");
    rig.until_run("once o").await;
    let ended = rig.product.ended.clone();
    running.kill().await;
    tokio::task::yield_now().await;
    assert_eq!(ended.load(std::sync::atomic::Ordering::SeqCst), 1, "the handler's future was dropped");
}

#[tokio::test(start_paused = true)]
async fn a_report_made_while_the_disk_is_full_waits_and_arrives() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.disk.disk_full(true);
    let disk = rig.disk.clone();
    let (reported, ()) = tokio::join!(running.device().report(Report::AddErrorCode(7)), async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        disk.disk_full(false);
    });
    reported.unwrap();
    rig.platform.until(|platform| !platform.published(UpRoute::AddErrorCode).is_empty()).await;
}
