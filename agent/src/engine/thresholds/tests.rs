use serde_json::json;

use super::*;

fn counts(rule: &Threshold, told: &Value, current: &Value) -> bool {
    rule.counts(&rule.essence(told), &rule.essence(current))
}

#[test]
fn a_change_of_exactly_the_least_amount_counts() {
    let rule = Threshold::new().min_change(0.1);
    for (told, current, expected) in
        [(0.2, 0.3, true), (0.3, 0.2, true), (0.2, 0.29, false), (0.2, 5.0, true)]
    {
        assert_eq!(counts(&rule, &json!(told), &json!(current)), expected, "{told} to {current}");
    }
}

#[test]
fn what_was_a_number_and_is_none_any_more_counts() {
    let rule = Threshold::new().min_change(100.0);
    for current in [json!(null), json!("1"), json!({})] {
        assert!(counts(&rule, &json!(1), &current), "{current}");
        assert!(counts(&rule, &current, &json!(1)), "{current}");
    }
    assert!(!counts(&rule, &json!(null), &json!(null)));
}

#[test]
fn members_without_a_least_change_count_whenever_they_differ() {
    let rule = Threshold::new().min_change_of("inside.celsius", 0.5).ignore("at");
    let value =
        |celsius: f64, door: &str, at: u32| json!({"inside": {"celsius": celsius}, "door": door, "at": at});
    let told = value(20.0, "shut", 1);
    assert!(!counts(&rule, &told, &value(20.4, "shut", 2)));
    assert!(counts(&rule, &told, &value(20.5, "shut", 1)));
    assert!(counts(&rule, &told, &value(20.0, "open", 1)));
    assert!(counts(&rule, &told, &json!({"door": "shut", "at": 1})));
}

#[test]
fn a_location_counts_by_the_metres_that_it_moved() {
    let rule = Threshold::new().min_metres(50.0);
    let at = |latitude: f64, elevation: f64| json!({"latitude": latitude, "longitude": 11.0, "elevation": elevation});
    // A ten-thousandth of a degree is 11 m.
    assert!(!counts(&rule, &at(48.0, 1.0), &at(48.0004, 900.0)));
    assert!(counts(&rule, &at(48.0, 1.0), &at(48.0005, 1.0)));
    assert!(counts(&rule, &json!(null), &at(48.0, 1.0)));
}

#[test]
fn the_rule_of_an_attribute_holds_for_its_members() {
    let rule = Threshold::new()
        .min_change_of("inside.celsius", 0.5)
        .ignore("inside.at")
        .min_interval(Duration::from_secs(7));
    let rules = BTreeMap::from([("climate".to_owned(), rule.clone())]);
    let of = |field| rule_of(&rules, field);
    assert_eq!(of("climate"), Some(rule));
    let seven = Threshold::new().min_interval(Duration::from_secs(7));
    assert_eq!(of("climate.inside.celsius"), Some(seven.clone().min_change(0.5)));
    assert_eq!(of("climate.inside"), Some(seven.clone().min_change_of("celsius", 0.5).ignore("at")));
    assert_eq!(of("climate.inside.at"), Some(seven.clone()));
    assert_eq!(of("climate.insid"), Some(seven));
    assert_eq!(of("climates"), None);
}

#[test]
fn a_rule_that_nobody_can_keep_to_is_refused() {
    let hour = Duration::from_secs(3600);
    let good = [
        ("level", Threshold::new().min_change(1.0).min_interval(hour)),
        ("location", Threshold::new().min_metres(1.0)),
        ("location", Threshold::new().min_change_of("elevation", 3.0)),
        ("climate", Threshold::new().min_change_of("celsius", 0.5).ignore("at")),
    ];
    for (name, rule) in good {
        assert_eq!(rule.check(name), Ok(()), "{name}");
    }
    let many = (0..33).fold(Threshold::new(), |rule, n| rule.ignore(format!("m{n}")));
    let bad = [
        ("mgmt", Threshold::new().min_interval(hour)),
        ("mgmt.firmware", Threshold::new().min_interval(hour)),
        ("mgmt.firmware.state", Threshold::new().min_change(1.0)),
        ("level", Threshold::new().min_change(0.0)),
        ("level", Threshold::new().min_change(f64::NAN)),
        ("level", Threshold::new().min_change(-1.0)),
        ("level", Threshold::new().min_metres(1.0)),
        ("level", Threshold::new().min_change(1.0).min_change_of("a", 1.0)),
        ("level", Threshold::new().min_interval(25 * hour)),
        ("location", Threshold::new().min_metres(1.0).ignore("elevation")),
        ("level", many),
    ];
    for (name, rule) in bad {
        assert!(rule.check(name).is_err(), "{name} {rule:?}");
    }
}

#[test]
fn what_an_observer_was_told_stays_small_however_large_the_value_is() {
    let mut thresholds = Thresholds::default();
    let (now, boot) = (Now::default(), BootId("boot".into()));
    thresholds.watch("log", Threshold::new().min_interval(Duration::from_secs(1)), now, &boot);
    let (_, stored) = thresholds.told("log", &json!("x".repeat(100_000)), Some((now, &boot))).unwrap();
    assert!(stored.to_string().len() < 200);
}

#[test]
fn a_rule_is_told_in_words() {
    let words = [
        (Threshold::new().min_interval(Duration::from_secs(90)), "any change; at most every 1m 30s"),
        (Threshold::new().min_change(0.5), "a change by 0.5"),
        (Threshold::new().min_metres(25.0), "a move by 25 m"),
        (
            Threshold::new().min_change_of("celsius", 0.5).ignore("at"),
            "a change of celsius by 0.5, any other change but of at",
        ),
    ];
    for (rule, told) in words {
        assert_eq!(rule.to_string(), told);
    }
}
