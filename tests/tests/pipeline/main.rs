//! The whole agent on the paused clock: real driver, engine and journal; link and disk in memory.
//!
//! One binary for all of it: linking costs more than the tests.

mod attributes;
mod bounds;
mod commands;
mod counts;
mod crashes;
mod diagnostics;
mod disagreements;
mod events;
mod expiry;
mod firmware_download;
mod firmware_install;
mod gateway;
mod histories;
mod own_action;
mod product;
mod refusals;
mod restart_rules;
mod restarts;
mod scripts;
mod sessions;
