//! Every way to a broker: TCP and WebSocket, with TLS and without, direct and through a proxy.
//!
//! The real link and the real agent, against the in-process broker behind a front that speaks TLS and WebSocket, in real
//! time on loopback. What needs openssl or mosquitto is ignored unless asked for:
//!
//!     cargo test -p iotdm-tests --test connect -- --ignored

mod ciphers;
mod endpoints;
mod front;
mod identity;
mod mosquitto;
mod proxies;
mod tls;
