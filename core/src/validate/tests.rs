use std::collections::HashMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::*;

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "what counts is its schema")]
struct Everything {
    #[schemars(range(min = 0, max = 100))]
    percent: Option<u8>,
    #[schemars(range(min = -0.5, max = 0.5))]
    tilt: Option<f64>,
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 10, "multipleOf" = 3))]
    step: Option<i64>,
    #[schemars(length(min = 1, max = 3))]
    name: Option<String>,
    #[schemars(regex(pattern = "^[a-z]+$"))]
    room: Option<String>,
    #[schemars(length(min = 1, max = 2), inner(range(max = 5)), extend("uniqueItems" = true))]
    points: Option<Vec<u16>>,
    #[schemars(extend("minProperties" = 1, "maxProperties" = 2))]
    levels: Option<HashMap<String, Percent>>,
    by_number: Option<HashMap<u32, Percent>>,
    fade: Option<Fade>,
    either: Option<Either>,
    day: Option<Day>,
    pair: Option<(u8, bool)>,
    on: Option<bool>,
    nested: Option<Box<Self>>,
    anything: Option<Value>,
}

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "what counts is its schema")]
struct Percent(#[schemars(range(max = 100))] u8);

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "what counts is its schema")]
enum Fade {
    /// In no time.
    Never,
    Seconds(#[schemars(range(max = 60))] u32),
}

#[derive(Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[expect(dead_code, reason = "what counts is its schema")]
enum Either {
    Near {
        #[schemars(range(max = 3))]
        metres: u8,
    },
    Far {
        #[schemars(range(min = 4))]
        metres: u8,
    },
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Day {
    Monday,
    Sunday,
}

fn rules<T: JsonSchema>() -> Rules {
    Rules::of(|generator| generator.subschema_for::<T>()).unwrap()
}

/// `None` where it fits.
fn check(member: &str, value: Value, expected: Option<&str>) {
    let body = json!({ member: value });
    let found = rules::<Everything>().check(&body);
    let expected = expected.map(|text| format!("d.{member}{text}"));
    assert_eq!(found.bound, expected, "{body}");
    assert_eq!(found.shape, None, "{body}");
}

#[test]
fn numbers_keep_their_ranges() {
    check("percent", json!(100), None);
    check("percent", json!(140), Some(": 140 is more than 100 (the maximum)"));
    check("percent", json!(-1), Some(": -1 is less than 0 (the minimum)"));
    check("percent", json!(null), None);
    check("tilt", json!(0.5), None);
    check("tilt", json!(0.51), Some(": 0.51 is more than 0.5 (the maximum)"));
    check("tilt", json!(-1), Some(": -1 is less than -0.5 (the minimum)"));
    check("step", json!(9), None);
    check("step", json!(0), Some(": 0 is not more than 0"));
    check("step", json!(10), Some(": 10 is not less than 10"));
    check("step", json!(4), Some(": 4 is not a multiple of 3"));
}

/// A double would round one to the other.
#[test]
fn large_numbers_are_compared_exactly() {
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "what counts is its schema")]
    struct Large {
        #[schemars(range(max = 9_007_199_254_740_992_u64))]
        n: u64,
    }
    let found = rules::<Large>().check(&json!({"n": 9_007_199_254_740_993_u64})).bound;
    let expected = "d.n: 9007199254740993 is more than 9007199254740992 (the maximum)";
    assert_eq!(found.as_deref(), Some(expected));
}

#[test]
fn texts_keep_their_lengths_in_characters_and_their_patterns() {
    check("name", json!("äöü"), None);
    check("name", json!(""), Some(": 0 characters are fewer than 1 (the minimum)"));
    check("name", json!("äöüß"), Some(": 4 characters are more than 3 (the maximum)"));
    check("room", json!("hall"), None);
    check("room", json!("hall 2"), Some(": \"hall 2\" does not match ^[a-z]+$"));
    let long = format!(": \"{}\"… does not match ^[a-z]+$", "A".repeat(64));
    check("room", json!("A".repeat(70)), Some(&long));
}

#[test]
fn lists_and_maps_keep_their_sizes_and_their_items_bounds() {
    check("points", json!([1, 5]), None);
    check("points", json!([]), Some(": 0 items are fewer than 1 (the minimum)"));
    check("points", json!([1, 2, 3]), Some(": 3 items are more than 2 (the maximum)"));
    check("points", json!([1, 6]), Some("[1]: 6 is more than 5 (the maximum)"));
    check("points", json!([1, 1]), Some("[1]: this item stands twice"));
    check("levels", json!({}), Some(": 0 members are fewer than 1 (the minimum)"));
    check("levels", json!({"hall": 101}), Some(".hall: 101 is more than 100 (the maximum)"));
    check("by_number", json!({"7": 101}), Some(".7: 101 is more than 100 (the maximum)"));
    check("pair", json!([300, true]), Some("[0]: 300 is more than 255 (the maximum)"));
    check("pair", json!([1, true, 2]), Some(": 3 items are more than 2 (the maximum)"));
}

#[test]
fn the_bounds_of_an_enum_are_those_of_the_variant_that_is_meant() {
    check("fade", json!("never"), None);
    check("fade", json!({"seconds": 60}), None);
    check("fade", json!({"seconds": 61}), Some(".seconds: 61 is more than 60 (the maximum)"));
    check("either", json!({"kind": "near", "metres": 3}), None);
    check("either", json!({"kind": "near", "metres": 4}), Some(".metres: 4 is more than 3 (the maximum)"));
    check("either", json!({"kind": "far", "metres": 3}), Some(".metres: 3 is less than 4 (the minimum)"));
}

#[test]
fn bounds_are_kept_in_types_that_contain_themselves() {
    let deep = json!({"nested": {"nested": {"percent": 101}}});
    let found = rules::<Everything>().check(&deep).bound;
    assert_eq!(found.as_deref(), Some("d.nested.nested.percent: 101 is more than 100 (the maximum)"));
}

#[test]
fn another_shape_is_told_with_its_place() {
    let check = |body: Value, expected: &str| {
        let found = rules::<Everything>().check(&body);
        assert_eq!((found.bound, found.shape.as_deref()), (None, Some(expected)), "{body}");
    };
    check(json!({"percent": "40"}), "d.percent: expected integer or null");
    check(json!({"percent": 1.5}), "d.percent: expected integer or null");
    check(json!({"day": "friday"}), "d.day: none of the forms that the schema has");
    check(json!({"either": {"kind": "near"}}), "d.either: none of the forms that the schema has");
    check(json!([]), "d: expected object");
}

/// `docs/protocol.md` §5.6: every value arrives as a text.
#[test]
fn texts_are_read_where_the_schema_has_no_text() {
    let check = |member: &str, text: &str, expected: Value| {
        let mut parameters = Map::from_iter([(member.to_owned(), json!(text))]);
        rules::<Everything>().read_texts(&mut parameters);
        assert_eq!(parameters[member], expected, "{member} {text}");
    };
    check("percent", "40", json!(40));
    check("percent", "forty", json!("forty"));
    check("percent", "4.5", json!("4.5"));
    check("percent", "true", json!("true"));
    check("tilt", "-0.25", json!(-0.25));
    check("tilt", "1", json!(1));
    check("on", "true", json!(true));
    check("on", "1", json!("1"));
    check("name", "40", json!("40"));
    check("day", "sunday", json!("sunday"));
    check("anything", "40", json!("40"));
    check("unknown", "40", json!("40"));
    check("points", "[1, 2]", json!([1, 2]));
    check("either", r#"{"kind":"near","metres":3}"#, json!({"kind": "near", "metres": 3}));
    // A text may be meant.
    check("fade", r#"{"seconds":3}"#, json!(r#"{"seconds":3}"#));

    let mut parameters = Map::from_iter([("any".to_owned(), json!("7"))]);
    rules::<HashMap<String, u8>>().read_texts(&mut parameters);
    assert_eq!(parameters["any"], 7);
}

#[test]
fn what_would_not_be_enforced_is_refused() {
    fn check<T: JsonSchema>(expected: &str) {
        let reason = Rules::of(|generator| generator.subschema_for::<T>()).map(drop).unwrap_err();
        assert!(reason.starts_with(expected), "{reason}");
    }
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "what counts is its schema")]
    struct BadPattern(#[schemars(regex(pattern = "(?=a)b"))] String);
    check::<BadPattern>("the pattern (?=a)b: ");
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "what counts is its schema")]
    struct Contains(#[schemars(extend("contains" = {"const": 1}))] Vec<u8>);
    check::<Contains>("`contains` is not enforced");
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "what counts is its schema")]
    struct Nowhere(#[schemars(extend("$ref" = "#/$defs/Nobody"))] u8);
    check::<Nowhere>("`$ref` leads nowhere: #/$defs/Nobody");
}

/// Otherwise each of its levels doubles the time, and this test does not end.
#[test]
fn a_deep_body_is_followed_only_in_the_form_that_its_tag_names() {
    #[derive(Deserialize, JsonSchema)]
    #[serde(tag = "op", rename_all = "lowercase")]
    #[expect(dead_code, reason = "what counts is its schema")]
    enum Condition {
        Not { of: Box<Self> },
        Soon { of: Box<Self> },
        Both(Pair),
        Above { percent: Percent },
    }
    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "what counts is its schema")]
    struct Pair {
        of: Box<Condition>,
        and: Box<Condition>,
    }
    let rules = rules::<Condition>();
    let nested = |innermost: Value, tag: Option<&str>| {
        (0..60).fold(innermost, |of, _| match tag {
            Some(op) => json!({"op": op, "of": of}),
            None => json!({"of": of}),
        })
    };
    for op in ["not", "soon"] {
        let above = |percent: u8| nested(json!({"op": "above", "percent": percent}), Some(op));
        let found = rules.check(&above(100));
        assert!(found.shape.is_none() && found.bound.is_none(), "{found:?}");
        let bound = rules.check(&above(101)).bound.unwrap();
        assert!(bound.ends_with(".percent: 101 is more than 100 (the maximum)"), "{bound}");
    }
    assert!(rules.check(&nested(json!({}), None)).shape.is_some());
    assert!(rules.check(&nested(json!({}), Some("both"))).shape.is_some());
}

#[test]
fn a_schema_that_refers_to_itself_without_end_ends() {
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "what counts is its schema")]
    struct Endless(#[schemars(extend("$ref" = "#/$defs/Endless"))] Box<Inner>);
    #[derive(JsonSchema)]
    #[schemars(rename = "Endless")]
    struct Inner {}
    let rules = rules::<Endless>();
    assert!(rules.check(&json!({})).shape.is_none());
    assert!(!rules.types(rules.schema(), MAX_NESTING).is_empty());
}

#[test]
fn the_platform_is_told_what_each_parameter_looks_like() {
    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "what counts is its schema")]
    struct Request {
        #[schemars(range(min = 0, max = 100))]
        percent: u8,
        #[schemars(length(min = 1, max = 64))]
        name: String,
        #[serde(default)]
        fade_seconds: u16,
        offset: Option<i8>,
        ratio: Option<f32>,
        on: Option<bool>,
        day: Option<Day>,
        #[schemars(regex(pattern = "^[a-z]+$"))]
        room: Option<String>,
        free: Option<String>,
        points: Option<Vec<u8>>,
    }
    let told: Vec<_> = rules::<Request>()
        .parameters()
        .into_iter()
        .map(|p| (p.name, p.value.unwrap_or_default(), p.required, p.default_value))
        .collect();
    let row = |name: &str, value: &str, required, default: Option<&str>| {
        (name.to_owned(), value.to_owned(), required, default.map(str::to_owned))
    };
    assert_eq!(
        told,
        [
            row("name", r"^[\s\S]{1,64}$", true, None),
            row("percent", "^(0|[1-9][0-9]{0,2})$", true, None),
            row("day", "^(monday|sunday)$", false, None),
            row("fade_seconds", "^(0|[1-9][0-9]{0,4})$", false, Some("0")),
            row("free", "", false, None),
            row("offset", "^-?(0|[1-9][0-9]{0,2})$", false, None),
            row("on", "^(true|false)$", false, None),
            row("points", "", false, None),
            row("ratio", r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$", false, None),
            row("room", "^[a-z]+$", false, None),
        ]
    );
}
