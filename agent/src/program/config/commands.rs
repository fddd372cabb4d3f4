//! `[commands.NAME]`: what the operator's programs do at a command of applications, as it is written and as it is.

use std::collections::BTreeMap;

use iotdm_core::{Acknowledge, ClientKind, Table, TableError};
use iotdm_handlers::CommandScript;
use serde::Deserialize;

use super::declaration::{InterruptedChoice, UserName};
use super::resolve::Resolver;
use super::values::{Command, LateChoice, Span, TimeLimit, plain};
use super::{folder, users};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section with a name, [commands.NAME]")]
pub(super) struct CommandSection {
    /// The section's name unless written.
    id: Option<String>,
    format: Option<String>,
    run: Command,
    user: Option<UserName>,
    time_limit: Option<Span<TimeLimit>>,
    #[serde(default)]
    acknowledge: AcknowledgeChoice,
    interrupted: Option<InterruptedChoice>,
    #[serde(default)]
    late: LateChoice,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AcknowledgeChoice {
    #[default]
    Durable,
    Handled,
}

impl Resolver<'_> {
    pub(super) fn commands(
        &mut self,
        sections: BTreeMap<String, CommandSection>,
        kind: ClientKind,
    ) -> Vec<CommandScript> {
        if kind == ClientKind::Gateway && !sections.is_empty() {
            self.problem("commands", "a gateway takes no commands of applications; remove them");
        }
        // The same rules as at the start, told with the section.
        let mut table = Table::new();
        let mut commands = Vec::new();
        for (name, section) in sections {
            let key = format!("commands.{name}");
            let command = self.command_script(&key, &name, section);
            match table.with(command.clone()) {
                Ok(()) => {}
                Err(TableError::Duplicate(_)) => {
                    self.problem(&key, "another section has this id and format; keep one of the two");
                }
                Err(error) => self.problem(&key, error.to_string()),
            }
            commands.push(command);
        }
        commands
    }

    fn command_script(&mut self, key: &str, name: &str, section: CommandSection) -> CommandScript {
        let command = self.command(&format!("{key}.run"), section.run);
        let user = section.user.as_ref().and_then(|user| {
            let own = rustix::process::geteuid().as_raw();
            self.keep(&format!("{key}.user"), users::find(user, own, users::passwd()))
        });
        // A name alone was looked for in PATH, which is root's.
        if command.program.components().count() > 1 {
            self.keep(&format!("{key}.run"), folder::check_program(&command.program, user));
        }
        let acknowledge = match section.acknowledge {
            AcknowledgeChoice::Durable => Acknowledge::Durable,
            AcknowledgeChoice::Handled => Acknowledge::Handled,
        };
        if section.interrupted.is_some() && acknowledge == Acknowledge::Handled {
            self.problem(
                &format!("{key}.interrupted"),
                "is of no use with acknowledge = \"handled\": the broker sends it again; remove it",
            );
        }
        let script = CommandScript::new(section.id.as_deref().unwrap_or(name), command.program);
        let time_limit = section.time_limit.map_or(script.time_limit, |limit| limit.get());
        let longest = CommandScript::LONGEST_HANDLED_SCRIPT;
        let is_too_long = acknowledge == Acknowledge::Handled && time_limit > longest;
        if is_too_long {
            self.problem(
                &format!("{key}.time_limit"),
                format!(
                    "an acknowledgement waits for a script {} at the most; write less, or acknowledge = \"durable\"",
                    plain(longest)
                ),
            );
        }
        CommandScript {
            format: section.format.unwrap_or_else(|| script.format.clone()),
            args: command.args,
            user,
            // Told once.
            time_limit: if is_too_long { longest } else { time_limit },
            acknowledge,
            interrupted: section.interrupted.map_or(script.interrupted, Into::into),
            late: section.late.0,
            ..script
        }
    }
}
