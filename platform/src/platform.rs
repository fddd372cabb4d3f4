//! The platform as a program sees it: connected, answering, asking.

mod command;
mod event;
mod firmware;
mod handle;
mod replies;
mod request;
mod shared;
mod upward;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iotdm_core::{AttributeValue, MAX_PAYLOAD_BYTES, Route};
use rumqttc::QoS;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub use event::{Event, Happening};
pub use firmware::{FirmwareError, FirmwareRequest, FirmwareStep, Image};
pub use handle::RequestHandle;
pub use replies::{Replies, Reply};
pub use request::Request;

use crate::client::{self, ClientOptions, Outbound};
use crate::space::{DeviceName, Space};
use crate::track::{DEVICES_LIMIT, DeviceView, InitiateError};
use shared::Shared;

/// The device management service's part, played against a broker.
///
/// # Flow
/// It subscribes to what devices send and answers each of their requests ([`Replies`]). [`initiate`](Self::initiate)
/// makes a request of a device that is managed; the [`RequestHandle`] tells how it fares, by the rules of
/// `docs/protocol.md` §7.
///
/// # Guarantees
/// * What is sent to one device arrives in the order in which it was handed in, also across connections; after a broken
///   connection a message may arrive again.
/// * A request of a device that is delivered again is answered again and not applied twice.
/// * Nothing grows without bound: requests, devices, messages that wait, events.
///
/// # Assumptions
/// * One platform per client id: a second one would take its connection away.
/// * It runs on the runtime that connected it; all its time is tokio's, so that a paused clock drives it.
///
/// # Caveats
/// It forgets everything when it is dropped; its session on the broker stays.
pub struct Platform {
    shared: Arc<Shared>,
    stop: CancellationToken,
    client: JoinHandle<()>,
    timer: JoinHandle<()>,
}

/// How a platform connects, and what it is to devices.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlatformOptions {
    /// The broker.
    pub broker: SocketAddr,
    /// The MQTT client id, an application's (`docs/protocol.md` §1.3).
    pub client_id: String,
    /// User name and password, where the broker wants them.
    pub credentials: Option<(String, String)>,
    /// Where the devices' topics lie.
    pub space: Space,
    /// How devices' requests are answered.
    pub replies: Replies,
    /// How long [`Platform::connect`] tries.
    pub patience: Duration,
    /// Makes reqIds and delays repeatable.
    pub seed: Option<u64>,
}

impl PlatformOptions {
    /// A platform on this broker, whose devices lie below `devices/TYPE/ID/`.
    #[must_use]
    pub fn new(broker: SocketAddr) -> Self {
        Self {
            broker,
            client_id: "a:iotdm:platform".into(),
            credentials: None,
            space: Space::mounted(),
            replies: Replies::default(),
            patience: CONNECT_PATIENCE,
            seed: None,
        }
    }
}

/// Why no platform is connected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The broker did not take connection and subscription in time.
    #[error("no connection to {broker} within {patience:?}: {reason}")]
    Unreachable {
        /// The broker.
        broker: SocketAddr,
        /// How long it was tried.
        patience: Duration,
        /// The last attempt's error.
        reason: String,
    },
}

impl Platform {
    /// Connects and subscribes; afterwards it reconnects by itself.
    ///
    /// # Errors
    /// The broker is not there, or does not let this platform in, for as long as [`PlatformOptions::patience`].
    pub async fn connect(options: PlatformOptions) -> Result<Self, ConnectError> {
        let mut random = options.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let client_options = ClientOptions {
            broker: options.broker,
            client_id: options.client_id,
            credentials: options.credentials,
            filters: options.space.filters(),
        };
        let shared = Arc::new(Shared::new(options.space, options.replies, random.fork()));
        let stop = CancellationToken::new();
        let client = tokio::spawn(client::run(client_options, Arc::clone(&shared), stop.clone(), random));
        let timer = tokio::spawn(run_timer(Arc::clone(&shared)));
        let platform = Self { shared, stop, client, timer };
        let connected = platform.wait_until(Self::is_connected);
        if timeout(options.patience, connected).await.is_err() {
            let reason = platform.shared.last_error();
            return Err(ConnectError::Unreachable {
                broker: options.broker,
                patience: options.patience,
                reason,
            });
        }
        Ok(platform)
    }

    /// Disconnects; open requests are given up.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        // The task only ends or is aborted; either way nothing of it is left.
        let _ = (&mut self.client).await;
    }

    /// Whether there is a connection with granted subscriptions.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.is_connected()
    }

    /// Every device that was heard.
    #[must_use]
    pub fn devices(&self) -> Vec<(DeviceName, DeviceView)> {
        self.shared
            .look(|tracker| tracker.devices().map(|(name, view)| (name.clone(), view.clone())).collect())
    }

    /// One device, once it was heard.
    #[must_use]
    pub fn device(&self, device: &DeviceName) -> Option<DeviceView> {
        self.shared.look(|tracker| tracker.device(device).cloned())
    }

    /// Waits until the device is managed.
    pub async fn managed(&self, device: &DeviceName) {
        let managed = || self.shared.look(|tracker| tracker.device(device).is_some_and(|view| view.managed));
        self.wait_until(|_| managed()).await;
    }

    /// Waits until this many manages of the device were taken.
    pub async fn managed_times(&self, device: &DeviceName, times: u64) {
        let manages = || self.shared.look(|tracker| tracker.device(device).map_or(0, |view| view.manages));
        self.wait_until(|_| manages() >= times).await;
    }

    /// Waits until `condition` holds; it is asked again after everything the platform notices.
    pub async fn wait_until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let mut changes: watch::Receiver<u64> = self.shared.changes();
        // The sender lives in `self`, so the channel cannot be closed.
        while !condition(self) && changes.changed().await.is_ok() {}
    }

    /// Everything the platform notices and does from here on; a reader more than [`EVENTS_LIMIT`] behind misses some.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.subscribe()
    }

    /// Changes how devices' requests are answered.
    pub fn set_replies(&self, replies: Replies) {
        self.shared.set_replies(replies);
    }

    /// Makes a request of a device.
    ///
    /// # Errors
    /// The platform does not make it now; nothing was sent.
    pub fn initiate(&self, device: &DeviceName, request: &Request) -> Result<RequestHandle, InitiateError> {
        self.shared.initiate(device, request)
    }

    /// Makes a request of many devices, each under a reqId of its own. Where one device cannot be asked, the others are.
    ///
    /// # Errors
    /// Too many devices, or a firmware update for devices of several types (`docs/protocol.md` §7): nothing was sent.
    pub fn initiate_many(
        &self,
        devices: &[DeviceName],
        request: &Request,
    ) -> Result<Vec<Result<RequestHandle, InitiateError>>, InitiateError> {
        if devices.len() > DEVICES_LIMIT {
            return Err(InitiateError::TooManyDevices(devices.len()));
        }
        let one_type = devices.windows(2).all(|pair| pair[0].type_id == pair[1].type_id);
        if request.route() == &Route::FirmwareUpdate && !one_type {
            return Err(InitiateError::SeveralTypes);
        }
        Ok(devices.iter().map(|device| self.initiate(device, request)).collect())
    }

    /// Sends the very same message again, as a broker or a careless platform would; its answer is counted on the same
    /// handle.
    ///
    /// # Errors
    /// Too many messages wait to be sent.
    pub fn replay(&self, request: &RequestHandle) -> Result<(), InitiateError> {
        self.shared.replay(request)
    }

    /// Sends any bytes on any topic below the device's `iotdm-1/`. Answers are seen as events; a request that is to be
    /// tracked is a [`Request::raw`].
    ///
    /// # Errors
    /// Too many messages wait to be sent, or the payload is above the service's limit.
    pub fn send_raw(
        &self,
        device: &DeviceName,
        suffix: &str,
        payload: impl Into<Bytes>,
        qos: QoS,
        retain: bool,
    ) -> Result<(), InitiateError> {
        let payload = payload.into();
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(InitiateError::PayloadTooLarge(payload.len()));
        }
        let topic = self.shared.topic(device, suffix);
        self.shared.send(device, suffix, None, Outbound { topic, payload, qos, retain })
    }

    /// Observes attributes (`docs/protocol.md` §5.2).
    ///
    /// # Errors
    /// As [`initiate`](Self::initiate).
    pub fn observe(&self, device: &DeviceName, fields: &[&str]) -> Result<RequestHandle, InitiateError> {
        self.initiate(device, &Request::observe(fields))
    }

    /// Observes attributes no longer (`docs/protocol.md` §5.3).
    ///
    /// # Errors
    /// As [`initiate`](Self::initiate).
    pub fn cancel(&self, device: &DeviceName, fields: &[&str]) -> Result<RequestHandle, InitiateError> {
        self.initiate(device, &Request::cancel(fields))
    }

    /// Sets attributes (`docs/protocol.md` §5.1).
    ///
    /// # Errors
    /// As [`initiate`](Self::initiate).
    pub fn update_attributes(
        &self,
        device: &DeviceName,
        values: &[AttributeValue],
    ) -> Result<RequestHandle, InitiateError> {
        self.initiate(device, &Request::device_update(values))
    }

    /// Gives a request up; whether it was open. The device does not learn of it (`docs/protocol.md` §7).
    pub fn give_up(&self, request: &RequestHandle) -> bool {
        self.shared.give_up(request.key())
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.client.abort();
        self.timer.abort();
        self.shared.close();
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Platform").field("connected", &self.is_connected()).finish_non_exhaustive()
    }
}

/// Ends requests and lifetimes when their time has come.
async fn run_timer(shared: Arc<Shared>) {
    loop {
        let due = shared.look(|tracker| tracker.poll_timeout());
        let sleep = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shared.timers_changed() => {}
            () = sleep => shared.handle_timeout(Instant::now()),
        }
    }
}

/// Events a slow reader may be behind: a tour of a sandbox has a few hundred.
pub const EVENTS_LIMIT: usize = 4_096;

/// How long a connection is tried by default: longer than a broker takes to start.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
