//! The version of MQTT, and what only MQTT 5 has.

use std::time::Duration;

use iotdm_agent::{Mqtt5, Protocol};

use super::{Place, load, with_device};

fn protocol(lines: &str) -> Protocol {
    load(&format!("[broker]\nhost = \"broker.example\"\n{lines}")).config.broker.protocol
}

#[track_caller]
fn refused(lines: &str, expected: &str) {
    let text = with_device(&format!("[broker]\nhost = \"broker.example\"\n{lines}"));
    assert_eq!(Place::with(&text).load().unwrap_err(), expected);
}

#[test]
fn mqtt_3_1_1_is_spoken_unless_5_is_asked_for() {
    for lines in
        ["", "mqtt_version = 4", "mqtt_version = 3", "mqtt_version = \"3.1.1\"", "mqtt_version = \"4\""]
    {
        assert_eq!(protocol(lines), Protocol::Mqtt311, "{lines}");
    }
    for lines in ["mqtt_version = 5", "mqtt_version = \"5\"", "mqtt_version = 5.0", "mqtt_version = \"5.0\""]
    {
        assert_eq!(protocol(lines), Protocol::Mqtt5(Mqtt5::default()), "{lines}");
    }
}

#[test]
fn both_expiries_are_read_with_mqtt_5() {
    let options = Mqtt5 {
        session_expiry: Some(Duration::from_secs(7 * 24 * 60 * 60)),
        request_expiry: Some(Duration::from_secs(60 * 60)),
    };
    let lines = "mqtt_version = 5\nsession_expiry = \"7d\"\nrequest_expiry = \"1h\"";
    assert_eq!(protocol(lines), Protocol::Mqtt5(options));
}

#[test]
fn another_version_is_refused_with_those_that_are_spoken() {
    for (written, shown) in [("6", "6"), ("3.1", "3.1"), ("\"v5\"", "\"v5\"")] {
        refused(
            &format!("mqtt_version = {written}"),
            &format!(
                "agent.toml:7:16: broker.mqtt_version: {shown} is no version of MQTT that the agent speaks; write 4 \
                 for MQTT 3.1.1, or 5"
            ),
        );
    }
}

#[test]
fn the_expiries_are_refused_without_mqtt_5() {
    refused(
        "session_expiry = \"7d\"\nrequest_expiry = \"1h\"",
        "agent.toml:7:18: broker.session_expiry: only MQTT 5 has that; write mqtt_version = 5, or remove it\n\
         agent.toml:8:18: broker.request_expiry: only MQTT 5 has that; write mqtt_version = 5, or remove it",
    );
}

#[test]
fn a_session_that_is_not_durable_has_no_expiry() {
    refused(
        "mqtt_version = 5\ndurable_session = false\nsession_expiry = \"7d\"",
        "agent.toml:9:18: broker.session_expiry: a session that is not durable ends with its connection; remove it, or \
         set durable_session = true",
    );
}

#[test]
fn expiries_are_whole_seconds_in_a_range() {
    refused(
        "mqtt_version = 5\nrequest_expiry = \"1m 500ms\"",
        "agent.toml:8:18: broker.request_expiry: MQTT counts whole seconds; write it without parts of one",
    );
    refused(
        "mqtt_version = 5\nsession_expiry = \"1s\"",
        "agent.toml:8:18: broker.session_expiry: 1s is out of range; a session expiry is 1m to 365d",
    );
}

#[test]
fn mqtt_5_with_the_service_itself_is_warned_of() {
    let warnings = load("[broker]\nmqtt_version = 5").warnings;
    assert!(warnings.iter().any(|warning| warning.contains("speak 3.1.1 only")), "{warnings:?}");
    let warnings = load("[broker]\nmqtt_version = 5\nhost = \"broker.example\"").warnings;
    assert!(!warnings.iter().any(|warning| warning.contains("3.1.1")), "{warnings:?}");
}

#[test]
fn the_check_says_what_mqtt_5_does() {
    let settings = load(
        "[broker]\nhost = \"b.example\"\nmqtt_version = 5\nsession_expiry = \"7d\"\nrequest_expiry = \"1h\"",
    );
    let told = crate::program::check::describe(std::path::Path::new("agent.toml"), &settings);
    let line = "speak     MQTT 5; the broker keeps the session for 7d of absence; every request expires after 1h, \
                which tells its age";
    assert!(told.contains(line), "{told}");
}
