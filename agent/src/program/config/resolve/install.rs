//! What installs an image, and how it is judged.

use std::time::Duration;

use super::super::file::{self, InstallerName};
use super::super::values::{Command, FilePath};
use super::super::{CommandLine, FirmwareInstaller, InstallSteps};
use super::Resolver;

/// The part of a firmware section that speaks of installing.
pub(super) struct Install {
    pub(super) installer: Option<FirmwareInstaller>,
    pub(super) restart: bool,
    pub(super) health_check: Option<CommandLine>,
    pub(super) managed_within: Option<Duration>,
}

impl Resolver<'_> {
    pub(super) fn install(&mut self, section: &mut file::Firmware, can_restart: bool) -> Install {
        self.refuse_useless(section);
        let name = section.installer;
        let always = matches!(name, InstallerName::Rauc | InstallerName::MenderModule);
        let restart = always || section.restart_after_install.unwrap_or(name == InstallerName::Swupdate);
        if restart && !can_restart {
            let key =
                if section.restart_after_install.is_some() { "restart_after_install" } else { "installer" };
            self.problem(
                &format!("actions.firmware.{key}"),
                "needs a command to restart with; add an [actions.reboot] section",
            );
        }
        let health_check = self.firmware_command("health_check", section.health_check.take());
        let managed_within = section.managed_within.take().map(|within| within.get());
        let steps = InstallSteps {
            running: self.firmware_command("running_command", section.running_command.take()),
            commit: self.firmware_command("commit_command", section.commit_command.take()),
            rollback: self.firmware_command("rollback_command", section.rollback_command.take()),
        };
        let installer = match name {
            InstallerName::Command => self.install_command(section.install_command.take(), steps),
            InstallerName::Rauc => {
                let program =
                    self.firmware_program("rauc", section.rauc.take().and_then(|rauc| rauc.program));
                Some(FirmwareInstaller::Rauc { program })
            }
            InstallerName::Swupdate => {
                Some(self.swupdate(section.swupdate.take().unwrap_or_default(), steps))
            }
            InstallerName::MenderModule => self.mender_module(section.mender_module.take()),
            InstallerName::File => self.firmware_file(section.file.take()),
        };
        Install { installer, restart, health_check, managed_within }
    }

    fn install_command(
        &mut self,
        command: Option<Command>,
        steps: InstallSteps,
    ) -> Option<FirmwareInstaller> {
        let Some(install) = self.firmware_command("install_command", command) else {
            self.problem(
                "actions.firmware.install_command",
                "is missing; add the program that installs an image and its arguments, such as install_command = \
                 [\"/usr/lib/iotdm-agent/install\", \"{image}\"]",
            );
            return None;
        };
        if !install.args.iter().any(|argument| argument == "{image}") {
            self.warnings.push(
                "actions.firmware.install_command: no argument is \"{image}\": the program is not told where the image is"
                    .into(),
            );
        }
        Some(FirmwareInstaller::Command { install, steps })
    }

    fn swupdate(&mut self, section: file::Swupdate, steps: InstallSteps) -> FirmwareInstaller {
        FirmwareInstaller::Swupdate {
            program: self.firmware_program("swupdate", section.program),
            client: section.client,
            key: section.key_file.map(|key| self.path(&key)),
            select: section.select,
            args: section.args,
            steps,
        }
    }

    fn mender_module(&mut self, section: Option<file::MenderModule>) -> Option<FirmwareInstaller> {
        let Some(section) = section else {
            self.problem(
                "actions.firmware.mender_module",
                "is missing; add a section [actions.firmware.mender_module] with module = \
                 \"/usr/share/mender/modules/v3/single-file\", or another update module",
            );
            return None;
        };
        let key = "actions.firmware.mender_module.meta_data";
        let meta_data = self.json(key, toml::Value::Table(section.meta_data))?;
        Some(FirmwareInstaller::MenderModule {
            module: self.path(&section.module),
            payload_name: section.payload_name.unwrap_or_else(|| "image".into()),
            files: section.files,
            device_type: section.device_type,
            meta_data,
        })
    }

    fn firmware_file(&mut self, section: Option<file::FirmwareFile>) -> Option<FirmwareInstaller> {
        let Some(section) = section else {
            self.problem(
                "actions.firmware.file",
                "is missing; add a section [actions.firmware.file] with target = the path of the file that is the firmware",
            );
            return None;
        };
        let activate = self.firmware_command("file.activate_command", section.activate_command);
        let target = self.path(&section.target);
        if target.is_dir() {
            let message =
                format!("{} is a folder; write the path of the file that is the firmware", target.display());
            self.problem("actions.firmware.file.target", message);
        }
        if let Some(around) = target.parent().filter(|around| !around.is_dir()) {
            self.warnings.push(format!(
                "actions.firmware.file.target: the folder {} is not there; nothing can be installed in it",
                around.display()
            ));
        }
        Some(FirmwareInstaller::File { target, activate })
    }

    fn firmware_program(&mut self, name: &str, program: Option<FilePath>) -> std::path::PathBuf {
        let program = program.unwrap_or_else(|| FilePath(format!("/usr/bin/{name}").into()));
        self.command(&format!("actions.firmware.{name}.program"), Command { program, args: Vec::new() })
            .program
    }

    /// A command that has a part in installing.
    fn firmware_command(&mut self, name: &str, command: Option<Command>) -> Option<CommandLine> {
        let key = format!("actions.firmware.{name}");
        let command = self.command(&key, command?);
        if !command.program.is_absolute() {
            let message = format!(
                "{:?} is a name alone; write the program's path: no search decides what installs firmware",
                command.program
            );
            self.problem(&key, message);
        }
        Some(command)
    }

    /// What another installer would look at is a mistake: it would be taken for being in force.
    fn refuse_useless(&mut self, section: &file::Firmware) {
        let name = section.installer;
        let of = |names: &[InstallerName]| names.contains(&name);
        let by_command = of(&[InstallerName::Command, InstallerName::Swupdate]);
        let useless = [
            ("install_command", section.install_command.is_some() && !of(&[InstallerName::Command])),
            ("running_command", section.running_command.is_some() && !by_command),
            ("commit_command", section.commit_command.is_some() && !by_command),
            ("rollback_command", section.rollback_command.is_some() && !by_command),
            ("rauc", section.rauc.is_some() && !of(&[InstallerName::Rauc])),
            ("swupdate", section.swupdate.is_some() && !of(&[InstallerName::Swupdate])),
            ("mender_module", section.mender_module.is_some() && !of(&[InstallerName::MenderModule])),
            ("file", section.file.is_some() && !of(&[InstallerName::File])),
        ];
        for (key, _) in useless.into_iter().filter(|(_, useless)| *useless) {
            let message = format!("is of no use with {}; remove it, or name its installer", spoken(name));
            self.problem(&format!("actions.firmware.{key}"), message);
        }
    }
}

fn spoken(name: InstallerName) -> &'static str {
    match name {
        InstallerName::Command => "installer = \"command\", the default",
        InstallerName::Rauc => "installer = \"rauc\"",
        InstallerName::Swupdate => "installer = \"swupdate\"",
        InstallerName::MenderModule => "installer = \"mender-module\"",
        InstallerName::File => "installer = \"file\"",
    }
}
