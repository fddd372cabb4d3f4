//! Signatures of minisign, read and checked without the image in memory.

use std::fmt;
use std::io;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minisign_verify as minisign;

use super::VerifierError;

/// A public key of minisign. Images signed by its secret half are taken.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: minisign::PublicKey,
    id: KeyId,
}

/// Why a text is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no public key of minisign: expected the 56 characters that begin with RW, from its .pub file")]
pub struct PublicKeyError;

impl PublicKey {
    /// How minisign names it: 16 hexadecimal digits.
    pub fn id(&self) -> String {
        self.id.to_string()
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    /// Takes the key alone, or the two lines of its file.
    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let line = text.trim().lines().last().unwrap_or_default().trim();
        let key = minisign::PublicKey::from_base64(line).map_err(|_| PublicKeyError)?;
        let id = STANDARD.decode(line).ok().and_then(|bytes| KeyId::within(&bytes)).ok_or(PublicKeyError)?;
        Ok(Self { key, id })
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

/// A signature of an image: a whole `.minisig` file, which is written in base64 into the verifier.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::firmware) struct Signature {
    text: String,
    id: KeyId,
}

impl Signature {
    /// Whether one of these keys can have made it.
    pub(in crate::firmware) fn is_known_to(&self, keys: &[PublicKey]) -> bool {
        keys.iter().any(|key| key.id == self.id)
    }

    /// Whether it is one of these keys' for what `read` gives out; none when `read` did not come to the end.
    pub(super) fn check(
        &self,
        keys: &[PublicKey],
        version: Option<&str>,
        read: impl FnOnce(&mut dyn FnMut(&[u8])) -> io::Result<bool>,
    ) -> io::Result<Option<bool>> {
        let signature = minisign::Signature::decode(&self.text).expect("it was decoded when it was parsed");
        // Key ids are random and short: two keys may share one.
        let mut streams: Vec<_> =
            keys.iter().filter_map(|key| key.key.verify_stream(&signature).ok()).collect();
        if streams.is_empty() {
            tracing::warn!(key = %self.id, "firmware: signed by a key that this device does not know");
            return Ok(Some(false));
        }
        if !read(&mut |bytes| streams.iter_mut().for_each(|stream| stream.update(bytes)))? {
            return Ok(None);
        }
        if !streams.iter_mut().any(|stream| stream.finalize().is_ok()) {
            return Ok(Some(false));
        }
        // Proved from here on, with the image.
        let comment = signature.trusted_comment();
        tracing::info!(key = %self.id, comment = shown(comment), "firmware: the signature is good");
        let meant = signed_version(comment);
        if meant.is_some() && meant != version {
            tracing::warn!(signed = meant.map(shown), version, "firmware: signed as another version");
            return Ok(Some(false));
        }
        Ok(Some(true))
    }
}

/// The word `version:…` of a trusted comment.
fn signed_version(comment: &str) -> Option<&str> {
    comment.split_whitespace().find_map(|word| word.strip_prefix("version:"))
}

/// As much of a comment as a log line may show.
fn shown(comment: &str) -> String {
    let plain = comment.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(MAX_COMMENT_CHARS).collect()
}

impl FromStr for Signature {
    type Err = VerifierError;

    /// Takes the base64 of a `.minisig` file, with or without the `=` at its end.
    fn from_str(text: &str) -> Result<Self, VerifierError> {
        let wrong = VerifierError::Signature;
        let text = text.trim().trim_end_matches('=');
        if text.len() > MAX_SIGNATURE_BYTES {
            return Err(wrong("the signature is too long"));
        }
        let padding = "=".repeat((4 - text.len() % 4) % 4);
        let bytes = STANDARD.decode(format!("{text}{padding}"));
        let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or(wrong("after minisign: has to come a .minisig file in base64"))?;
        let line = text.lines().nth(1).unwrap_or_default();
        let bytes = STANDARD.decode(line).unwrap_or_default();
        if minisign::Signature::decode(&text).is_err() {
            return Err(wrong("what is in base64 is no .minisig file"));
        }
        let id = KeyId::within(&bytes).ok_or(wrong("what is in base64 is no .minisig file"))?;
        if bytes.starts_with(LEGACY) {
            return Err(wrong("a legacy signature can be checked only with the whole image in memory"));
        }
        Ok(Self { text, id })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(&self.text))
    }
}

/// Which key, as minisign names it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct KeyId(u64);

impl KeyId {
    /// Keys and signatures begin with two bytes for the algorithm, then this.
    fn within(bytes: &[u8]) -> Option<Self> {
        Some(Self(u64::from_le_bytes(bytes.get(2..10)?.try_into().ok()?)))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl Signature {
    /// The key's name, for a message.
    pub(in crate::firmware) fn key_id(&self) -> String {
        self.id.to_string()
    }
}

/// The algorithm of a signature over the image itself; `ED` is the one over its BLAKE2b hash.
const LEGACY: &[u8] = b"Ed";

/// A signature file has some 300 bytes, and its two comments may have more; in base64.
const MAX_SIGNATURE_BYTES: usize = 8 * 1024;

/// How much of a trusted comment a log line shows.
const MAX_COMMENT_CHARS: usize = 200;

#[cfg(test)]
pub(in crate::firmware) mod tests {
    use std::path::Path;

    use tokio_util::sync::CancellationToken;

    use super::super::{Verdict, Verifier};
    use super::*;

    // Made with minisign 0.11 of a file with the bytes 0 to 99, by the command in the documentation.
    pub(in crate::firmware) const KEY: &str = "RWQiIBfklrKsRlsto5FOL4KB0F9OCBXTkNsgqO7jpi87yIxuLAyk1fZa";
    pub(in crate::firmware) const OTHER_KEY: &str =
        "RWRNR5tT2MoP2tDwhmriFTP6pW9avj1GHG+FhMUdCEYMmVUDiQsp9ghL";
    const BODY: &str = "RUQiIBfklrKsRh0uPfJudDxK7ayWN2wP4iAJ3IqVD2fitP8vqDyH3h2LgGC5jVIrx2D5MDLpoADbCuNwG8HfDOJBDZlsVNgDOAg=";
    const PLAIN: (&str, &str) = (
        "timestamp:1795408419\tfile:image\thashed",
        "NHQMpOdG8B5O4VpE/tKzlWyHA5xGvomWKvjHuQcs6Fxk25Wyqszmvg9mFwhPCzXWsFzKHFtwmXnzMuH4VtUiCQ==",
    );
    const VERSION: (&str, &str) = (
        "version:2.0 street light",
        "ikrVUhp5S9PiWpKIsxKxRJGe8/MWNPtprPfCddFTccbLHkbO14EsEwaDBgyRFQMBiIrwL204LzU0nELwHB3TDw==",
    );
    const LEGACY_BODY: &str = "RWQiIBfklrKsRl5dR6/4CqBA0ZrxLc33dqjFFafILipXkFsHlH2uGbaTCEfwaR73FBjc3sba+bLR18yh7LCrqfq5tUyHwKofeAQ=";
    const LEGACY_REST: (&str, &str) = (
        "timestamp:1795408419\tfile:image",
        "DRD3qMsY9hatpbP3w5jbpE7idNF/O4uoedEU8UdALEj/hMgBr/rucYg6bVQfjZ3wjau0jnLX6rYdRbGNAVGuDg==",
    );

    fn verifier(body: &str, (comment, global): (&str, &str)) -> String {
        let file = format!("untrusted comment: whatever\n{body}\ntrusted comment: {comment}\n{global}\n");
        format!("minisign:{}", STANDARD.encode(file))
    }

    /// Signed by [`KEY`], for the bytes 0 to 99.
    pub(in crate::firmware) fn signed() -> String {
        verifier(BODY, PLAIN)
    }

    /// The same, as version 2.0.
    pub(in crate::firmware) fn signed_as_2_0() -> String {
        verifier(BODY, VERSION)
    }

    /// The same, over the image itself.
    pub(in crate::firmware) fn signed_as_legacy() -> String {
        verifier(LEGACY_BODY, LEGACY_REST)
    }

    fn check(verifier: &str, bytes: &[u8], keys: &[&str], version: Option<&str>) -> Verdict {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("image");
        std::fs::write(&file, bytes).unwrap();
        let keys: Vec<PublicKey> = keys.iter().map(|key| key.parse().unwrap()).collect();
        let verifier: Verifier = verifier.parse().unwrap();
        verifier.check(&file, &keys, version, &CancellationToken::new()).unwrap()
    }

    fn image() -> Vec<u8> {
        (0..100).collect()
    }

    #[test]
    fn an_image_is_genuine_only_with_its_bytes_and_one_of_the_keys() {
        assert_eq!(check(&signed(), &image(), &[KEY], None), Verdict::Genuine);
        assert_eq!(check(&signed(), &image(), &[OTHER_KEY, KEY], None), Verdict::Genuine);
        assert_eq!(check(&signed(), &image()[1..], &[KEY], None), Verdict::Different);
        assert_eq!(check(&signed(), &image(), &[OTHER_KEY], None), Verdict::Different);
        assert_eq!(check(&signed(), &image(), &[], None), Verdict::Different);
    }

    /// The comment is what the second signature in the file is for.
    #[test]
    fn a_comment_that_was_exchanged_proves_nothing() {
        let exchanged = verifier(BODY, ("version:3.0", VERSION.1));
        assert_eq!(check(&exchanged, &image(), &[KEY], Some("3.0")), Verdict::Different);
        let exchanged = verifier(BODY, (PLAIN.0, VERSION.1));
        assert_eq!(check(&exchanged, &image(), &[KEY], None), Verdict::Different);
    }

    #[test]
    fn an_image_signed_as_a_version_is_no_other_version() {
        assert_eq!(check(&signed_as_2_0(), &image(), &[KEY], Some("2.0")), Verdict::Genuine);
        for version in [None, Some("3.0"), Some("")] {
            assert_eq!(check(&signed_as_2_0(), &image(), &[KEY], version), Verdict::Different);
        }
        assert_eq!(check(&signed(), &image(), &[KEY], Some("3.0")), Verdict::Genuine, "it names no version");
    }

    #[test]
    fn a_legacy_signature_is_refused_with_the_command_that_makes_a_good_one() {
        let error = signed_as_legacy().parse::<Verifier>().unwrap_err().to_string();
        assert!(error.contains("the whole image in memory; make it with: minisign -S -m IMAGE"), "{error}");
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let encoded = |file: &str| format!("minisign:{}", STANDARD.encode(file));
        for text in [
            "minisign:".to_owned(),
            "minisign:é".to_owned(),
            "minisign:====".to_owned(),
            format!("minisign:{BODY}"),
            encoded(""),
            encoded(&format!("untrusted comment: x\n{BODY}\n")),
            encoded(&format!("untrusted comment: x\n{}\ntrusted comment: y\n{}\n", PLAIN.1, PLAIN.1)),
            format!("minisign:{}", STANDARD.encode([0xff; 100])),
            format!("minisign:{}", "A".repeat(MAX_SIGNATURE_BYTES + 1)),
        ] {
            assert!(matches!(text.parse::<Verifier>(), Err(VerifierError::Signature(_))), "{text}");
        }
    }

    #[test]
    fn a_signature_is_written_as_it_is_read() {
        let one: Verifier = signed().parse().unwrap();
        let other: Verifier = signed().trim_end_matches('=').parse().unwrap();
        assert_eq!(one, other);
        assert_eq!(one.to_string(), signed());
        assert_ne!(one, signed_as_2_0().parse().unwrap());
    }

    #[test]
    fn a_key_is_read_alone_or_with_its_comment_and_shown_by_its_id() {
        let key: PublicKey = KEY.parse().unwrap();
        let file = format!("untrusted comment: minisign public key 46ACB296E4172022\n{KEY}\n");
        assert_eq!(file.parse::<PublicKey>().unwrap().id(), key.id());
        assert_eq!(format!("{key:?}"), "PublicKey(46ACB296E4172022)");
        for text in ["", "RWQ", "untrusted comment: x", BODY] {
            assert_eq!(text.parse::<PublicKey>().unwrap_err(), PublicKeyError, "{text}");
        }
    }

    #[test]
    fn a_comment_is_shown_without_what_a_terminal_would_obey() {
        assert_eq!(shown("a\u{1b}[2Jb\nc"), "a [2Jb c");
        assert_eq!(shown(&"x".repeat(9999)).len(), MAX_COMMENT_CHARS);
    }

    #[test]
    fn a_check_stops_when_it_is_to() {
        let stop = CancellationToken::new();
        stop.cancel();
        let verifier: Verifier = signed().parse().unwrap();
        let verdict = verifier.check(Path::new("/dev/null"), &[KEY.parse().unwrap()], None, &stop);
        assert_eq!(verdict.unwrap(), Verdict::Stopped);
    }
}
