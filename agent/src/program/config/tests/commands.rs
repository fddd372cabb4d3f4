//! `[commands.NAME]`.

use std::path::Path;
use std::time::Duration;

use iotdm_core::{Acknowledge, Interrupted, Late};

use super::{Place, load, with_device};

#[test]
fn a_section_declares_a_command_under_its_name_with_defaults() {
    let commands = load(
        "[commands.colour]\nrun = [\"sh\", \"-c\", \"cat\"]\n\
         [commands.others]\nid = \"+\"\nformat = \"+\"\nrun = [\"true\"]\ntime_limit = \"45s\"\nacknowledge = \"handled\"\n\
         late = { refuse_after = \"15m\" }\n\
         [commands.store]\nrun = [\"true\"]\ninterrupted = \"run-again\"\n",
    )
    .commands;
    let [colour, others, store] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!((&*colour.id, &*colour.format), ("colour", "json"));
    assert_eq!((&*colour.program, colour.args.len()), (Path::new("sh"), 2));
    assert_eq!((colour.time_limit, colour.acknowledge), (Duration::from_secs(30), Acknowledge::Durable));
    assert_eq!((colour.interrupted, colour.late), (Interrupted::Refuse, Late::Run));
    assert_eq!((&*others.id, &*others.format, others.acknowledge), ("+", "+", Acknowledge::Handled));
    assert_eq!(others.late, Late::RefuseAfter(Duration::from_secs(900)));
    assert_eq!(store.interrupted, Interrupted::RunAgain);
}

#[track_caller]
fn check(rest: &str, expected: &str) {
    assert_eq!(Place::with(&with_device(rest)).load().unwrap_err(), expected);
}

#[test]
fn mistakes_in_commands_are_told_with_what_would_be_right() {
    check(
        "[commands.colour]\nid = \"a/b\"\nrun = [\"true\"]\n",
        "agent.toml:5:1: commands.colour: cmd/a/b/fmt/json: write id and format as one level of a topic \
         each, of at most 1024 bytes, or as + for any",
    );
    check(
        "[commands.a]\nid = \"colour\"\nrun = [\"true\"]\n[commands.colour]\nrun = [\"true\"]\n",
        "agent.toml:8:1: commands.colour: another section has this id and format; keep one of the two",
    );
    check(
        "[commands.colour]\nrun = [\"true\"]\ntime_limit = \"1m\"\nacknowledge = \"handled\"\ninterrupted = \"refuse\"\n",
        "agent.toml:7:14: commands.colour.time_limit: an acknowledgement waits for a script 45s at the most; write less, or \
         acknowledge = \"durable\"\n\
         agent.toml:9:15: commands.colour.interrupted: is of no use with acknowledge = \"handled\": the broker sends it \
         again; remove it",
    );
    check(
        "[gateway]\n[commands.colour]\nrun = [\"true\"]\n",
        "agent.toml:6:2: commands: a gateway takes no commands of applications; remove them",
    );
}

#[test]
fn a_command_s_program_that_others_can_change_is_refused() {
    let place = Place::with(&with_device("[commands.colour]\nrun = [\"./colour\"]\n"));
    place.write("colour", "#!/bin/sh\n", 0o777);
    let refused = place.load().unwrap_err();
    assert!(refused.starts_with("agent.toml:6:7: commands.colour.run: ./colour "), "{refused}");
    assert!(refused.contains("chmod"), "{refused}");
}
