use std::path::PathBuf;

use iotdm_core::Route;

use super::super::file;
use super::super::values::{Command, FilePath};
use super::super::{Actions, CommandLine, DiagnosticsAction};
use super::{Resolver, can_be_found};

impl Resolver<'_> {
    pub(super) fn actions(&mut self, actions: file::Actions, kept: Vec<(&str, PathBuf)>) -> Actions {
        let reboot = actions.reboot.and_then(|section| self.reboot(section));
        let factory_reset =
            actions.factory_reset.and_then(|section| self.factory_reset(section, reboot.as_ref(), kept));
        let can_restart = reboot.is_some();
        let diagnostics = actions.diagnostics.map(|section| self.diagnostics(section));
        let taken: Vec<Route> = diagnostics.iter().flat_map(DiagnosticsAction::routes).collect();
        Actions {
            reboot,
            factory_reset,
            firmware: actions.firmware.and_then(|section| self.firmware(section, can_restart)),
            diagnostics,
            scripts: self.scripts(actions.script, actions.scripts_dir.as_ref(), &taken),
        }
    }

    /// A command with its program's path made whole. A name without a slash is left to `PATH`, as everywhere.
    pub(in crate::program::config) fn command(&mut self, key: &str, command: Command) -> CommandLine {
        let FilePath(written) = &command.program;
        let is_path = written.as_os_str().as_encoded_bytes().contains(&b'/');
        let program = if is_path { self.path(&command.program) } else { written.clone() };
        if !can_be_found(&program, (self.surroundings.variable)("PATH")) {
            // The agent is of use without it, and it may be on a disk that is mounted later.
            self.warnings.push(format!("{key}: the program {} is not there", program.display()));
        }
        CommandLine { program, args: command.args }
    }
}
