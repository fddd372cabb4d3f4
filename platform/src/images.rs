//! A server of one large image on loopback that breaks where it is told to, for tests and proofs.
//!
//! The image is made while it is sent: one of a gigabyte takes no memory and no disk. It knows `Range` and `If-Range`,
//! names the image by an entity tag, and counts what it sends.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use iotdm_platform::images::ImageServer;
//!
//! let server = ImageServer::start(8 << 20).await?;
//! server.cut_at(1_000_000);
//! println!("{} {}", server.uri(), server.sha256());
//! server.reached(5_000_000).await;
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// A server that runs until it is dropped. See the [module](self).
#[derive(Debug)]
pub struct ImageServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// One answered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The offset of its first byte.
    pub from: u64,
    /// How many bytes were handed to the connection; the last of them may never have been read.
    pub sent: u64,
}

#[derive(Debug)]
struct Shared {
    bytes: u64,
    state: Mutex<State>,
    /// How far any transfer has come.
    furthest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    cuts: BTreeSet<u64>,
    pause: Duration,
    transfers: Vec<Transfer>,
}

impl ImageServer {
    /// Serves an image of so many bytes, the same ones each time, on a free port.
    ///
    /// # Errors
    /// Loopback has no free port.
    pub async fn start(bytes: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { bytes, state: Mutex::default(), furthest: watch::Sender::new(0) });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, task })
    }

    /// Where the image is.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("http://{}/image", self.address)
    }

    /// Writes the image, for whoever wants to sign it.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_to(&self, out: &mut impl io::Write) -> io::Result<()> {
        self.shared.blocks().try_for_each(|block| out.write_all(&block))
    }

    /// The verifier of the image.
    #[must_use]
    pub fn sha256(&self) -> String {
        let mut digest = Sha256::new();
        self.shared.blocks().for_each(|block| digest.update(&block));
        verifier(digest)
    }

    /// Breaks the first transfer that comes to this offset, there.
    pub fn cut_at(&self, offset: u64) {
        self.shared.state().cuts.insert(offset);
    }

    /// Waits so long after each 64 KiB, for a transfer that a person can watch.
    pub fn pause(&self, pause: Duration) {
        self.shared.state().pause = pause;
    }

    /// The answered requests, in their order.
    #[must_use]
    pub fn transfers(&self) -> Vec<Transfer> {
        self.shared.state().transfers.clone()
    }

    /// Waits until a transfer has come to this offset.
    pub async fn reached(&self, offset: u64) {
        // The sender lives in `self`: the channel cannot be closed.
        let _ = self.shared.furthest.subscribe().wait_for(|furthest| *furthest >= offset).await;
    }
}

impl Drop for ImageServer {
    fn drop(&mut self) {
        // The task owns the connections' tasks, which end with it.
        self.task.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blocks(&self) -> impl Iterator<Item = Vec<u8>> {
        (0..self.bytes.div_ceil(BLOCK_BYTES)).map(|index| {
            let mut block = block(index);
            block.truncate(self.length_of(index));
            block
        })
    }

    /// How much of a block belongs to the image.
    fn length_of(&self, index: u64) -> usize {
        usize::try_from((self.bytes - index * BLOCK_BYTES).min(BLOCK_BYTES)).expect("a block is in memory")
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let head = timeout(HEAD_LIMIT, read_head(&mut stream)).await??;
        let total = self.bytes;
        let from = range_start(&head).filter(|from| *from < total);
        let status = match from {
            Some(from) => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}", total - 1),
            None => "200 OK".into(),
        };
        let from = from.unwrap_or(0);
        let length = total - from;
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: {TAG}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let number = {
            let mut state = self.state();
            // A client that never stops asking costs no memory.
            if state.transfers.len() >= TRANSFERS_LIMIT {
                return Ok(());
            }
            state.transfers.push(Transfer { from, sent: 0 });
            state.transfers.len() - 1
        };
        self.send(&mut stream, number, from).await?;
        stream.shutdown().await
    }

    /// Sends from here on, up to the end or the first cut.
    async fn send(&self, stream: &mut TcpStream, number: usize, from: u64) -> io::Result<()> {
        let mut at = from;
        while at < self.bytes {
            let index = at / BLOCK_BYTES;
            let begin = usize::try_from(at % BLOCK_BYTES).expect("a block is in memory");
            let block = &block(index)[begin..self.length_of(index)];
            let cut = self.state().cuts.range(at..at + block.len() as u64).next().copied();
            let block = match cut {
                Some(cut) => &block[..usize::try_from(cut - at).expect("it is within the block")],
                None => block,
            };
            stream.write_all(block).await?;
            at += block.len() as u64;
            self.state().transfers[number].sent += block.len() as u64;
            self.furthest.send_if_modified(|furthest| {
                let further = at > *furthest;
                *furthest = at.max(*furthest);
                further
            });
            if let Some(cut) = cut {
                self.state().cuts.remove(&cut);
                return Ok(());
            }
            let pause = self.state().pause;
            sleep(pause).await;
        }
        Ok(())
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) if connections.len() < CONNECTIONS_LIMIT => {
                let shared = shared.clone();
                connections.spawn(async move {
                    // A client that goes away is what is tested.
                    let _ = shared.serve(stream).await;
                });
            }
            Ok(_) => {}
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_LIMIT_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(stream.read_u8().await?);
    }
    String::from_utf8(head).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// A digest as the platform names it.
pub(crate) fn verifier(digest: Sha256) -> String {
    digest.finalize().iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The first byte that `Range: bytes=N-` asks for, if `If-Range` means this image.
fn range_start(head: &str) -> Option<u64> {
    let value = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let is_this = value("if-range").is_none_or(|tag| tag == TAG);
    value("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok().filter(|_| is_this)
}

/// What stands in a block: other bytes in each, so that a rest put in the wrong place is another image.
fn block(index: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(BLOCK_BYTES).expect("a block is in memory")];
    Rng::with_seed(index).fill(&mut bytes);
    bytes
}

/// The image's name. A strong tag: each start of a server has the same bytes.
const TAG: &str = "\"image-1\"";

/// Bytes that are made and sent at a time.
const BLOCK_BYTES: u64 = 64 * 1024;

/// How long a client may take for its request.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// Longest request head in bytes.
const HEAD_LIMIT_BYTES: usize = 8_192;

/// Transfers at once: one device, and what is left of its last life.
const CONNECTIONS_LIMIT: usize = 8;

/// Transfers in the life of a server.
const TRANSFERS_LIMIT: usize = 4_096;

/// Pause after a failed accept, which is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(server: &ImageServer, headers: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(format!("GET /image HTTP/1.1\r\n{headers}\r\n").as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        let mut body = Vec::new();
        stream.read_to_end(&mut body).await.unwrap();
        (head, body)
    }

    #[tokio::test]
    async fn a_transfer_breaks_once_at_its_cut_and_the_next_goes_on_there() {
        let server = ImageServer::start(200_000).await.unwrap();
        server.cut_at(70_000);
        let (head, mut image) = get(&server, "").await;
        assert!(head.contains("Content-Length: 200000\r\n"), "{head}");
        assert_eq!(image.len(), 70_000);
        let (head, rest) = get(&server, "Range: bytes=70000-\r\nIf-Range: \"image-1\"\r\n").await;
        assert!(head.contains("Content-Range: bytes 70000-199999/200000"), "{head}");
        image.extend(rest);
        let digest: String = Sha256::digest(&image).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(server.sha256(), format!("sha256:{digest}"));
        let transfers = [Transfer { from: 0, sent: 70_000 }, Transfer { from: 70_000, sent: 130_000 }];
        assert_eq!(server.transfers(), transfers);
        server.reached(200_000).await;
    }

    #[tokio::test]
    async fn a_range_of_another_image_is_answered_with_the_whole_one() {
        let server = ImageServer::start(10).await.unwrap();
        let (head, image) = get(&server, "Range: bytes=5-\r\nIf-Range: \"other\"\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert_eq!(image.len(), 10);
    }
}
