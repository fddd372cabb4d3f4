//! Who the broker is, and who the device is.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use iotdm_agent::config::{ClientFiles, Pin, Tls, TlsVersion, Transport};
use iotdm_agent::link::{LinkEvent, MqttLink};
use iotdm_agent::{Config, Secret};
use rustls::ServerConfig;
use tempfile::TempDir;

use crate::front::{
    DEVICE, Front, HttpProxy, LOCALHOST, RENEWED, Speech, WILDCARD, WebSocket, connect, der, first_event,
    lines, log, server,
};

/// The key of `localhost.pem`, by openssl; `certificates/README.md` says how.
const PIN: &str = "8630d0d61c313f23d207075ad64757e29077636467f031a389ac0bb9cce07546";
const PIN_BASE64: &str = "hjDQ1hwxPyPSBwda1kdX4pB3Y2Rn8DGjiawLuczgdUY=";

async fn tls_front() -> Front {
    Front::start(Speech { tls: Some(server(LOCALHOST)), websocket: None }).await
}

fn with(config: &Config, change: impl FnOnce(&mut Tls)) -> Config {
    let mut config = config.clone();
    change(config.broker.tls.get_or_insert_default());
    config
}

#[tokio::test]
async fn the_brokers_name_is_in_the_client_hello_over_tcp_and_over_websocket() {
    for websocket in [None, Some(WebSocket::default())] {
        let front = Front::start(Speech { tls: Some(server(LOCALHOST)), websocket }).await;
        let mut config = front.device(true);
        if websocket.is_some() {
            config.broker.transport = Transport::websocket();
        }
        let _connection = connect(&config).await.unwrap();
        assert_eq!(front.sights()[0].server_name.as_deref(), Some("localhost"));
    }
}

#[tokio::test]
async fn a_wildcard_stands_for_one_label_and_no_more() {
    let front = Front::start(Speech { tls: Some(server(WILDCARD)), websocket: None }).await;
    // It gives every name the same address, as no resolver here would.
    let proxy = HttpProxy::start(front.address, |_| "200 OK").await;
    for (host, good) in [
        ("abc123.messaging.iot.example", true),
        ("ABC123.messaging.iot.example", true),
        ("a.b.messaging.iot.example", false),
        ("messaging.iot.example", false),
        ("abc123.messaging.iot.example.com", false),
    ] {
        let mut config = front.device(true);
        config.broker.host = host.into();
        config.broker.proxy = Some(proxy.setting());
        match connect(&config).await {
            Ok(_) => assert!(good, "{host}"),
            Err(reason) => {
                let said =
                    format!("who answers is not {host}: its certificate is for *.messaging.iot.example;");
                assert!(!good && reason.starts_with(&said), "{host}: {reason}");
            }
        }
    }
}

#[tokio::test]
async fn a_pinned_key_is_taken_in_either_notation_and_among_others() {
    let front = tls_front().await;
    let other = Pin::of_key(b"another key");
    for digest in [PIN, PIN_BASE64] {
        let config = with(&front.device(true), |tls| {
            tls.pins = vec![other, format!("sha256:{digest}").parse().unwrap()];
        });
        connect(&config).await.unwrap();
    }
}

#[tokio::test]
async fn another_key_than_the_pinned_one_is_refused_and_its_pin_is_said() {
    let front = tls_front().await;
    let config = with(&front.device(true), |tls| tls.pins = vec![Pin::of_key(b"another key")]);
    let reason = connect(&config).await.unwrap_err();
    assert!(reason.contains(&format!("sha256:{PIN}")), "{reason}");
    assert!(front.sights().is_empty(), "the broker heard nothing of the device");
}

#[tokio::test]
async fn a_pin_does_not_stand_for_the_chain_nor_for_the_name() {
    let front = tls_front().await;
    let pins = vec![format!("sha256:{PIN}").parse().unwrap()];
    let config = with(&front.device(true), |tls| {
        tls.pins.clone_from(&pins);
        tls.ca_pem = Some(include_bytes!("../security/certificates/authority.pem").to_vec());
    });
    let reason = connect(&config).await.unwrap_err();
    assert!(reason.contains("UnknownIssuer") && reason.contains("ca_file"), "{reason}");

    let proxy = HttpProxy::start(front.address, |_| "200 OK").await;
    let mut config = with(&front.device(true), |tls| tls.pins = pins);
    config.broker.host = "elsewhere.example".into();
    config.broker.proxy = Some(proxy.setting());
    let reason = connect(&config).await.unwrap_err();
    assert!(
        reason.starts_with("who answers is not elsewhere.example: its certificate is for localhost,"),
        "{reason}"
    );
}

#[tokio::test]
async fn insecure_skip_verify_connects_to_anybody_and_shouts_at_every_connect() {
    let front = tls_front().await;
    let (log, _guard) = log();
    let mut config = front.device(true);
    config.broker.host = "127.0.0.1".into();
    let strict = with(&config, |tls| tls.ca_pem = Some(RENEWED[0].into()));
    connect(&strict).await.unwrap_err();
    assert_eq!(lines(&log, "insecure_skip_verify"), 0);

    let config = with(&strict, |tls| tls.insecure_skip_verify = true);
    let mut link = MqttLink::new(&config).unwrap();
    for times in 1..=3 {
        let (_connection, event) = first_event(&mut link).await;
        assert!(matches!(event, LinkEvent::Connected { .. }), "{event:?}");
        assert_eq!(lines(&log, "ERROR"), times);
        assert_eq!(lines(&log, "insecure_skip_verify: whoever answers for 127.0.0.1"), times);
    }
}

#[tokio::test]
async fn pins_and_insecure_skip_verify_are_refused_together() {
    let front = tls_front().await;
    let config = with(&front.device(true), |tls| {
        tls.insecure_skip_verify = true;
        tls.pins = vec![Pin::of_key(b"")];
    });
    let reason = connect(&config).await.unwrap_err();
    assert_eq!(reason, "pins and insecure_skip_verify exclude each other: drop one of them");
}

fn of_version(version: &'static rustls::SupportedProtocolVersion) -> Arc<ServerConfig> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("ring has both versions");
    let chain = vec![CertificateDer::from_pem_slice(LOCALHOST[0].as_bytes()).expect("the fixtures are PEM")];
    let key = PrivateKeyDer::from_pem_slice(LOCALHOST[1].as_bytes()).expect("the fixtures are PEM");
    Arc::new(
        builder.with_no_client_auth().with_single_cert(chain, key).expect("the key is the certificate's"),
    )
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_taken_unless_one_of_them_is_named() {
    for (version, other, named) in [
        (&rustls::version::TLS12, TlsVersion::Tls13, TlsVersion::Tls12),
        (&rustls::version::TLS13, TlsVersion::Tls12, TlsVersion::Tls13),
    ] {
        let front = Front::start(Speech { tls: Some(of_version(version)), websocket: None }).await;
        for only in [None, Some(named)] {
            connect(&with(&front.device(true), |tls| tls.version = only)).await.unwrap();
        }
        let config = with(&front.device(true), |tls| tls.version = Some(other));
        let reason = connect(&config).await.unwrap_err();
        assert!(reason.contains("takes nothing of what this device offers"), "{reason}");
    }
}

#[tokio::test]
async fn a_device_shows_its_certificate_with_a_token_and_without() {
    for token in [None, Some("t0k3n")] {
        let front = tls_front().await;
        let mut config = with(&front.device(true), |tls| {
            tls.client_pem = Some((DEVICE[0].into(), Secret::new(DEVICE[1])));
        });
        config.token = token.map(Secret::new);
        connect(&config).await.unwrap();
        let sight = front.sights().remove(0);
        assert_eq!(sight.certificate, Some(der(DEVICE[0])));
        let first = String::from_utf8_lossy(&sight.first).into_owned();
        assert_eq!(first.contains("use-token-auth") && first.contains("t0k3n"), token.is_some());
    }
}

/// A folder with a certificate and its key, as a program that renews them writes it.
struct Files(TempDir);

impl Files {
    fn write(&self, name: &str, pem: &str) {
        // In one step, as such programs do; it also gives the file another inode.
        let temporary = self.0.path().join("temporary");
        fs::write(&temporary, pem).expect("the temporary folder can be written");
        fs::rename(temporary, self.0.path().join(name)).expect("the temporary folder can be written");
    }

    fn setting(&self) -> ClientFiles {
        let read = |certificate: &Path, key: &Path| {
            let text = |path: &Path| fs::read_to_string(path).map_err(|error| error.to_string());
            Ok((text(certificate)?.into_bytes(), Secret::new(text(key)?)))
        };
        ClientFiles::new(self.0.path().join("device.pem"), self.0.path().join("device.key"), read)
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_at_the_next_connection_and_a_half_written_pair_never() {
    let front = tls_front().await;
    let (log, _guard) = log();
    let files = Files(tempfile::tempdir().unwrap());
    files.write("device.pem", DEVICE[0]);
    files.write("device.key", DEVICE[1]);
    let config = with(&front.device(true), |tls| {
        tls.client_pem = Some((DEVICE[0].into(), Secret::new(DEVICE[1])));
        tls.client_files = Some(files.setting());
    });
    let mut link = MqttLink::new(&config).unwrap();
    let mut shown = async || {
        let (_connection, event) = first_event(&mut link).await;
        assert!(matches!(event, LinkEvent::Connected { .. }), "{event:?}");
        front.sights().last().unwrap().certificate.clone().unwrap()
    };
    assert_eq!(shown().await, der(DEVICE[0]));

    files.write("device.pem", RENEWED[0]);
    for _ in 0..3 {
        assert_eq!(shown().await, der(DEVICE[0]), "the key is not there yet");
    }
    assert_eq!(lines(&log, "the device's certificate stays as it was"), 1, "it is said once");

    files.write("device.key", RENEWED[1]);
    assert_eq!(shown().await, der(RENEWED[0]));
    assert_eq!(lines(&log, "the device's certificate was renewed"), 1);

    for damage in ["", "-----BEGIN CERTIFICATE-----\nMII"] {
        files.write("device.pem", damage);
        assert_eq!(shown().await, der(RENEWED[0]));
    }
    fs::remove_file(files.0.path().join("device.key")).unwrap();
    assert_eq!(shown().await, der(RENEWED[0]));
    files.write("device.pem", DEVICE[0]);
    files.write("device.key", DEVICE[1]);
    assert_eq!(shown().await, der(DEVICE[0]));
    let text = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
    assert!(!text.contains("PRIVATE KEY"), "{text}");
}
