//! Attached devices in the driver: what each of them has of its own, and how they come and go.

use std::fmt;
use std::sync::Arc;

use iotdm_core::{Declined, Subject, System, Table};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::agent::State;
use crate::engine::{Engine, Settings};
use crate::journal::{Journal, JournalError, Partition, Write};
use crate::store::StoreError;

use super::Driver;
use super::run::Run;
use super::services::{Answer, Command, Counters, Handle};

/// A device that the gateway speaks for.
pub(crate) struct Member {
    pub(crate) settings: Settings,
    pub(crate) table: Arc<Table>,
    pub(crate) system: Arc<dyn System>,
    pub(crate) handle: Handle,
    pub(crate) state: watch::Sender<State>,
}

/// Why a device is not attached, detached or forgotten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// This agent is a device's.
    #[error("only a gateway speaks for other devices: its client id begins with g:")]
    NoGateway,
    /// It speaks for this device already, or is it.
    #[error("{0} is attached already")]
    Attached(String),
    /// It does not speak for this device.
    #[error("{0} is not attached")]
    NotAttached(String),
    /// It speaks for as many as it may.
    #[error("a gateway speaks for {MAX_ATTACHED} devices at the most")]
    TooMany,
    /// Work of this device that was cancelled has not ended.
    #[error("work of {0} goes on since it was detached: try again when it has ended")]
    StillAtWork(String),
    /// The journal takes no further device, or cannot be read or written.
    #[error("{0}")]
    Journal(String),
    /// Something about it cannot be carried out.
    #[error("{0}")]
    Unusable(String),
    /// The agent has ended.
    #[error("the agent has ended")]
    Stopping,
}

impl Member {
    pub(super) fn engine(&self) -> Engine {
        Engine::new(self.settings.clone())
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("subject", &self.settings.subject).finish_non_exhaustive()
    }
}

impl Driver {
    /// The handles of every device of this agent.
    pub(super) fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.attached.values().map(|member| &member.handle).chain([&self.handle])
    }
}

impl Run<'_> {
    /// What the product sees is what is stored.
    pub(super) fn forget_attributes(&self) {
        for handle in self.driver.handles() {
            if let Some(engine) = self.hub.engine(handle.subject()) {
                handle.attributes.keep_only(|name| engine.model().read(name).is_some());
            }
        }
    }

    /// One commit for all devices.
    pub(super) fn commit(&mut self, writes: &[(Subject, Write)]) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let own = &self.driver.settings.subject;
        let partition = |of| if of == own { Partition::OWNER } else { Partition::of(of) };
        self.journal.commit_of(writes.iter().map(|(of, write)| (partition(of), write)))
    }

    /// A command that is about which devices there are. Others are given back.
    pub(super) fn command_about_devices(&mut self, command: Command) -> Option<Command> {
        match command {
            Command::Attach(member, done) => self.attach(*member, done),
            Command::Detach(of, done) => {
                // Whoever waited may have gone, here as below.
                let _ = done.send(self.detach(&of));
            }
            Command::Forget(of, done) => {
                let _ = done.send(self.forget(&of));
            }
            other => return Some(other),
        }
        None
    }

    fn attach(&mut self, member: Member, done: Answer) {
        let of = member.settings.subject.clone();
        let result = self.may_attach(&of).and_then(|()| {
            let mut engine = member.engine();
            match self.journal.attach(&of, |write| engine.restore(write)) {
                Ok(_) => Ok(engine),
                Err(JournalError::Store(reason)) => {
                    let told = AttachError::Journal(reason.to_string());
                    self.failed = Some(reason);
                    Err(told)
                }
                Err(reason) => Err(AttachError::Journal(reason.to_string())),
            }
        });
        let engine = match result {
            Ok(engine) => engine,
            Err(reason) => {
                let _ = done.send(Err(reason));
                return;
            }
        };
        info!(device = %named(&of), "attached");
        self.driver.attached.insert(of.clone(), member);
        self.hub.attach(self.now(), of, engine);
        let _ = done.send(Ok(()));
    }

    fn may_attach(&self, of: &Subject) -> Result<(), AttachError> {
        if self.hub.has(of) {
            return Err(AttachError::Attached(named(of)));
        }
        if self.driver.attached.len() >= MAX_ATTACHED {
            return Err(AttachError::TooMany);
        }
        if self.tasks.has_any_of(of) {
            return Err(AttachError::StillAtWork(named(of)));
        }
        Ok(())
    }

    fn detach(&mut self, of: &Subject) -> Result<(), AttachError> {
        if !self.driver.attached.contains_key(of) {
            return Err(AttachError::NotAttached(named(of)));
        }
        // What its engine has taken becomes durable, and whoever waits for that hears of it.
        if let Err(reason) = self.perform_batches() {
            let told = AttachError::Journal(reason.to_string());
            self.failed = Some(reason);
            return Err(told);
        }
        self.driver.attached.remove(of);
        self.hub.detach(self.now(), of);
        self.tasks.cancel_all_of(of);
        info!(device = %named(of), "detached; its requests are answered 404 from here on");
        Ok(())
    }

    fn forget(&mut self, of: &Subject) -> Result<(), AttachError> {
        if self.hub.has(of) {
            return Err(AttachError::Attached(named(of)));
        }
        self.journal.forget(of).map_err(|reason| {
            let told = AttachError::Journal(reason.to_string());
            self.failed = Some(reason);
            told
        })
    }

    /// The product of a device that was detached is told that nobody listens.
    pub(super) fn turn_away(command: Command) {
        match command {
            Command::SetAttributes(_, done)
            | Command::Report(_, done)
            | Command::Publish(_, done)
            | Command::Booted(_, done) => {
                let _ = done.send(Err(Declined::Stopping));
            }
            Command::Counters(done) => done.send(Counters::new()).unwrap_or_default(),
            Command::WantManaged(_) => {}
            Command::Replace(..) | Command::Attach(..) | Command::Detach(..) | Command::Forget(..) => {
                warn!("a detached device asked for what only the agent's own device may ask for");
            }
        }
    }
}

/// Those of the journal's devices that are not attached are told once, at the start.
pub(super) fn tell_absent(journal: &Journal, attached: usize) {
    let known = journal.devices().count();
    if known > attached {
        info!(devices = known - attached, "the journal keeps the records of devices that are not attached");
    }
}

/// A device as people write it.
pub(crate) fn named(subject: &Subject) -> String {
    match subject {
        Subject::Connected => "this device".into(),
        Subject::Named { type_id, device_id } => format!("{type_id}/{device_id}"),
    }
}

/// How many devices a gateway may speak for: as many as the platform counts active on one connection
/// (`docs/protocol.md` §3).
pub const MAX_ATTACHED: usize = 500;
