//! Texts about the broker, and a device's place on one that many share.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use iotdm_core::{TopicPrefix, TopicPrefixError};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

texts! {
    /// Where this device's topics lie.
    PrefixText(TopicPrefix): "a topic prefix in quotes", |text| text.parse().map_err(|error: TopicPrefixError| error.to_string());
    /// A user of the broker.
    UserName(String): "a user name in quotes", user_name;
}

pub(super) fn host(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(
            "is empty; write the broker's host name, or leave the key out to derive it from device.org"
                .into(),
        );
    }
    if text.contains("://") {
        return Err(format!("{text:?} is a URL; write the host name alone, and the port as broker.port"));
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if bare.map_or_else(|| text.parse::<IpAddr>().is_ok(), |bare| bare.parse::<Ipv6Addr>().is_ok()) {
        return Ok(bare.unwrap_or(text).into());
    }
    if let Some((name, port)) = text.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(format!("{text:?} holds a port; write host = {name:?} and port = {port}"));
    }
    let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.len() > MAX_HOST_BYTES || !text.bytes().all(is_host_byte) {
        return Err(format!(
            "{text:?} is no host name; letters, digits, - and . are allowed, {MAX_HOST_BYTES} at most"
        ));
    }
    Ok(text.into())
}

fn user_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(
            "is empty; write the name that the broker knows this device by, or leave the key out".into()
        );
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?} has a control character; a user name is plain text"));
    }
    if text.len() > MAX_USER_NAME_BYTES {
        return Err(format!("has {} bytes; at most {MAX_USER_NAME_BYTES} are allowed", text.len()));
    }
    Ok(text.into())
}

/// Longest user name, in bytes: MQTT allows 65 535, and no broker's list of users needs more than this.
const MAX_USER_NAME_BYTES: usize = 1024;

/// Longest name in the domain name system, in bytes.
const MAX_HOST_BYTES: usize = 253;
