//! P1: nothing accepted is lost.

use iotdm_core::{Performed, Recovery};

use super::world::*;

#[test]
fn nothing_is_acknowledged_or_started_before_it_is_durable() {
    for ask in [reboot(), once(), observe("level"), Ask::new("nonsense")] {
        let mut world = World::new();
        world.disk.disk_full(true);
        world.deliver("r1", ask);
        assert!(world.agent.is_none(), "a failed commit ends the process");
        assert!(!world.is_acked("r1"));
        assert_eq!(world.runs("r1"), 0);
        world.assert_unanswered("r1");
    }
}

#[test]
fn a_request_is_acknowledged_while_its_handler_still_works() {
    let mut world = World::new();
    world.deliver("r1", once());
    assert!(world.is_acked("r1") && world.is_running("r1"));
    world.assert_unanswered("r1");
}

#[test]
fn an_answer_is_published_only_when_it_is_durable() {
    let mut world = World::new();
    world.deliver("r1", once());
    world.disk.disk_full(true);
    world.decide("r1", yes(200));
    world.assert_unanswered("r1");
    world.disk.disk_full(false);
    world.start();
    world.assert_answer("r1", 500);
}

#[test]
fn work_then_answer_costs_two_commits_and_answer_then_work_four() {
    let mut world = World::new();
    world.pass(secs(1));
    let commits = |world: &mut World, act: &mut dyn FnMut(&mut World)| {
        let before = world.commits;
        act(world);
        world.commits - before
    };
    assert_eq!(
        commits(&mut world, &mut |world| {
            world.deliver("r1", once());
            world.decide("r1", yes(200));
        }),
        2
    );
    assert_eq!(
        commits(&mut world, &mut |world| {
            world.deliver("r2", after());
            world.decide("r2", yes(202));
            world.performed("r2", Ok(Performed::Complete));
        }),
        4
    );
    assert_eq!(commits(&mut world, &mut |world| world.deliver("r1", once())), 1, "a replay");
    assert_eq!(commits(&mut world, &mut |world| world.deliver("r3", Ask::new("nonsense"))), 1, "404");
    assert_eq!(
        commits(&mut world, &mut |world| world.deliver("r4", Ask::new("mgmt/custom/no/no"))),
        1,
        "501"
    );
    world.deliver("busy", download());
    world.deliver("r5", download());
    assert_eq!(commits(&mut world, &mut |world| _ = world.pass(secs(11))), 1, "409");
}

#[test]
fn a_backlog_is_recorded_in_the_batches_of_its_deliveries_and_answered_after_a_restart() {
    let mut world = World::new();
    for n in 0..40 {
        world.deliver(&format!("r{n}"), again());
    }
    world.restart();
    for n in 0..40 {
        let id = format!("r{n}");
        // The second attempts run one at a time.
        assert!(world.is_running(&id), "{id}");
        world.decide(&id, yes(200));
        world.assert_answer(&id, 200);
    }
}

/// One request of each kind, a replay, a flap and a reboot; every handler answers at once.
fn scenario(world: &mut World, step: u32) {
    match step {
        0 => drop(world.send("a", again())),
        1 => drop(world.send("o", once())),
        2 => drop(world.send("d", after())),
        3 => drop(world.send("x", Ask::new("nonsense"))),
        4 => drop(world.send("v", observe("level"))),
        5 => drop(world.send("o", once())),
        6 => world.cut(),
        7 => drop(world.send("b", reboot())),
        8 => drop(world.send("a", again())),
        _ => unreachable!("the scenario has nine steps"),
    }
}

const STEPS: u32 = 9;

fn play(crash_at: Option<u64>) -> World {
    let mut world = World::new();
    world.crash_at = crash_at.map(|k| world.points + k);
    let mut restarts = 0;
    for step in 0..STEPS + 4 {
        if step < STEPS {
            scenario(&mut world, step);
        }
        for _ in 0..20 {
            if world.agent.is_none() {
                world.start();
            }
            world.run();
            restarts += u32::from(world.answer_all());
        }
        world.pass(secs(3));
    }
    assert!(restarts <= 2);
    world.pass(secs(400));
    world
}

#[test]
fn a_crash_between_any_two_steps_loses_nothing_and_repeats_nothing() {
    let calm = play(None);
    let points = calm.points;
    assert!(points > 60, "the scenario has only {points} points");
    for k in 1..=points {
        let world = play(Some(k));
        let context = || format!("crash at point {k}:\n{}", world.story.lines.join("\n"));
        for id in ["a", "o", "d", "b", "v", "x"] {
            assert!(world.is_acked(id), "{id} is not acknowledged; {}", context());
            assert!(!world.answers(id).is_empty(), "{id} is not answered; {}", context());
        }
        for id in ["a", "o", "d", "b"] {
            let codes = world.codes(id);
            assert!(codes.iter().all(|rc| *rc == codes[0]), "{id}: {codes:?}; {}", context());
        }
        assert!(world.runs("o") <= 1, "{}", context());
        assert!(world.performs("b") <= 1, "{}", context());
        assert!(world.runs("a") <= 2 && world.performs("d") <= 2, "{}", context());
        assert!(world.engine().requests.is_empty(), "{}", context());
        assert!(world.engine().is_managed(), "{}", context());
    }
}

impl World {
    /// Every handler that runs answers; true when the machine was restarted with that.
    pub(super) fn answer_all(&mut self) -> bool {
        use crate::engine::{Input, TaskMoment};
        let tasks: Vec<_> = self.agent.iter().flat_map(|agent| agent.tasks.values().cloned()).collect();
        for task in tasks {
            if self.agent.is_none() {
                return false;
            }
            let works_after = [after().topic, reboot().topic, download().topic, reset().topic]
                .contains(&format!("iotdm-1/{}", task.route));
            let restarts = [iotdm_core::Route::Reboot, iotdm_core::Route::FactoryReset].contains(&task.route);
            match task.moment {
                TaskMoment::Handle => {
                    self.input(Input::Decided(task.key, yes(if works_after { 202 } else { 200 })))
                }
                TaskMoment::AfterAck if restarts => {
                    self.input(Input::Performed(task.key, Ok(Performed::Restarting)));
                    if self.agent.is_some() {
                        self.reboot();
                    }
                    return true;
                }
                TaskMoment::AfterAck => self.input(Input::Performed(task.key, Ok(Performed::Complete))),
                TaskMoment::Recover => {
                    let done = if task.rebooted || restarts { Recovery::Done } else { Recovery::RunAgain };
                    self.input(Input::Recovered(task.key, done));
                }
            }
            if self.agent.is_some() {
                self.end_task(task.key);
            }
        }
        false
    }
}
