//! The fields of one event, within bounds.

use std::fmt::{self, Debug, Write};

use serde_json::{Map, Value, json};
use tracing::Metadata;
use tracing::field::{Field, Visit};

use crate::diagnostics::queue::{MAX_LOG_DATA_BYTES, MAX_MESSAGE_BYTES};

/// Collects what an event carries. However large it is, no more than the bounds is kept.
#[derive(Default)]
pub(super) struct Fields {
    message: Text<MAX_MESSAGE_BYTES>,
    code: Option<i32>,
    values: Map<String, Value>,
    omitted: u64,
    /// Where an event of the `log` crate comes from: such events share a callsite, and name themselves in fields.
    log_target: Option<String>,
}

impl Fields {
    pub(super) fn code(&self) -> Option<i32> {
        self.code
    }

    pub(super) fn log_target(&self) -> Option<&str> {
        self.log_target.as_deref()
    }

    /// The entry's message and its data.
    pub(super) fn into_entry(mut self, metadata: &Metadata<'_>) -> (String, Vec<u8>) {
        if self.message.kept.is_empty() {
            // An event may have fields alone.
            self.message.push(metadata.name());
        }
        let mut data = Map::new();
        let target = self.log_target.as_deref().unwrap_or(metadata.target());
        data.insert("target".into(), cut::<MAX_VALUE_BYTES>(target).into());
        if let Some(file) = metadata.file() {
            data.insert("file".into(), cut::<MAX_VALUE_BYTES>(file).into());
        }
        if let Some(line) = metadata.line() {
            data.insert("line".into(), line.into());
        }
        if !self.values.is_empty() {
            data.insert("fields".into(), Value::Object(self.values));
        }
        if self.omitted > 0 {
            data.insert("omitted".into(), json!(self.omitted));
        }
        (self.message.kept, Value::Object(data).to_string().into_bytes())
    }

    /// Keeps a value if it is to be kept; it is made only then.
    fn keep(&mut self, field: &Field, value: impl FnOnce() -> Value) {
        match field.name() {
            name if name.starts_with("log.") => {}
            _ if self.values.len() >= MAX_FIELDS => self.omitted += 1,
            name => {
                let value = if is_secret(name) { "withheld".into() } else { value() };
                self.values.insert(cut::<MAX_NAME_BYTES>(name), value);
            }
        }
    }

    fn number<N: TryInto<i32> + Copy>(&mut self, field: &Field, number: N, value: impl FnOnce() -> Value) {
        if field.name() == CODE_FIELD
            && let Ok(code) = number.try_into()
        {
            self.code = Some(code);
            return;
        }
        self.keep(field, value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // A `Debug` that fails leaves what it has written.
            let _ = write!(self.message, "{value:?}");
            return;
        }
        self.keep(field, || {
            let mut text = Text::<MAX_VALUE_BYTES>::default();
            let _ = write!(text, "{value:?}");
            text.kept.into()
        });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push(value),
            "log.target" => self.log_target = Some(cut::<MAX_VALUE_BYTES>(value)),
            _ => self.keep(field, || cut::<MAX_VALUE_BYTES>(value).into()),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, value, || value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, value, || value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.keep(field, || value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.keep(field, || value.into());
    }
}

/// The start of a text; the rest is taken and forgotten. A `Debug` of the product never sees an error, which it might
/// take for a reason to panic.
struct Text<const LIMIT: usize> {
    kept: String,
    full: bool,
}

impl<const LIMIT: usize> Default for Text<LIMIT> {
    fn default() -> Self {
        Self { kept: String::new(), full: false }
    }
}

impl<const LIMIT: usize> Text<LIMIT> {
    fn push(&mut self, text: &str) {
        if self.full {
            return;
        }
        let end = text.floor_char_boundary(LIMIT - self.kept.len());
        self.kept.push_str(&text[..end]);
        self.full = end < text.len();
    }
}

impl<const LIMIT: usize> Write for Text<LIMIT> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}

fn cut<const LIMIT: usize>(text: &str) -> String {
    text[..text.floor_char_boundary(LIMIT)].to_owned()
}

/// Whether a field's name speaks of a secret, in whatever case and however its words are joined.
fn is_secret(name: &str) -> bool {
    let joined: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    SECRET_WORDS.iter().any(|word| joined.contains(word))
}

/// The field that carries an error code.
pub const CODE_FIELD: &str = "iotdm.code";

/// A field with one of these in its name, letters and digits alone and in lower case, is withheld.
pub const SECRET_WORDS: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "credential",
    "cookie",
    "apikey",
    "privatekey",
    "sessionid",
];

/// How many fields of an event are kept: more is a dump, and belongs into the product's own log.
pub const MAX_FIELDS: usize = 16;

/// How much of a field's name is kept, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// How much of a field's value is kept, in bytes: a path or an error with its cause.
pub const MAX_VALUE_BYTES: usize = 256;

// A control character takes six bytes as JSON. What is cut to a log entry's bound would be no JSON any more; the rest is
// for member names, numbers and brackets.
const _: () = {
    let field = 6 * (MAX_NAME_BYTES + MAX_VALUE_BYTES) + 8;
    assert!(MAX_FIELDS * field + 2 * 6 * MAX_VALUE_BYTES + 256 <= MAX_LOG_DATA_BYTES);
};
