//! From an argument template to arguments. There is no shell: a value stays within its argument.

use serde_json::{Map, Value};

use super::parameters::{Parameter, ParameterKind, is_name, is_name_byte, written};

/// One argument with its placeholders. A placeholder is `{name}`; `{{name}}` stands for the text `{name}`, and any other
/// brace for itself.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Value(&'a str),
}

/// The names that an argument has placeholders of.
pub(super) fn placeholders(argument: &str) -> impl Iterator<Item = &str> {
    pieces(argument).into_iter().filter_map(|piece| match piece {
        Piece::Value(name) => Some(name),
        Piece::Text(_) => None,
    })
}

/// The arguments with the values in their places; the error names the parameter and says what would be right.
pub(super) fn fill(
    template: &[String],
    declared: &[Parameter],
    values: &Map<String, Value>,
) -> Result<Vec<String>, String> {
    let mut after_options = false;
    let mut arguments = Vec::with_capacity(template.len());
    for argument in template {
        let mut filled = String::new();
        // The parameter whose value the argument begins with, if it is one: those before it may be empty.
        let mut first = None;
        for piece in pieces(argument) {
            let (text, name) = match piece {
                Piece::Text(text) => (text.to_owned(), None),
                Piece::Value(name) => (values.get(name).map(written).unwrap_or_default(), Some(name)),
            };
            if filled.is_empty() {
                first = name;
            }
            filled.push_str(&text);
        }
        if let Some(name) = first
            && filled.starts_with('-')
            && !after_options
            && !may_begin_with_hyphen(declared, name)
        {
            return Err(format!(
                "{name}: begins with a hyphen, which the program could take for an option; write another text"
            ));
        }
        after_options |= argument == "--";
        arguments.push(filled);
    }
    Ok(arguments)
}

/// Numbers and choices are as the operator declared them; a text is the platform's.
fn may_begin_with_hyphen(declared: &[Parameter], name: &str) -> bool {
    declared.iter().find(|parameter| parameter.name == name).is_some_and(|parameter| {
        parameter.leading_hyphen || !matches!(parameter.kind, ParameterKind::Text { .. })
    })
}

fn pieces(argument: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(open) = argument[at..].find('{').map(|offset| at + offset) {
        let doubled = argument[open + 1..].starts_with('{');
        let start = open + 1 + usize::from(doubled);
        let length = argument[start..].bytes().take_while(|byte| is_name_byte(*byte)).count();
        let (name, rest) = argument[start..].split_at(length);
        let closed = if doubled { rest.starts_with("}}") } else { rest.starts_with('}') };
        if !closed || !is_name(name) {
            at = open + 1;
            continue;
        }
        let end = start + length + 1;
        if doubled {
            pieces.push(Piece::Text(&argument[from..open]));
            pieces.push(Piece::Text(&argument[open + 1..end]));
            (from, at) = (end + 1, end + 1);
        } else {
            pieces.push(Piece::Text(&argument[from..open]));
            pieces.push(Piece::Value(name));
            (from, at) = (end, end);
        }
    }
    pieces.push(Piece::Text(&argument[from..]));
    pieces.retain(|piece| *piece != Piece::Text(""));
    pieces
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values() -> Map<String, Value> {
        let values = json!({"percent": 40, "room": "the hall; $(id)", "shy": "-x", "below": -5, "empty": "",
            "mode": ""});
        values.as_object().unwrap().clone()
    }

    fn declared() -> Vec<Parameter> {
        let text = |name: &str| Parameter::new(name, ParameterKind::text());
        let integer = ParameterKind::Integer { min: -9, max: 99 };
        vec![
            Parameter::new("percent", integer.clone()),
            text("room"),
            text("shy"),
            text("empty"),
            Parameter::new("below", integer),
            Parameter::new("mode", ParameterKind::Choice(vec![String::new(), "-v".into()])),
        ]
    }

    #[track_caller]
    fn check(template: &[&str], expected: Result<&[&str], &str>) {
        let template: Vec<String> = template.iter().map(|text| (*text).to_owned()).collect();
        let filled = fill(&template, &declared(), &values());
        match (filled, expected) {
            (Ok(filled), Ok(expected)) => assert_eq!(filled, expected),
            (Err(message), Err(expected)) => assert!(message.starts_with(expected), "{message}"),
            (filled, expected) => panic!("{filled:?}, and not {expected:?}"),
        }
    }

    #[test]
    fn a_placeholder_is_a_whole_argument_or_a_part_of_one() {
        check(&["--percent", "{percent}"], Ok(&["--percent", "40"]));
        check(&["--at={percent}%{percent}"], Ok(&["--at=40%40"]));
    }

    #[test]
    fn a_value_never_becomes_more_than_one_argument_and_is_not_read_again() {
        check(&["{room}"], Ok(&["the hall; $(id)"]));
        check(&["in {room}"], Ok(&["in the hall; $(id)"]));
        let nested = json!({"room": "{percent}"});
        let filled = fill(&["{room}".into()], &declared(), nested.as_object().unwrap());
        assert_eq!(filled.unwrap(), ["{percent}"]);
    }

    #[test]
    fn an_empty_value_is_an_empty_argument() {
        check(&["--room", "{empty}", "on"], Ok(&["--room", "", "on"]));
    }

    #[test]
    fn other_braces_and_doubled_ones_stand_for_themselves() {
        check(
            &["{{percent}}", "{\"a\": 1}", "{ percent }", "{", "}", "{}"],
            Ok(&["{percent}", "{\"a\": 1}", "{ percent }", "{", "}", "{}"]),
        );
        check(&["{{{percent}}}", "x{{percent}}y{percent}"], Ok(&["{{percent}}", "x{percent}y40"]));
    }

    #[test]
    fn a_text_that_could_be_taken_for_an_option_is_refused_at_the_start_of_an_argument() {
        check(&["{shy}"], Err("shy: begins with a hyphen"));
        check(&["{empty}{shy}"], Err("shy: begins with a hyphen"));
        check(&["{mode}{shy}"], Err("shy: begins with a hyphen"));
        check(&["{shy}", "--"], Err("shy: begins with a hyphen"));
        check(&["--room={shy}"], Ok(&["--room=-x"]));
        check(&["--", "{shy}"], Ok(&["--", "-x"]));
        check(&["{below}"], Ok(&["-5"]));
        check(&["{empty}-x"], Ok(&["-x"]));
    }

    #[test]
    fn a_parameter_may_be_declared_to_begin_with_a_hyphen() {
        let mut declared = declared();
        declared[2].leading_hyphen = true;
        assert_eq!(fill(&["{shy}".into()], &declared, &values()).unwrap(), ["-x"]);
    }
}
