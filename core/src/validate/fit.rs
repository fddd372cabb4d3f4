//! Whether a body fits a schema, keyword by keyword.

use std::collections::BTreeSet;

use serde_json::{Map, Number, Value};

use super::Rules;
use super::place::Place;

/// Names of JSON types as schemas have them.
pub(crate) type Types = Vec<&'static str>;

pub(super) const ALL_TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// Why a body does not fit; nothing where it does.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// It is something else than what the schema describes.
    pub(crate) shape: Option<String>,
    /// It is out of its bounds.
    pub(crate) bound: Option<String>,
}

impl Found {
    fn shape(&mut self, fits: bool, text: impl FnOnce() -> String) {
        if !fits && self.shape.is_none() {
            self.shape = Some(text());
        }
    }

    fn bound(&mut self, text: String) {
        self.bound.get_or_insert(text);
    }

    fn add(&mut self, other: Self) {
        self.shape = self.shape.take().or(other.shape);
        self.bound = self.bound.take().or(other.bound);
    }
}

impl Rules {
    pub(super) fn fit(&self, schema: &Value, value: &Value, place: &Place<'_>, depth: usize) -> Found {
        let mut found = Found::default();
        let (Value::Object(keywords), Some(deeper)) = (schema, depth.checked_sub(1)) else {
            found.shape(*schema != Value::Bool(false), || format!("{place}: nothing may stand here"));
            return found;
        };
        fit_type(keywords, value, place, &mut found);
        match value {
            Value::Number(number) => fit_number(keywords, number, place, &mut found),
            Value::String(text) => self.fit_text(keywords, text, place, &mut found),
            Value::Array(items) => self.fit_items(keywords, items, place, deeper, &mut found),
            Value::Object(members) => self.fit_members(keywords, members, place, deeper, &mut found),
            Value::Null | Value::Bool(_) => {}
        }
        if keywords.contains_key("$ref") {
            found.add(self.fit(self.resolved(schema), value, place, deeper));
        }
        for schema in list(keywords, "allOf") {
            found.add(self.fit(schema, value, place, deeper));
        }
        for keyword in ["anyOf", "oneOf"] {
            if keywords.contains_key(keyword) {
                found.add(self.fit_one(list(keywords, keyword), value, place, deeper));
            }
        }
        found
    }

    /// One of several forms is enough; which of two that fit is meant, decoding decides. The bounds that are told are
    /// those of a form whose shape fits.
    fn fit_one<'a>(
        &self,
        forms: impl Iterator<Item = &'a Value>,
        value: &Value,
        place: &Place<'_>,
        depth: usize,
    ) -> Found {
        let mut bound = None;
        for form in forms.filter(|form| !self.is_tagged_otherwise(form, value)) {
            match self.fit(form, value, place, depth) {
                Found { shape: None, bound: None } => return Found::default(),
                Found { shape: None, bound: broken } => bound = bound.or(broken),
                Found { shape: Some(_), .. } => {}
            }
        }
        let shape = bound.is_none().then(|| format!("{place}: none of the forms that the schema has"));
        Found { shape, bound }
    }

    /// Whether the tag of an enumeration says that another form is meant. Without a look at it a nested body would be
    /// followed once for each form at each of its levels, which takes as good as for ever.
    fn is_tagged_otherwise(&self, form: &Value, value: &Value) -> bool {
        let Value::Object(members) = value else { return false };
        [form, self.resolved(form)].into_iter().filter_map(Value::as_object).any(|keywords| {
            let named = keywords.get("properties").and_then(Value::as_object).into_iter().flatten();
            let mut tags = named.filter_map(|(name, schema)| Some((name, schema.get("const")?)));
            tags.any(|(name, tag)| match members.get(name) {
                Some(given) => given != tag,
                None => list(keywords, "required").any(|required| required == name),
            })
        })
    }

    fn fit_text(&self, keywords: &Map<String, Value>, text: &str, place: &Place<'_>, found: &mut Found) {
        fit_count(keywords, ["minLength", "maxLength"], text.chars().count(), "characters", place, found);
        if let Some(Value::String(pattern)) = keywords.get("pattern")
            && !self.pattern(pattern).is_match(text)
        {
            found.bound(format!("{place}: {} does not match {pattern}", quoted(text)));
        }
    }

    fn fit_items(
        &self,
        keywords: &Map<String, Value>,
        items: &[Value],
        place: &Place<'_>,
        depth: usize,
        found: &mut Found,
    ) {
        fit_count(keywords, ["minItems", "maxItems"], items.len(), "items", place, found);
        let first = keywords.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let rest = keywords.get("items").unwrap_or(&Value::Bool(true));
        for (index, item) in items.iter().enumerate() {
            let schema = first.get(index).unwrap_or(rest);
            found.add(self.fit(schema, item, &Place::Item(place, index), depth));
        }
        if keywords.get("uniqueItems") == Some(&Value::Bool(true))
            && let Some(index) = first_repeated(items)
        {
            found.bound(format!("{}: this item stands twice", Place::Item(place, index)));
        }
    }

    fn fit_members(
        &self,
        keywords: &Map<String, Value>,
        members: &Map<String, Value>,
        place: &Place<'_>,
        depth: usize,
        found: &mut Found,
    ) {
        fit_count(keywords, ["minProperties", "maxProperties"], members.len(), "members", place, found);
        for name in list(keywords, "required").filter_map(Value::as_str) {
            found.shape(members.contains_key(name), || format!("{place}: `{name}` is missing"));
        }
        let named = keywords.get("properties").and_then(Value::as_object);
        let patterns = keywords.get("patternProperties").and_then(Value::as_object);
        for (name, value) in members {
            let place = Place::Member(place, name);
            let mut known = false;
            let matching = patterns
                .into_iter()
                .flatten()
                .filter(|(pattern, _)| self.pattern(pattern).is_match(name))
                .map(|(_, schema)| schema);
            for schema in named.and_then(|named| named.get(name)).into_iter().chain(matching) {
                known = true;
                found.add(self.fit(schema, value, &place, depth));
            }
            if !known && let Some(schema) = keywords.get("additionalProperties") {
                found.add(self.fit(schema, value, &place, depth));
            }
        }
    }
}

/// Which item stands before already. Comparing each with each would hold the agent for seconds.
fn first_repeated(items: &[Value]) -> Option<usize> {
    let mut before = BTreeSet::new();
    items.iter().position(|item| !before.insert(item.to_string()))
}

fn fit_type(keywords: &Map<String, Value>, value: &Value, place: &Place<'_>, found: &mut Found) {
    if let Some(names) = keywords.get("type") {
        let fits = types_named(names).iter().any(|name| is_of(value, name));
        let listed = || match names {
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
            one => one.as_str().unwrap_or_default().to_owned(),
        };
        found.shape(fits, || format!("{place}: expected {}", listed()));
    }
    if let Some(Value::Array(values)) = keywords.get("enum") {
        found.shape(values.contains(value), || format!("{place}: none of the values that the schema has"));
    }
    if let Some(expected) = keywords.get("const") {
        found.shape(expected == value, || format!("{place}: expected {expected}"));
    }
}

fn fit_number(keywords: &Map<String, Value>, number: &Number, place: &Place<'_>, found: &mut Found) {
    let limit = |keyword: &str| keywords.get(keyword).and_then(Value::as_number);
    if let Some(least) = limit("minimum")
        && less(number, least)
    {
        found.bound(format!("{place}: {number} is less than {least} (the minimum)"));
    }
    if let Some(most) = limit("maximum")
        && less(most, number)
    {
        found.bound(format!("{place}: {number} is more than {most} (the maximum)"));
    }
    if let Some(below) = limit("exclusiveMinimum")
        && !less(below, number)
    {
        found.bound(format!("{place}: {number} is not more than {below}"));
    }
    if let Some(above) = limit("exclusiveMaximum")
        && !less(number, above)
    {
        found.bound(format!("{place}: {number} is not less than {above}"));
    }
    if let Some(step) = limit("multipleOf")
        && !is_multiple(number, step)
    {
        found.bound(format!("{place}: {number} is not a multiple of {step}"));
    }
}

/// Bounds of a number of characters, items or members.
fn fit_count(
    keywords: &Map<String, Value>,
    [least, most]: [&str; 2],
    count: usize,
    what: &str,
    place: &Place<'_>,
    found: &mut Found,
) {
    let limit = |keyword: &str| keywords.get(keyword).and_then(Value::as_u64);
    if let Some(least) = limit(least).filter(|least| (count as u64) < *least) {
        found.bound(format!("{place}: {count} {what} are fewer than {least} (the minimum)"));
    }
    if let Some(most) = limit(most).filter(|most| (count as u64) > *most) {
        found.bound(format!("{place}: {count} {what} are more than {most} (the maximum)"));
    }
}

/// The schemas, values or names that a keyword lists.
pub(super) fn list<'a>(keywords: &'a Map<String, Value>, keyword: &str) -> impl Iterator<Item = &'a Value> {
    keywords.get(keyword).and_then(Value::as_array).into_iter().flatten()
}

/// What `type` says: one name or several. Each number may be a whole one.
pub(super) fn types_named(names: &Value) -> Types {
    let is_named = |name: &str| match names {
        Value::Array(names) => names.iter().any(|other| other == name),
        one => one == name,
    };
    let allowed = |name: &&str| is_named(name) || *name == "integer" && is_named("number");
    ALL_TYPES.into_iter().filter(allowed).collect()
}

pub(super) fn types_of_values(values: &[Value]) -> Types {
    ALL_TYPES.into_iter().filter(|name| values.iter().any(|value| is_of(value, name))).collect()
}

/// Whether a value is of a type; `1.0` is an integer too.
pub(super) fn is_of(value: &Value, name: &str) -> bool {
    match value {
        Value::Null => name == "null",
        Value::Bool(_) => name == "boolean",
        Value::Number(number) => name == "number" || name == "integer" && is_whole(number),
        Value::String(_) => name == "string",
        Value::Array(_) => name == "array",
        Value::Object(_) => name == "object",
    }
}

fn is_whole(number: &Number) -> bool {
    whole(number).is_some() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// Whole numbers are compared exactly: a double has 53 bits.
fn less(a: &Number, b: &Number) -> bool {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a < b,
        _ => a.as_f64() < b.as_f64(),
    }
}

fn is_multiple(number: &Number, step: &Number) -> bool {
    match (whole(number), whole(step)) {
        (Some(_), Some(0)) => true,
        (Some(number), Some(step)) => number % step == 0,
        _ => {
            let quotient = number.as_f64().unwrap_or_default() / step.as_f64().unwrap_or(1.0);
            (quotient - quotient.round()).abs() < 1e-9
        }
    }
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

/// The beginning of a text, as the platform sent it.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// How much of a text that does not match is told, in characters: enough to know it again.
const MAX_QUOTED_CHARS: usize = 64;
