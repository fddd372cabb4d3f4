//! The sockets of the broker: one task accepts, one task per connection reads and writes.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{ConnAck, Connect, ConnectReturnCode, Login, Packet};
use rumqttc::mqttbytes::{self, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Shared;
use super::links::{LinkId, Outbound};
use super::options::Applicant;
use super::state::Violation;

/// Accepts until `stop`, then ends every connection task.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    // `biased` everywhere: the ready branch with the lowest place wins, so that runs can be repeated exactly.
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a connection task failed");
                }
            }
            accepted = listener.accept(), if connections.len() < CONNECTION_LIMIT => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&shared)));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error("the client closed the connection")]
    Eof,
    #[error("the client said goodbye")]
    Disconnect,
    #[error("the broker closed the connection")]
    Closed,
    #[error("the client was silent for one and a half keep-alive intervals")]
    Silent,
    #[error("no CONNECT came first")]
    NotConnect,
    #[error("the client was refused: {0:?}")]
    Refused(ConnectReturnCode),
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("malformed or oversized packet: {0}")]
    Codec(mqttbytes::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves one connection to its end, and says how it ended when that is unusual.
async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let mut client_id = String::new();
    let ending = match run(stream, &shared, &mut client_id).await {
        Ok(never) => match never {},
        Err(ending) => ending,
    };
    match ending {
        Ending::Disconnect | Ending::Eof | Ending::Closed => {
            debug!(client_id, reason = %ending, "connection ended")
        }
        Ending::Io(error) => debug!(client_id, %error, "connection lost"),
        Ending::Refused(_) => {
            shared.with(|state| state.stats.refused += 1);
            info!(client_id, reason = %ending, "connection refused");
        }
        Ending::Silent | Ending::NotConnect | Ending::Violation(_) | Ending::Codec(_) => {
            shared.with(|state| state.stats.violations += 1);
            warn!(client_id, reason = %ending, "connection closed");
        }
    }
}

async fn run(
    stream: TcpStream,
    shared: &Shared,
    client_id: &mut String,
) -> Result<std::convert::Infallible, Ending> {
    // Nagle and delayed acknowledgements would let real milliseconds into a paused clock.
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut reader = PacketReader::new(read, shared);
    let Packet::Connect(connect) = reader.next(Some(CONNECT_WAIT)).await? else {
        return Err(Ending::NotConnect);
    };
    client_id.clone_from(&connect.client_id);
    let attached = match admit(shared, &connect, client_id) {
        Ok(attached) => attached,
        Err(code) => {
            let mut bytes = BytesMut::new();
            ConnAck::new(code, false).write(&mut bytes).map_err(Ending::Codec)?;
            write.write_all(&bytes).await?;
            write.shutdown().await?;
            return Err(Ending::Refused(code));
        }
    };
    let keep_alive = Duration::from_secs(u64::from(connect.keep_alive));
    // MQTT 3.1.1 §3.1.2.10: one and a half times; zero switches it off.
    let patience = (!keep_alive.is_zero()).then(|| keep_alive + keep_alive / 2);
    tokio::select! {
        biased;
        ending = read_packets(&mut reader, shared, attached.link, client_id, patience) => ending,
        ending = write_packets(write, shared, &attached) => ending,
    }
}

/// Asks the caller's rules and then the state; on success everything to send is queued already.
fn admit<'a>(
    shared: &'a Shared,
    connect: &Connect,
    client_id: &mut String,
) -> Result<Attached<'a>, ConnectReturnCode> {
    if connect.protocol != Protocol::V4 {
        return Err(ConnectReturnCode::RefusedProtocolVersion);
    }
    if client_id.is_empty() {
        if !connect.clean_session {
            return Err(ConnectReturnCode::BadClientId);
        }
        *client_id = shared.with(|state| format!("anonymous-{}", state.stats.connects + 1));
    }
    let (username, password) = match &connect.login {
        Some(Login { username, password }) => (Some(username.as_str()), Some(password.as_str())),
        None => (None, None),
    };
    let applicant = Applicant::new(client_id, username, password);
    if !shared.options.authentication.admits(&applicant) {
        return Err(ConnectReturnCode::BadUserNamePassword);
    }
    let mount = shared.options.mount.of(&applicant).map_err(|error| {
        warn!(%client_id, %error, "client refused");
        ConnectReturnCode::BadClientId
    })?;
    if connect.last_will.is_some() {
        debug!(%client_id, "the last will is ignored by this broker");
    }
    let (link, wake) = shared.with(|state| state.attach(client_id, !connect.clean_session, mount))?;
    Ok(Attached { shared, link, wake })
}

/// A connection the state knows of; tells the state when it is dropped, however its task ends.
struct Attached<'a> {
    shared: &'a Shared,
    link: LinkId,
    wake: Arc<Notify>,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.shared.with(|state| state.close(self.link));
    }
}

async fn read_packets(
    reader: &mut PacketReader,
    shared: &Shared,
    link: LinkId,
    client_id: &str,
    patience: Option<Duration>,
) -> Result<std::convert::Infallible, Ending> {
    loop {
        let packet = reader.next(patience).await?;
        let refused = match &packet {
            Packet::Disconnect => return Err(Ending::Disconnect),
            Packet::Subscribe(subscribe) => {
                let filters = subscribe.filters.iter().map(|filter| &filter.path);
                filters
                    .filter(|path| !shared.options.subscriptions.allows(client_id, path))
                    .cloned()
                    .collect()
            }
            _ => BTreeSet::new(),
        };
        shared.with(|state| state.receive(link, packet, &refused))?;
    }
}

async fn write_packets(
    mut socket: OwnedWriteHalf,
    shared: &Shared,
    attached: &Attached<'_>,
) -> Result<std::convert::Infallible, Ending> {
    let mut bytes = BytesMut::new();
    loop {
        let outbound = shared.lock().links.take_outbound(attached.link, &mut bytes, WRITE_BATCH_BYTES);
        match outbound {
            Outbound::Closed => return Err(Ending::Closed),
            Outbound::Empty => attached.wake.notified().await,
            Outbound::Ready => socket.write_all_buf(&mut bytes).await?,
        }
    }
}

/// Cuts what arrives into packets.
struct PacketReader {
    socket: OwnedReadHalf,
    bytes: BytesMut,
    packet_limit: usize,
}

impl PacketReader {
    fn new(socket: OwnedReadHalf, shared: &Shared) -> Self {
        let packet_limit = shared.options.payload_limit.saturating_add(PUBLISH_OVERHEAD_BYTES);
        Self { socket, bytes: BytesMut::new(), packet_limit }
    }

    /// The next packet, which must be complete within `patience`.
    async fn next(&mut self, patience: Option<Duration>) -> Result<Packet, Ending> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            match Packet::read(&mut self.bytes, self.packet_limit) {
                Ok(packet) => return Ok(packet),
                Err(mqttbytes::Error::InsufficientBytes(missing)) => self.bytes.reserve(missing),
                Err(error) => return Err(Ending::Codec(error)),
            }
            let reading = self.socket.read_buf(&mut self.bytes);
            let read = match deadline {
                Some(deadline) => timeout_at(deadline, reading).await.map_err(|_| Ending::Silent)?,
                None => reading.await,
            };
            if read? == 0 {
                return Err(Ending::Eof);
            }
        }
    }
}

/// How long a connection may take to send CONNECT.
const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// How long accepting rests after an error, which is usually "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections at a time; the next ones wait in the listener's backlog.
const CONNECTION_LIMIT: usize = 1_024;

/// What a PUBLISH carries beside its payload: topic length, the longest topic, packet id.
const PUBLISH_OVERHEAD_BYTES: usize = 2 + super::topic::TOPIC_LIMIT_BYTES + 2;

/// How many bytes are encoded before they are written.
const WRITE_BATCH_BYTES: usize = 64 * 1_024;
