use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iotdm_core::{
    BootId, Decision, Declined, Event, Failure, Performed, Policy, Qos, Recovery, Report, ReqId, Route,
    Subject, Supports,
};
use serde_json::Value;
use serde_json::value::RawValue;

use super::key::KeyHash;

/// What happens to the engine.
#[derive(Debug)]
pub enum Input {
    /// The broker accepted the connection.
    Connected {
        /// Whether it still had this client's session.
        session_present: bool,
    },
    /// The broker answered the subscription.
    Subscribed {
        /// Whether it granted it.
        granted: bool,
    },
    /// The connection ended, or could not be made.
    Disconnected(Lost),
    /// A message arrived.
    Delivered(Delivered),
    /// The broker acknowledged a publish; one at QoS 0 was written to the connection.
    Acknowledged(PublishId),
    /// The broker refused a publish, in the words of its reason. Only MQTT 5 has that.
    Refused(PublishId, String),
    /// [`Handler::handle`](iotdm_core::Handler::handle) returned, panicked included.
    Decided(KeyHash, Decision),
    /// [`Handler::after_ack`](iotdm_core::Handler::after_ack) returned.
    Performed(KeyHash, Result<Performed, Failure>),
    /// [`Handler::recover`](iotdm_core::Handler::recover) returned.
    Recovered(KeyHash, Recovery),
    /// A task has ended, blocking work included: its place is free.
    Ended(KeyHash),
    /// The product sets attributes.
    SetAttributes(Vec<(String, Value)>, Option<Ticket>),
    /// The product reports something.
    Report(Report, Option<Ticket>),
    /// The product publishes an event.
    Publish(Event, Option<Ticket>),
    /// The product wants the device to be managed, as it is at first, or no longer.
    WantManaged(bool),
    /// The device offers other actions from here on.
    Replace(Offer, Ticket),
    /// The device was restarted beside the agent: which boot of it this is. Of an attached device only.
    Booted(BootId, Option<Ticket>),
    /// The agent is to stop: nothing new starts.
    Stop,
}

/// What a device offers, as the engine needs it.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The rules of every action that has a handler.
    pub policies: BTreeMap<Route, Policy>,
    /// What manage claims.
    pub supports: Supports,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The broker refused the credentials.
    Credentials,
    /// The broker refused the subscription.
    Subscription,
    /// The broker closed it and did not say why: so MQTT 3.1.1 tells of another client with the same client id.
    Closed,
    /// The network, or we ended it.
    Other,
}

/// A message as the link hands it over.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// What to acknowledge; none for QoS 0.
    pub delivery: Option<Delivery>,
    /// The topic it came on.
    pub topic: String,
    /// Its bytes.
    pub payload: Bytes,
    /// Whether the broker had it stored, rather than routed it.
    pub retained: bool,
    /// How long the broker says that it has kept it, in whole seconds; none where it does not count that. See
    /// [`Mqtt5::request_expiry`](crate::config::Mqtt5::request_expiry).
    pub waited: Option<Duration>,
}

/// A delivery to acknowledge. It dies with its connection: on the next one its number may be another message's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivery {
    /// Which connection of this agent it came on.
    pub epoch: u64,
    /// Its packet identifier there.
    pub packet: u16,
}

/// One of our publishes; counted up, never used twice by an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishId(pub u64);

/// Somebody who waits for something to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What the driver does, in order, once the writes of the same batch are durable.
#[derive(Debug)]
pub enum Effect {
    /// Open a connection.
    Connect {
        /// Its number; deliveries carry it.
        epoch: u64,
    },
    /// Subscribe to this device's requests and commands at QoS 1.
    Subscribe,
    /// End the connection with DISCONNECT.
    Disconnect,
    /// Send PUBACK.
    Acknowledge(Delivery),
    /// Publish at QoS 1, not retained.
    Publish {
        /// Comes back in [`Input::Acknowledged`].
        id: PublishId,
        /// The topic.
        topic: String,
        /// The bytes.
        payload: Bytes,
    },
    /// Publish an event at this QoS, not retained.
    PublishEvent {
        /// Comes back in [`Input::Acknowledged`].
        id: PublishId,
        /// The topic.
        topic: String,
        /// The bytes.
        payload: Bytes,
        /// How often it arrives.
        qos: Qos,
    },
    /// Start a task.
    Start(Task),
    /// End a task: its time is over.
    Cancel(KeyHash),
    /// Attributes have these values.
    Attributes(Vec<(String, Value)>),
    /// What this ticket waits for is durable.
    Confirm(Ticket),
    /// What this ticket asked for is not done.
    Decline(Ticket, Declined),
    /// Tasks that start after this one are those of the offer that came with this ticket.
    Replaced(Ticket),
    /// The session changed in a way its owner wants to hear.
    Announce(Announcement),
}

/// What the agent's owner hears about the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// The platform answered manage with 200.
    Managed,
    /// The platform answered unmanage.
    Unmanaged,
    /// The connection is gone.
    Disconnected,
    /// The broker refused the credentials.
    CredentialsRefused,
    /// The broker closed several connections in a row soon after the subscription: another client with the same client
    /// id, or something that this client may not do there.
    Contested,
}

/// A handler's work.
#[derive(Clone, Debug)]
pub struct Task {
    /// Whose.
    pub key: KeyHash,
    /// Which of the three moments.
    pub moment: Moment,
    /// The request.
    pub req_id: ReqId,
    /// Whose request.
    pub subject: Subject,
    /// What it asks for.
    pub route: Route,
    /// Its body.
    pub d: Option<Arc<RawValue>>,
    /// Which start this is.
    pub attempt: u32,
    /// How long it has.
    pub budget: Duration,
    /// Whether the machine was restarted since the work began.
    pub rebooted: bool,
}

/// The three moments of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// [`Handler::handle`](iotdm_core::Handler::handle).
    Handle,
    /// [`Handler::after_ack`](iotdm_core::Handler::after_ack).
    AfterAck,
    /// [`Handler::recover`](iotdm_core::Handler::recover).
    Recover,
}

/// The deadlines an engine keeps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// When to cancel the task of a request.
    Task(KeyHash),
    /// When to give up waiting for the lane.
    Lane(KeyHash),
    /// When to take it that a restart never came.
    Restart(KeyHash),
    /// When to cancel what still runs before a restart.
    Drain,
    /// When to connect.
    Connect,
    /// When to give up waiting for CONNACK or SUBACK.
    Establish,
    /// When to send manage, or to send it again.
    Manage,
    /// When to look whether the fence can be lifted without an answer to manage.
    Fence,
    /// When to send an own request again, or an answer that the broker refused.
    Report(u64),
    /// When to give up a connection on which nothing more can be sent.
    Window,
    /// When to move the online mark.
    Mark,
    /// When to look again whether an observed attribute is to be notified.
    Notify(String),
    /// When events that may have cost connections are sent again.
    Events,
    /// When to give up a connection on which no event is acknowledged.
    EventsStuck,
}
