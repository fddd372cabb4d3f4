//! What the machine is doing: memory, disks, load, uptime, temperatures (`docs/protocol.md` §4.1, §5.6).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use iotdm_core::{
    Action, Bundle, Context, Empty, Event, Failure, Finished, Handler, Interrupted, Refusal, Route, System,
    Table, TableError, iso8601,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

mod change;
mod machine;

pub use change::Thresholds;

/// Tells the platform how the machine is: when it asks, by `iotdm/facts`, as the member `facts` of the attribute
/// `metadata`, and as event `facts`.
///
/// # Flow
/// 1. `iotdm/facts` is answered with the [`Facts`] of this moment.
/// 2. [`run`](Self::run) sets `metadata.facts` at the start. It reads them again after each interval, and sets them when
///    they differ from what is there by as much as the [`Thresholds`]. Manage carries `metadata` at every connection and renewal
///    (`docs/protocol.md` §4.1), and whoever observes it is notified.
/// 3. [`publish`](Self::publish) publishes them as an event after each interval, whether they changed or not.
///
/// # Guarantees
/// * What cannot be read is left out; the rest is told.
/// * Everything is bounded: 16 disks, 16 temperatures, 64 bytes of each name.
/// * A machine that does nothing special costs no message and no write to the journal.
///
/// # Caveats
/// * Another member of `metadata` that the platform changes within the milliseconds of a set may be set back.
/// * A file system that does not answer, such as one on a server that is gone, keeps one thread until it does; nothing
///   is told meanwhile.
#[derive(Clone)]
pub struct SystemFacts {
    options: Arc<FactsOptions>,
    turn: Arc<Semaphore>,
}

/// What is read, and how often.
#[derive(Clone, Debug)]
pub struct FactsOptions {
    /// The folders whose file systems are told of, by their absolute paths; 16 at most.
    pub disks: Vec<PathBuf>,
    /// How often [`SystemFacts::run`] looks: ten seconds to a day.
    pub interval: Duration,
    /// How much has to differ until it tells.
    pub thresholds: Thresholds,
    /// The folder that `proc` and `sys` are in; `/` but for tests, where the paths of `disks` are below it, too.
    pub root: PathBuf,
}

impl Default for FactsOptions {
    /// The root file system, every five minutes.
    fn default() -> Self {
        Self {
            disks: vec!["/".into()],
            interval: DEFAULT_INTERVAL,
            thresholds: Thresholds::default(),
            root: "/".into(),
        }
    }
}

/// Why options cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FactsOptionsError {
    /// Too many.
    #[error("at most {MAX_DISKS} disks are told of")]
    Disks,
    /// A path that depends on where the agent was started, or that no answer can hold.
    #[error("the path {0:?} of a disk has to be absolute, UTF-8, and at most {MAX_PATH_BYTES} bytes")]
    Path(PathBuf),
    /// Out of its range.
    #[error("the interval of the facts is ten seconds to a day")]
    Interval,
}

impl SystemFacts {
    /// With what is to be read.
    ///
    /// # Errors
    /// [`FactsOptionsError`] for what could only fail later.
    pub fn new(options: FactsOptions) -> Result<Self, FactsOptionsError> {
        if options.disks.len() > MAX_DISKS {
            return Err(FactsOptionsError::Disks);
        }
        let is_path = |path: &Path| {
            path.is_absolute() && path.to_str().is_some_and(|text| text.len() <= MAX_PATH_BYTES)
        };
        if let Some(path) = options.disks.iter().find(|path| !is_path(path)) {
            return Err(FactsOptionsError::Path(path.clone()));
        }
        if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&options.interval) {
            return Err(FactsOptionsError::Interval);
        }
        Ok(Self { options: Arc::new(options), turn: Arc::new(Semaphore::new(1)) })
    }

    /// Reads the facts now. It may block, as a file system may.
    pub fn read(&self, system: &dyn System) -> Facts {
        let options = &*self.options;
        Facts {
            time: iso8601(system.wall_clock()),
            uptime_seconds: system.uptime().as_secs(),
            memory: machine::memory(&options.root),
            load: machine::load(&options.root),
            disks: options.disks.iter().filter_map(|path| machine::disk(&options.root, path)).collect(),
            temperatures: machine::temperatures(&options.root),
        }
    }

    /// Keeps `metadata.facts` up to date for as long as `set` takes it. `metadata` gives the attribute as it is.
    pub async fn run<Sent>(
        &self,
        system: Arc<dyn System>,
        metadata: impl Fn() -> Option<Value>,
        set: impl Fn(Value) -> Sent,
    ) -> Failure
    where
        Sent: Future<Output = Result<(), Failure>>,
    {
        let mut first = true;
        loop {
            let (facts, reader, turn) = (self.clone(), system.clone(), self.turn().await);
            let read = tokio::task::spawn_blocking(move || facts.read_in(turn, &*reader)).await;
            // A thread that panicked, or a runtime that ends: the next time is soon enough.
            if let Ok(facts) = read
                && let Some(changed) = self.merged(metadata(), &facts, std::mem::take(&mut first))
                && let Err(failure) = set(changed).await
            {
                return failure;
            }
            sleep(self.options.interval).await;
        }
    }

    /// Publishes the facts as event `facts` in JSON, at once and after each interval, for as long as `publish` takes it:
    /// what a trend is made of. The thresholds do not matter here.
    pub async fn publish<Sent>(
        &self,
        system: Arc<dyn System>,
        interval: Duration,
        publish: impl Fn(Event) -> Sent,
    ) -> Failure
    where
        Sent: Future<Output = Result<(), Failure>>,
    {
        loop {
            let (facts, reader, turn) = (self.clone(), system.clone(), self.turn().await);
            let read = tokio::task::spawn_blocking(move || facts.read_in(turn, &*reader)).await;
            // A thread that panicked, or a runtime that ends: the next time is soon enough.
            if let Ok(facts) = read {
                let event = Event::json(EVENT, &facts).expect("the facts are bounded, and their id is an id");
                if let Err(failure) = publish(event).await {
                    return failure;
                }
            }
            sleep(interval).await;
        }
    }

    async fn turn(&self) -> OwnedSemaphorePermit {
        self.turn.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Reads while it has its turn: the thread of a file system that does not answer has it until it does.
    fn read_in(&self, turn: OwnedSemaphorePermit, system: &dyn System) -> Facts {
        let facts = self.read(system);
        drop(turn);
        facts
    }

    /// The whole `metadata` with these facts in it; nothing when they differ too little from what is there.
    /// At the start they are told in any case: what is there is another start's.
    fn merged(&self, metadata: Option<Value>, facts: &Facts, first: bool) -> Option<Value> {
        let mut members = match metadata {
            Some(Value::Object(members)) => members,
            // The model takes objects alone.
            _ => Map::new(),
        };
        let known = members.get(MEMBER).filter(|_| !first);
        if known.is_some_and(|known| !self.options.thresholds.are_passed(known, facts)) {
            return None;
        }
        members.insert(MEMBER.into(), json!(facts));
        Some(Value::Object(members))
    }
}

impl Handler<ReadFacts> for SystemFacts {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<Facts>, Refusal> {
        let (facts, context, turn) = (self.clone(), cx.clone(), self.turn().await);
        Ok(Finished(cx.blocking(move |_| facts.read_in(turn, context.system())).await))
    }
}

impl Bundle for SystemFacts {
    fn register(self, table: &mut Table) -> Result<(), TableError> {
        table.on::<ReadFacts>(self)
    }
}

impl fmt::Debug for SystemFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemFacts").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The platform asks how the machine is.
#[derive(Clone, Copy, Debug)]
pub struct ReadFacts;

impl Action for ReadFacts {
    const ROUTE: Route = Route::custom("iotdm", "facts");
    const TITLE: &'static str = "Tell how the machine is";
    // Reading changes nothing.
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    type Request = Empty;
    type Reply = Finished<Facts>;
}

/// How the machine is. What it does not tell is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// When that was, ISO 8601.
    pub time: String,
    /// Time since the machine's start.
    pub uptime_seconds: u64,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Space>,
    /// Mean number of tasks that ran or wanted to, over 1, 5 and 15 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<[f64; 3]>,
    /// The declared disks that are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// The thermal zones, in the order of their numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub temperatures: Vec<Temperature>,
}

/// How much there is, and how much of it can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Space {
    /// In bytes.
    pub total_bytes: u64,
    /// In bytes: for memory without swapping, on a disk for users other than root.
    pub available_bytes: u64,
}

/// A file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// The declared folder in it.
    pub path: String,
    /// Its space.
    #[serde(flatten)]
    pub space: Space,
}

/// A thermal zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Temperature {
    /// What the kernel calls it, such as `cpu-thermal`.
    pub zone: String,
    /// Degrees Celsius.
    pub celsius: f64,
}

/// The id of the event.
const EVENT: &str = "facts";

/// The member of `metadata`.
const MEMBER: &str = "facts";

/// How many disks are told of: a device has a few.
const MAX_DISKS: usize = 16;

/// Longest path of a disk, in bytes: it is repeated each time.
const MAX_PATH_BYTES: usize = 256;

/// What an operator looks at rarely, and a trend needs often.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5 * 60);

const MIN_INTERVAL: Duration = Duration::from_secs(10);
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests;
