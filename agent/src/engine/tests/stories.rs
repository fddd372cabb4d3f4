//! Histories that broke an earlier wording of the promises.

use iotdm_core::{Performed, Recovery};

use super::world::*;

/// The link flaps while the broker still holds a backlog: the mark must not move past what was not delivered.
#[test]
fn a_flap_before_the_backlog_is_drained_makes_nothing_fresh() {
    let mut world = World::new();
    world.go_offline();
    for n in 0..60 {
        world.send(&format!("old{n}"), fresh());
    }
    world.pass(minutes(30));
    world.broker.reachable = true;
    // Connected, and cut again after a few deliveries, several times.
    for _ in 0..4 {
        while !world.broker.is_connected() {
            world.pass_without_deliveries();
        }
        for _ in 0..12 {
            if !world.take_input() && !world.broker_down() {
                world.broker_up();
            }
        }
        world.cut();
    }
    world.pass(minutes(5));
    for n in 0..60 {
        let id = format!("old{n}");
        assert_eq!(world.runs(&id), 0, "{id}");
        assert!(world.codes(&id).contains(&409), "{id}");
    }
    world.deliver("live", fresh());
    assert_eq!(world.runs("live"), 1);
}

impl World {
    fn pass_without_deliveries(&mut self) {
        self.elapsed += secs(1);
        self.fire();
        if !self.broker.is_connected() {
            while self.take_input() {
                if self.broker.is_connected() {
                    return;
                }
            }
        }
    }
}

/// The response to a manage of an earlier connection waits in the session, before requests that are old.
#[test]
fn an_old_manage_response_is_not_the_fence_of_this_connection() {
    let mut world = World::new();
    // The manage of the second connection reaches the platform, its response waits.
    world.broker.window = 0;
    world.flap();
    world.go_offline();
    world.send("old", fresh());
    world.pass(minutes(30));
    world.broker.window = 20;
    world.reconnect();
    world.assert_answer("old", 409);
    assert!(world.engine().is_managed());
}

#[test]
fn a_reboot_that_never_comes_frees_the_device() {
    let mut world = World::new();
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.performed("r1", Ok(Performed::Restarting));
    world.pass(minutes(6));
    assert!(world.engine().is_managed());
    assert_eq!(world.broker.on("add/diag/errorCodes").len(), 1);
    world.restart();
    assert_eq!(world.recovers("r1"), 0);
    world.deliver("r1", reboot());
    assert_eq!(world.performs("r1"), 1);
}

#[test]
fn a_full_disk_then_a_reconnect_loses_and_repeats_nothing() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.disk.disk_full(true);
    world.send("r2", once());
    world.decide("r1", yes(200));
    assert!(world.agent.is_none());
    for _ in 0..3 {
        world.start();
        assert!(world.agent.is_none(), "no connect before a probe write succeeded");
    }
    assert!(!world.broker.is_connected());
    world.assert_unanswered("r1");
    world.disk.disk_full(false);
    world.start();
    world.assert_answer("r1", 500);
    world.decide("r2", yes(200));
    world.assert_answer("r2", 200);
    assert_eq!((world.runs("r1"), world.runs("r2")), (1, 1));
}

/// The commit fails, and its changes are on the disk all the same.
#[test]
fn a_commit_whose_outcome_is_unknown_is_found_after_reopening() {
    for outcome in [crate::store::CrashOutcome::Applied, crate::store::CrashOutcome::NotApplied] {
        let mut world = World::new();
        world.disk.crash_at_commit(1, outcome);
        world.deliver("r1", once());
        assert_eq!(world.runs("r1"), 0);
        world.start();
        if world.is_running("r1") {
            world.decide("r1", yes(200));
        }
        assert!(world.is_acked("r1"));
        assert!(!world.answers("r1").is_empty());
        assert!(world.runs("r1") <= 1);
        assert_eq!(
            world.codes("r1")[0],
            if outcome == crate::store::CrashOutcome::Applied { 500 } else { 200 }
        );
    }
}

#[test]
fn a_redelivery_after_nine_days_is_a_replay() {
    let mut world = World::new();
    world.send("r1", reboot());
    // The request is recorded; its PUBACK is lost with the power.
    world.crash_at = Some(world.points + 2);
    world.run();
    assert!(world.agent.is_none() && !world.is_acked("r1"));
    world.broker.reachable = false;
    world.start();
    world.decide("r1", yes(202));
    world.pass(minutes(60 * 24 * 9));
    world.reconnect();
    assert_eq!((world.runs("r1"), world.performs("r1")), (1, 1));
    world.performed("r1", Ok(Performed::Restarting));
    world.reboot();
    world.recovered("r1", Recovery::Done);
    world.run();
    world.pass(minutes(60 * 24 * 9));
    world.deliver("r1", reboot());
    assert_eq!(world.performs("r1"), 1);
    assert!(world.codes("r1").iter().all(|rc| *rc == 202));
}

#[test]
fn a_flood_then_a_replay_of_what_was_done_before_it() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.deliver("busy", download());
    for n in 0..3000 {
        world.deliver(&format!("junk{n}"), Ask::new("nonsense"));
    }
    for n in 0..2000 {
        world.deliver(&format!("late{n}"), download());
    }
    world.pass(secs(11));
    world.deliver("r1", once());
    world.assert_same_answers("r1", 2);
    assert_eq!(world.runs("r1"), 1);
    assert!(world.engine().kept() <= 10_000 + 1024 + 3);
}

#[test]
fn a_wiped_session_and_a_kept_journal_go_on_together() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.go_offline();
    world.decide("r1", yes(200));
    world.broker.lose_session();
    world.reconnect();
    world.assert_answer("r1", 200);
    world.deliver("r1", once());
    assert_eq!(world.runs("r1"), 1);
}
