use std::path::PathBuf;

use iotdm_core::{Action, Download, Route, Update};

use super::super::file;
use super::super::values::{Command, FilePath};
use super::super::{Actions, CommandLine, DiagnosticsAction, FirmwareAction};
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
            firmware: actions.firmware.map(|section| self.firmware(section, can_restart)),
            diagnostics,
            scripts: self.scripts(actions.script, actions.scripts_dir.as_ref(), &taken),
        }
    }

    fn firmware(&mut self, section: file::Firmware, can_restart: bool) -> FirmwareAction {
        if section.restart_after_install && !can_restart {
            self.problem(
                "actions.firmware.restart_after_install",
                "needs a command to restart with; add an [actions.reboot] section",
            );
        }
        let install_command = self.command("actions.firmware.install_command", section.install_command);
        if !install_command.program.is_absolute() {
            self.problem(
                "actions.firmware.install_command",
                format!(
                    "{:?} is a name alone; write the program's path: no search decides what installs firmware",
                    install_command.program
                ),
            );
        }
        if !install_command.args.iter().any(|argument| argument == "{image}") {
            self.warnings.push(
                "actions.firmware.install_command: no argument is \"{image}\": the program is not told where the image is"
                    .into(),
            );
        }
        FirmwareAction {
            staging_dir: self.path(&section.staging_dir),
            install_command,
            restart_after_install: section.restart_after_install,
            verify: section.verify,
            max_image_bytes: section.max_image_bytes.map_or(DEFAULT_IMAGE_BYTES, |bytes| bytes.get()),
            allow_file_uri: section.allow_file_uri,
            ca_pem: self.authorities("actions.firmware.ca_file", section.ca_file.as_ref()),
            download_budget: section.download_budget.map_or(Download::PERFORM_BUDGET, |budget| budget.get()),
            install_budget: section.install_budget.map_or(Update::PERFORM_BUDGET, |budget| budget.get()),
            late: section.late.0,
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

/// 512 MiB: more than most images, less than most disks.
const DEFAULT_IMAGE_BYTES: u64 = 512 * 1024 * 1024;
