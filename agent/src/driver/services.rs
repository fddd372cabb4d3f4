use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use iotdm_core::{BootId, Declined, Event, PublishError, Report, Services, Subject, Table, TableError};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::agent::State;

use super::attached::{AttachError, Member};
use super::events::EventDesk;
/// How often something has occurred, by its name.
pub(crate) type Counters = BTreeMap<&'static str, u64>;

/// Who waits for a command to be durable, or declined.
pub(crate) type Done = oneshot::Sender<Result<(), Declined>>;

/// Who waits for other actions to serve, or to be refused.
pub(crate) type Replaced = oneshot::Sender<Result<(), TableError>>;

/// What a product or a handler asks of the running agent.
#[derive(Debug)]
pub(crate) enum Command {
    SetAttributes(Vec<(String, Value)>, Done),
    Report(Report, Done),
    Publish(Event, Done),
    WantManaged(bool),
    /// How often each kind of thing that nobody is answered for has occurred.
    Counters(oneshot::Sender<Counters>),
    /// These actions in the place of those that can be replaced.
    Replace(Table, Replaced),
    /// This device was restarted.
    Booted(BootId, Done),
    /// The gateway speaks for this device from here on.
    Attach(Box<Member>, Answer),
    /// It speaks for this one no longer.
    Detach(Subject, Answer),
    /// Nothing is to be known of this one.
    Forget(Subject, Answer),
}

/// Who waits for a device to be attached, detached or forgotten.
pub(crate) type Answer = oneshot::Sender<Result<(), AttachError>>;

/// The attributes as they were last made durable.
#[derive(Clone, Debug)]
pub(crate) struct Attributes {
    values: Arc<Mutex<BTreeMap<String, Versioned>>>,
    changed: watch::Sender<u64>,
}

/// A value, and the number of the change that made it what it is.
#[derive(Clone, Debug)]
pub(crate) struct Versioned {
    pub(crate) version: u64,
    pub(crate) value: Value,
}

impl Attributes {
    pub(crate) fn new() -> Self {
        Self { values: Arc::default(), changed: watch::Sender::new(0) }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Value> {
        self.versioned(name).map(|versioned| versioned.value)
    }

    pub(crate) fn versioned(&self, name: &str) -> Option<Versioned> {
        self.values.lock().expect("no holder of the lock panics").get(name).cloned()
    }

    pub(crate) fn apply(&self, changes: Vec<(String, Value)>) {
        let version = *self.changed.borrow() + 1;
        let mut values = self.values.lock().expect("no holder of the lock panics");
        for (name, value) in changes {
            if values.get(&name).is_none_or(|before| before.value != value) {
                values.insert(name, Versioned { version, value });
            }
        }
        drop(values);
        self.changed.send_replace(version);
    }

    /// Forgets what is not stored: a journal that was set aside took it along.
    pub(crate) fn keep_only(&self, is_stored: impl Fn(&str) -> bool) {
        self.values.lock().expect("no holder of the lock panics").retain(|name, _| is_stored(name));
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// The way to the running agent, for its owner and for handlers.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) attributes: Attributes,
    pub(crate) events: EventDesk,
    /// Whose handle it is.
    of: Subject,
    commands: mpsc::Sender<(Subject, Command)>,
    state: watch::Receiver<State>,
}

impl Handle {
    pub(crate) fn new(
        of: Subject,
        state: watch::Receiver<State>,
        events: EventDesk,
    ) -> (Self, mpsc::Receiver<(Subject, Command)>) {
        let (commands, receiver) = mpsc::channel(COMMAND_CAPACITY);
        (Self { attributes: Attributes::new(), events, of, commands, state }, receiver)
    }

    /// The handle of another device of the same agent.
    pub(crate) fn of_attached(&self, of: Subject, state: watch::Receiver<State>) -> Self {
        let (attributes, events) = (Attributes::new(), self.events.of_attached());
        Self { attributes, events, of, commands: self.commands.clone(), state }
    }

    pub(crate) fn subject(&self) -> &Subject {
        &self.of
    }

    pub(crate) async fn booted(&self, boot: BootId) -> Result<(), Declined> {
        self.ask(|done| Command::Booted(boot.clone(), done)).await
    }

    /// Asks once: `None` when the agent has ended, or opens its journal again.
    pub(crate) async fn ask_once(
        &self,
        command: impl FnOnce(Answer) -> Command,
    ) -> Option<Result<(), AttachError>> {
        let (done, answer) = oneshot::channel();
        self.send(command(done)).await.ok()?;
        answer.await.ok()
    }

    async fn send(&self, command: Command) -> Result<(), mpsc::error::SendError<(Subject, Command)>> {
        self.commands.send((self.of.clone(), command)).await
    }

    pub(crate) async fn set_attributes(&self, changes: Vec<(String, Value)>) -> Result<(), Declined> {
        self.ask(|done| Command::SetAttributes(changes.clone(), done)).await
    }

    /// Waits for the end of the run.
    pub(crate) async fn ended(&self) {
        self.commands.closed().await;
    }

    pub(crate) async fn report(&self, report: Report) -> Result<(), Declined> {
        self.ask(|done| Command::Report(report.clone(), done)).await
    }

    pub(crate) async fn publish(&self, event: Event) -> Result<(), PublishError> {
        // A gateway, and each device that it speaks for, is named in its topics.
        let is_unnamed = event.topic().subject == Subject::Connected && self.of != Subject::Connected;
        let event = if is_unnamed { event.of(self.of.clone()) } else { event };
        self.events.check(&event)?;
        Ok(self.ask(|done| Command::Publish(event.clone(), done)).await?)
    }

    pub(crate) async fn want_managed(&self, wanted: bool) -> Result<(), Declined> {
        self.send(Command::WantManaged(wanted)).await.map_err(|_| Declined::Stopping)
    }

    pub(crate) async fn counters(&self) -> Result<Counters, Declined> {
        loop {
            let (done, answer) = oneshot::channel();
            self.send(Command::Counters(done)).await.map_err(|_| Declined::Stopping)?;
            match answer.await {
                Ok(counters) => return Ok(counters),
                Err(_) if self.commands.is_closed() => return Err(Declined::Stopping),
                Err(_) => {}
            }
        }
    }

    /// `None` when the agent has ended.
    pub(crate) async fn replace(&self, actions: Table) -> Option<Result<(), TableError>> {
        loop {
            let (done, answer) = oneshot::channel();
            self.send(Command::Replace(actions.clone(), done)).await.ok()?;
            match answer.await {
                Ok(result) => return Some(result),
                Err(_) if self.commands.is_closed() => return None,
                Err(_) => {}
            }
        }
    }

    /// Asks until there is an answer: an agent that opens its journal again after a failed commit has forgotten who
    /// waited, and whether it was done.
    async fn ask(&self, command: impl Fn(Done) -> Command) -> Result<(), Declined> {
        loop {
            let (done, answer) = oneshot::channel();
            self.send(command(done)).await.map_err(|_| Declined::Stopping)?;
            match answer.await {
                Ok(result) => return result,
                Err(_) if self.commands.is_closed() => return Err(Declined::Stopping),
                Err(_) => {}
            }
        }
    }
}

/// What one task gets: the handle, and a count of the blocking work it started.
pub(super) struct TaskServices {
    pub(super) handle: Handle,
    pub(super) blocking: TaskTracker,
}

#[async_trait]
impl Services for TaskServices {
    fn attribute(&self, name: &str) -> Option<Value> {
        self.handle.attributes.get(name)
    }

    async fn set_attributes(&self, changes: Vec<(String, Value)>) -> Result<(), Declined> {
        self.handle.set_attributes(changes).await
    }

    async fn report(&self, report: Report) -> Result<(), Declined> {
        self.handle.report(report).await
    }

    async fn publish(&self, event: Event) -> Result<(), PublishError> {
        self.handle.publish(event).await
    }

    async fn managed(&self) {
        let mut state = self.handle.state.clone();
        if state.wait_for(|state| *state == State::Managed).await.is_err() {
            // The driver is gone: nobody will manage this device any more.
            std::future::pending::<()>().await;
        }
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.blocking.spawn_blocking(work);
    }
}

/// How many commands of the product may wait for the agent; the next one waits.
const COMMAND_CAPACITY: usize = 64;
