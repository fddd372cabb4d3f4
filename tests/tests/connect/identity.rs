//! Who connects: client id, user name and token as they travel, and what follows when they are refused.

use std::time::Duration;

use iotdm_agent::testing::{MemoryDisk, Platform, TestSystem, start};
use iotdm_agent::{Config, Secret};
use iotdm_core::{ClientKind, Identity};

use crate::front::{Front, Speech, connect, lines, log};

/// CONNECT of MQTT 3.1.1 (section 3.1), with a keep-alive of a minute.
fn connect_packet(flags: u8, texts: &[&str]) -> Vec<u8> {
    let mut packet = vec![0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 60];
    for text in texts {
        packet.extend([0, u8::try_from(text.len()).expect("it is short")]);
        packet.extend(text.as_bytes());
    }
    let mut whole = vec![0x10, u8::try_from(packet.len()).expect("it is short")];
    whole.append(&mut packet);
    whole
}

const USER_AND_PASSWORD: u8 = 0xc0;
const CLEAN_SESSION: u8 = 0x02;

async fn first_packet(change: impl FnOnce(&mut Config)) -> Vec<u8> {
    let front = Front::start(Speech::default()).await;
    let mut config = front.device(false);
    change(&mut config);
    connect(&config).await.expect("the broker takes everybody");
    front.sights().remove(0).first
}

#[tokio::test]
async fn a_device_connects_as_d_org_type_id_with_use_token_auth_and_its_token() {
    let packet = first_packet(|config| config.token = Some(Secret::new("t0k3n"))).await;
    assert_eq!(
        packet,
        connect_packet(USER_AND_PASSWORD, &["d:org001:lamp:lamp1", "use-token-auth", "t0k3n"])
    );
}

#[tokio::test]
async fn a_gateway_connects_as_g_org_type_id() {
    let packet = first_packet(|config| config.identity.kind = ClientKind::Gateway).await;
    assert_eq!(packet, connect_packet(0, &["g:org001:lamp:lamp1"]));
}

#[tokio::test]
async fn without_a_token_there_is_neither_user_nor_password_and_a_clean_session_says_so() {
    let packet = first_packet(|config| config.broker.durable_session = false).await;
    assert_eq!(packet, connect_packet(CLEAN_SESSION, &["d:org001:lamp:lamp1"]));
}

#[tokio::test]
async fn the_trial_organization_hears_a_client_id_and_no_proof_in_a_clean_session() {
    let packet = first_packet(|config| {
        config.identity = Identity::device("quickstart", "lamp", "lamp1").unwrap();
        config.broker.durable_session = false;
    })
    .await;
    assert_eq!(packet, connect_packet(CLEAN_SESSION, &["d:quickstart:lamp:lamp1"]));
}

#[tokio::test]
async fn the_longest_identity_travels_whole() {
    let long = "x".repeat(36);
    let identity = Identity::device("abc123", &long, &long).unwrap();
    let client_id = identity.client_id();
    let packet = first_packet(|config| config.identity = identity).await;
    assert_eq!(packet, connect_packet(0, &[&client_id]));
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_reported_once_and_loudly_and_tried_again_slowly() {
    let (platform, disk, system) = (Platform::new(), MemoryDisk::new(), TestSystem::new());
    let _running = start(&platform, &disk, &system, |builder| builder);
    platform.managed(1).await;
    let (log, _guard) = log();
    for outage in 1..=2 {
        platform.refuse_credentials(true);
        platform.cut();
        let before = platform.connections();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let attempts = platform.connections() - before;
        assert!((5..=14).contains(&attempts), "{attempts}");
        assert_eq!(
            lines(&log, "the broker refused the credentials"),
            outage,
            "one line for each such outage"
        );
        platform.refuse_credentials(false);
        platform.managed(outage + 1).await;
    }
}
