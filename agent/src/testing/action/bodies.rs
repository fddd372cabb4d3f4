//! Bodies that do not fit, made from one that does and from the schema.

use iotdm_core::Route;
use serde_json::{Map, Value, json};

use super::as_sent;
use super::bench::Bench;

/// Each with the member that a refusal has to name.
pub(super) fn bad_bodies(bench: &Bench<'_>) -> Vec<(String, Value)> {
    let schemas = &bench.schemas[bench.route.to_string()];
    let request = resolved(schemas, &schemas["request"]);
    let example = bench.example.as_object().cloned().unwrap_or_default();
    let mut bad = Vec::new();
    for name in request["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let mut without = example.clone();
        without.remove(name);
        bad.push((name.to_owned(), without));
    }
    for (name, schema) in request["properties"].as_object().into_iter().flatten() {
        for value in misfits(resolved(schemas, schema)) {
            let mut with = example.clone();
            with.insert(name.clone(), value);
            bad.push((name.clone(), with));
        }
    }
    bad.into_iter().map(|(name, body)| (name, sent(&bench.route, body))).collect()
}

/// As JSON has it: a text of the platform is read as what the schema says, and would fit more often.
fn sent(route: &Route, body: Map<String, Value>) -> Value {
    match route {
        Route::Custom { .. } => {
            let fields = body.into_iter().map(|(field, value)| json!({"field": field, "value": value}));
            json!({"fields": fields.collect::<Vec<_>>()})
        }
        _ => as_sent(route, &Value::Object(body)),
    }
}

fn resolved<'a>(schemas: &'a Value, schema: &'a Value) -> &'a Value {
    let pointer = schema["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
    pointer.and_then(|pointer| schemas.pointer(pointer)).unwrap_or(schema)
}

/// Values that a schema does not allow.
fn misfits(schema: &Value) -> Vec<Value> {
    let mut values = Vec::new();
    let is = |name: &str| match &schema["type"] {
        Value::Array(names) => names.contains(&name.into()),
        one => one == name,
    };
    if ["integer", "number", "boolean"].into_iter().any(is) && !is("string") {
        values.push(json!("neither a number nor a truth"));
    } else if is("string") {
        values.push(json!(["no text"]));
    }
    let step = |keyword: &str, by: i64| schema[keyword].as_i64().and_then(|limit| limit.checked_add(by));
    values.extend(step("minimum", -1).into_iter().chain(step("maximum", 1)).map(Value::from));
    let least = schema["minLength"].as_u64().filter(|least| *least > 0);
    values.extend(least.and_then(|least| text_of(least - 1)));
    values.extend(schema["maxLength"].as_u64().and_then(|most| text_of(most + 1)));
    if schema["enum"].is_array() {
        values.push(json!("none of these"));
    }
    values
}

fn text_of(chars: u64) -> Option<Value> {
    let chars = usize::try_from(chars).ok().filter(|chars| *chars <= MAX_TEXT_CHARS)?;
    Some("x".repeat(chars).into())
}

/// Longest text that is sent, in characters: less than a payload holds.
const MAX_TEXT_CHARS: usize = 16 * 1024;
