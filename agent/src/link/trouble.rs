//! Why there is no connection, in words that an operator can act on.
//!
//! rumqttc, rustls and sockets say what they expected; what is there instead is looked up here, when no MQTT broker
//! answered: one more connection, which carries nothing of this device.

mod look;

use std::io;
use std::time::{Duration, SystemTime};

use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use rumqttc::{ConnectionError, StateError};
use rustls::CertificateError;

use crate::config::{Broker, Transport};
use crate::engine::{EARLIEST_WALL_MS, Lost};

use super::endpoint::told;
use super::{LinkEvent, host};

use self::look::{Found, look};

/// Who should answer.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    host: String,
    port: u16,
    tls: bool,
    /// Whether nothing but TCP, or TLS over it, lies between. Where there is a proxy, a look around it would be another
    /// way than the operator wants, and at a WebSocket HTTP is what belongs there.
    direct: bool,
}

impl Peer {
    pub(super) fn of(broker: &Broker) -> Self {
        let host = host::dialed(&broker.host, broker.tls.is_some());
        let direct = broker.transport == Transport::Tcp && broker.proxy.is_none();
        Self { host, port: broker.port, tls: broker.tls.is_some(), direct }
    }

    /// What is to be said of the end of a connection; `connected` once CONNACK came.
    pub(super) async fn explain(&self, reason: &ConnectionError, connected: bool) -> String {
        if connected {
            return ended(reason);
        }
        match reason {
            ConnectionError::NetworkTimeout => self.silent().await,
            ConnectionError::NotConnAck(_) => {
                self.not_mqtt("it answered with something else than CONNACK").await
            }
            ConnectionError::MqttState(StateError::Deserialization(error)) => {
                match error {
                    PacketError::Io(error) if is_end(error) => self.unreachable(error),
                    // The text of a packet error says nothing to an operator.
                    _ => self.not_mqtt("it answered with something else than MQTT").await,
                }
            }
            ConnectionError::MqttState(StateError::ConnectionAborted) => self.closed(),
            ConnectionError::ConnectionRefused(code) => refused(*code),
            ConnectionError::Io(error) => self.unreachable(error),
            ConnectionError::Tls(error) => self.without_tls(error).await,
            other => told(other),
        }
    }

    pub(super) async fn without_tls(&self, error: &rumqttc::TlsError) -> String {
        match error {
            rumqttc::TlsError::Io(error) => match tls_reason(error) {
                Some(reason) => self.untrusted(reason).await,
                None => self.unreachable(error),
            },
            rumqttc::TlsError::TLS(reason) => self.untrusted(reason).await,
            other => other.to_string(),
        }
    }

    pub(super) async fn not_mqtt(&self, otherwise: &str) -> String {
        match self.look().await {
            Some(Found::Answer(what)) => format!("this is not an MQTT broker: {what}"),
            Some(Found::Tls) if !self.tls => NO_TLS_HERE.into(),
            _ => format!("this is not an MQTT broker: {otherwise}"),
        }
    }

    async fn look(&self) -> Option<Found> {
        if self.direct { Some(look(&self.host, self.port).await) } else { None }
    }

    /// Everything took too long.
    pub(super) async fn silent(&self) -> String {
        let Some(found) = self.look().await else { return "no CONNACK came in time".into() };
        match found {
            Found::Unresolved => format!("the name {} is not resolved: no name server answers", self.host),
            Found::Unreachable => format!("nothing answers at port {}: no connection comes about", self.port),
            Found::Tls if !self.tls => NO_TLS_HERE.into(),
            Found::Tls | Found::Silence if self.tls => {
                "it accepts the connection and does not end the TLS handshake, or sends no CONNACK".into()
            }
            Found::Tls | Found::Silence => "it accepts the connection and sends no CONNACK".into(),
            Found::Answer(what) => format!("this is not an MQTT broker: {what}"),
        }
    }

    /// It took the connection and ended it.
    fn closed(&self) -> String {
        format!("the connection was closed before CONNACK{}", self.guess())
    }

    /// What a connection that is closed without an answer often means.
    pub(super) fn guess(&self) -> &'static str {
        if self.tls { "; does this port speak TLS?" } else { "; does it want TLS?" }
    }

    pub(super) fn unreachable(&self, error: &io::Error) -> String {
        let Self { host, port, .. } = self;
        match error.kind() {
            _ if is_end(error) => self.closed(),
            io::ErrorKind::ConnectionRefused => format!("nothing listens at port {port} ({error})"),
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                format!("there is no way to it: is this device online? ({error})")
            }
            // The resolver's errors have no kind of their own.
            _ if error.to_string().contains("lookup address") => {
                format!(
                    "the name {host} cannot be resolved: is the name right, and this device online? ({error})"
                )
            }
            _ => error.to_string(),
        }
    }

    async fn untrusted(&self, reason: &rustls::Error) -> String {
        match reason {
            rustls::Error::InvalidMessage(_) => self.not_mqtt("it does not answer with TLS").await,
            other => format!("TLS: {other}"),
        }
    }
}

/// Whether the broker closed the connection by itself, as it does when another client takes the client id.
pub(super) fn kind(reason: &ConnectionError, connected: bool) -> Lost {
    match reason {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => Lost::Credentials,
        ConnectionError::MqttState(StateError::ConnectionAborted) if connected => Lost::Closed,
        ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(PacketError::Io(error)),
        )
        | ConnectionError::Io(error)
            if connected && is_end(error) =>
        {
            Lost::Closed
        }
        _ => Lost::Other,
    }
}

/// What a SUBACK says, filter by filter. Without the first, which is management's, the device is of no use.
pub(super) fn subscribed(granted: &[bool]) -> LinkEvent {
    let refused =
        granted.iter().enumerate().filter(|(_, granted)| !**granted).map(|(place, _)| place).collect();
    LinkEvent::Subscribed { granted: granted.first() == Some(&true), refused }
}

/// Whether the other side ended a connection, rather than that what it sent has no end.
pub(super) fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Why a connection that was one has ended.
fn ended(reason: &ConnectionError) -> String {
    match reason {
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            "the broker closed the connection".into()
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => {
            "the connection is dead: a ping was not answered within a keep-alive".into()
        }
        ConnectionError::MqttState(StateError::Deserialization(PacketError::Io(error))) => {
            format!("the connection broke: {error}")
        }
        ConnectionError::MqttState(
            error @ (StateError::Deserialization(_) | StateError::Unsolicited(_) | StateError::WrongPacket),
        ) => format!("the broker sent what no broker may send: {error}"),
        ConnectionError::FlushTimeout => "the network took nothing for too long".into(),
        other => other.to_string(),
    }
}

fn refused(code: ConnectReturnCode) -> String {
    match code {
        ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
            "the broker refused the credentials".into()
        }
        ConnectReturnCode::BadClientId => "the broker refused the client id".into(),
        ConnectReturnCode::ServiceUnavailable => {
            "the broker is there and takes no clients: server unavailable".into()
        }
        ConnectReturnCode::RefusedProtocolVersion => "the broker does not speak MQTT 3.1.1".into(),
        ConnectReturnCode::Success => {
            "the broker answered CONNECT with success, and ended the connection".into()
        }
    }
}

fn tls_reason(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// rustls takes the time from the system's clock, and says which it was.
pub(super) fn certificate(reason: &CertificateError) -> String {
    match reason {
        CertificateError::NotValidYetContext { time, not_before } => {
            let (clock, begins) = (time.as_secs(), moment(not_before.as_secs()));
            if clock < EARLIEST_WALL_MS / 1000 {
                return format!(
                    "this device's clock is not set (it says {}), and the broker's certificate is valid from {begins} \
                     on: waiting until it is set",
                    moment(clock)
                );
            }
            let clock = moment(clock);
            format!("the broker's certificate is valid from {begins} on, and this device's clock says {clock}: which is wrong?")
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the broker's certificate expired on {}; this device's clock says {}",
            moment(not_after.as_secs()),
            moment(time.as_secs())
        ),
        CertificateError::NotValidForNameContext { expected, presented } if presented.is_empty() => format!(
            "the broker's certificate names no host in subjectAltName, and so not {}: the common name does not count",
            expected.to_str()
        ),
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "who answers is not {}: its certificate is for {}; a captive portal, or another host?",
            expected.to_str(),
            presented.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", ")
        ),
        CertificateError::UnknownIssuer => {
            "the broker's certificate is from an authority that this device does not trust (UnknownIssuer): does ca_file \
             name the broker's, or is somebody in between?"
                .into()
        }
        other => format!("the broker's certificate cannot be trusted: {other}{}", remedy(&other.to_string())),
    }
}

/// A name out of rustls' `DnsName("broker.example")` or `IpAddress(127.0.0.1)`.
fn plain(presented: &str) -> &str {
    let inside = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inside.unwrap_or(presented).trim_matches('"')
}

/// What to do about a certificate that openssl made without being told enough. The verifier has its reasons in no type
/// of rustls.
fn remedy(reason: &str) -> &'static str {
    if reason.contains("CaUsedAsEndEntity") {
        "; it is an authority's, as `openssl req -x509` makes it: make it with basicConstraints=CA:FALSE, or let an \
         authority of your own sign another"
    } else if reason.contains("UnsupportedCertVersion") {
        "; it is of X.509 version 1, as `openssl x509 -req` makes it without -extfile: make one of version 3, with the \
         broker's name in subjectAltName"
    } else {
        ""
    }
}

fn moment(secs: u64) -> String {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(secs.min(LAST_MOMENT_SECS)));
    humantime::format_rfc3339_seconds(at.unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}

const NO_TLS_HERE: &str = "this is not an MQTT broker: it speaks TLS; broker.tls is off here";

/// The last second that has a date of four digits: 9999-12-31T23:59:59Z.
const LAST_MOMENT_SECS: u64 = 253_402_300_799;

#[cfg(test)]
mod tests;
