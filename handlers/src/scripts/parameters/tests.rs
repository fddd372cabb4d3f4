use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(kind: &ParameterKind, given: Value, expected: Result<Value, Misfit>) {
    assert_eq!(kind.convert(&given), expected, "{given} as {kind}");
}

#[test]
fn a_whole_number_is_taken_as_a_number_or_exactly_as_one_is_written() {
    let kind = ParameterKind::Integer { min: -5, max: 100 };
    for good in [json!(40), json!("40"), json!(40.0), json!("-5"), json!(-5), json!("0"), json!(100)] {
        let number = good.as_str().map_or_else(|| good.as_f64().unwrap(), |text| text.parse().unwrap());
        #[expect(clippy::cast_possible_truncation, reason = "they are small and whole")]
        check(&kind, good, Ok(json!(number as i64)));
    }
    for other in
        ["", " 40", "40 ", "+40", "040", "-0", "4e1", "40.0", "0x10", "\u{664}", "99999999999999999999"]
    {
        check(&kind, json!(other), Err(Misfit::Kind));
    }
    for other in [json!(40.5), json!(1e300), json!(true), json!([40]), json!({}), json!(u64::MAX)] {
        check(&kind, other, Err(Misfit::Kind));
    }
    check(&kind, json!(101), Err(Misfit::Range));
    check(&kind, json!("-6"), Err(Misfit::Range));
    let all = ParameterKind::Integer { min: i64::MIN, max: i64::MAX };
    check(&all, json!(i64::MIN.to_string()), Ok(json!(i64::MIN)));
    check(&all, json!(i64::MAX), Ok(json!(i64::MAX)));
}

#[test]
fn a_number_is_taken_as_json_writes_it() {
    let kind = ParameterKind::Number { min: 0.0, max: 60.0 };
    check(&kind, json!("1.5"), Ok(json!(1.5)));
    check(&kind, json!("60"), Ok(json!(60)));
    check(&kind, json!("6e1"), Ok(json!(60.0)));
    check(&kind, json!(0.1), Ok(json!(0.1)));
    check(&kind, json!("60.001"), Err(Misfit::Range));
    for other in ["", "NaN", "inf", "1e999", " 1", "1 ", "\n1", ".5", "1,5", "0x1", "1 2"] {
        check(&kind, json!(other), Err(Misfit::Kind));
    }
}

#[test]
fn a_boolean_is_true_or_false_and_nothing_like_it() {
    for good in [json!(true), json!("true")] {
        check(&ParameterKind::Boolean, good, Ok(json!(true)));
    }
    check(&ParameterKind::Boolean, json!("false"), Ok(json!(false)));
    for other in [json!("True"), json!("yes"), json!(1), json!("1"), json!(null), json!("")] {
        check(&ParameterKind::Boolean, other, Err(Misfit::Kind));
    }
}

#[test]
fn a_text_has_its_length_in_characters_and_no_control_characters() {
    let kind = ParameterKind::Text { min_length: 2, max_length: 3, pattern: None };
    check(&kind, json!("\u{e9}\u{e9}\u{e9}"), Ok(json!("\u{e9}\u{e9}\u{e9}")));
    check(&kind, json!("a"), Err(Misfit::Range));
    check(&kind, json!("abcd"), Err(Misfit::Range));
    check(&kind, json!(12), Err(Misfit::Kind));
    for control in ["a\0", "a\n", "a\u{7f}", "a\u{9b}"] {
        check(&kind, json!(control), Err(Misfit::ControlCharacter));
    }
    let long = "x".repeat(ParameterKind::DEFAULT_MAX_LENGTH + 1);
    check(&ParameterKind::text(), json!(long), Err(Misfit::Range));
}

#[test]
fn a_pattern_must_match_all_of_a_text() {
    let pattern = |source: &str| ParameterKind::Text {
        min_length: 0,
        max_length: 99,
        pattern: Some(Pattern::new(source).unwrap()),
    };
    check(&pattern("[a-z]+"), json!("lamp"), Ok(json!("lamp")));
    for other in ["lamp1", "1lamp", "", "Lamp"] {
        check(&pattern("[a-z]+"), json!(other), Err(Misfit::Pattern));
    }
    // An alternative is anchored on both of its sides.
    check(&pattern("on|off"), json!("onx"), Err(Misfit::Pattern));
    check(&pattern("on|off"), json!("xoff"), Err(Misfit::Pattern));
    check(&pattern("(?m)on$"), json!("on"), Ok(json!("on")));
}

#[test]
fn a_pattern_that_would_not_be_anchored_or_is_too_large_is_none() {
    for source in ["a)|(b", "(", "[", "a{2", "(?x)a # no end", "\\1", "(?=a)"] {
        let error = Pattern::new(source);
        assert!(matches!(error, Err(PatternError::Syntax(_))), "{source}: {error:?}");
    }
    assert!(matches!(Pattern::new("(?:a{1000}){1000}"), Err(PatternError::Syntax(_))));
    assert_eq!(Pattern::new(&"a".repeat(513)), Err(PatternError::TooLong));
}

#[test]
fn a_declaration_says_what_is_wrong_with_it() {
    let check = |parameter: Parameter, expected: &str| {
        assert_eq!(parameter.check().unwrap_err().to_string(), expected, "{parameter:?}");
    };
    let text = |min_length, max_length| ParameterKind::Text { min_length, max_length, pattern: None };
    check(
        Parameter::new("", ParameterKind::Boolean),
        "is no name; write 1 to 255 characters of a-z A-Z 0-9 - _ .",
    );
    check(
        Parameter::new("n", text(3, 2)),
        "has no usable lengths; min_length is at most max_length, and that at most 8192",
    );
    check(
        Parameter::new("n", text(0, 8193)),
        "has no usable lengths; min_length is at most max_length, and that at most 8192",
    );
    let range = "has an empty range; min is at most max";
    check(Parameter::new("n", ParameterKind::Number { min: 2.0, max: 1.0 }), range);
    check(Parameter::new("n", ParameterKind::Number { min: f64::NAN, max: 1.0 }), range);
    check(Parameter::new("n", ParameterKind::Number { min: 0.0, max: f64::INFINITY }), range);
    let values = "needs 1 to 256 different values without control characters";
    check(Parameter::new("n", ParameterKind::Choice(vec![])), values);
    check(Parameter::new("n", ParameterKind::Choice(vec!["a".into(), "a".into()])), values);
    check(Parameter::new("n", ParameterKind::Choice(vec!["a\n".into()])), values);
    let both = Parameter { required: true, ..Parameter::new("n", ParameterKind::Boolean).default(true) };
    check(both, "is required and has a default; keep one of the two");
}

/// Every kind, within bounds that make both outcomes likely.
fn kinds() -> impl Strategy<Value = ParameterKind> {
    let pattern = prop::option::of("[a-c.|*+?()\\[\\]{}0-9^$\\\\-]{0,12}")
        .prop_map(|source| source.and_then(|source| Pattern::new(&source).ok()));
    prop_oneof![
        (any::<i64>(), any::<i64>()).prop_map(|(min, max)| ParameterKind::Integer { min, max }),
        (any::<f64>(), any::<f64>()).prop_map(|(min, max)| ParameterKind::Number { min, max }),
        Just(ParameterKind::Boolean),
        (0..9_usize, 0..9_usize, pattern).prop_map(|(min_length, max_length, pattern)| ParameterKind::Text {
            min_length,
            max_length,
            pattern
        }),
        prop::collection::vec("[a-c]{0,2}", 0..4).prop_map(ParameterKind::Choice),
    ]
}

/// Whatever may stand as a value in JSON.
fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(|number| number.to_string().into()),
        any::<f64>().prop_map(|number| number.to_string().into()),
        "\\PC{0,20}".prop_map(Value::from),
        "[a-c\u{0}\n-]{0,9}".prop_map(Value::from),
        prop::collection::vec(any::<u8>().prop_map(Value::from), 0..3).prop_map(Value::from),
    ]
}

proptest! {
    #[test]
    fn no_value_and_no_declaration_makes_the_conversion_panic(kind in kinds(), value in values()) {
        let parameter = Parameter::new("p", kind);
        let _ = parameter.check();
        let given = Map::from_iter([("p".to_owned(), value)]);
        let _ = convert(std::slice::from_ref(&parameter), given);
        let _ = (parameter.kind.platform_pattern(), parameter.kind.schema());
    }

    #[test]
    fn what_was_converted_converts_to_itself_also_as_a_text(kind in kinds(), value in values()) {
        if let Ok(converted) = kind.convert(&value) {
            prop_assert_eq!(kind.convert(&converted), Ok(converted.clone()));
            // Doubles that are written without a fraction come back as whole numbers: the same value.
            let again = kind.convert(&written(&converted).into());
            let again = again.map(|value| value.as_f64().map_or(value, Value::from));
            prop_assert_eq!(again, Ok(converted.as_f64().map_or(converted, Value::from)));
        }
    }

    #[test]
    fn no_text_makes_a_pattern_panic(source in "\\PC{0,40}", text in "\\PC{0,40}") {
        if let Ok(pattern) = Pattern::new(&source) {
            let _ = pattern.matches(&text);
        }
    }
}
