use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::frame::Frame;

/// A proxy on loopback that keeps a copy of all that passes, cut into packets.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    frames: Arc<Mutex<Vec<Frame>>>,
    task: JoinHandle<()>,
}

impl Tap {
    /// Stands before `upstream`, on a free port.
    ///
    /// # Panics
    /// Loopback cannot be used.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let frames = Arc::default();
        let task = tokio::spawn(accept(listener, upstream, Arc::clone(&frames)));
        Self { address, frames, task }
    }

    /// Where clients connect.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What has passed.
    ///
    /// # Panics
    /// Never: nothing panics while it holds the lock.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().expect("nothing panics while it holds the frames").clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, frames: Arc<Mutex<Vec<Frame>>>) {
    let began = Instant::now();
    let mut connection = 0;
    while let Ok((client, _)) = listener.accept().await {
        connection += 1;
        let Ok(server) = TcpStream::connect(upstream).await else { continue };
        let quick = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
        quick.expect("both sockets are open");
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        for (from, to, upward) in [(from_client, to_server, true), (from_server, to_client, false)] {
            let frames = Arc::clone(&frames);
            tokio::spawn(pump(from, to, move |bytes| {
                let at: Duration = began.elapsed();
                let frame = Frame { connection, upward, at, bytes };
                frames.lock().expect("nothing panics while it holds the frames").push(frame);
            }));
        }
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, record: impl Fn(Vec<u8>)) {
    let (mut waiting, mut piece) = (Vec::new(), vec![0; 4096]);
    while let Ok(read) = from.read(&mut piece).await
        && read > 0
    {
        waiting.extend(&piece[..read]);
        while let Some(length) = Frame::length_of(&waiting) {
            record(waiting.drain(..length).collect());
        }
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
    // The other side may have gone first.
    let _ = to.shutdown().await;
}
