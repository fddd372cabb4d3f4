//! The promises of the engine, each in a file of its own, in a world of a disk, a clock, a broker and a platform.

mod answers;
mod attributes;
mod bounds;
mod commands;
mod contested;
mod disruptive;
mod durable;
mod events;
mod expiry;
mod kept;
mod lanes;
mod late;
mod location;
mod loops;
mod malformed;
mod model;
mod quarantine;
mod refused;
mod replace;
mod replay;
mod session;
mod stories;
mod thresholds;
mod world;
