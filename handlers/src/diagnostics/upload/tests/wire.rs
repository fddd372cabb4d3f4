//! Real sockets on loopback, no clocks: what is waited for is always an event.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use tokio_util::sync::CancellationToken;

use super::*;

/// A server that gives its one connection an answer; what it got comes out of the channel: head and body.
fn server(answer: Option<&'static str>) -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while reader.read_line(&mut head).unwrap() > 2 {}
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).map_or("0", |rest| rest.lines().next().unwrap());
        let mut body = vec![0; length.trim().parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        sender.send((head, body)).unwrap();
        match answer {
            Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
            // Until the other side has gone away.
            None => drop(stream.read(&mut [0])),
        }
    });
    (format!("http://{address}/lamp1?sig=s1gnature"), requests)
}

fn put(url: &str, cancellation: &CancellationToken) -> Result<(), UploadError> {
    let body = Arc::from(&b"packed"[..]);
    HttpUploader::new().put(&Put { url, body: &body, time_limit: Duration::from_secs(60), cancellation })
}

#[test]
fn a_put_carries_its_length_and_its_type_and_needs_a_success() {
    for (answer, result) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Ok(())),
        ("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", Ok(())),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", Err(UploadError::Status(403))),
        // Only the address itself was allowed.
        (
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            Err(UploadError::Status(307)),
        ),
    ] {
        let (url, requests) = server(Some(answer));
        assert_eq!(put(&url, &CancellationToken::new()), result);
        let (head, body) = requests.recv().unwrap();
        assert!(head.starts_with("put /lamp1?sig=s1gnature http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/gzip") && !head.contains("chunked"), "{head}");
        assert_eq!(body, b"packed");
    }
}

#[test]
fn a_server_that_is_not_there_or_speaks_another_language_is_a_transport_error() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (talkative, _requests) = server(Some("SSH-2.0-OpenSSH\r\n"));
    for url in [format!("http://{closed}/?sig=s1gnature"), talkative] {
        let error = put(&url, &CancellationToken::new()).unwrap_err();
        assert!(matches!(error, UploadError::Transport(_)), "{error:?}");
        assert!(!error.to_string().contains("s1gnature"), "{error}");
    }
}

#[test]
fn a_stop_ends_an_attempt_that_waits() {
    let (url, requests) = server(None);
    let cancellation = CancellationToken::new();
    thread::scope(|scope| {
        let attempt = scope.spawn(|| put(&url, &cancellation));
        requests.recv().unwrap();
        cancellation.cancel();
        assert_eq!(attempt.join().unwrap(), Err(UploadError::Stopped));
    });
}
