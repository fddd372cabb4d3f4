//! What only a real broker shows, in real time, on mosquitto.
//!
//!     cargo build -p iotdm-examples --bin driver_agent
//!     cargo test -p iotdm-tests --test mosquitto -- --ignored
//!
//! The first command is for `kills` alone, which ends the real program again and again, and says how to do it a thousand
//! times.

mod gateway;
mod kills;
mod mqtt5;
mod sessions;
mod vectors;
