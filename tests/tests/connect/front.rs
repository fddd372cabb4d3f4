//! What stands before a broker: an end of TLS and of WebSocket, a proxy, and a device that connects to them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_tungstenite::tokio::accept_hdr_async;
use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use async_tungstenite::tungstenite::http::HeaderValue;
use futures_util::StreamExt;
use iotdm_agent::Config;
use iotdm_agent::config::Tls;
use iotdm_agent::link::{Connection, Link, LinkEvent, MqttLink};
use iotdm_agent::testing::config;
use iotdm_platform::broker::{Broker, BrokerOptions, Mount};
use iotdm_tests::within;
use rumqttc::tokio_rustls::TlsAcceptor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tracing::subscriber::DefaultGuard;

pub(crate) const CA: &str = include_str!("certificates/ca.pem");
pub(crate) const LOCALHOST: [&str; 2] =
    [include_str!("certificates/localhost.pem"), include_str!("certificates/localhost.key")];
pub(crate) const WILDCARD: [&str; 2] =
    [include_str!("certificates/wildcard.pem"), include_str!("certificates/wildcard.key")];
pub(crate) const DEVICE: [&str; 2] =
    [include_str!("certificates/device-17.pem"), include_str!("certificates/device-17.key")];
pub(crate) const RENEWED: [&str; 2] =
    [include_str!("certificates/renewed.pem"), include_str!("certificates/renewed.key")];

/// What a front speaks.
#[derive(Clone, Default)]
pub(crate) struct Speech {
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) websocket: Option<WebSocket>,
}

/// How a WebSocket server behaves.
#[derive(Clone, Copy)]
pub(crate) struct WebSocket {
    /// How many bytes a message to the device has at the most.
    pub(crate) piece: usize,
    /// Whether it answers with the sub-protocol.
    pub(crate) names_protocol: bool,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self { piece: 64 * 1024, names_protocol: true }
    }
}

/// What a front has seen of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    /// The name in the ClientHello (SNI).
    pub(crate) server_name: Option<String>,
    /// The device's certificate, DER.
    pub(crate) certificate: Option<Vec<u8>>,
    /// The path of the WebSocket.
    pub(crate) path: String,
    /// `Host`, and the sub-protocol that is asked for.
    pub(crate) host_and_protocol: [String; 2],
    /// What the device sent first: CONNECT.
    pub(crate) first: Vec<u8>,
    /// Whether everything came in binary messages.
    pub(crate) other_messages: usize,
}

/// The broker, and a port before it.
pub(crate) struct Front {
    pub(crate) broker: Broker,
    pub(crate) address: SocketAddr,
    sights: Arc<Mutex<Vec<Sight>>>,
    task: JoinHandle<()>,
}

impl Front {
    pub(crate) async fn start(speech: Speech) -> Self {
        let options = BrokerOptions { mount: Mount::Off, ..BrokerOptions::default() };
        let broker = Broker::start(options).await.expect("loopback has a free port");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let sights = Arc::<Mutex<Vec<Sight>>>::default();
        let (upstream, seen) = (broker.local_addr(), Arc::clone(&sights));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("it is a TCP socket");
                tokio::spawn(serve(stream, speech.clone(), upstream, Arc::clone(&seen)));
            }
        });
        Self { broker, address, sights, task }
    }

    /// What was seen of each connection that came as far as its first bytes of MQTT.
    pub(crate) fn sights(&self) -> Vec<Sight> {
        self.sights.lock().expect("no holder of the lock panics").clone()
    }

    /// A device before this front, which believes [`CA`] where there is TLS.
    pub(crate) fn device(&self, with_tls: bool) -> Config {
        let mut config = config();
        config.broker.host = "localhost".into();
        config.broker.port = self.address.port();
        config.broker.tls = with_tls.then(trusting);
        config
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// TLS that believes the authority of these tests, from a file with another one before it.
pub(crate) fn trusting() -> Tls {
    let chain = format!("{}{CA}", include_str!("../security/certificates/authority.pem"));
    Tls { ca_pem: Some(chain.into_bytes()), ..Tls::default() }
}

async fn serve(
    stream: TcpStream,
    speech: Speech,
    upstream: SocketAddr,
    sights: Arc<Mutex<Vec<Sight>>>,
) -> Option<()> {
    let mut sight = Sight::default();
    let Some(tls) = speech.tls else { return speak(stream, speech.websocket, upstream, sight, sights).await };
    let stream = TlsAcceptor::from(tls).accept(stream).await.ok()?;
    let session = stream.get_ref().1;
    sight.server_name = session.server_name().map(Into::into);
    sight.certificate = session.peer_certificates().map(|chain| chain[0].to_vec());
    speak(stream, speech.websocket, upstream, sight, sights).await
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    websocket: Option<WebSocket>,
    upstream: SocketAddr,
    mut sight: Sight,
    sights: Arc<Mutex<Vec<Sight>>>,
) -> Option<()> {
    let mut broker = TcpStream::connect(upstream).await.ok()?;
    broker.set_nodelay(true).ok()?;
    let Some(WebSocket { piece, names_protocol }) = websocket else {
        let mut first = vec![0; 1024];
        let count = stream.read(&mut first).await.ok()?;
        first.truncate(count);
        broker.write_all(&first).await.ok()?;
        sights.lock().expect("no holder of the lock panics").push(Sight { first, ..sight });
        return copy_bidirectional(&mut stream, &mut broker).await.ok().map(|_| ());
    };
    #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
    let headers = |request: &Request, mut response: Response| {
        let header = |name| String::from_utf8_lossy(request.headers()[name].as_bytes()).into_owned();
        sight.path = request.uri().path().into();
        sight.host_and_protocol = ["Host", "Sec-WebSocket-Protocol"].map(header);
        if names_protocol {
            response.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
        }
        Ok(response)
    };
    let mut websocket = accept_hdr_async(stream, headers).await.ok()?;
    let place = {
        let mut sights = sights.lock().expect("no holder of the lock panics");
        sights.push(sight);
        sights.len() - 1
    };
    let mut buffer = vec![0; piece];
    loop {
        tokio::select! {
            message = websocket.next() => match message?.ok()? {
                Message::Binary(bytes) => {
                    broker.write_all(&bytes).await.ok()?;
                    let sight = &mut sights.lock().expect("no holder of the lock panics")[place];
                    if sight.first.is_empty() {
                        sight.first = bytes.to_vec();
                    }
                }
                _ => sights.lock().expect("no holder of the lock panics")[place].other_messages += 1,
            },
            count = broker.read(&mut buffer) => match count.ok()? {
                0 => return websocket.close(None).await.ok(),
                count => websocket.send(Message::binary(buffer[..count].to_vec())).await.ok()?,
            },
        }
    }
}

/// Accepts a WebSocket for MQTT.
#[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
pub(crate) fn with_protocol(_: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    response.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    Ok(response)
}

/// A server with this certificate, which asks devices for theirs and insists on none.
pub(crate) fn server([chain, key]: [&str; 2]) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(CA.as_bytes()).expect("the fixtures are PEM"))
        .expect("the authority is a certificate");
    let devices = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .expect("there are roots");
    let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).expect("the fixtures are PEM")];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("the fixtures are PEM");
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has both versions");
    Arc::new(
        builder
            .with_client_cert_verifier(devices)
            .with_single_cert(chain, key)
            .expect("the key is the certificate's"),
    )
}

/// A certificate as it travels.
pub(crate) fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("the fixtures are PEM").to_vec()
}

/// What a connection begins with.
pub(crate) async fn first_event(link: &mut MqttLink) -> (Box<dyn Connection>, LinkEvent) {
    let mut connection = link.open();
    let event = within("event of the link", connection.next()).await;
    (connection, event)
}

/// Connects, or says why not.
pub(crate) async fn connect(config: &Config) -> Result<Box<dyn Connection>, String> {
    let mut link = MqttLink::new(config).map_err(|error| error.to_string())?;
    match first_event(&mut link).await {
        (connection, LinkEvent::Connected { .. }) => Ok(connection),
        (_, LinkEvent::Lost(_, reason)) => Err(reason),
        (_, event) => panic!("{event:?}"),
    }
}

/// An HTTP proxy that knows one way, whichever name it is asked for.
pub(crate) struct HttpProxy {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl HttpProxy {
    /// `answer` is the status line for a request with this head.
    pub(crate) async fn start(
        target: SocketAddr,
        answer: impl Fn(&str) -> &'static str + Clone + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(forward(stream, target, answer.clone(), Arc::clone(&seen)));
            }
        });
        Self { address, heads, task }
    }

    /// The heads of the requests, in order.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no holder of the lock panics").clone()
    }

    /// As a device is told of it.
    pub(crate) fn setting(&self) -> iotdm_agent::config::Proxy {
        let (host, port) = (self.address.ip().to_string(), self.address.port());
        iotdm_agent::config::Proxy { host, port, credentials: None }
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    mut stream: TcpStream,
    target: SocketAddr,
    answer: impl Fn(&str) -> &'static str,
    heads: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).expect("a head is text");
    let status = answer(&head);
    heads.lock().expect("no holder of the lock panics").push(head);
    stream.write_all(format!("HTTP/1.1 {status}\r\nVia: test\r\n\r\n").as_bytes()).await.ok()?;
    if !status.starts_with("200") {
        return None;
    }
    let mut upstream = TcpStream::connect(target).await.ok()?;
    copy_bidirectional(&mut stream, &mut upstream).await.ok().map(|_| ())
}

/// The log of this thread.
pub(crate) fn log() -> (Arc<Mutex<Vec<u8>>>, DefaultGuard) {
    let log = Arc::<Mutex<Vec<u8>>>::default();
    let writer = Arc::clone(&log);
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || Writer(Arc::clone(&writer))).finish();
    (log, tracing::subscriber::set_default(subscriber))
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no holder of the lock panics").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn lines(log: &Mutex<Vec<u8>>, text: &str) -> usize {
    String::from_utf8_lossy(&log.lock().expect("no holder of the lock panics"))
        .lines()
        .filter(|line| line.contains(text))
        .count()
}
