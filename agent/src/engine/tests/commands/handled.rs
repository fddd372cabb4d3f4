//! Commands that are acknowledged when their handler has ended, and what comes behind them.

use iotdm_core::Recovery;

use super::*;

/// Connects with a window of one, so that what is withheld keeps everything back.
fn narrow() -> World {
    let mut world = World::new();
    world.broker.window = 1;
    world
}

#[test]
fn it_is_acknowledged_only_when_its_handler_has_ended() {
    let mut world = World::new();
    world.command("held", "1");
    assert_eq!((world.commands(), world.broker.unacknowledged()), (vec!["1".to_owned()], 1));
    world.pass(secs(20));
    assert_eq!(world.broker.unacknowledged(), 1);
    world.carried_out("1", yes(200));
    assert_eq!((world.broker.unacknowledged(), world.engine().unfinished()), (0, 0));
}

#[test]
fn nothing_of_it_is_written() {
    let mut world = World::new();
    world.pass(secs(60));
    let (commits, pairs) = (world.commits, world.disk.pairs());
    world.command("held", "1");
    world.carried_out("1", yes(200));
    assert_eq!((world.commits, world.disk.pairs()), (commits, pairs));
}

#[test]
fn its_acknowledgement_waits_no_longer_than_its_budget() {
    let mut world = World::new();
    world.obeys_cancel = false;
    world.command("held", "1");
    world.pass(secs(31));
    assert_eq!(world.broker.unacknowledged(), 0);
    assert_eq!(world.counted("command failed"), 1);
}

#[test]
fn one_that_gets_no_place_in_its_time_is_dropped_counted_and_acknowledged() {
    let mut world = World::with(|settings| {
        settings.limits.running = 1;
        settings.policies.get_mut(&Route::command("again", "json")).unwrap().budget = minutes(10);
    });
    world.command("again", "1");
    world.command("held", "2");
    world.pass(secs(29));
    assert_eq!(world.broker.unacknowledged(), 1);
    world.pass(secs(2));
    assert_eq!((world.broker.unacknowledged(), world.counted("command dropped")), (0, 1));
    world.carried_out("1", yes(200));
    assert!(world.commands().is_empty());
}

/// P1, P3 and P7: a PUBACK that waits keeps those behind it, and nothing else.
#[test]
fn requests_behind_it_are_recorded_run_and_answered_while_their_acknowledgement_waits() {
    let mut world = World::new();
    world.command("held", "1");
    world.deliver("r1", once());
    world.deliver("r2", observe("level"));
    world.assert_answer("r2", 200);
    world.decide("r1", yes(200));
    world.assert_answer("r1", 200);
    assert_eq!(world.broker.unacknowledged(), 3);
    world.carried_out("1", yes(200));
    assert_eq!(world.broker.unacknowledged(), 0);
}

/// P2: the broker delivers again what it has the answer of.
#[test]
fn a_request_behind_it_that_comes_again_after_a_crash_does_not_run_again() {
    let mut world = World::new();
    world.command("held", "1");
    world.deliver("r1", once());
    world.decide("r1", yes(200));
    world.restart();
    assert_eq!((world.commands(), world.runs("r1")), (vec!["1".to_owned()], 1));
    world.assert_only("r1", 200);
    world.carried_out("1", yes(200));
    assert_eq!(world.broker.unacknowledged(), 0);
}

/// P5 asks for the PUBACK of the answer, not of the request.
#[test]
fn a_reboot_behind_it_restarts_the_device_once_and_the_command_comes_again() {
    let mut world = World::new();
    world.command("held", "1");
    world.deliver("b", reboot());
    world.decide("b", yes(202));
    world.pass(secs(11));
    assert!(world.commands().is_empty(), "the restart cut it short");
    assert_eq!(world.performs("b"), 1);
    assert_eq!(world.broker.unacknowledged(), 2, "neither was acknowledged");
    world.reboot();
    world.recovered("b", Recovery::Done);
    assert_eq!((world.commands(), world.performs("b")), (vec!["1".to_owned()], 1));
    world.carried_out("1", yes(200));
    assert_eq!((world.broker.unacknowledged(), world.counted("command failed")), (0, 0));
}

#[test]
fn one_that_a_restart_cut_short_runs_again_when_the_restart_does_not_come() {
    let mut world = World::new();
    world.command("held", "1");
    world.deliver("b", reboot());
    world.decide("b", yes(202));
    world.pass(secs(11));
    world.performed("b", Ok(iotdm_core::Performed::Restarting));
    world.pass(minutes(4));
    assert_eq!(world.broker.unacknowledged(), 2);
    world.pass(secs(61));
    assert_eq!(world.commands(), ["1"]);
    world.carried_out("1", yes(200));
    assert_eq!(world.broker.unacknowledged(), 0);
}

#[test]
fn acknowledgements_leave_in_the_order_of_arrival() {
    let mut world = World::new();
    for payload in ["1", "2", "3"] {
        world.command("held", payload);
    }
    world.carried_out("2", yes(200));
    world.carried_out("3", yes(200));
    assert_eq!(world.broker.unacknowledged(), 3);
    world.carried_out("1", yes(200));
    assert_eq!(world.broker.unacknowledged(), 0);
}

#[test]
fn a_crash_in_its_middle_makes_the_broker_deliver_it_again() {
    let mut world = World::new();
    world.command("held", "1");
    world.restart();
    // Behind it waits the answer to manage.
    assert_eq!((world.commands(), world.broker.unacknowledged()), (vec!["1".to_owned()], 2));
    assert!(world.reports().is_empty());
}

/// A late PUBACK may release another message on a broker that numbers anew.
#[test]
fn its_acknowledgement_dies_with_its_connection() {
    let mut world = World::new();
    world.command("held", "1");
    let first = world.key_of("1");
    world.cut();
    world.pass(secs(5));
    // It was delivered again, with the answer to manage behind it, and the first run goes on.
    assert_eq!((world.commands(), world.broker.unacknowledged()), (vec!["1".to_owned(), "1".to_owned()], 2));
    world.input(Input::Decided(first, yes(200)));
    world.end_task(first);
    world.run();
    assert_eq!(world.broker.unacknowledged(), 2);
    world.carried_out("1", yes(200));
    assert_eq!(world.broker.unacknowledged(), 0);
}

#[test]
fn one_that_was_not_started_is_forgotten_with_its_connection_and_runs_once() {
    let mut world = World::with(|settings| settings.limits.running = 1);
    world.command("again", "1");
    world.command("held", "2");
    world.cut();
    world.pass(secs(5));
    world.carried_out("1", yes(200));
    assert_eq!(world.commands(), ["2"]);
    world.carried_out("2", yes(200));
    assert!(world.commands().is_empty());
    assert_eq!((world.broker.unacknowledged(), world.engine().unfinished()), (0, 0));
}

/// NATS delivers on the same connection what was not acknowledged for 30 s. There a packet identifier does tell.
#[test]
fn a_repetition_on_the_same_connection_is_the_same_command() {
    let mut world = World::new();
    world.command("held", "1");
    world.command("again", "2");
    for which in [0, 1] {
        let (_, delivered) = world.broker.deliver_again(which).unwrap();
        world.input(Input::Delivered(delivered));
    }
    world.run();
    assert_eq!(world.commands(), ["1", "2"]);
    world.carried_out("1", yes(200));
    assert_eq!(world.broker.unacknowledged(), 0);
}

#[test]
fn a_request_that_is_repeated_behind_it_is_taken_and_acknowledged_once() {
    let mut world = World::new();
    world.command("held", "1");
    world.deliver("r1", observe("level"));
    let (_, delivered) = world.broker.deliver_again(1).unwrap();
    world.input(Input::Delivered(delivered));
    world.run();
    assert_eq!(world.answers("r1").len(), 1);
    world.carried_out("1", yes(200));
    assert_eq!(world.broker.unacknowledged(), 0);
}

/// The broker repeats a request whose acknowledgement waits, and whose answer others have pushed out: it ran, hours after it
/// was sent.
#[test]
fn a_request_that_is_repeated_behind_it_is_not_run_when_its_answer_is_forgotten() {
    let mut world = World::with(|settings| settings.limits.kept_executed = 1);
    world.command("held", "1");
    for req_id in ["r1", "r2"] {
        world.deliver(req_id, once());
        world.decide(req_id, yes(200));
    }
    let (_, delivered) = world.broker.deliver_again(1).unwrap();
    world.input(Input::Delivered(delivered));
    world.run();
    assert_eq!(world.runs("r1"), 1);
}

/// Nothing is held back for a message that the broker does not wait for.
#[test]
fn one_of_qos_0_runs_and_holds_nothing_back() {
    let mut world = World::new();
    world.broker.route_as(&topic("held"), b"1".to_vec(), false, true);
    world.run();
    world.deliver("r1", observe("level"));
    assert_eq!((world.commands(), world.broker.unacknowledged()), (vec!["1".to_owned()], 0));
}

/// P9: what waits behind a closed window grows old, though the connection is up and was live before.
#[test]
fn what_waited_behind_it_is_not_taken_for_live() {
    let mut world = narrow();
    for payload in 0..40 {
        world.broker.route(&topic("held"), payload.to_string().into_bytes());
    }
    world.broker.route(&topic("fresh"), b"late".to_vec());
    world.run();
    for payload in 0..40 {
        world.pass(secs(25));
        world.carried_out(&payload.to_string(), yes(200));
    }
    assert_eq!(world.counted("command dropped"), 1, "it waited 1000 s of the 900 it may");
    world.pass(secs(1));
    world.command("fresh", "live");
    assert_eq!(world.commands(), ["live"]);
}

/// What is not acknowledged comes again on the next connection, and is as old as it was.
#[test]
fn what_waited_on_the_broker_stays_old_while_its_acknowledgement_waits() {
    let mut world = World::new();
    world.go_offline();
    world.broker.route(&topic("held"), b"1".to_vec());
    world.broker.route(&topic("fresh"), b"late".to_vec());
    world.pass(minutes(20));
    world.reconnect();
    assert_eq!((world.commands(), world.counted("command dropped")), (vec!["1".to_owned()], 1));
    world.pass(secs(8));
    world.cut();
    world.reconnect();
    assert_eq!(world.counted("command dropped"), 2);
    assert!(!world.commands().contains(&"late".to_owned()));
}

/// Its PUBACK went with the connection, and nothing tells that what comes then is the same.
#[test]
fn a_late_command_whose_acknowledgement_was_lost_is_late_still() {
    let mut world = World::new();
    world.go_offline();
    world.broker.route(&topic("held"), b"1".to_vec());
    world.broker.route(&topic("fresh"), b"late".to_vec());
    world.pass(minutes(20));
    world.reconnect();
    let key = world.key_of("1");
    world.input(Input::Decided(key, yes(200)));
    world.end_task(key);
    world.cut();
    world.reconnect();
    assert_eq!(world.counted("command dropped"), 2);
    assert!(!world.commands().contains(&"late".to_owned()));
}

/// The fence is asked for again when acknowledgements were withheld for long, and not for each command.
#[test]
fn manage_is_sent_again_only_after_much_was_withheld() {
    let mut world = World::new();
    let manages = |world: &World| world.broker.on("mgmt/manage").len();
    let before = manages(&world);
    for payload in 0..50 {
        world.command("held", &payload.to_string());
        world.carried_out(&payload.to_string(), yes(200));
    }
    assert_eq!(manages(&world), before);
    world.command("held", "long");
    world.pass(secs(12));
    world.carried_out("long", yes(200));
    assert_eq!(manages(&world), before + 1);
    world.pass(minutes(60));
    assert_eq!(manages(&world), before + 1);
}

/// P9: only silence lifts an unanswered fence, and a window that opens at this moment is none.
#[test]
fn the_fence_does_not_lift_at_the_moment_at_which_an_acknowledgement_opens_the_window() {
    let mut world = narrow();
    world.broker.rc.insert("mgmt/manage", None);
    world.go_offline();
    // Each is given up after 30 s: the last one after ten minutes, when the fence is looked at.
    for payload in 0..20 {
        world.broker.route(&topic("held"), payload.to_string().into_bytes());
    }
    world.broker.route(&topic("fresh"), b"late".to_vec());
    world.pass(minutes(20));
    world.reconnect();
    world.pass(minutes(11));
    assert!(!world.commands().contains(&"late".to_owned()));
    assert_eq!((world.counted("command failed"), world.counted("command dropped")), (20, 1));
}
