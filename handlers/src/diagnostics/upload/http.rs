use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use ureq::Agent;
use ureq::http::header;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::put::{Put, UploadError, Uploader};

/// Sends by HTTP and HTTPS: one `PUT` with `Content-Type: application/gzip`.
///
/// No redirect is followed. TLS is rustls with ring, certificates are those of the system or the ones given. The
/// environment's proxy variables are not read.
pub struct HttpUploader {
    roots: OnceLock<RootCerts>,
}

/// Why an uploader cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpUploaderError {
    /// The text holds no certificate, or one that is damaged.
    #[error("no usable certificate in the CA file: {0}")]
    Certificate(String),
}

impl HttpUploader {
    /// Trusts what the system trusts.
    pub fn new() -> Self {
        Self { roots: OnceLock::new() }
    }

    /// Trusts only these certificates, in PEM.
    ///
    /// # Errors
    /// [`HttpUploaderError::Certificate`] when there is none that can be read.
    pub fn with_ca_pem(self, pem: &[u8]) -> Result<Self, HttpUploaderError> {
        let mut certificates = Vec::new();
        for item in parse_pem(pem) {
            match item {
                Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
                Ok(_) => {}
                Err(error) => return Err(HttpUploaderError::Certificate(error.to_string())),
            }
        }
        if certificates.is_empty() {
            return Err(HttpUploaderError::Certificate("there is none".into()));
        }
        Ok(Self { roots: OnceLock::from(RootCerts::from(certificates)) })
    }

    /// An agent for one attempt: stopping the attempt shuts down all of it.
    fn agent(&self, time_limit: Duration) -> Agent {
        let tls = TlsConfig::builder()
            .root_certs(self.roots.get_or_init(system_roots).clone())
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        Agent::config_builder()
            .tls_config(tls)
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("iotdm/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(time_limit))
            .build()
            .new_agent()
    }
}

impl Default for HttpUploader {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for HttpUploader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpUploader").finish_non_exhaustive()
    }
}

impl Uploader for HttpUploader {
    /// The transfer runs on a thread of its own, so that this one can look at its token whatever the transfer waits
    /// for. Stopping it closes the socket; only a name that is still being looked up keeps that thread, for the
    /// attempt's limit at most.
    fn put(&self, put: &Put<'_>) -> Result<(), UploadError> {
        let agent = self.agent(put.time_limit);
        let (transfer, url, body) = (agent.clone(), put.url.to_owned(), put.body.clone());
        let (sender, receiver) = sync_channel(1);
        thread::Builder::new()
            .name("log-upload".into())
            .spawn(move || {
                // Nobody listens any more when the attempt was stopped.
                let _ = sender.send(send(&transfer, &url, &body));
            })
            .map_err(|error| UploadError::Transport(format!("no thread for the transfer: {error}")))?;
        let result = loop {
            if put.cancellation.is_cancelled() {
                break Err(UploadError::Stopped);
            }
            match receiver.recv_timeout(CANCELLATION_INTERVAL) {
                Ok(result) => break result,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    break Err(UploadError::Transport("the transfer's thread ended".into()));
                }
            }
        };
        agent.shutdown();
        result
    }
}

fn send(agent: &Agent, url: &str, body: &[u8]) -> Result<(), UploadError> {
    let request = agent.put(url).header(header::CONTENT_TYPE, "application/gzip");
    // With the length known: object stores take no chunks.
    let response = request.send(body).map_err(classify)?;
    let status = response.status();
    if status.is_success() { Ok(()) } else { Err(UploadError::Status(status.as_u16())) }
}

fn classify(error: ureq::Error) -> UploadError {
    use ureq::Error as E;
    match error {
        // Their texts hold the whole address, with its signature.
        E::RequireHttpsOnly(_) | E::BadUri(_) | E::Http(_) => {
            UploadError::Unusable("the address cannot be used".into())
        }
        // Others may repeat what the server sent.
        other => UploadError::Transport(other.to_string().chars().take(MAX_REASON_CHARS).collect()),
    }
}

fn system_roots() -> RootCerts {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(%error, "diagnostics: a certificate of the system could not be read");
    }
    RootCerts::from(loaded.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()))
}

/// How much is told of what went wrong.
const MAX_REASON_CHARS: usize = 200;

/// How often the token is looked at while the transfer waits. The contract of blocking work is once a second.
const CANCELLATION_INTERVAL: Duration = Duration::from_millis(200);
