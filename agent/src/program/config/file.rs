//! The file's sections as they are written. Defaults and what joins two keys are [`resolve`](super::resolve)'s.

use std::collections::BTreeMap;

use iotdm_core::Interrupted;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Verify;
use super::values::{
    Budget, Command, CustomId, FilePath, Host, ImageBytes, KeepAlive, Kept, KeptBytes, LateChoice, Lifetime,
    ManagedWithin, NameText, Outbox, OutputLimit, Pending, Port, Running, ShutdownGrace, Span, TimeLimit,
    VariableName, Whole,
};
use crate::program::logging::{Level, LogFormat};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) device: Device,
    #[serde(default)]
    pub(super) broker: Broker,
    #[serde(default)]
    pub(super) auth: Auth,
    #[serde(default)]
    pub(super) management: Management,
    #[serde(default)]
    pub(super) journal: Journal,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) actions: Actions,
    #[serde(default)]
    pub(super) log: Log,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [device]")]
pub(super) struct Device {
    pub(super) org: NameText,
    pub(super) r#type: NameText,
    pub(super) id: NameText,
    #[serde(default)]
    pub(super) info: DeviceInfo,
    pub(super) metadata: Option<toml::Table>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [device.info]")]
pub(super) struct DeviceInfo {
    pub(super) serial_number: Option<String>,
    pub(super) manufacturer: Option<String>,
    pub(super) model: Option<String>,
    pub(super) device_class: Option<String>,
    pub(super) description: Option<String>,
    pub(super) fw_version: Option<String>,
    pub(super) hw_version: Option<String>,
    pub(super) descriptive_location: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [broker]")]
pub(super) struct Broker {
    pub(super) host: Option<Host>,
    pub(super) port: Option<Whole<Port>>,
    pub(super) tls: Option<bool>,
    pub(super) ca_file: Option<FilePath>,
    pub(super) client_certificate: Option<FilePath>,
    pub(super) client_key: Option<FilePath>,
    pub(super) keep_alive: Option<Span<KeepAlive>>,
    pub(super) durable_session: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [auth]")]
pub(super) struct Auth {
    pub(super) token_file: Option<FilePath>,
    pub(super) token_env: Option<VariableName>,
    /// Known only to be refused with a reason; its value is never looked at.
    pub(super) token: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [management]")]
pub(super) struct Management {
    pub(super) lifetime: Option<Span<Lifetime>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [journal]")]
pub(super) struct Journal {
    pub(super) path: Option<FilePath>,
    pub(super) kept_executed: Option<Whole<Kept>>,
    pub(super) kept_refused: Option<Whole<Kept>>,
    pub(super) kept_bytes: Option<Whole<KeptBytes>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [limits]")]
pub(super) struct Limits {
    pub(super) running: Option<Whole<Running>>,
    pub(super) pending: Option<Whole<Pending>>,
    pub(super) outbox: Option<Whole<Outbox>>,
    pub(super) shutdown_grace: Option<Span<ShutdownGrace>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [actions]")]
pub(super) struct Actions {
    pub(super) reboot: Option<Restart>,
    pub(super) factory_reset: Option<Restart>,
    pub(super) firmware: Option<Firmware>,
    pub(super) diagnostics: Option<Diagnostics>,
    pub(super) script: Vec<Script>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of its own")]
pub(super) struct Restart {
    pub(super) command: Option<Command>,
    pub(super) dry_run: bool,
    pub(super) budget: Option<Span<Budget>>,
    pub(super) late: LateChoice,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [actions.firmware]")]
pub(super) struct Firmware {
    pub(super) staging_dir: FilePath,
    #[serde(default)]
    pub(super) installer: InstallerName,
    pub(super) install_command: Option<Command>,
    pub(super) running_command: Option<Command>,
    pub(super) commit_command: Option<Command>,
    pub(super) rollback_command: Option<Command>,
    pub(super) restart_after_install: Option<bool>,
    pub(super) health_check: Option<Command>,
    pub(super) managed_within: Option<Span<ManagedWithin>>,
    pub(super) rauc: Option<Rauc>,
    pub(super) swupdate: Option<Swupdate>,
    pub(super) mender_module: Option<MenderModule>,
    pub(super) file: Option<FirmwareFile>,
    #[serde(default)]
    pub(super) verify: Verify,
    pub(super) max_image_bytes: Option<Whole<ImageBytes>>,
    #[serde(default)]
    pub(super) allow_file_uri: bool,
    pub(super) ca_file: Option<FilePath>,
    pub(super) download_budget: Option<Span<Budget>>,
    pub(super) install_budget: Option<Span<Budget>>,
    #[serde(default)]
    pub(super) late: LateChoice,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum InstallerName {
    #[default]
    Command,
    Rauc,
    Swupdate,
    MenderModule,
    File,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [actions.firmware.rauc]")]
pub(super) struct Rauc {
    pub(super) program: Option<FilePath>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [actions.firmware.swupdate]")]
pub(super) struct Swupdate {
    pub(super) program: Option<FilePath>,
    pub(super) client: bool,
    pub(super) key_file: Option<FilePath>,
    pub(super) select: BTreeMap<String, String>,
    pub(super) args: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [actions.firmware.mender_module]")]
pub(super) struct MenderModule {
    pub(super) module: FilePath,
    pub(super) payload_name: Option<String>,
    #[serde(default)]
    pub(super) files: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) device_type: String,
    #[serde(default)]
    pub(super) meta_data: toml::Table,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [actions.firmware.file]")]
pub(super) struct FirmwareFile {
    pub(super) target: FilePath,
    pub(super) activate_command: Option<Command>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [actions.diagnostics]")]
pub(super) struct Diagnostics {
    pub(super) late: LateChoice,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [[actions.script]]")]
pub(super) struct Script {
    pub(super) bundle: CustomId,
    pub(super) action: CustomId,
    pub(super) program: FilePath,
    #[serde(default)]
    pub(super) args: Vec<String>,
    pub(super) directory: Option<FilePath>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    pub(super) time_limit: Option<Span<TimeLimit>>,
    pub(super) output_limit: Option<Whole<OutputLimit>>,
    #[serde(default)]
    pub(super) interrupted: InterruptedChoice,
    #[serde(default)]
    pub(super) late: LateChoice,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum InterruptedChoice {
    #[default]
    Refuse,
    RunAgain,
}

impl From<InterruptedChoice> for Interrupted {
    fn from(choice: InterruptedChoice) -> Self {
        match choice {
            InterruptedChoice::Refuse => Self::Refuse,
            InterruptedChoice::RunAgain => Self::RunAgain,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [log]")]
pub(super) struct Log {
    pub(super) format: LogFormat,
    pub(super) level: Level,
}
