//! The section `[broker]` as it is written.

use serde::Deserialize;

use iotdm_agent::config::{Pin, PinError, Transport};

use super::mqtt::{MqttVersion, RequestExpiry, SessionExpiry};
use super::values::{
    CredentialsVariable, FilePath, Host, KeepAlive, Port, PrefixText, ProxyText, Span, Whole,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [broker]")]
pub(super) struct Broker {
    pub(super) host: Option<Host>,
    pub(super) domain: Option<Domain>,
    pub(super) port: Option<Whole<Port>>,
    pub(super) transport: TransportName,
    pub(super) path: Option<WebSocketPath>,
    pub(super) tls: Option<bool>,
    pub(super) tls_version: Option<TlsVersionName>,
    pub(super) ca_file: Option<FilePath>,
    pub(super) pins: Vec<PinText>,
    pub(super) insecure_skip_verify: bool,
    pub(super) client_certificate: Option<FilePath>,
    pub(super) client_key: Option<FilePath>,
    pub(super) proxy: Option<ProxyText>,
    pub(super) proxy_credentials_file: Option<FilePath>,
    pub(super) proxy_credentials_env: Option<CredentialsVariable>,
    pub(super) keep_alive: Option<Span<KeepAlive>>,
    pub(super) durable_session: Option<bool>,
    pub(super) topic_prefix: Option<PrefixText>,
    pub(super) mqtt_version: Option<MqttVersion>,
    pub(super) session_expiry: Option<Span<SessionExpiry>>,
    pub(super) request_expiry: Option<Span<RequestExpiry>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TransportName {
    #[default]
    Tcp,
    WebSocket,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum TlsVersionName {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// The domain of a Maximo Application Suite.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Domain(pub(super) String);

impl TryFrom<String> for Domain {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        // Then it would be in the host name twice.
        let is_whole = format!(".{text}").contains(".messaging.iot.");
        if text.len() <= MAX_DOMAIN_BYTES && text.contains('.') && text.split('.').all(is_label) && !is_whole
        {
            return Ok(Self(text));
        }
        Err(format!(
            "{text:?} is no domain; write that of the suite, such as \"mas.example.com\", without \"messaging.iot\" \
             before it"
        ))
    }
}

/// Where a broker listens for WebSocket.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct WebSocketPath(pub(super) String);

impl TryFrom<String> for WebSocketPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte);
        if text.len() <= MAX_WEBSOCKET_PATH_BYTES && text.starts_with('/') && text.bytes().all(is_plain) {
            return Ok(Self(text));
        }
        Err(format!(
            "{text:?} is no path of a WebSocket; write one that begins with /, such as {:?}",
            Transport::DEFAULT_PATH
        ))
    }
}

/// The key that a broker has to have.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct PinText(pub(super) Pin);

impl TryFrom<String> for PinText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: PinError| {
            format!(
                "{error}; take it from: openssl x509 -in <certificate> -pubkey -noout | openssl pkey -pubin -outform der \
                 | openssl dgst -sha256"
            )
        })
    }
}

/// Longest domain of a suite, in bytes: an organization and `.messaging.iot.` come before it in a host name of 253.
const MAX_DOMAIN_BYTES: usize = 200;

/// Longest path of a WebSocket, in bytes: servers take several times that.
const MAX_WEBSOCKET_PATH_BYTES: usize = 1024;
