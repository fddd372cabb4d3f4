use bytes::Bytes;
use iotdm_core::{Event, PublishError, Table};
use serde::Serialize;

use crate::config::{Config, EventLimits};
use crate::driver::Handle;
use crate::engine::EventCounters;

use super::{BuildError, Builder, Device};

/// Events of a product: from [`Device::events`](crate::Device::events). It outlives the run.
///
/// # Guarantees
/// * An event at QoS 1 is durable when its call returns. It is sent as soon as there is a connection, oldest first, and
///   kept until the broker has acknowledged it: it arrives once or more, also after a crash or a restart, or the bound of
///   the store drops it, which is counted ([`counters`](Self::counters)).
/// * No event is retained. None delays an answer to the platform by more than 16 events or 64 KiB that are on their
///   way already.
/// * Events need a connection, and no management: they are sent also while the platform refuses to manage the device.
///
/// # Caveats
/// The order is that of the calls on one connection. After a lost connection what was not acknowledged comes again, before
/// what came after it.
///
/// ```
/// # async fn example(device: &iotdm_agent::Device) -> Result<(), iotdm_core::PublishError> {
/// use iotdm_core::Event;
///
/// device.events().publish("temperature", &21.5).await?;
/// device.events().send(Event::bytes("camera", "jpeg", vec![0xff, 0xd8])?.at_most_once()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Events {
    handle: Handle,
}

impl Device {
    /// What the product tells: events, at QoS 0 or 1 (`docs/connect/events.md`).
    pub fn events(&self) -> Events {
        Events { handle: self.handle.clone() }
    }
}

impl Builder {
    /// How many events may wait for the broker, and which gives way; [`Config::limits`] has it unless this is called.
    #[must_use]
    pub fn event_store(mut self, limits: EventLimits) -> Self {
        self.config.limits.events = limits;
        self
    }
}

impl Events {
    /// Publishes an event in JSON at QoS 1; on return it is durable. Waits while the agent does not run.
    ///
    /// # Errors
    /// The id is outside the grammar, the body is too large or no JSON, or the agent did not take it.
    pub async fn publish(&self, id: &str, body: &(impl Serialize + Sync)) -> Result<(), PublishError> {
        self.send(Event::json(id, body)?).await
    }

    /// Publishes an event in any format at QoS 1; on return it is durable. Waits while the agent does not run.
    ///
    /// # Errors
    /// The id or the format is outside the grammar, the payload is too large, or the agent did not take it.
    pub async fn publish_bytes(
        &self,
        id: &str,
        format: &str,
        payload: impl Into<Bytes> + Send,
    ) -> Result<(), PublishError> {
        self.send(Event::bytes(id, format, payload)?).await
    }

    /// Publishes any event. On return it is durable, or, when it is not to be stored, handed to the connection.
    ///
    /// # Errors
    /// The store is full and what is stored has precedence; there is no connection, and the event was not to be stored; the
    /// agent is stopping; or the quickstart organization would discard it.
    pub async fn send(&self, event: Event) -> Result<(), PublishError> {
        self.handle.publish(event).await
    }

    /// What became of events since the agent was built.
    pub fn counters(&self) -> EventCounters {
        self.handle.events.counters()
    }
}

pub(super) fn check(config: &Config, table: &Table) -> Result<(), BuildError> {
    let EventLimits { bytes, count, .. } = config.limits.events;
    if count == 0 || bytes < MIN_STORE_BYTES {
        return Err(BuildError::Range("the store of events holds at least one event and 1 KiB"));
    }
    if config.identity.is_quickstart() && table.policies().next().is_some() {
        return Err(BuildError::Range(
            "the quickstart organization offers no device management: register no handlers",
        ));
    }
    Ok(())
}

/// The smallest store of events, in bytes: a topic of two long levels and a number fit.
const MIN_STORE_BYTES: usize = 1024;
