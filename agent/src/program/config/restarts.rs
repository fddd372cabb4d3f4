//! `[actions.reboot]` and `[actions.factory_reset]`: what restarts the machine, and under which rules.

use std::path::PathBuf;
use std::time::Duration;

use iotdm_core::{Action, FactoryReset, Late, Reboot};
use iotdm_handlers::reboot::{MaintenanceWindows, WindowError, Wipe};
use serde::Deserialize;

use super::CommandLine;
use super::resolve::Resolver;
use super::values::{
    Budget, Command, FilePath, LateChoice, LimitSpan, MaxDelay, RestartCount, Span, VetoTime, Whole,
};

/// Reboot.
#[derive(Clone, Debug)]
pub(crate) struct RebootAction {
    pub(crate) means: RebootMeans,
    /// Answers and reports as if, and runs nothing.
    pub(crate) dry_run: bool,
    /// How long the command may take.
    pub(crate) budget: Duration,
    pub(crate) rules: RestartRules,
    pub(crate) late: Late,
}

/// What restarts the machine.
#[derive(Clone, Debug)]
pub(crate) enum RebootMeans {
    /// systemd-logind, which is asked first.
    Logind,
    /// A command; always there unless this is a dry run.
    Command(Option<CommandLine>),
}

/// Factory reset.
#[derive(Clone, Debug)]
pub(crate) struct FactoryResetAction {
    pub(crate) means: ResetMeans,
    /// Answers and reports as if, and runs nothing.
    pub(crate) dry_run: bool,
    /// How long the command, or the wiping and the program that follows it, may take.
    pub(crate) budget: Duration,
    pub(crate) rules: RestartRules,
    pub(crate) late: Late,
}

/// What resets the machine.
#[derive(Clone, Debug)]
pub(crate) enum ResetMeans {
    /// A command that ends with a restart; always there unless this is a dry run.
    Command(Option<CommandLine>),
    /// The agent wipes, runs a program, and restarts the machine as the reboot does.
    Staged { wipe: Option<Wipe>, then: Option<CommandLine> },
}

/// When a restart is refused.
#[derive(Clone, Debug)]
pub(crate) struct RestartRules {
    pub(crate) windows: Option<MaintenanceWindows>,
    /// At most so many within so much time.
    pub(crate) limit: Option<(usize, Duration)>,
    /// The program that is asked, and how long it may take.
    pub(crate) veto: Option<(CommandLine, Duration)>,
    pub(crate) max_delay: Duration,
}

/// The keys of both sections that are rules.
struct RuleKeys {
    window: Option<WindowList>,
    max_restarts: Option<Whole<RestartCount>>,
    max_restarts_within: Option<Span<LimitSpan>>,
    veto_command: Option<Command>,
    veto_time_limit: Option<Span<VetoTime>>,
    max_delay: Option<Span<MaxDelay>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of its own")]
pub(super) struct RebootSection {
    method: Method,
    command: Option<Command>,
    dry_run: bool,
    budget: Option<Span<Budget>>,
    window: Option<WindowList>,
    max_restarts: Option<Whole<RestartCount>>,
    max_restarts_within: Option<Span<LimitSpan>>,
    veto_command: Option<Command>,
    veto_time_limit: Option<Span<VetoTime>>,
    max_delay: Option<Span<MaxDelay>>,
    late: LateChoice,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of its own")]
pub(super) struct FactoryResetSection {
    command: Option<Command>,
    wipe: Option<Vec<FilePath>>,
    then: Option<Command>,
    dry_run: bool,
    budget: Option<Span<Budget>>,
    window: Option<WindowList>,
    max_restarts: Option<Whole<RestartCount>>,
    max_restarts_within: Option<Span<LimitSpan>>,
    veto_command: Option<Command>,
    veto_time_limit: Option<Span<VetoTime>>,
    max_delay: Option<Span<MaxDelay>>,
    late: LateChoice,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    #[default]
    Command,
    Logind,
}

/// Maintenance windows, checked while they are read.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Vec<String>")]
struct WindowList(MaintenanceWindows);

impl TryFrom<Vec<String>> for WindowList {
    type Error = WindowError;

    fn try_from(texts: Vec<String>) -> Result<Self, WindowError> {
        MaintenanceWindows::new(texts).map(Self)
    }
}

impl Resolver<'_> {
    pub(super) fn reboot(&mut self, section: RebootSection) -> Option<RebootAction> {
        let command = section.command.map(|command| self.command("actions.reboot.command", command));
        let means = match (section.method, command) {
            (Method::Logind, Some(_)) => {
                self.problem(
                    "actions.reboot.command",
                    "is of no use with method = \"logind\"; remove it, or write method = \"command\"",
                );
                RebootMeans::Logind
            }
            (Method::Logind, None) => RebootMeans::Logind,
            (Method::Command, None) if !section.dry_run => {
                self.problem(
                    "actions.reboot.command",
                    "is missing; write a list of the program and its arguments, such as [\"systemctl\", \"reboot\"], \
                     or dry_run = true to try without one, or method = \"logind\"",
                );
                return None;
            }
            (Method::Command, command) => RebootMeans::Command(command),
        };
        let rules = RuleKeys {
            window: section.window,
            max_restarts: section.max_restarts,
            max_restarts_within: section.max_restarts_within,
            veto_command: section.veto_command,
            veto_time_limit: section.veto_time_limit,
            max_delay: section.max_delay,
        };
        Some(RebootAction {
            means,
            dry_run: section.dry_run,
            budget: section.budget.map_or(Reboot::PERFORM_BUDGET, |budget| budget.get()),
            rules: self.rules("actions.reboot", rules),
            late: section.late.0,
        })
    }

    pub(super) fn factory_reset(
        &mut self,
        section: FactoryResetSection,
        reboot: Option<&RebootAction>,
        mut kept: Vec<(&str, PathBuf)>,
    ) -> Option<FactoryResetAction> {
        let command = section.command.map(|command| self.command("actions.factory_reset.command", command));
        let then = section.then.map(|command| self.command("actions.factory_reset.then", command));
        let staged = section.wipe.is_some() || then.is_some();
        if staged && command.is_some() {
            let key = if section.wipe.is_some() { "wipe" } else { "then" };
            self.problem(
                &format!("actions.factory_reset.{key}"),
                "command does the whole reset by itself; keep command, or wipe and then",
            );
        }
        if command.is_none() && !staged && !section.dry_run {
            self.problem(
                "actions.factory_reset.command",
                "is missing; write wipe with a list of the folders to empty, such as [\"/var/lib/product\"], or a \
                 command that does it all, or dry_run = true to try without one",
            );
            return None;
        }
        if staged {
            let key = "actions.factory_reset";
            match reboot {
                None => self.problem(key, "needs a way to restart at its end; add an [actions.reboot] section"),
                Some(reboot) if reboot.dry_run && !section.dry_run => self.warnings.push(format!(
                    "{key}: [actions.reboot] is a dry run: what is wiped is wiped, and the machine is not restarted"
                )),
                Some(_) => {}
            }
        }
        let rules = RuleKeys {
            window: section.window,
            max_restarts: section.max_restarts,
            max_restarts_within: section.max_restarts_within,
            veto_command: section.veto_command,
            veto_time_limit: section.veto_time_limit,
            max_delay: section.max_delay,
        };
        let rules = self.rules("actions.factory_reset", rules);
        let asked = [Some(&rules), reboot.map(|reboot| &reboot.rules)];
        let asked = asked.into_iter().flatten().filter_map(|rules| rules.veto.as_ref());
        let run = then.iter().map(|then| ("the program of then", then));
        let run = run.chain(asked.map(|(veto, _)| ("the program of veto_command", veto)));
        let run =
            run.chain(reboot.and_then(RebootAction::command).map(|line| ("the program that restarts", line)));
        let run = run.filter(|(_, line)| line.program.is_absolute());
        kept.extend(run.map(|(what, line)| (what, line.program.clone())));
        let wipe = section.wipe.and_then(|paths| {
            let wipe = Wipe::new(paths.into_iter().map(|FilePath(path)| path), &kept);
            self.keep("actions.factory_reset.wipe", wipe.map_err(|error| error.to_string()))
        });
        Some(FactoryResetAction {
            means: if staged { ResetMeans::Staged { wipe, then } } else { ResetMeans::Command(command) },
            dry_run: section.dry_run,
            budget: section.budget.map_or(FactoryReset::PERFORM_BUDGET, |budget| budget.get()),
            rules,
            late: section.late.0,
        })
    }

    fn rules(&mut self, key: &str, keys: RuleKeys) -> RestartRules {
        let within = keys.max_restarts_within.map(|within| within.get());
        if keys.max_restarts.is_none() && within.is_some() {
            self.problem(
                &format!("{key}.max_restarts_within"),
                "limits nothing alone; add max_restarts, such as max_restarts = 3",
            );
        }
        let veto = keys.veto_command.map(|command| self.command(&format!("{key}.veto_command"), command));
        let alone =
            [("veto_time_limit", keys.veto_time_limit.is_some()), ("max_delay", keys.max_delay.is_some())];
        for (name, _) in alone.into_iter().filter(|(_, given)| *given && veto.is_none()) {
            self.problem(
                &format!("{key}.{name}"),
                "is of no use without a program that is asked; add veto_command, or remove it",
            );
        }
        let veto_time = keys.veto_time_limit.map_or(DEFAULT_VETO_TIME, |limit| limit.get());
        RestartRules {
            windows: keys.window.map(|WindowList(windows)| windows),
            limit: keys.max_restarts.map(|count| (count.get_usize(), within.unwrap_or(DEFAULT_LIMIT_SPAN))),
            veto: veto.map(|command| (command, veto_time)),
            max_delay: keys.max_delay.map_or(DEFAULT_MAX_DELAY, |delay| delay.get()),
        }
    }
}

impl RebootAction {
    /// The command, where it is one of the operator's.
    pub(crate) fn command(&self) -> Option<&CommandLine> {
        match &self.means {
            RebootMeans::Command(command) => command.as_ref(),
            RebootMeans::Logind => None,
        }
    }
}

/// A loop of restarts takes minutes for each; whoever restarts a device by hand does so a few times a day.
const DEFAULT_LIMIT_SPAN: Duration = Duration::from_secs(24 * 60 * 60);

const DEFAULT_VETO_TIME: Duration = Duration::from_secs(5);

const DEFAULT_MAX_DELAY: Duration = Duration::from_secs(60);
