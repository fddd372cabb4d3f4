//! A small MQTT 3.1.1 broker inside this process, for the sandbox and for tests. **Never a production broker**:
//! it listens on 127.0.0.1 only, speaks no TLS, and forgets everything when it stops.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use iotdm_platform::broker::{Broker, BrokerOptions, QoS};
//!
//! let broker = Broker::start(BrokerOptions::default()).await?;
//! // The device d:org:pump:p-1 receives this on `iotdm-1/mgmt/initiate/device/reboot`.
//! broker.publish("devices/pump/p-1/iotdm-1/mgmt/initiate/device/reboot", r#"{"reqId":"1"}"#, QoS::AtLeastOnce, false)?;
//! broker.drained("d:org:pump:p-1").await;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//! * Sessions are clean or durable; a durable one keeps what it is owed, the oldest dropped past a bound.
//! * QoS 0 and 1; a subscription to QoS 2 is granted 1, a PUBLISH at QoS 2 closes the connection.
//! * Messages of one QoS arrive in order, also when they are delivered again: same packet id, DUP set, oldest first.
//! * One delivery per client and message, however many of its subscriptions overlap.
//! * A second connection with the same client id closes the first; 1.5 keep-alive intervals of silence close one.
//! * Retained messages are kept and delivered on SUBSCRIBE with the flag set; a live delivery has it cleared.
//! * Every device has a topic space of its own, see [`Mount`].
//!
//! # Assumptions
//! It runs on the runtime that started it. On a current-thread runtime whose clock is paused it is deterministic,
//! if every socket of the test has TCP_NODELAY: ordered maps, no randomness, biased selection, `tokio::time` only.
//! One more real timer is left in Linux: after ten small packets in a row it waits for a TCP acknowledgement, which on
//! a busy machine may come from its 40 ms timer. A test that compares traces to the byte keeps its bursts below that
//! (a window of six instead of twenty).
//!
//! # Caveats
//! The last will is ignored. There is no `$SYS`. Nothing survives the process.
//!
//! # Faults
//! What brokers and networks do wrong can be switched on: see the methods from [`Broker::kill_connections`] on, and
//! [`FaultProxy`](crate::proxy::FaultProxy) for the network.

mod connection;
mod faults;
mod links;
mod observer;
mod options;
mod session;
mod state;
mod topic;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use observer::{Observer, ObserverRule, Seen, Sighting};
pub use options::{
    Applicant, Authentication, AuthenticationRule, BrokerOptions, Mount, MountRule, PAYLOAD_LIMIT_BYTES,
    QUEUE_LIMIT, SubscriptionRule, Subscriptions, WINDOW,
};
pub use rumqttc::QoS;
use state::State;

/// A running broker; dropping it closes the port and every connection. See the [module](self).
pub struct Broker {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

/// What has happened since the broker started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections admitted (CONNACK 0).
    pub connects: u64,
    /// Connections answered with another CONNACK.
    pub refused: u64,
    /// Connections closed because their client id connected again.
    pub takeovers: u64,
    /// Connections closed for what the client did: oversize payload, silence, a malformed packet.
    pub violations: u64,
    /// Messages that came in, from clients and through [`Broker::publish`].
    pub published: u64,
    /// First deliveries of a message to a client.
    pub delivered: u64,
    /// Later deliveries of the same message.
    pub redelivered: u64,
    /// Deliveries acknowledged.
    pub acked: u64,
    /// PUBACKs that acknowledge nothing in flight.
    pub stray_acks: u64,
    /// Messages dropped from a full queue.
    pub dropped: u64,
}

/// What a session holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionView {
    /// Whether its client is connected.
    pub connected: bool,
    /// Whether it outlives its connection.
    pub durable: bool,
    /// Messages waiting for a place in the window, or for the client.
    pub queued: usize,
    /// Messages delivered and not acknowledged.
    pub in_flight: usize,
    /// Messages dropped because the queue was full.
    pub dropped: u64,
    /// PUBACKs for the client's own messages that are withheld, see [`Broker::hold_pubacks`].
    pub withheld: usize,
}

/// Why [`Broker::publish`] took nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The topic is empty, too long, or has a wildcard.
    #[error("this is not a topic to publish to")]
    InvalidTopic,
    /// The payload is larger than [`BrokerOptions::payload_limit`].
    #[error("a payload of {bytes} bytes is above the limit of {limit}")]
    PayloadTooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// QoS 2 is not offered.
    #[error("QoS 2 is not offered")]
    ExactlyOnce,
}

impl Broker {
    /// Listens on 127.0.0.1 and serves connections on the current tokio runtime until dropped.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub async fn start(options: BrokerOptions) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
        let address = listener.local_addr()?;
        let mut state = State::new(&options);
        state.sightings.wanted = options.observer.is_there();
        let state = Mutex::new(state);
        let shared = Arc::new(Shared { options, state, changes: watch::Sender::new(0) });
        let stop = CancellationToken::new();
        let accepting = tokio::spawn(connection::accept(listener, Arc::clone(&shared), stop.clone()));
        Ok(Self { address, shared, stop, accepting: Mutex::new(Some(accepting)) })
    }

    /// Where clients connect.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Closes the port and every connection, and returns when no task of the broker is left.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(accepting) = accepting {
            // The task only ends or is aborted; either way nothing of it is left.
            let _ = accepting.await;
        }
    }

    /// Publishes as the broker itself, under the full topic name (with the mount of a device); returns how many
    /// clients are subscribed to it.
    ///
    /// # Errors
    /// The same things that would close a client's connection.
    pub fn publish(
        &self,
        topic: &str,
        payload: impl Into<Bytes>,
        qos: QoS,
        retain: bool,
    ) -> Result<usize, PublishError> {
        let payload = payload.into();
        let (bytes, limit) = (payload.len(), self.shared.options.payload_limit);
        if bytes > limit {
            return Err(PublishError::PayloadTooLarge { bytes, limit });
        }
        if qos == QoS::ExactlyOnce {
            return Err(PublishError::ExactlyOnce);
        }
        let topic = topic::mounted_topic("", topic).ok_or(PublishError::InvalidTopic)?;
        Ok(self.shared.with(|state| state.route(&topic, &payload, qos, retain)))
    }

    /// What has happened so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.lock().stats
    }

    /// What the session of this client holds, or `None` when there is none.
    #[must_use]
    pub fn session(&self, client_id: &str) -> Option<SessionView> {
        self.shared.lock().view(client_id)
    }

    /// Waits until `condition` holds; it is asked again after everything that happens in the broker.
    pub async fn wait_until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let mut changes = self.shared.changes.subscribe();
        // The sender lives in `self`, so the channel cannot be closed.
        while !condition(self) && changes.changed().await.is_ok() {}
    }

    /// Waits until the session of this client has nothing queued or in flight. No session has nothing.
    pub async fn drained(&self, client_id: &str) {
        self.wait_until(|broker| {
            broker.session(client_id).is_none_or(|session| session.queued == 0 && session.in_flight == 0)
        })
        .await;
    }

    /// Cuts every connection without a word, as a crash of the broker's host would; sessions stay.
    pub fn kill_connections(&self) {
        self.shared.with(State::close_all);
    }

    /// Forgets the session of this client and cuts its connection; `false` when there is none.
    pub fn drop_session(&self, client_id: &str) -> bool {
        self.shared.with(|state| state.drop_session(client_id))
    }

    /// Answers every CONNECT with CONNACK 3, "server unavailable", until switched off.
    pub fn refuse_connections(&self, refuse: bool) {
        self.shared.with(|state| state.faults.refuse = refuse);
    }

    /// Withholds the PUBACKs for what this client publishes, though its messages are delivered. Switching it off
    /// sends those withheld on the live connection; those of a connection that ended are gone with it.
    pub fn hold_pubacks(&self, client_id: &str, hold: bool) {
        self.shared.with(|state| state.hold_pubacks(client_id, hold));
    }

    /// Delivers everything unacknowledged again on the live connection, as NATS does; returns how many messages.
    pub fn redeliver_in_flight(&self, client_id: &str) -> usize {
        self.shared.with(|state| state.redeliver(client_id))
    }

    /// Whether every delivery is sent twice at once, as with rmqtt.
    pub fn duplicate(&self, duplicate: bool) {
        self.shared.with(|state| state.faults.duplicate = duplicate);
    }

    /// Whether a repeated delivery has DUP set (default), or not, as with aedes and rumqttd.
    pub fn set_dup_flag(&self, dup: bool) {
        self.shared.with(|state| state.faults.dup_flag = dup);
    }

    /// Whether unacknowledged messages get packet ids from 1 on at a reconnect, as with RabbitMQ, so that a late
    /// PUBACK acknowledges another message.
    pub fn renumber(&self, renumber: bool) {
        self.shared.with(|state| state.faults.renumber = renumber);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let accepting = self.accepting.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(accepting) = accepting {
            accepting.abort();
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What the broker's handle and its tasks have in common.
///
/// Architecture invariant: the lock is held for one synchronous step, never across an await, and no function of the
/// caller runs under it.
struct Shared {
    options: BrokerOptions,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no step of the state panics")
    }

    /// Changes the state and wakes those who wait for a change.
    fn with<R>(&self, step: impl FnOnce(&mut State) -> R) -> R {
        let (result, sightings) = {
            let mut state = self.lock();
            (step(&mut state), state.sightings.take())
        };
        self.options.observer.see(sightings);
        self.changes.send_modify(|steps| *steps = steps.wrapping_add(1));
        result
    }
}

#[cfg(test)]
pub(crate) mod tests;
