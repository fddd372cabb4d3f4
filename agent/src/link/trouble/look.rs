use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nobody knows an address of it.
    Unresolved,
    /// None of its addresses takes a connection.
    Unreachable,
    /// It takes a connection, and says nothing.
    Silence,
    /// It speaks TLS.
    Tls,
    /// It says this.
    Answer(String),
}

/// Asks in HTTP, which whatever stands in a broker's place is likely to speak. Nothing of the device is sent, and what
/// comes is not trusted: little is read, and only printable ASCII of it is told.
pub(super) async fn look(host: &str, port: u16) -> Found {
    let deadline = Instant::now() + LOOK_WITHIN;
    let place = format!("{host}:{port}");
    let addresses = match timeout_at(deadline, lookup_host(place)).await {
        Ok(Ok(addresses)) => addresses.take(ADDRESS_LIMIT),
        Ok(Err(_)) | Err(_) => return Found::Unresolved,
    };
    let Some(mut stream) = reach(addresses, deadline).await else { return Found::Unreachable };
    let question = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let conversation = async {
        stream.write_all(question.as_bytes()).await?;
        while answer.len() < ANSWER_LIMIT_BYTES && !answer.windows(4).any(|four| four == b"\r\n\r\n") {
            let mut piece = [0; 256];
            match stream.read(&mut piece).await? {
                0 => break,
                read => answer.extend(&piece[..read]),
            }
        }
        std::io::Result::Ok(())
    };
    // Whatever came before an error or the deadline is told.
    let _ = timeout_at(deadline, conversation).await;
    match *answer {
        [] => Found::Silence,
        [0x15 | 0x16, 3, ..] => Found::Tls,
        _ => Found::Answer(told(&answer)),
    }
}

/// The first of them that takes a connection; one that is silent must not use up the time of the others.
async fn reach(addresses: impl Iterator<Item = SocketAddr>, deadline: Instant) -> Option<TcpStream> {
    for address in addresses {
        let each = deadline.min(Instant::now() + EACH_WITHIN);
        if let Ok(Ok(stream)) = timeout_at(each, TcpStream::connect(address)).await {
            return stream.set_nodelay(true).is_ok().then_some(stream);
        }
    }
    None
}

/// What an answer is, in a few words.
fn told(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let mut lines = text.lines();
    let first = shown(lines.next().unwrap_or_default());
    if !first.starts_with("HTTP/") {
        return format!("it answered {first:?}");
    }
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        // What follows the question mark may be somebody's secret.
        let value = value.trim().split(['?', '#']).next().unwrap_or_default();
        name.eq_ignore_ascii_case("location").then(|| shown(value))
    };
    match lines.find_map(header) {
        Some(place) => format!("it answered {first}, to {place}; a captive portal?"),
        None => format!("it answered {first}; a captive portal, or a web server?"),
    }
}

/// At most so much of it, and only what can be printed.
fn shown(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '.' });
    printable.take(SHOWN_LIMIT_CHARS).collect()
}

/// How long looking may take in all; what has to end a connection in time ends after it.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// How long one address may take to accept.
const EACH_WITHIN: Duration = Duration::from_secs(2);

/// How many addresses of a name are tried.
const ADDRESS_LIMIT: usize = 8;

/// How much of an answer is read: status line and the first headers.
const ANSWER_LIMIT_BYTES: usize = 2048;

/// How much of a line is told.
const SHOWN_LIMIT_CHARS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_captive_portal_is_named_with_where_it_leads_and_without_its_query() {
        let answer =
            b"HTTP/1.1 302 Found\r\nServer: x\r\nlocation: http://portal.example/login?user=secret\r\n\r\n";
        let told = told(answer);
        assert_eq!(told, "it answered HTTP/1.1 302 Found, to http://portal.example/login; a captive portal?");
    }

    #[test]
    fn what_is_not_http_is_quoted_printable_and_short() {
        assert_eq!(told(b"SSH-2.0-OpenSSH_9.2\r\n"), r#"it answered "SSH-2.0-OpenSSH_9.2""#);
        let noise: Vec<u8> = (0..=255).cycle().take(2048).filter(|byte| *byte != b'\n').collect();
        let told = told(&noise);
        assert!(
            told.len() < 2 * SHOWN_LIMIT_CHARS
                && told.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        );
    }
}
