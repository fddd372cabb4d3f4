use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Serves one image by HTTP, each time only when it is let.
#[derive(Debug)]
pub(super) struct ImageServer {
    address: SocketAddr,
    downloads: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl ImageServer {
    pub(super) async fn start() -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port of 127.0.0.1 is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let downloads = Arc::new(Semaphore::new(0));
        let task = tokio::spawn(serve(listener, downloads.clone()));
        Self { address, downloads, task }
    }

    pub(super) fn uri(&self) -> String {
        format!("http://{}/image", self.address)
    }

    pub(super) fn verifier(&self) -> String {
        format!("sha256:{:x}", Sha256::digest(IMAGE))
    }

    /// Lets one download go on.
    pub(super) fn let_download(&self) {
        self.downloads.add_permits(1);
    }
}

impl Drop for ImageServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, downloads: Arc<Semaphore>) {
    while let Ok((stream, _)) = listener.accept().await {
        // A client that goes away asks again.
        let _ = send(stream, &downloads).await;
    }
}

async fn send(mut stream: TcpStream, downloads: &Semaphore) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    downloads.acquire().await.expect("nobody closes the semaphore").forget();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", IMAGE.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(IMAGE).await?;
    stream.shutdown().await
}

/// The image.
const IMAGE: &[u8] = b"a firmware for lamps, version 2.0.0";
