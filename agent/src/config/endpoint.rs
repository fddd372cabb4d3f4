//! How a broker is reached: what carries MQTT, what lies between, and what proves the broker.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::Secret;

/// What carries MQTT to the broker. With or without TLS is another setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP, as brokers offer it on 1883 and, with TLS, on 8883.
    #[default]
    Tcp,
    /// WebSocket with the sub-protocol `mqtt`, as brokers offer it on 80 and, with TLS, on 443.
    WebSocket {
        /// The path of the address, from its `/` on.
        path: String,
    },
}

impl Transport {
    /// The path at which the service and most brokers listen for WebSocket.
    pub const DEFAULT_PATH: &str = "/mqtt";

    /// WebSocket at [`DEFAULT_PATH`](Self::DEFAULT_PATH).
    pub fn websocket() -> Self {
        Self::WebSocket { path: Self::DEFAULT_PATH.into() }
    }

    /// The port that brokers use for it, with TLS or without (`docs/protocol.md` §1.1).
    pub fn default_port(&self, with_tls: bool) -> u16 {
        match (self, with_tls) {
            (Self::Tcp, true) => 8883,
            (Self::Tcp, false) => 1883,
            (Self::WebSocket { .. }, true) => 443,
            (Self::WebSocket { .. }, false) => 80,
        }
    }
}

/// An HTTP proxy that the broker is reached through, by its `CONNECT`. With TLS the proxy sees the broker's name and
/// nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Host name or address of the proxy.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// User and password for Basic authentication, which cross the network to the proxy in clear.
    pub credentials: Option<(String, Secret)>,
}

/// A version of TLS. Older ones are never offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// The SHA-256 of a broker's public key, as its certificate has it (SubjectPublicKeyInfo in DER).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; PIN_BYTES]);

impl Pin {
    /// The pin of a SubjectPublicKeyInfo in DER.
    pub fn of_key(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }
}

impl FromStr for Pin {
    type Err = PinError;

    /// Reads `sha256:` and 64 hexadecimal digits or 44 characters of base64.
    fn from_str(text: &str) -> Result<Self, PinError> {
        let digest = text.strip_prefix(PIN_PREFIX).ok_or(PinError::Prefix)?;
        let bytes = if digest.len() == 2 * PIN_BYTES { hex(digest) } else { STANDARD.decode(digest).ok() };
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(PinError::Digest)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PIN_PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// It does not say which digest it is.
    #[error("a pin begins with {PIN_PREFIX}")]
    Prefix,
    /// It does not hold 32 bytes.
    #[error("a pin has 64 hexadecimal digits or 44 characters of base64 after {PIN_PREFIX}")]
    Digest,
}

/// The files that the device's certificate and key come from. They are looked at before each connection, and read again
/// when they have changed.
#[derive(Clone)]
pub struct ClientFiles {
    certificate: PathBuf,
    key: PathBuf,
    read: ReadPair,
}

/// Reads a certificate chain and its key, both PEM; else says why not, as a sentence without a secret.
type ReadPair = Arc<dyn Fn(&Path, &Path) -> Result<(Vec<u8>, Secret), String> + Send + Sync>;

impl ClientFiles {
    /// These two files, read by a function that judges what it finds (who may read the key, how large a file may be).
    /// It is called on the agent's own task and should not take long.
    pub fn new(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        read: impl Fn(&Path, &Path) -> Result<(Vec<u8>, Secret), String> + Send + Sync + 'static,
    ) -> Self {
        Self { certificate: certificate.into(), key: key.into(), read: Arc::new(read) }
    }

    /// The certificate's path and the key's.
    pub fn paths(&self) -> [&Path; 2] {
        [&self.certificate, &self.key]
    }

    /// What they hold.
    ///
    /// # Errors
    /// What the function of [`new`](Self::new) says.
    pub fn read(&self) -> Result<(Vec<u8>, Secret), String> {
        (self.read)(&self.certificate, &self.key)
    }
}

impl fmt::Debug for ClientFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientFiles").field("paths", &self.paths()).finish_non_exhaustive()
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    Some(digits?.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

const PIN_PREFIX: &str = "sha256:";

/// The length of a SHA-256, in bytes.
const PIN_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_reads_the_same_in_hexadecimal_and_in_base64() {
        let pin = Pin::of_key(b"key");
        let hex = pin.to_string();
        assert_eq!(hex, "sha256:2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683");
        assert_eq!(hex.parse(), Ok(pin));
        assert_eq!(hex.to_uppercase().replace("SHA", "sha").parse(), Ok(pin));
        assert_eq!("sha256:LHDhK3oGRvkiefQnx7OOczTY5Tic/xZ6HcMOc/gmtoM=".parse(), Ok(pin));
    }

    #[test]
    fn what_is_no_pin_is_refused() {
        assert_eq!("2c70".parse::<Pin>(), Err(PinError::Prefix));
        for digest in ["", "2c70", "LHDhK3o=", &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(format!("sha256:{digest}").parse::<Pin>(), Err(PinError::Digest), "{digest}");
        }
    }

    #[test]
    fn four_settings_have_four_default_ports() {
        let ports = |transport: &Transport| [transport.default_port(true), transport.default_port(false)];
        assert_eq!(ports(&Transport::Tcp), [8883, 1883]);
        assert_eq!(ports(&Transport::websocket()), [443, 80]);
    }
}
