//! What happened in one history, in order.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use iotdm_core::{Decision, Failure, Performed, Policy, Recovery, Restart, Route, Topic, UpRoute};
use serde_json::Value;
use tokio::time::Instant;

use crate::testing::Published;
use crate::testing::platform::Passed;

/// Everything that happened in one history, for laws to judge.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub(super) entries: Vec<Entry>,
    pub(super) policies: BTreeMap<Route, Policy>,
    pub(super) end: End,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When, since the beginning of the history.
    pub at: Duration,
    /// What.
    pub event: Event,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The plan did something to the device or its surroundings.
    Step(String),
    /// From here on nothing goes wrong any more.
    Calm,
    /// Everything that was asked is answered and nothing runs: from here on nothing is to happen by itself.
    Quiet,
    /// The platform sent a request; each copy is one.
    Sent(Asked),
    /// The broker handed a copy of a request to the device.
    Delivered(Asked),
    /// The device acknowledged a copy to the broker.
    Acknowledged(Asked),
    /// The device made a connection.
    Connected,
    /// The device published something.
    Published(Published),
    /// The broker acknowledged what the device published.
    Confirmed(Published),
    /// A part of a handler was started.
    Started(Work),
    /// It came to an end by itself.
    Returned(Work, Outcome),
    /// It was dropped before its end: a crash, a cancellation, the end of its budget.
    Dropped(Work),
    /// The machine was asked to restart. `by` is the handler that asked, unless it was something else of the product;
    /// `begun` says whether the machine took it.
    Restart {
        /// What was asked for.
        kind: Restart,
        /// Who asked.
        by: Option<Work>,
        /// Whether the machine began it.
        begun: bool,
    },
    /// The machine was restarted; its first boot is 1.
    Boot(u64),
    /// The agent's process began.
    Process,
    /// The agent's process was ended from outside.
    Killed,
    /// The agent's process could not open its journal, on a full disk; it is started again after some seconds.
    StartFailed(String),
    /// The agent's process ended for another reason, and nobody had asked for it.
    Ended(String),
    /// The journal was damaged: what it knew is gone.
    Damaged,
    /// What the product wrote down by [`Machine::note`](super::Machine::note).
    Note(String),
}

/// A request of the platform.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Its reqId, as JSON text: a text has its quotes.
    pub req_id: String,
    /// What is asked.
    pub route: Route,
    /// Its `d`; `null` when it has none.
    pub d: Value,
}

/// A start of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The reqId of its request, as JSON text.
    pub req_id: String,
    /// The action.
    pub route: Route,
    /// Which of the handler's functions.
    pub part: Part,
    /// [`Context::attempt`](iotdm_core::Context::attempt).
    pub attempt: u32,
}

/// The functions of a [`Handler`](iotdm_core::Handler).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// [`Handler::handle`](iotdm_core::Handler::handle)
    Handle,
    /// [`Handler::after_ack`](iotdm_core::Handler::after_ack)
    AfterAck,
    /// [`Handler::recover`](iotdm_core::Handler::recover)
    Recover,
}

/// How a part of a handler ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// `handle` said yes, with this code.
    Replied(u16),
    /// `handle` said no, with this code.
    Refused(u16),
    /// The body does not fit: the handler never saw it.
    Undecodable,
    /// `after_ack` did it, or has begun a restart.
    Performed(Performed),
    /// `after_ack` failed, with this message.
    Failed(String),
    /// `recover` judged.
    Judged(Recovery),
}

/// How the device is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) managed: bool,
    pub(super) unacknowledged: usize,
    pub(super) journal_bytes: usize,
}

impl Outcome {
    pub(in crate::testing) fn of_decision(decision: &Decision) -> Self {
        match decision {
            Decision::Replied(reply) => Self::Replied(reply.rc.as_u16()),
            Decision::Refused(refusal) => Self::Refused(refusal.rc().as_u16()),
            Decision::Undecodable(_) => Self::Undecodable,
        }
    }

    pub(in crate::testing) fn of_work(result: &Result<Performed, Failure>) -> Self {
        match result {
            Ok(performed) => Self::Performed(*performed),
            Err(failure) => Self::Failed(failure.to_string()),
        }
    }
}

impl Record {
    /// What a history that panicked has left.
    pub(in crate::testing) fn of(entries: &Entries) -> Self {
        let entries = entries.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { entries, ..Self::default() }
    }

    /// What happened, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What happened, in order and without its times.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.entries.iter().map(|entry| &entry.event)
    }

    /// The rules of each action, as the product configured them.
    pub fn policies(&self) -> &BTreeMap<Route, Policy> {
        &self.policies
    }

    /// What the product wrote down, in order.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.events().filter_map(|event| match event {
            Event::Note(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The bodies of everything that the device published there, in order; copies count.
    pub fn published(&self, route: UpRoute) -> impl Iterator<Item = &Value> {
        self.events().filter_map(move |event| match event {
            Event::Published(published) if published.route == Some(route) => Some(&published.body),
            _ => None,
        })
    }

    /// The code of the last answer to a request; `req_id` is JSON text.
    pub fn answer(&self, req_id: &str) -> Option<u64> {
        let req_id: Value = serde_json::from_str(req_id).ok()?;
        self.published(UpRoute::Response)
            .filter(|body| body["reqId"] == req_id)
            .filter_map(|body| body["rc"].as_u64())
            .last()
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Entry { at, event } in &self.entries {
            writeln!(f, "{:>12.3} s  {event}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => write!(f, "--- {step}"),
            Self::Calm => f.write_str("--- calm"),
            Self::Quiet => f.write_str("--- quiet"),
            Self::Sent(asked) => write!(f, "platform: {asked}"),
            Self::Delivered(asked) => write!(f, "  broker to device: {asked}"),
            Self::Acknowledged(asked) => write!(f, "  device has {}", asked.req_id),
            Self::Connected => f.write_str("device connects"),
            Self::Published(published) => write!(f, "device: {} {}", published.topic, published.body),
            Self::Confirmed(published) => {
                write!(f, "  broker has {} {}", published.topic, published.body["reqId"])
            }
            Self::Started(work) => write!(f, "{work} begins"),
            Self::Returned(work, outcome) => write!(f, "{work} ends: {outcome:?}"),
            Self::Dropped(work) => write!(f, "{work} is dropped"),
            Self::Restart { kind, by: Some(work), begun } => {
                write!(f, "{kind} asked for by {work}{}", refused(*begun))
            }
            Self::Restart { kind, by: None, begun } => write!(f, "{kind} asked for{}", refused(*begun)),
            Self::Boot(boot) => write!(f, "machine: boot {boot}"),
            Self::Process => f.write_str("agent begins"),
            Self::Killed => f.write_str("agent is killed"),
            Self::StartFailed(reason) => write!(f, "agent could not start: {reason}"),
            Self::Ended(reason) => write!(f, "agent ended by itself: {reason}"),
            Self::Damaged => f.write_str("journal is damaged"),
            Self::Note(text) => write!(f, "product: {text}"),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.route, self.req_id)?;
        if self.d.is_null() { Ok(()) } else { write!(f, " {}", self.d) }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Handle => "handle",
            Part::AfterAck => "after_ack",
            Part::Recover => "recover",
        };
        write!(f, "{part} of {} {}", self.route, self.req_id)?;
        if self.attempt > 1 { write!(f, " (attempt {})", self.attempt) } else { Ok(()) }
    }
}

fn refused(begun: bool) -> &'static str {
    if begun { "" } else { ", and refused" }
}

impl Asked {
    /// The request that a message is; `None` when it has no reqId.
    pub(in crate::testing) fn of(topic: &str, payload: &Bytes) -> Option<Self> {
        let Topic { route, .. } = Topic::<Route>::parse(topic)?;
        let mut body: Value = serde_json::from_slice(payload).ok()?;
        let req_id = body.get("reqId").filter(|req_id| !req_id.is_null())?.to_string();
        (route != Route::Response).then(|| Self { req_id, route, d: body["d"].take() })
    }
}

/// Where a running history writes; clones share it.
#[derive(Clone, Debug)]
pub(in crate::testing) struct Log {
    began: Instant,
    entries: Entries,
}

/// They outlive a history that panics.
pub(in crate::testing) type Entries = Arc<Mutex<Vec<Entry>>>;

impl Log {
    /// Needs a tokio runtime.
    pub(in crate::testing) fn new(entries: Entries) -> Self {
        Self { began: Instant::now(), entries }
    }

    pub(in crate::testing) fn push(&self, event: Event) {
        let at = self.began.elapsed();
        self.entries().push(Entry { at, event });
    }

    pub(in crate::testing) fn passed(&self, passed: Passed<'_>) {
        let event = match passed {
            Passed::Connected => Some(Event::Connected),
            Passed::Delivered(topic, payload) => Asked::of(topic, payload).map(Event::Delivered),
            Passed::Acknowledged(topic, payload) => Asked::of(topic, payload).map(Event::Acknowledged),
            Passed::Published(published) => Some(Event::Published(published.clone())),
            Passed::Confirmed(published) => Some(Event::Confirmed(published.clone())),
        };
        if let Some(event) = event {
            self.push(event);
        }
    }

    pub(in crate::testing) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(in crate::testing) fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
