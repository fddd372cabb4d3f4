//! A gateway's agent: the devices that it speaks for, and how they come and go.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use iotdm_core::{
    BootId, ChildError, ChildOutput, ChildProcess, ClientKind, Declined, Direction, Identity, IdentityError,
    Name, Performed, Restart, RestartError, Route, Subject, System, Table,
};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::Config;
use crate::driver::{Answer, AttachError, Command, Handle, MAX_ATTACHED, Member, named};
use crate::engine::Settings;

use super::settings::settings;
use super::{Agent, Attached, BuildError, Builder, Device, State, attributes, check, commands};

impl Builder {
    /// Attaches a device that this gateway speaks for from the start.
    #[must_use]
    pub fn attach(mut self, attached: Attached) -> Self {
        self.attached.push(attached);
        self
    }
}

impl Agent {
    /// An attached device as the product sees it: its attributes, its reports, its state.
    pub fn attached(&self, type_id: &str, device_id: &str) -> Option<Device> {
        let subject = subject(type_id, device_id).ok()?;
        self.driver.attached.get(&subject).map(of_member)
    }

    /// Every device that is attached from the start.
    pub fn all_attached(&self) -> Vec<Device> {
        self.driver.attached.values().map(of_member).collect()
    }
}

impl Device {
    /// Speaks for a device from here on; on return its requests are taken. Its records of an earlier time are read back,
    /// and interrupted work of it is judged.
    ///
    /// # Errors
    /// This is no gateway, or an attached device itself; the device is attached already, or one too many; something
    /// about it cannot be carried out; the journal cannot take it.
    pub async fn attach(&self, attached: Attached) -> Result<Self, AttachError> {
        let host = self.gateway.as_ref().ok_or(AttachError::NoGateway)?;
        let unusable = |reason: BuildError| AttachError::Unusable(reason.to_string());
        let (member, device) = host.member(attached, &self.handle).map_err(unusable)?;
        self.ask_about(|done| Command::Attach(Box::new(member), done)).await?;
        Ok(device)
    }

    /// Speaks for a device no longer. The platform is told with unmanage, which has ten seconds; running work is
    /// cancelled, and requests that still come for it are answered 404. Its records stay in the journal: attached again,
    /// it goes on where it was, as after a crash. [`forget`](Self::forget) takes them away.
    ///
    /// # Errors
    /// This is no gateway, or does not speak for the device.
    pub async fn detach(&self, device: &Self) -> Result<(), AttachError> {
        if self.gateway.is_none() {
            return Err(AttachError::NoGateway);
        }
        let mut state = device.state.clone();
        if *state.borrow_and_update() == State::Managed && device.unmanage().await.is_ok() {
            // It is told, or there is no connection to tell it on, or it does not answer: the device leaves all the same.
            let _ = timeout(UNMANAGE_WITHIN, state.wait_for(|state| *state != State::Managed)).await;
        }
        let of = device.handle.subject().clone();
        self.ask_about(|done| Command::Detach(of, done)).await
    }

    /// Takes the records of a device out of the journal that does not come back: a replay of its requests would run.
    ///
    /// # Errors
    /// This is no gateway; the device is attached; the journal cannot be written.
    pub async fn forget(&self, type_id: &str, device_id: &str) -> Result<(), AttachError> {
        if self.gateway.is_none() {
            return Err(AttachError::NoGateway);
        }
        let of = subject(type_id, device_id).map_err(|reason| AttachError::Unusable(reason.to_string()))?;
        self.ask_about(|done| Command::Forget(of, done)).await
    }

    /// The attached device was restarted: which boot of it this is. Work of it that ended in a restart is judged by its
    /// handler's [`recover`](iotdm_core::Handler::recover). Without effect on the agent's own device.
    ///
    /// # Errors
    /// The agent has ended, or the device was detached.
    pub async fn booted(&self, boot: BootId) -> Result<(), Declined> {
        self.handle.booted(boot).await
    }

    /// `type/id` of an attached device; none for the agent's own.
    pub fn attached_as(&self) -> Option<String> {
        let own = self.gateway.is_some() || *self.handle.subject() == Subject::Connected;
        (!own).then(|| named(self.handle.subject()))
    }

    async fn ask_about(&self, command: impl FnOnce(Answer) -> Command) -> Result<(), AttachError> {
        self.handle.ask_once(command).await.unwrap_or(Err(AttachError::Stopping))
    }
}

fn of_member(member: &Member) -> Device {
    Device { handle: member.handle.clone(), state: member.state.subscribe(), gateway: None }
}

/// What a client subscribes to. A gateway's requests name their device (`docs/protocol.md` §9 point 14); of errors it is
/// told on a channel of its own.
pub(super) fn filters(identity: &Identity, table: &Table) -> Vec<String> {
    let root = <Route as Direction>::ROOT;
    match identity.kind {
        ClientKind::Device => commands::filters(table),
        ClientKind::Gateway => {
            vec![format!("{root}type/+/id/+/#"), format!("iot-2/{}notify", identity.subject())]
        }
    }
}

/// What attached devices have from their gateway; none for a device's agent.
pub(super) fn host(config: &Config, system: &Arc<dyn System>, seed: Option<u64>) -> Option<Arc<Host>> {
    let is_gateway = config.identity.kind == ClientKind::Gateway;
    is_gateway.then(|| Arc::new(Host { config: config.clone(), system: system.clone(), seed }))
}

/// The devices that are attached from the start.
pub(super) fn members(
    host: Option<&Host>,
    attached: Vec<Attached>,
    handle: &Handle,
) -> Result<BTreeMap<Subject, Member>, BuildError> {
    let mut members = BTreeMap::new();
    if attached.len() > MAX_ATTACHED {
        return Err(AttachError::TooMany.into());
    }
    for attached in attached {
        let subject = attached.subject.clone();
        let (member, _) = host.ok_or(AttachError::NoGateway)?.member(attached, handle)?;
        if subject == *handle.subject() || members.insert(subject.clone(), member).is_some() {
            return Err(AttachError::Attached(named(&subject)).into());
        }
    }
    Ok(members)
}

/// What attached devices have from their gateway.
pub(super) struct Host {
    config: Config,
    system: Arc<dyn System>,
    seed: Option<u64>,
}

impl Host {
    fn member(&self, attached: Attached, gateway: &Handle) -> Result<(Member, Device), BuildError> {
        let Attached { subject, mut table, attributes: rules, location, boot, .. } = attached;
        if let Some(problem) = attached.problem {
            return Err(problem.into());
        }
        for (route, change) in attached.policies {
            let policy = table.policy_mut(&route).ok_or(BuildError::NoSuchAction(route))?;
            (change.0)(policy);
        }
        let config = Config {
            lifetime: attached.lifetime.unwrap_or(self.config.lifetime),
            device_info: attached.device_info,
            metadata: attached.metadata,
            limits: attached.limits,
            ..self.config.clone()
        };
        check(&config, &table)?;
        let configured = attributes::configured(&config, &table, location.as_ref(), &rules)?;
        let system = attached.system.unwrap_or_else(|| Arc::new(NoRestart(self.system.clone())));
        let seed = self.seed.map(|seed| mixed(seed, &subject));
        let settings = Settings {
            subject: subject.clone(),
            gateway: Some(self.system.boot_id()),
            boot: boot.unwrap_or_else(|| BootId("".into())),
            configured,
            attributes: rules,
            ..settings(&config, &table, &*system, seed)
        };
        let (state, receiver) = watch::channel(State::Disconnected);
        let handle = gateway.of_attached(subject, receiver.clone());
        let device = Device { handle: handle.clone(), state: receiver, gateway: None };
        Ok((Member { settings, table: Arc::new(table), system, handle, state }, device))
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

/// The gateway's machine, as attached devices have it: an attached device's restart is not the gateway's.
#[derive(Debug)]
struct NoRestart(Arc<dyn System>);

#[async_trait]
impl System for NoRestart {
    fn wall_clock(&self) -> Duration {
        self.0.wall_clock()
    }

    fn uptime(&self) -> Duration {
        self.0.uptime()
    }

    fn boot_id(&self) -> BootId {
        self.0.boot_id()
    }

    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError> {
        Err(RestartError::NotConfigured(kind))
    }

    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        self.0.run(child).await
    }
}

pub(super) fn subject(type_id: &str, device_id: &str) -> Result<Subject, IdentityError> {
    let part = |part, text: &str| text.parse::<Name>().map_err(|reason| IdentityError::Part { part, reason });
    Ok(Subject::Named { type_id: part("type", type_id)?, device_id: part("id", device_id)? })
}

/// Another seed for each device of a gateway: their reqIds must differ.
fn mixed(seed: u64, subject: &Subject) -> u64 {
    subject.to_string().bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
}

const FNV_PRIME: u64 = 0x100_0000_01b3;

/// How long the platform may take to answer unmanage before a device is detached without it.
const UNMANAGE_WITHIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_subscribes_once_for_all_of_its_devices() {
        let identity = Identity::gateway("org001", "gw", "g7").unwrap();
        let filters = filters(&identity, &Table::new());
        assert_eq!(filters, ["iotdm-1/type/+/id/+/#", "iot-2/type/gw/id/g7/notify"]);
    }
}
