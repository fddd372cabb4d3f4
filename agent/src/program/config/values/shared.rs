//! Texts about a broker that many devices share.

use std::fmt;

use iotdm_core::{TopicPrefix, TopicPrefixError};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

texts! {
    /// Where this device's topics lie.
    PrefixText(TopicPrefix): "a topic prefix in quotes", |text| text.parse().map_err(|error: TopicPrefixError| error.to_string());
    /// A user of the broker.
    UserName(String): "a user name in quotes", user_name;
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
