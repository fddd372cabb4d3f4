//! What stands in a broker's place and is none, or a bad one.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use iotdm_agent::engine::Lost;
use iotdm_agent::link::{Connection, Link, LinkEvent, MqttLink};
use iotdm_agent::testing::{TestSystem, config};
use iotdm_agent::{Agent, Config};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// CONNACK: accepted, no session.
pub(crate) const CONNACK: &[u8] = &[0x20, 2, 0, 0];

/// SUBACK of the first SUBSCRIBE of a connection, for one filter: QoS 1.
pub(crate) const SUBACK: &[u8] = &[0x90, 3, 0, 1, 1];

/// Somebody on a port of loopback who treats each connection in the same way.
pub(crate) struct Stranger {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Stranger {
    /// What is done to a connection; it is held open until that returns.
    pub(crate) async fn who<F>(does: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::at(Ipv4Addr::LOCALHOST.into(), does).await
    }

    pub(crate) async fn at<F>(place: IpAddr, does: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((place, 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("the socket is open");
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(does(stream));
            }
        });
        Self { address, connections, task }
    }

    /// Says this after CONNECT, and waits for the other to leave.
    pub(crate) async fn who_says(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::who(move |stream| say(stream, bytes.clone())).await
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// What becomes of one connection to it, up to its end.
    pub(crate) async fn meets(&self, config: &Config) -> Meeting {
        Meeting::of(MqttLink::new(config).expect("the configuration is whole").open()).await
    }

    /// The same, of a plain link.
    pub(crate) async fn met(&self) -> Meeting {
        self.meets(&self.config()).await
    }

    pub(crate) fn config(&self) -> Config {
        at(self.address)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a connection went.
#[derive(Debug, Default)]
pub(crate) struct Meeting {
    pub(crate) connected: bool,
    pub(crate) lost: Option<Lost>,
    /// What the log says.
    pub(crate) said: String,
}

impl Meeting {
    /// What becomes of a connection that subscribes and does nothing else.
    pub(crate) async fn of(mut connection: Box<dyn Connection>) -> Self {
        let mut connected = false;
        loop {
            match connection.next().await {
                LinkEvent::Connected { .. } => {
                    connected = true;
                    connection.subscribe(&["iotdm-1/#".to_owned()]);
                }
                LinkEvent::Lost(lost, said) => return Self { connected, lost: Some(lost), said },
                _ => {}
            }
        }
    }
}

/// The usual device, whose broker is there.
pub(crate) fn at(address: SocketAddr) -> Config {
    let mut config = config();
    config.broker.host = address.ip().to_string();
    config.broker.port = address.port();
    config
}

/// Writes this once something was read, and waits for the end.
pub(crate) async fn say(mut stream: TcpStream, bytes: Vec<u8>) {
    let mut piece = [0; 1024];
    let _ = stream.read(&mut piece).await;
    let _ = stream.write_all(&bytes).await;
    wait(stream).await;
}

/// Reads until the other has left.
pub(crate) async fn wait(mut stream: TcpStream) {
    let mut piece = [0; 1024];
    while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
}

/// A whole agent on a journal of its own, for as long as this lives.
pub(crate) struct Lonely {
    task: JoinHandle<()>,
    _folder: TempDir,
}

impl Lonely {
    pub(crate) fn agent(config: Config, seed: u64) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let agent = Agent::builder(config)
            .journal(folder.path().join("journal"))
            .system(Arc::new(TestSystem::new()))
            .seed(seed)
            .build()
            .expect("the agent can be built");
        let task = tokio::spawn(async move {
            agent.run_until(std::future::pending()).await.expect("the agent runs");
        });
        Self { task, _folder: folder }
    }

    pub(crate) fn runs(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Lonely {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How often a whole agent connects to it in the second hour.
pub(crate) async fn attempts_an_hour(stranger: &Stranger) -> usize {
    let agent = Lonely::agent(stranger.config(), 7);
    sleep(HOUR).await;
    let before = stranger.connections();
    assert!(before > 0, "it connects");
    sleep(HOUR).await;
    assert!(agent.runs());
    stranger.connections() - before
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
