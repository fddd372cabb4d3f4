//! The whole agent on the paused clock: real driver, engine and journal; link and disk in memory.
//!
//! One binary for all of it: linking costs more than the tests.

mod bounds;
mod counts;
mod crashes;
mod disagreements;
mod firmware_install;
mod histories;
mod product;
mod refusals;
mod restarts;
mod sessions;
