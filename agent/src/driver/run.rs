use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use iotdm_core::{Declined, Qos, Subject, Table};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use crate::agent::State;
use crate::engine::{Announcement, Delivered, Delivery, Effect, Engine, Input, Now, Ticket};
use crate::hub::{Batch, Hub};
use crate::journal::Journal;
use crate::link::{Connection, LinkEvent};
use crate::store::StoreError;

use super::services::{Command, Replaced};
use super::tasks::{TaskEvent, Tasks};
use super::{Driver, Ending, Member, RunError, Shutdown, named};

/// One life of an engine.
pub(super) struct Run<'a> {
    pub(super) driver: &'a mut Driver,
    started: Instant,
    pub(super) journal: Journal,
    pub(super) hub: Hub,
    connection: Option<Box<dyn Connection>>,
    epoch: u64,
    pub(super) tasks: Tasks,
    task_events: mpsc::UnboundedReceiver<(Subject, TaskEvent)>,
    /// The journal failed outside a batch.
    pub(super) failed: Option<StoreError>,
    tickets: BTreeMap<Ticket, oneshot::Sender<Result<(), Declined>>>,
    pub(super) replacements: BTreeMap<Ticket, (Arc<Table>, Replaced)>,
    next_ticket: u64,
    ever_connected: bool,
    credentials_refused: bool,
}

/// What woke the driver.
enum Wake {
    Link(LinkEvent),
    Task((Subject, TaskEvent)),
    Command((Subject, Command)),
    Timer,
    Shutdown,
}

impl<'a> Run<'a> {
    pub(super) fn new(driver: &'a mut Driver, started: Instant, journal: Journal, hub: Hub) -> Self {
        // Each task sends two events at the most, and the engine bounds the tasks.
        let (sender, task_events) = mpsc::unbounded_channel();
        let tasks = Tasks::new(driver.table.clone(), driver.system.clone(), driver.handle.clone(), sender);
        Self {
            driver,
            started,
            journal,
            hub,
            connection: None,
            epoch: 0,
            tasks,
            task_events,
            failed: None,
            tickets: BTreeMap::new(),
            replacements: BTreeMap::new(),
            next_ticket: 0,
            ever_connected: false,
            credentials_refused: false,
        }
    }

    pub(super) async fn go(mut self, shutdown: &mut Shutdown<'_>) -> Result<Ending, RunError> {
        let now = self.now();
        self.hub.start(now);
        for handle in self.driver.handles() {
            handle.events.begin();
        }
        self.forget_attributes();
        loop {
            if let Err(reason) = self.perform_batches() {
                return Ok(self.crash(reason).await);
            }
            if self.credentials_refused && !self.ever_connected {
                self.tasks.end_all().await;
                return Err(RunError::CredentialsRefused(self.driver.broker.clone()));
            }
            if matches!(self.wait(shutdown).await, Wake::Shutdown) {
                return Ok(self.stop().await);
            }
            self.take_what_is_there();
        }
    }

    /// Waits for one thing to happen and hands it to the engine.
    async fn wait(&mut self, shutdown: &mut Shutdown<'_>) -> Wake {
        let deadline = self.hub.poll_timeout().map(|at| self.started + at);
        let wake = tokio::select! {
            biased;
            () = &mut *shutdown => Wake::Shutdown,
            event = next_event(&mut self.connection) => Wake::Link(event),
            Some(event) = self.task_events.recv() => Wake::Task(event),
            Some(command) = self.driver.commands.recv() => Wake::Command(command),
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => Wake::Timer,
        };
        match wake {
            Wake::Link(event) => self.link_event(event),
            Wake::Task((of, event)) => self.task_event(&of, event),
            Wake::Command((of, command)) => self.command(&of, command),
            Wake::Timer => {
                let now = self.now();
                self.hub.handle_timeout(now);
            }
            Wake::Shutdown => return Wake::Shutdown,
        }
        Wake::Timer
    }

    /// Whatever else has happened already goes into the same batch: one commit for all of it.
    fn take_what_is_there(&mut self) {
        for _ in 0..INPUTS_PER_BATCH {
            if let Some(event) = self.connection.as_mut().and_then(|connection| connection.try_next()) {
                self.link_event(event);
            } else if let Ok((of, event)) = self.task_events.try_recv() {
                self.task_event(&of, event);
            } else if let Ok((of, command)) = self.driver.commands.try_recv() {
                self.command(&of, command);
            } else {
                return;
            }
        }
    }

    fn link_event(&mut self, event: LinkEvent) {
        let input = match event {
            LinkEvent::Connected { session_present } => {
                self.ever_connected = true;
                if self.driver.settings.events_only {
                    info!(
                        "connected to {} as {}, for events alone",
                        self.driver.broker, self.driver.identity
                    );
                }
                Input::Connected { session_present }
            }
            LinkEvent::Subscribed { granted, refused } => {
                if granted {
                    info!("connected to {} as {}", self.driver.broker, self.driver.identity);
                }
                for filter in refused.iter().filter_map(|place| self.driver.filters.get(*place)) {
                    error!(
                        "{} refused the subscription of {} to {filter}: check its permissions there",
                        self.driver.broker, self.driver.identity
                    );
                }
                Input::Subscribed { granted }
            }
            LinkEvent::Message { packet, topic, payload, retained, waited } => {
                let delivery = packet.map(|packet| Delivery { epoch: self.epoch, packet });
                Input::Delivered(Delivered { delivery, topic, payload, retained, waited })
            }
            LinkEvent::Published(id) => Input::Acknowledged(id),
            LinkEvent::Refused(id, reason) => Input::Refused(id, reason),
            LinkEvent::Lost(lost, reason) => {
                self.connection = None;
                warn!("no connection to {}: {reason}", self.driver.broker);
                Input::Disconnected(lost)
            }
        };
        let now = self.now();
        self.hub.link(now, input);
    }

    fn task_event(&mut self, of: &Subject, event: TaskEvent) {
        let input = match event {
            TaskEvent::Decided(key, decision) => Input::Decided(key, decision),
            TaskEvent::Performed(key, result) => Input::Performed(key, result),
            TaskEvent::Recovered(key, recovery) => Input::Recovered(key, recovery),
            TaskEvent::Ended(key) => {
                self.tasks.ended(key);
                Input::Ended(key)
            }
        };
        self.input(of, input);
    }

    fn command(&mut self, of: &Subject, command: Command) {
        let Some(command) = self.command_about_devices(command) else { return };
        if !self.hub.has(of) {
            return Self::turn_away(command);
        }
        let input = match command {
            Command::SetAttributes(changes, done) => Input::SetAttributes(changes, Some(self.ticket(done))),
            Command::Report(report, done) => Input::Report(report, Some(self.ticket(done))),
            Command::Publish(event, done) => Input::Publish(event, Some(self.ticket(done))),
            Command::WantManaged(wanted) => Input::WantManaged(wanted),
            // Whoever waited may have gone.
            Command::Counters(done) => {
                let counters = self.hub.engine(of).map(Engine::counters).unwrap_or_default();
                return done.send(counters).unwrap_or_default();
            }
            Command::Booted(boot, done) => Input::Booted(boot, Some(self.ticket(done))),
            Command::Replace(actions, done) => return self.replace(of, actions, done),
            Command::Attach(..) | Command::Detach(..) | Command::Forget(..) => return,
        };
        self.input(of, input);
    }

    fn ticket(&mut self, done: oneshot::Sender<Result<(), Declined>>) -> Ticket {
        let ticket = self.next_ticket();
        self.tickets.insert(ticket, done);
        ticket
    }

    pub(super) fn next_ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    pub(super) fn input(&mut self, of: &Subject, input: Input) {
        let now = self.now();
        self.hub.handle(now, of, input);
    }

    pub(super) fn perform_batches(&mut self) -> Result<(), StoreError> {
        if let Some(reason) = self.failed.take() {
            return Err(reason);
        }
        while let Some(Batch { writes, effects }) = self.hub.poll() {
            self.commit(&writes)?;
            for (of, effect) in effects {
                self.perform(&of, effect);
            }
        }
        for handle in self.driver.handles() {
            if let Some(engine) = self.hub.engine(handle.subject()) {
                handle.events.tell(engine.events());
            }
        }
        Ok(())
    }

    fn perform(&mut self, of: &Subject, effect: Effect) {
        match effect {
            Effect::Connect { epoch } => {
                self.epoch = epoch;
                self.connection = Some(self.driver.link.open());
            }
            Effect::Subscribe => {
                if let Some(connection) = &mut self.connection {
                    connection.subscribe(&self.driver.filters);
                }
            }
            Effect::Disconnect => self.connection = None,
            Effect::Acknowledge(delivery) => {
                // A delivery of an earlier connection: its number may be another message's on this one.
                if delivery.epoch == self.epoch
                    && let Some(connection) = &mut self.connection
                {
                    connection.acknowledge(delivery.packet);
                }
            }
            Effect::Publish { id, topic, payload } => {
                if let Some(connection) = &mut self.connection {
                    connection.publish(id, topic, payload);
                }
            }
            Effect::PublishEvent { id, topic, payload, qos } => {
                if let Some(connection) = &mut self.connection {
                    match qos {
                        Qos::AtMostOnce => connection.publish_once(id, topic, payload),
                        Qos::AtLeastOnce => connection.publish(id, topic, payload),
                    }
                }
            }
            Effect::Start(task) => match self.driver.attached.get(of) {
                Some(Member { table, system, handle, .. }) => {
                    self.tasks.start_with(task, table, system.clone(), handle.clone());
                }
                None => self.tasks.start(task),
            },
            Effect::Cancel(key) => self.tasks.cancel(key),
            Effect::Attributes(changes) => {
                let attached = self.driver.attached.get(of).map(|member| &member.handle);
                attached.unwrap_or(&self.driver.handle).attributes.apply(changes);
            }
            Effect::Confirm(ticket) => self.tell(ticket, Ok(())),
            Effect::Decline(ticket, declined) => self.tell(ticket, Err(declined)),
            Effect::Replaced(ticket) => self.replaced(of, ticket),
            Effect::Announce(announcement) => self.announce(of, announcement),
        }
    }

    fn tell(&mut self, ticket: Ticket, result: Result<(), Declined>) {
        if let Some(done) = self.tickets.remove(&ticket) {
            // Whoever waited may have gone.
            let _ = done.send(result);
        }
    }

    fn announce(&mut self, of: &Subject, announcement: Announcement) {
        let attached = self.driver.attached.get(of);
        let state = match announcement {
            Announcement::Managed => {
                match attached {
                    None => info!("managed as {} at {}", self.driver.identity, self.driver.broker),
                    Some(_) => info!(device = %named(of), "managed at {}", self.driver.broker),
                }
                State::Managed
            }
            Announcement::Unmanaged => State::Unmanaged,
            Announcement::Disconnected => State::Disconnected,
            Announcement::CredentialsRefused => {
                self.credentials_refused = true;
                State::Disconnected
            }
            Announcement::Contested => {
                error!(
                    "{} closes each connection soon after the subscription: is there another client with the id {}, or \
                     may this one not publish there? The pauses between attempts become longer",
                    self.driver.broker, self.driver.identity
                );
                State::Disconnected
            }
        };
        attached.map_or(&self.driver.state, |member| &member.state).send_replace(state);
    }

    async fn crash(mut self, reason: StoreError) -> Ending {
        self.connection = None;
        self.tasks.end_all().await;
        Ending::CommitFailed(reason)
    }

    /// Lets running work finish within the grace period, commits what is lazy, and says goodbye to the broker.
    async fn stop(mut self) -> Ending {
        let grace = self.driver.settings.limits.shutdown_grace;
        let deadline = Instant::now() + grace;
        let now = self.now();
        self.hub.stop(now);
        info!("stopping; running work has {grace:?}");
        let mut elapsed: Shutdown<'_> = Box::pin(sleep_until(deadline));
        loop {
            if let Err(reason) = self.perform_batches() {
                return self.crash(reason).await;
            }
            if self.hub.is_quiet() || matches!(self.wait(&mut elapsed).await, Wake::Shutdown) {
                break;
            }
            self.take_what_is_there();
        }
        self.tasks.end_all().await;
        let rest = self.hub.poll_rest();
        if let Err(reason) = self.commit(&rest) {
            error!("the last commit failed: {reason}");
        }
        self.say_goodbye().await;
        Ending::Stopped
    }

    async fn say_goodbye(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        connection.disconnect();
        let lost = async { while !matches!(connection.next().await, LinkEvent::Lost(..)) {} };
        if timeout(GOODBYE_WITHIN, lost).await.is_err() {
            debug!("the broker did not take the goodbye in time");
        }
        self.driver.disconnected();
    }

    pub(super) fn now(&self) -> Now {
        Now {
            monotonic: self.started.elapsed(),
            uptime: self.driver.system.uptime(),
            wall: self.driver.system.wall_clock(),
        }
    }
}

async fn next_event(connection: &mut Option<Box<dyn Connection>>) -> LinkEvent {
    match connection {
        Some(connection) => connection.next().await,
        None => std::future::pending().await,
    }
}

/// How many inputs go into one batch: enough for a broker's window, few enough to answer the first one soon.
const INPUTS_PER_BATCH: usize = 256;

/// How long DISCONNECT may take to leave.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);
