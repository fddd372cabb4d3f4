use iotdm_core::{ClientKind, Identity};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The names in the first certificate of a PEM chain: the common names of its subject, and its alternative names of type
/// email, DNS and URI. With one of them, `d:<type>:<id>`, a device says who it is (`docs/protocol.md` §1.4).
///
/// What cannot be read holds no names: whether a certificate is any good, TLS says.
pub fn certificate_names(chain_pem: &[u8]) -> Vec<String> {
    match CertificateDer::pem_slice_iter(chain_pem).next() {
        Some(Ok(certificate)) => names(&certificate).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// The device that a PEM chain is for, when that is another one than this: the service would refuse it. A certificate
/// that names no device at all is for a broker that looks at other things.
pub fn another_device(chain_pem: &[u8], identity: &Identity) -> Option<String> {
    let kind = match identity.kind {
        ClientKind::Device => 'd',
        ClientKind::Gateway => 'g',
    };
    let own = format!("{kind}:{}:{}", identity.type_id, identity.device_id);
    let is_device = |name: &&String| name.starts_with("d:") || name.starts_with("g:");
    let names = certificate_names(chain_pem);
    let devices: Vec<&String> = names.iter().filter(is_device).collect();
    if devices.iter().any(|name| **name == own) {
        return None;
    }
    devices.first().map(|name| (*name).clone())
}

/// X.509 is DER: values with a tag and a length, some of which hold others (RFC 5280 §4.1).
fn names(certificate: &[u8]) -> Option<Vec<String>> {
    let mut certificate = Der(Der(certificate).expect(SEQUENCE)?);
    let mut fields = Der(certificate.expect(SEQUENCE)?);
    let mut names = Vec::new();
    // Before the subject: version, where it is given; serial number, algorithm, issuer and validity.
    let (first, _) = fields.next()?;
    for _ in 0..if first == VERSION { 4 } else { 3 } {
        fields.next()?;
    }
    common_names(fields.expect(SEQUENCE)?, &mut names);
    for (tag, content) in fields {
        if tag == EXTENSIONS {
            alternative_names(Der(content).expect(SEQUENCE)?, &mut names);
        }
    }
    Some(names)
}

fn common_names(subject: &[u8], names: &mut Vec<String>) {
    for (_, set) in Der(subject) {
        for (_, attribute) in Der(set) {
            let mut attribute = Der(attribute);
            if attribute.next() == Some((OBJECT_IDENTIFIER, COMMON_NAME))
                && let Some((_, text)) = attribute.next()
            {
                names.push(String::from_utf8_lossy(text).into_owned());
            }
        }
    }
}

fn alternative_names(extensions: &[u8], names: &mut Vec<String>) {
    for (_, extension) in Der(extensions) {
        let mut extension = Der(extension);
        if extension.next() != Some((OBJECT_IDENTIFIER, SUBJECT_ALT_NAME)) {
            continue;
        }
        // A flag may stand between the identifier and the value.
        let value = extension.find(|(tag, _)| *tag == OCTET_STRING);
        let list = value.and_then(|(_, value)| Der(value).expect(SEQUENCE)).unwrap_or_default();
        let texts = Der(list).filter(|(tag, _)| matches!(*tag, SAN_EMAIL | SAN_DNS | SAN_URI));
        names.extend(texts.map(|(_, text)| String::from_utf8_lossy(text).into_owned()));
    }
}

/// Values in a row; it ends where they cannot be read.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value's content, if it has this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

impl<'a> Iterator for Der<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&tag, rest) = self.0.split_first()?;
        let (&short, rest) = rest.split_first()?;
        let (length, rest) = if short < LONG_LENGTH {
            (usize::from(short), rest)
        } else {
            let (bytes, rest) = rest.split_at_checked(usize::from(short - LONG_LENGTH))?;
            if bytes.len() > MAX_LENGTH_BYTES {
                return None;
            }
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }
}

const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const SAN_EMAIL: u8 = 0x81;
const SAN_DNS: u8 = 0x82;
const SAN_URI: u8 = 0x86;

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// From here on the first byte of a length says how many bytes of it follow.
const LONG_LENGTH: u8 = 0x80;

/// Bytes of a length: more than 16 MiB no certificate has.
const MAX_LENGTH_BYTES: usize = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `openssl req -x509 -subj /O=ACME/CN=d:lamp:lamp-17`, with `subjectAltName` of type email, DNS and IP.
    const DEVICE: &str = include_str!("../../../../tests/tests/connect/certificates/device-17.pem");

    #[test]
    fn common_name_and_alternative_names_are_found() {
        let names = certificate_names(DEVICE.as_bytes());
        assert_eq!(names, ["d:lamp:lamp-17", "d:lamp:lamp-17-email", "lamp-17.example"]);
    }

    #[test]
    fn a_certificate_for_another_device_is_noticed_and_one_for_no_device_is_not() {
        let another = |identity: &str| another_device(DEVICE.as_bytes(), &identity.parse().unwrap());
        assert_eq!(another("d:abc123:lamp:lamp-17"), None);
        assert_eq!(another("d:abc123:lamp:lamp-17-email"), None);
        assert_eq!(another("d:abc123:lamp:lamp-18").as_deref(), Some("d:lamp:lamp-17"));
        assert_eq!(another("g:abc123:lamp:lamp-17").as_deref(), Some("d:lamp:lamp-17"));
        let broker = include_str!("../../../../tests/tests/connect/certificates/localhost.pem");
        assert_eq!(another_device(broker.as_bytes(), &"d:abc123:lamp:lamp-18".parse().unwrap()), None);
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        assert!(certificate_names(b"").is_empty());
        let pem = "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n";
        assert!(certificate_names(pem.as_bytes()).is_empty());
    }

    proptest! {
        #[test]
        fn a_damaged_certificate_is_read_without_harm(at in 0usize..2000, byte: u8, cut in 0usize..2000) {
            let mut der = CertificateDer::from_pem_slice(DEVICE.as_bytes()).unwrap().to_vec();
            let length = der.len();
            der[at % length] = byte;
            der.truncate(length.max(1) - cut % length);
            let _ = names(&der);
        }
    }
}
