//! A firmware server, or whoever answers in its place, sends what it should not.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use iotdm_handlers::firmware::{FetchError, FetchRequest, Fetcher, HttpFetcher, Piece};
use tokio_util::sync::CancellationToken;

/// How much a sink takes here before it has enough, in bytes.
const ENOUGH: usize = 1 << 20;

/// Serves one connection: the head, and then these bytes as often as the client takes them.
fn serve(head: &str, body: &'static [u8], times: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let head = head.to_owned();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the client connects");
        let _ = stream.read(&mut [0; 4096]);
        let mut sent = stream.write_all(head.as_bytes());
        for _ in 0..times {
            sent = sent.and_then(|()| stream.write_all(body));
        }
        // Open and silent until the client has gone, unless it has gone already.
        if sent.is_ok() {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read(&mut [0]);
        }
    });
    format!("http://{address}/image")
}

/// What a fetch brought, up to [`ENOUGH`], and how it ended.
fn fetch(uri: &str) -> (Vec<u8>, Result<(), FetchError>) {
    let cancellation = CancellationToken::new();
    let stall_limit = Duration::from_secs(60);
    let request = FetchRequest { uri, resume: None, stall_limit, cancellation: &cancellation };
    let mut image = Vec::new();
    let result = HttpFetcher::new().fetch(&request, &mut |piece| {
        if let Piece::Bytes(bytes) = piece {
            image.extend(bytes);
        }
        if image.len() < ENOUGH { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    (image, result)
}

/// A kilobyte of zeros, compressed: a bomb is the same, a million times.
const COMPRESSED: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x63, 0x60, 0x18, 0x05, 0xa3, 0x60, 0x14,
    0x8c, 0x54, 0x00, 0x00, 0x2e, 0xaf, 0xb5, 0xef, 0x00, 0x04, 0x00, 0x00,
];

#[test]
fn a_compressed_body_is_taken_as_it_is_and_never_expanded() {
    for encoding in ["gzip", "deflate", "br", "zstd", "gzip, gzip"] {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {}\r\n\r\n",
            COMPRESSED.len()
        );
        assert_eq!(fetch(&serve(&head, COMPRESSED, 1)), (COMPRESSED.to_vec(), Ok(())), "{encoding}");
    }
}

#[test]
fn a_length_that_lies_brings_no_byte_more_and_too_few_are_a_broken_transfer() {
    let (image, result) = fetch(&serve("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"imagemore", 1));
    assert_eq!((image.as_slice(), result), (&b"imag"[..], Ok(())));
    let (image, result) = fetch(&serve("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", b"image", 1));
    assert!(image == b"image" && matches!(result, Err(FetchError::Transport(_))), "{result:?}");
    for lie in ["-1", "99999999999999999999999", "5, 6", "x"] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {lie}\r\nConnection: close\r\n\r\n");
        let (image, result) = fetch(&serve(&head, b"image", 1));
        assert!(image.len() <= 5, "{lie}: {result:?}");
    }
}

#[test]
fn an_endless_body_ends_where_the_device_has_enough() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (head, body) in
        [("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", &[b'x'; 4096][..]), (chunked, b"5\r\nimage\r\n")]
    {
        let (image, result) = fetch(&serve(head, body, usize::MAX));
        assert_eq!(result, Err(FetchError::Stopped));
        assert!(image.len() < ENOUGH + (64 << 10), "{}", image.len());
    }
    // A chunk of 16 EiB is only a number.
    let (image, result) = fetch(&serve(chunked, b"ffffffffffffffff\r\nimage", 1));
    assert!(image.len() <= 5 && matches!(result, Err(FetchError::Transport(_))), "{result:?}");
}

#[test]
fn a_flood_of_headers_or_one_without_an_end_is_a_broken_transfer() {
    for header in [&b"X-Many: 1\r\n"[..], b"X", b"HTTP/1.1 100 Continue\r\n\r\n"] {
        let (image, result) = fetch(&serve("HTTP/1.1 200 OK\r\n", header, 1 << 20));
        assert!(image.is_empty(), "{} bytes", image.len());
        assert!(matches!(result, Err(FetchError::Transport(_))), "{result:?}");
    }
}

#[test]
fn what_a_server_says_is_told_in_few_words() {
    let location = format!("http://a b/{}", "x".repeat(20_000));
    let head = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
    let (_, result) = fetch(&serve(&head, b"", 1));
    let reason = result.expect_err("that is no address").to_string();
    assert!(reason.chars().count() <= 200, "{} characters", reason.chars().count());
}
