//! From declarations to scripts, of the main file and of the scripts' folder.

use std::path::Path;

use iotdm_core::{Code, Route};
use iotdm_handlers::ScriptSpec;
use iotdm_handlers::scripts::{Parameter, ParameterError, ParameterKind, Pattern, SpecError};
use serde_json::Value;

use super::super::declaration::{self, Bound, ParameterType, Script, ScriptFile};
use super::super::document::Document;
use super::super::values::{Command, FilePath};
use super::super::{Problem, folder, users};
use super::Resolver;

/// The scripts so far, each with the place where it is declared.
type Declared = Vec<(ScriptSpec, String)>;

impl Resolver<'_> {
    /// The scripts of the main file, then those of the folder.
    pub(super) fn scripts(
        &mut self,
        sections: Vec<Script>,
        folder: Option<&FilePath>,
        taken: &[Route],
    ) -> Vec<ScriptSpec> {
        let mut declared = Declared::new();
        self.declare("actions.script", sections, taken, &mut declared);
        if let Some(folder) = folder {
            let folder = self.path(folder);
            match folder::read(&folder) {
                Err(message) => self.problem("actions.scripts_dir", message),
                Ok(files) => {
                    for file in files {
                        self.script_file(&file.path, file.text, taken, &mut declared);
                    }
                }
            }
        }
        if declared.len() > MAX_SCRIPTS {
            self.problem("actions", format!("there are more than {MAX_SCRIPTS} scripts"));
        }
        declared.into_iter().map(|(spec, _)| spec).collect()
    }

    fn script_file(
        &mut self,
        path: &Path,
        text: Result<String, String>,
        taken: &[Route],
        declared: &mut Declared,
    ) {
        let problem = |message| Problem { file: path.into(), position: None, key: String::new(), message };
        let text = match text {
            Ok(text) => text,
            Err(message) => return self.problems.push(problem(message)),
        };
        match Document::parse::<ScriptFile>(path, &text) {
            Err(error) => self.problems.extend(error.problems),
            Ok((document, file)) => {
                let mut resolver = Resolver {
                    secret_variable: self.secret_variable.clone(),
                    ..Resolver::new(&document, self.surroundings)
                };
                resolver.declare("script", file.script, taken, declared);
                let Resolver { problems, warnings, .. } = resolver;
                self.problems.extend(problems);
                // Keys of several files are alike.
                self.warnings.extend(warnings.into_iter().map(|text| format!("{}: {text}", path.display())));
            }
        }
    }

    pub(in crate::program::config) fn declare(
        &mut self,
        key: &str,
        sections: Vec<Script>,
        taken: &[Route],
        declared: &mut Declared,
    ) {
        for (index, section) in sections.into_iter().enumerate() {
            let key = format!("{key}[{index}]");
            let action = format!("{key}.action");
            let spec = self.script(&key, section);
            let (bundle, id) = (&spec.bundle, &spec.action);
            let first = declared.iter().find(|(other, _)| (&other.bundle, &other.action) == (bundle, id));
            if let Some((_, place)) = first {
                self.problem(
                    &action,
                    format!("{bundle}/{id} has a script already at {place}; keep one of the two"),
                );
            }
            let is_route = |route: &Route| matches!(route, Route::Custom { bundle: b, action: a } if b == bundle && a == id);
            if taken.iter().any(is_route) {
                self.problem(
                    &action,
                    format!("{bundle}/{id} is served by [actions.diagnostics]; keep one of the two"),
                );
            }
            declared.push((spec, self.document.place(&action)));
        }
    }

    fn script(&mut self, key: &str, section: Script) -> ScriptSpec {
        let command = Command { program: section.program, args: section.args };
        for name in section.env.keys().filter(|name| name.is_empty() || name.contains(['=', '\0'])) {
            self.problem(&format!("{key}.env"), format!("{name:?} is no name of an environment variable"));
        }
        let mut env = section.env;
        for (index, name) in section.pass_env.into_iter().enumerate() {
            if let Some(value) = self.passed(&format!("{key}.pass_env[{index}]"), &name.0) {
                env.entry(name.0).or_insert(value);
            }
        }
        let user = section.user.as_ref().and_then(|user| {
            let own = rustix::process::geteuid().as_raw();
            self.keep(&format!("{key}.user"), users::find(user, own, users::passwd()))
        });
        let parameters = section.parameter.map(|parameters| {
            let all = parameters.into_iter().enumerate();
            all.filter_map(|(index, one)| self.parameter(&format!("{key}.parameter[{index}]"), one)).collect()
        });
        let command = self.command(&format!("{key}.program"), command);
        // A name alone was looked for in PATH, which is root's.
        if command.program.components().count() > 1 {
            self.keep(&format!("{key}.program"), folder::check_program(&command.program, user));
        }
        let directory = section.directory.map(|path| self.path(&path));
        if let Some(directory) = directory.as_deref().filter(|directory| !directory.is_dir()) {
            self.warnings.push(format!("{key}.directory: the folder {} is not there", directory.display()));
        }
        let mut spec = ScriptSpec {
            title: section.title,
            description: section.description,
            args: command.args,
            parameters,
            directory,
            user,
            env,
            interrupted: section.interrupted.into(),
            late: section.late.0,
            ..ScriptSpec::new(section.bundle.0, section.action.0, command.program)
        };
        spec.time_limit = section.time_limit.map_or(spec.time_limit, |limit| limit.get());
        spec.output_limit = section.output_limit.map_or(spec.output_limit, |limit| limit.get_usize());
        for (status, code) in section.exit {
            match status.parse() {
                Ok(status) => _ = spec.exit.insert(status, Code::from_u16(code)),
                Err(_) => self.problem(
                    &format!("{key}.exit.{status}"),
                    "is no exit status; write exit = { 3 = 409 } with a status from 1 to 255",
                ),
            }
        }
        self.check_spec(key, &spec);
        spec
    }

    /// What joins the keys of a script; what one parameter says of itself has been checked.
    fn check_spec(&mut self, key: &str, spec: &ScriptSpec) {
        let Err(error) = spec.check() else { return };
        let key = match &error {
            // A parameter that was left out as wrong is told already.
            SpecError::Undeclared { .. } if !self.problems.is_empty() => return,
            SpecError::Undeclared { name } | SpecError::MayBeMissing { name } => {
                let placeholder = format!("{{{name}}}");
                let argument = spec.args.iter().position(|argument| argument.contains(&placeholder));
                format!("{key}.args[{}]", argument.unwrap_or_default())
            }
            SpecError::ExitStatus(status) | SpecError::ExitCode { status, .. } => {
                format!("{key}.exit.{status}")
            }
            _ => format!("{key}.parameter"),
        };
        self.problem(&key, error.to_string());
    }

    /// A variable that a script gets of the agent's own; none where the agent has none.
    fn passed(&mut self, key: &str, name: &str) -> Option<String> {
        if self.secret_variable.as_deref() == Some(name) || SECRET_VARIABLES.contains(&name) {
            self.problem(
                key,
                format!("{name} leads to the device's secrets, which no script gets; remove it"),
            );
            return None;
        }
        match (self.surroundings.variable)(name)?.into_string() {
            Ok(value) => Some(value),
            Err(_) => {
                self.problem(key, format!("variable {name} is not text; set it otherwise, or remove it"));
                None
            }
        }
    }

    fn parameter(&mut self, key: &str, section: declaration::Parameter) -> Option<Parameter> {
        self.refuse_keys_of_other_types(key, &section);
        let kind = match section.r#type {
            ParameterType::Integer => ParameterKind::Integer {
                min: self.whole(&format!("{key}.min"), section.min)?.unwrap_or(-MAX_EXACT),
                max: self.whole(&format!("{key}.max"), section.max)?.unwrap_or(MAX_EXACT),
            },
            ParameterType::Number => ParameterKind::Number {
                min: section.min.map_or(f64::MIN, double),
                max: section.max.map_or(f64::MAX, double),
            },
            ParameterType::Boolean => ParameterKind::Boolean,
            ParameterType::String => ParameterKind::Text {
                min_length: section.min_length.unwrap_or(0),
                max_length: section.max_length.unwrap_or(ParameterKind::DEFAULT_MAX_LENGTH),
                pattern: match section.pattern {
                    None => None,
                    Some(source) => {
                        let pattern = Pattern::new(&source).map_err(|error| error.to_string());
                        Some(self.keep(&format!("{key}.pattern"), pattern)?)
                    }
                },
            },
            ParameterType::Enum => ParameterKind::Choice(section.values.unwrap_or_default()),
        };
        let default = match section.default {
            None => None,
            Some(value) => Some(self.keep(&format!("{key}.default"), scalar(value))?),
        };
        let parameter = Parameter {
            required: section.required.unwrap_or(default.is_none()),
            default,
            leading_hyphen: section.leading_hyphen,
            ..Parameter::new(section.name, kind)
        };
        match parameter.check() {
            Ok(()) => Some(parameter),
            Err(error) => {
                self.problem(&format!("{key}.{}", key_of(&error)), error.to_string());
                None
            }
        }
    }

    fn refuse_keys_of_other_types(&mut self, key: &str, section: &declaration::Parameter) {
        use ParameterType::{Enum, Integer, Number, String};
        let kind = section.r#type;
        let keys: [(&str, bool, &[ParameterType]); 7] = [
            ("min", section.min.is_some(), &[Integer, Number]),
            ("max", section.max.is_some(), &[Integer, Number]),
            ("min_length", section.min_length.is_some(), &[String]),
            ("max_length", section.max_length.is_some(), &[String]),
            ("pattern", section.pattern.is_some(), &[String]),
            ("values", section.values.is_some(), &[Enum]),
            ("leading_hyphen", section.leading_hyphen, &[String]),
        ];
        for (name, is_given, kinds) in keys {
            if is_given && !kinds.contains(&kind) {
                self.problem(
                    &format!("{key}.{name}"),
                    format!("is of no use with type = \"{kind}\"; remove it"),
                );
            }
        }
    }

    fn whole(&mut self, key: &str, bound: Option<Bound>) -> Option<Option<i64>> {
        match bound {
            None => Some(None),
            Some(Bound::Whole(number)) => Some(Some(number)),
            Some(Bound::Double(number)) => {
                self.problem(key, format!("{number} is no whole number; write one, or type = \"number\""));
                None
            }
        }
    }
}

fn double(bound: Bound) -> f64 {
    match bound {
        #[expect(clippy::cast_precision_loss, reason = "a parameter of this type is a double, its range too")]
        Bound::Whole(number) => number as f64,
        Bound::Double(number) => number,
    }
}

fn scalar(value: toml::Value) -> Result<Value, String> {
    match value {
        toml::Value::String(text) => Ok(text.into()),
        toml::Value::Integer(number) => Ok(number.into()),
        toml::Value::Float(number) => Ok(number.into()),
        toml::Value::Boolean(value) => Ok(value.into()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            Err("is no value of a parameter; write a text, a number, true or false".into())
        }
    }
}

/// Which key a parameter's mistake is about.
fn key_of(error: &ParameterError) -> &'static str {
    match error {
        ParameterError::Name => "name",
        ParameterError::Range => "min",
        ParameterError::Length => "max_length",
        ParameterError::Values => "values",
        _ => "default",
    }
}

/// More actions than an operator keeps apart; each of them is a route.
const MAX_SCRIPTS: usize = 1024;

/// The greatest whole number up to which a program that reads JSON knows every one.
const MAX_EXACT: i64 = 9_007_199_254_740_991;

/// Where a service manager tells of the device's secrets.
const SECRET_VARIABLES: [&str; 1] = [super::CREDENTIALS_DIRECTORY];
