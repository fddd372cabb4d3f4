//! A broker that closes each connection soon after the subscription.

use crate::engine::{Announcement, Input, Lost};

use super::world::*;

fn contested(world: &World) -> usize {
    world.announced.iter().filter(|said| **said == Announcement::Contested).count()
}

/// Lets the broker close the connection, and waits for the next.
fn close(world: &mut World) {
    world.broker.cut();
    world.input(Input::Disconnected(Lost::Closed));
    world.run();
    while !world.broker.is_connected() {
        world.pass(secs(1));
    }
    world.run();
}

#[test]
fn connections_that_the_broker_closes_one_after_the_other_become_rare_and_are_said_once() {
    let mut world = World::new();
    for _ in 0..3 {
        close(&mut world);
    }
    assert_eq!(contested(&world), 0);
    let began = world.elapsed;
    for _ in 0..9 {
        close(&mut world);
    }
    assert_eq!(contested(&world), 1);
    let took = world.elapsed - began;
    assert!(took >= minutes(12), "{took:?}");
    assert!(world.engine().is_managed(), "it goes on");
}

/// What was accepted while the connection was contested is answered, and once.
#[test]
fn a_request_between_two_closed_connections_is_answered_once() {
    let mut world = World::new();
    for n in 0..8 {
        world.broker.pubacks = false;
        world.deliver(&format!("r{n}"), again());
        world.decide(&format!("r{n}"), yes(200));
        close(&mut world);
        world.puback();
        world.run();
    }
    for n in 0..8 {
        assert_eq!(world.runs(&format!("r{n}")), 1);
        world.assert_only(&format!("r{n}"), 200);
    }
}
