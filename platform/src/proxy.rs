//! A loopback TCP proxy that does to a connection what networks do: cut it, delay it, slow it down, swallow it.
//!
//! It stands between a client and a [`Broker`](crate::broker::Broker) (or any server on loopback) and is controlled
//! while it runs. It knows nothing of MQTT. Both its sockets have TCP_NODELAY, and its delays are tokio time, so that
//! it is deterministic under a paused clock.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

/// A running proxy; dropping it closes its port and cuts every connection.
///
/// # Caveats
/// A direction of a connection that has swallowed bytes never forwards again: a stream with a hole in it would be a
/// fault no network produces. Lifting [`black_hole`](Self::black_hole) or [`half_open`](Self::half_open) therefore
/// helps connections opened afterwards, and those that were idle meanwhile.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// One of the two ways through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and forwards every connection to `upstream`, on the current tokio runtime.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared =
            Arc::new(Shared { controls: Mutex::new(Controls::default()), cuts: watch::Sender::new(0) });
        let accepting = tokio::spawn(accept(listener, upstream, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// Where clients connect.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Forwards `bytes` more in this direction, counted over all connections, and then cuts every connection, once.
    pub fn cut_after_bytes(&self, direction: Direction, bytes: u64) {
        self.shared.lock().way_mut(direction).budget = Some(bytes);
    }

    /// Accepts and reads, and delivers nothing in either direction: neither bytes nor the end of a connection.
    pub fn black_hole(&self, on: bool) {
        let mut controls = self.shared.lock();
        controls.up.swallow = on;
        controls.down.swallow = on;
    }

    /// Delivers nothing in one direction while the other goes on.
    pub fn half_open(&self, direction: Direction, on: bool) {
        self.shared.lock().way_mut(direction).swallow = on;
    }

    /// Holds back what it reads from this moment on for this long, in both directions. Order is kept.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }

    /// Carries what it reads from this moment on at most at so many bytes a second, in each direction of each connection;
    /// zero: as fast as it comes. What waits is kept here, as in the deep buffers of a slow network, and delivered in
    /// portions of 4 KiB: many small packets in a row would wait for a timer of the kernel.
    pub fn slow(&self, bytes_per_second: u64) {
        self.shared.lock().rate = bytes_per_second;
    }

    /// Closes connections as soon as they are accepted, until switched off.
    pub fn refuse(&self, refuse: bool) {
        self.shared.lock().refuse = refuse;
    }

    /// The bytes delivered in this direction so far.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.shared.lock().way_mut(direction).delivered
    }

    /// The connections accepted so far, those refused among them.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.lock().accepted
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // The task owns the connections' tasks, which end with it.
        self.accepting.abort();
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy").field("address", &self.address).finish_non_exhaustive()
    }
}

struct Shared {
    controls: Mutex<Controls>,
    /// Counts the cuts; every connection ends when it changes.
    cuts: watch::Sender<u64>,
}

#[derive(Default)]
struct Controls {
    up: Way,
    down: Way,
    delay: Duration,
    /// Bytes a second; zero: no limit.
    rate: u64,
    refuse: bool,
    accepted: u64,
}

#[derive(Default)]
struct Way {
    swallow: bool,
    budget: Option<u64>,
    delivered: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Controls> {
        self.controls.lock().expect("nothing panics while it holds the controls")
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts = cuts.wrapping_add(1));
    }
}

impl Controls {
    const fn pace(&self) -> (Duration, u64) {
        (self.delay, self.rate)
    }

    const fn way_mut(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

impl Way {
    /// How many of `read` bytes may be delivered, and whether the cut comes after them.
    fn spend(&mut self, read: usize) -> (usize, bool) {
        let (allowed, then_cut) = match self.budget {
            Some(budget) if read as u64 >= budget => {
                self.budget = None;
                (usize::try_from(budget).expect("not more than what was read"), true)
            }
            Some(budget) => {
                self.budget = Some(budget - read as u64);
                (read, false)
            }
            None => (read, false),
        };
        self.delivered += allowed as u64;
        (allowed, then_cut)
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a proxied connection's task failed");
                }
            }
            accepted = listener.accept(), if connections.len() < CONNECTION_LIMIT => match accepted {
                Ok((client, _)) => {
                    let refuse = {
                        let mut controls = shared.lock();
                        controls.accepted += 1;
                        controls.refuse
                    };
                    if !refuse {
                        connections.spawn(serve(client, upstream, Arc::clone(&shared)));
                    }
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve(client: TcpStream, upstream: SocketAddr, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    tokio::select! {
        biased;
        _ = cuts.changed() => debug!("connection cut"),
        ended = forward(client, upstream, &shared) => {
            if let Err(error) = ended {
                debug!(%error, "connection lost");
            }
        }
    }
}

async fn forward(client: TcpStream, upstream: SocketAddr, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(
        pump(from_client, to_server, Direction::Up, shared),
        pump(from_server, to_client, Direction::Down, shared),
    )?;
    Ok(())
}

/// Carries one direction to its end, and gives back what it wrote to: a receiver that was not told of the end must
/// not learn of it by the socket being dropped before the other direction has ended too.
///
/// It always reads at once, and keeps what has to wait. Bytes left in the kernel's buffer would be acknowledged by a
/// real timer, and a sender of many small packets, stopped by its congestion window, would go on at a moment that the
/// paused clock does not decide.
async fn pump(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    direction: Direction,
    shared: &Shared,
) -> io::Result<OwnedWriteHalf> {
    let mut outlet = Outlet { to, direction, broken: false };
    let mut held: VecDeque<(Instant, Arrival)> = VecDeque::new();
    let mut held_bytes = 0;
    // When the line has carried everything that was read.
    let mut free_at = Instant::now();
    let mut reading = true;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let due = held.front().map(|(due, _)| *due);
        let arrival = tokio::select! {
            biased;
            () = reached(due), if due.is_some() => {
                let (_, arrival) = held.pop_front().expect("it was at the front");
                held_bytes -= arrival.len();
                if outlet.deliver(arrival, shared).await?.is_break() {
                    return Ok(outlet.to);
                }
                continue;
            }
            read = from.read(&mut chunk), if reading && held_bytes < HELD_LIMIT_BYTES => match read {
                Ok(0) => Arrival::End,
                Ok(read) => Arrival::Bytes(chunk[..read].to_vec()),
                Err(error) => Arrival::Failed(error),
            },
        };
        reading = matches!(arrival, Arrival::Bytes(_));
        held_bytes += arrival.len();
        let (delay, rate) = shared.lock().pace();
        free_at = free_at.max(Instant::now());
        for piece in arrival.pieces(rate) {
            free_at += takes(piece.len(), rate);
            held.push_back((free_at + delay, piece));
        }
    }
}

/// How long a line of this many bytes a second is busy with so many bytes.
fn takes(bytes: usize, rate: u64) -> Duration {
    let nanos = (bytes as u64).saturating_mul(1_000_000_000).checked_div(rate);
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Waits for this moment, without a timer when it has come.
async fn reached(due: Option<Instant>) {
    if let Some(due) = due.filter(|due| *due > Instant::now()) {
        sleep_until(due).await;
    }
}

/// What was read from one side.
enum Arrival {
    Bytes(Vec<u8>),
    End,
    Failed(io::Error),
}

impl Arrival {
    /// What is in front must not wait for all that was read with it.
    fn pieces(self, rate: u64) -> Vec<Self> {
        match self {
            Self::Bytes(bytes) if rate > 0 => {
                bytes.chunks(SLOW_PIECE_BYTES).map(|piece| Self::Bytes(piece.to_vec())).collect()
            }
            whole => vec![whole],
        }
    }

    const fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::End | Self::Failed(_) => 0,
        }
    }
}

/// Where one direction of one connection leads.
struct Outlet {
    to: OwnedWriteHalf,
    direction: Direction,
    /// Whether it has swallowed bytes.
    broken: bool,
}

impl Outlet {
    /// Hands over what was read, as far as the controls let it; breaks at the end of the direction.
    async fn deliver(&mut self, arrival: Arrival, shared: &Shared) -> io::Result<ControlFlow<()>> {
        let silent = self.broken || shared.lock().way_mut(self.direction).swallow;
        match arrival {
            Arrival::Bytes(_) if silent => self.broken = true,
            Arrival::End | Arrival::Failed(_) if silent => return Ok(ControlFlow::Break(())),
            Arrival::End => {
                self.to.shutdown().await?;
                return Ok(ControlFlow::Break(()));
            }
            Arrival::Failed(error) => return Err(error),
            Arrival::Bytes(bytes) => {
                let (allowed, then_cut) = shared.lock().way_mut(self.direction).spend(bytes.len());
                self.to.write_all(&bytes[..allowed]).await?;
                if then_cut {
                    shared.cut();
                    // Not one byte more; `serve` drops this at its next turn.
                    return std::future::pending().await;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// How much is read at a time; a payload of the largest size takes three turns.
const CHUNK_BYTES: usize = 64 * 1_024;

/// How much a slow line delivers at a time.
const SLOW_PIECE_BYTES: usize = 4 * 1_024;

/// What one direction of a connection holds back at most; past it the sender feels backpressure.
const HELD_LIMIT_BYTES: usize = 16 * 1_024 * 1_024;

/// Connections at a time; the next ones wait in the listener's backlog.
const CONNECTION_LIMIT: usize = 1_024;

/// How long accepting rests after an error, which is usually "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
