use std::path::PathBuf;

use iotdm_core::Route;

use super::super::file;
use super::super::values::{Command, FilePath};
use super::super::{Actions, CommandLine, DiagnosticsAction};
use super::{Resolver, find};

impl Resolver<'_> {
    pub(super) fn actions(&mut self, actions: file::Actions, kept: Vec<(&str, PathBuf)>) -> Actions {
        let reboot = actions.reboot.and_then(|section| self.reboot(section));
        let factory_reset =
            actions.factory_reset.and_then(|section| self.factory_reset(section, reboot.as_ref(), kept));
        let can_restart = reboot.is_some();
        let diagnostics = actions.diagnostics.map(|section| self.diagnostics(section));
        let firmware = actions.firmware.and_then(|section| self.firmware(section, can_restart));
        if firmware.as_ref().is_some_and(|firmware| firmware.restart_after_install)
            && reboot.as_ref().is_some_and(|reboot| reboot.dry_run)
        {
            self.warnings.push(
                "actions.firmware: [actions.reboot] is a dry run: what is installed is installed, and the machine is not \
                 restarted"
                    .into(),
            );
        }
        let taken: Vec<Route> = diagnostics.iter().flat_map(DiagnosticsAction::routes).collect();
        Actions {
            reboot,
            factory_reset,
            firmware,
            diagnostics,
            scripts: self.scripts(actions.script, actions.scripts_dir.as_ref(), &taken),
        }
    }

    /// A command with its program's path made whole. A name without a slash is left to `PATH`, as everywhere.
    pub(in crate::program::config) fn command(&mut self, key: &str, command: Command) -> CommandLine {
        let FilePath(written) = &command.program;
        let is_path = written.as_os_str().as_encoded_bytes().contains(&b'/');
        let program = if is_path { self.path(&command.program) } else { written.clone() };
        if let Err(reason) = find(&program, (self.surroundings.variable)("PATH")) {
            // The agent is of use without it, and it may be on a disk that is mounted later.
            self.warnings.push(format!("{key}: the program {} {reason}", program.display()));
        }
        CommandLine { program, args: command.args }
    }
}
