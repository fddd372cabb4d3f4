//! Everything that was seen of a life from outside, in order.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iotdm_core::{Report, Restart};
use iotdm_platform::broker::{Seen, Sighting};
use tokio::time::Instant;

use super::plan::{Ask, Event, Fate};

/// What happened, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Virtual time since the life began.
    pub at: Duration,
    /// What happened.
    pub what: What,
}

/// What can be seen from outside.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A step of the plan.
    Step(Event),
    /// A request was given to the broker.
    Sent(Ask),
    /// The broker had no session for the request with this reqId.
    Unreached(String),
    /// What happened between the broker and a client.
    Wire(Sighting),
    /// A handler was called, or came to its end.
    Handler {
        /// The reqId as JSON text.
        req_id: String,
        /// Which of its functions.
        moment: Moment,
        /// Which start of the work.
        attempt: u32,
        /// Whether it has come to its end.
        ended: bool,
    },
    /// The device asked for a restart, and this becomes of it.
    Restart(Restart, Fate),
    /// The machine is up again: this is its boot.
    Boot(u32),
    /// The agent was started, for this time.
    Started(u32),
    /// The agent has ended.
    Ended(String),
    /// The product was told that its report is durable.
    Confirmed(Report),
    /// From here on everything works.
    Calm,
    /// From here on nobody asks for anything.
    Quiet,
}

/// The functions of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// `handle`.
    Handle,
    /// `after_ack`.
    AfterAck,
    /// `recover`.
    Recover,
}

/// Where everybody writes down what happens; clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Chronicle {
    begin: Instant,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Chronicle {
    /// An empty one that begins now.
    #[must_use]
    pub(super) fn new() -> Self {
        Self { begin: Instant::now(), entries: Arc::default() }
    }

    pub(super) fn write(&self, what: What) {
        let entry = Entry { at: self.begin.elapsed(), what };
        self.entries.lock().expect("no holder of the lock panics").push(entry);
    }

    /// What was written until here.
    #[must_use]
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.lock().expect("no holder of the lock panics").clone()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at.as_secs();
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{hours:3}:{minutes:02}:{seconds:02}.{:09} {}", self.at.subsec_nanos(), self.what)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(event) => write!(f, "* {event}"),
            Self::Sent(ask) => write!(f, "  sent {}", ask.req_id),
            Self::Unreached(req_id) => write!(f, "  nobody took {req_id}"),
            Self::Wire(Sighting { client_id, what, .. }) => write_seen(f, client_id, what),
            Self::Handler { req_id, moment, attempt, ended } => {
                let verb = if *ended { "ended" } else { "began" };
                write!(f, "  {moment:?} of {req_id} {verb}, attempt {attempt}")
            }
            Self::Restart(kind, fate) => write!(f, "  the device asks for a {kind}: {fate:?}"),
            Self::Boot(boot) => write!(f, "* the machine is up, boot {boot}"),
            Self::Started(start) => write!(f, "* the agent starts, for the {start}. time"),
            Self::Ended(how) => write!(f, "* the agent has ended: {how}"),
            Self::Confirmed(report) => write!(f, "  durable: {report:?}"),
            Self::Calm => write!(f, "* everything works from here on"),
            Self::Quiet => write!(f, "* nobody asks for anything from here on"),
        }
    }
}

fn write_seen(f: &mut fmt::Formatter<'_>, client_id: &str, seen: &Seen) -> fmt::Result {
    match seen {
        Seen::Connected { session_present } => {
            write!(f, "  {client_id} connected, session {}", if *session_present { "present" } else { "new" })
        }
        Seen::Disconnected => write!(f, "  {client_id} disconnected"),
        Seen::Subscribed { filter } => write!(f, "  subscribed to {filter}"),
        Seen::Published { topic, payload } => {
            write!(f, "  device -> {topic} {}", String::from_utf8_lossy(payload))
        }
        Seen::Delivered { packet_id, topic, payload, again } => {
            let again = if *again { " again" } else { "" };
            write!(f, "  -> device{again} #{packet_id} {topic} {}", String::from_utf8_lossy(payload))
        }
        Seen::Acknowledged { packet_id, topic, .. } => write!(f, "  device has #{packet_id} {topic}"),
        other => write!(f, "  {other:?}"),
    }
}
