//! An attached device, as a gateway's product describes it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use iotdm_core::{
    Action, BootId, Bundle, DeviceInfo, Handler, IdentityError, Location, Policy, Route, Subject, System,
    Table, TableError,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::Limits;
use crate::engine::{AttributeRules, Declared, Threshold};

use super::PolicyChange;
use super::gateway::subject;

/// A device that a gateway speaks for: it has actions, attributes, a manage request and a journal of its own, on the
/// gateway's connection and in the gateway's files.
///
/// ```
/// use iotdm_agent::Attached;
/// use iotdm_core::{Accepted, BootId, Context, Empty, Failure, Handler, Performed, Reboot, Refusal};
///
/// struct Pump; // knows the bus that the pump hangs on
///
/// impl Handler<Reboot> for Pump {
///     async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
///         Ok(Accepted)
///     }
///     async fn after_ack(&self, _: &Context, _: &Empty) -> Result<Performed, Failure> {
///         // Restart it over the bus, wait until it is back, and say so.
///         Ok(Performed::Complete)
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pump = Attached::new("pump", "p-1")?.on::<Reboot>(Pump).boot_id(BootId("boot 17".into()));
/// # Ok(())
/// # }
/// ```
pub struct Attached {
    pub(super) subject: Subject,
    pub(super) table: Table,
    pub(super) policies: Vec<(Route, PolicyChange)>,
    pub(super) attributes: AttributeRules,
    pub(super) location: Option<Location>,
    pub(super) device_info: DeviceInfo,
    pub(super) metadata: Option<Value>,
    pub(super) lifetime: Option<Duration>,
    pub(super) limits: Limits,
    pub(super) boot: Option<BootId>,
    pub(super) system: Option<Arc<dyn System>>,
    pub(super) problem: Option<TableError>,
}

impl Attached {
    /// A device without actions.
    ///
    /// # Errors
    /// Type or id is outside the grammar (`docs/protocol.md` §1.3).
    pub fn new(type_id: &str, device_id: &str) -> Result<Self, IdentityError> {
        Ok(Self {
            subject: subject(type_id, device_id)?,
            table: Table::new(),
            policies: Vec::new(),
            attributes: AttributeRules::default(),
            location: None,
            device_info: DeviceInfo::default(),
            metadata: None,
            lifetime: None,
            limits: Limits::attached(),
            boot: None,
            system: None,
            problem: None,
        })
    }

    /// Registers a handler for an action. Its [`Context::subject`](iotdm_core::Context::subject) is this device, so that
    /// one handler can serve many.
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

    /// Registers custom actions that [`Device::replace`](crate::Device::replace) exchanges while the agent runs.
    #[must_use]
    pub fn replaceable(mut self, bundle: impl Bundle) -> Self {
        let result = self.table.replace(bundle);
        self.note(result);
        self
    }

    /// Changes an action's rules. Its handler may be registered before or after.
    #[must_use]
    pub fn policy(mut self, route: Route, change: impl FnOnce(&mut Policy) + Send + 'static) -> Self {
        self.policies.push((route, PolicyChange(Box::new(change))));
        self
    }

    /// What the device is; sent with its manage.
    #[must_use]
    pub fn device_info(mut self, device_info: DeviceInfo) -> Self {
        self.device_info = device_info;
        self
    }

    /// Free-form data; sent with its manage.
    #[must_use]
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Where the device is, when nobody has said otherwise since it was configured so.
    #[must_use]
    pub fn location(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }

    /// How long the platform may hear nothing of this device before it counts it as dormant; zero: never. The gateway's
    /// unless this is called.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// The bounds; [`Limits::attached`] unless this is called.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Which boot of the device this is, where it can tell: a counter, the time of its start. Work of it that ended in a
    /// restart is then judged when [`Device::booted`](crate::Device::booted) gives another one, or when the agent starts and finds another one.
    /// Where nobody can tell, [`Context::rebooted`](iotdm_core::Context::rebooted) is never true.
    #[must_use]
    pub fn boot_id(mut self, boot: BootId) -> Self {
        self.boot = Some(boot);
        self
    }

    /// What its handlers find behind [`Context::system`](iotdm_core::Context::system): the gateway's machine, which
    /// refuses to restart for it, unless this is called.
    #[must_use]
    pub fn system(mut self, system: Arc<dyn System>) -> Self {
        self.system = Some(system);
        self
    }

    /// Declares the type of an attribute, as [`Builder::attribute`](crate::Builder::attribute) does for the agent's own device.
    #[must_use]
    pub fn attribute<T: DeserializeOwned>(mut self, name: impl Into<String>) -> Self {
        self.attributes.declared.insert(name.into(), Declared::of::<T>());
        self
    }

    /// Says when a change of an observed attribute is worth a notification.
    #[must_use]
    pub fn threshold(mut self, name: impl Into<String>, threshold: Threshold) -> Self {
        self.attributes.thresholds.insert(name.into(), threshold);
        self
    }

    fn note(&mut self, result: Result<(), TableError>) {
        if let Err(problem) = result {
            self.problem.get_or_insert(problem);
        }
    }
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl Limits {
    /// The bounds of a device that shares its gateway with hundreds. Each default is a small part of a device's own.
    pub fn attached() -> Self {
        Self {
            running: 8,
            pending: 64,
            kept_executed: 1000,
            kept_refused: 128,
            kept_bytes: 256 * 1024,
            outbox: 256,
            ..Self::default()
        }
    }
}
