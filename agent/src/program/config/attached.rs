//! A gateway's devices, as they are written and as they are.

use std::time::Duration;

use iotdm_agent::MAX_ATTACHED;
use iotdm_core::{ClientKind, DeviceInfo, Late, Subject};
use iotdm_handlers::ScriptSpec;
use serde::Deserialize;

use super::CommandLine;
use super::declaration::Script;
use super::file;
use super::resolve::{Resolver, device_info};
use super::values::{Budget, Command, LateChoice, Lifetime, NameText, Span};

/// Its presence makes the device a gateway.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [gateway]")]
pub(super) struct GatewaySection {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section in two pairs of brackets, [[attached]]")]
pub(super) struct AttachedSection {
    r#type: NameText,
    id: NameText,
    #[serde(default)]
    info: file::DeviceInfo,
    lifetime: Option<Span<Lifetime>>,
    reboot: Option<RebootSection>,
    #[serde(default)]
    script: Vec<Script>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [attached.reboot], with a command")]
struct RebootSection {
    command: Command,
    budget: Option<Span<Budget>>,
    #[serde(default)]
    late: LateChoice,
}

/// A device that the gateway speaks for.
#[derive(Clone, Debug)]
pub(crate) struct AttachedDevice {
    /// Its type and id.
    pub(crate) name: (String, String),
    pub(crate) info: DeviceInfo,
    /// The gateway's where it has none.
    pub(crate) lifetime: Option<Duration>,
    pub(crate) reboot: Option<AttachedReboot>,
    pub(crate) scripts: Vec<ScriptSpec>,
}

/// How an attached device is restarted: the command ends when the device is back.
#[derive(Clone, Debug)]
pub(crate) struct AttachedReboot {
    pub(crate) command: CommandLine,
    pub(crate) budget: Duration,
    pub(crate) late: Late,
}

impl Resolver<'_> {
    /// What the device is to the broker.
    pub(super) fn kind(
        &mut self,
        gateway: Option<&GatewaySection>,
        attached: &[AttachedSection],
    ) -> ClientKind {
        if gateway.is_some() {
            return ClientKind::Gateway;
        }
        if !attached.is_empty() {
            self.problem(
                "attached[0]",
                "only a gateway speaks for other devices; write a [gateway] section, and register the device as one",
            );
        }
        ClientKind::Device
    }

    pub(super) fn attached(
        &mut self,
        sections: Vec<AttachedSection>,
        gateway: &Subject,
    ) -> Vec<AttachedDevice> {
        if sections.len() > MAX_ATTACHED {
            self.problem("attached", format!("there are more than {MAX_ATTACHED} devices"));
        }
        let mut devices: Vec<AttachedDevice> = Vec::new();
        for (index, section) in sections.into_iter().enumerate() {
            let key = format!("attached[{index}]");
            let name = (section.r#type.0.to_string(), section.id.0.to_string());
            let subject = Subject::Named { type_id: section.r#type.0, device_id: section.id.0 };
            if subject == *gateway {
                self.problem(
                    &format!("{key}.id"),
                    "is the gateway itself; its actions belong into [actions]",
                );
            }
            if devices.iter().any(|other| other.name == name) {
                let message = format!("{}/{} is attached already; keep one of the two", name.0, name.1);
                self.problem(&format!("{key}.id"), message);
            }
            let reboot = section.reboot.map(|reboot| AttachedReboot {
                command: self.command(&format!("{key}.reboot.command"), reboot.command),
                budget: reboot.budget.map_or(DEFAULT_REBOOT_BUDGET, |budget| budget.get()),
                late: reboot.late.0,
            });
            let mut scripts = Vec::new();
            self.declare(&format!("{key}.script"), section.script, &[], &mut scripts);
            devices.push(AttachedDevice {
                name,
                info: device_info(section.info),
                lifetime: section.lifetime.map(|lifetime| lifetime.get()),
                reboot,
                scripts: scripts.into_iter().map(|(spec, _)| spec).collect(),
            });
        }
        devices
    }
}

/// How long an attached device has to be back.
const DEFAULT_REBOOT_BUDGET: Duration = Duration::from_secs(5 * 60);
