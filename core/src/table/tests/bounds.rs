//! What handlers with bounds are not given, and what the platform is told of them.

use proptest::prelude::*;

use super::*;

struct Fade;

/// The platform sends every one of these as a text.
#[derive(Debug, Deserialize, JsonSchema)]
struct FadeRequest {
    #[schemars(range(min = 0, max = 100))]
    percent: u8,
    #[serde(default, alias = "slow")]
    slowly: bool,
    #[schemars(length(max = 8), regex(pattern = "^[a-z]+$"))]
    room: Option<String>,
}

impl Action for Fade {
    const ROUTE: Route = Route::custom("lamp", "fade");
    const TITLE: &'static str = "Fade";
    const DESCRIPTION: &'static str = "Goes to a brightness.";
    type Request = FadeRequest;
    type Reply = Finished<()>;
}

impl Handler<Fade> for Device {
    async fn handle(&self, _: &Context, request: &FadeRequest) -> Result<Finished<()>, Refusal> {
        assert!(request.percent <= 100 && request.room.as_deref().is_none_or(|room| room.len() <= 8));
        assert!(!request.slowly || request.percent > 0);
        Ok(Finished(()))
    }
}

/// What a handler with bounds is not given.
fn check_bounds(fields: &[(&str, Value)], expected: Option<&str>) {
    let mut table = Table::new();
    table.on::<Fade>(Device).unwrap();
    let fields: Vec<Value> =
        fields.iter().map(|(field, value)| json!({"field": field, "value": value})).collect();
    let raw = serde_json::value::to_raw_value(&json!({ "fields": fields })).unwrap();
    let refusal = table.check(&Fade::ROUTE, Some(&raw)).err();
    assert_eq!(refusal.as_ref().map(Refusal::message), expected, "{fields:?}");
    assert!(refusal.is_none_or(|refusal| refusal.rc() == crate::Code::BAD_REQUEST));
}

#[test]
fn a_number_may_come_as_a_text() {
    check_bounds(&[("percent", json!("40")), ("slowly", json!("true"))], None);
    check_bounds(&[("percent", json!(40)), ("slowly", json!(true))], None);
    let text = "d.percent: invalid type: string \"forty\", expected u8";
    check_bounds(&[("percent", json!("forty"))], Some(text));
}

#[test]
fn a_value_out_of_its_bounds_is_refused_with_its_place_and_the_bound() {
    for value in [json!(140), json!("140")] {
        check_bounds(&[("percent", value)], Some("d.percent: 140 is more than 100 (the maximum)"));
    }
    // Both are out of the range of a u8, and the declared bound is what helps.
    check_bounds(&[("percent", json!(300))], Some("d.percent: 300 is more than 100 (the maximum)"));
    check_bounds(&[("percent", json!("-1"))], Some("d.percent: -1 is less than 0 (the minimum)"));
    let room = |room: &str| [("percent", json!("4")), ("room", json!(room))];
    check_bounds(&room("hall"), None);
    check_bounds(&room("hall 2"), Some("d.room: \"hall 2\" does not match ^[a-z]+$"));
    check_bounds(&room("corridors"), Some("d.room: 9 characters are more than 8 (the maximum)"));
}

#[test]
fn what_the_schema_does_not_describe_is_refused_although_it_could_be_decoded() {
    struct Aliased;
    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "it is only decoded")]
    struct Request {
        #[serde(alias = "pct")]
        #[schemars(range(max = 100))]
        percent: u8,
    }
    impl Action for Aliased {
        const ROUTE: Route = Route::custom("lamp", "aliased");
        type Request = Request;
        type Reply = Finished<()>;
    }
    impl Handler<Aliased> for Device {
        async fn handle(&self, _: &Context, _: &Request) -> Result<Finished<()>, Refusal> {
            Ok(Finished(()))
        }
    }
    let mut table = Table::new();
    table.on::<Aliased>(Device).unwrap();
    let raw = RawValue::from_string(r#"{"fields":[{"field":"pct","value":140}]}"#.into()).unwrap();
    let refusal = table.check(&Aliased::ROUTE, Some(&raw)).unwrap_err();
    assert_eq!(refusal.message(), "d: `percent` is missing");
}

/// A struct is also decoded from a list of its members' values, whose bounds nothing would name.
#[test]
fn a_list_in_the_place_of_an_object_does_not_get_around_the_bounds() {
    struct Listed;
    impl Action for Listed {
        const ROUTE: Route = Route::FirmwareUpdate;
        type Request = FadeRequest;
        type Reply = Finished<()>;
    }
    impl Handler<Listed> for Device {
        async fn handle(&self, _: &Context, _: &FadeRequest) -> Result<Finished<()>, Refusal> {
            Ok(Finished(()))
        }
    }
    let mut table = Table::new();
    table.on::<Listed>(Device).unwrap();
    let raw = RawValue::from_string(r#"[140, true, null]"#.into()).unwrap();
    assert!(read::<FadeRequest>(body(&Listed::ROUTE, Some(&raw)).unwrap()).is_ok());
    let refusal = table.check(&Listed::ROUTE, Some(&raw)).unwrap_err();
    assert_eq!(refusal.message(), "d: expected object");
}

#[test]
fn a_body_for_a_route_without_a_handler_is_answered_501() {
    let refusal = Table::new().check(&Fade::ROUTE, None).unwrap_err();
    assert_eq!(refusal.rc(), crate::Code::UNSUPPORTED);
}

#[test]
fn a_schema_that_would_not_be_enforced_cannot_be_registered() {
    struct Odd<T>(PhantomData<T>);
    impl<T: crate::RequestBody> Action for Odd<T> {
        const ROUTE: Route = Route::custom("lamp", "odd");
        type Request = T;
        type Reply = Finished<()>;
    }
    impl<T: crate::RequestBody> Handler<Odd<T>> for Device {
        async fn handle(&self, _: &Context, _: &T) -> Result<Finished<()>, Refusal> {
            Ok(Finished(()))
        }
    }
    fn check<T: crate::RequestBody>(expected: &str) {
        let error = Table::new().on::<Odd<T>>(Device).unwrap_err();
        assert_eq!(error.to_string(), format!("mgmt/custom/lamp/odd: the schema of its request: {expected}"));
    }
    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "what counts is its schema")]
    struct Name {
        #[serde(rename = "my percent")]
        percent: u8,
    }
    check::<Name>(r#"the parameter "my percent": a name has 1 to 255 characters of a-z A-Z 0-9 - _ ."#);
    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "what counts is its schema")]
    struct Keyword {
        #[schemars(extend("not" = {"const": 3}))]
        percent: u8,
    }
    check::<Keyword>("`not` is not enforced");
}

#[test]
fn the_table_prints_one_extension_package_for_each_bundle() {
    let mut table = Table::new();
    table.on::<Reboot>(Device).unwrap();
    table.on::<Fade>(Device).unwrap();
    table.on::<Dim>(Device).unwrap();
    table.on_route::<Fade>(Route::custom("tools", "run"), Policy::of::<Fade>(), Device).unwrap();
    let packages = serde_json::to_value(table.extension_packages()).unwrap();
    let fade = json!({
        "actionDisplayName": {"en_US": "Fade"},
        "description": {"en_US": "Goes to a brightness."},
        "parameters": [
            {"name": "percent", "value": "^(0|[1-9][0-9]{0,2})$", "required": true},
            {"name": "room", "value": "^[a-z]+$", "required": false},
            {"name": "slowly", "value": "^(true|false)$", "required": false, "defaultValue": "false"},
        ]
    });
    let expected = json!([
        {
            "bundleId": "lamp",
            "version": "1.0",
            "displayName": {"en_US": "lamp"},
            "actions": {
                "dim": {
                    "actionDisplayName": {"en_US": "dim"},
                    "parameters": [
                        {"name": "percent", "required": true},
                        {"name": "room", "required": false},
                    ]
                },
                "fade": fade
            }
        },
        {
            "bundleId": "tools",
            "version": "1.0",
            "displayName": {"en_US": "tools"},
            "actions": {"run": fade}
        }
    ]);
    assert_eq!(packages, expected, "{packages:#}");
}

/// A number as the platform may send it.
fn sent(number: i64, as_text: bool) -> Value {
    if as_text { number.to_string().into() } else { number.into() }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Judged by what the bounds mean, not by how they are checked.
    #[test]
    fn a_request_reaches_its_handler_if_and_only_if_it_keeps_the_bounds(
        percent in prop_oneof![-3_i64..104, any::<i64>()],
        as_text in any::<bool>(),
        room in prop::option::of(prop_oneof!["[a-z]{0,10}", any::<String>()]),
    ) {
        let mut fields = vec![json!({"field": "percent", "value": sent(percent, as_text)})];
        fields.extend(room.iter().map(|room| json!({"field": "room", "value": room})));
        let fits = |room: &String| {
            (1..=8).contains(&room.len()) && room.bytes().all(|byte| byte.is_ascii_lowercase())
        };
        let expected = (0..=100).contains(&percent) && room.as_ref().is_none_or(fits);

        let mut table = Table::new();
        table.on::<Fade>(Device).unwrap();
        let raw = serde_json::value::to_raw_value(&json!({ "fields": fields })).unwrap();
        let refusal = table.check(&Fade::ROUTE, Some(&raw)).err();
        prop_assert_eq!(refusal.is_none(), expected, "{:?}", refusal);
        if let Some(refusal) = refusal {
            let named = refusal.message().starts_with("d.percent: ") || refusal.message().starts_with("d.room: ");
            prop_assert!(named, "{}", refusal);
        }
    }
}
