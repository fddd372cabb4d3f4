//! Topic names, topic filters, and the mount point of a device.

use rumqttc::valid_filter;

/// A client id that begins with `d:` and does not name a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a device's client id is d:ORG:TYPE:ID")]
pub(super) struct InvalidDeviceId;

/// Where the topics of this client live: `devices/TYPE/ID/` for a device, nothing for everybody else.
///
/// A malformed device id is an error and not "no mount", which would show it everybody's topics.
pub(super) fn device_mount(client_id: &str) -> Result<String, InvalidDeviceId> {
    let Some(identity) = client_id.strip_prefix("d:") else { return Ok(String::new()) };
    let mut parts = identity.split(':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(organization), Some(kind), Some(id), None)
            if [organization, kind, id].into_iter().all(is_identifier) =>
        {
            Ok(format!("devices/{kind}/{id}/"))
        }
        _ => Err(InvalidDeviceId),
    }
}

/// Whether a message on `topic` belongs to the subscription `filter` (MQTT 3.1.1 §4.7).
///
/// The codec's own `matches` panics on a topic that begins with a multi-byte character and never matches `$`.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    let mut patterns = filter.split('/');
    loop {
        match (patterns.next(), levels.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(pattern), Some(level)) if pattern == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// The topic a client meant by `topic`, or `None` when it may not be published to.
pub(super) fn mounted_topic(mount: &str, topic: &str) -> Option<String> {
    let full = format!("{mount}{topic}");
    let valid = !topic.is_empty() && !full.contains(['+', '#', '\0']) && full.len() <= TOPIC_LIMIT_BYTES;
    valid.then_some(full)
}

/// The filter a client meant by `filter`, or `None` when it is malformed.
pub(super) fn mounted_filter(mount: &str, filter: &str) -> Option<String> {
    let valid = valid_filter(filter) && !filter.contains('\0');
    let full = format!("{mount}{filter}");
    (valid && full.len() <= TOPIC_LIMIT_BYTES).then_some(full)
}

/// `topic` as a client with this mount sees it, or `None` when it is outside.
pub(super) fn unmounted<'a>(mount: &str, topic: &'a str) -> Option<&'a str> {
    topic.strip_prefix(mount).filter(|rest| !rest.is_empty())
}

/// Letters, digits, `.`, `_` and `-` (`docs/protocol.md` §1.3).
fn is_identifier(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Longest topic in bytes: its length travels in 16 bits.
pub(super) const TOPIC_LIMIT_BYTES: usize = u16::MAX as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_the_standard_says() {
        let check = |filter, topic, expected| {
            assert_eq!(matches(filter, topic), expected, "{filter} against {topic}");
        };
        check("iotdm-1/#", "iotdm-1/response", true);
        check("iotdm-1/#", "iotdm-1/mgmt/initiate/device/reboot", true);
        check("iotdm-1/#", "iotdm-1", true);
        check("iotdm-1/#", "iotdm-10/response", false);
        check("iotdm-1/+", "iotdm-1/response", true);
        check("iotdm-1/+", "iotdm-1", false);
        check("iotdm-1/+", "iotdm-1/device/update", false);
        check("+/+", "/finance", true);
        check("/+", "/finance", true);
        check("+", "/finance", false);
        check("devices/+/+/iotdevice-1/#", "devices/T/A/iotdevice-1/response", true);
        check("devices/+/+/iotdevice-1/#", "devices/T/iotdevice-1/response", false);
        check("a/b", "a/b/c", false);
        check("a/b/c", "a/b", false);
        check("#", "$SYS/uptime", false);
        check("+/uptime", "$SYS/uptime", false);
        check("$SYS/#", "$SYS/uptime", true);
        check("+/x", "ö/x", true);
    }

    #[test]
    fn a_device_is_mounted_under_its_type_and_id_and_nobody_else_is() {
        assert_eq!(device_mount("d:org:pump:p-1"), Ok("devices/pump/p-1/".to_owned()));
        assert_eq!(device_mount("a:org:console"), Ok(String::new()));
        assert_eq!(device_mount("anything"), Ok(String::new()));
    }

    #[test]
    fn a_malformed_device_id_is_never_a_way_to_see_everything() {
        for id in ["d:", "d:org:pump", "d:org:pump:", "d:org:pump:+", "d:org:a/b:c", "d:o:t:i:extra"] {
            assert_eq!(device_mount(id), Err(InvalidDeviceId), "{id}");
        }
    }

    #[test]
    fn a_topic_to_publish_to_has_no_wildcards_and_fits_its_length_field() {
        assert_eq!(mounted_topic("devices/T/A/", "x"), Some("devices/T/A/x".to_owned()));
        for topic in ["", "a/+", "a/#", "a\0"] {
            assert_eq!(mounted_topic("", topic), None, "{topic}");
        }
        assert_eq!(mounted_topic("m/", &"x".repeat(TOPIC_LIMIT_BYTES - 1)), None);
        assert!(mounted_topic("m/", &"x".repeat(TOPIC_LIMIT_BYTES - 2)).is_some());
    }

    #[test]
    fn what_is_outside_a_mount_has_no_name_inside() {
        assert_eq!(unmounted("devices/T/A/", "devices/T/A/iotdm-1/response"), Some("iotdm-1/response"));
        assert_eq!(unmounted("devices/T/A/", "devices/T/B/iotdm-1/response"), None);
        assert_eq!(unmounted("devices/T/A/", "devices/T/A/"), None);
        assert_eq!(unmounted("", "x"), Some("x"));
    }
}
