use std::collections::BTreeMap;

use serde_json::Value;

/// What the placeholders of an exchange stand for.
#[derive(Debug, Default)]
pub(super) struct Captures {
    values: BTreeMap<String, String>,
}

impl Captures {
    /// With the values that the player gives.
    pub(super) fn new<const N: usize>(given: [(&str, String); N]) -> Self {
        Self { values: given.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
    }

    /// A platform step's payload with its placeholders filled in.
    pub(super) fn filled(&self, payload: &Value) -> Value {
        replaced(payload, |name| {
            Some(self.values.get(name).expect("what stands in a platform step was captured").clone())
        })
    }

    /// Compares what the device sent with its step, and captures the reqIds it made.
    pub(super) fn take(&mut self, expected: &Value, actual: &Value) -> Result<(), String> {
        self.compare(expected, actual, "payload")
    }

    fn compare(&mut self, expected: &Value, actual: &Value, place: &str) -> Result<(), String> {
        match (expected, actual) {
            (Value::String(text), _) if placeholder(text).is_some() => {
                self.placeholder(placeholder(text).unwrap_or_default(), actual, place)
            }
            (Value::Object(wanted), Value::Object(got)) if wanted.keys().eq(got.keys()) => wanted
                .iter()
                .try_for_each(|(name, value)| self.compare(value, &got[name], &format!("{place}.{name}"))),
            (Value::Array(wanted), Value::Array(got)) if wanted.len() == got.len() => {
                let pairs = wanted.iter().zip(got).enumerate();
                pairs
                    .into_iter()
                    .try_for_each(|(i, (value, got))| self.compare(value, got, &format!("{place}[{i}]")))
            }
            (Value::Number(wanted), Value::Number(got)) if wanted.as_f64() == got.as_f64() => Ok(()),
            _ if expected == actual => Ok(()),
            _ => Err(format!("{place}: expected {expected}, got {actual}")),
        }
    }

    fn placeholder(&mut self, name: &str, actual: &Value, place: &str) -> Result<(), String> {
        if name == "any" {
            return Ok(());
        }
        let Value::String(text) = actual else {
            return Err(format!("{place}: expected a text, got {actual}"));
        };
        let known = self.values.get(name);
        if !name.starts_with("reqId:") {
            return match known {
                Some(value) if value == text => Ok(()),
                _ => Err(format!("{place}: expected {known:?}, got {text:?}")),
            };
        }
        if self.values.values().any(|value| value == text) {
            return Err(format!("{place}: {text} was used before"));
        }
        self.values.insert(name.to_owned(), text.clone());
        Ok(())
    }
}

/// The values of a device step, for the product that is to do what it shows: whatever is left open there is a time.
pub(super) fn with_a_time(value: &Value) -> Value {
    replaced(value, |name| (name == "any").then(|| "2026-06-01T12:00:00Z".to_owned()))
}

fn replaced(value: &Value, with: impl Fn(&str) -> Option<String> + Copy) -> Value {
    match value {
        Value::String(text) => placeholder(text).and_then(with).map_or_else(|| value.clone(), Value::String),
        Value::Array(items) => items.iter().map(|item| replaced(item, with)).collect(),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, item)| (name.clone(), replaced(item, with))).collect())
        }
        _ => value.clone(),
    }
}

/// The name in a string that is nothing but a placeholder.
fn placeholder(text: &str) -> Option<&str> {
    text.strip_prefix("${")?.strip_suffix('}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn compare(expected: &Value, actual: &Value) -> Result<(), String> {
        Captures::new([("uri", "http://x".to_owned())]).take(expected, actual)
    }

    #[test]
    fn objects_have_exactly_the_same_members_in_any_order() {
        assert_eq!(compare(&json!({"a": 1, "b": [2.0]}), &json!({"b": [2], "a": 1})), Ok(()));
        assert!(compare(&json!({"a": 1}), &json!({"a": 1, "b": 2})).is_err());
        assert!(compare(&json!({"a": 1, "b": "${any}"}), &json!({"a": 1})).is_err());
    }

    #[test]
    fn a_difference_is_told_with_its_place() {
        let problem = compare(&json!({"d": [{"x": 1}]}), &json!({"d": [{"x": 2}]})).unwrap_err();
        assert_eq!(problem, "payload.d[0].x: expected 1, got 2");
    }

    #[test]
    fn a_req_id_is_captured_once_and_unlike_all_before() {
        let mut captures = Captures::default();
        captures.take(&json!("${reqId:one}"), &json!("r1")).unwrap();
        assert_eq!(captures.filled(&json!({"reqId": "${reqId:one}"})), json!({"reqId": "r1"}));
        assert!(captures.take(&json!("${reqId:two}"), &json!("r1")).is_err());
        assert!(captures.take(&json!("${reqId:two}"), &json!(2)).is_err());
    }

    #[test]
    fn what_the_player_gave_has_to_come_back() {
        assert_eq!(compare(&json!("${uri}"), &json!("http://x")), Ok(()));
        assert!(compare(&json!("${uri}"), &json!("http://y")).is_err());
    }
}
