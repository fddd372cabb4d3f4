//! How a device reaches HTTP servers: whom it trusts, what it shows of itself, which proxy it goes through.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::AgentScope;

mod proxy;

pub use proxy::{Proxy, ProxyError};

/// The settings of a connection to an HTTP server, for [`HttpFetcher`](crate::firmware::HttpFetcher) and
/// [`HttpUploader`](crate::diagnostics::HttpUploader).
///
/// TLS is rustls with ring, certificates are those of the system or the ones given. The environment's proxy variables
/// are not read, unless [`Proxy::from_environment`] is asked to.
#[derive(Clone, Default)]
pub struct HttpClient {
    roots: Arc<OnceLock<RootCerts>>,
    certificate: Option<ClientCert>,
    proxy: Option<Proxy>,
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpClientError {
    /// The text holds no certificate, or one that is damaged.
    #[error("no usable certificate in the CA file: {0}")]
    Authority(String),
    /// The device's own certificate and key are damaged, or not of each other.
    #[error("no usable client certificate: {0}")]
    Certificate(String),
}

impl HttpClient {
    /// Trusts what the system trusts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts only these certificates, in PEM.
    ///
    /// # Errors
    /// [`HttpClientError::Authority`] when there is none that can be read.
    pub fn with_ca_pem(self, pem: &[u8]) -> Result<Self, HttpClientError> {
        let mut certificates = Vec::new();
        for item in parse_pem(pem) {
            match item {
                Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
                Ok(_) => {}
                Err(error) => return Err(HttpClientError::Authority(error.to_string())),
            }
        }
        if certificates.is_empty() {
            return Err(HttpClientError::Authority("there is none".into()));
        }
        Ok(Self { roots: Arc::new(RootCerts::from(certificates).into()), ..self })
    }

    /// Shows this certificate to a server that asks who is there: the chain and its private key, both in PEM. The error
    /// tells nothing of the key.
    ///
    /// # Errors
    /// [`HttpClientError::Certificate`].
    pub fn with_client_pem(self, chain: &[u8], key: &[u8]) -> Result<Self, HttpClientError> {
        let wrong = |reason: &str| HttpClientError::Certificate(reason.into());
        let certificates = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| wrong(&error.to_string()))?;
        let private = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| wrong("the file holds no private key in PEM that is not encrypted"))?;
        check_pair(certificates.clone(), private)?;
        let chain: Vec<_> = certificates.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        let key = PrivateKey::from_pem(key).map_err(|_| wrong("the key is of no known form"))?;
        Ok(Self { certificate: Some(ClientCert::new_with_certs(&chain, key)), ..self })
    }

    /// Goes through this proxy.
    #[must_use]
    pub fn with_proxy(self, proxy: Proxy) -> Self {
        Self { proxy: Some(proxy), ..self }
    }

    /// The configuration of an agent for one attempt, without its limits: stopping the attempt shuts down all of it.
    /// No redirect is followed and no status is an error.
    pub(crate) fn config(&self) -> ConfigBuilder<AgentScope> {
        let tls = TlsConfig::builder()
            .root_certs(self.roots.get_or_init(system_roots).clone())
            .client_cert(self.certificate.clone())
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        Agent::config_builder()
            .tls_config(tls)
            // Also when there is none: ureq would look into the environment.
            .proxy(self.proxy.as_ref().map(Proxy::connector))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("iotdm/", env!("CARGO_PKG_VERSION")))
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

/// What went wrong with a transfer, as far as it may be told; `None` for an address that cannot be used, whose text
/// holds all of it, with its password and its signature.
pub(crate) fn reason(error: &ureq::Error) -> Option<String> {
    use ureq::Error as E;
    match error {
        E::RequireHttpsOnly(_) | E::BadUri(_) | E::Http(_) => None,
        // Others may repeat what the server sent.
        other => Some(other.to_string().chars().take(MAX_REASON_CHARS).collect()),
    }
}

/// ureq takes a pair as it comes and panics when it is used.
fn check_pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(), HttpClientError> {
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of both versions")
            .with_root_certificates(rustls::RootCertStore::empty());
    let checked = builder.with_client_auth_cert(chain, key);
    checked.map(drop).map_err(|error| HttpClientError::Certificate(error.to_string()))
}

fn system_roots() -> RootCerts {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(%error, "http: a certificate of the system could not be read");
    }
    RootCerts::from(loaded.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()))
}

/// How much is told of what went wrong.
const MAX_REASON_CHARS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_needs_a_certificate() {
        for pem in
            [&b""[..], b"no certificate", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"]
        {
            let result = HttpClient::new().with_ca_pem(pem);
            assert!(matches!(result, Err(HttpClientError::Authority(_))));
        }
    }
}
