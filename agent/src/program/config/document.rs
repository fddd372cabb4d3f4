use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::declaration::ScriptFile;
use super::file::File;
use super::references::open;
use super::{ConfigError, Problem, explain};

/// What a document has to look like.
pub(super) trait Shape: DeserializeOwned {
    /// What is told of one that holds nothing.
    const EMPTY: &'static str;
}

impl Shape for File {
    const EMPTY: &'static str = "is empty; it needs at least a [device] section with org, type and id \
                                 (the sample agent.toml shows every key)";
}

impl Shape for ScriptFile {
    const EMPTY: &'static str = "is empty; it needs at least one [[script]] section with bundle, action and program, \
                                 or another name than *.toml";
}

/// A configuration's text, with the places of its keys.
#[derive(Debug)]
pub(super) struct Document<'a> {
    path: &'a Path,
    text: &'a str,
    tree: DeTable<'a>,
}

impl<'a> Document<'a> {
    /// Parses a text and gives it its shape.
    pub(super) fn parse<T: Shape>(path: &'a Path, text: &'a str) -> Result<(Self, T), ConfigError> {
        let root = DeTable::parse(text).map_err(|error| {
            let span = error.span().unwrap_or_default();
            let (key, message) = explain::syntax(error.message(), text.get(span.clone()).unwrap_or_default());
            let position = Some(position(text, span.start));
            ConfigError::one(Problem { file: path.into(), position, key, message })
        })?;
        let document = Self { path, text, tree: root.get_ref().clone() };
        if document.tree.is_empty() {
            return Err(ConfigError::one(document.problem_of_file(T::EMPTY)));
        }
        let file = serde_path_to_error::deserialize(Deserializer::from(root)).map_err(|error| {
            let (key, message) = explain::shape(&error.path().to_string(), error.inner().message());
            let position = match error.inner().span() {
                // What is missing at the top has no place.
                Some(span) if span != (0..0) => Some(position(text, span.start)),
                _ => document.position_of(&key),
            };
            ConfigError::one(Problem { file: path.into(), position, key, message })
        })?;
        Ok((document, file))
    }

    /// A problem with one key, placed at its value, or at the innermost table around it that is there.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        Problem {
            file: self.path.into(),
            position: self.position_of(key),
            key: key.into(),
            message: message.into(),
        }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// The file, from the root on.
    pub(super) fn absolute_path(&self) -> PathBuf {
        std::path::absolute(self.path).unwrap_or_else(|_| self.path.into())
    }

    /// Where a key stands, as problems name it.
    pub(super) fn place(&self, key: &str) -> String {
        let file = self.path.display();
        self.position_of(key)
            .map_or_else(|| file.to_string(), |(line, column)| format!("{file}:{line}:{column}"))
    }

    /// The folder that relative paths start at.
    pub(super) fn folder(&self) -> PathBuf {
        // An absolute folder, so that what is made of it stays true wherever a child process runs.
        let folder = self.path.parent().unwrap_or(Path::new(""));
        std::path::absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
            .unwrap_or_else(|_| folder.into())
    }

    fn problem_of_file(&self, message: &str) -> Problem {
        Problem { file: self.path.into(), position: None, key: String::new(), message: message.into() }
    }

    fn position_of(&self, key: &str) -> Option<(usize, usize)> {
        let mut steps = key.split(['.', '[', ']']).filter(|step| !step.is_empty());
        let mut value = self.tree.get(steps.next()?)?;
        for step in steps {
            match child(value, step) {
                Some(child) => value = child,
                None => break,
            }
        }
        Some(position(self.text, value.span().start))
    }
}

/// Reads a configuration as text.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let problem = |position, message| {
        ConfigError::one(Problem { file: path.into(), position, key: String::new(), message })
    };
    let mut bytes = Vec::new();
    let size = open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).map_err(
        |reason| {
            let denied = reason.kind() == io::ErrorKind::PermissionDenied;
            let help = if denied { "let the agent's user read it" } else { WHERE };
            problem(None, format!("cannot be read: {reason}; {help}"))
        },
    )?;
    if size as u64 > MAX_FILE_BYTES {
        let limit = MAX_FILE_BYTES / 1024;
        return Err(problem(None, format!("has more than {limit} KiB; is it the configuration? {WHERE}")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let bytes = error.into_bytes();
        let text = String::from_utf8_lossy(&bytes[..valid]);
        let message = format!("byte 0x{:02x} is not UTF-8; save the file as UTF-8", bytes[valid]);
        problem(Some(position(&text, valid)), message)
    })
}

fn child<'t, 'a>(value: &'t Spanned<DeValue<'a>>, step: &str) -> Option<&'t Spanned<DeValue<'a>>> {
    match value.get_ref() {
        DeValue::Table(table) => table.get(step),
        DeValue::Array(array) => array.get(step.parse::<usize>().ok()?),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => None,
    }
}

/// Line and column of a byte, from 1, the column in characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before: Range<usize> = 0..offset.min(text.len());
    let before = text.get(before).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Generous for a file that a person writes, small beside the agent's memory.
const MAX_FILE_BYTES: u64 = 256 * 1024;

const WHERE: &str = "name the configuration with --config";
