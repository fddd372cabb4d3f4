//! What holds for the repository as a whole: sizes, what is absent, and documents that cannot drift from the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files that may be longer than [`MAX_FILE_LINES`], how long, and why. One that fits again must leave this list.
const LONG_FILES: &[(&str, usize, &str)] = &[];

/// Functions that may be longer than [`MAX_FUNCTION_LINES`], how long, and why.
const LONG_FUNCTIONS: &[(&str, &str, usize, &str)] = &[];

/// Lines of a file before its tests: what one reader takes in at one sitting.
const MAX_FILE_LINES: usize = 400;

/// Lines of a function with its signature: one screen.
const MAX_FUNCTION_LINES: usize = 70;

#[test]
fn no_file_is_longer_than_a_sitting() {
    let mut problems = Vec::new();
    let mut unused: BTreeSet<&str> = LONG_FILES.iter().map(|(path, ..)| *path).collect();
    for file in sources() {
        let lines = file.code().len();
        let exception = LONG_FILES.iter().find(|(path, ..)| *path == file.path);
        let limit = exception.map_or(MAX_FILE_LINES, |(_, limit, _)| *limit);
        if lines > limit {
            problems.push(format!("{}: {lines} lines, at most {limit}", file.path));
        }
        if lines > MAX_FILE_LINES {
            unused.remove(&*file.path);
        }
    }
    problems.extend(unused.iter().map(|path| format!("{path}: no exception is needed any more")));
    nothing(&problems);
}

#[test]
fn no_function_is_longer_than_a_screen() {
    let mut problems = Vec::new();
    let mut unused: BTreeSet<(&str, &str)> =
        LONG_FUNCTIONS.iter().map(|(path, name, ..)| (*path, *name)).collect();
    for file in sources() {
        for function in functions(&file.code()) {
            let Function { name, line, lines } = &function;
            if *lines <= MAX_FUNCTION_LINES {
                continue;
            }
            let key = LONG_FUNCTIONS.iter().find(|(path, f, ..)| *path == file.path && f == name);
            let limit = key.map_or(MAX_FUNCTION_LINES, |(.., limit, _)| *limit);
            if *lines > limit {
                problems.push(format!("{}:{line}: {name} has {lines} lines, at most {limit}", file.path));
            }
            if let Some((path, name, ..)) = key {
                unused.remove(&(path, name));
            }
        }
    }
    problems.extend(unused.iter().map(|(path, name)| format!("{path}: {name} needs no exception any more")));
    nothing(&problems);
}

/// The engine is pure, and each of the two libraries it must not know is named in one place.
#[test]
fn runtime_store_and_client_are_named_only_where_they_belong() {
    let mut problems = Vec::new();
    for file in sources() {
        let pure = file.path.starts_with("agent/src/engine");
        let mut absent: Vec<&str> = Vec::new();
        if pure {
            absent.extend(["tokio", "std::fs", "std::net", "std::thread", "HashMap", "HashSet"]);
        }
        if file.path.starts_with("agent/src/") && !file.path.starts_with("agent/src/link/") {
            absent.push("rumqttc::");
        }
        if file.path.starts_with("agent/src/") && !file.path.starts_with("agent/src/store") {
            absent.push("sled::");
        }
        if file.path.starts_with("core/src/") {
            absent.extend(["std::fs", "std::net", "std::process", "tokio::net", "tokio::spawn"]);
        }
        for (number, line) in file.code().iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in absent.iter().filter(|word| names(code, word)) {
                problems.push(format!("{}:{}: {word} does not belong here", file.path, number + 1));
            }
        }
    }
    nothing(&problems);
}

/// A stranger's clone must not depend on the machine that a line was written on.
#[test]
fn no_file_names_somebodys_folder_and_every_dependency_has_one_source() {
    // In two halves, so that this file passes its own test.
    let places = [["/ro", "ot/"], ["/ho", "me/"], ["[source", "."], ["[regis", "tries"]];
    let mut problems = Vec::new();
    for file in text_files() {
        for (number, line) in file.text.lines().enumerate() {
            let lower = line.to_lowercase();
            let found = places.iter().map(|halves| halves.concat()).filter(|text| lower.contains(text));
            problems.extend(found.map(|text| format!("{}:{}: {text}", file.path, number + 1)));
        }
    }
    let lock = read("Cargo.lock");
    let sources: BTreeSet<&str> = lock.lines().filter(|line| line.starts_with("source = ")).collect();
    if sources.len() != 1 {
        problems.push(format!("Cargo.lock: dependencies come from {sources:?}"));
    }
    nothing(&problems);
}

#[test]
fn the_example_of_the_readme_is_what_the_crate_page_of_the_agent_compiles() {
    let readme = read("README.md");
    let shown = readme.split_once("```rust\n").expect("README.md has an example").1;
    let shown = shown.split_once("```").expect("the example ends").0;

    let page = read("agent/src/lib.rs");
    let doctest = page.split("//! ```").nth(1).expect("agent/src/lib.rs begins with an example");
    let mut compiled = doctest.lines().map(|line| line.trim_start_matches("//!").trim());

    for line in shown.lines().map(str::trim).filter(|line| !line.is_empty()) {
        assert!(
            compiled.any(|other| other == line),
            "agent/src/lib.rs does not compile this, in this place: {line}"
        );
    }
}

/// Else a deliberate mistake is no longer made, and `tests/faults/run` ends in the middle.
#[test]
fn every_deliberate_mistake_can_still_be_made() {
    let table: toml::Table = toml::from_str(&read("tests/faults/faults.toml")).expect("it is TOML");
    let faults = table["fault"].as_array().expect("it lists mistakes");
    let mut problems = Vec::new();
    for fault in faults {
        let text = |key: &str| fault[key].as_str().expect("each value is a text");
        let count = read(text("file")).matches(text("find")).count();
        if count != 1 {
            problems.push(format!("{}: its text stands in {} {count} times", text("name"), text("file")));
        }
    }
    assert!(faults.len() >= 25, "{} mistakes", faults.len());
    nothing(&problems);
}

#[test]
fn the_readme_has_the_two_commands() {
    let readme = read("README.md");
    for command in ["cargo run --release --bin iotdm -- sandbox", "cargo test --workspace"] {
        assert!(readme.lines().any(|line| line == command), "a line of its own: {command}");
    }
}

#[test]
fn every_link_of_a_document_leads_to_a_file() {
    let mut problems = Vec::new();
    for file in text_files().into_iter().filter(|file| file.path.ends_with(".md")) {
        for target in file.text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(to, _)| to)
        {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.contains('`') {
                continue;
            }
            let folder = Path::new(&file.path).parent().expect("a file is in a folder");
            if !root().join(folder).join(target).exists() {
                problems.push(format!("{}: {target}", file.path));
            }
        }
    }
    nothing(&problems);
}

/// Who follows the code map finds every source file, and no file that is gone.
#[test]
fn the_code_map_names_every_source_file() {
    let architecture = read("ARCHITECTURE.md");
    let map = architecture.split_once("## Code map").expect("ARCHITECTURE.md has a code map").1;
    let map = map.split_once("\n## ").expect("the code map ends").0;
    let mut named = BTreeSet::new();
    for table in map.split("\n\n") {
        let Some(folder) = table.trim_start().strip_prefix("| `").and_then(|row| row.split('`').next())
        else {
            continue;
        };
        let cells = table.lines().skip(2).filter_map(|row| row.split('|').nth(1));
        let paths = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).flat_map(braces);
        named.extend(paths.map(|path| format!("{folder}{path}")));
    }
    let mapped =
        |path: &str| ["core/", "agent/", "handlers/", "platform/"].iter().any(|c| path.starts_with(c));
    let files: Vec<String> = sources()
        .into_iter()
        .map(|file| file.path)
        .filter(|path| mapped(path) && path.contains("/src/"))
        .collect();
    let leads = |name: &str, path: &str| path == name || name.ends_with('/') && path.starts_with(name);
    let missing = files.iter().filter(|path| !named.iter().any(|name| leads(name, path)));
    let mut problems: Vec<String> = missing.map(|path| format!("{path} is not in the code map")).collect();
    let gone = named.iter().filter(|name| !files.iter().any(|path| leads(name, path)));
    problems.extend(gone.map(|name| format!("{name} is in the code map and nowhere else")));
    nothing(&problems);
}

/// `a/{b,c}.rs` is two paths.
fn braces(path: &str) -> Vec<String> {
    let parts = path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    match parts {
        Some((before, (names, after))) => {
            names.split(',').map(|name| format!("{before}{name}{after}")).collect()
        }
        None => vec![path.to_owned()],
    }
}

/// Code cites the protocol by section; sections are stable, and a cited one exists.
#[test]
fn every_cited_section_of_the_protocol_exists() {
    let protocol = read("docs/protocol.md");
    let sections: BTreeSet<String> = protocol
        .lines()
        .filter(|line| line.starts_with("##"))
        .filter_map(|line| line.trim_start_matches('#').split_whitespace().next())
        .map(|number| number.trim_end_matches('.').to_owned())
        .collect();
    let cite = ["docs/protocol.md`", " §"].concat();
    let mut problems = Vec::new();
    for file in text_files() {
        for cited in file.text.split(&cite).skip(1) {
            let number: String = cited.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            let number = number.trim_end_matches('.');
            if !sections.contains(number) {
                problems.push(format!("{}: docs/protocol.md has no §{number}", file.path));
            }
            // A cited point is one of the numbered list in that section.
            let point = cited.strip_prefix(number).and_then(|rest| rest.strip_prefix(" point "));
            let point: String = point.unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
            if !point.is_empty() && !protocol.lines().any(|line| line.starts_with(&format!("{point}. **"))) {
                problems.push(format!("{}: docs/protocol.md has no §{number} point {point}", file.path));
            }
        }
    }
    nothing(&problems);
}

/// `.ci/run` starts the tests that need a broker by the name of their target.
#[test]
fn every_test_that_needs_mosquitto_is_where_it_is_run() {
    let mark = ["#[ignore = \"needs", " mosquitto\"]"].concat();
    let started = ["tests/tests/mosquitto/", "tests/tests/connect/", "tests/tests/brokers/"];
    let stray = |file: &Text| {
        file.path.ends_with(".rs") && !started.iter().any(|folder| file.path.starts_with(folder))
    };
    let mut problems = Vec::new();
    for file in text_files().into_iter().filter(stray) {
        let marked = file.text.lines().enumerate().filter(|(_, line)| line.trim() == mark);
        problems.extend(marked.map(|(number, _)| format!("{}:{}", file.path, number + 1)));
    }
    nothing(&problems);
}

/// Each row of the threats has a test, and a test that was renamed is renamed there.
#[test]
fn every_test_that_the_threats_name_exists() {
    let threats = read("docs/threats.md");
    let tests = tests();
    let mut problems = Vec::new();
    let rows = threats.lines().filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 3);
    for row in rows.filter(|row| !row.starts_with("| threat |")) {
        let cell = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let named = quoted(cell);
        if named.is_empty() {
            problems.push(format!("docs/threats.md names no test: {row}"));
        }
        let gone = named.iter().filter(|name| !tests.contains(**name));
        problems.extend(gone.map(|name| format!("docs/threats.md: there is no test {name}")));
    }
    nothing(&problems);
}

/// The pages on connecting name the test of each line; one that was renamed is renamed there. A name of four words or more
/// is a test's: no key has so many.
#[test]
fn every_test_that_a_page_on_connecting_names_exists() {
    let tests = tests();
    let pages = text_files().into_iter().filter(|file| file.path.starts_with("docs/connect/"));
    let mut named = 0;
    let mut problems = Vec::new();
    for page in pages {
        for name in quoted(&page.text).into_iter().filter_map(|text| text.rsplit("::").next()) {
            let is_sentence =
                name.split('_').count() > 3 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if is_sentence && !tests.contains(name) {
                problems.push(format!("{}: there is no test {name}", page.path));
            }
            named += usize::from(is_sentence);
        }
    }
    assert!(named > 100, "the pages name {named} tests");
    nothing(&problems);
}

/// Every situation of every handler has a test, or a reason why there is none.
#[test]
fn every_situation_of_a_handler_has_a_test() {
    let tests = tests();
    let mut problems = Vec::new();
    let mut tables = 0;
    for page in text_files().into_iter().filter(|file| file.path.starts_with("docs/handlers/")) {
        let mut columns = 0;
        for line in page.text.lines() {
            let cells: Vec<&str> = line.trim().trim_matches('|').split(" | ").map(str::trim).collect();
            if !line.starts_with('|') {
                columns = 0;
            } else if line.contains("crash before decision") {
                (columns, tables) = (cells.len(), tables + 1);
            } else if columns > 0 && !line.starts_with("|-") && !line.starts_with("| -") {
                let of = |what: String| format!("{}: {}: {what}", page.path, cells[0]);
                if cells.len() != columns {
                    problems.push(of(format!("{} cells, {columns} columns", cells.len())));
                }
                for cell in &cells[1..] {
                    let named = quoted(cell);
                    let gone = named.iter().filter(|name| name.contains('_') && !tests.contains(**name));
                    problems.extend(gone.map(|name| of(format!("there is no test {name}"))));
                    let is_proved = named.iter().any(|name| tests.contains(*name));
                    if !is_proved && cell.chars().count() < SHORTEST_REASON {
                        problems.push(of(format!("neither a test nor a reason: {cell}")));
                    }
                }
            }
        }
    }
    assert!(tables > 0, "docs/handlers has no table of situations");
    nothing(&problems);
}

/// The names of all tests.
fn tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for file in text_files().into_iter().filter(|file| file.path.ends_with(".rs")) {
        let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
        for (number, line) in lines.iter().enumerate() {
            let attributes = lines[..number].iter().rev().take_while(|line| line.starts_with("#["));
            let is_test = attributes
                .into_iter()
                .any(|line| line.starts_with("#[test") || line.starts_with("#[tokio::test"));
            if let Some(name) = function_name(line).filter(|_| is_test) {
                tests.insert(name.to_owned());
            }
        }
    }
    tests
}

/// What stands between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Fewer characters say nothing of why a situation cannot come about.
const SHORTEST_REASON: usize = 12;

fn nothing(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// A file of the repository, with its path from the root.
struct Text {
    path: String,
    text: String,
}

impl Text {
    /// The lines before the tests that stand at the end of the file.
    fn code(&self) -> Vec<&str> {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests =
            lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].ends_with("mod tests {"));
        lines[..tests.unwrap_or(lines.len())].to_vec()
    }
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

/// The functions of formatted code: one ends where a line of its own indentation begins with `}`.
fn functions(code: &[&str]) -> Vec<Function> {
    let mut found = Vec::new();
    for (number, line) in code.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = indentation(line);
        let last = code[number..].iter().position(|line| {
            let ends = line.ends_with('}') || line.ends_with(';');
            indentation(line) == indent
                && ends
                && (line.trim_start().starts_with(['}', ')']) || line.contains("fn "))
        });
        found.push(Function { name: name.into(), line: number + 1, lines: last.unwrap_or(0) + 1 });
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let qualifies =
        |word: &str| matches!(word, "pub" | "const" | "async" | "extern") || word.starts_with("pub(");
    if !before.split_whitespace().all(qualifies) {
        return None;
    }
    let end = after.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    (end > 0).then(|| &after[..end])
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Whether `text` has `word` with nothing before or after it that would make it part of another word.
fn names(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let ends_open = word.ends_with(':');
        !text[..at].ends_with(part) && (ends_open || !text[at + word.len()..].starts_with(part))
    })
}

/// Rust files that are not tests as a whole.
fn sources() -> Vec<Text> {
    let is_test = |path: &str| path.contains("/tests/") || path.ends_with("/tests.rs");
    text_files().into_iter().filter(|file| file.path.ends_with(".rs") && !is_test(&file.path)).collect()
}

fn text_files() -> Vec<Text> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository can be read") {
            let entry = entry.expect("a folder of the repository can be read");
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_str().expect("names in the repository are UTF-8");
            // What a fuzz target has found is anybody's bytes.
            if [".git", "target", "artifacts", "coverage"].contains(&name) {
                continue;
            } else if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root()).expect("it was found below the root");
                let path = path.to_str().expect("names in the repository are UTF-8");
                found.push(Text { path: path.to_owned(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 50, "the repository was not found at {}", root().display());
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|reason| panic!("{path}: {reason}"))
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests have a folder of their own in the repository").to_owned()
}

#[test]
fn the_length_of_a_function_counts_from_its_signature_to_its_brace() {
    let code = "\
impl A {
    fn one() {}

    pub(crate) async fn two(
        a: u8,
    ) -> u8 {
        let f = || {
            a
        };
        f()
    }

    fn three(&self);
}
fn four<T>(t: T) -> T
where
    T: Copy,
{
    t
}
";
    let code: Vec<&str> = code.lines().collect();
    let found: Vec<(String, usize, usize)> =
        functions(&code).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
    let expected = [("one", 2, 1), ("two", 4, 8), ("three", 13, 1), ("four", 15, 6)];
    assert_eq!(found, expected.map(|(name, line, lines)| (name.to_owned(), line, lines)));
}
