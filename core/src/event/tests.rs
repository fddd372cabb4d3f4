use proptest::prelude::*;
use serde_json::json;

use super::*;

fn level(text: &str) -> TopicLevel {
    text.parse().unwrap()
}

#[test]
fn an_event_has_the_documented_topic() {
    let event = Event::json("status", &json!({"on": true})).unwrap();
    assert_eq!(event.topic().to_string(), "iot-2/evt/status/fmt/json");
    assert_eq!(event.payload(), &br#"{"on":true}"#[..]);
    assert_eq!((event.qos(), event.is_stored()), (Qos::AtLeastOnce, true));
}

#[test]
fn an_event_may_be_of_any_format() {
    let event = Event::bytes("camera", "jpeg", vec![0xff, 0xd8]).unwrap();
    assert_eq!(event.topic().to_string(), "iot-2/evt/camera/fmt/jpeg");
    assert_eq!(event.payload(), &[0xff, 0xd8][..]);
}

#[test]
fn an_event_at_qos_0_is_stored_only_when_it_says_so() {
    let event = Event::json("e", &1).unwrap().at_most_once();
    assert_eq!((event.qos(), event.is_stored()), (Qos::AtMostOnce, false));
    let event = event.stored();
    assert_eq!((event.qos(), event.is_stored()), (Qos::AtMostOnce, true));
}

#[test]
fn a_gateway_names_the_device_that_it_speaks_for() {
    let subject = Subject::Named { type_id: "lamp".parse().unwrap(), device_id: "lamp-17".parse().unwrap() };
    let event = Event::json("status", &1).unwrap().of(subject);
    let text = "iot-2/type/lamp/id/lamp-17/evt/status/fmt/json";
    assert_eq!(event.topic().to_string(), text);
    assert_eq!(EventTopic::parse(text).as_ref(), Some(event.topic()));
}

#[test]
fn an_event_id_can_be_any_string_that_mqtt_permits() {
    for id in ["status", "Über Nacht", "a b", "$x", "a.b-c_d", "温度", "*", "x".repeat(255).as_str()] {
        assert_eq!(Event::json(id, &1).unwrap().topic().event.as_str(), id);
        assert_eq!(Event::bytes("e", id, "").unwrap().topic().format.as_str(), id);
    }
}

#[test]
fn the_error_of_an_id_points_at_the_character() {
    for (id, expected) in [
        ("a/b", "`a/b` has '/' as character 2: it would begin another level of the topic"),
        ("é+", "`é+` has '+' as character 2: it is a wildcard, and topics that are published on have none"),
        ("#", "`#` has '#' as character 1: it is a wildcard, and topics that are published on have none"),
        ("ab\0", "`ab\\0` has '\\0' as character 3: MQTT has no such character"),
        ("\n", "`\\n` has '\\n' as character 1: brokers end the connection for a control character"),
        ("", "is empty; 1 to 255 bytes are needed"),
    ] {
        let error = Event::json(id, &1).unwrap_err().to_string();
        assert_eq!(error, format!("the id of the event {expected}"));
        let error = Event::bytes("e", id, "").unwrap_err().to_string();
        assert_eq!(error, format!("the format of the event {expected}"));
    }
    for c in ['\u{fffe}', '\u{1ffff}', '\u{fdd0}', '\u{85}'] {
        assert!(Event::json(&c.to_string(), &1).is_err(), "{c:?}");
    }
}

#[test]
fn an_id_of_256_bytes_is_refused() {
    let error = Event::json(&"x".repeat(256), &1).unwrap_err().to_string();
    assert_eq!(error, "the id of the event has 256 bytes; at most 255 are allowed");
}

#[test]
fn an_event_of_131072_bytes_is_made_and_one_of_131073_is_refused() {
    assert!(Event::bytes("e", "bin", vec![0; 131_072]).is_ok());
    let error = Event::bytes("e", "bin", vec![0; 131_073]).unwrap_err();
    assert_eq!(error.to_string(), "the event has 131073 bytes; a message may have 131072");
}

#[test]
fn a_body_that_is_no_json_is_refused() {
    let no_json = std::collections::BTreeMap::from([(vec![1], 2)]);
    assert!(matches!(Event::json("e", &no_json), Err(EventError::Json(_))));
}

#[test]
fn a_topic_of_another_kind_is_none() {
    for topic in [
        "iot-2/cmd/x/fmt/json",
        "iot-2/evt/x",
        "iot-2/evt/x/fmt/",
        "iot-2/evt//fmt/json",
        "iot-2/evt/a/b/fmt/json",
        "iot-2/evt/a/fmt/json/x",
        "iotdevice-1/response",
        "",
    ] {
        assert_eq!(EventTopic::parse(topic), None, "{topic}");
    }
}

/// Whatever MQTT permits in one level.
fn levels() -> impl Strategy<Value = TopicLevel> {
    any::<String>().prop_filter_map("no level", |text| text.parse().ok())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_built_is_parsed_to_the_same(
        event in levels(), format in levels(), named in any::<bool>(),
        name in "[A-Za-z0-9_.-]{1,36}",
    ) {
        let named = named.then(|| Subject::Named {
            type_id: name.parse().unwrap(),
            device_id: name.parse().unwrap(),
        });
        let topic = EventTopic { subject: named.unwrap_or(Subject::Connected), event, format };
        prop_assert_eq!(EventTopic::parse(&topic.to_string()), Some(topic));
    }

    #[test]
    fn what_is_parsed_is_built_to_the_same(topic in "iot-2/(type/[a-z]{1,2}/id/[a-z+]{1,2}/)?evt/[ -~é]{0,8}/fmt/[ -~]{0,6}") {
        let parsed = EventTopic::parse(&topic);
        prop_assert!(parsed.is_none_or(|parsed| parsed.to_string() == topic));
    }

    #[test]
    fn any_text_is_a_level_or_an_error_with_words(text in any::<String>()) {
        match text.parse::<TopicLevel>() {
            Ok(level) => prop_assert_eq!(level.as_str(), text),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn ids_that_look_like_parts_of_the_topic_are_read_back() {
    for (event, format) in [("fmt", "fmt"), ("evt", "json"), ("type", "id")] {
        let topic = EventTopic { subject: Subject::Connected, event: level(event), format: level(format) };
        assert_eq!(EventTopic::parse(&topic.to_string()), Some(topic));
    }
}
