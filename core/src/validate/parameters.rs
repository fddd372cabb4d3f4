//! What a schema tells the platform of an action's parameters.

use regex_lite::escape;
use serde_json::Value;

use super::{MAX_NESTING, Rules, fit};
use crate::extension::ExtensionParameter;

impl Rules {
    /// The parameters, those that a request needs first. The pattern of each lets through what the device would take, as
    /// far as a pattern can say it: ranges become numbers of digits.
    pub(crate) fn parameters(&self) -> Vec<ExtensionParameter> {
        let whole = self.resolved(self.schema());
        let required = |name: &String| {
            whole.as_object().is_some_and(|whole| fit::list(whole, "required").any(|other| other == name))
        };
        let mut parameters: Vec<ExtensionParameter> = self
            .members()
            .map(|(name, schema)| ExtensionParameter {
                name: name.clone(),
                value: self.value_pattern(schema),
                required: required(name),
                default_value: schema.get("default").and_then(as_text),
            })
            .collect();
        parameters.sort_by_key(|parameter| !parameter.required);
        parameters
    }

    fn value_pattern(&self, schema: &Value) -> Option<String> {
        let schema = self.without_null(schema)?;
        let listed: Vec<String> = self.listed(schema).into_iter().filter_map(as_text).collect();
        if !listed.is_empty() {
            let texts: Vec<String> = listed.iter().map(|text| escape(text)).collect();
            return Some(format!("^({})$", texts.join("|")));
        }
        let mut types = self.types(schema, MAX_NESTING);
        types.retain(|name| *name != "null");
        match types[..] {
            ["boolean"] => Some("^(true|false)$".into()),
            ["integer"] => Some(format!("^{}$", whole_number(schema))),
            ["integer", "number"] => Some(NUMBER.into()),
            ["string"] => text(schema),
            _ => None,
        }
    }

    /// What stands there when something does: `Option<T>` is a `T`.
    fn without_null<'a>(&'a self, schema: &'a Value) -> Option<&'a Value> {
        let schema = self.resolved(schema);
        let keywords = schema.as_object()?;
        let mut forms = fit::list(keywords, "anyOf").filter(|form| form.get("type") != Some(&"null".into()));
        match (forms.next(), forms.next()) {
            (Some(only), None) => Some(self.resolved(only)),
            _ => Some(schema),
        }
    }

    /// The values that a schema lists, if it lists all of them.
    fn listed<'a>(&'a self, schema: &'a Value) -> Vec<&'a Value> {
        let Some(keywords) = schema.as_object() else { return Vec::new() };
        let alone = fit::list(keywords, "enum").chain(keywords.get("const"));
        let forms: Vec<Vec<&Value>> =
            fit::list(keywords, "oneOf").map(|form| self.listed(self.resolved(form))).collect();
        if forms.iter().any(Vec::is_empty) {
            return Vec::new();
        }
        alone.chain(forms.into_iter().flatten()).filter(|value| !value.is_null()).collect()
    }
}

/// A whole number as JSON has it, with as many digits as its bounds can have.
fn whole_number(schema: &Value) -> String {
    let limit = |keyword: &str| schema.get(keyword).and_then(Value::as_number).map(ToString::to_string);
    let (least, most) = (limit("minimum"), limit("maximum"));
    let digits = |limit: &String| limit.trim_start_matches('-').len();
    let sign = if least.as_ref().is_some_and(|least| !least.starts_with('-')) { "" } else { "-?" };
    match least.as_ref().zip(most.as_ref()).map(|(least, most)| digits(least).max(digits(most))) {
        Some(1) => format!("{sign}[0-9]"),
        Some(digits) => format!("{sign}(0|[1-9][0-9]{{0,{}}})", digits - 1),
        None => format!("{sign}(0|[1-9][0-9]*)"),
    }
}

fn text(schema: &Value) -> Option<String> {
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        return Some(pattern.to_owned());
    }
    let limit = |keyword: &str| schema.get(keyword).and_then(Value::as_u64);
    match (limit("minLength"), limit("maxLength")) {
        (None, None) => None,
        (least, Some(most)) => Some(format!("^[\\s\\S]{{{},{most}}}$", least.unwrap_or(0))),
        (Some(least), None) => Some(format!("^[\\s\\S]{{{least},}}$")),
    }
}

/// A value as the platform's form has it.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// A number as JSON has it.
const NUMBER: &str = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$";
