use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn at(secs: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(secs))
}

/// A battery was empty, and no time server has answered yet.
#[test]
fn a_clock_that_is_not_set_is_named_and_not_the_broker() {
    let reason = CertificateError::NotValidYetContext { time: at(12), not_before: at(1_767_225_600) };
    let said = certificate(&reason);
    assert_eq!(
        said,
        "this device's clock is not set (it says 1970-01-01T00:00:12Z), and the broker's certificate is valid from \
         2026-01-01T00:00:00Z on: waiting until it is set"
    );
}

#[test]
fn a_certificate_out_of_its_time_is_told_with_both_times() {
    let early =
        CertificateError::NotValidYetContext { time: at(1_800_000_000), not_before: at(1_900_000_000) };
    assert_eq!(
        certificate(&early),
        "the broker's certificate is valid from 2030-03-17T17:46:40Z on, and this device's clock says \
         2027-01-15T08:00:00Z: which is wrong?"
    );
    let late = CertificateError::ExpiredContext { time: at(1_800_000_000), not_after: at(1_700_000_000) };
    assert_eq!(
        certificate(&late),
        "the broker's certificate expired on 2023-11-14T22:13:20Z; this device's clock says 2027-01-15T08:00:00Z"
    );
    // A clock may say anything.
    assert_eq!(moment(u64::MAX), "9999-12-31T23:59:59Z");
}

#[test]
fn a_certificate_for_another_name_may_be_a_captive_portals() {
    let expected = ServerName::try_from("broker.example").unwrap();
    let presented = vec!["DnsName(\"*.portal.example\")".into(), "IpAddress(192.0.2.1)".into()];
    let said = certificate(&CertificateError::NotValidForNameContext { expected, presented });
    assert_eq!(
        said,
        "who answers is not broker.example: its certificate is for *.portal.example, 192.0.2.1; a captive portal, or \
         another host?"
    );
}

#[test]
fn a_certificate_without_a_name_and_one_of_version_1_are_told_with_what_would_be_right() {
    let expected = ServerName::try_from("broker.example").unwrap();
    let said = certificate(&CertificateError::NotValidForNameContext { expected, presented: Vec::new() });
    assert_eq!(
        said,
        "the broker's certificate names no host in subjectAltName, and so not broker.example: the common name does not \
         count"
    );
    let version_1 = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap();
    let reason = ParsedCertificate::try_from(&version_1).err();
    let Some(rustls::Error::InvalidCertificate(reason)) = reason else { panic!("{reason:?}") };
    let said = certificate(&reason);
    assert!(said.contains("of X.509 version 1") && said.contains("without -extfile"), "{said}");
}

/// What `openssl x509 -req` makes of a request when nobody says more. It is read, and never verified.
const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBJDCBywIUMcFmU2mBNCPctmTI7+s2axuzckMwCgYIKoZIzj0EAwIwFDESMBAG\n\
A1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzA4NTUzMloYDzIxMjYxMDMwMDg1NTMy\n\
WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
AASb1bCYgqt47qKXq3hh5o9yeh2K2shaaL32w44FoLYDhPCtYc0jmwm84THWxoU0\n\
uWKBoaXUCfAW1TujGI/QQI6GMAoGCCqGSM49BAMCA0gAMEUCIG7sOLBqQ5J/wsdX\n\
ZY8JtE3eYZqovr64unEJw3HOZe6ZAiEA6Y0XQsP+ZLD2Skq2JQ4G3Z8y5+93VfUp\n\
XAC3bF+kGyA=\n\
-----END CERTIFICATE-----";

#[test]
fn a_filter_that_was_refused_is_told_by_its_place() {
    let told = |granted: &[bool]| match subscribed(granted) {
        LinkEvent::Subscribed { granted, refused } => (granted, refused),
        other => panic!("{other:?}"),
    };
    assert_eq!(told(&[true, true]), (true, vec![]));
    assert_eq!(told(&[true, false, true]), (true, vec![1]));
    assert_eq!(told(&[false, true]), (false, vec![0]));
    assert_eq!(told(&[]), (false, vec![]));
}

/// A close is how MQTT 3.1.1 tells of a takeover, and a reset what it becomes when something was on its way.
#[test]
fn a_connection_that_the_other_side_ended_is_told_from_one_that_died() {
    let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
    let closed = ConnectionError::MqttState(StateError::ConnectionAborted);
    assert_eq!((kind(&closed, true), kind(&closed, false)), (Lost::Closed, Lost::Other));
    let reset = ConnectionError::MqttState(StateError::Deserialization(PacketError::Io(reset())));
    assert_eq!((kind(&reset, true), kind(&reset, false)), (Lost::Closed, Lost::Other));
    assert_eq!(kind(&ConnectionError::MqttState(StateError::AwaitPingResp), true), Lost::Other);
}

/// Who answers each connection so, after the first bytes of the question.
async fn answering(bytes: &'static [u8]) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 16]).await;
            let _ = stream.write_all(bytes).await;
        }
    });
    port
}

const ALERT: &[u8] = &[0x15, 3, 3, 0, 2, 2, 70];

/// A broker behind TLS answers HTTP with an alert, which is no mistake in the configuration.
#[tokio::test]
async fn that_tls_is_off_is_said_only_where_it_is_off() {
    let port = answering(ALERT).await;
    let peer = |tls| Peer { host: "127.0.0.1".into(), port, tls, direct: true };
    let off = "this is not an MQTT broker: it speaks TLS; broker.tls is off here";
    assert_eq!((&*peer(false).silent().await, &*peer(false).not_mqtt("-").await), (off, off));
    assert_eq!(
        peer(true).silent().await,
        "it accepts the connection and does not end the TLS handshake, or sends no CONNACK"
    );
    assert_eq!(peer(true).not_mqtt("it answered so").await, "this is not an MQTT broker: it answered so");
}

/// Nothing goes around a proxy, and HTTP is what belongs to a WebSocket.
#[tokio::test]
async fn behind_a_proxy_and_at_a_websocket_nobody_looks() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut broker = Broker::at("127.0.0.1", listener.local_addr().unwrap().port());
    broker.transport = Transport::websocket();
    let websocket = Peer::of(&broker);
    broker.transport = Transport::Tcp;
    broker.proxy = Some(crate::config::Proxy { host: "proxy.example".into(), port: 3128, credentials: None });
    for peer in [websocket, Peer::of(&broker)] {
        assert_eq!(peer.silent().await, "no CONNACK came in time");
        assert_eq!(peer.not_mqtt("so").await, "this is not an MQTT broker: so");
        let refused = ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized);
        assert_eq!(peer.explain(&refused, false).await, "the broker refused the credentials");
    }
    let nobody = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(nobody.is_err(), "somebody connected");
}
