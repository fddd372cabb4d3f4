//! A script's declaration as it is written, in the main file and in those of the scripts' folder alike.

use std::collections::BTreeMap;
use std::fmt;

use iotdm_core::Interrupted;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use super::values::{CustomId, FilePath, LateChoice, OutputLimit, Span, TimeLimit, VariableName, Whole};

/// A file of the scripts' folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScriptFile {
    pub(super) script: Vec<Script>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section in two pairs of brackets, such as [[actions.script]]")]
pub(super) struct Script {
    pub(super) bundle: CustomId,
    pub(super) action: CustomId,
    pub(super) title: Option<String>,
    pub(super) description: Option<String>,
    pub(super) program: FilePath,
    #[serde(default)]
    pub(super) args: Vec<String>,
    pub(super) parameter: Option<Vec<Parameter>>,
    pub(super) directory: Option<FilePath>,
    pub(super) user: Option<UserName>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) pass_env: Vec<VariableName>,
    pub(super) time_limit: Option<Span<TimeLimit>>,
    pub(super) output_limit: Option<Whole<OutputLimit>>,
    #[serde(default)]
    pub(super) exit: BTreeMap<String, u16>,
    #[serde(default)]
    pub(super) interrupted: InterruptedChoice,
    #[serde(default)]
    pub(super) late: LateChoice,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with name and type")]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) r#type: ParameterType,
    pub(super) min: Option<Bound>,
    pub(super) max: Option<Bound>,
    pub(super) min_length: Option<usize>,
    pub(super) max_length: Option<usize>,
    pub(super) pattern: Option<String>,
    pub(super) values: Option<Vec<String>>,
    pub(super) required: Option<bool>,
    pub(super) default: Option<toml::Value>,
    #[serde(default)]
    pub(super) leading_hyphen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ParameterType {
    Integer,
    Number,
    Boolean,
    String,
    Enum,
}

impl fmt::Display for ParameterType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::String => "string",
            Self::Enum => "enum",
        })
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum InterruptedChoice {
    #[default]
    Refuse,
    RunAgain,
}

impl From<InterruptedChoice> for Interrupted {
    fn from(choice: InterruptedChoice) -> Self {
        match choice {
            InterruptedChoice::Refuse => Self::Refuse,
            InterruptedChoice::RunAgain => Self::RunAgain,
        }
    }
}

/// An end of a range: whole or not, as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    Whole(i64),
    Double(f64),
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;

        impl Visitor<'_> for Numbers {
            type Value = Bound;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Bound, E> {
                Ok(Bound::Whole(number))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Bound, E> {
                Ok(Bound::Double(number))
            }
        }

        deserializer.deserialize_any(Numbers)
    }
}

/// A user of the machine, by name or by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UserName {
    Name(String),
    Number(u32),
}

impl<'de> Deserialize<'de> for UserName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Users;

        impl Visitor<'_> for Users {
            type Value = UserName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a user's name in quotes, or its number")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<UserName, E> {
                if name.is_empty() || name.contains([':', '\n']) {
                    return Err(E::custom(
                        "is no user's name; write one of /etc/passwd, or leave the key out",
                    ));
                }
                Ok(UserName::Name(name.into()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<UserName, E> {
                let number = u32::try_from(number)
                    .map_err(|_| E::custom(format_args!("{number} is no user's number; write 0 or more")))?;
                Ok(UserName::Number(number))
            }
        }

        deserializer.deserialize_any(Users)
    }
}
