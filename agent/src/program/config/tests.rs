use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use iotdm_core::Late;
use tempfile::TempDir;

use super::{FirmwareInstaller, Settings, Surroundings};

mod attached;
mod attributes;
mod commands;
mod diagnostics;
mod endpoints;
mod events;
mod firmware;
mod mistakes;
mod mqtt;
mod restarts;
mod sample;
mod scripts;
mod secrets;

/// A folder with one configuration, and an environment.
struct Place {
    folder: TempDir,
    variables: Vec<(&'static str, OsString)>,
}

impl Place {
    fn with(text: &str) -> Self {
        let place = Self { folder: TempDir::new().unwrap(), variables: Vec::new() };
        place.write("agent.toml", text, 0o644);
        place
    }

    fn variable(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The settings, or the errors without the folder's name, which differs from run to run.
    fn load(&self) -> Result<Settings, String> {
        let variable = |name: &str| {
            self.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        };
        Settings::load(&self.path("agent.toml"), &Surroundings { variable: &variable })
            .map_err(|error| error.to_string().replace(&format!("{}/", self.folder.path().display()), ""))
    }
}

/// A configuration with an identity, and `rest` from line 5 on.
fn with_device(rest: &str) -> String {
    format!("[device]\norg = \"abc123\"\ntype = \"lamp\"\nid = \"lamp-17\"\n{rest}")
}

fn load(rest: &str) -> Settings {
    Place::with(&with_device(rest)).load().unwrap()
}

#[test]
fn an_identity_is_enough_and_the_rest_has_defaults() {
    let settings = load("");
    let config = &settings.config;
    assert_eq!(config.identity.client_id(), "d:abc123:lamp:lamp-17");
    assert_eq!(config.broker.host, "abc123.messaging.internetofthings.ibmcloud.com");
    assert_eq!(config.broker.port, 8883);
    assert!(config.broker.tls.as_ref().is_some_and(|tls| tls.ca_pem.is_none() && tls.client_pem.is_none()));
    assert_eq!(
        (config.broker.keep_alive, config.lifetime),
        (Duration::from_secs(60), Duration::from_secs(3600))
    );
    assert!(config.broker.durable_session);
    assert_eq!(config.limits, iotdm_agent::Limits::default());
    assert_eq!(settings.journal, Path::new("/var/lib/iotdm-agent/journal"));
}

#[test]
fn nothing_is_enabled_by_default() {
    let actions = load("").actions;
    assert!(actions.reboot.is_none() && actions.factory_reset.is_none() && actions.firmware.is_none());
    assert!(actions.diagnostics.is_none() && actions.scripts.is_empty());
}

#[test]
fn the_port_follows_tls_unless_it_is_given() {
    assert_eq!(load("[broker]\ntls = false").config.broker.port, 1883);
    assert_eq!(load("[broker]\nport = 443").config.broker.port, 443);
    assert!(load("[broker]\ntls = false").config.broker.tls.is_none());
}

#[test]
fn late_is_run_or_an_age() {
    for (text, late) in [
        ("", Late::Run),
        ("late = \"run\"", Late::Run),
        ("late = { refuse_after = \"15m\" }", Late::RefuseAfter(Duration::from_secs(900))),
        ("late.refuse_after = \"1h 30m\"", Late::RefuseAfter(Duration::from_secs(5400))),
        ("[actions.reboot.late]\nrefuse_after = \"90s\"", Late::RefuseAfter(Duration::from_secs(90))),
    ] {
        let settings = load(&format!("[actions.reboot]\ndry_run = true\n{text}"));
        assert_eq!(settings.actions.reboot.unwrap().late, late, "{text}");
    }
}

#[test]
fn a_lifetime_of_zero_is_for_ever() {
    for zero in ["0", "\"0\"", "\"0s\""] {
        assert_eq!(
            load(&format!("[management]\nlifetime = {zero}")).config.lifetime,
            Duration::ZERO,
            "{zero}"
        );
    }
}

#[test]
fn every_installer_can_be_named() {
    let reboot = "[actions.reboot]\ncommand = [\"/bin/true\"]\n[actions.firmware]\nstaging_dir = \"x\"\n";
    for (name, more) in [
        ("command", "install_command = [\"/bin/sh\", \"{image}\"]\nrollback_command = [\"/bin/sh\"]\n"),
        ("rauc", "health_check = [\"/bin/sh\"]\nmanaged_within = \"5m\"\n"),
        ("swupdate", "[actions.firmware.swupdate]\nselect = { \"1\" = \"stable,copy2\" }\n"),
        (
            "mender-module",
            "[actions.firmware.mender_module]\nmodule = \"/m\"\nfiles = { dest_dir = \"/usr/bin\" }\n",
        ),
        ("file", "[actions.firmware.file]\ntarget = \"/usr/bin/lamp\"\n"),
    ] {
        let firmware = load(&format!("{reboot}installer = \"{name}\"\n{more}")).actions.firmware.unwrap();
        let debug = format!("{:?}", firmware.installer).to_lowercase();
        assert!(debug.starts_with(&name.replace('-', "")), "{debug}");
        assert_eq!(firmware.restart_after_install, !matches!(name, "command" | "file"), "{name}");
    }
}

#[test]
fn relative_paths_start_at_the_file_s_folder() {
    let place = Place::with(&with_device(
        "[journal]\npath = \"state/journal\"\n\
         [actions.firmware]\nstaging_dir = \"images\"\ninstall_command = [\"./install\", \"now\"]\n\
         [[actions.script]]\nbundle = \"b\"\naction = \"a\"\nprogram = \"bin/dim\"\ndirectory = \"work\"\n\
         [[actions.script]]\nbundle = \"b\"\naction = \"a2\"\nprogram = \"sh\"\n",
    ));
    let settings = place.load().unwrap();
    assert_eq!(settings.journal, place.path("state/journal"));
    let firmware = settings.actions.firmware.unwrap();
    assert_eq!(firmware.staging_dir, place.path("images"));
    let FirmwareInstaller::Command { install, .. } = firmware.installer else { panic!("a command") };
    assert_eq!(install.program, place.path("./install"));
    assert_eq!(install.args, ["now"], "arguments stay as they are");
    assert_eq!(settings.actions.scripts[0].program, place.path("bin/dim"));
    assert_eq!(settings.actions.scripts[0].directory, Some(place.path("work")));
    assert_eq!(settings.actions.scripts[1].program, Path::new("sh"), "a name alone is searched in PATH");
}

#[test]
fn a_journal_without_a_folder_around_it_is_a_warning_that_names_the_folder() {
    let place = Place::with(&with_device("[journal]\npath = \"state/journal\"\n"));
    let warnings = place.load().unwrap().warnings.join("\n");
    let missing = format!("journal.path: the folder {} is not there", place.path("state").display());
    assert!(warnings.contains(&missing), "{warnings}");
    std::fs::create_dir(place.path("state")).unwrap();
    let warnings = place.load().unwrap().warnings.join("\n");
    assert!(!warnings.contains("journal.path"), "{warnings}");
}

#[test]
fn a_program_that_is_not_there_is_a_warning_because_the_agent_is_of_use_without_it() {
    let place = Place::with(&with_device(
        "[[actions.script]]\nbundle = \"b\"\naction = \"a\"\nprogram = \"./there\"\n\
         [[actions.script]]\nbundle = \"b\"\naction = \"a2\"\nprogram = \"./gone\"\n\
         [[actions.script]]\nbundle = \"b\"\naction = \"a3\"\nprogram = \"there\"\n",
    ));
    let folder = place.folder.path().as_os_str().to_owned();
    let place = place.variable("PATH", folder);
    place.write("there", "", 0o755);
    let warnings = place.load().unwrap().warnings.join("\n");
    assert!(warnings.contains("actions.script[1].program: the program"), "{warnings}");
    assert!(!warnings.contains("actions.script[0]") && !warnings.contains("actions.script[2]"), "{warnings}");
}

#[test]
fn metadata_becomes_json_and_times_become_texts() {
    let settings = load("[device.metadata]\na.b = [1, 2.5, true, \"x\"]\nwhen = 1979-05-27T07:32:00Z\n");
    assert_eq!(
        settings.config.metadata,
        Some(serde_json::json!({"a": {"b": [1, 2.5, true, "x"]}, "when": "1979-05-27T07:32:00Z"}))
    );
}

#[test]
fn a_token_in_clear_is_warned_of_but_not_on_the_same_machine() {
    for (host, warned) in
        [("example.com", true), ("localhost", false), ("127.0.0.1", false), ("::1", false), ("[::1]", false)]
    {
        let text = format!("[broker]\nhost = \"{host}\"\ntls = false\n[auth]\ntoken_env = \"T\"\n");
        let warnings = Place::with(&with_device(&text)).variable("T", "t0k3n").load().unwrap().warnings;
        assert_eq!(
            warnings.iter().any(|warning| warning.starts_with("broker.tls is false")),
            warned,
            "{host}"
        );
    }
}
