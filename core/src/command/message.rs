use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A command as the journal keeps it: JSON, whatever its payload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandMessage {
    /// The id in its topic.
    pub id: String,
    /// The format in its topic.
    pub format: String,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// A payload that is text stays legible; anything else is written as hexadecimal digits.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    id: String,
    format: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
}

impl CommandMessage {
    /// As it is kept.
    pub fn to_raw(&self) -> Box<RawValue> {
        let text = std::str::from_utf8(&self.payload).ok().map(ToOwned::to_owned);
        let hex = text.is_none().then(|| self.payload.iter().map(|byte| format!("{byte:02x}")).collect());
        let kept = Kept { id: self.id.clone(), format: self.format.clone(), text, hex };
        serde_json::value::to_raw_value(&kept).expect("texts are always written")
    }

    /// As it was kept; `None` for anything else.
    pub fn from_raw(raw: &RawValue) -> Option<Self> {
        let Kept { id, format, text, hex } = serde_json::from_str(raw.get()).ok()?;
        let payload = match (text, hex) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(hex)) => bytes_of(&hex)?,
            _ => return None,
        };
        Some(Self { id, format, payload })
    }
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect::<Option<_>>().filter(|_| rest.is_empty())
}
