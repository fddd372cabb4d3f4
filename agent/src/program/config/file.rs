//! The file's sections as they are written. Defaults and what joins two keys are [`resolve`](super::resolve)'s.

use std::collections::BTreeMap;

use iotdm_agent::DropPolicy;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Verify;
use super::attached::{AttachedSection, GatewaySection};
use super::attributes::{Attribute, Place};
use super::broker::Broker;
use super::commands::CommandSection;
use super::declaration::Script;
use super::restarts::{FactoryResetSection, RebootSection};
use super::values::events::{EventCount, EventInterval, EventStoreBytes};
use super::values::{
    Attempts, Budget, Command, CredentialsVariable, FactsInterval, FilePath, ImageBytes, Kept, KeptBytes,
    LateChoice, Lifetime, ManagedWithin, NameText, Outbox, Pending, Percent, ProxyText, PublicKeyText, Rate,
    Running, ShutdownGrace, Span, StallLimit, UploadBytes, UploadLimit, UserName, VariableName, Whole,
};
use crate::program::logging::{Level, LogFormat};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) device: Device,
    pub(super) gateway: Option<GatewaySection>,
    #[serde(default)]
    pub(super) attached: Vec<AttachedSection>,
    #[serde(default)]
    pub(super) attributes: BTreeMap<String, Attribute>,
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
    pub(super) events: Events,
    #[serde(default)]
    pub(super) actions: Actions,
    #[serde(default)]
    pub(super) commands: BTreeMap<String, CommandSection>,
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
    pub(super) location: Option<Place>,
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
#[serde(default, deny_unknown_fields, expecting = "a section, [auth]")]
pub(super) struct Auth {
    pub(super) token_file: Option<FilePath>,
    pub(super) token_env: Option<VariableName>,
    pub(super) user_name: Option<UserName>,
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
#[serde(default, deny_unknown_fields, expecting = "a section, [events]")]
pub(super) struct Events {
    pub(super) store_bytes: Option<Whole<EventStoreBytes>>,
    pub(super) store_count: Option<Whole<EventCount>>,
    pub(super) drop: DropChoice,
}

/// Which event gives way at the bound.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DropChoice {
    #[default]
    Oldest,
    Newest,
}

impl From<DropChoice> for DropPolicy {
    fn from(choice: DropChoice) -> Self {
        match choice {
            DropChoice::Oldest => Self::Oldest,
            DropChoice::Newest => Self::Newest,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [actions]")]
pub(super) struct Actions {
    pub(super) reboot: Option<RebootSection>,
    pub(super) factory_reset: Option<FactoryResetSection>,
    pub(super) firmware: Option<Firmware>,
    pub(super) diagnostics: Option<Diagnostics>,
    pub(super) script: Vec<Script>,
    pub(super) scripts_dir: Option<FilePath>,
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
    pub(super) verify: Option<Verify>,
    #[serde(default)]
    pub(super) public_keys: Vec<PublicKeyText>,
    pub(super) max_image_bytes: Option<Whole<ImageBytes>>,
    #[serde(default)]
    pub(super) allow_file_uri: bool,
    pub(super) ca_file: Option<FilePath>,
    pub(super) client_certificate: Option<FilePath>,
    pub(super) client_key: Option<FilePath>,
    pub(super) proxy: Option<ProxyText>,
    pub(super) proxy_credentials_file: Option<FilePath>,
    pub(super) proxy_credentials_env: Option<CredentialsVariable>,
    #[serde(default)]
    pub(super) no_proxy: Vec<String>,
    pub(super) bytes_per_second: Option<Whole<Rate>>,
    pub(super) stall_limit: Option<Span<StallLimit>>,
    pub(super) fruitless_attempts: Option<Whole<Attempts>>,
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
    pub(super) upload: Option<Upload>,
    pub(super) log: Vec<DeclaredLog>,
    pub(super) facts: Option<Facts>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [actions.diagnostics.upload]")]
pub(super) struct Upload {
    pub(super) hosts: Vec<String>,
    pub(super) allow_http: bool,
    pub(super) ca_file: Option<FilePath>,
    pub(super) client_certificate: Option<FilePath>,
    pub(super) client_key: Option<FilePath>,
    pub(super) proxy: Option<ProxyText>,
    pub(super) proxy_credentials_file: Option<FilePath>,
    pub(super) proxy_credentials_env: Option<CredentialsVariable>,
    pub(super) no_proxy: Vec<String>,
    pub(super) max_bytes: Option<Whole<UploadBytes>>,
    pub(super) time_limit: Option<Span<UploadLimit>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [[actions.diagnostics.log]]")]
pub(super) struct DeclaredLog {
    pub(super) name: String,
    pub(super) file: Option<FilePath>,
    pub(super) unit: Option<String>,
    #[serde(default)]
    pub(super) journal: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [actions.diagnostics.facts]")]
pub(super) struct Facts {
    pub(super) disks: Option<Vec<FilePath>>,
    pub(super) interval: Option<Span<FactsInterval>>,
    pub(super) event_interval: Option<Span<EventInterval>>,
    pub(super) memory_percent: Option<Whole<Percent>>,
    pub(super) disk_percent: Option<Whole<Percent>>,
    pub(super) load: Option<f64>,
    pub(super) celsius: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section, [log]")]
pub(super) struct Log {
    pub(super) format: LogFormat,
    pub(super) level: Level,
}
