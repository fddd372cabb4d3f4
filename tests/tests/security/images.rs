//! A server of images that asks who fetches, and one that leads astray.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use iotdm_handlers::firmware::{FetchError, FetchRequest, Fetcher, HttpFetcher, Piece};
use iotdm_handlers::http::{HttpClient, HttpClientError};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tokio_util::sync::CancellationToken;

const AUTHORITY: &str = include_str!("certificates/authority.pem");
const LOCALHOST: &str = include_str!("certificates/localhost.pem");
const KEY: &str = include_str!("certificates/server.key");
const DEVICES: &str = include_str!("certificates/devices.pem");
const DEVICE: &str = include_str!("certificates/device.pem");
const DEVICE_KEY: &str = include_str!("certificates/device.key");

/// What a test never has to wait for.
const PATIENCE: Duration = Duration::from_secs(60);

const IMAGE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage";

/// A server that takes only devices of [`DEVICES`].
fn server() -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut devices = RootCertStore::empty();
    devices
        .add(CertificateDer::from_pem_slice(DEVICES.as_bytes()).expect("it is PEM"))
        .expect("an authority");
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(devices), provider.clone());
    let chain = vec![CertificateDer::from_pem_slice(LOCALHOST.as_bytes()).expect("it is PEM")];
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).expect("it is PEM");
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("ring has both versions");
    let builder = builder.with_client_cert_verifier(clients.build().expect("an authority is enough"));
    Arc::new(builder.with_single_cert(chain, key).expect("the key is the certificate's"))
}

/// Serves one connection; gives out the port and the certificate that was shown.
fn serve(answer: Vec<u8>) -> (u16, mpsc::Receiver<Option<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let (sender, shown) = mpsc::channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the client connects");
        let connection = ServerConnection::new(server()).expect("the configuration is whole");
        let mut stream = StreamOwned::new(connection, stream);
        let served = stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0);
        let certificate = stream.conn.peer_certificates().map(|chain| chain[0].to_vec());
        let _ = sender.send(certificate.filter(|_| served));
        let _ = stream.write_all(&answer).and_then(|()| stream.flush());
        let _ = stream.read(&mut [0]);
    });
    (port, shown)
}

fn stranger() -> HttpClient {
    HttpClient::new().with_ca_pem(AUTHORITY.as_bytes()).expect("it is a certificate")
}

fn device() -> HttpClient {
    stranger().with_client_pem(DEVICE.as_bytes(), DEVICE_KEY.as_bytes()).expect("they are a pair")
}

fn fetch(client: HttpClient, uri: &str) -> Result<Vec<u8>, FetchError> {
    let cancellation = CancellationToken::new();
    let request = FetchRequest { uri, resume: None, stall_limit: PATIENCE, cancellation: &cancellation };
    let mut image = Vec::new();
    let result = HttpFetcher::with_client(client).fetch(&request, &mut |piece| {
        if let Piece::Bytes(bytes) = piece {
            image.extend(bytes);
        }
        ControlFlow::Continue(())
    });
    result.map(|()| image)
}

#[test]
fn a_server_that_asks_who_fetches_is_shown_the_devices_certificate() {
    let (port, shown) = serve(IMAGE.to_vec());
    assert_eq!(fetch(device(), &format!("https://localhost:{port}/")), Ok(b"image".to_vec()));
    let certificate = CertificateDer::from_pem_slice(DEVICE.as_bytes()).expect("it is PEM");
    assert_eq!(shown.recv_timeout(PATIENCE).unwrap().as_deref(), Some(&certificate[..]));

    let (port, shown) = serve(IMAGE.to_vec());
    let result = fetch(stranger(), &format!("https://localhost:{port}/"));
    assert!(matches!(result, Err(FetchError::Transport(_))), "{result:?}");
    assert_eq!(shown.recv_timeout(PATIENCE).unwrap(), None);
}

#[test]
fn a_client_certificate_needs_its_own_key_and_the_error_holds_none() {
    let (chain, key) = (DEVICE.as_bytes(), DEVICE_KEY.as_bytes());
    let damaged = b"-----BEGIN PRIVATE KEY-----\nczNjcjN0\n-----END PRIVATE KEY-----\n";
    for (chain, key) in
        [(chain, KEY.as_bytes()), (chain, b""), (chain, damaged), (b"", key), (b"x", key), (chain, chain)]
    {
        let Err(HttpClientError::Certificate(reason)) = HttpClient::new().with_client_pem(chain, key) else {
            panic!("that is no pair");
        };
        assert!(!reason.contains("czNjcjN0") && !reason.contains("s3cr3t"), "{reason}");
    }
    let shown = format!("{:?}", device());
    assert!(!shown.contains("PRIVATE") && !shown.contains("MIG"), "{shown}");
}

/// Also where the chain of redirects began with http: what was gained is not given up.
#[test]
fn a_chain_of_redirects_never_leaves_https_again() {
    let to = |target: &str| format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n");
    let last = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let plain = format!("http://{}/image", last.local_addr().expect("it is bound"));
    let (secure, _shown) = serve(to(&plain).into_bytes());

    let first = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let begin = format!("http://{}/image", first.local_addr().expect("it is bound"));
    thread::spawn(move || {
        let (mut stream, _) = first.accept().expect("the client connects");
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(to(&format!("https://localhost:{secure}/image")).as_bytes());
        let _ = stream.read(&mut [0]);
    });
    let result = fetch(device(), &begin);
    assert_eq!(result, Err(FetchError::Unusable("it leads from https to http".into())));
    last.set_nonblocking(true).unwrap();
    assert!(last.accept().is_err(), "nobody came");
}
