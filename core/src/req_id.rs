use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

/// Longest reqId that is kept, in bytes of its JSON text. IBM's are 38; a longer one is answered 400.
const MAX_REQ_ID_BYTES: usize = 1024;

/// A request's identifier, kept as the exact JSON text it arrived with: `7` and `"7"` are two identifiers, and the
/// answer copies what was sent (`docs/protocol.md` §2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReqId(Arc<str>);

impl ReqId {
    /// The identifier of a request that this device makes.
    pub fn from_text(text: &str) -> Self {
        Self(serde_json::Value::from(text).to_string().into())
    }

    /// A scalar of at most 1 KiB; `None` for an object, an array, `null` or something longer.
    pub fn from_raw(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        let scalar = !text.starts_with(['{', '[']) && text != "null";
        (scalar && text.len() <= MAX_REQ_ID_BYTES).then(|| Self(text.into()))
    }

    /// The JSON text.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// The JSON text as a value that serializes unchanged.
    pub fn to_raw(&self) -> Box<RawValue> {
        RawValue::from_string(self.0.to_string()).expect("a ReqId is only made from JSON text")
    }
}

impl fmt::Display for ReqId {
    /// What a log line shows: a string without its quotes, and nothing that moves a terminal's cursor or turns its
    /// text around. JSON itself escapes only the control characters below U+0020.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(&self.0);
        write_legibly(text, f)
    }
}

impl fmt::Debug for ReqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_legibly(&self.0, f)
    }
}

/// Control characters, line and paragraph separators and changes of direction as JSON would escape them.
fn write_legibly(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    text.chars().try_for_each(|c| {
        let steers = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || steers {
            write!(f, "\\u{:04x}", u32::from(c))
        } else {
            fmt::Write::write_char(f, c)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<ReqId> {
        ReqId::from_raw(&RawValue::from_string(text.into()).unwrap())
    }

    #[test]
    fn a_number_and_its_text_are_two_identifiers() {
        assert_ne!(parse("7"), parse("\"7\""));
        assert_eq!(parse("\"7\"").unwrap(), ReqId::from_text("7"));
    }

    #[test]
    fn scalars_are_kept_and_the_rest_is_not() {
        for text in ["\"\"", "7", "-1.50e3", "true", "\"\\u0000\""] {
            assert_eq!(parse(text).unwrap().as_json(), text);
        }
        for text in ["null", "{}", "[1]"] {
            assert_eq!(parse(text), None);
        }
        assert!(parse(&format!("\"{}\"", "x".repeat(1022))).is_some());
        assert!(parse(&format!("\"{}\"", "x".repeat(1023))).is_none());
    }

    #[test]
    fn a_log_line_cannot_be_broken_by_a_req_id() {
        assert_eq!(parse("\"a\\nb\"").unwrap().to_string(), "a\\nb");
        // DEL, NEL, CSI, line separator, right-to-left override: JSON leaves them as they are.
        let id = parse("\"\u{7f}\u{85}\u{9b}31m\u{2028}\u{202e}é\"").unwrap();
        assert_eq!(id.to_string(), "\\u007f\\u0085\\u009b31m\\u2028\\u202eé");
        assert_eq!(format!("{id:?}"), format!("\"{id}\""));
    }
}
