//! From a broker's settings to what rumqttc connects with, for both of its protocol versions.

use std::error::Error;
use std::io;
use std::time::Duration;

use iotdm_core::Identity;
use rumqttc::{NetworkOptions, ProxyAuth, ProxyType, TlsConfiguration, Transport};
use rustls::{AlertDescription, CertificateError};
use tracing::{error, warn};

use crate::config::{self, Broker};

use super::tls::{TlsClient, WrongPin, another_device, offered_suites};
use super::{TlsError, host, trouble};

/// A broker and the way to it. It outlives connections: each asks for its [`transport`](Self::transport) anew.
pub(super) struct Endpoint {
    broker: Broker,
    tls: Option<TlsClient>,
}

impl Endpoint {
    pub(super) fn new(broker: &Broker) -> Result<Self, TlsError> {
        let tls = broker.tls.as_ref().map(TlsClient::new).transpose()?;
        Ok(Self { broker: broker.clone(), tls })
    }

    /// Says so when the device's certificate was made for another one.
    pub(super) fn warn_of_another_device(&self, identity: &Identity) {
        let pem = self.broker.tls.as_ref().and_then(|tls| tls.client_pem.as_ref());
        if let Some(other) = pem.and_then(|(chain, _)| another_device(chain, identity)) {
            warn!(
                "the client certificate is that of {other}, and this device is {identity}: the service refuses that"
            );
        }
    }

    /// The broker's address as rumqttc wants it: a URL for WebSocket, or else a host.
    pub(super) fn address(&self) -> String {
        let Broker { host, port, .. } = &self.broker;
        match &self.broker.transport {
            config::Transport::Tcp => host::dialed(host, self.tls.is_some()),
            config::Transport::WebSocket { path } => {
                let scheme = if self.tls.is_some() { "wss" } else { "ws" };
                format!("{scheme}://{}:{port}{path}", host::in_url(host))
            }
        }
    }

    /// The broker's port; rumqttc takes it from the URL where there is one.
    pub(super) fn port(&self) -> u16 {
        self.broker.port
    }

    /// For the connection that is about to be made: with the device's certificate as its files have it now.
    pub(super) fn transport(&mut self) -> Transport {
        let websocket = matches!(self.broker.transport, config::Transport::WebSocket { .. });
        let Some(tls) = &mut self.tls else {
            return if websocket { Transport::Ws } else { Transport::Tcp };
        };
        if tls.settings().insecure_skip_verify {
            error!(
                "insecure_skip_verify: whoever answers for {} is taken for the broker, gets this device's token and may \
                 command it; never use this outside a test bench",
                self.broker.host
            );
        }
        let config = TlsConfiguration::Rustls(tls.current());
        if websocket { Transport::Wss(config) } else { Transport::Tls(config) }
    }

    /// The HTTP proxy in between.
    pub(super) fn proxy(&self) -> Option<rumqttc::Proxy> {
        let proxy = self.broker.proxy.as_ref()?;
        let auth = match &proxy.credentials {
            None => ProxyAuth::None,
            Some((user, password)) => {
                ProxyAuth::Basic { username: user.clone(), password: password.expose().into() }
            }
        };
        Some(rumqttc::Proxy { ty: ProxyType::Http, auth, addr: proxy.host.clone(), port: proxy.port })
    }

    /// Whether nothing but TCP, or TLS over it, lies between.
    fn is_direct(&self) -> bool {
        self.broker.transport == config::Transport::Tcp && self.broker.proxy.is_none()
    }

    /// Why a connection failed, where these settings say what to do about it. `reason` is rumqttc's error, of either
    /// protocol version.
    pub(super) fn advice(&self, reason: &(dyn Error + 'static)) -> Option<String> {
        if let Some(advice) = rustls_error(reason).and_then(|error| self.advice_on_tls(error)) {
            return Some(advice);
        }
        let text = told(reason);
        if self.broker.proxy.is_none() && text.starts_with("Websocket") {
            return Some(self.advice_on_websocket(text));
        }
        (self.broker.proxy.is_some() && text.starts_with("Proxy") && text.contains("407")).then(|| {
            format!("{text}; the proxy wants a user and a password: name them with proxy_credentials_file")
        })
    }

    /// tungstenite tells what HTTP answered; of what does not answer in HTTP it says only that it failed.
    fn advice_on_websocket(&self, text: String) -> String {
        let Broker { port, .. } = self.broker;
        let tls = if self.tls.is_some() { "with TLS" } else { "without TLS" };
        match text.contains("HTTP error") {
            true => text,
            false => format!("{text}: does a broker listen for WebSocket, {tls}, at port {port}?"),
        }
    }

    fn advice_on_tls(&self, error: &rustls::Error) -> Option<String> {
        let tls = self.tls.as_ref()?.settings();
        match error {
            // What is there instead is looked up where the way to it is known.
            rustls::Error::InvalidMessage(_) if !self.is_direct() => {
                Some(format!("it does not answer with TLS ({error}): is this port one without TLS?"))
            }
            rustls::Error::InvalidCertificate(reason) => Some(match reason {
                CertificateError::Other(other) if other.0.is::<WrongPin>() => other.0.to_string(),
                other => trouble::certificate(other),
            }),
            rustls::Error::AlertReceived(
                AlertDescription::HandshakeFailure
                | AlertDescription::InsufficientSecurity
                | AlertDescription::ProtocolVersion,
            )
            | rustls::Error::PeerIncompatible(_) => Some(format!(
                "TLS: {error}: the broker takes nothing of what this device offers, which is {}",
                offered_suites(tls.version)
            )),
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
                Some(format!("TLS: {error}: the broker asks for a client certificate"))
            }
            _ => None,
        }
    }
}

/// An error and what it was made of: some of rumqttc's texts leave that out.
pub(super) fn told(reason: &(dyn Error + 'static)) -> String {
    let text = reason.to_string();
    match reason.source().map(ToString::to_string).filter(|source| !text.contains(&**source)) {
        Some(source) => format!("{} {source}", text.trim_end()),
        None => text,
    }
}

/// How a socket is to be, and how long connecting may take.
pub(super) fn network_options() -> NetworkOptions {
    let mut network = NetworkOptions::new();
    // Without it every request costs 40 ms: acknowledgement and answer are two small writes.
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_WITHIN.as_secs());
    network
}

/// What rustls said, wherever it is in the chain: an I/O error keeps what it was made of out of it.
fn rustls_error<'a>(reason: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(reason);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let kept = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = kept.and_then(|kept| kept.downcast_ref()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// How long a proxy, TCP, TLS and WebSocket may take to connect, and CONNACK to come.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use rustls::pki_types::UnixTime;

    use super::*;
    use crate::config::Tls;

    /// Over WebSocket what rustls says lies within other errors; with a proxy nobody looks who answers.
    #[test]
    fn a_certificate_that_cannot_be_trusted_is_told_in_words_whatever_carries_mqtt() {
        let reason = CertificateError::NotValidYetContext {
            time: UnixTime::since_unix_epoch(Duration::from_secs(12)),
            not_before: UnixTime::since_unix_epoch(Duration::from_secs(1_767_225_600)),
        };
        let reason = io::Error::other(rustls::Error::InvalidCertificate(reason));
        let tls = Tls { insecure_skip_verify: true, ..Tls::default() };
        let endpoint =
            Endpoint::new(&Broker { tls: Some(tls), ..Broker::at("broker.example", 443) }).unwrap();
        let advice = endpoint.advice(&reason).unwrap();
        assert!(advice.starts_with("this device's clock is not set"), "{advice}");
    }

    #[test]
    fn an_ipv6_address_is_dialed_alike_with_brackets_and_without() {
        for host in ["::1", "[::1]"] {
            let address = |transport: config::Transport, tls: bool| {
                let broker = Broker { transport, tls: tls.then(Tls::default), ..Broker::at(host, 8080) };
                Endpoint::new(&broker).unwrap().address()
            };
            assert_eq!(address(config::Transport::Tcp, false), "[::1]");
            assert_eq!(address(config::Transport::Tcp, true), "::1");
            assert_eq!(address(config::Transport::websocket(), false), "ws://[::1]:8080/mqtt");
        }
    }
}
