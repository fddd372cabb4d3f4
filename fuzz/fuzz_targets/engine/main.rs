//! The engine: any sequence of what can happen to it keeps the laws that `world` looks at after each step.
#![no_main]

mod steps;
mod world;

use libfuzzer_sys::fuzz_target;

use self::steps::Step;
use self::world::World;

fuzz_target!(|steps: Vec<Step<'_>>| {
    let mut world = World::new();
    for step in steps.iter().take(MAX_STEPS) {
        step.take(&mut world);
        world.look();
    }
});

/// A longer history finds what a shorter one finds, later.
const MAX_STEPS: usize = 200;
