//! From what a script left to the answer.

use std::path::Path;

use iotdm_core::{ChildError, ChildOutput, Code, MAX_PAYLOAD_BYTES, Refusal};
use serde_json::{Map, Value};

/// Largest `d` of a script's answer, in bytes of JSON: half of what fits, so that envelope and reqId always do.
pub(super) const MAX_RESULT_BYTES: usize = MAX_PAYLOAD_BYTES / 2;

/// What an exit status means unless its script declares it otherwise.
pub(super) fn code_of(status: i32) -> Code {
    match status {
        0 => Code::OK,
        EX_USAGE => Code::BAD_REQUEST,
        EX_UNAVAILABLE | EX_TEMPFAIL => Code::CONFLICT,
        _ => Code::FAILED,
    }
}

/// The answer of a script that gave no output.
pub(super) fn refusal_of_error(error: ChildError) -> Refusal {
    let message = match &error {
        ChildError::TimedOut { limit, .. } => format!("the script was ended after its limit of {limit:?}"),
        _ => "the script could not be started".to_owned(),
    };
    Refusal::failed(message).log(error.to_string())
}

/// The answer of a script that failed.
pub(super) fn refusal(code: Code, output: &ChildOutput, program: &Path) -> Refusal {
    let message =
        own_message(&output.stdout).unwrap_or_else(|| format!("the script failed with {}", output.exit));
    let refusal = match code {
        Code::BAD_REQUEST => Refusal::bad_request(message),
        Code::CONFLICT => Refusal::busy(message),
        Code::UNSUPPORTED => Refusal::unsupported(message),
        _ => Refusal::failed(message),
    };
    refusal.log(format!("{}: {}", program.display(), output.reason()))
}

/// The `message` that a failing script has for the platform, on the first line of its output.
fn own_message(stdout: &[u8]) -> Option<String> {
    let line = stdout.split(|byte| *byte == b'\n').next()?;
    let told: Map<String, Value> = serde_json::from_slice(line).ok()?;
    Some(cut(told.get("message")?.as_str()?, MAX_MESSAGE_BYTES).to_owned())
}

/// The `d` of a script that worked.
pub(super) fn results(output: &ChildOutput, output_limit: usize) -> Map<String, Value> {
    if let Ok(object) = serde_json::from_slice::<Map<String, Value>>(&output.stdout)
        && serde_json::to_vec(&object).is_ok_and(|json| json.len() <= MAX_RESULT_BYTES)
    {
        return object;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let kept = cut(&text, MAX_RESULT_BYTES);
    // Only one of the two streams may have been cut: the other cannot have reached its limit.
    let truncated = kept.len() < text.len() || (output.truncated && output.stdout.len() >= output_limit);
    let mut results = Map::from_iter([("output".to_owned(), Value::from(kept))]);
    if truncated {
        results.insert("truncated".into(), true.into());
    }
    results
}

/// The start of a text that takes at most so many bytes as JSON, where a control character takes six.
fn cut(text: &str, limit: usize) -> &str {
    let mut json_bytes = 0;
    for (at, c) in text.char_indices() {
        json_bytes += match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..='\u{1f}' => 6,
            _ => c.len_utf8(),
        };
        if json_bytes > limit {
            return &text[..at];
        }
    }
    text
}

/// Longest message of a script to the platform, in bytes of JSON: a few sentences.
pub(super) const MAX_MESSAGE_BYTES: usize = 1024;

/// `sysexits.h`: the command was used incorrectly.
const EX_USAGE: i32 = 64;

/// `sysexits.h`: a service is not available.
const EX_UNAVAILABLE: i32 = 69;

/// `sysexits.h`: a temporary failure; the user is invited to try again.
const EX_TEMPFAIL: i32 = 75;
