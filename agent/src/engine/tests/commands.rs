//! Commands: durable ones and those that are acknowledged when they were handled, at each point of a crash.

use iotdm_core::{CommandMessage, Decision, Failure, Refusal, Route};

use crate::engine::{Input, KeyHash, Task};

use super::world::*;

mod handled;

fn topic(id: &str) -> String {
    format!("iot-2/cmd/{id}/fmt/json")
}

/// The payload of a task's command.
fn told(task: &Task) -> String {
    let message = CommandMessage::from_raw(task.d.as_deref().expect("a command has a body")).unwrap();
    String::from_utf8(message.payload).unwrap()
}

impl World {
    fn command(&mut self, id: &str, payload: &str) {
        self.deliver_raw(&topic(id), payload);
    }

    /// The payloads of the commands that run.
    fn commands(&self) -> Vec<String> {
        let agent = self.agent.as_ref().expect("the agent runs");
        let mut all: Vec<String> = agent
            .tasks
            .values()
            .filter(|task| matches!(task.route, Route::Command { .. }))
            .map(told)
            .collect();
        all.sort();
        all
    }

    fn key_of(&self, payload: &str) -> KeyHash {
        let agent = self.agent.as_ref().expect("the agent runs");
        let is_it = |task: &&Task| matches!(task.route, Route::Command { .. }) && told(task) == payload;
        agent.tasks.values().find(is_it).unwrap_or_else(|| panic!("{payload} does not run")).key
    }

    /// The handler of a command returns.
    fn carried_out(&mut self, payload: &str, decision: Decision) {
        let key = self.key_of(payload);
        self.input(Input::Decided(key, decision));
        self.end_task(key);
        self.run();
    }

    fn counted(&self, cause: &str) -> u64 {
        self.engine().counters().get(cause).copied().unwrap_or_default()
    }

    /// What was reported; a crash may repeat a report.
    fn reports(&self) -> Vec<String> {
        let logs = self.broker.on("add/diag/log");
        let mut all: Vec<String> =
            logs.iter().map(|log| log["d"]["message"].as_str().unwrap().to_owned()).collect();
        all.dedup();
        all
    }
}

fn failed() -> Decision {
    no(Refusal::failed(Failure::new("the lamp is broken").to_string()))
}

#[test]
fn a_durable_command_is_acknowledged_while_its_handler_runs() {
    let mut world = World::new();
    world.command("once", "on");
    assert_eq!((world.commands(), world.broker.unacknowledged()), (vec!["on".to_owned()], 0));
    assert_eq!(world.engine().unfinished(), 1);
    world.carried_out("on", yes(200));
    assert_eq!((world.engine().unfinished(), world.engine().kept()), (0, 0));
    assert!(world.broker.on("response").is_empty(), "nobody is answered");
}

/// A platform may choose any reqId: also one that the agent gave to a command.
#[test]
fn a_request_and_a_command_never_share_a_key() {
    let mut world = World::new();
    world.command("once", "on");
    let agent = world.agent.as_ref().unwrap();
    let req_id = agent.tasks.values().next().unwrap().req_id.clone();
    let text: String = serde_json::from_str(req_id.as_json()).unwrap();
    world.deliver(&text, once());
    assert_eq!(world.commands(), ["on"]);
    world.decide(&text, yes(200));
    world.assert_answer(&text, 200);
    assert_eq!(world.engine().unfinished(), 1);
}

#[test]
fn two_commands_that_say_the_same_are_two_commands() {
    let mut world = World::new();
    world.command("once", "toggle");
    world.command("once", "toggle");
    assert_eq!(world.commands(), ["toggle", "toggle"]);
}

#[test]
fn commands_start_in_the_order_in_which_they_came() {
    let mut world = World::with(|settings| settings.limits.running = 1);
    for payload in ["1", "2", "3"] {
        world.command("once", payload);
    }
    for payload in ["1", "2", "3"] {
        assert_eq!(world.commands(), [payload]);
        world.carried_out(payload, yes(200));
    }
}

#[test]
fn a_command_that_waited_for_a_place_runs_after_a_crash() {
    let mut world = World::with(|settings| settings.limits.running = 1);
    world.command("again", "1");
    world.command("once", "2");
    world.restart();
    world.carried_out("1", yes(200));
    assert_eq!(world.commands(), ["2"]);
    world.carried_out("2", yes(200));
    assert_eq!(world.engine().unfinished(), 0);
}

#[test]
fn a_command_that_a_crash_interrupted_is_dropped_and_reported_or_runs_again_as_it_declares() {
    let mut world = World::new();
    world.command("once", "1");
    world.command("again", "2");
    world.restart();
    assert_eq!(world.commands(), ["2"]);
    assert_eq!(world.counted("command failed"), 1);
    let report = "the command once (json) failed: interrupted; it may have happened";
    assert_eq!(world.reports(), [report]);
    world.carried_out("2", yes(200));
    world.restart();
    assert_eq!(world.engine().unfinished(), 0);
    assert!(world.commands().is_empty());
}

#[test]
fn a_command_that_kills_the_process_each_time_is_given_up() {
    let mut world = World::new();
    world.command("again", "1");
    for _ in 0..3 {
        assert_eq!(world.commands(), ["1"]);
        world.restart();
    }
    assert!(world.commands().is_empty());
    assert_eq!(world.reports(), ["the command again (json) failed: interrupted 3 times; it is given up"]);
}

/// The gap that nothing on the wire closes: the broker did not get the PUBACK of what is recorded already.
#[test]
fn a_crash_between_the_record_and_its_acknowledgement_makes_a_command_run_twice() {
    let mut world = World::new();
    world.broker.route(&topic("again"), b"1".to_vec());
    // The commit is the next point, the PUBACK the one after it.
    world.crash_at = Some(world.points + 2);
    world.run();
    assert!(world.agent.is_none(), "it died before the PUBACK");
    world.start();
    assert_eq!(world.commands(), ["1", "1"]);
    assert_eq!(world.broker.unacknowledged(), 0);
}

#[test]
fn a_crash_before_the_record_makes_the_broker_deliver_again() {
    let mut world = World::new();
    world.broker.route(&topic("once"), b"1".to_vec());
    world.crash_at = Some(world.points + 1);
    world.run();
    assert_eq!(world.broker.unacknowledged(), 1);
    world.start();
    assert_eq!(world.commands(), ["1"]);
}

#[test]
fn a_crash_after_the_end_of_a_command_does_not_repeat_it() {
    let mut world = World::new();
    world.command("again", "1");
    world.carried_out("1", yes(200));
    world.restart();
    assert!(world.commands().is_empty());
}

#[test]
fn a_command_that_fails_or_overruns_is_counted_and_reported() {
    let mut world = World::new();
    world.command("once", "1");
    world.carried_out("1", failed());
    world.command("once", "2");
    world.pass(secs(31));
    assert!(world.commands().is_empty());
    assert_eq!(world.counted("command failed"), 2);
    let reports = world.reports();
    assert_eq!(reports[0], "the command once (json) failed: the lamp is broken");
    assert!(reports[1].contains("longer than its budget of 30s"), "{reports:?}");
    assert_eq!(world.broker.on("add/diag/errorCodes").len(), 2);
}

#[test]
fn a_payload_that_does_not_fit_is_counted_acknowledged_and_not_reported() {
    let mut world = World::new();
    world.command("once", "{");
    world.carried_out("{", Decision::Undecodable(Refusal::bad_request("EOF")));
    assert_eq!(world.counted("command that does not fit"), 1);
    assert_eq!((world.broker.unacknowledged(), world.engine().unfinished()), (0, 0));
    assert!(world.reports().is_empty());
}

#[test]
fn a_command_that_nobody_takes_is_counted_and_acknowledged() {
    let mut world = World::new();
    world.command("other", "1");
    world.deliver_raw("iot-2/cmd/once/fmt/text", "1");
    world.deliver_raw("iot-2/type/t/id/d/cmd/once/fmt/json", "1");
    assert_eq!(world.counted("command that this device does not take"), 2);
    assert_eq!(world.counted("command for another device"), 1);
    assert_eq!((world.broker.unacknowledged(), world.starts.len()), (0, 0));
}

#[test]
fn a_wildcard_takes_what_is_not_declared_more_precisely() {
    let mut world = World::new();
    world.deliver_raw("iot-2/cmd/fresh/fmt/anything", "1");
    assert_eq!(world.commands(), ["1"]);
}

#[test]
fn a_retained_command_never_runs() {
    let mut world = World::new();
    world.broker.route_as(&topic("again"), b"1".to_vec(), true, false);
    world.run();
    assert_eq!((world.counted("retained command"), world.starts.len()), (1, 0));
    assert_eq!(world.broker.unacknowledged(), 0);
}

#[test]
fn a_command_that_waited_too_long_is_dropped_and_a_patient_one_runs() {
    let mut world = World::new();
    world.go_offline();
    world.broker.route(&topic("fresh"), b"old".to_vec());
    world.broker.route(&topic("once"), b"patient".to_vec());
    world.pass(minutes(20));
    world.reconnect();
    assert_eq!(world.commands(), ["patient"]);
    assert_eq!(world.counted("command dropped"), 1);
    world.command("fresh", "new");
    assert_eq!(world.commands(), ["new", "patient"]);
}

/// Nothing tells whether the lost journal held it.
#[test]
fn a_device_without_a_journal_takes_no_command_that_must_not_be_repeated() {
    let mut world = World::off(|_| {});
    world.broker.has_session = true;
    for id in ["once", "again", "held"] {
        world.broker.route(&topic(id), id.into());
    }
    world.start();
    assert_eq!(world.commands(), ["again", "held"]);
    assert_eq!(world.counted("command dropped"), 1);
}

/// P8: the bound is that of requests, and a PUBACK that is withheld would keep requests waiting behind it (P7).
#[test]
fn beyond_the_bound_a_command_is_dropped_counted_and_acknowledged() {
    let mut world = World::with(|settings| (settings.limits.pending, settings.limits.running) = (2, 1));
    for payload in ["1", "2", "3", "4"] {
        world.command("once", payload);
    }
    assert_eq!((world.engine().unfinished(), world.counted("command dropped")), (2, 2));
    assert_eq!(world.broker.unacknowledged(), 0);
    world.deliver("r1", observe("level"));
    world.assert_answer("r1", 200);
}

#[test]
fn a_repetition_of_what_waits_for_room_in_the_outbox_is_the_same_command() {
    let mut world = World::with(|settings| settings.limits.outbox = 1);
    world.broker.pubacks = false;
    world.deliver("r1", observe("level"));
    world.command("again", "1");
    assert!(world.commands().is_empty());
    let (_, delivered) = world.broker.deliver_again(0).unwrap();
    world.input(Input::Delivered(delivered));
    world.puback();
    assert_eq!((world.commands(), world.broker.unacknowledged()), (vec!["1".to_owned()], 0));
}

#[test]
fn a_restart_of_the_device_interrupts_a_command_as_it_declares() {
    let mut world = World::new();
    world.command("once", "1");
    world.command("again", "2");
    world.deliver("b", reboot());
    world.decide("b", yes(202));
    world.pass(secs(11));
    assert!(world.commands().is_empty());
    world.reboot();
    world.recovered("b", iotdm_core::Recovery::Done);
    assert_eq!(world.commands(), ["2"]);
    assert_eq!(world.counted("command failed"), 0, "it was counted before the restart");
    assert_eq!(
        world.reports(),
        ["the command once (json) failed: interrupted by a restart of the device; it may have happened"]
    );
}
