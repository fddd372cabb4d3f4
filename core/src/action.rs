use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::Acknowledge;
use crate::reply::{Refusal, Reply};
use crate::topic::Route;

/// One thing the platform may ask of this device.
///
/// A product declares its own in a few lines and gets routing, decoding and bounds with precise 400 messages, a schema,
/// the extension package, time budgets, replay protection and the `supports` flag of manage with it:
///
/// ```
/// use iotdm_core::{Action, Finished, Interrupted, Route};
///
/// /// Turns the lamp to a colour.
/// struct SetColour;
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Colour {
///     name: String,
///     #[schemars(range(max = 100))]
///     percent: u8, // 140 is answered 400 "d.percent: 140 is more than 100 (the maximum)"
/// }
///
/// impl Action for SetColour {
///     const ROUTE: Route = Route::custom("lamp", "setColour");
///     const INTERRUPTED: Interrupted = Interrupted::RunAgain; // setting a colour twice is harmless
///     type Request = Colour;
///     type Reply = Finished<()>;
/// }
/// ```
///
/// The request of a custom action is written from the platform's `d.fields` list: each `{field, value}` becomes one
/// member. The platform sends every value as a text (`docs/protocol.md` §5.6): where the schema has another type, the
/// text is read as JSON, so that `"40"` is a number for a `u8` and a text for a `String`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an action",
    label = "an `Action` is needed here",
    note = "write `impl Action for {Self}` with `const ROUTE`, `type Request` and `type Reply`"
)]
pub trait Action: Sized + 'static {
    /// Where it is asked for.
    const ROUTE: Route;
    /// What people on the platform see it called, in its extension package; its id unless given.
    const TITLE: &'static str = "";
    /// What it does, for the same people.
    const DESCRIPTION: &'static str = "";
    /// How long [`handle`](crate::Handler::handle) may take; then it is cancelled and the answer is 500.
    const BUDGET: Duration = Duration::from_secs(30);
    /// How long [`after_ack`](crate::Handler::after_ack) may take; then it is cancelled and recorded as failed.
    const PERFORM_BUDGET: Duration = Duration::from_secs(30 * 60);
    /// What becomes of a request that waited while the device was away.
    const LATE: Late = Late::Run;
    /// What a crash in the middle of `handle` means.
    const INTERRUPTED: Interrupted = Interrupted::Refuse;
    /// How often the work may be started in all, crashes included.
    const ATTEMPTS: u32 = 3;
    /// What the platform sends as `d`. What its schema says is enforced: `#[schemars(range(…))]`, `length`, `regex` and
    /// the like bound what a handler is given. An `#[serde(alias)]` is no part of a schema: its value is not bounded.
    type Request: RequestBody;
    /// What it gets back; the type is the code: [`Accepted`](crate::Accepted) 202, [`Changed`](crate::Changed) 204,
    /// [`Finished`](crate::Finished) 200.
    type Reply: Reply;
}

/// What a request may be: every type with `#[derive(serde::Deserialize, schemars::JsonSchema)]` is one.
///
/// The two derives are not supertraits: a type that lacks one would be told of the derive's own trait and of dozens of
/// types that have it, not of what to write.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the request of an action",
    label = "it is not decoded from JSON, has no schema, or cannot be sent between threads",
    note = "write `#[derive(serde::Deserialize, schemars::JsonSchema)]` above `{Self}` and above the types of its members, none of which is borrowed; an action without parameters has `type Request = Empty`"
)]
pub trait RequestBody: Sized + Send + Sync + 'static {
    /// Decodes a body.
    ///
    /// # Errors
    /// 400, with the place that does not fit.
    fn decode(body: Value) -> Result<Self, Refusal>;
    /// Its schema.
    fn schema(generator: &mut SchemaGenerator) -> Schema;
}

#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned + JsonSchema + Send + Sync + 'static> RequestBody for T {
    fn decode(body: Value) -> Result<Self, Refusal> {
        crate::table::read(body)
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<Self>()
    }
}

/// A request without a body. Members that are there all the same are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

/// What becomes of a request that waited on the broker while the device was away (`docs/protocol.md` §1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It runs, as the protocol's documents say.
    Run,
    /// It is refused with 409 when it may be older than this. Requests carry no timestamp: the age is an upper bound,
    /// so that a fresh one may be refused, and an old one never runs.
    RefuseAfter(Duration),
}

/// What an interruption of `handle` by a crash or a restart means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// It may have happened: it is not started again, and the answer is 500.
    Refuse,
    /// Doing it again does no harm: it is started again, up to [`Action::ATTEMPTS`].
    RunAgain,
}

/// Whether work comes before the answer or after it (`docs/protocol.md` §9 point 17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phases {
    /// Custom actions: the work, then 200 or 204.
    WorkThenAnswer,
    /// Reboot, reset, firmware: 202, then the work.
    AnswerThenWork,
}

/// An action's rules as the engine needs them; the configuration may change the budgets and the late policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Work before the answer, or after it.
    pub phases: Phases,
    /// See [`Action::BUDGET`].
    pub budget: Duration,
    /// See [`Action::PERFORM_BUDGET`].
    pub perform_budget: Duration,
    /// See [`Action::LATE`].
    pub late: Late,
    /// See [`Action::INTERRUPTED`].
    pub interrupted: Interrupted,
    /// See [`Action::ATTEMPTS`].
    pub attempts: u32,
    /// See [`Command::ACKNOWLEDGE`](crate::Command::ACKNOWLEDGE); a request is always acknowledged once it is recorded.
    pub acknowledge: Acknowledge,
}

impl Policy {
    /// The rules an action declares.
    pub fn of<A: Action>() -> Self {
        Self {
            phases: <A::Reply as Reply>::PHASES,
            budget: A::BUDGET,
            perform_budget: A::PERFORM_BUDGET,
            late: A::LATE,
            interrupted: A::INTERRUPTED,
            attempts: A::ATTEMPTS,
            acknowledge: Acknowledge::Durable,
        }
    }
}
