//! A small HTTP server on loopback with one firmware image, whose first transfer breaks in the middle.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(super) struct ImageServer {
    address: SocketAddr,
    image: Arc<Image>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Image {
    bytes: Bytes,
    transfers: Mutex<Vec<Transfer>>,
}

/// One answered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    /// The offset of its first byte.
    pub(super) from: usize,
    /// How many bytes were handed to the socket.
    pub(super) sent: usize,
}

impl ImageServer {
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut bytes = vec![0; IMAGE_BYTES];
        fastrand::fill(&mut bytes);
        let image = Arc::new(Image { bytes: bytes.into(), transfers: Mutex::default() });
        let task = tokio::spawn(accept(listener, image.clone()));
        Ok(Self { address, image, task })
    }

    pub(super) fn uri(&self) -> String {
        format!("http://{}/lamp-2.0.0.img", self.address)
    }

    pub(super) fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.image.bytes))
    }

    pub(super) fn transfers(&self) -> Vec<Transfer> {
        self.image.transfers().clone()
    }
}

impl Drop for ImageServer {
    fn drop(&mut self) {
        // The task owns the connections' tasks, which end with it.
        self.task.abort();
    }
}

impl Image {
    fn transfers(&self) -> MutexGuard<'_, Vec<Transfer>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let head = timeout(HEAD_LIMIT, read_head(&mut stream)).await??;
        if !head.starts_with("GET ") {
            return stream.write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n").await;
        }
        let total = self.bytes.len();
        let from = range_start(&head).filter(|from| *from < total);
        let status = match from {
            Some(from) => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}", total - 1),
            None => "200 OK".into(),
        };
        let from = from.unwrap_or(0);
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"lamp-2.0.0\"\r\nConnection: close\r\n\r\n",
            total - from
        );
        stream.write_all(head.as_bytes()).await?;
        let number = {
            let mut transfers = self.transfers();
            // A client that never stops asking costs no memory.
            if transfers.len() >= TRANSFERS_LIMIT {
                return Ok(());
            }
            transfers.push(Transfer { from, sent: 0 });
            transfers.len() - 1
        };
        let end = if number == 0 { CUT_AFTER_BYTES } else { total };
        for piece in self.bytes[from..end.max(from)].chunks(PIECE_BYTES) {
            stream.write_all(piece).await?;
            self.transfers()[number].sent += piece.len();
            sleep(PIECE_PAUSE).await;
        }
        // Closing before the announced end is the broken connection.
        stream.shutdown().await
    }
}

async fn accept(listener: TcpListener, image: Arc<Image>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) if connections.len() < CONNECTIONS_LIMIT => {
                let image = image.clone();
                connections.spawn(async move {
                    // A client that goes away is its own affair.
                    let _ = image.serve(stream).await;
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

/// The first byte of `Range: bytes=N-`, the only form a resumed download uses.
fn range_start(head: &str) -> Option<usize> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("range:"))?;
    line.split_once("bytes=")?.1.trim().strip_suffix('-')?.parse().ok()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Size of the image: large enough for a progress bar that a person sees.
pub(super) const IMAGE_BYTES: usize = 5_000_000;

/// Where the first transfer breaks: after more than a third.
pub(super) const CUT_AFTER_BYTES: usize = 2_000_000;

/// Bytes sent in one go: a hundredth of the image.
const PIECE_BYTES: usize = 50_000;

/// Pause after each piece: two seconds for the image.
const PIECE_PAUSE: Duration = Duration::from_millis(20);

/// How long a client may take for its request.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// Longest request head in bytes.
const HEAD_LIMIT_BYTES: usize = 8_192;

/// Transfers at once: one device, and somebody with a browser.
const CONNECTIONS_LIMIT: usize = 8;

/// Transfers in the life of a sandbox.
const TRANSFERS_LIMIT: usize = 1_024;

/// Pause after a failed accept, which is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_from_its_header() {
        assert_eq!(range_start("GET / HTTP/1.1\r\nrange: bytes=17-\r\n\r\n"), Some(17));
        assert_eq!(range_start("GET / HTTP/1.1\r\nRange: bytes=1-2\r\n\r\n"), None);
        assert_eq!(range_start("GET / HTTP/1.1\r\n\r\n"), None);
    }

    async fn get(server: &ImageServer, range: &str) -> (String, usize) {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(format!("GET /x HTTP/1.1\r\n{range}\r\n").as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        let mut body = Vec::new();
        stream.read_to_end(&mut body).await.unwrap();
        (head, body.len())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_transfer_breaks_and_the_next_goes_on_behind_it() {
        let server = ImageServer::start().await.unwrap();
        assert_eq!(get(&server, "").await.1, CUT_AFTER_BYTES);
        let (head, rest) = get(&server, "Range: bytes=2000000-\r\n").await;
        assert!(head.contains("Content-Range: bytes 2000000-4999999/5000000"), "{head}");
        assert_eq!(rest, IMAGE_BYTES - CUT_AFTER_BYTES);
        assert_eq!(server.transfers()[1], Transfer { from: CUT_AFTER_BYTES, sent: rest });
    }
}
