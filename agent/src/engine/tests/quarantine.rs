//! P10: a damaged journal does not brick the device.

use super::world::*;

/// A device with a session on the broker and a request that was done just before its journal was lost.
fn lost_journal() -> World {
    let mut world = World::new();
    world.deliver("done", once());
    world.decide("done", yes(200));
    world.crash();
    world.disk.damage();
    world
}

#[test]
fn after_the_loss_what_may_not_be_repeated_is_refused_until_the_first_fence() {
    let mut world = lost_journal();
    world.send("done", once());
    world.send("r1", reboot());
    world.send("r2", again());
    world.send("r3", observe("level"));
    world.start();
    assert_eq!((world.runs("done"), world.runs("r1"), world.runs("r2")), (1, 0, 1));
    assert_eq!(
        (world.codes("done"), world.codes("r1"), world.codes("r3")),
        (vec![200, 409], vec![409], vec![200])
    );
    assert!(world.engine().is_managed());
    world.deliver("r4", once());
    assert_eq!(world.runs("r4"), 1, "the fence is lifted");
    assert_eq!(world.disk.set_aside_names().len(), 1);
}

#[test]
fn an_absent_journal_is_a_lost_one() {
    let mut world = World::off(|_| {});
    world.broker.has_session = true;
    world.send("r1", reboot());
    world.start();
    world.assert_answer("r1", 409);
    world.deliver("r2", reboot());
    assert_eq!(world.runs("r2"), 1);
}

#[test]
fn a_crash_in_quarantine_starts_in_quarantine() {
    let mut world = lost_journal();
    world.broker.rc.insert("mgmt/manage", None);
    world.start();
    for _ in 0..3 {
        world.restart();
        world.reboot();
    }
    world.deliver("done", once());
    assert_eq!((world.runs("done"), world.codes("done")), (1, vec![200, 409]));
    world.broker.rc.clear();
    world.pass(secs(120));
    world.deliver("r1", once());
    assert_eq!(world.runs("r1"), 1);
    world.restart();
    world.broker.rc.insert("mgmt/manage", None);
    world.flap();
    world.deliver("r2", once());
    assert_eq!(world.runs("r2"), 1, "once lifted, it is over");
}

#[test]
fn a_broker_without_a_session_ends_the_quarantine_at_once() {
    let mut world = lost_journal();
    world.broker.lose_session();
    world.broker.rc.insert("mgmt/manage", None);
    world.start();
    world.deliver("r1", reboot());
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn an_unanswered_manage_ends_the_quarantine_after_the_fence_has_lifted() {
    let mut world = lost_journal();
    world.broker.rc.insert("mgmt/manage", None);
    world.start();
    world.pass(minutes(9));
    world.deliver("r1", once());
    world.assert_answer("r1", 409);
    world.pass(minutes(2));
    world.deliver("r2", once());
    assert_eq!(world.runs("r2"), 1);
}

#[test]
fn without_a_mark_every_age_is_unknown() {
    let mut world = lost_journal();
    world.broker.rc.insert("mgmt/manage", None);
    for policy in world.settings.policies.values_mut() {
        policy.interrupted = iotdm_core::Interrupted::RunAgain;
    }
    world.start();
    world.deliver("r1", fresh());
    world.assert_answer("r1", 409);
}
