//! From settings to an installer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use iotdm_handlers::firmware::{
    CommandInstaller, FileInstaller, InstallOptions, Installer, MenderModuleInstaller, RaucInstaller,
    SwupdateInstaller,
};

use super::super::config::{CommandLine, FirmwareAction, FirmwareInstaller};
use super::{AssemblyError, words};

pub(super) fn options(action: &FirmwareAction) -> Result<InstallOptions, AssemblyError> {
    Ok(InstallOptions {
        installer: installer(action)?,
        health_check: optional(action.health_check.as_ref())?,
        managed_within: action.managed_within,
        time_limit: action.install_budget,
        dry_run: false,
    })
}

fn installer(action: &FirmwareAction) -> Result<Arc<dyn Installer>, AssemblyError> {
    let restart = action.restart_after_install;
    Ok(match &action.installer {
        FirmwareInstaller::Command { install, steps } => Arc::new(CommandInstaller {
            running: optional(steps.running.as_ref())?,
            commit: optional(steps.commit.as_ref())?,
            rollback: optional(steps.rollback.as_ref())?,
            restart,
            ..CommandInstaller::new(words(install)?)
        }),
        FirmwareInstaller::Rauc { program } => Arc::new(RaucInstaller { program: text(program)? }),
        FirmwareInstaller::Swupdate { program, client, key, select, args, steps } => {
            Arc::new(SwupdateInstaller {
                program: text(program)?,
                client: *client,
                key: key.as_deref().map(text).transpose()?,
                select: select.clone(),
                args: args.clone(),
                running: optional(steps.running.as_ref())?,
                commit: optional(steps.commit.as_ref())?,
                rollback: optional(steps.rollback.as_ref())?,
                restart,
            })
        }
        FirmwareInstaller::MenderModule { module, payload_name, files, device_type, meta_data } => {
            Arc::new(MenderModuleInstaller {
                module: text(module)?,
                payload_name: payload_name.clone(),
                files: files.clone(),
                meta_data: meta_data.clone(),
                device_type: device_type.clone(),
            })
        }
        FirmwareInstaller::File { target, activate } => Arc::new(FileInstaller {
            activate: optional(activate.as_ref())?,
            restart,
            ..FileInstaller::new(target)
        }),
    })
}

fn optional(command: Option<&CommandLine>) -> Result<Option<Vec<String>>, AssemblyError> {
    command.map(words).transpose()
}

/// A path that becomes an argument.
fn text(path: &Path) -> Result<PathBuf, AssemblyError> {
    if path.to_str().is_none() {
        return Err(AssemblyError::NotText(path.to_owned()));
    }
    Ok(path.to_owned())
}
