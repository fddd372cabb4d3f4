use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use iotdm_core::{ClientKind, Declined, Event, Identity, PublishError, Qos, Subject};
use tokio::time::Instant;

use crate::engine::EventCounters;

/// What is known of events outside the engine: whom they may be sent to at which rate, and what became of them.
#[derive(Clone, Debug)]
pub(crate) struct EventDesk {
    is_quickstart: bool,
    is_gateway: bool,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// When the last event was let through to the quickstart organization.
    last: Option<Instant>,
    /// Of the engines before this one.
    before: EventCounters,
    present: EventCounters,
}

impl EventDesk {
    pub(crate) fn new(identity: &Identity) -> Self {
        Self {
            is_quickstart: identity.is_quickstart(),
            is_gateway: identity.kind == ClientKind::Gateway,
            inner: Arc::default(),
        }
    }

    /// That of a device which a gateway speaks for.
    pub(crate) fn of_attached(&self) -> Self {
        Self { inner: Arc::default(), ..self.clone() }
    }

    /// Refuses what the other side would discard.
    pub(crate) fn check(&self, event: &Event) -> Result<(), PublishError> {
        if event.topic().subject != Subject::Connected && !self.is_gateway {
            return Err(Declined::Unsupported.into());
        }
        if !self.is_quickstart {
            return Ok(());
        }
        // What is stored would come in a burst.
        if event.qos() != Qos::AtMostOnce || event.is_stored() {
            return Err(PublishError::QuickstartQos);
        }
        let (now, mut inner) = (Instant::now(), self.lock());
        if inner.last.is_some_and(|last| now.duration_since(last) < QUICKSTART_INTERVAL) {
            return Err(PublishError::QuickstartRate);
        }
        inner.last = Some(now);
        Ok(())
    }

    /// Another engine begins to count at nothing.
    pub(crate) fn begin(&self) {
        let mut inner = self.lock();
        inner.before = sum(inner.before, inner.present);
        inner.present = EventCounters::default();
    }

    pub(crate) fn tell(&self, counters: EventCounters) {
        self.lock().present = counters;
    }

    pub(crate) fn counters(&self) -> EventCounters {
        let inner = self.lock();
        sum(inner.before, inner.present)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of the lock panics")
    }
}

/// What has happened in all, and what waits at present.
fn sum(before: EventCounters, present: EventCounters) -> EventCounters {
    EventCounters {
        arrived: before.arrived + present.arrived,
        sent_once: before.sent_once + present.sent_once,
        refused: before.refused + present.refused,
        dropped_full: before.dropped_full + present.dropped_full,
        dropped_offline: before.dropped_offline + present.dropped_offline,
        ..present
    }
}

/// The quickstart organization may discard what comes at more than one event a second (`docs/connect/events.md`).
const QUICKSTART_INTERVAL: Duration = Duration::from_secs(1);
