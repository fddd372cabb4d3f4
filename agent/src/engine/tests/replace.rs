//! Other actions while the agent runs: what waits, what runs, what is claimed, and a crash right then.

use iotdm_core::{Interrupted, Recovery, Route};

use crate::engine::{Input, Offer, Ticket};

use super::world::*;

/// What the world offers, changed.
fn offer(world: &World, change: impl FnOnce(&mut Offer)) -> Offer {
    let settings = &world.settings;
    let mut offer = Offer { policies: settings.policies.clone(), supports: settings.manage.supports.clone() };
    change(&mut offer);
    offer
}

impl World {
    /// Replaces what is offered now and after the next start.
    fn replace(&mut self, change: impl FnOnce(&mut Offer)) {
        let offer = offer(self, change);
        self.settings.policies = offer.policies.clone();
        self.settings.manage.supports = offer.supports.clone();
        self.input(Input::Replace(offer, Ticket(7)));
        self.run();
    }
}

fn lamp(action: &'static str) -> Route {
    Route::custom("lamp", action)
}

fn without(action: &'static str) -> impl FnOnce(&mut Offer) {
    move |offer| _ = offer.policies.remove(&lamp(action))
}

#[test]
fn a_request_that_waits_for_an_action_that_has_gone_is_answered_501() {
    let mut world = World::with(|settings| settings.limits.running = 1);
    world.deliver("first", again());
    world.deliver("second", once());
    world.replace(without("once"));
    world.assert_unanswered("second");
    world.decide("first", yes(200));
    world.assert_answer("second", 501);
    assert_eq!(world.runs("second"), 0);
    world.deliver("third", once());
    world.assert_answer("third", 501);
}

#[test]
fn work_that_runs_ends_as_it_began_and_its_replay_gets_the_same_answer() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.replace(without("once"));
    world.decide("r1", yes(200));
    world.assert_answer("r1", 200);
    world.deliver("r1", once());
    world.assert_same_answers("r1", 2);
    world.restart();
    world.deliver("r1", once());
    world.assert_only("r1", 200);
    assert_eq!(world.runs("r1"), 1);
}

/// Its rules left with its action: the task has its own.
#[test]
fn work_of_an_action_that_has_gone_still_has_its_budget() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.replace(without("once"));
    world.pass(minutes(60));
    world.assert_answer("r1", 500);
    assert!(world.message("r1").contains("budget"), "{}", world.message("r1"));
}

#[test]
fn a_crash_right_after_the_replacement_says_of_what_ran_that_it_may_have_happened() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.replace(without("once"));
    world.restart();
    world.assert_only("r1", 500);
    assert_eq!(world.message("r1"), "interrupted; it may have happened");
    world.deliver("r1", once());
    world.assert_only("r1", 500);
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn work_that_may_no_longer_run_again_is_not_started_again_after_a_crash() {
    let mut world = World::new();
    world.deliver("r1", again());
    world.replace(|offer| {
        offer.policies.get_mut(&lamp("again")).unwrap().interrupted = Interrupted::Refuse;
    });
    world.restart();
    world.assert_only("r1", 500);
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn a_restart_of_the_device_cuts_work_short_by_the_rules_it_was_started_with() {
    let mut world = World::new();
    world.deliver("r1", again());
    world.replace(without("again"));
    world.deliver("b", reboot());
    world.decide("b", yes(202));
    world.pass(secs(30));
    world.end("r1");
    world.reboot();
    world.recovered("b", Recovery::Done);
    // It was to run again, and then there was nothing to run.
    world.assert_only("r1", 501);
    assert_eq!(world.runs("r1"), 1);
}

#[test]
fn an_action_that_appears_serves_at_once() {
    let mut world = World::with(|settings| settings.policies.retain(|route, _| *route != lamp("once")));
    world.deliver("r1", once());
    world.assert_answer("r1", 501);
    let policy = settings().policies[&lamp("once")];
    world.replace(|offer| _ = offer.policies.insert(lamp("once"), policy));
    world.deliver("r2", once());
    world.decide("r2", yes(200));
    world.assert_answer("r2", 200);
}

fn manages(world: &World) -> Vec<serde_json::Value> {
    world.broker.on("mgmt/manage").iter().map(|manage| manage["d"]["supports"].clone()).collect()
}

#[test]
fn manage_is_sent_again_where_another_bundle_is_offered_and_not_otherwise() {
    let mut world = World::new();
    world.replace(without("once"));
    assert_eq!(manages(&world).len(), 1);
    world.replace(|offer| _ = offer.supports.bundles.insert("door".into(), true));
    assert_eq!(manages(&world).len(), 2);
    assert_eq!(manages(&world)[1]["door"], true);
    assert!(world.engine().is_managed());
    world.replace(|offer| _ = offer.supports.bundles.remove("door"));
    assert_eq!(manages(&world)[2]["door"], serde_json::Value::Null);
}

#[test]
fn bundles_that_the_platform_did_not_know_are_claimed_again_when_they_change() {
    let mut world = World::new();
    world.broker.rc.insert("mgmt/manage", Some(403));
    world.flap();
    world.broker.rc.clear();
    world.pass(minutes(90));
    assert_eq!(manages(&world).last().unwrap()["lamp"], serde_json::Value::Null);
    world.replace(|offer| _ = offer.supports.bundles.insert("door".into(), true));
    assert_eq!(manages(&world).last().unwrap()["door"], true);
}

/// The platform would take it as the end of the reboot (`docs/protocol.md` §6.2).
#[test]
fn no_manage_is_sent_between_a_reboot_s_202_and_the_restart() {
    let mut world = World::new();
    world.deliver("b", reboot());
    world.decide("b", yes(202));
    world.replace(|offer| _ = offer.supports.bundles.insert("door".into(), true));
    world.pass(secs(60));
    assert_eq!(manages(&world).len(), 1);
    world.reboot();
    world.recovered("b", Recovery::Done);
    assert_eq!(manages(&world).last().unwrap()["door"], true);
}

#[test]
fn an_unmanaged_device_stays_so_when_its_bundles_change() {
    let mut world = World::new();
    world.input(Input::WantManaged(false));
    world.run();
    world.replace(|offer| _ = offer.supports.bundles.insert("door".into(), true));
    assert_eq!(manages(&world).len(), 1);
}
