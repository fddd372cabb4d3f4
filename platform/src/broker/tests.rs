//! The broker under real rumqttc clients, on loopback, with the clock paused.

mod delivery;
mod faults;
mod limits;
mod repeatable;

pub(crate) mod client;
