//! Real sockets on loopback, no clocks: what is waited for is always an event.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use iotdm_core::{Performed, Route, Table};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fake::raw;
use crate::firmware::Firmware;
use crate::firmware::fetch::Resume;
use crate::firmware::tests::{Rig, image, sha256};
use crate::http::Proxy;

/// A server that gives each connection the next answer and then closes it, or holds it open after a [`HOLD`].
struct Server {
    address: String,
    /// The head of each request.
    heads: mpsc::Receiver<String>,
}

/// At the end of an answer: the connection stays open and silent.
const HOLD: &[u8] = b"<hold>";

impl Server {
    fn new(answers: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, heads) = mpsc::channel();
        thread::spawn(move || {
            let mut held = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let head = head_of(&stream);
                let (bytes, hold) =
                    answer.strip_suffix(HOLD).map_or((&answer[..], false), |bytes| (bytes, true));
                // The other side may have gone away: that is what some tests are about.
                let _ = stream.write_all(bytes);
                if hold {
                    held.push(stream);
                }
                if sender.send(head).is_err() {
                    return;
                }
            }
            // Held connections stay until the test has dropped its end.
            for stream in held {
                let _ = std::io::Read::read(&mut &stream, &mut [0]);
            }
        });
        Self { address, heads }
    }

    fn uri(&self) -> String {
        format!("http://{}/image?token=1", self.address)
    }
}

fn head_of(stream: &TcpStream) -> String {
    let mut lines = BufReader::new(stream).lines();
    let mut head = String::new();
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
        head.push_str(&line.to_ascii_lowercase());
        head.push('\n');
    }
    head
}

fn answer(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nConnection: close\r\n").into_bytes();
    for header in headers {
        bytes.extend(format!("{header}\r\n").into_bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}

/// What a fetch brought.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    start: Option<(u64, Option<u64>, Option<String>)>,
    bytes: Vec<u8>,
}

fn fetch(uri: &str, resume: Option<(u64, &str)>) -> (Got, Result<(), FetchError>) {
    let cancellation = CancellationToken::new();
    let request = FetchRequest {
        uri,
        resume: resume.map(|(from, validator)| Resume { from, validator }),
        stall_limit: Duration::from_secs(60),
        cancellation: &cancellation,
    };
    let mut got = Got::default();
    let result = HttpFetcher::new().fetch(&request, &mut |piece| {
        match piece {
            Piece::Start { from, total, validator } => got.start = Some((from, total, validator)),
            Piece::Bytes(bytes) => got.bytes.extend(bytes),
        }
        ControlFlow::Continue(())
    });
    (got, result)
}

#[test]
fn a_whole_image_comes_with_its_length_and_its_name() {
    let server = Server::new(vec![answer("200 OK", &["Content-Length: 100", "ETag: \"one\""], &image())]);
    let (got, result) = fetch(&server.uri(), None);
    assert_eq!(result, Ok(()));
    assert_eq!(got, Got { start: Some((0, Some(100), Some("\"one\"".into()))), bytes: image() });
    let head = server.heads.recv().unwrap();
    assert!(head.starts_with("get /image?token=1 http/1.1\n"), "{head}");
    assert!(head.contains("accept-encoding: identity\n"), "{head}");
    assert!(!head.contains("range:"), "{head}");
}

#[test]
fn a_cut_transfer_is_a_transport_error_after_the_bytes_that_came() {
    let server = Server::new(vec![answer("200 OK", &["Content-Length: 100"], &image()[..40])]);
    let (got, result) = fetch(&server.uri(), None);
    assert!(matches!(result, Err(FetchError::Transport(_))), "{result:?}");
    assert_eq!(got.bytes, image()[..40]);
}

#[test]
fn a_resumed_transfer_asks_for_the_rest_of_exactly_this_image() {
    let headers = ["Content-Length: 60", "Content-Range: bytes 40-99/100", "ETag: \"one\""];
    let server = Server::new(vec![answer("206 Partial Content", &headers, &image()[40..])]);
    let (got, result) = fetch(&server.uri(), Some((40, "\"one\"")));
    assert_eq!(result, Ok(()));
    assert_eq!(
        got,
        Got { start: Some((40, Some(100), Some("\"one\"".into()))), bytes: image()[40..].into() }
    );
    let head = server.heads.recv().unwrap();
    assert!(head.contains("range: bytes=40-\n") && head.contains("if-range: \"one\"\n"), "{head}");
}

#[test]
fn a_server_without_ranges_or_with_another_image_starts_over() {
    let server = Server::new(vec![answer("200 OK", &["Content-Length: 100", "ETag: \"two\""], &image())]);
    let (got, result) = fetch(&server.uri(), Some((40, "\"one\"")));
    assert_eq!(result, Ok(()));
    assert_eq!(got, Got { start: Some((0, Some(100), Some("\"two\"".into()))), bytes: image() });
}

#[test]
fn a_range_that_does_not_fit_is_not_taken() {
    for (status, headers) in [
        ("206 Partial Content", vec!["Content-Range: bytes 41-99/100"]),
        ("206 Partial Content", vec!["Content-Range: bytes 40-99/100", "ETag: \"two\""]),
        ("206 Partial Content", vec!["Content-Range: pages 40-99/100"]),
        ("206 Partial Content", vec![]),
        ("416 Range Not Satisfiable", vec!["Content-Range: bytes */30"]),
    ] {
        let server = Server::new(vec![answer(status, &headers, b"")]);
        let (got, result) = fetch(&server.uri(), Some((40, "\"one\"")));
        assert!(matches!(result, Err(FetchError::NotResumable(_))), "{headers:?}: {result:?}");
        assert_eq!(got, Got::default());
    }
}

#[test]
fn an_answer_that_is_no_image_is_told_by_its_status() {
    for status in [204, 206, 304, 401, 404, 410, 416, 429, 503] {
        let server = Server::new(vec![answer(&format!("{status} X"), &["Content-Length: 0"], b"")]);
        assert_eq!(fetch(&server.uri(), None).1, Err(FetchError::Status(status)));
    }
}

#[test]
fn a_weak_entity_tag_gives_way_to_the_date() {
    let date = "Fri, 14 Jul 2017 02:40:00 GMT";
    let dated = format!("Last-Modified: {date}");
    for (headers, expected) in
        [(vec!["ETag: W/\"one\"", &dated], Some(date)), (vec!["ETag: W/\"one\""], None), (vec![], None)]
    {
        let server = Server::new(vec![answer("200 OK", &headers, &image())]);
        let (got, result) = fetch(&server.uri(), None);
        assert_eq!(result, Ok(()));
        assert_eq!(got, Got { start: Some((0, None, expected.map(Into::into))), bytes: image() });
    }
}

#[test]
fn redirects_are_followed_with_the_range_and_within_bounds() {
    let moved = |to: &str| answer("302 Found", &[&format!("Location: {to}"), "Content-Length: 0"], b"");
    let headers = ["Content-Length: 60", "Content-Range: bytes 40-99/100"];
    let server = Server::new(vec![moved("/there"), answer("206 Partial Content", &headers, &image()[40..])]);
    let (got, result) = fetch(&server.uri(), Some((40, "\"one\"")));
    assert_eq!((result, got.bytes), (Ok(()), image()[40..].to_vec()));
    server.heads.recv().unwrap();
    let head = server.heads.recv().unwrap();
    assert!(head.starts_with("get /there ") && head.contains("if-range: \"one\""), "{head}");

    let server = Server::new(vec![moved("/again"); 6]);
    assert!(matches!(fetch(&server.uri(), None).1, Err(FetchError::Unusable(_))));
}

#[test]
fn a_server_that_is_not_there_or_speaks_no_tls_is_a_transport_error() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_, result) = fetch(&format!("http://{address}/"), None);
    assert!(matches!(result, Err(FetchError::Transport(_))), "{result:?}");

    let server = Server::new(vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()]);
    let (_, result) = fetch(&format!("https://{}/", server.address), None);
    assert!(matches!(result, Err(FetchError::Transport(_))), "{result:?}");
}

/// Before its answer and in the middle of its body: the token is seen while nothing arrives.
#[test]
fn a_silent_server_does_not_keep_a_stopped_transfer() {
    let body = answer("200 OK", &["Content-Length: 100"], &image()[..40]);
    for mut silent in [Vec::new(), body] {
        silent.extend(HOLD);
        let server = Server::new(vec![silent]);
        let cancellation = CancellationToken::new();
        let (stop, heads) = (cancellation.clone(), server.heads);
        let stopper = thread::spawn(move || {
            heads.recv().unwrap();
            stop.cancel();
        });
        let uri = format!("http://{}/", server.address);
        let limit = Duration::from_secs(3600);
        let request =
            FetchRequest { uri: &uri, resume: None, stall_limit: limit, cancellation: &cancellation };
        let result = HttpFetcher::new().fetch(&request, &mut |_| ControlFlow::Continue(()));
        assert_eq!(result, Err(FetchError::Stopped));
        stopper.join().unwrap();
    }
}

#[test]
fn a_server_silent_beyond_the_limit_is_a_transport_error() {
    let mut silent = answer("200 OK", &["Content-Length: 100"], &image()[..40]);
    silent.extend(HOLD);
    let server = Server::new(vec![silent]);
    let (uri, cancellation) = (server.uri(), CancellationToken::new());
    let limit = Duration::from_millis(50);
    let request = FetchRequest { uri: &uri, resume: None, stall_limit: limit, cancellation: &cancellation };
    let result = HttpFetcher::new().fetch(&request, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(result, Err(FetchError::Transport(_))), "{result:?}");
}

#[test]
fn a_sink_that_wants_no_more_ends_the_transfer() {
    let server = Server::new(vec![answer("200 OK", &[], &image())]);
    let (uri, cancellation) = (server.uri(), CancellationToken::new());
    let limit = Duration::from_secs(60);
    let request = FetchRequest { uri: &uri, resume: None, stall_limit: limit, cancellation: &cancellation };
    let result = HttpFetcher::new().fetch(&request, &mut |_| ControlFlow::Break(()));
    assert_eq!(result, Err(FetchError::Stopped));
}

#[test]
fn a_busy_server_is_told_with_the_pause_it_asks_for() {
    for status in [429, 503] {
        let server = Server::new(vec![answer(&format!("{status} X"), &["Retry-After: 120"], b"")]);
        let busy = FetchError::Busy { status, retry_after: Duration::from_secs(120) };
        assert_eq!(fetch(&server.uri(), None).1, Err(busy));
        let server = Server::new(vec![answer(&format!("{status} X"), &["Retry-After: later"], b"")]);
        assert_eq!(fetch(&server.uri(), None).1, Err(FetchError::Status(status)));
    }
    let server = Server::new(vec![answer("404 X", &["Retry-After: 120"], b"")]);
    assert_eq!(fetch(&server.uri(), None).1, Err(FetchError::Status(404)));
}

/// A proxy that answers CONNECT as it is told and then plays the server behind it.
fn proxy(connected: &'static str, behind: Vec<u8>) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, heads) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // Byte by byte: what follows the head is for the server behind.
        for answer in [connected.as_bytes(), &behind] {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if std::io::Read::read(&mut stream, &mut byte).unwrap_or(0) == 0 {
                    return;
                }
                head.push(byte[0]);
            }
            if sender.send(String::from_utf8(head).unwrap()).is_err() || stream.write_all(answer).is_err() {
                return;
            }
        }
    });
    (address, heads)
}

fn fetch_through(proxy: Proxy, uri: &str) -> (Vec<u8>, Result<(), FetchError>) {
    let cancellation = CancellationToken::new();
    let stall_limit = Duration::from_secs(60);
    let request = FetchRequest { uri, resume: None, stall_limit, cancellation: &cancellation };
    let mut image = Vec::new();
    let result =
        HttpFetcher::with_client(HttpClient::new().with_proxy(proxy)).fetch(&request, &mut |piece| {
            if let Piece::Bytes(bytes) = piece {
                image.extend(bytes);
            }
            ControlFlow::Continue(())
        });
    (image, result)
}

#[test]
fn a_proxy_is_asked_to_connect_and_gets_its_own_credentials_alone() {
    let whole = answer("200 OK", &["Content-Length: 100"], &image());
    let (address, heads) = proxy("HTTP/1.1 200 Connected\r\n\r\n", whole);
    let proxy = Proxy::new(&address).unwrap().with_credentials("me:s3cr3t").unwrap();
    // The name is the proxy's to resolve.
    let (got, result) = fetch_through(proxy, "http://images.invalid:8080/image?token=1");
    assert_eq!((got, result), (image(), Ok(())));
    let (connect, get) = (heads.recv().unwrap(), heads.recv().unwrap());
    assert!(connect.starts_with("CONNECT images.invalid:8080 HTTP/1.1\r\n"), "{connect}");
    assert!(connect.contains("Proxy-Authorization: Basic bWU6czNjcjN0\r\n"), "{connect}");
    assert!(get.starts_with("GET /image?token=1 HTTP/1.1\r\n"), "{get}");
    assert!(!get.to_lowercase().contains("authorization"), "{get}");
}

#[test]
fn a_proxy_that_refuses_is_a_transport_error_without_the_password() {
    let (address, _heads) = proxy("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", Vec::new());
    let proxy = Proxy::new(&address).unwrap().with_credentials("me:s3cr3t").unwrap();
    let (_, result) = fetch_through(proxy, "http://images.invalid/");
    let Err(FetchError::Transport(reason)) = result else { panic!("{result:?}") };
    assert!(reason.contains("407") && !reason.contains("s3cr3t"), "{reason}");
}

#[test]
fn a_host_that_is_left_out_is_reached_without_the_proxy() {
    let server = Server::new(vec![answer("200 OK", &["Content-Length: 100"], &image())]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::new(&format!("http://{nobody}")).unwrap();
    let (_, result) = fetch_through(proxy.clone(), &server.uri());
    assert!(matches!(result, Err(FetchError::Transport(_))), "nobody is there: {result:?}");
    let (got, result) = fetch_through(proxy.except(["127.0.0.1"]).unwrap(), &server.uri());
    assert_eq!((got, result), (image(), Ok(())));
}

/// The whole way: the connection is cut in the middle, and the rest comes by a second request.
#[tokio::test(start_paused = true)]
async fn a_download_over_http_survives_a_cut_connection() {
    let first = ["Content-Length: 100", "ETag: \"one\""];
    let second = ["Content-Length: 60", "Content-Range: bytes 40-99/100", "ETag: \"one\""];
    let server = Server::new(vec![
        answer("200 OK", &first, &image()[..40]),
        answer("206 Partial Content", &second, &image()[40..]),
    ]);
    let rig = Rig::new();
    rig.describe(json!({"uri": server.uri(), "verifier": sha256(&image())}));
    let mut table = Table::new();
    table.with(Firmware::new(rig.options.clone(), Arc::new(HttpFetcher::new())).unwrap()).unwrap();
    let handler = table.handler(&Route::FirmwareDownload).unwrap();
    assert_eq!(handler.after_ack(&rig.cx(), Some(&raw(json!({})))).await, Ok(Performed::Complete));
    assert_eq!(rig.notified(), [(1, 0), (2, 0)]);
    assert_eq!(rig.stored_image(), Some(image()));
    assert!(server.heads.iter().nth(1).unwrap().contains("range: bytes=40-\n"));
}
