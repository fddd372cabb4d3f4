//! What a script may be given: declared, and enforced before it runs.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Number, Value, json};

mod pattern;

pub use self::pattern::{Pattern, PatternError};

/// One parameter of a script.
///
/// The platform sends texts (`docs/protocol.md` §5.6), other programs numbers and booleans too: each is taken if it is
/// exactly a value of the declared kind. The script gets the converted value.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name: 1 to 255 characters of `a-z A-Z 0-9 - _ .`.
    pub name: String,
    /// What its values are.
    pub kind: ParameterKind,
    /// Whether a request without it is refused.
    pub required: bool,
    /// What stands for it where a request has none.
    pub default: Option<Value>,
    /// Whether a text that begins with a hyphen may begin an argument, where the program could take it for an option.
    pub leading_hyphen: bool,
}

impl Parameter {
    /// A parameter that every request needs.
    pub fn new(name: impl Into<String>, kind: ParameterKind) -> Self {
        Self { name: name.into(), kind, required: true, default: None, leading_hyphen: false }
    }

    /// A request may leave it out; then the script does not get it.
    #[must_use]
    pub fn optional(self) -> Self {
        Self { required: false, ..self }
    }

    /// A request may leave it out; then this stands for it.
    #[must_use]
    pub fn default(self, value: impl Into<Value>) -> Self {
        Self { required: false, default: Some(value.into()), ..self }
    }

    /// Whether the declaration holds together.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn check(&self) -> Result<(), ParameterError> {
        if !is_name(&self.name) {
            return Err(ParameterError::Name);
        }
        self.kind.check()?;
        if self.required && self.default.is_some() {
            return Err(ParameterError::RequiredWithDefault);
        }
        match self.default.as_ref().map(|default| self.kind.convert(default)) {
            Some(Err(misfit)) => Err(ParameterError::Default { misfit, right: self.kind.to_string() }),
            _ => Ok(()),
        }
    }

    /// Whether every run of the script has a value for it.
    pub(super) fn is_always_there(&self) -> bool {
        self.required || self.default.is_some()
    }
}

/// What the values of a parameter are.
#[derive(Clone, Debug, PartialEq)]
pub enum ParameterKind {
    /// A whole number.
    Integer {
        /// The least one.
        min: i64,
        /// The greatest one.
        max: i64,
    },
    /// A number, in double precision.
    Number {
        /// The least one.
        min: f64,
        /// The greatest one.
        max: f64,
    },
    /// `true` or `false`.
    Boolean,
    /// A text without control characters.
    Text {
        /// How many characters it has at least.
        min_length: usize,
        /// How many characters it has at most; [`DEFAULT_MAX_LENGTH`](Self::DEFAULT_MAX_LENGTH) where nobody says.
        max_length: usize,
        /// What all of it matches.
        pattern: Option<Pattern>,
    },
    /// One of these texts.
    Choice(Vec<String>),
}

impl ParameterKind {
    /// Characters of a text unless declared: a name, an address, a short message.
    pub const DEFAULT_MAX_LENGTH: usize = 256;

    /// Most characters that may be declared: far below the 128 KiB that Linux takes as one argument.
    pub const MAX_LENGTH: usize = 8192;

    /// Most values of a choice: what a person can choose among.
    pub const MAX_VALUES: usize = 256;

    /// Any text up to the default length.
    pub const fn text() -> Self {
        Self::Text { min_length: 0, max_length: Self::DEFAULT_MAX_LENGTH, pattern: None }
    }

    fn check(&self) -> Result<(), ParameterError> {
        match self {
            Self::Integer { min, max } if min > max => Err(ParameterError::Range),
            Self::Number { min, max } if !(min.is_finite() && max.is_finite()) || min > max => {
                Err(ParameterError::Range)
            }
            Self::Text { min_length, max_length, .. }
                if min_length > max_length || *max_length > Self::MAX_LENGTH =>
            {
                Err(ParameterError::Length)
            }
            Self::Choice(values) => {
                let distinct: BTreeSet<&String> = values.iter().collect();
                let fits = |value: &&String| value.chars().count() <= Self::MAX_LENGTH && is_printable(value);
                let usable = !values.is_empty()
                    && values.len() <= Self::MAX_VALUES
                    && distinct.len() == values.len()
                    && values.iter().all(|value| fits(&value));
                if usable { Ok(()) } else { Err(ParameterError::Values) }
            }
            Self::Integer { .. } | Self::Number { .. } | Self::Boolean | Self::Text { .. } => Ok(()),
        }
    }

    /// The value as this kind has it, or in which way it is none.
    fn convert(&self, given: &Value) -> Result<Value, Misfit> {
        match self {
            Self::Integer { min, max } => {
                let number = integer(given).ok_or(Misfit::Kind)?;
                if (min..=max).contains(&&number) { Ok(number.into()) } else { Err(Misfit::Range) }
            }
            Self::Number { min, max } => {
                let number = number(given).ok_or(Misfit::Kind)?;
                let value = number.as_f64().ok_or(Misfit::Kind)?;
                if (min..=max).contains(&&value) { Ok(Value::Number(number)) } else { Err(Misfit::Range) }
            }
            Self::Boolean => match given {
                Value::Bool(value) => Ok((*value).into()),
                Value::String(text) => match text.as_str() {
                    "true" => Ok(true.into()),
                    "false" => Ok(false.into()),
                    _ => Err(Misfit::Kind),
                },
                _ => Err(Misfit::Kind),
            },
            Self::Text { min_length, max_length, pattern } => {
                let text = given.as_str().ok_or(Misfit::Kind)?;
                if !is_printable(text) {
                    return Err(Misfit::ControlCharacter);
                }
                if !(min_length..=max_length).contains(&&text.chars().count()) {
                    return Err(Misfit::Range);
                }
                match pattern {
                    Some(pattern) if !pattern.matches(text) => Err(Misfit::Pattern),
                    _ => Ok(text.into()),
                }
            }
            Self::Choice(values) => match given {
                Value::String(text) if values.contains(text) => Ok(text.as_str().into()),
                Value::String(_) => Err(Misfit::Range),
                _ => Err(Misfit::Kind),
            },
        }
    }

    /// The regular expression that the platform checks values against before it sends them.
    pub(super) fn platform_pattern(&self) -> String {
        match self {
            Self::Integer { min, max } => {
                let digits = |number: &i64| number.unsigned_abs().to_string().len();
                let sign = if *min < 0 { "-?" } else { "" };
                format!("{sign}[0-9]{{1,{}}}", digits(min).max(digits(max)))
            }
            Self::Number { min, .. } => {
                let sign = if *min < 0.0 { "-?" } else { "" };
                format!("{sign}[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]+)?")
            }
            Self::Boolean => "true|false".into(),
            Self::Text { min_length, max_length, pattern: None } => format!(".{{{min_length},{max_length}}}"),
            Self::Text { pattern: Some(pattern), .. } => pattern.source.clone(),
            Self::Choice(values) => {
                values.iter().map(|value| regex_lite::escape(value)).collect::<Vec<_>>().join("|")
            }
        }
    }

    /// A JSON Schema of the converted values.
    pub(super) fn schema(&self) -> Value {
        match self {
            Self::Integer { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
            Self::Number { min, max } => json!({"type": "number", "minimum": min, "maximum": max}),
            Self::Boolean => json!({"type": "boolean"}),
            Self::Text { min_length, max_length, pattern } => {
                let mut schema = json!({"type": "string", "minLength": min_length, "maxLength": max_length});
                if let Some(pattern) = pattern {
                    schema["pattern"] = pattern.anchored().into();
                }
                schema
            }
            Self::Choice(values) => json!({"enum": values}),
        }
    }
}

impl fmt::Display for ParameterKind {
    /// What to write, to be continued from "write".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Number { min, max } => write!(f, "a number from {min} to {max}"),
            Self::Boolean => f.write_str("true or false"),
            Self::Text { min_length, max_length, pattern } => {
                write!(f, "a text of {min_length} to {max_length} characters without control characters")?;
                match pattern {
                    Some(pattern) => write!(f, " that matches {}", pattern.source),
                    None => Ok(()),
                }
            }
            Self::Choice(values) => {
                f.write_str("one of ")?;
                for (index, value) in values.iter().take(TOLD_VALUES).enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{value:?}")?;
                }
                if values.len() > TOLD_VALUES { f.write_str(" and others") } else { Ok(()) }
            }
        }
    }
}

/// Why a parameter cannot be declared so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParameterError {
    /// Its name is outside the protocol's grammar.
    #[error("is no name; write 1 to 255 characters of a-z A-Z 0-9 - _ .")]
    Name,
    /// Its least value is above its greatest, or one is not finite.
    #[error("has an empty range; min is at most max")]
    Range,
    /// Its least length is above its greatest, or that above what there may be.
    #[error(
        "has no usable lengths; min_length is at most max_length, and that at most {}",
        ParameterKind::MAX_LENGTH
    )]
    Length,
    /// Its values are none, twice, too many, or hold control characters.
    #[error("needs 1 to {} different values without control characters", ParameterKind::MAX_VALUES)]
    Values,
    /// It is required and has a default.
    #[error("is required and has a default; keep one of the two")]
    RequiredWithDefault,
    /// Its default is none of its values.
    #[error("has a default that {misfit}; write {right}")]
    Default {
        /// In which way.
        misfit: Misfit,
        /// What its values are.
        right: String,
    },
}

/// In which way a value is none of a parameter's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It is of another kind.
    Kind,
    /// It is outside the range, the lengths or the choice.
    Range,
    /// It does not match the pattern.
    Pattern,
    /// It has a control character.
    ControlCharacter,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "has another type",
            Self::Range => "is out of range",
            Self::Pattern => "does not match",
            Self::ControlCharacter => "has a control character",
        })
    }
}

/// The values of a request as they are declared; the error names the parameter and says what would be right. Nothing of
/// a value is repeated there: it may be a secret.
pub(super) fn convert(
    declared: &[Parameter],
    mut given: Map<String, Value>,
) -> Result<Map<String, Value>, String> {
    // Before what is missing: a name with a slip of the pen is both.
    if let Some(unknown) = given.keys().find(|name| declared.iter().all(|parameter| parameter.name != **name))
    {
        let unknown: String = unknown.chars().take(TOLD_NAME_CHARS).collect();
        let names: Vec<&str> = declared.iter().map(|parameter| parameter.name.as_str()).collect();
        let known =
            if names.is_empty() { "it has none".into() } else { format!("it has {}", names.join(", ")) };
        return Err(format!("{}: is no parameter of this action; {known}", unknown.escape_debug()));
    }
    let mut values = Map::new();
    for parameter in declared {
        let Parameter { name, kind, .. } = parameter;
        let value = match given.remove(name) {
            // `null` counts as absent, as everywhere in the protocol.
            None | Some(Value::Null) => match &parameter.default {
                None if parameter.required => return Err(format!("{name}: is missing; write {kind}")),
                None => continue,
                Some(default) => kind.convert(default),
            },
            Some(value) => kind.convert(&value),
        };
        let value = value.map_err(|misfit| format!("{name}: {misfit}; write {kind}"))?;
        values.insert(name.clone(), value);
    }
    Ok(values)
}

/// A value as an argument has it.
pub(super) fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether a text is a parameter's name (`docs/protocol.md` §5.6).
pub(super) fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_CHARS).contains(&text.len()) && text.bytes().all(is_name_byte)
}

pub(super) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn integer(given: &Value) -> Option<i64> {
    match given {
        Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
        // As one writes it: "007", "+7" and " 7" are not what would come back.
        Value::String(text) => text.parse().ok().filter(|number: &i64| number.to_string() == *text),
        _ => None,
    }
}

/// A double that is a whole number, as far as doubles have all of them.
fn whole(number: f64) -> Option<i64> {
    const EXACT_TO: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "it has no fraction and lies far inside the range")]
    (number.fract() == 0.0 && number.abs() <= EXACT_TO).then_some(number as i64)
}

fn number(given: &Value) -> Option<Number> {
    match given {
        Value::Number(number) => Some(number.clone()),
        Value::String(text) if text.trim() == text => {
            let number: Number = serde_json::from_str(text).ok()?;
            // Reading JSON may miss the nearest double by one; the standard library does not.
            if number.is_f64() { Number::from_f64(text.parse().ok()?) } else { Some(number) }
        }
        _ => None,
    }
}

fn is_printable(text: &str) -> bool {
    !text.contains(char::is_control)
}

/// Longest name of a parameter (`docs/protocol.md` §5.6).
const MAX_NAME_CHARS: usize = 255;

/// How many values of a choice an error tells.
const TOLD_VALUES: usize = 10;

/// How much of an unknown name an error tells, in characters.
const TOLD_NAME_CHARS: usize = 64;

#[cfg(test)]
mod tests;
