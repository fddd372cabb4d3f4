//! What proves that an image is the one the platform speaks of.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha512};
use tokio_util::sync::CancellationToken;

mod signature;

pub(super) use signature::Signature;
#[cfg(test)]
pub(super) use signature::tests as signed;
pub use signature::{PublicKey, PublicKeyError};

/// What `mgmt.firmware.verifier` says: a checksum, or a signature. The protocol names no algorithm (`docs/protocol.md`
/// §6.3): SHA-256 and SHA-512 are taken, with a prefix or recognised by their length. MD5 and SHA-1 are refused: images
/// that share one of those can be made to order, so that it proves nothing about who made the image.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) enum Verifier {
    Sha256(Vec<u8>),
    Sha512(Vec<u8>),
    Minisign(Signature),
}

impl Verifier {
    /// Reads the whole file, in constant memory, and compares. A signature needs one of the keys, and if what it says
    /// of itself names a version, that one.
    pub(super) fn check(
        &self,
        file: &Path,
        keys: &[PublicKey],
        version: Option<&str>,
        stop: &CancellationToken,
    ) -> io::Result<Verdict> {
        let is_genuine = match self {
            Self::Sha256(expected) => digest::<Sha256>(file, stop)?.map(|digest| digest == *expected),
            Self::Sha512(expected) => digest::<Sha512>(file, stop)?.map(|digest| digest == *expected),
            Self::Minisign(signature) => {
                signature.check(keys, version, |take| read_through(file, stop, take))?
            }
        };
        Ok(match is_genuine {
            Some(true) => Verdict::Genuine,
            Some(false) => Verdict::Different,
            None => Verdict::Stopped,
        })
    }
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Genuine,
    Different,
    /// The check was to stop before it came to an end.
    Stopped,
}

/// Why a verifier cannot be used; what the platform is told with 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum VerifierError {
    #[error("verifier: {0} is too weak to prove an image; use {ACCEPTED_FORMS}")]
    TooWeak(&'static str),
    #[error("verifier: expected {ACCEPTED_FORMS}")]
    Unknown,
    #[error("verifier: {0}; make it with: {MINISIGN_COMMAND}")]
    Signature(&'static str),
}

impl FromStr for Verifier {
    type Err = VerifierError;

    fn from_str(text: &str) -> Result<Self, VerifierError> {
        let (algorithm, digits) = match text.trim().split_once(':') {
            Some((algorithm, digits)) => (algorithm.to_ascii_lowercase(), digits),
            None => (algorithm_of_length(text.trim().len()).to_owned(), text.trim()),
        };
        match algorithm.as_str() {
            "md5" => Err(VerifierError::TooWeak("MD5")),
            "sha1" | "sha-1" => Err(VerifierError::TooWeak("SHA-1")),
            "sha256" | "sha-256" => bytes_of(digits, SHA256_BYTES).map(Self::Sha256),
            "sha512" | "sha-512" => bytes_of(digits, SHA512_BYTES).map(Self::Sha512),
            "minisign" => digits.parse().map(Self::Minisign),
            _ => Err(VerifierError::Unknown),
        }
    }
}

impl TryFrom<String> for Verifier {
    type Error = VerifierError;

    fn try_from(text: String) -> Result<Self, VerifierError> {
        text.parse()
    }
}

impl From<Verifier> for String {
    fn from(verifier: Verifier) -> Self {
        verifier.to_string()
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes) = match self {
            Self::Sha256(bytes) => ("sha256", bytes),
            Self::Sha512(bytes) => ("sha512", bytes),
            Self::Minisign(signature) => return write!(f, "minisign:{signature}"),
        };
        write!(f, "{name}:")?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn algorithm_of_length(digits: usize) -> &'static str {
    match digits {
        32 => "md5",
        40 => "sha1",
        64 => "sha256",
        128 => "sha512",
        _ => "",
    }
}

fn bytes_of(digits: &str, length: usize) -> Result<Vec<u8>, VerifierError> {
    if digits.len() != 2 * length || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(VerifierError::Unknown);
    }
    let byte = |pair: &[u8]| {
        let value = |digit: u8| char::from(digit).to_digit(16).expect("only hexadecimal digits are left");
        u8::try_from(value(pair[0]) * 16 + value(pair[1])).expect("two hexadecimal digits are one byte")
    };
    Ok(digits.as_bytes().chunks_exact(2).map(byte).collect())
}

/// The file's digest; none when it was to stop.
fn digest<D: Digest>(file: &Path, stop: &CancellationToken) -> io::Result<Option<Vec<u8>>> {
    let mut digest = D::new();
    let is_read = read_through(file, stop, &mut |bytes| digest.update(bytes))?;
    Ok(is_read.then(|| digest.finalize().to_vec()))
}

/// Gives out the file from its begin to its end; whether it came there, and was not to stop before.
fn read_through(file: &Path, stop: &CancellationToken, take: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    let mut file = File::open(file)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        if stop.is_cancelled() {
            return Ok(false);
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => take(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What the platform may send; part of every refusal of a verifier.
pub(super) const ACCEPTED_FORMS: &str = "sha256:<64 hexadecimal digits>, sha512:<128 hexadecimal digits>, only the digits, or minisign:<signature>";

/// Makes a signature that can be used, for the image in the file `IMAGE`.
pub(super) const MINISIGN_COMMAND: &str = "minisign -S -m IMAGE && echo minisign:$(base64 -w0 IMAGE.minisig)";

const SHA256_BYTES: usize = 32;
const SHA512_BYTES: usize = 64;

/// Read at once while a file is checked, in bytes: large enough for flash, small enough for any device.
const READ_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `abc` (FIPS 180-4).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_checksum_is_taken_with_its_name_or_by_its_length() {
        let named: Verifier = format!("SHA256:{}", ABC.to_uppercase()).parse().unwrap();
        assert_eq!(ABC.parse::<Verifier>().unwrap(), named);
        assert_eq!(named.to_string(), format!("sha256:{ABC}"));
        assert!(matches!("a0".repeat(64).parse::<Verifier>().unwrap(), Verifier::Sha512(_)));
    }

    #[test]
    fn weak_checksums_are_refused_by_name() {
        for (text, name) in [
            ("md5:900150983cd24fb0d6963f7d28e17f72".to_owned(), "MD5"),
            ("9".repeat(32), "MD5"),
            ("9".repeat(40), "SHA-1"),
        ] {
            assert_eq!(text.parse::<Verifier>(), Err(VerifierError::TooWeak(name)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_accepted_forms() {
        for text in [
            "",
            "crc32:00",
            "sha256:",
            "sha256:00",
            &format!("sha512:{ABC}"),
            &"g".repeat(64),
            &"é".repeat(32),
        ] {
            let error = text.parse::<Verifier>().unwrap_err();
            assert_eq!(error, VerifierError::Unknown, "{text}");
            assert!(error.to_string().contains("sha512:<128"));
        }
    }

    #[test]
    fn a_file_is_genuine_only_with_exactly_these_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let check = |bytes: &[u8]| {
            let file = folder.path().join("image");
            std::fs::write(&file, bytes).unwrap();
            let verifier: Verifier = ABC.parse().unwrap();
            verifier.check(&file, &[], None, &CancellationToken::new()).unwrap()
        };
        assert_eq!(check(b"abc"), Verdict::Genuine);
        assert_eq!(check(b"abd"), Verdict::Different);
        assert_eq!(check(b"abc\0"), Verdict::Different);
    }

    #[test]
    fn a_check_stops_when_it_is_cancelled() {
        let stop = CancellationToken::new();
        stop.cancel();
        let file = tempfile::NamedTempFile::new().unwrap();
        let verdict = ABC.parse::<Verifier>().unwrap().check(file.path(), &[], None, &stop).unwrap();
        assert_eq!(verdict, Verdict::Stopped);
    }
}
