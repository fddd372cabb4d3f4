use std::fmt;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::fetch::{FetchError, FetchRequest, Fetcher, Piece};
use exchange::{Event, Exchange};

mod exchange;
mod proxy;
mod redirect;
mod retry_after;

pub use proxy::{Proxy, ProxyError};

/// Fetches by HTTP and HTTPS.
///
/// A broken transfer is resumed with `Range` and `If-Range`; a server that does not know them sends everything again.
/// At most five redirects are followed, and one that leads from `https` to `http` is not. TLS is rustls with ring,
/// certificates are those of the system or the ones given. The environment's proxy variables are not read, unless
/// [`Proxy::from_environment`] is asked to.
pub struct HttpFetcher {
    roots: OnceLock<RootCerts>,
    client: Option<ClientCert>,
    proxy: Option<Proxy>,
}

/// Why a fetcher cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpFetcherError {
    /// The text holds no certificate, or one that is damaged.
    #[error("no usable certificate in the CA file: {0}")]
    Certificate(String),
    /// The device's own certificate and key are damaged, or not of each other.
    #[error("no usable client certificate: {0}")]
    Client(String),
}

impl HttpFetcher {
    /// Trusts what the system trusts.
    pub fn new() -> Self {
        Self { roots: OnceLock::new(), client: None, proxy: None }
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

    /// Shows this certificate to a server that asks who fetches: the chain and its private key, both in PEM. The error
    /// tells nothing of the key.
    pub fn with_client_pem(self, chain: &[u8], key: &[u8]) -> Result<Self, HttpFetcherError> {
        let client = |reason: &str| HttpFetcherError::Client(reason.into());
        let certificates = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| client(&error.to_string()))?;
        let private = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| client("the file holds no private key in PEM that is not encrypted"))?;
        check_pair(certificates.clone(), private)?;
        let chain: Vec<_> = certificates.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        let key = PrivateKey::from_pem(key).map_err(|_| client("the key is of no known form"))?;
        Ok(Self { client: Some(ClientCert::new_with_certs(&chain, key)), ..self })
    }

    /// Goes through this proxy.
    #[must_use]
    pub fn with_proxy(self, proxy: Proxy) -> Self {
        Self { proxy: Some(proxy), ..self }
    }

    /// An agent for one attempt: stopping the attempt shuts down all of it.
    fn agent(&self, request: &FetchRequest<'_>) -> Agent {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(self.roots.get_or_init(system_roots).clone())
            .client_cert(self.client.clone())
            .unversioned_rustls_crypto_provider(provider)
            .build();
        Agent::config_builder()
            .tls_config(tls)
            // Also when there is none: ureq would look into the environment.
            .proxy(self.proxy.as_ref().map(Proxy::connector))
            .http_status_as_error(false)
            // `Exchange` follows them, and looks at each one.
            .max_redirects(0)
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
        f.debug_struct("HttpFetcher").field("proxy", &self.proxy).finish_non_exhaustive()
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
        let exchange = Exchange {
            agent: agent.clone(),
            uri: request.uri.to_owned(),
            resume: request.resume.map(|resume| (resume.from, resume.validator.to_owned())),
        };
        let (sender, receiver) = sync_channel(EVENTS_AHEAD);
        thread::Builder::new()
            .name("firmware-fetch".into())
            .spawn(move || exchange.run(&sender))
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

/// ureq takes a pair as it comes and panics when it is used.
fn check_pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(), HttpFetcherError> {
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of both versions")
            .with_root_certificates(rustls::RootCertStore::empty());
    let checked = builder.with_client_auth_cert(chain, key);
    checked.map(|_| ()).map_err(|error| HttpFetcherError::Client(error.to_string()))
}

fn system_roots() -> RootCerts {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(%error, "firmware: a certificate of the system could not be read");
    }
    RootCerts::from(loaded.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()))
}

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
