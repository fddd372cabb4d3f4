use std::collections::BTreeMap;
use std::fs;

use super::scenarios::Answers;

/// Prints what a broker did, and compares it with its column in `docs/brokers/README.md`.
pub(crate) fn check(name: &str, answers: &Answers) {
    eprintln!("\n{name}:");
    for (question, answer) in answers {
        eprintln!("  {question:<46} {answer}");
    }
    let documented = column(name);
    let mut problems = Vec::new();
    for (question, answer) in answers {
        match documented.get(*question) {
            Some(cell) if cell == answer => {}
            Some(cell) => problems.push(format!("{question}: {answer}; the document says: {cell}")),
            None => problems.push(format!("{question}: {answer}; the document has no such row")),
        }
    }
    let known: Vec<&str> = answers.iter().map(|(question, _)| *question).collect();
    problems.extend(
        documented
            .keys()
            .filter(|row| !known.contains(&row.as_str()))
            .map(|row| format!("{row}: nobody asks")),
    );
    assert!(problems.is_empty(), "{name}:\n{}", problems.join("\n"));
}

/// The rows of the table with their cells of one column.
fn column(name: &str) -> BTreeMap<String, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/brokers/README.md");
    let text = fs::read_to_string(path).expect("the document is there");
    let mut rows =
        text.lines().skip_while(|line| !line.starts_with(HEADER)).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let header = cells(rows.next().expect("the document has the table"));
    let place = header.iter().position(|cell| cell == name).expect("the table has the broker's column");
    // The line below the header separates it.
    rows.skip(1).map(cells).map(|row| (row[0].clone(), row[place].clone())).collect()
}

const HEADER: &str = "| What happens |";
