use std::fmt;

use regex_lite::{Regex, RegexBuilder};

/// A regular expression that the whole of a text matches, in time linear to it.
#[derive(Clone)]
pub struct Pattern {
    pub(super) source: String,
    regex: Regex,
}

impl Pattern {
    /// Takes an expression in the syntax of the crate `regex-lite`: no back references, no looking around.
    ///
    /// # Errors
    /// Why it is none, or that it is larger than the device is to spend on it.
    pub fn new(source: &str) -> Result<Self, PatternError> {
        if source.len() > MAX_PATTERN_BYTES {
            return Err(PatternError::TooLong);
        }
        let compile = |text: &str| RegexBuilder::new(text).size_limit(MAX_COMPILED_BYTES).build();
        // By itself first: "a)|(b" would be no expression, and with something around it one that is not anchored.
        let error = |error: regex_lite::Error| PatternError::Syntax(error.to_string());
        compile(source).map_err(error)?;
        let regex = compile(&anchored(source)).map_err(error)?;
        Ok(Self { source: source.to_owned(), regex })
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    pub(super) fn anchored(&self) -> String {
        anchored(&self.source)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.source).finish()
    }
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// It does not compile.
    #[error("is no regular expression: {0}")]
    Syntax(String),
    /// It is longer than [`Pattern`] takes.
    #[error("is longer than {MAX_PATTERN_BYTES} bytes")]
    TooLong,
}

fn anchored(source: &str) -> String {
    format!("^(?:{source})$")
}

/// Longest pattern, in bytes: a line that a person can still read.
const MAX_PATTERN_BYTES: usize = 512;

/// Largest compiled pattern, in bytes. Matching takes time in proportion to it and to the text, on the agent's thread.
const MAX_COMPILED_BYTES: usize = 64 * 1024;
