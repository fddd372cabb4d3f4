use serde_json::{Map, Number, Value};

use super::Resolver;

impl Resolver<'_> {
    /// The metadata as JSON; `None` when a value has no JSON form, or all of it is too large.
    pub(super) fn metadata(&mut self, table: toml::Table) -> Option<Value> {
        let key = "device.metadata";
        let value = self.json(key, toml::Value::Table(table))?;
        let size = value.to_string().len();
        if size > MAX_METADATA_BYTES {
            let limit = MAX_METADATA_BYTES / 1024;
            self.problem(
                key,
                format!("has {size} bytes as JSON; at most {limit} KiB are sent with each manage"),
            );
            return None;
        }
        Some(value)
    }

    pub(super) fn json(&mut self, key: &str, value: toml::Value) -> Option<Value> {
        match value {
            toml::Value::String(text) => Some(Value::String(text)),
            toml::Value::Integer(number) => Some(number.into()),
            toml::Value::Float(number) => {
                let json = Number::from_f64(number);
                if json.is_none() {
                    self.problem(
                        key,
                        format!("{number} has no form in JSON; write a finite number or a text"),
                    );
                }
                json.map(Value::Number)
            }
            toml::Value::Boolean(value) => Some(Value::Bool(value)),
            toml::Value::Datetime(time) => Some(Value::String(time.to_string())),
            toml::Value::Array(items) => {
                let items = items.into_iter().enumerate();
                items.map(|(index, item)| self.json(&format!("{key}[{index}]"), item)).collect()
            }
            toml::Value::Table(table) => {
                let members = table.into_iter();
                members
                    .map(|(name, value)| {
                        let value = self.json(&format!("{key}.{name}"), value)?;
                        Some((name, value))
                    })
                    .collect::<Option<Map<_, _>>>()
                    .map(Value::Object)
            }
        }
    }
}

/// Half of what a message may have in all (`docs/protocol.md` §1.5), so that manage always fits.
const MAX_METADATA_BYTES: usize = 64 * 1024;
