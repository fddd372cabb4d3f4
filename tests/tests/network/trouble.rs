//! Who is no broker, or a bad one: the connection ends in bounded time, the log says what was there, and the attempts
//! become rare.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use iotdm_agent::config::Tls;
use iotdm_agent::engine::Lost;
use rumqttc::tokio_rustls::TlsAcceptor;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use crate::stranger::*;

const PORTAL: &str =
    "HTTP/1.1 302 Found\r\nLocation: http://portal.example/login?id=17\r\nContent-Length: 0\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_captive_portal_is_named_by_what_it_answered() {
    let portal = Stranger::who_says(PORTAL).await;
    let meeting = portal.met().await;
    assert_eq!(
        meeting.said,
        "this is not an MQTT broker: it answered HTTP/1.1 302 Found, to http://portal.example/login; a captive portal?"
    );
    assert_eq!((meeting.connected, meeting.lost), (false, Some(Lost::Other)));
}

#[tokio::test(start_paused = true)]
async fn a_captive_portal_on_the_tls_port_is_named_too_and_never_sees_the_token() {
    let portal = Stranger::who_says(PORTAL).await;
    let mut config = portal.config();
    config.broker.tls = Some(crate::authority());
    let meeting = portal.meets(&config).await;
    assert!(
        meeting.said.starts_with("this is not an MQTT broker: it answered HTTP/1.1 302 Found"),
        "{meeting:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn another_service_on_the_port_is_quoted() {
    let ssh = Stranger::who(|mut stream| async move {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        wait(stream).await;
    });
    assert_eq!(ssh.await.met().await.said, "this is not an MQTT broker: it answered \"SSH-2.0-OpenSSH_9.2\"");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_wants_tls_is_recognized_by_its_alert() {
    let tls = Stranger::who_says([0x15, 3, 3, 0, 2, 2, 70]).await;
    assert_eq!(tls.met().await.said, "this is not an MQTT broker: it speaks TLS; broker.tls is off here");
}

#[tokio::test(start_paused = true)]
async fn who_accepts_and_never_answers_is_given_up_after_20_s_and_a_look() {
    for tls in [false, true] {
        let mute = Stranger::who(wait).await;
        let mut config = mute.config();
        config.broker.tls = tls.then(crate::authority);
        let began = Instant::now();
        let meeting = mute.meets(&config).await;
        assert!(began.elapsed() <= Duration::from_secs(26), "{:?}", began.elapsed());
        let said = if tls { "does not end the TLS handshake" } else { "sends no CONNACK" };
        assert!(meeting.said.contains(said), "{meeting:?}");
        // Two connections for each: the attempt, and the look at who is there.
        let attempts = attempts_an_hour(&mute).await;
        assert!((50..=120).contains(&attempts), "{attempts}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_answers_subscribe_is_given_up_after_half_a_minute_and_asked_rarely() {
    let broker = Stranger::who_says(CONNACK).await;
    let attempts = attempts_an_hour(&broker).await;
    assert!((20..=60).contains(&attempts), "{attempts}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_subscription_is_asked_for_again_at_most_once_a_minute() {
    let broker = Stranger::who_says([CONNACK, &[0x90, 3, 0, 1, 0x80]].concat()).await;
    let attempts = attempts_an_hour(&broker).await;
    assert!((25..=60).contains(&attempts), "{attempts}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_refused_and_a_broker_closing_at_once_are_said_in_words() {
    let gone = Stranger::who(wait).await;
    let config = gone.config();
    drop(gone);
    sleep(Duration::from_millis(1)).await;
    let listening = Stranger::who(|stream| async { drop(stream) }).await;
    let meeting = listening.meets(&config).await;
    assert!(
        meeting.said.starts_with(&format!("nothing listens at port {}", config.broker.port)),
        "{meeting:?}"
    );
    let meeting = listening.met().await;
    assert_eq!(meeting.said, "the connection was closed before CONNACK; does it want TLS?");
    let mut config = listening.config();
    config.broker.tls = Some(Tls::default());
    let meeting = listening.meets(&config).await;
    assert_eq!(meeting.said, "the connection was closed before CONNACK; does this port speak TLS?");
}

/// `.invalid` is never a name (RFC 6761 §6.4).
#[tokio::test(start_paused = true)]
async fn a_name_that_cannot_be_resolved_is_said_and_asked_for_again_each_time() {
    let stranger = Stranger::who(wait).await;
    let mut config = stranger.config();
    config.broker.host = "no-such-broker.invalid".into();
    for _ in 0..2 {
        let said = stranger.meets(&config).await.said;
        assert!(said.contains("the name no-such-broker.invalid"), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_on_ipv6_alone_is_reached_with_brackets_and_without() {
    let broker =
        Stranger::at(IpAddr::V6(Ipv6Addr::LOCALHOST), |stream| say(stream, [CONNACK, CONNACK].concat()))
            .await;
    for host in ["::1", "[::1]"] {
        let mut config = broker.config();
        config.broker.host = host.into();
        assert!(broker.meets(&config).await.connected, "{host}");
    }
}

const EARLY: &str = include_str!("certificates/early.pem");
const VALID: &str = include_str!("certificates/valid.pem");

/// Accepts TLS with this certificate.
fn acceptor(certificate: &str) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("it is PEM")];
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("certificates/server.key")).expect("it is PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has both versions");
    Arc::new(
        builder.with_no_client_auth().with_single_cert(chain, key).expect("the key is the certificate's"),
    )
    .into()
}

/// `openssl req -x509` makes a certificate of an authority, which no client takes for a broker's own.
#[tokio::test(start_paused = true)]
async fn a_broker_with_an_authoritys_certificate_is_told_how_to_make_another() {
    const OWN_MAKING: &str = include_str!("certificates/own_making.pem");
    let broker = Stranger::who(|stream| async move {
        let _ = acceptor(OWN_MAKING).accept(stream).await;
    })
    .await;
    let mut config = broker.config();
    config.broker.host = "localhost".into();
    config.broker.tls = Some(Tls { ca_pem: Some(OWN_MAKING.into()), ..Tls::default() });
    let said = broker.meets(&config).await.said;
    assert!(said.contains("CaUsedAsEndEntity") && said.contains("basicConstraints=CA:FALSE"), "{said}");
}

/// A device whose clock is behind what the broker's certificate says, as at boot: it waits, and says for what.
#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_not_valid_yet_is_waited_for_and_then_taken() {
    let clock_is_set = Arc::new(AtomicBool::new(false));
    let connacks = Arc::new(AtomicUsize::new(0));
    let (set, count) = (Arc::clone(&clock_is_set), Arc::clone(&connacks));
    let broker = Stranger::who(move |stream| {
        let acceptor = acceptor(if set.load(Ordering::SeqCst) { VALID } else { EARLY });
        let count = Arc::clone(&count);
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut piece = [0; 1024];
            for answer in [CONNACK, SUBACK] {
                if !stream.read(&mut piece).await.is_ok_and(|read| read > 0) {
                    return;
                }
                let _ = stream.write_all(answer).await;
            }
            count.fetch_add(1, Ordering::SeqCst);
            while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
        }
    })
    .await;
    let mut config = broker.config();
    config.broker.host = "localhost".into();
    config.broker.tls =
        Some(Tls { ca_pem: Some(include_bytes!("certificates/authority.pem").to_vec()), ..Tls::default() });
    let said = broker.meets(&config).await.said;
    assert!(
        said.starts_with(
            "the broker's certificate is valid from 2100-01-01T00:00:00Z on, and this device's clock says"
        ),
        "{said}"
    );
    let agent = Lonely::agent(config, 7);
    sleep(HOUR).await;
    let attempts = broker.connections();
    assert!((30..=120).contains(&attempts) && connacks.load(Ordering::SeqCst) == 0, "{attempts}");
    clock_is_set.store(true, Ordering::SeqCst);
    sleep(Duration::from_secs(125)).await;
    assert_eq!(connacks.load(Ordering::SeqCst), 1);
    assert!(agent.runs());
}
