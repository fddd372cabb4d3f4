//! The contract of the iotdm device-management agent: what travels, what may be asked, and who answers.
//!
//! ```
//! use iotdm_core::{Accepted, Context, Empty, Failure, Handler, Performed, Reboot, Refusal, Restart};
//!
//! struct Luminaire;
//!
//! impl Handler<Reboot> for Luminaire {
//!     async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
//!         Ok(Accepted)
//!     }
//!     async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
//!         cx.system().restart(Restart::Reboot).await.map_err(|error| Failure::new(error.to_string()))
//!     }
//! }
//! ```
//!
//! * **The wire**: [`Topic`], [`Route`], [`Envelope`], [`Response`]: parsed once at the edge, built from one place.
//! * **The prefix**: [`TopicPrefix`] is where a device's topics lie in a tree that many share.
//! * **Actions**: [`Action`] names what the platform may ask; its reply *type* is the code it answers with.
//! * **Commands**: [`Command`] names what applications may tell the device; [`OnCommand`] carries it out, unanswered.
//! * **Handlers**: [`Handler`] carries an action out; [`Context`] is all it sees of the agent.
//! * **The table**: [`Table`] is typed where handlers are registered and erased where requests are routed. It enforces
//!   what the schemas of requests say, and prints them: as JSON Schema, and as [`ExtensionPackage`]s for the platform.
//! * **The device model**: [`DeviceInfo`], [`Location`], [`Firmware`]: attributes as `docs/protocol.md` §4 and §5 have them.
//! * **The system**: [`System`] is the seam to clocks, boot identity, restarts and child processes.
//!
//! Architecture invariant: nothing in this crate does I/O, spawns a task or reads a wall clock.

mod action;
mod actions;
mod command;
mod envelope;
mod event;
mod extension;
mod handler;
mod identity;
mod location;
mod model;
mod prefix;
mod reply;
mod report;
mod req_id;
mod response;
mod system;
mod table;
mod topic;
mod validate;

pub use action::{Action, Empty, Interrupted, Late, Phases, Policy, RequestBody};
pub use actions::{
    AttributeValue, Cancel, CancelRequest, DeviceUpdate, Download, FactoryReset, FieldName, Observe,
    ObserveReply, ObserveRequest, Reboot, Update, UpdateRequest,
};
pub use command::{
    Acknowledge, Command, CommandMessage, Json, LONGEST_HANDLED, MAX_COMMAND_FILTERS, OnCommand, Payload,
    Received,
};
pub use envelope::{Correlation, Envelope, MAX_PAYLOAD_BYTES, Unreadable};
pub use event::{Event, EventError, EventTopic, PublishError, Qos, TopicLevel, TopicLevelError};
pub use extension::{ExtensionAction, ExtensionPackage, ExtensionParameter, LocalText};
pub use handler::{Bundle, Context, ContextParts, Declined, Handler, Recovery, Services};
pub use identity::{ClientKind, Identity, IdentityError, Name, NameError};
pub use location::{Location, LocationError};
pub use model::{DeviceInfo, Firmware, FirmwareState, UnknownNumber, UpdateStatus, attribute};
pub use prefix::{TopicPrefix, TopicPrefixError};
pub use reply::{Accepted, Changed, Failure, Finished, Performed, Refusal, Reply, ReplyParts};
pub use report::{LogEntry, Manage, Report, Severity, Supports, iso8601};
pub use req_id::ReqId;
pub use response::{Code, Incoming, Response};
pub use system::{
    BootId, ChildError, ChildExit, ChildOutput, ChildProcess, LineListener, Restart, RestartError, RunAs,
    System,
};
pub use table::{Decision, Erased, Table, TableError};
pub use topic::{Direction, Route, Subject, Topic, UpRoute};
