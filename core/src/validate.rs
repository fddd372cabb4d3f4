use std::collections::BTreeMap;

use regex_lite::Regex;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value};

mod fit;
mod parameters;
mod place;

use self::fit::{Found, Types, is_of};
use self::place::Place;

/// What a request has to keep: the schema of its type.
///
/// The bounds that a type declares for its schema (`#[schemars(range(…))]`, `length`, `regex`) are enforced from that
/// same schema, so that the two cannot differ. A derive that also validates would put a bound on every request type,
/// would not read texts as numbers, and would know nothing of a custom `JsonSchema`; a whole JSON Schema validator
/// brings 63 crates for what is told here in a few keywords.
pub(crate) struct Rules {
    schema: Schema,
    patterns: BTreeMap<String, Regex>,
}

impl Rules {
    /// The rules of a request type.
    ///
    /// # Errors
    /// Where its schema says something that is not enforced: a pattern that is none, a keyword that is not known here.
    pub(crate) fn of(schema: impl FnOnce(&mut SchemaGenerator) -> Schema) -> Result<Self, String> {
        let mut generator = SchemaGenerator::default();
        let mut schema = schema(&mut generator);
        let definitions = generator.take_definitions(true);
        schema.ensure_object().insert(DEFINITIONS.into(), definitions.into());
        let mut rules = Self { schema, patterns: BTreeMap::new() };
        let whole = rules.schema.clone();
        rules.read(whole.as_value())?;
        Ok(rules)
    }

    /// The schema, with its definitions.
    pub(crate) fn schema(&self) -> &Value {
        self.schema.as_value()
    }

    /// Reads texts that stand where the schema has no text: every value of the platform's parameters is one
    /// (`docs/protocol.md` §5.6). A text becomes what it says as JSON, if that is of a type that may stand there.
    pub(crate) fn read_texts(&self, parameters: &mut Map<String, Value>) {
        for (name, value) in parameters {
            let Value::String(text) = value else { continue };
            let Some(types) = self.types_of_member(self.schema(), name, MAX_NESTING) else { continue };
            if types.contains(&"string") {
                continue;
            }
            if let Ok(meant) = serde_json::from_str::<Value>(text)
                && types.iter().any(|name| is_of(&meant, name))
            {
                *value = meant;
            }
        }
    }

    /// What of a body does not keep the schema: a bound as `d.percent: 140 is more than 100 (the maximum)`, a shape that
    /// decoding mostly tells in better words. Only decoding lets some pass, such as an `alias` of a required member.
    pub(crate) fn check(&self, body: &Value) -> Found {
        self.fit(self.schema(), body, &Place::Root, MAX_NESTING)
    }

    /// The members that the schema names, each with its own.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&String, &Value)> {
        let properties = self.resolved(self.schema()).get("properties").and_then(Value::as_object);
        properties.into_iter().flatten()
    }

    /// What a `$ref` stands for.
    pub(crate) fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let target = schema.get("$ref").and_then(Value::as_str);
        target.and_then(|target| self.schema.pointer(target)).unwrap_or(schema)
    }

    fn pattern(&self, pattern: &str) -> &Regex {
        self.patterns.get(pattern).expect("every pattern of the schema was compiled when it was read")
    }

    /// Compiles the patterns, and finds what would not be enforced.
    fn read(&mut self, schema: &Value) -> Result<(), String> {
        let Value::Object(keywords) = schema else { return Ok(()) };
        for (keyword, content) in keywords {
            match (keyword.as_str(), content) {
                ("properties" | DEFINITIONS, Value::Object(schemas)) => {
                    schemas.values().try_for_each(|schema| self.read(schema))?;
                }
                ("patternProperties", Value::Object(schemas)) => {
                    for (pattern, schema) in schemas {
                        self.compile(pattern)?;
                        self.read(schema)?;
                    }
                }
                ("prefixItems" | "anyOf" | "oneOf" | "allOf", Value::Array(schemas)) => {
                    schemas.iter().try_for_each(|schema| self.read(schema))?;
                }
                ("items" | "additionalProperties", schema) => self.read(schema)?,
                ("pattern", Value::String(pattern)) => self.compile(pattern)?,
                ("$ref", Value::String(target)) if self.schema.pointer(target).is_none() => {
                    return Err(format!("`$ref` leads nowhere: {target}"));
                }
                (keyword, _) if NOT_ENFORCED.contains(&keyword) => {
                    return Err(format!("`{keyword}` is not enforced"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn compile(&mut self, pattern: &str) -> Result<(), String> {
        let regex = Regex::new(pattern).map_err(|error| format!("the pattern {pattern}: {error}"))?;
        self.patterns.insert(pattern.into(), regex);
        Ok(())
    }
}

/// The types of what may stand where.
impl Rules {
    /// The types that a schema allows.
    pub(crate) fn types(&self, schema: &Value, depth: usize) -> Types {
        let (Value::Object(keywords), Some(deeper)) = (schema, depth.checked_sub(1)) else {
            return if *schema == Value::Bool(false) { Types::new() } else { fit::ALL_TYPES.into() };
        };
        let mut types: Types = fit::ALL_TYPES.into();
        let mut only = |allowed: Types| types.retain(|name| allowed.contains(name));
        if let Some(names) = keywords.get("type") {
            only(fit::types_named(names));
        }
        if let Some(Value::Array(values)) = keywords.get("enum") {
            only(fit::types_of_values(values));
        }
        if let Some(value) = keywords.get("const") {
            only(fit::types_of_values(std::slice::from_ref(value)));
        }
        if keywords.contains_key("$ref") {
            only(self.types(self.resolved(schema), deeper));
        }
        for schema in fit::list(keywords, "allOf") {
            only(self.types(schema, deeper));
        }
        for keyword in ["anyOf", "oneOf"] {
            if keywords.contains_key(keyword) {
                only(fit::list(keywords, keyword).flat_map(|schema| self.types(schema, deeper)).collect());
            }
        }
        types
    }

    /// The types of a member, if anything is said of it.
    fn types_of_member(&self, schema: &Value, name: &str, depth: usize) -> Option<Types> {
        let (keywords, deeper) = (schema.as_object()?, depth.checked_sub(1)?);
        if let Some(schema) = keywords.get("properties").and_then(|properties| properties.get(name)) {
            return Some(self.types(schema, deeper));
        }
        if keywords.contains_key("$ref")
            && let Some(types) = self.types_of_member(self.resolved(schema), name, deeper)
        {
            return Some(types);
        }
        let branches = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|list| fit::list(keywords, list));
        let said = branches.filter_map(|schema| self.types_of_member(schema, name, deeper));
        if let Some(types) = said.reduce(|all, more| all.into_iter().chain(more).collect()) {
            return Some(types);
        }
        let patterns = keywords.get("patternProperties").and_then(Value::as_object).into_iter().flatten();
        let matching = patterns.filter(|(pattern, _)| self.pattern(pattern).is_match(name));
        let of_name = matching.map(|(_, schema)| schema).chain(keywords.get("additionalProperties"));
        of_name.map(|schema| self.types(schema, deeper)).next()
    }
}

const DEFINITIONS: &str = "$defs";

/// What a schema could say without being heard here. `unevaluatedProperties` is not among them: decoding sees to it.
const NOT_ENFORCED: [&str; 13] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "$dynamicRef",
    "contentSchema",
];

/// How deep a schema is followed. The depth of a body is bounded by its decoder (128), that of the schema between two
/// levels of the body by its author: what is deeper is a `$ref` that leads to itself, which describes nothing.
const MAX_NESTING: usize = 1024;

#[cfg(test)]
mod tests;
