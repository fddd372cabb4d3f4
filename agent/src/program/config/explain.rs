//! What the parser and serde say, in the words of the person who edits the file.

/// A syntax error's key, if it has one, and its message. `found` is the text it points at.
pub(super) fn syntax(message: &str, found: &str) -> (String, String) {
    if message == "duplicate key" {
        return (found.into(), "is given twice; keep one of the two".into());
    }
    if message.starts_with("string values must be quoted") {
        return (String::new(), "is not TOML here: a text needs quotes, as in key = \"text\"".into());
    }
    if message.starts_with("invalid float") || message.starts_with("invalid integer") {
        return (
            String::new(),
            "is not TOML here: this is no number; a text, such as an address or \"90s\", needs quotes".into(),
        );
    }
    (String::new(), format!("is not TOML here: {message}"))
}

/// A shape error's key and message.
pub(super) fn shape(path: &str, message: &str) -> (String, String) {
    let path = if path == "." { "" } else { path };
    if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        let key = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
        let message = format!("is missing; {}", missing(&key));
        return (key, message);
    }
    let message = unknown_key(path, message)
        .or_else(|| unknown_choice(message))
        .or_else(|| wrong_type(path, message))
        .unwrap_or_else(|| message.to_owned());
    (path.into(), message)
}

/// What to write for a key that has no default.
fn missing(key: &str) -> &'static str {
    match key {
        "device" => "add a [device] section with org, type and id",
        "device.org" => "add the organization's id, such as org = \"abc123\"",
        "device.type" => "add the device type as it is registered, such as type = \"lamp\"",
        "device.id" => "add the device's id as it is registered, such as id = \"lamp-17\"",
        _ if key.starts_with("attached") && key.ends_with(".reboot.command") => {
            "add the program that restarts the device and ends when it is back, and its arguments, such as \
             command = [\"/usr/lib/iotdm-agent/restart-on-the-bus\", \"p-1\"]"
        }
        _ if key.starts_with("attached") && key.matches('.').count() == 1 && key.ends_with(".type") => {
            "add the device type as it is registered, such as type = \"pump\""
        }
        _ if key.starts_with("attached") && key.matches('.').count() == 1 && key.ends_with(".id") => {
            "add the device's id as it is registered, such as id = \"p-1\""
        }
        "actions.firmware.staging_dir" => {
            "add the folder that keeps images until they are installed, such as staging_dir = \"/var/lib/iotdm-agent/images\""
        }
        "actions.firmware.mender_module.module" => {
            "add the update module, such as module = \"/usr/share/mender/modules/v3/single-file\""
        }
        "actions.firmware.file.target" => "add the path of the file that is the firmware",
        _ if key.ends_with(".bundle") => "add the id of the extension bundle that the action stands in",
        _ if key.ends_with(".action") => "add the action's id as the extension bundle has it",
        _ if key.ends_with(".name") && key.contains("diagnostics") => {
            "add what a request calls this log, such as name = \"lamp\""
        }
        _ if key.ends_with(".program") => "add the program that carries out the action",
        _ if key.ends_with(".name") => "add the parameter's name as the extension bundle has it",
        _ if key.ends_with(".type") => {
            "add one of \"integer\", \"number\", \"boolean\", \"string\" and \"enum\""
        }
        "script" => "add a [[script]] section with bundle, action and program",
        _ if key.ends_with(".refuse_after") => "write \"run\" or { refuse_after = \"15m\" }",
        _ => "add it",
    }
}

fn unknown_key(path: &str, message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `")?;
    if rest.ends_with("`, there are no fields") {
        return Some(format!("is not a known key; [{}] has none", path.rsplit_once('.')?.0));
    }
    let (found, expected) = rest.rsplit_once("`, expected ")?;
    if TOKEN_KEYS.contains(&found) {
        return Some(
            "is not a known key; the token stands in a file or a variable, which [auth] names with token_file or \
             token_env"
                .into(),
        );
    }
    let known = quoted(expected);
    if let Some(close) = closest(found, &known) {
        return Some(format!("is not a known key; did you mean `{close}`?"));
    }
    let place = match path.rsplit_once('.') {
        Some((section, _)) => format!("[{section}] has"),
        None => "the sections are".into(),
    };
    Some(format!("is not a known key; {place} {}", known.join(", ")))
}

fn unknown_choice(message: &str) -> Option<String> {
    let (found, expected) = message.strip_prefix("unknown variant `")?.rsplit_once("`, expected ")?;
    let known: Vec<_> = quoted(expected).into_iter().map(|choice| format!("\"{choice}\"")).collect();
    Some(format!("\"{found}\" is not one of the choices; write {}", known.join(" or ")))
}

fn wrong_type(path: &str, message: &str) -> Option<String> {
    if message == "wanted string or table" {
        return Some("expected a text in quotes".into());
    }
    let (found, expected) = message.strip_prefix("invalid type: ")?.rsplit_once(", expected ")?;
    let sections =
        ["script", "parameter", "log", "attached"].iter().any(|last| path.rsplit('.').next() == Some(last));
    if sections && found == "map" && expected == "a sequence" {
        let names: Vec<&str> = path.split('.').map(|name| name.split('[').next().unwrap_or(name)).collect();
        let name = names.join(".");
        return Some(format!("there may be several; write [[{name}]], with two brackets on each side"));
    }
    let expected = match expected {
        "a string" => "a text in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list in [ ]",
        "a map" => "a table of keys and values",
        other => other,
    };
    // What stands in [auth] may be the secret itself, put in the wrong place.
    if path == "auth" || path.starts_with("auth.") {
        return Some(format!("has a value of another type; expected {expected}"));
    }
    let found = match found.split_once(' ') {
        Some(("string", text)) => format!("the text {text}"),
        Some(("integer", number)) => format!("the number {}", number.trim_matches('`')),
        Some(("floating", number)) => {
            format!("the number {}", number.trim_start_matches("point ").trim_matches('`'))
        }
        Some(("boolean", value)) => value.trim_matches('`').to_owned(),
        _ if found == "sequence" => "a list".into(),
        _ if found == "map" => "a table".into(),
        _ => found.to_owned(),
    };
    Some(format!("found {found}, expected {expected}"))
}

/// The texts between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The known key that `found` most likely stands for.
fn closest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let found: Vec<char> = found.to_lowercase().replace('-', "_").chars().take(MAX_COMPARED_CHARS).collect();
    let scored = known.iter().map(|key| (distance(&found, &key.chars().collect::<Vec<_>>()), *key));
    // A third of the letters may differ; more is another word.
    scored.filter(|(distance, key)| *distance * 3 <= key.len().max(3)).min().map(|(_, key)| key)
}

/// How many letters must be put in, left out, replaced, or swapped with a neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

/// What the token is looked for under.
const TOKEN_KEYS: [&str; 4] = ["token", "auth_token", "password", "secret"];

/// Longer keys are no misspelling of ours.
const MAX_COMPARED_CHARS: usize = 40;
