use std::fmt;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};

use super::fetch::{FetchError, FetchRequest, Fetcher, PIECE_BYTES, Piece, Resume};

/// Fetches by HTTP and HTTPS.
///
/// A broken transfer is resumed with `Range` and `If-Range`; a server that does not know them sends everything again.
/// At most five redirects are followed, and one that leads from `https` to `http` is not. TLS is rustls with ring,
/// certificates are those of the system or the ones given. The environment's proxy variables are not read.
pub struct HttpFetcher {
    roots: OnceLock<RootCerts>,
    proxy: Option<Proxy>,
}

/// Why a fetcher cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpFetcherError {
    /// The text holds no certificate, or one that is damaged.
    #[error("no usable certificate in the CA file: {0}")]
    Certificate(String),
    /// The proxy's address cannot be used.
    #[error("the proxy's address cannot be used: {0}")]
    Proxy(String),
}

impl HttpFetcher {
    /// Trusts what the system trusts.
    pub fn new() -> Self {
        Self { roots: OnceLock::new(), proxy: None }
    }

    /// Trusts only these certificates, in PEM.
    pub fn with_ca_pem(self, pem: &[u8]) -> Result<Self, HttpFetcherError> {
        let mut certificates = Vec::new();
        for item in parse_pem(pem) {
            match item {
                Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
                Ok(_) => {}
                Err(error) => return Err(HttpFetcherError::Certificate(error.to_string())),
            }
        }
        if certificates.is_empty() {
            return Err(HttpFetcherError::Certificate("there is none".into()));
        }
        Ok(Self { roots: OnceLock::from(RootCerts::from(certificates)), ..self })
    }

    /// Goes through this HTTP proxy, `http://host:port`.
    pub fn with_proxy(self, address: &str) -> Result<Self, HttpFetcherError> {
        let proxy = Proxy::new(address).map_err(|error| HttpFetcherError::Proxy(error.to_string()))?;
        Ok(Self { proxy: Some(proxy), ..self })
    }

    /// An agent for one attempt: stopping the attempt shuts down all of it.
    fn agent(&self, request: &FetchRequest<'_>) -> Agent {
        let secure = request.uri.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(self.roots.get_or_init(system_roots).clone())
            .unversioned_rustls_crypto_provider(provider)
            .build();
        Agent::config_builder()
            .tls_config(tls)
            .proxy(self.proxy.clone())
            .https_only(secure)
            .http_status_as_error(false)
            .max_redirects(MAX_REDIRECTS)
            .user_agent(concat!("iotdm/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(RESOLVE_LIMIT))
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_per_read(Some(request.stall_limit))
            .timeout_per_write(Some(request.stall_limit))
            .timeout_recv_response(Some(request.stall_limit))
            .build()
            .new_agent()
    }
}

impl Default for HttpFetcher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for HttpFetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpFetcher").field("proxy", &self.proxy.is_some()).finish_non_exhaustive()
    }
}

impl Fetcher for HttpFetcher {
    /// The transfer runs on a thread of its own, so that this one can look at its token whatever the transfer waits
    /// for: a name, a connection, a handshake, an answer or the next byte. Stopping it closes the socket; only a name
    /// or a connection that is still being waited for keeps that thread, for its own limit at most.
    fn fetch(
        &self,
        request: &FetchRequest<'_>,
        sink: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<(), FetchError> {
        let agent = self.agent(request);
        let transfer = Transfer {
            agent: agent.clone(),
            uri: request.uri.to_owned(),
            resume: request.resume.map(|resume| (resume.from, resume.validator.to_owned())),
        };
        let (sender, receiver) = sync_channel(EVENTS_AHEAD);
        thread::Builder::new()
            .name("firmware-fetch".into())
            .spawn(move || transfer.run(&sender))
            .map_err(|error| FetchError::Transport(format!("no thread for the transfer: {error}")))?;
        let result = forward(&receiver, request, sink);
        agent.shutdown();
        result
    }
}

fn forward(
    receiver: &Receiver<Event>,
    request: &FetchRequest<'_>,
    sink: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<(), FetchError> {
    loop {
        if request.cancellation.is_cancelled() {
            return Err(FetchError::Stopped);
        }
        let flow = match receiver.recv_timeout(CANCELLATION_INTERVAL) {
            Ok(Event::Start { from, total, validator }) => sink(Piece::Start { from, total, validator }),
            Ok(Event::Bytes(bytes)) => sink(Piece::Bytes(&bytes)),
            Ok(Event::End(result)) => return result,
            Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(FetchError::Transport("the transfer's thread ended".into()));
            }
        };
        if flow.is_break() {
            return Err(FetchError::Stopped);
        }
    }
}

/// What the transfer's thread tells.
enum Event {
    Start { from: u64, total: Option<u64>, validator: Option<String> },
    Bytes(Vec<u8>),
    End(Result<(), FetchError>),
}

struct Transfer {
    agent: Agent,
    uri: String,
    resume: Option<(u64, String)>,
}

impl Transfer {
    fn run(&self, events: &SyncSender<Event>) {
        let result = self.request().and_then(|response| self.pass_on(response, events));
        // Nobody listens any more when the attempt was stopped.
        let _ = events.send(Event::End(result));
    }

    fn request(&self) -> Result<Response<Body>, FetchError> {
        // A byte range speaks of the encoded form: the plain one is asked for.
        let mut request = self.agent.get(&self.uri).header(header::ACCEPT_ENCODING, "identity");
        if let Some((from, validator)) = &self.resume {
            request = request
                .header(header::RANGE, format!("bytes={from}-"))
                .header(header::IF_RANGE, validator.as_str());
        }
        request.call().map_err(classify)
    }

    fn pass_on(&self, response: Response<Body>, events: &SyncSender<Event>) -> Result<(), FetchError> {
        let resume = self.resume.as_ref().map(|(from, validator)| Resume { from: *from, validator });
        let start = start_of(response.status(), response.headers(), resume)?;
        let send = |event| events.send(event).map_err(|_| FetchError::Stopped);
        send(start)?;
        let mut body = response.into_body().into_reader();
        loop {
            let mut bytes = vec![0; PIECE_BYTES];
            match body.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    bytes.truncate(count);
                    send(Event::Bytes(bytes))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FetchError::Transport(error.to_string())),
            }
        }
    }
}

/// What an answer means: 200 is the whole image, 206 the rest of it, and only if it begins where the part ends.
fn start_of(
    status: StatusCode,
    headers: &HeaderMap,
    resume: Option<Resume<'_>>,
) -> Result<Event, FetchError> {
    let validator = validator_of(headers);
    match (status, resume) {
        (StatusCode::OK, _) => {
            let total = text(headers, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
            Ok(Event::Start { from: 0, total, validator })
        }
        (StatusCode::PARTIAL_CONTENT, Some(resume)) => {
            let (from, total) = text(headers, header::CONTENT_RANGE)
                .and_then(parse_content_range)
                .ok_or_else(|| FetchError::NotResumable("the server's range cannot be read".into()))?;
            // Servers exist that send a range and do not look at If-Range.
            let other = validator.as_deref().is_some_and(|validator| validator != resume.validator);
            if from != resume.from || other {
                return Err(FetchError::NotResumable("the server's range is not the one asked for".into()));
            }
            Ok(Event::Start { from, total, validator: Some(resume.validator.to_owned()) })
        }
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => {
            Err(FetchError::NotResumable("the server's image is shorter than what is here".into()))
        }
        _ => Err(FetchError::Status(status.as_u16())),
    }
}

/// A weak entity tag names no bytes, and `If-Range` may not carry it (RFC 9110 §13.1.5).
fn validator_of(headers: &HeaderMap) -> Option<String> {
    let tag = text(headers, header::ETAG).filter(|tag| tag.starts_with('"'));
    tag.or_else(|| text(headers, header::LAST_MODIFIED)).map(str::to_owned)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// `bytes 5-9/10` is (5, 10), `bytes 5-9/*` is (5, unknown).
fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (from, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((from.parse().ok()?, total))
}

fn classify(error: ureq::Error) -> FetchError {
    use ureq::Error as E;
    match error {
        // The texts of these two hold the whole address, with its password and its signature.
        E::RequireHttpsOnly(_) => FetchError::Unusable("it leads from https to http".into()),
        E::BadUri(_) | E::Http(_) => {
            FetchError::Unusable("it leads to an address that cannot be used".into())
        }
        E::TooManyRedirects | E::RedirectFailed => FetchError::Unusable(error.to_string()),
        // Others may repeat what the server sent.
        other => FetchError::Transport(other.to_string().chars().take(MAX_REASON_CHARS).collect()),
    }
}

fn system_roots() -> RootCerts {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(%error, "firmware: a certificate of the system could not be read");
    }
    RootCerts::from(loaded.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()))
}

/// How much is told of what went wrong.
const MAX_REASON_CHARS: usize = 200;

/// Redirects that are followed: object stores and mirrors use one or two.
const MAX_REDIRECTS: u32 = 5;

/// How long a name may take to be resolved.
const RESOLVE_LIMIT: Duration = Duration::from_secs(15);

/// How long a connection and its handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// How often the token is looked at while nothing arrives. The contract of blocking work is once a second.
const CANCELLATION_INTERVAL: Duration = Duration::from_millis(200);

/// Pieces that may be read ahead of the disk.
const EVENTS_AHEAD: usize = 2;

#[cfg(test)]
mod tests;
