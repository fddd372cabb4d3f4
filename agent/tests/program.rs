//! The binary `iotdm-agent` as an operator meets it: one configuration, real processes and signals, a broker on the
//! loopback interface, real time. Bounds are generous and every wait is for an event.

#[path = "program/harness.rs"]
mod harness;

#[path = "program/actions.rs"]
mod actions;
#[path = "program/attributes.rs"]
mod attributes;
#[path = "program/commands.rs"]
mod commands;
#[path = "program/configuration.rs"]
mod configuration;
#[path = "program/downloads.rs"]
mod downloads;
#[path = "program/ends.rs"]
mod ends;
#[path = "program/events.rs"]
mod events;
#[path = "program/hostile.rs"]
mod hostile;
#[path = "program/log.rs"]
mod log;
#[path = "program/restarts.rs"]
mod restarts;
#[path = "program/scripts.rs"]
mod scripts;
#[path = "program/updates.rs"]
mod updates;
