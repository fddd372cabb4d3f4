mod attached;
mod attributes;
mod commands;
mod endpoint;
pub(crate) mod events;
mod gateway;
mod settings;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use iotdm_core::{
    Action, Bundle, ClientKind, Declined, ExtensionPackage, Failure, Handler, Location, Policy, Report,
    Route, System, Table, TableError,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::config::Config;
use crate::driver::{AttachError, Driver, EventDesk, Handle, RunError};
use crate::engine::{AttributeRules, Settings};
use crate::link::{self, Link, PrefixedLink, TlsError, host};
use crate::store::{SledSource, StoreSource};
use crate::system::{LinuxSystem, NoBootId};

pub use self::attached::Attached;
use self::settings::settings;

/// A device-management agent, ready to run.
///
/// # Flow
/// [`Agent::builder`] takes the configuration and the handlers; [`build`](Builder::build) checks everything that can be
/// checked; [`run_until`](Self::run_until) opens the journal, judges what a restart interrupted, connects, and serves.
///
/// # Guarantees
/// A request is durable before it is acknowledged, and answered before it is forgotten; a replay gets the stored
/// answer. A commit that fails is a crash: the journal is opened again, and recovery is the ordinary one.
///
/// # Assumptions
/// One agent has its journal to itself. The runtime has timers and I/O; handlers do not block it.
///
/// # Errors
/// [`RunError`]: the journal is another device's, a newer program's or somebody else's at this moment; or the broker
/// refused the credentials at the first connection.
#[derive(Debug)]
pub struct Agent {
    driver: Driver,
    device: Device,
}

impl Agent {
    /// Begins an agent.
    pub fn builder(config: Config) -> Builder {
        Builder {
            config,
            table: Table::new(),
            system: None,
            source: None,
            link: None,
            seed: None,
            policies: Vec::new(),
            attributes: AttributeRules::default(),
            location: None,
            attached: Vec::new(),
            problem: None,
        }
    }

    /// The device as the product sees it: its attributes, its reports, its state. It outlives the run.
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// What the platform has to know of the custom actions before this device may claim them: one extension package for
    /// each bundle (`docs/protocol.md` §5.6).
    pub fn extension_packages(&self) -> Vec<ExtensionPackage> {
        self.driver.table.extension_packages()
    }

    /// The handlers, for a test bench that puts something around them.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn table_mut(&mut self) -> &mut Table {
        Arc::get_mut(&mut self.driver.table).expect("nobody else has the table before the run")
    }

    /// Runs until `shutdown` is done; then running work has its grace period, and the broker is told goodbye.
    pub async fn run_until(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), RunError> {
        self.driver.run(shutdown).await
    }
}

/// What the product tells its agent, and hears from it.
#[derive(Clone, Debug)]
pub struct Device {
    handle: Handle,
    state: watch::Receiver<State>,
    /// What the devices have that this one may attach.
    gateway: Option<Arc<gateway::Host>>,
}

/// Whether the platform knows the device as managed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no connection.
    Disconnected,
    /// The platform answered manage with 200 on this connection.
    Managed,
    /// The platform answered unmanage on this connection.
    Unmanaged,
}

impl Device {
    /// An attribute's value, as it was last made durable.
    pub fn attribute<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.handle.attributes.get(name)?).ok()
    }

    /// Sets an attribute durably; whoever observes it is notified. Waits while the agent does not run.
    pub async fn set_attribute(&self, name: &str, value: &(impl Serialize + Sync)) -> Result<(), Failure> {
        let value = serde_json::to_value(value).map_err(|error| Failure::new(error.to_string()))?;
        Ok(self.handle.set_attributes(vec![(name.to_owned(), value)]).await?)
    }

    /// Counts the changes of attributes: its `changed` waits for the next one, whichever attribute it is.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.handle.attributes.changes()
    }

    /// Queues a report; on return it is durable.
    pub async fn report(&self, report: Report) -> Result<(), Declined> {
        self.handle.report(report).await
    }

    /// Leaves management: the platform sends no new requests then (`docs/protocol.md` §4.2). It lasts until
    /// [`manage`](Self::manage) or the end of the run.
    pub async fn unmanage(&self) -> Result<(), Declined> {
        self.handle.want_managed(false).await
    }

    /// Comes back into management.
    pub async fn manage(&self) -> Result<(), Declined> {
        self.handle.want_managed(true).await
    }

    /// Puts these actions in the place of those that [`Builder::replaceable`] or the last call of this has registered,
    /// in one step: a request finds all of the old ones or all of these. On return they serve.
    ///
    /// Work that runs ends as it began, and its answer counts. A request that waits for an action that has gone is
    /// answered 501. Manage is sent again where other bundles are offered than before. Nothing of this is durable: after
    /// a restart the agent offers what it is built with, and judges interrupted work by that.
    ///
    /// # Errors
    /// The actions before stay in place when these cannot be registered.
    pub async fn replace(&self, bundle: impl Bundle) -> Result<(), ReplaceError> {
        let mut actions = Table::new();
        actions.with(bundle)?;
        match self.handle.replace(actions).await {
            Some(result) => Ok(result?),
            None => Err(ReplaceError::Stopping),
        }
    }

    /// Whether the platform knows the device as managed, at every change.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

/// Collects what an agent is made of. The first mistake is told by [`build`](Self::build).
#[derive(Debug)]
pub struct Builder {
    config: Config,
    table: Table,
    system: Option<Arc<dyn System>>,
    source: Option<Box<dyn StoreSource>>,
    link: Option<Box<dyn Link>>,
    seed: Option<u64>,
    policies: Vec<(Route, PolicyChange)>,
    attributes: AttributeRules,
    location: Option<Location>,
    attached: Vec<Attached>,
    problem: Option<TableError>,
}

/// A change to an action's rules, made once its handler is known.
struct PolicyChange(Box<dyn FnOnce(&mut Policy) + Send>);

impl fmt::Debug for PolicyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PolicyChange")
    }
}

impl Builder {
    /// Registers a handler for an action.
    #[must_use]
    pub fn on<A: Action>(mut self, handler: impl Handler<A>) -> Self {
        let result = self.table.on::<A>(handler);
        self.note(result);
        self
    }

    /// Registers several handlers that share state.
    #[must_use]
    pub fn with(mut self, bundle: impl Bundle) -> Self {
        let result = self.table.with(bundle);
        self.note(result);
        self
    }

    /// Registers custom actions that [`Device::replace`] exchanges while the agent runs. Of two calls the last counts.
    #[must_use]
    pub fn replaceable(mut self, bundle: impl Bundle) -> Self {
        let result = self.table.replace(bundle);
        self.note(result);
        self
    }

    /// Changes an action's rules: budgets, late policy, attempts. Its handler may be registered before or after.
    #[must_use]
    pub fn policy(mut self, route: Route, change: impl FnOnce(&mut Policy) + Send + 'static) -> Self {
        self.policies.push((route, PolicyChange(Box::new(change))));
        self
    }

    /// The machine; [`LinuxSystem`] without commands unless this is called. A reboot or a factory reset is then
    /// accepted and fails: give it the command with [`LinuxSystem::reboot_command`] or
    /// [`LinuxSystem::factory_reset_command`], or make it a dry run.
    #[must_use]
    pub fn system(mut self, system: Arc<dyn System>) -> Self {
        self.system = Some(system);
        self
    }

    /// The folder of the journal.
    #[must_use]
    pub fn journal(self, path: impl Into<PathBuf>) -> Self {
        self.store(SledSource::new(path))
    }

    /// Where the journal is kept, for tests and other stores.
    #[must_use]
    pub fn store(mut self, source: impl StoreSource + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// How the broker is reached, for tests.
    #[must_use]
    pub fn link(mut self, link: impl Link + 'static) -> Self {
        self.link = Some(Box::new(link));
        self
    }

    /// Where request ids and jitter come from, for tests that must repeat; random unless this is called.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Checks everything that can be checked before running.
    pub fn build(mut self) -> Result<Agent, BuildError> {
        if let Some(problem) = self.problem {
            return Err(problem.into());
        }
        for (route, change) in std::mem::take(&mut self.policies) {
            let policy = self.table.policy_mut(&route).ok_or(BuildError::NoSuchAction(route))?;
            (change.0)(policy);
        }
        check(&self.config, &self.table)?;
        let configured =
            attributes::configured(&self.config, &self.table, self.location.as_ref(), &self.attributes)?;
        let system = match self.system {
            Some(system) => system,
            None => Arc::new(LinuxSystem::new()?),
        };
        let link = match self.link {
            Some(link) => link,
            None => link::of(&self.config)?,
        };
        let source = self.source.ok_or(BuildError::NoJournal)?;
        let settings = Settings {
            configured,
            attributes: self.attributes,
            ..settings(&self.config, &self.table, &*system, self.seed)
        };
        let (state, state_receiver) = watch::channel(State::Disconnected);
        let desk = EventDesk::new(&self.config.identity);
        let (handle, commands) = Handle::new(settings.subject.clone(), state_receiver.clone(), desk);
        let host = gateway::host(&self.config, &system, self.seed);
        let attached = gateway::members(host.as_deref(), self.attached, &handle)?;
        let device = Device { handle: handle.clone(), state: state_receiver, gateway: host };
        let broker = host::shown(&self.config.broker.host, self.config.broker.port);
        let driver = Driver {
            settings,
            identity: self.config.identity.client_id(),
            broker,
            filters: gateway::filters(&self.config.identity, &self.table),
            table: Arc::new(self.table),
            system,
            source,
            link: PrefixedLink::around(link, &self.config),
            handle,
            commands,
            state,
            attached,
        };
        Ok(Agent { driver, device })
    }

    fn note(&mut self, result: Result<(), TableError>) {
        if let Err(problem) = result {
            self.problem.get_or_insert(problem);
        }
    }
}

/// Why the actions of a running agent stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// They cannot be registered.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The agent has ended.
    #[error("the agent has ended")]
    Stopping,
}

/// Why an agent cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A handler cannot be registered.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Rules were given for an action without a handler.
    #[error("rules are given for {0}, but no handler is registered for it")]
    NoSuchAction(Route),
    /// Nobody said where the journal is.
    #[error("an agent needs a journal: name its folder with `journal`")]
    NoJournal,
    /// The machine gives no boot identity.
    #[error(transparent)]
    System(#[from] NoBootId),
    /// The encrypted connection cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// A device cannot be attached.
    #[error(transparent)]
    Attached(#[from] AttachError),
    /// A value is out of its range.
    #[error("{0}")]
    Range(&'static str),
    /// A configured attribute does not fit the type that was declared for it, or is outside its range.
    #[error("{0}")]
    Attribute(String),
    /// The agent cannot keep to a threshold.
    #[error("the threshold of {attribute}: {reason}")]
    Threshold {
        /// Whose.
        attribute: String,
        /// What is wrong.
        reason: &'static str,
    },
}

fn check(config: &Config, table: &Table) -> Result<(), BuildError> {
    let lifetime = config.lifetime;
    if !lifetime.is_zero() && lifetime < MIN_LIFETIME || lifetime.as_secs() > u32::MAX.into() {
        return Err(BuildError::Range("the lifetime is zero (never dormant) or at least an hour"));
    }
    endpoint::check(config)?;
    let limits = &config.limits;
    if [limits.running, limits.pending, limits.kept_executed, limits.kept_refused, limits.outbox].contains(&0)
    {
        return Err(BuildError::Range("every limit is at least 1"));
    }
    if limits.shutdown_grace > MAX_SHUTDOWN_GRACE {
        return Err(BuildError::Range("the grace period for running work is a day at the most"));
    }
    events::check(config, table)?;
    if config.identity.kind == ClientKind::Gateway && !table.command_filters().is_empty() {
        return Err(BuildError::Range("a gateway takes no commands of applications"));
    }
    Ok(())
}

/// The longest time that running work may have after the agent was told to stop.
const MAX_SHUTDOWN_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// The shortest lifetime that the platform takes (`docs/protocol.md` §4.1).
const MIN_LIFETIME: Duration = Duration::from_secs(3600);
