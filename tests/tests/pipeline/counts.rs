//! What work costs, in counts that do not jitter.

use iotdm_core::{Action, Reboot};

use crate::product::{Echo, Rig};

#[tokio::test(start_paused = true)]
async fn a_request_that_is_done_and_answered_costs_two_commits() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    assert_eq!(rig.ask::<Echo>("warm-up").await["rc"], 200);
    let before = rig.disk.commits();
    for n in 0..10 {
        assert_eq!(rig.ask::<Echo>(&n.to_string()).await["rc"], 200);
    }
    assert!(rig.disk.commits() - before <= 20, "{} commits", rig.disk.commits() - before);
}

#[tokio::test(start_paused = true)]
async fn sixty_four_requests_at_once_cost_a_tenth_of_a_commit_each() {
    let rig = Rig::new();
    rig.platform.window(100);
    let _running = rig.managed().await;
    let before = rig.disk.commits();
    for n in 0..64 {
        rig.send::<Echo>(&n.to_string());
    }
    for n in 0..64 {
        assert_eq!(rig.platform.response(&n.to_string()).await["rc"], 200);
    }
    rig.platform.drained().await;
    let commits = rig.disk.commits() - before;
    assert!(commits * 10 <= 64, "{commits} commits for 64 requests");
    assert_eq!(rig.product.runs().len(), 64);
}

#[tokio::test(start_paused = true)]
async fn a_replay_costs_one_commit_and_an_unknown_topic_too() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.ask::<Echo>("r").await;
    let before = rig.disk.commits();
    rig.ask::<Echo>("r").await;
    assert_eq!(rig.disk.commits() - before, 1);
    rig.platform.send_raw("iotdm-1/nonsense", r#"{"reqId":"u"}"#);
    assert_eq!(rig.platform.response("u").await["rc"], 404);
    assert_eq!(rig.disk.commits() - before, 2);
}

#[tokio::test(start_paused = true)]
async fn a_reboot_costs_three_commits_before_the_restart_and_one_after() {
    let rig = Rig::new();
    let running = rig.managed().await;
    rig.ask::<Echo>("warm-up").await;
    let before = rig.disk.commits();
    rig.ask::<Reboot>("r").await;
    rig.until_run("restart r").await;
    assert_eq!(rig.disk.commits() - before, 3, "recorded, settled, performing");
    running.kill().await;
    rig.system.next_boot();
    let opened = rig.disk.commits();
    let _running = rig.managed().await;
    // One proves that the journal can be written, one ends the request, two move the online mark and what rides along.
    assert!(rig.disk.commits() - opened <= 4, "{} commits", rig.disk.commits() - opened);
    assert_eq!(rig.system.restarts().len(), 1);
    assert_eq!(Reboot::ROUTE.to_string(), "mgmt/initiate/device/reboot");
}

#[tokio::test(start_paused = true)]
async fn a_small_request_writes_less_than_a_kilobyte() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.ask::<Echo>("warm-up").await;
    let before = rig.disk.bytes_written();
    for n in 0..100 {
        rig.ask::<Echo>(&format!("8f14e45f-ceea-467f-a8a2-{n:012}")).await;
    }
    let each = (rig.disk.bytes_written() - before) / 100;
    println!("{each} bytes of keys and values each");
    assert!(each < 1000, "{each} bytes each");
}
