use std::time::Duration;

use iotdm_core::{Action, Download, FactoryReset, Reboot, Route, Update};
use iotdm_handlers::diagnostics::{ClearErrorCodes, ClearLog};

use super::super::file;
use super::super::values::{Command, FilePath};
use super::super::{Actions, CommandLine, DiagnosticsAction, FirmwareAction, RestartAction, ScriptAction};
use super::{Resolver, can_be_found};

impl Resolver<'_> {
    pub(super) fn actions(&mut self, actions: file::Actions) -> Actions {
        let reboot = actions
            .reboot
            .and_then(|section| self.restart("actions.reboot", section, <Reboot as Action>::PERFORM_BUDGET));
        let factory_reset = actions.factory_reset.and_then(|section| {
            self.restart("actions.factory_reset", section, <FactoryReset as Action>::PERFORM_BUDGET)
        });
        let can_restart = reboot.is_some();
        let diagnostics = actions.diagnostics.map(|section| DiagnosticsAction { late: section.late.0 });
        let taken = diagnostics.iter().flat_map(|_| [ClearErrorCodes::ROUTE, ClearLog::ROUTE]).collect();
        Actions {
            reboot,
            factory_reset,
            firmware: actions.firmware.and_then(|section| self.firmware(section, can_restart)),
            diagnostics,
            scripts: self.scripts(actions.script, taken),
        }
    }

    fn restart(
        &mut self,
        key: &str,
        section: file::Restart,
        default_budget: Duration,
    ) -> Option<RestartAction> {
        let command = section.command.map(|command| self.command(&format!("{key}.command"), command));
        if command.is_none() && !section.dry_run {
            self.problem(
                &format!("{key}.command"),
                "is missing; write a list of the program and its arguments, such as [\"systemctl\", \"reboot\"], \
                 or dry_run = true to try without one",
            );
            return None;
        }
        Some(RestartAction {
            command,
            dry_run: section.dry_run,
            budget: section.budget.map_or(default_budget, |budget| budget.get()),
            late: section.late.0,
        })
    }

    fn firmware(&mut self, section: file::Firmware, can_restart: bool) -> Option<FirmwareAction> {
        let staging_dir = self.path(&section.staging_dir);
        let ca_pem = self.authorities("actions.firmware.ca_file", section.ca_file.as_ref());
        let (verify, late) = (section.verify, section.late.0);
        let max_image_bytes =
            section.max_image_bytes.as_ref().map_or(DEFAULT_IMAGE_BYTES, |bytes| bytes.get());
        let download_budget =
            section.download_budget.as_ref().map_or(Download::PERFORM_BUDGET, |budget| budget.get());
        let install_budget =
            section.install_budget.as_ref().map_or(Update::PERFORM_BUDGET, |budget| budget.get());
        let allow_file_uri = section.allow_file_uri;
        let install = self.install(section, can_restart);
        Some(FirmwareAction {
            staging_dir,
            installer: install.installer?,
            restart_after_install: install.restart,
            health_check: install.health_check,
            managed_within: install.managed_within,
            verify,
            max_image_bytes,
            allow_file_uri,
            ca_pem,
            download_budget,
            install_budget,
            late,
        })
    }

    fn scripts(&mut self, sections: Vec<file::Script>, taken: Vec<Route>) -> Vec<ScriptAction> {
        let mut scripts: Vec<ScriptAction> = Vec::new();
        for (index, section) in sections.into_iter().enumerate() {
            let key = format!("actions.script[{index}]");
            let script = self.script(&key, section);
            let is_same =
                |other: &ScriptAction| (&other.bundle, &other.action) == (&script.bundle, &script.action);
            if scripts.iter().any(is_same) {
                let (bundle, action) = (&script.bundle, &script.action);
                self.problem(
                    &format!("{key}.action"),
                    format!("{bundle}/{action} has a script already; keep one of the two"),
                );
            }
            let is_route = |route: &Route| {
                matches!(route, Route::Custom { bundle, action }
                    if *bundle == script.bundle && *action == script.action)
            };
            if taken.iter().any(is_route) {
                let (bundle, action) = (&script.bundle, &script.action);
                self.problem(
                    &format!("{key}.action"),
                    format!("{bundle}/{action} is served by [actions.diagnostics]; keep one of the two"),
                );
            }
            scripts.push(script);
        }
        scripts
    }

    fn script(&mut self, key: &str, section: file::Script) -> ScriptAction {
        let command = Command { program: section.program, args: section.args };
        for name in section.env.keys().filter(|name| name.is_empty() || name.contains(['=', '\0'])) {
            self.problem(&format!("{key}.env"), format!("{name:?} is no name of an environment variable"));
        }
        ScriptAction {
            bundle: section.bundle.0,
            action: section.action.0,
            command: self.command(&format!("{key}.program"), command),
            directory: section.directory.map(|path| self.path(&path)),
            env: section.env,
            time_limit: section.time_limit.map_or(DEFAULT_TIME_LIMIT, |limit| limit.get()),
            output_limit: section.output_limit.map_or(DEFAULT_OUTPUT_BYTES, |limit| limit.get_usize()),
            interrupted: section.interrupted.into(),
            late: section.late.0,
        }
    }

    /// A command with its program's path made whole. A name without a slash is left to `PATH`, as everywhere.
    pub(super) fn command(&mut self, key: &str, command: Command) -> CommandLine {
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

const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(30);

/// 64 KiB: an answer with both outputs fits into a message (`docs/protocol.md` §1.5).
const DEFAULT_OUTPUT_BYTES: usize = 64 * 1024;
