//! TLS 1.2 and 1.3 by rustls with ring.

mod certificate;
mod renewal;
mod verify;

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::config::{Tls, TlsVersion};

use verify::{NoVerifier, PinVerifier};

pub use certificate::{another_device, certificate_names};
pub(super) use renewal::TlsClient;
pub(super) use verify::WrongPin;

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
    /// The device's key is not the one that its certificate was made for.
    #[error(
        "the client certificate and the client key do not belong together: name the key that the certificate was made \
         for, and the device's own certificate first in its file"
    )]
    ClientPair,
    /// A pin says whom to trust, and verification is switched off.
    #[error("pins and insecure_skip_verify exclude each other: drop one of them")]
    PinsWithoutVerification,
    /// rustls refuses the combination.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// The client's side of TLS. The server's name is always in the first message (SNI): rustls leaves it out for addresses
/// only.
pub(super) fn client_config(tls: &Tls) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(tls.version))?
        .dangerous()
        .with_custom_certificate_verifier(verifier(tls, provider)?);
    let config = match &tls.client_pem {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = certificates("client certificate", chain)?;
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
                .map_err(|reason| TlsError::Pem { what: "client key", reason })?;
            builder.with_client_auth_cert(chain, key).map_err(|reason| match reason {
                rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch) => {
                    TlsError::ClientPair
                }
                other => other.into(),
            })?
        }
    };
    Ok(config)
}

/// The cipher suites that this device offers, as a broker's documentation names them. Of the service's four, the two
/// with forward secrecy are among them; the two static RSA ones exist in no provider of rustls (`docs/protocol.md` §1.2).
pub(super) fn offered_suites(version: Option<TlsVersion>) -> String {
    let versions = versions(version);
    let provider = provider();
    let suites = provider.cipher_suites.iter().filter(|suite| versions.contains(&suite.version()));
    let names = suites.map(|suite| format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1));
    names.collect::<Vec<_>>().join(", ")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn versions(only: Option<TlsVersion>) -> &'static [&'static SupportedProtocolVersion] {
    match only {
        None => rustls::DEFAULT_VERSIONS,
        Some(TlsVersion::Tls12) => ONLY_TLS12,
        Some(TlsVersion::Tls13) => ONLY_TLS13,
    }
}

fn verifier(tls: &Tls, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    if tls.insecure_skip_verify {
        if !tls.pins.is_empty() {
            return Err(TlsError::PinsWithoutVerification);
        }
        return Ok(Arc::new(NoVerifier::new(provider)));
    }
    let roots = Arc::new(roots(tls.ca_pem.as_deref())?);
    let chain = WebPkiServerVerifier::builder_with_provider(roots, provider)
        .build()
        .expect("there are roots, and no revocation lists");
    if tls.pins.is_empty() {
        return Ok(chain);
    }
    Ok(Arc::new(PinVerifier::new(chain, tls.pins.clone())))
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

static ONLY_TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

static ONLY_TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let tls = Tls { ca_pem: Some(b"nothing here".to_vec()), ..Tls::default() };
        let error = client_config(&tls).unwrap_err().to_string();
        assert!(error.starts_with("certificate authority: "), "{error}");
    }

    #[test]
    fn pins_without_verification_are_refused() {
        let pins = vec![crate::config::Pin::of_key(b"")];
        let tls = Tls { pins, insecure_skip_verify: true, ..Tls::default() };
        assert!(matches!(client_config(&tls), Err(TlsError::PinsWithoutVerification)));
    }

    #[test]
    fn a_certificate_and_another_certificates_key_are_refused_in_words() {
        let certificate = include_bytes!("../../../tests/tests/connect/certificates/device-17.pem");
        let key = include_str!("../../../tests/tests/connect/certificates/wildcard.key");
        let pair = Some((certificate.to_vec(), crate::config::Secret::new(key)));
        let tls = Tls { client_pem: pair, insecure_skip_verify: true, ..Tls::default() };
        let error = client_config(&tls).unwrap_err().to_string();
        assert!(error.contains("do not belong together: name the key"), "{error}");
    }

    #[test]
    fn a_version_has_its_own_suites() {
        let tls12 = offered_suites(Some(TlsVersion::Tls12));
        assert!(tls12.contains("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"), "{tls12}");
        assert!(tls12.contains("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), "{tls12}");
        assert!(!tls12.contains("TLS_AES_256_GCM_SHA384"), "{tls12}");
        assert!(offered_suites(Some(TlsVersion::Tls13)).starts_with("TLS_AES_256_GCM_SHA384"));
    }
}
