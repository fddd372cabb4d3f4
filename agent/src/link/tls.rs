use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::Tls;

/// Why an encrypted connection cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A PEM file holds nothing of use.
    #[error("{what}: {reason}")]
    Pem {
        /// Which of them.
        what: &'static str,
        /// What is wrong with it.
        reason: pem::Error,
    },
    /// There are no authorities to vouch for the broker.
    #[error("{0} holds no certificate: name a file with the certificate of the broker's authority")]
    NoAuthorities(&'static str),
    /// rustls refuses the combination.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// The client's side of TLS 1.2 and 1.3, with ring: of the service's four cipher suites the two with forward secrecy
/// exist there; the two static RSA ones exist in no provider of rustls (`docs/protocol.md` §1.2).
pub(super) fn client_config(tls: &Tls) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(tls.ca_pem.as_deref())?);
    let config = match &tls.client_pem {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = certificates("client certificate", chain)?;
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
                .map_err(|reason| TlsError::Pem { what: "client key", reason })?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    Ok(Arc::new(config))
}

fn roots(ca_pem: Option<&[u8]>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let source = match ca_pem {
        Some(pem) => {
            for certificate in certificates("certificate authority", pem)? {
                roots.add(certificate)?;
            }
            "the file of certificate authorities"
        }
        None => {
            // A system may hold certificates that rustls does not understand; the others still count.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            "this system's certificate store"
        }
    };
    if roots.is_empty() { Err(TlsError::NoAuthorities(source)) } else { Ok(roots) }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|reason| TlsError::Pem { what, reason })?;
    if chain.is_empty() {
        return Err(TlsError::Pem { what, reason: pem::Error::NoItemsFound });
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let tls = Tls { ca_pem: Some(b"nothing here".to_vec()), ..Tls::default() };
        let error = client_config(&tls).unwrap_err().to_string();
        assert!(error.starts_with("certificate authority: "), "{error}");
    }
}
