//! What `docs/protocol.md` says of the wire, read off the bytes that pass there, with no code of the agent's.

use iotdm_tests::wire::{Frame, Kind, TOKEN, record};
use serde_json::{Value, json};

/// One line for each packet.
fn told(frames: &[Frame]) -> Vec<String> {
    let name = |frame: &Frame| match frame.kind() {
        Kind::Publish { topic, .. } => topic,
        other => format!("{other:?}").split([' ', '{', '(']).next().unwrap_or_default().to_uppercase(),
    };
    frames
        .iter()
        .map(|frame| format!("{}{} {}", frame.connection, ["<", ">"][usize::from(frame.upward)], name(frame)))
        .collect()
}

fn payload(frames: &[Frame], at: usize) -> Value {
    let Kind::Publish { payload, .. } = frames[at].kind() else { panic!("{:?} is no PUBLISH", frames[at]) };
    serde_json::from_str(&payload).expect("it is JSON")
}

#[tokio::test(start_paused = true)]
async fn connect_subscribe_manage_and_a_reboot_are_on_the_wire_what_the_protocol_says() {
    let frames = record().await;
    let before_the_restart = [
        "1> CONNECT",
        "1< CONNACK",
        "1> SUBSCRIBE",
        "1< SUBACK",
        "1> iotdevice-1/mgmt/manage",
        "1< PUBACK",
        "1< iotdm-1/response",
        "1> PUBACK",
        "1< iotdm-1/mgmt/initiate/device/reboot",
        "1> PUBACK",
        "1> iotdevice-1/response",
        "1< PUBACK",
        "2> CONNECT",
        "2< CONNACK",
        "2> SUBSCRIBE",
        "2< SUBACK",
        "2> iotdevice-1/mgmt/manage",
    ];
    let told = told(&frames);
    assert_eq!(told[..before_the_restart.len()], before_the_restart);
    assert_eq!(told.last().map(String::as_str), Some("2> DISCONNECT"), "a clean end says goodbye: {told:?}");
    assert!(told.contains(&"2> PINGREQ".to_owned()) && told.contains(&"2< PINGRESP".to_owned()), "{told:?}");

    // §1.3 to §1.5: version 3.1.1, a durable session, no will, a minute of keep-alive, the one user name.
    for at in [0, 12] {
        let connect = Kind::Connect {
            protocol: "MQTT".into(),
            level: 4,
            clean_session: false,
            will: false,
            keep_alive: 60,
            client_id: "d:org001:lamp:lamp1".into(),
            user_name: Some("use-token-auth".into()),
            password: Some(TOKEN.into()),
        };
        assert_eq!(frames[at].kind(), connect);
    }
    assert_eq!(frames[1].kind(), Kind::Connack { session_present: false, code: 0 });
    assert_eq!(frames[13].kind(), Kind::Connack { session_present: true, code: 0 });
    // §3: one filter, QoS 1.
    let Kind::Subscribe { filters, .. } = frames[2].kind() else { panic!("{:?}", frames[2]) };
    assert_eq!(filters, [("iotdm-1/#".to_owned(), 1)]);
}

/// §1.5: everything at QoS 1, nothing retained; and each PUBACK is the one of its PUBLISH.
#[tokio::test(start_paused = true)]
async fn the_device_publishes_at_qos_1_without_retain_and_every_publish_is_acknowledged() {
    let frames = record().await;
    for (at, frame) in frames.iter().enumerate() {
        let Kind::Publish { dup, qos, retain, packet, topic, .. } = frame.kind() else { continue };
        assert_eq!((dup, qos, retain), (false, 1, false), "{topic}");
        let puback = Kind::Puback { packet: packet.unwrap() };
        let acknowledges = |other: &&Frame| {
            other.connection == frame.connection && other.upward != frame.upward && other.kind() == puback
        };
        assert!(frames[at..].iter().any(|other| acknowledges(&other)), "{topic} has no PUBACK");
    }
}

/// §4.1, §5.4 and §6.2.
#[tokio::test(start_paused = true)]
async fn a_reboot_is_acknowledged_then_answered_202_and_the_next_manage_is_only_after_the_restart() {
    let frames = record().await;
    let manage = payload(&frames, 4);
    assert_eq!(manage["d"]["lifetime"], 3600);
    assert_eq!(manage["d"]["supports"]["deviceActions"], true);
    assert_eq!(payload(&frames, 6), json!({ "rc": 200, "reqId": manage["reqId"] }));
    let answer = payload(&frames, 10);
    assert_eq!((&answer["rc"], &answer["reqId"]), (&json!(202), &json!("b53eb43e")));
    let again = payload(&frames, 16);
    assert_ne!(manage["reqId"], again["reqId"], "each manage has a reqId of its own");
}
