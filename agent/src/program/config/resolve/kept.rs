//! What a factory reset must leave: the identity, what the agent remembers, and what it starts from and works with.

use std::path::{Path, PathBuf};

use super::super::file::{self, File};
use super::super::values::{Command, FilePath};
use super::Resolver;

/// What is kept, and where it is.
pub(super) type Kept = Vec<(&'static str, PathBuf)>;

impl Resolver<'_> {
    /// All of it but what the reset itself runs.
    pub(super) fn kept(&self, file: &File, journal: &Path) -> Kept {
        let own = [
            ("the journal", self.folder.join(journal)),
            ("the configuration", self.document.absolute_path()),
        ];
        let program = std::env::current_exe().ok().map(|path| ("the agent", path));
        let upload = file.actions.diagnostics.as_ref().and_then(|section| section.upload.as_ref());
        let named = [
            ("auth.token_file", file.auth.token_file.as_ref()),
            ("broker.client_key", file.broker.client_key.as_ref()),
            ("broker.client_certificate", file.broker.client_certificate.as_ref()),
            ("broker.ca_file", file.broker.ca_file.as_ref()),
            ("actions.scripts_dir", file.actions.scripts_dir.as_ref()),
            ("actions.diagnostics.upload.ca_file", upload.and_then(|upload| upload.ca_file.as_ref())),
        ];
        let scripts = file.actions.script.iter().map(|script| ("the program of a script", &script.program));
        let firmware = file.actions.firmware.iter().flat_map(firmware);
        let named = named.into_iter().filter_map(|(what, path)| Some((what, path?)));
        let named = named.chain(scripts).chain(firmware);
        let named = named.map(|(what, path)| (what, self.path(path)));
        own.into_iter().chain(program).chain(named).collect()
    }
}

/// What images are proved with, where they are staged, and what installs them.
fn firmware(section: &file::Firmware) -> impl Iterator<Item = (&'static str, &FilePath)> {
    let commands = [
        ("actions.firmware.install_command", &section.install_command),
        ("actions.firmware.running_command", &section.running_command),
        ("actions.firmware.commit_command", &section.commit_command),
        ("actions.firmware.rollback_command", &section.rollback_command),
        ("actions.firmware.health_check", &section.health_check),
    ];
    let swupdate = section.swupdate.as_ref();
    let file = section.file.as_ref();
    let activate = file.and_then(|file| file.activate_command.as_ref()).map(program);
    let paths = [
        ("actions.firmware.staging_dir", Some(&section.staging_dir)),
        ("actions.firmware.ca_file", section.ca_file.as_ref()),
        ("actions.firmware.client_certificate", section.client_certificate.as_ref()),
        ("actions.firmware.client_key", section.client_key.as_ref()),
        ("actions.firmware.proxy_credentials_file", section.proxy_credentials_file.as_ref()),
        ("actions.firmware.rauc.program", section.rauc.as_ref().and_then(|rauc| rauc.program.as_ref())),
        ("actions.firmware.swupdate.program", swupdate.and_then(|swupdate| swupdate.program.as_ref())),
        ("actions.firmware.swupdate.key_file", swupdate.and_then(|swupdate| swupdate.key_file.as_ref())),
        (
            "actions.firmware.mender_module.module",
            section.mender_module.as_ref().map(|module| &module.module),
        ),
        ("actions.firmware.file.target", file.map(|file| &file.target)),
        ("actions.firmware.file.activate_command", activate),
    ];
    let commands = commands.into_iter().map(|(key, command)| (key, command.as_ref().map(program)));
    paths.into_iter().chain(commands).filter_map(|(key, path)| Some((key, path?)))
}

/// One that is a name alone is looked for along `PATH`; keeping its namesake beside the configuration harms nobody.
fn program(command: &Command) -> &FilePath {
    &command.program
}
