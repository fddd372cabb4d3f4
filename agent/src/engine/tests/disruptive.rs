//! P5: a disruptive action starts only after the broker has its 202, and is judged after the restart.

use iotdm_core::{Failure, Late, Performed, Recovery, Route};
use serde_json::json;

use crate::engine::Input;

use super::world::*;

fn manages(world: &World) -> usize {
    world.broker.on("mgmt/manage").len()
}

/// A reboot that was asked for, promised and begun.
fn rebooting() -> World {
    let mut world = World::new();
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    assert_eq!(world.performs("r1"), 1);
    world
}

fn assert_reported_failed(world: &World, count: usize) {
    let log = world.broker.on("add/diag/log");
    assert_eq!(log.len(), count, "{log:?}");
    assert!(log.iter().all(|entry| entry["d"]["severity"] == 2 && entry["d"]["timestamp"].is_string()));
    assert_eq!(world.broker.on("add/diag/errorCodes").len(), count);
}

#[test]
fn the_work_starts_only_after_the_broker_has_the_202() {
    let mut world = World::new();
    world.broker.pubacks = false;
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    for _ in 0..5 {
        world.flap();
        assert_eq!(world.performs("r1"), 0);
    }
    world.restart();
    world.pass(secs(3600));
    assert_eq!(world.performs("r1"), 0);
    world.puback();
    assert_eq!(world.performs("r1"), 1);
}

#[test]
fn manage_is_held_between_the_202_and_the_restart() {
    let mut world = World::new();
    world.broker.pubacks = false;
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    let before = manages(&world);
    world.flap();
    assert!(!world.engine().is_managed());
    world.restart();
    world.flap();
    world.puback();
    world.flap();
    assert_eq!(manages(&world), before);
    world.performed("r1", Ok(Performed::Restarting));
    world.flap_within(secs(100));
    assert_eq!(manages(&world), before);
    world.reboot();
    world.recovered("r1", Recovery::Done);
    world.run();
    assert_eq!(manages(&world), before + 1);
    assert!(world.engine().is_managed());
    assert_eq!(world.performs("r1"), 1);
}

impl World {
    /// The connection breaks and comes back within a span.
    fn flap_within(&mut self, span: std::time::Duration) {
        self.cut();
        self.pass(span);
        assert!(self.broker.is_connected());
    }
}

#[test]
fn answers_go_out_while_manage_is_held() {
    let mut world = World::new();
    world.deliver("w", again());
    world.deliver("r1", reset());
    world.broker.pubacks = false;
    world.decide("r1", yes(202));
    world.flap();
    world.decide("w", yes(200));
    assert!(!world.codes("w").is_empty());
}

#[test]
fn after_the_restart_it_is_judged_by_the_boot_and_not_repeated() {
    let mut world = rebooting();
    world.performed("r1", Ok(Performed::Restarting));
    world.reboot();
    let judged = world.starts.last().unwrap().clone();
    assert!(judged.rebooted);
    assert!(!world.broker.is_connected(), "nothing is sent before it is judged");
    world.recovered("r1", Recovery::Done);
    world.run();
    world.deliver("r1", reboot());
    world.assert_same_answers("r1", 2);
    assert_eq!((world.runs("r1"), world.performs("r1"), world.recovers("r1")), (1, 1, 1));
    assert_reported_failed(&world, 0);
}

#[test]
fn a_crash_without_a_restart_is_judged_as_one() {
    let mut world = rebooting();
    world.restart();
    assert!(!world.starts.last().unwrap().rebooted);
    world.recovered("r1", Recovery::Abandon);
    world.run();
    assert_reported_failed(&world, 1);
    assert!(world.engine().is_managed());
    world.deliver("r1", reboot());
    world.assert_same_answers("r1", 2);
}

#[test]
fn a_judgement_that_overruns_or_panics_means_abandon() {
    let mut world = rebooting();
    world.restart();
    world.pass(secs(31));
    assert_reported_failed(&world, 1);
    let mut world = rebooting();
    world.restart();
    world.end("r1");
    world.run();
    assert_reported_failed(&world, 1);
}

#[test]
fn a_restart_that_never_comes_is_recorded_as_failed_and_manage_resumes() {
    let mut world = rebooting();
    world.performed("r1", Ok(Performed::Restarting));
    let before = manages(&world);
    world.deliver("r2", once());
    assert_eq!(world.runs("r2"), 0, "nothing new starts");
    assert!(world.is_acked("r2"));
    world.pass(secs(299));
    assert_eq!(manages(&world), before);
    assert_reported_failed(&world, 0);
    world.pass(secs(2));
    assert_eq!(manages(&world), before + 1);
    assert_reported_failed(&world, 1);
    assert_eq!(world.runs("r2"), 1);
    world.deliver("r3", reboot());
    assert_eq!(world.runs("r3"), 1, "the lane is free");
}

#[test]
fn a_failure_of_the_work_is_reported_and_the_202_stays() {
    let mut world = rebooting();
    world.performed("r1", Err(Failure::new("no way to restart")));
    assert_reported_failed(&world, 1);
    assert!(
        world.broker.on("add/diag/log")[0]["d"]["message"].as_str().unwrap().contains("no way to restart")
    );
    world.deliver("r1", reboot());
    world.assert_same_answers("r1", 2);
    assert!(world.engine().is_managed());
}

#[test]
fn a_failure_told_at_any_length_is_reported() {
    let mut world = rebooting();
    world.performed("r1", Err(Failure::new("x".repeat(200_000))));
    assert_reported_failed(&world, 1);
}

#[test]
fn work_that_overruns_its_budget_is_recorded_as_failed() {
    let mut world = World::new();
    world.deliver("r1", after());
    world.decide("r1", yes(202));
    world.pass(minutes(31));
    assert_reported_failed(&world, 1);
    world.assert_answer("r1", 202);
}

#[test]
fn a_restart_gives_running_work_ten_seconds_and_then_takes_it_along() {
    let mut world = World::new();
    world.deliver("quick", once());
    world.deliver("slow", once());
    world.deliver("repeat", again());
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    assert_eq!(world.performs("r1"), 0);
    world.pass(secs(5));
    world.decide("quick", yes(200));
    world.deliver("new", again());
    assert_eq!(world.runs("new"), 0);
    world.pass(secs(6));
    assert_eq!(world.performs("r1"), 1);
    world.assert_answer("quick", 200);
    world.assert_answer("slow", 500);
    world.assert_unanswered("repeat");
    world.performed("r1", Ok(Performed::Restarting));
    world.reboot();
    world.recovered("r1", Recovery::Done);
    for id in ["repeat", "new"] {
        world.decide(id, yes(200));
        world.assert_answer(id, 200);
    }
    assert_eq!((world.runs("repeat"), world.runs("new"), world.runs("slow")), (2, 1, 1));
}

#[test]
fn a_restart_waits_no_longer_than_the_running_work() {
    let mut world = World::new();
    world.deliver("slow", once());
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.pass(secs(2));
    world.decide("slow", yes(200));
    assert_eq!(world.performs("r1"), 1);
    assert_eq!(world.starts.last().unwrap().at, secs(2));
}

#[test]
fn a_promised_reboot_that_another_restart_brought_is_done() {
    let mut world = World::new();
    world.broker.pubacks = false;
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.broker.pubacks = true;
    world.reboot();
    assert_eq!((world.performs("r1"), world.recovers("r1")), (0, 0));
    assert!(world.engine().is_managed());
    assert_reported_failed(&world, 0);
}

/// The request arrived in one boot and was promised in the next; a crash there is no restart of the machine.
#[test]
fn a_reboot_promised_in_this_boot_is_not_taken_as_done_because_it_arrived_in_another() {
    let mut world = World::new();
    world.deliver("r1", reboot());
    world.reboot();
    world.broker.pubacks = false;
    world.decide("r1", yes(202));
    world.restart();
    world.puback();
    assert_eq!(world.performs("r1"), 1);
}

/// A custom action may end in a restart of its own while a reboot waits for it to finish.
#[test]
fn two_restarts_at_once_do_not_get_in_each_others_way() {
    let mut world = World::new();
    world.deliver("c", after());
    world.decide("c", yes(202));
    world.deliver("slow", once());
    world.deliver("r1", reboot());
    world.decide("r1", yes(202));
    world.performed("c", Ok(Performed::Restarting));
    world.pass(secs(11));
    assert_eq!(world.performs("r1"), 1);
    world.performed("r1", Ok(Performed::Restarting));
    world.reboot();
    world.recovered("c", Recovery::Done);
    world.recovered("r1", Recovery::Done);
    world.run();
    assert!(world.engine().is_managed() && world.engine().requests.is_empty());
}

/// A firmware update installed its image, and the restart that was to put it to use never came. The platform, which
/// waits for the end of an update in `mgmt.firmware`, was told "in progress" for ever.
#[test]
fn a_firmware_request_that_ends_without_its_handler_does_not_stay_under_way() {
    let update = Ask::new("mgmt/initiate/firmware/update");
    for (ask, under_way, over) in [(update, (2, 1), (0, 5)), (download(), (1, 0), (0, 3))] {
        let mut world = World::new();
        world.deliver("f", ask);
        world.decide("f", yes(202));
        let (state, status) = under_way;
        let value = json!({"uri": "http://x/2", "own": 1, "state": state, "updateStatus": status});
        world.input(Input::SetAttributes(vec![("mgmt.firmware".into(), value)], None));
        world.performed("f", Ok(Performed::Restarting));
        world.pass(secs(301));
        assert_reported_failed(&world, 1);
        let firmware = world.engine().model().read("mgmt.firmware").unwrap();
        assert_eq!((&firmware["state"], &firmware["updateStatus"]), (&json!(over.0), &json!(over.1)));
        assert_eq!((&firmware["uri"], &firmware["own"]), (&json!("http://x/2"), &json!(1)));
    }
}

/// What the handler said itself stands.
#[test]
fn the_reason_that_a_firmware_handler_gave_is_kept() {
    let mut world = World::new();
    world.deliver("f", download());
    world.decide("f", yes(202));
    let value = json!({"state": 0, "updateStatus": 6});
    world.input(Input::SetAttributes(vec![("mgmt.firmware".into(), value.clone())], None));
    world.performed("f", Err(Failure::new("nothing is there")));
    assert_eq!(world.engine().model().read("mgmt.firmware"), Some(&value));
}

#[test]
fn a_firmware_request_that_is_abandoned_before_its_work_begins_is_told() {
    let mut world = World::with(|settings| {
        settings.policies.get_mut(&Route::FirmwareDownload).unwrap().late = Late::RefuseAfter(FRESH_FOR);
    });
    world.broker.pubacks = false;
    world.deliver("f", download());
    world.decide("f", yes(202));
    world.go_offline();
    world.pass(minutes(20));
    world.broker.pubacks = true;
    world.reconnect();
    world.pass(minutes(1));
    assert_eq!(world.performs("f"), 0);
    let firmware = world.engine().model().read("mgmt.firmware").unwrap();
    assert_eq!((&firmware["state"], &firmware["updateStatus"]), (&json!(0), &json!(3)));
}
