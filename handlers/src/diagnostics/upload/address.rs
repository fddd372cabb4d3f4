//! Where a log may go.

use std::fmt;
use std::str::FromStr;

use ureq::http::Uri;

/// A host that logs may be sent to: a name or an address, with a port unless it is the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadHost {
    /// In lower case.
    host: String,
    port: Option<u16>,
}

/// A text names no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host: write its name alone, or its name and port, such as \"logs.example.com:8443\"")]
pub struct UploadHostError(String);

impl FromStr for UploadHost {
    type Err = UploadHostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || UploadHostError(text.chars().take(MAX_SHOWN_CHARS).collect());
        // What is more than a host would become a path.
        let host = Some(text).filter(|text| !text.contains(['/', '?', '#'])).ok_or_else(wrong)?;
        let uri: Uri = format!("https://{host}/").parse().map_err(|_| wrong())?;
        let (host, port) = host_and_port(&uri).ok_or_else(wrong)?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for UploadHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Whether a log may be put there. The reason never repeats the address, which may be signed.
pub(super) fn check(url: &str, hosts: &[UploadHost], allow_http: bool) -> Result<(), String> {
    if hosts.is_empty() {
        return Err("this device sends logs in its answer only; leave it out".into());
    }
    if url.len() > MAX_URL_BYTES {
        return Err(format!("it is longer than {MAX_URL_BYTES} bytes"));
    }
    let schemes = if allow_http { "an https or http address" } else { "an https address" };
    let uri: Uri = url.parse().map_err(|_| format!("expected {schemes}"))?;
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") if allow_http => false,
        _ => return Err(format!("expected {schemes}")),
    };
    let (host, port) =
        host_and_port(&uri).ok_or("expected a host, and neither a user name nor a password before it")?;
    let usual = if secure { 443 } else { 80 };
    let is_this =
        |allowed: &UploadHost| allowed.host == host && allowed.port.unwrap_or(usual) == port.unwrap_or(usual);
    if hosts.iter().any(is_this) {
        return Ok(());
    }
    Err("this device sends no logs to that host".into())
}

/// `None` for an authority that holds more than these two.
fn host_and_port(uri: &Uri) -> Option<(String, Option<u16>)> {
    let authority = uri.authority()?;
    let (host, port) = (authority.host(), authority.port_u16());
    let plain = match port {
        None => authority.as_str() == host,
        Some(_) => authority
            .as_str()
            .strip_prefix(host)
            .and_then(|rest| rest.strip_prefix(':'))
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())),
    };
    (plain && !host.is_empty()).then(|| (host.to_ascii_lowercase(), port))
}

/// Longest address, in bytes: one that is signed with a session's token has some two thousand.
const MAX_URL_BYTES: usize = 4096;

/// How much of a wrong host is repeated to the operator.
const MAX_SHOWN_CHARS: usize = 100;
