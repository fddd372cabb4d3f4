//! The reasons that MQTT 5 gives, in words.

use rumqttc::v5::mqttbytes::Error as PacketError;
use rumqttc::v5::mqttbytes::v5::{
    ConnAckProperties, ConnectReturnCode, DisconnectReasonCode, Packet, PubAck, PubAckReason, Publish,
};
use rumqttc::v5::{ConnectionError, StateError};

use crate::engine::Lost;
use crate::link::endpoint::told;
use crate::link::trouble::{Peer, is_end};

/// Why there is no connection: for the engine, and in a sentence that says what to do where somebody can do something.
pub(super) fn explain(reason: &ConnectionError, connected: bool) -> (Lost, String) {
    match reason {
        ConnectionError::ConnectionRefused(code) => refused_connection(*code),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let (lost, text) = disconnected(*reason_code);
            (lost, with_words(text, reason_string.as_deref()))
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) if connected => {
            let text = "the broker closed the connection without a reason that can be read: it was ended, or another \
                        client connected with this device's id";
            (Lost::Closed, text.into())
        }
        // A broker of 3.1.1 answers with a CONNACK that is none of MQTT 5.
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            let text = "the broker closed the connection in place of an answer; it may not speak MQTT 5: write \
                        mqtt_version = 4";
            (Lost::Other, text.into())
        }
        // What a close becomes when something was on its way.
        ConnectionError::MqttState(StateError::Deserialization(PacketError::Io(error)))
            if connected && is_end(error) =>
        {
            (Lost::Closed, format!("the broker ended the connection: {error}"))
        }
        ConnectionError::MqttState(StateError::Deserialization(PacketError::PayloadRequired)) => {
            (Lost::Other, "the broker ended the connection".into())
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => {
            (Lost::Other, "the broker did not answer a PINGREQ within the keep-alive time".into())
        }
        ConnectionError::Timeout(_) => (Lost::Other, "the broker did not answer in time".into()),
        other => (Lost::Other, told(other)),
    }
}

/// What stands in the broker's place, where no broker of MQTT answered.
pub(super) async fn who_answers(reason: &ConnectionError, peer: &Peer) -> Option<String> {
    Some(match reason {
        ConnectionError::Timeout(_) => peer.silent().await,
        ConnectionError::Io(error) => peer.unreachable(error),
        ConnectionError::Tls(error) => peer.without_tls(error).await,
        ConnectionError::NotConnAck(_) => peer.not_mqtt("it answered with something else than CONNACK").await,
        ConnectionError::MqttState(StateError::Deserialization(PacketError::Io(error))) if is_end(error) => {
            peer.unreachable(error)
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            format!("{}{}", explain(reason, false).1, peer.guess())
        }
        // A DISCONNECT without a reason.
        ConnectionError::MqttState(StateError::Deserialization(PacketError::PayloadRequired)) => return None,
        ConnectionError::MqttState(StateError::Deserialization(_)) => {
            peer.not_mqtt("it answered with something else than MQTT 5").await
        }
        _ => return None,
    })
}

/// How large a message was that the broker sent although it was told the limit.
pub(super) fn oversize(reason: &ConnectionError) -> Option<usize> {
    match reason {
        ConnectionError::MqttState(StateError::Deserialization(PacketError::PayloadSizeLimitExceeded {
            pkt_size,
            ..
        })) => Some(*pkt_size),
        _ => None,
    }
}

/// Why nothing can be done with this broker, by what it says when it accepts the connection.
pub(super) fn objection(properties: &ConnAckProperties) -> Option<&'static str> {
    if properties.max_qos == Some(0) {
        Some("the broker takes QoS 0 only, and answers need QoS 1")
    } else if properties.receive_max == Some(0) {
        Some("the broker breaks MQTT 5: its receive maximum is 0")
    } else if properties.wildcard_subscription_available == Some(0) {
        Some("the broker offers no subscriptions with wildcards, and requests come below iotdm-1/#")
    } else {
        None
    }
}

/// What no broker may send, and rumqttc passes on as it would what one may.
pub(super) fn breach(packet: &Packet, connected: bool, subscription: Option<u16>) -> Option<&'static str> {
    let alias = |publish: &Publish| publish.properties.as_ref().is_some_and(|all| all.topic_alias.is_some());
    match packet {
        Packet::ConnAck(_) if connected => Some("the broker sent a second CONNACK"),
        Packet::SubAck(ack) if subscription != Some(ack.pkid) => {
            Some("the broker sent a SUBACK that nobody asked for")
        }
        // rumqttc keeps the topic of each of 65 535 aliases as long as the connection lasts: up to 4 GiB.
        Packet::Publish(publish) if alias(publish) => {
            Some("the broker sent a topic alias, and was told that this device takes none")
        }
        _ => None,
    }
}

/// Why the broker did not take a publish.
pub(super) fn refusal(ack: &PubAck) -> String {
    let text = match ack.reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => "it was taken",
        PubAckReason::UnspecifiedError => "no reason given (0x80)",
        PubAckReason::ImplementationSpecificError => "a reason of the broker's own (0x83)",
        PubAckReason::NotAuthorized => "not authorised (0x87): check this client's permissions there",
        PubAckReason::TopicNameInvalid => "it accepts no such topic (0x90)",
        PubAckReason::PacketIdentifierInUse => "the packet identifier is in use (0x91)",
        PubAckReason::QuotaExceeded => "quota exceeded (0x97)",
        PubAckReason::PayloadFormatInvalid => "payload format invalid (0x99)",
    };
    with_words(text, ack.properties.as_ref().and_then(|properties| properties.reason_string.as_deref()))
}

fn refused_connection(code: ConnectReturnCode) -> (Lost, String) {
    use ConnectReturnCode as Code;
    let (lost, text) = match code {
        Code::BadUserNamePassword => (Lost::Credentials, "bad user name or password (0x86)"),
        Code::NotAuthorized => (Lost::Credentials, "not authorised (0x87)"),
        Code::BadAuthenticationMethod => {
            (Lost::Credentials, "it wants another method of authentication (0x8C)")
        }
        Code::Banned => (Lost::Credentials, "this client is banned (0x8A)"),
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => {
            (Lost::Other, "it does not speak MQTT 5: write mqtt_version = 4")
        }
        Code::BadClientId | Code::ClientIdentifierNotValid => {
            (Lost::Other, "it does not accept this client id (0x85)")
        }
        Code::ServiceUnavailable | Code::ServerUnavailable => (Lost::Other, "it is not available (0x88)"),
        Code::ServerBusy => (Lost::Other, "it is busy (0x89)"),
        Code::PacketTooLarge => (Lost::Other, "CONNECT is larger than it takes (0x95)"),
        Code::QuotaExceeded => (Lost::Other, "quota exceeded (0x97)"),
        Code::UseAnotherServer => (Lost::Other, "another server is to be used (0x9C)"),
        Code::ServerMoved => (Lost::Other, "it has moved (0x9D): change broker.host"),
        Code::ConnectionRateExceeded => (Lost::Other, "too many connections in a short time (0x9F)"),
        other => return (Lost::Other, format!("the broker refused the connection: {other:?}")),
    };
    (lost, format!("the broker refused the connection: {text}"))
}

fn disconnected(code: DisconnectReasonCode) -> (Lost, &'static str) {
    use DisconnectReasonCode as Code;
    let text = match code {
        Code::NormalDisconnection | Code::DisconnectWithWillMessage => "the broker ended the connection",
        Code::NotAuthorized => {
            return (Lost::Credentials, "the broker ended the connection: not authorised (0x87)");
        }
        Code::ServerBusy => "the broker ended the connection: it is busy (0x89)",
        Code::ServerShuttingDown => "the broker ended the connection: it is shutting down (0x8B)",
        Code::KeepAliveTimeout => {
            "the broker ended the connection: it heard nothing for longer than the keep-alive time (0x8D)"
        }
        Code::SessionTakenOver => {
            let text = "another client connected with this device's id, and the broker gave it the session (0x8E): two \
                        devices, or two agents, have one identity";
            return (Lost::Closed, text);
        }
        Code::TopicNameInvalid => "the broker ended the connection: it accepts no such topic (0x90)",
        Code::ReceiveMaximumExceeded => "the broker ended the connection: too much was on its way (0x93)",
        Code::PacketTooLarge => "the broker ended the connection: a packet was larger than it takes (0x95)",
        Code::MessageRateTooHigh => "the broker ended the connection: too much was sent too fast (0x96)",
        Code::QuotaExceeded => "the broker ended the connection: quota exceeded (0x97)",
        Code::AdministrativeAction => "the broker ended the connection: its administrator wanted that (0x98)",
        Code::UseAnotherServer => {
            "the broker ended the connection: another server is to be used for a while (0x9C)"
        }
        Code::ServerMoved => "the broker ended the connection: it has moved (0x9D), change broker.host",
        Code::ConnectionRateExceeded => {
            "the broker ended the connection: too many connections in a short time (0x9F)"
        }
        Code::MaximumConnectTime => "the broker ended the connection: it lasted as long as it may (0xA0)",
        Code::MalformedPacket | Code::ProtocolError => {
            "the broker ended the connection: it could not read what was sent (0x81, 0x82)"
        }
        _ => "the broker ended the connection for a reason that is none of a device's",
    };
    (Lost::Other, text)
}

/// A reason with the broker's own words behind it, which are somebody else's text: bounded, and nothing in it acts.
fn with_words(text: &str, words: Option<&str>) -> String {
    match words.filter(|words| !words.is_empty()) {
        None => text.into(),
        Some(words) => {
            let words: String = words.chars().take(MAX_WORDS_CHARS).collect();
            format!("{text}; it says {words:?}")
        }
    }
}

/// How much of the broker's own words is told.
const MAX_WORDS_CHARS: usize = 200;
