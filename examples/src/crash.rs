//! Ends its own process at a named moment, so that a test puts a crash where no timer would meet it.
//!
//! The agent has no hooks for this. It calls a store, a connection and handlers, and a product may give it any of them:
//! [`Crash`] wraps them, and at the wanted [`CrashPoint`] the process aborts. Nothing is flushed, closed or sent then.

use std::env;
use std::error::Error;
use std::fmt;
use std::process::abort;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use iotdm_agent::engine::PublishId;
use iotdm_agent::link::{Connection, Link, LinkEvent};
use iotdm_agent::store::{Change, Store, StoreError, StoreSource};
use iotdm_core::{Action, Context, Failure, Handler, Performed, Recovery, Refusal};

/// A moment at which the process can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// A message of the broker was received; the engine has not seen it.
    MessageArrived,
    /// A batch of writes is complete, and none of it written.
    BeforeCommit,
    /// The batch is durable, and none of its effects has happened.
    AfterCommit,
    /// A PUBACK is due, and was not sent.
    BeforePuback,
    /// A PUBACK was sent.
    AfterPuback,
    /// A publish is due, and was not sent.
    BeforePublish,
    /// A publish was sent; the broker's PUBACK may be on its way.
    AfterPublish,
    /// The broker's PUBACK of a publish was received; the engine has not seen it.
    PublishAcknowledged,
    /// A handler was called, and has done nothing.
    HandlerStarted,
    /// A handler has done its work, and the agent does not know.
    HandlerEnded,
    /// The work behind a 202 was called for, and has not begun.
    PerformStarted,
    /// The work behind a 202 is done, and the agent does not know.
    PerformEnded,
    /// Interrupted work is about to be judged.
    RecoverStarted,
}

impl CrashPoint {
    /// Every one, in the order in which a request meets them.
    pub const ALL: [Self; 13] = [
        Self::MessageArrived,
        Self::BeforeCommit,
        Self::AfterCommit,
        Self::BeforePuback,
        Self::AfterPuback,
        Self::HandlerStarted,
        Self::HandlerEnded,
        Self::BeforePublish,
        Self::AfterPublish,
        Self::PublishAcknowledged,
        Self::PerformStarted,
        Self::PerformEnded,
        Self::RecoverStarted,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::MessageArrived => "message-arrived",
            Self::BeforeCommit => "before-commit",
            Self::AfterCommit => "after-commit",
            Self::BeforePuback => "before-puback",
            Self::AfterPuback => "after-puback",
            Self::BeforePublish => "before-publish",
            Self::AfterPublish => "after-publish",
            Self::PublishAcknowledged => "publish-acknowledged",
            Self::HandlerStarted => "handler-started",
            Self::HandlerEnded => "handler-ended",
            Self::PerformStarted => "perform-started",
            Self::PerformEnded => "perform-ended",
            Self::RecoverStarted => "recover-started",
        }
    }
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counts down to the crash that `DM_CRASH_AT` asks for, as `before-commit:3` for the third commit of the process;
/// without the variable nothing happens.
#[derive(Clone, Debug, Default)]
pub struct Crash(Option<Arc<Countdown>>);

#[derive(Debug)]
struct Countdown {
    point: CrashPoint,
    left: AtomicUsize,
}

impl Crash {
    /// The crash that `DM_CRASH_AT` asks for.
    ///
    /// # Errors
    /// The variable holds no point and number.
    pub fn from_environment() -> Result<Self, Box<dyn Error>> {
        match env::var(CRASH_VARIABLE) {
            Ok(text) => text.parse().map_err(|problem| format!("{CRASH_VARIABLE}={text}: {problem}").into()),
            Err(_) => Ok(Self::default()),
        }
    }

    /// A store's source that meets the points of a commit.
    pub fn store<S: StoreSource>(&self, source: S) -> impl StoreSource + use<S> {
        CrashingSource { source, crash: self.clone() }
    }

    /// A link that meets the points of messages and acknowledgements.
    pub fn link<L: Link>(&self, link: L) -> impl Link + use<L> {
        CrashingLink { link, crash: self.clone() }
    }

    /// A handler that meets the points of its work.
    pub fn handler<H>(&self, handler: H) -> CrashingHandler<H> {
        CrashingHandler { handler, crash: self.clone() }
    }

    /// Ends the process here, if this is where it is to end.
    fn reach(&self, point: CrashPoint) {
        if self.is_due(point) {
            abort();
        }
    }

    /// Ends the process when what was handed to the connection has left it.
    fn reach_once_sent(&self, point: CrashPoint) {
        if self.is_due(point) {
            tokio::spawn(async {
                tokio::time::sleep(LEAVES_WITHIN).await;
                abort();
            });
        }
    }

    fn is_due(&self, point: CrashPoint) -> bool {
        let Some(countdown) = self.0.as_deref().filter(|countdown| countdown.point == point) else {
            return false;
        };
        // Below zero it goes on at the largest number, which no process comes down from.
        countdown.left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

impl FromStr for Crash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, number) = text.split_once(':').ok_or("expected POINT:NUMBER")?;
        let point = CrashPoint::ALL.into_iter().find(|point| point.name() == name);
        let point = point.ok_or("there is no such point")?;
        let left = number.parse().ok().filter(|number| *number > 0).ok_or("expected a number from 1")?;
        Ok(Self(Some(Arc::new(Countdown { point, left: AtomicUsize::new(left) }))))
    }
}

#[derive(Debug)]
struct CrashingSource<S> {
    source: S,
    crash: Crash,
}

impl<S: StoreSource> StoreSource for CrashingSource<S> {
    fn open(&mut self) -> Result<Box<dyn Store>, StoreError> {
        let store = self.source.open()?;
        Ok(Box::new(CrashingStore { store, crash: self.crash.clone() }))
    }

    fn set_aside(&mut self) -> Result<String, StoreError> {
        self.source.set_aside()
    }
}

#[derive(Debug)]
struct CrashingStore {
    store: Box<dyn Store>,
    crash: Crash,
}

impl Store for CrashingStore {
    fn scan(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        self.store.scan(visit)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.crash.reach(CrashPoint::BeforeCommit);
        self.store.commit(changes)?;
        self.crash.reach(CrashPoint::AfterCommit);
        Ok(())
    }
}

#[derive(Debug)]
struct CrashingLink<L> {
    link: L,
    crash: Crash,
}

impl<L: Link> Link for CrashingLink<L> {
    fn open(&mut self) -> Box<dyn Connection> {
        Box::new(CrashingConnection { connection: self.link.open(), crash: self.crash.clone() })
    }
}

#[derive(Debug)]
struct CrashingConnection {
    connection: Box<dyn Connection>,
    crash: Crash,
}

impl CrashingConnection {
    fn received(&self, event: &LinkEvent) {
        match event {
            LinkEvent::Message { .. } => self.crash.reach(CrashPoint::MessageArrived),
            LinkEvent::Published(_) | LinkEvent::Refused(..) => {
                self.crash.reach(CrashPoint::PublishAcknowledged)
            }
            LinkEvent::Connected { .. } | LinkEvent::Subscribed { .. } | LinkEvent::Lost(..) => {}
        }
    }
}

#[async_trait]
impl Connection for CrashingConnection {
    async fn next(&mut self) -> LinkEvent {
        let event = self.connection.next().await;
        self.received(&event);
        event
    }

    fn try_next(&mut self) -> Option<LinkEvent> {
        self.connection.try_next().inspect(|event| self.received(event))
    }

    fn subscribe(&mut self, filters: &[String]) {
        self.connection.subscribe(filters);
    }

    fn acknowledge(&mut self, packet: u16) {
        self.crash.reach(CrashPoint::BeforePuback);
        self.connection.acknowledge(packet);
        self.crash.reach_once_sent(CrashPoint::AfterPuback);
    }

    fn publish(&mut self, id: PublishId, topic: String, payload: Bytes) {
        self.crash.reach(CrashPoint::BeforePublish);
        self.connection.publish(id, topic, payload);
        self.crash.reach_once_sent(CrashPoint::AfterPublish);
    }

    fn publish_once(&mut self, id: PublishId, topic: String, payload: Bytes) {
        self.connection.publish_once(id, topic, payload);
    }

    fn disconnect(&mut self) {
        self.connection.disconnect();
    }
}

/// A handler that meets the points of its work.
#[derive(Clone, Debug)]
pub struct CrashingHandler<H> {
    handler: H,
    crash: Crash,
}

impl<A: Action, H: Handler<A>> Handler<A> for CrashingHandler<H> {
    async fn handle(&self, cx: &Context, request: &A::Request) -> Result<A::Reply, Refusal> {
        self.crash.reach(CrashPoint::HandlerStarted);
        let reply = self.handler.handle(cx, request).await;
        self.crash.reach(CrashPoint::HandlerEnded);
        reply
    }

    async fn after_ack(&self, cx: &Context, request: &A::Request) -> Result<Performed, Failure> {
        self.crash.reach(CrashPoint::PerformStarted);
        let performed = self.handler.after_ack(cx, request).await;
        self.crash.reach(CrashPoint::PerformEnded);
        performed
    }

    async fn recover(&self, cx: &Context, request: &A::Request) -> Recovery {
        self.crash.reach(CrashPoint::RecoverStarted);
        self.handler.recover(cx, request).await
    }
}

/// Names the crash.
const CRASH_VARIABLE: &str = "DM_CRASH_AT";

/// How long what was handed to a connection takes to leave, generously: the next turn of the runtime sends it.
const LEAVES_WITHIN: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_occurrence_of_the_named_point_is_due() {
        for point in CrashPoint::ALL {
            let crash: Crash = format!("{point}:3").parse().unwrap();
            let other = CrashPoint::ALL.into_iter().find(|other| *other != point).unwrap();
            assert!(!crash.is_due(other));
            assert_eq!([(); 5].map(|()| crash.is_due(point)), [false, false, true, false, false]);
        }
    }

    #[test]
    fn a_crash_that_is_none_is_refused() {
        for text in ["", "before-commit", "before-commit:0", "before-commit:x", "nowhere:1"] {
            assert!(text.parse::<Crash>().is_err(), "{text}");
        }
    }
}
