//! Somebody stands between the device and its broker or its firmware server.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use iotdm_agent::config::Tls;
use iotdm_agent::link::{Link, LinkEvent, MqttLink};
use iotdm_agent::testing::config;
use iotdm_agent::{Config, Secret};
use iotdm_handlers::diagnostics::{HttpUploader, Put, UploadError, Uploader};
use iotdm_handlers::firmware::{FetchError, FetchRequest, Fetcher, HttpFetcher, Piece};
use iotdm_handlers::http::HttpClient;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio_util::sync::CancellationToken;

const AUTHORITY: &str = include_str!("certificates/authority.pem");
const LOCALHOST: &str = include_str!("certificates/localhost.pem");
const ELSEWHERE: &str = include_str!("certificates/elsewhere.pem");
const EXPIRED: &str = include_str!("certificates/expired.pem");
const KEY: &str = include_str!("certificates/server.key");

/// What a test never has to wait for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The token of every device here.
const TOKEN: &str = "s3cr3t-t0k3n";

fn server(certificate: &str) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("it is PEM")];
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).expect("it is PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has both versions");
    Arc::new(
        builder.with_no_client_auth().with_single_cert(chain, key).expect("the key is the certificate's"),
    )
}

/// Serves one connection: what was read of it after the handshake, and `answer` in return. Gives out the port.
fn serve(config: Arc<ServerConfig>, answer: Vec<u8>) -> (u16, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let (sender, heard) = mpsc::channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the client connects");
        let mut stream =
            StreamOwned::new(ServerConnection::new(config).expect("the configuration is whole"), stream);
        let mut bytes = vec![0; 4096];
        // A client that does not trust us sends an alert, which is an error here.
        let count = stream.read(&mut bytes).unwrap_or(0);
        bytes.truncate(count);
        let _ = sender.send(bytes);
        if count > 0 {
            let _ = stream.write_all(&answer).and_then(|()| stream.flush());
            let _ = stream.read(&mut [0]);
        }
    });
    (port, heard)
}

fn device(port: u16, ca: &str) -> Config {
    let mut config = config();
    config.broker.host = "localhost".into();
    config.broker.port = port;
    config.broker.tls = Some(Tls { ca_pem: Some(ca.as_bytes().to_vec()), ..Tls::default() });
    config.token = Some(Secret::new(TOKEN));
    config
}

async fn first_event(config: &Config) -> LinkEvent {
    let mut connection = MqttLink::new(config).expect("the authority is a certificate").open();
    tokio::time::timeout(PATIENCE, connection.next()).await.expect("something happens")
}

/// CONNACK without a session.
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

#[tokio::test]
async fn a_broker_with_the_right_certificate_gets_the_token_through_tls() {
    let (port, heard) = serve(server(LOCALHOST), CONNACK.into());
    let event = first_event(&device(port, AUTHORITY)).await;
    assert!(matches!(event, LinkEvent::Connected { session_present: false }), "{event:?}");
    let connect = heard.recv_timeout(PATIENCE).unwrap();
    assert!(String::from_utf8_lossy(&connect).contains(TOKEN));
}

#[tokio::test]
async fn a_broker_that_cannot_prove_its_name_never_sees_the_token() {
    // Another name, a certificate that has expired, and an authority that this device does not trust.
    for (certificate, ca) in [(ELSEWHERE, AUTHORITY), (EXPIRED, AUTHORITY), (LOCALHOST, ELSEWHERE)] {
        let (port, heard) = serve(server(certificate), CONNACK.into());
        let event = first_event(&device(port, ca)).await;
        let LinkEvent::Lost(_, reason) = event else { panic!("{event:?}") };
        assert!(!reason.contains(TOKEN), "{reason}");
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), b"");
    }
}

/// The first bytes that a client sends to whoever listens, and then the answer to them.
fn hello(answer: &'static [u8], client: impl FnOnce(u16)) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the client connects");
        let mut header = [0; 5];
        stream.read_exact(&mut header).expect("a ClientHello comes");
        let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        stream.read_exact(&mut hello).expect("a ClientHello comes");
        let _ = stream.write_all(answer);
        // Until the client has gone.
        let _ = stream.read(&mut [0; 64]);
        hello
    });
    client(port);
    server.join().expect("the server does not panic")
}

/// The versions that a ClientHello offers (RFC 8446 §4.2.1), and the name in it.
fn offer(hello: &[u8]) -> (Vec<u16>, bool) {
    let at = hello.windows(2).position(|bytes| bytes == [0, 0x2b]).expect("there is supported_versions");
    let count = usize::from(hello[at + 4]);
    let versions = hello[at + 5..at + 5 + count].chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    (versions.collect(), hello.windows(9).any(|bytes| bytes == b"localhost"))
}

/// ServerHello with TLS 1.1 and a cipher of its time, as a man in the middle would like it.
const OLD_SERVER_HELLO: &[u8] = &{
    let mut record = [0x5a; 5 + 4 + 38];
    let head = [0x16, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    let mut at = 0;
    while at < head.len() {
        record[at] = head[at];
        at += 1;
    }
    let tail = [0, 0xc0, 0x13, 0];
    let mut at = 0;
    while at < tail.len() {
        record[5 + 4 + 34 + at] = tail[at];
        at += 1;
    }
    record
};

#[test]
fn broker_and_firmware_server_are_offered_tls_1_2_and_1_3_and_their_name_and_nothing_older_is_taken() {
    let to_broker = hello(OLD_SERVER_HELLO, |port| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let event = runtime.block_on(first_event(&device(port, AUTHORITY)));
        assert!(matches!(event, LinkEvent::Lost(..)), "{event:?}");
    });
    let to_server = hello(OLD_SERVER_HELLO, |port| {
        let result = fetch(&format!("https://localhost:{port}/"));
        assert!(matches!(result, Err(FetchError::Transport(_))), "{result:?}");
    });
    for hello in [to_broker, to_server] {
        let (mut versions, named) = offer(&hello);
        versions.sort_unstable();
        assert_eq!((versions, named), (vec![0x0303, 0x0304], true));
    }
}

fn trusting(ca: &str) -> HttpClient {
    HttpClient::new().with_ca_pem(ca.as_bytes()).expect("it is a certificate")
}

fn fetch(uri: &str) -> Result<Vec<u8>, FetchError> {
    let fetcher = HttpFetcher::with_client(trusting(AUTHORITY));
    let cancellation = CancellationToken::new();
    let request = FetchRequest { uri, resume: None, stall_limit: PATIENCE, cancellation: &cancellation };
    let mut image = Vec::new();
    let result = fetcher.fetch(&request, &mut |piece| {
        if let Piece::Bytes(bytes) = piece {
            image.extend(bytes);
        }
        ControlFlow::Continue(())
    });
    result.map(|()| image)
}

#[test]
fn an_image_comes_from_a_server_that_proves_its_name_and_from_no_other() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage";
    let (port, _heard) = serve(server(LOCALHOST), answer.to_vec());
    assert_eq!(fetch(&format!("https://localhost:{port}/")), Ok(b"image".to_vec()));
    for certificate in [ELSEWHERE, EXPIRED] {
        let (port, heard) = serve(server(certificate), answer.to_vec());
        let result = fetch(&format!("https://localhost:{port}/?sig=secret"));
        assert!(matches!(result, Err(FetchError::Transport(_))), "{result:?}");
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), b"");
    }
}

/// And neither the password nor the signature of the address is in what is said about it.
#[test]
fn a_redirect_from_https_to_http_is_not_followed_and_its_address_is_not_told() {
    let plain = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let target = format!("http://me:pass@{}/image?sig=secret", plain.local_addr().expect("it is bound"));
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n");
    let (port, _heard) = serve(server(LOCALHOST), answer.into());
    let result = fetch(&format!("https://localhost:{port}/"));
    assert_eq!(result, Err(FetchError::Unusable("it leads from https to http".into())));
    plain.set_nonblocking(true).unwrap();
    assert!(plain.accept().is_err(), "nobody came");
}

#[test]
fn a_redirect_to_a_file_is_not_followed() {
    for target in ["file:///etc/passwd", "ftp://localhost/x", "javascript:x"] {
        let answer = format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n");
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        thread::spawn(move || {
            let (mut stream, _): (TcpStream, _) = listener.accept().expect("the client connects");
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer.as_bytes());
            let _ = stream.read(&mut [0]);
        });
        let result = fetch(&format!("http://localhost:{port}/"));
        assert!(result.is_err(), "{target}: {result:?}");
    }
}

/// Puts a log there, for an authority.
fn upload(port: u16, ca: &str) -> Result<(), UploadError> {
    let url = format!("https://localhost:{port}/log?sig={TOKEN}");
    let uploader = HttpUploader::with_client(trusting(ca));
    let (body, cancellation) = (Arc::from(&b"packed"[..]), CancellationToken::new());
    uploader.put(&Put { url: &url, body: &body, time_limit: PATIENCE, cancellation: &cancellation })
}

#[test]
fn a_log_server_with_the_right_certificate_gets_the_log_through_tls() {
    let (port, heard) = serve(server(LOCALHOST), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into());
    assert_eq!(upload(port, AUTHORITY), Ok(()));
    assert!(heard.recv_timeout(PATIENCE).unwrap().starts_with(b"PUT /log?sig="));
}

#[test]
fn a_log_server_that_cannot_prove_its_name_sees_neither_the_log_nor_the_address() {
    for (certificate, ca) in [(ELSEWHERE, AUTHORITY), (EXPIRED, AUTHORITY), (LOCALHOST, ELSEWHERE)] {
        let (port, heard) = serve(server(certificate), Vec::new());
        let error = upload(port, ca).unwrap_err();
        assert!(!error.to_string().contains(TOKEN), "{error}");
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), b"");
    }
}
