//! A crash at each point of a life of attributes.

use iotdm_core::{Location, Report};
use serde_json::{Value, json};

use crate::engine::{Input, Threshold, Ticket};

use super::world::*;

#[test]
fn a_crash_at_any_point_loses_no_update_no_notification_and_no_location() {
    let points = play(None).points;
    assert!(points > 40, "the story has only {points} points");
    for k in 1..=points {
        let world = play(Some(k));
        let context = || format!("crash at point {k}:\n{}", world.story.lines.join("\n"));
        for (id, rc) in [("o", 200), ("u", 204), ("p", 204), ("c", 200)] {
            let codes = world.codes(id);
            assert!(
                !codes.is_empty() && codes.iter().all(|code| *code == rc),
                "{id}: {codes:?}; {}",
                context()
            );
        }
        let model = world.engine().model();
        assert_eq!(model.read("metadata"), Some(&json!({"a": 1})), "{}", context());
        assert_eq!(model.read("level"), Some(&json!(21)), "{}", context());
        assert_eq!(told(&world), Some(20), "21 differs from 20 by less than 2; {}", context());
        let heard = world.broker.on("device/update/location").pop().expect("it was reported");
        assert_eq!(heard["d"]["longitude"], 7.0, "{}", context());
        assert_eq!(model.read("location.longitude"), Some(&json!(7.0)), "{}", context());
        let cancelled = model.observations().map(|(field, _)| field.as_str()).collect::<Vec<_>>();
        assert_eq!(cancelled, ["level"], "{}", context());
    }
}

/// The platform observes, sets metadata and a location, and cancels one observation; the product sets a level and a
/// location. A process that died is started again, and whoever was not told that it is done does it again.
fn play(crash_at: Option<u64>) -> World {
    let mut world = World::with(|settings| {
        let rule = Threshold::new().min_change(2.0).min_interval(secs(30));
        settings.attributes.thresholds.insert("level".into(), rule);
    });
    world.crash_at = crash_at.map(|k| world.points + k);
    asked(&mut world, "o", observe("level"));
    set(&mut world, Input::SetAttributes(vec![("level".into(), json!(10))], Some(Ticket(1))), 1);
    asked(&mut world, "u", update("metadata", json!({"a": 1})));
    set(&mut world, Input::SetAttributes(vec![("level".into(), json!(20))], Some(Ticket(2))), 2);
    asked(&mut world, "p", update("location", json!({"longitude": 6.0, "latitude": 1.0})));
    asked(&mut world, "m", observe("metadata"));
    set(&mut world, Input::Report(Report::Location(Location::at(1.0, 7.0)), Some(Ticket(3))), 3);
    world.pass(secs(31));
    alive(&mut world);
    set(&mut world, Input::SetAttributes(vec![("level".into(), json!(21))], Some(Ticket(4))), 4);
    asked(&mut world, "c", cancel("metadata"));
    for _ in 0..3 {
        world.pass(minutes(10));
        alive(&mut world);
    }
    world
}

fn asked(world: &mut World, req_id: &str, ask: Ask) {
    world.deliver(req_id, ask);
    alive(world);
}

fn set(world: &mut World, input: Input, ticket: u64) {
    let again = match &input {
        Input::SetAttributes(changes, ticket) => Input::SetAttributes(changes.clone(), *ticket),
        Input::Report(report, ticket) => Input::Report(report.clone(), *ticket),
        other => panic!("{other:?} is not done again"),
    };
    world.input(input);
    alive(world);
    if !world.confirmed.contains(&Ticket(ticket)) {
        world.input(again);
        alive(world);
    }
}

fn alive(world: &mut World) {
    if world.agent.is_none() {
        world.start();
    }
    world.run();
}

/// The level that the platform heard of last.
fn told(world: &World) -> Option<i64> {
    let level = |payload: &Value| {
        let field = &payload["d"]["fields"][0];
        (field["field"] == "level").then(|| field["value"].as_i64())?
    };
    world.broker.received.iter().rev().find_map(|received| level(&received.json()))
}
