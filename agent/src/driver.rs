//! The shell around the engine: the only place that does I/O. It decides nothing.
//!
//! One rule holds everywhere: apply the writes, make them durable once, then perform the effects. A failed commit is a
//! crash: nothing of its batch happens, the connection is dropped without DISCONNECT, handlers are cancelled, and the
//! ordinary recovery begins with the reopened store.

mod attached;
mod events;
mod replace;
mod run;
mod services;
mod tasks;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use iotdm_core::{Subject, System, Table};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info};

use crate::agent::State;
use crate::engine::{Engine, Settings};
use crate::hub::Hub;
use crate::journal::{Found, Journal, JournalError, Partition};
use crate::link::Link;
use crate::store::{Store, StoreError, StoreSource};

pub use self::attached::{AttachError, MAX_ATTACHED};
pub(crate) use self::attached::{Member, named};
pub(crate) use self::events::EventDesk;
use self::run::Run;
pub(crate) use self::services::{Answer, Command, Handle};

/// What one run of an agent is made of.
pub(crate) struct Driver {
    pub(crate) settings: Settings,
    pub(crate) identity: String,
    pub(crate) broker: String,
    pub(crate) filters: Vec<String>,
    pub(crate) table: Arc<Table>,
    pub(crate) system: Arc<dyn System>,
    pub(crate) source: Box<dyn StoreSource>,
    pub(crate) link: Box<dyn Link>,
    pub(crate) handle: Handle,
    pub(crate) commands: mpsc::Receiver<(Subject, Command)>,
    pub(crate) state: watch::Sender<State>,
    /// The devices that this one speaks for.
    pub(crate) attached: BTreeMap<Subject, Member>,
}

/// Why a run ended without being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The broker refused the credentials at the very first connection: only a person can mend that.
    #[error("the broker at {0} refused the credentials of this device")]
    CredentialsRefused(String),
}

enum Ending {
    Stopped,
    CommitFailed(StoreError),
}

impl Driver {
    /// Runs until told to stop.
    pub(crate) async fn run(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<(), RunError> {
        let mut shutdown: Shutdown<'_> = Box::pin(shutdown);
        let started = Instant::now();
        let mut opened = self.open_journal()?;
        loop {
            let (journal, hub) = opened;
            match Run::new(&mut self, started, journal, hub).go(&mut shutdown).await? {
                Ending::Stopped => return Ok(()),
                Ending::CommitFailed(reason) => error!("the journal could not be written: {reason}"),
            }
            self.disconnected();
            match self.reopen(&mut shutdown).await? {
                Some(again) => opened = again,
                None => return Ok(()),
            }
        }
    }

    async fn reopen(&mut self, shutdown: &mut Shutdown<'_>) -> Result<Option<(Journal, Hub)>, RunError> {
        let mut pause = REOPEN_PAUSE;
        loop {
            match self.open_journal() {
                Ok(opened) => return Ok(Some(opened)),
                Err(RunError::Journal(JournalError::Store(reason))) if !is_anothers(&reason) => {
                    error!("the journal cannot be opened again: {reason}; trying again in {pause:?}");
                }
                Err(reason) => return Err(reason),
            }
            tokio::select! {
                biased;
                () = &mut *shutdown => return Ok(None),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(REOPEN_PAUSE_CAP),
            }
        }
    }

    fn open_journal(&mut self) -> Result<(Journal, Hub), RunError> {
        match self.open_once() {
            Err(reason) if reason.is_damage() => {
                let place = self.source.set_aside().map_err(JournalError::from)?;
                error!("{reason}; it was set aside as {place}, and the agent starts with an empty journal");
                Ok(self.open_once()?)
            }
            result => Ok(result?),
        }
    }

    fn open_once(&mut self) -> Result<(Journal, Hub), JournalError> {
        let store: Box<dyn Store> = self.source.open()?;
        let mut engine =
            Engine::new(Settings { seed: fresh(&mut self.settings.seed), ..self.settings.clone() });
        let mut attached: BTreeMap<Partition, Engine> = BTreeMap::new();
        for (of, member) in &mut self.attached {
            let seed = fresh(&mut member.settings.seed);
            let settings = Settings { seed, ..member.settings.clone() };
            attached.insert(Partition::of(of), Engine::new(settings));
        }
        let devices: Vec<Subject> = self.attached.keys().cloned().collect();
        let restore = |of, entry| match attached.get_mut(&of) {
            Some(device) => device.restore(entry),
            None if of == Partition::OWNER => engine.restore(entry),
            None => {}
        };
        let (journal, found) = Journal::open_shared(store, &self.identity, &devices, restore)?;
        if found == Found::Nothing {
            info!("an empty journal was created for {}", self.identity);
        }
        attached::tell_absent(&journal, devices.len());
        let mut hub = Hub::new(self.settings.subject.clone(), engine);
        for of in devices {
            let engine = attached.remove(&Partition::of(&of)).expect("it was made a moment ago");
            hub.add(of, engine);
        }
        Ok((journal, hub))
    }

    fn disconnected(&self) {
        self.state.send_replace(State::Disconnected);
        for member in self.attached.values() {
            member.state.send_replace(State::Disconnected);
        }
    }
}

/// A seed of its own for each run: ids that the last one gave out must not come again.
fn fresh(seed: &mut u64) -> u64 {
    let next = fastrand::Rng::with_seed(*seed).u64(..);
    std::mem::replace(seed, next)
}

/// Whether another process has the journal. Our own lock may outlive its store for a moment: a child that was forked
/// meanwhile has it until it becomes another program.
fn is_anothers(reason: &StoreError) -> bool {
    matches!(reason, StoreError::Locked { pid, .. } if *pid != Some(std::process::id()))
}

type Shutdown<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("identity", &self.identity)
            .field("broker", &self.broker)
            .finish_non_exhaustive()
    }
}

/// The pause before a store whose commit failed is opened again; it doubles.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause before a store is opened again.
const REOPEN_PAUSE_CAP: Duration = Duration::from_secs(60);
