use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::topic::{Subject, Topic};

#[test]
fn a_command_topic_is_parsed_and_built_in_both_forms() {
    let named = Subject::Named { type_id: "T".parse().unwrap(), device_id: "d".parse().unwrap() };
    for (text, subject) in
        [("iot-2/cmd/update/fmt/json", Subject::Connected), ("iot-2/type/T/id/d/cmd/update/fmt/json", named)]
    {
        let topic = Topic::<Route>::parse(text).unwrap();
        assert_eq!(topic, Topic { subject, route: Route::command("update", "json") });
        assert_eq!(topic.to_string(), text);
    }
}

/// "The command ID can be any string that is permitted by the MQTT protocol", and so can the format.
#[test]
fn an_id_and_a_format_may_be_any_level_of_a_topic() {
    for level in ["a", "schalte ein", "größer", "fmt", "x.y-z_0", &"x".repeat(MAX_LEVEL_BYTES)] {
        let text = format!("iot-2/cmd/{level}/fmt/{level}");
        assert_eq!(Topic::<Route>::parse(&text).unwrap().route, Route::command(level, level), "{level}");
    }
}

#[test]
fn what_is_no_command_topic_is_none() {
    let long = format!("iot-2/cmd/{}/fmt/json", "x".repeat(MAX_LEVEL_BYTES + 1));
    for text in [
        "iot-2/cmd/x",
        "iot-2/cmd/x/fmt/",
        "iot-2/cmd//fmt/json",
        "iot-2/cmd/x/fmt/json/more",
        "iot-2/cmd/x/y/fmt/json",
        "iot-2/cmd/+/fmt/json",
        "iot-2/cmd/x/fmt/#",
        "iot-2/evt/x/fmt/json",
        "iot-2/type/T/id/d/evt/x/fmt/json",
        "iot-2/",
        &long,
    ] {
        assert_eq!(Topic::<Route>::parse(text), None, "{text}");
    }
}

/// The platform's own tree has no commands: one must not come in by it.
#[test]
fn a_command_below_the_management_tree_is_an_unknown_topic() {
    let topic = Topic::<Route>::parse("iotdm-1/cmd/x/fmt/json").unwrap();
    assert_eq!(topic.route, Route::Unknown("cmd/x/fmt/json".into()));
}

#[test]
fn the_most_specific_declaration_comes_first() {
    let found: Vec<String> =
        Route::command("a", "json").declarations().map(|route| route.to_string()).collect();
    assert_eq!(found, ["cmd/a/fmt/json", "cmd/a/fmt/+", "cmd/+/fmt/json", "cmd/+/fmt/+"]);
    assert_eq!(Route::Reboot.declarations().collect::<Vec<_>>(), [Route::Reboot]);
}

#[test]
fn a_payload_is_kept_whatever_it_is_made_of() {
    for payload in [&b""[..], b"on", br#"{"a":"\u0000"}"#, &[0xff, 0x00, 0x80], "größer".as_bytes()] {
        let message = CommandMessage { id: "a b".into(), format: "x".into(), payload: payload.into() };
        assert_eq!(CommandMessage::from_raw(&message.to_raw()), Some(message));
    }
    for foreign in ["7", "{}", r#"{"id":"a","format":"b"}"#, r#"{"id":"a","format":"b","hex":"0g"}"#] {
        let raw = serde_json::value::RawValue::from_string(foreign.into()).unwrap();
        assert_eq!(CommandMessage::from_raw(&raw), None, "{foreign}");
    }
}

fn filters<'a>(declared: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    joined(declared.iter().copied()).into_iter().collect()
}

#[test]
fn no_topic_is_subscribed_to_twice() {
    assert_eq!(filters(&[("a", "json"), ("b", "json")]), [("a", "json"), ("b", "json")]);
    assert_eq!(filters(&[("a", "json"), ("+", "json")]), [("+", "json")]);
    assert_eq!(filters(&[("a", "+"), ("+", "json"), ("b", "text")]), [("+", "+")]);
    assert_eq!(filters(&[("a", "+"), ("b", "json")]), [("a", "+"), ("b", "json")]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_declared_command_is_subscribed_to_exactly_once(
        declared in prop::collection::btree_set(("[abc+]", "[xy+]"), 0..8),
        id in "[abc]",
        format in "[xy]",
    ) {
        let pairs: BTreeSet<(&str, &str)> = declared.iter().map(|(a, b)| (&**a, &**b)).collect();
        let matches = |(a, b): &&(&str, &str)| (*a == ANY || *a == id) && (*b == ANY || *b == format);
        let wanted = pairs.iter().any(|pair| matches(&pair));
        let subscribed = joined(pairs.iter().copied());
        let found = subscribed.iter().filter(matches).count();
        prop_assert!(found <= 1 && (found == 1 || !wanted), "{subscribed:?}");
    }
}
