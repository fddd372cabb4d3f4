//! Commands: what an application tells a device on `iot-2/cmd/{id}/fmt/{format}`, without a reqId and without an answer.

mod filters;
mod message;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use schemars::{Schema, SchemaGenerator};

use crate::action::{Interrupted, Late, Phases, Policy, RequestBody};
use crate::handler::Context;
use crate::reply::Failure;
use crate::topic::Route;

pub use self::filters::MAX_COMMAND_FILTERS;
pub(crate) use self::filters::joined;
pub use self::message::CommandMessage;

/// One kind of command that this device takes.
///
/// ```
/// use iotdm_core::{Acknowledge, Command, Interrupted, Json};
///
/// /// Turns the lamp to a colour.
/// struct Colour;
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Wanted {
///     name: String,
///     #[schemars(range(max = 100))]
///     percent: u8, // 140 does not fit: the handler never sees it, and it is counted
/// }
///
/// impl Command for Colour {
///     const ID: &str = "colour";
///     const INTERRUPTED: Interrupted = Interrupted::RunAgain; // setting a colour twice is harmless
///     type Payload = Json<Wanted>;
/// }
/// ```
///
/// A command has no identifier: neither a packet identifier nor the DUP flag tells a repetition from another command
/// that says the same. Every command is therefore carried out *at least once* unless something refuses it, and its
/// handler is to be written so that once more does no harm.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a command",
    label = "a `Command` is needed here",
    note = "write `impl Command for {Self}` with `const ID: &str` and `type Payload`"
)]
pub trait Command: Sized + 'static {
    /// The command's id: one level of a topic, or `+` for every id that has no handler of its own.
    const ID: &'static str;
    /// The format of its payload: one level of a topic, or `+` for every format that has no handler of its own.
    const FORMAT: &'static str = "json";
    /// When the broker is told that it need not send the command again.
    const ACKNOWLEDGE: Acknowledge = Acknowledge::Durable;
    /// How long the handler may take; then it is cancelled, and the command has failed. With [`Acknowledge::Handled`] it
    /// counts from the arrival and is [`LONGEST_HANDLED`] at the most.
    const BUDGET: Duration = Duration::from_secs(30);
    /// What becomes of a command that waited while the device was away. One that is late is dropped and counted.
    const LATE: Late = Late::Run;
    /// What a crash in the middle of the handler means for an [`Acknowledge::Durable`] command: it is run again, or
    /// dropped, counted and reported.
    const INTERRUPTED: Interrupted = Interrupted::Refuse;
    /// How often a durable command may be started in all, crashes included.
    const ATTEMPTS: u32 = 3;
    /// What it carries: [`Json`] of a type, a `String`, or the bytes as a `Vec<u8>`.
    type Payload: Payload;
}

/// When a command is acknowledged to the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledge {
    /// Once it is recorded; then it runs, also after a crash. What comes behind it does not wait.
    #[default]
    Durable,
    /// Once its handler has ended, or its budget has. Nothing is recorded: after a crash the broker sends it again.
    /// Acknowledgements leave in the order of arrival, so that those of everything behind it wait, too; what is behind
    /// it runs meanwhile, as far as the broker's window reaches.
    Handled,
}

/// Carries out a command. Implementors write plain `async fn`.
///
/// # Guarantees
/// * With [`Acknowledge::Durable`] a recorded command is started once, unless it says
///   [`Interrupted::RunAgain`]; then it may be started again after a crash, and [`Context::attempt`] tells.
/// * Commands start in the order in which they came, as far as there are places for them.
///
/// # Caveats
/// * The broker may deliver a command twice; nothing on the wire tells that it did.
/// * Commands run beside each other and do not wait for each other. Where the order of their effects matters, a handler
///   takes a `tokio::sync::Mutex` first: it is given in the order in which it was asked for.
///
/// # Errors
/// Nobody is answered. A [`Failure`], a panic and an overrun are logged, counted, and reported to the platform as an
/// error code and a log entry of severity 2.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot carry out the command `{C}`",
    label = "an `OnCommand<{C}>` is needed here",
    note = "write `impl OnCommand<{C}> for {Self}` with `async fn on_command(&self, cx: &Context, command: &Received<<{C} as Command>::Payload>) -> Result<(), Failure>`"
)]
pub trait OnCommand<C: Command>: Send + Sync + 'static {
    /// Does what was commanded.
    fn on_command(
        &self,
        cx: &Context,
        command: &Received<C::Payload>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl<C: Command, H: OnCommand<C>> OnCommand<C> for Arc<H> {
    fn on_command(
        &self,
        cx: &Context,
        command: &Received<C::Payload>,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        (**self).on_command(cx, command)
    }
}

/// A command as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received<P> {
    /// The id in its topic, which a handler for `+` cannot know otherwise.
    pub id: String,
    /// The format in its topic.
    pub format: String,
    /// What it carried.
    pub payload: P,
}

/// What a command may carry.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the payload of a command",
    label = "it is not decoded from bytes",
    note = "write `type Payload = Json<{Self}>` with `#[derive(serde::Deserialize, schemars::JsonSchema)]` above `{Self}`, or take the bytes as `Vec<u8>` or the text as `String`"
)]
pub trait Payload: Sized + Send + Sync + 'static {
    /// Decodes it.
    ///
    /// # Errors
    /// Where it does not fit, in words for the device's own log.
    fn decode(bytes: &[u8]) -> Result<Self, String>;

    /// The schema of what is JSON; its bounds are enforced.
    fn schema(_generator: &mut SchemaGenerator) -> Option<Schema> {
        None
    }
}

/// A payload of JSON. What the schema of its type says is enforced, as it is for the request of an
/// [`Action`](crate::Action).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: RequestBody> Payload for Json<T> {
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        T::decode(value).map(Self).map_err(|refusal| refusal.message().to_owned())
    }

    fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(T::schema(generator))
    }
}

impl Payload for Vec<u8> {
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        Ok(bytes.to_vec())
    }
}

impl Payload for String {
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        std::str::from_utf8(bytes).map(Self::from).map_err(|error| format!("no UTF-8: {error}"))
    }
}

impl Policy {
    /// The rules a command declares.
    pub fn of_command<C: Command>() -> Self {
        Self {
            phases: Phases::WorkThenAnswer,
            budget: C::BUDGET,
            perform_budget: Duration::ZERO,
            late: C::LATE,
            interrupted: match C::ACKNOWLEDGE {
                Acknowledge::Durable => C::INTERRUPTED,
                // The broker repeats it in any case.
                Acknowledge::Handled => Interrupted::RunAgain,
            },
            attempts: C::ATTEMPTS,
            acknowledge: C::ACKNOWLEDGE,
        }
    }
}

impl Route {
    /// Where a command is declared, or where one came: `+` stands for any id or any format.
    pub fn command(id: &str, format: &str) -> Self {
        Self::Command { id: id.to_owned().into(), format: format.to_owned().into() }
    }

    /// Where a handler of this route may be registered, the most specific first: the route itself, then, for a command,
    /// its id in any format, any id in its format, and any at all.
    pub fn declarations(&self) -> impl Iterator<Item = Self> + use<> {
        let wildcards = match self {
            Self::Command { id, format } => {
                vec![Self::command(id, ANY), Self::command(ANY, format), Self::command(ANY, ANY)]
            }
            _ => Vec::new(),
        };
        std::iter::once(self.clone()).chain(wildcards)
    }

    /// The command of a suffix below `iot-2/`, as it is delivered: without wildcards.
    pub fn command_from_suffix(suffix: &str) -> Option<Self> {
        let (id, format) = suffix.strip_prefix("cmd/")?.split_once("/fmt/")?;
        (is_level(id) && is_level(format)).then(|| Self::command(id, format))
    }
}

/// Writes a command's part of a topic: the suffix below `iot-2/`.
pub(crate) fn write_suffix(id: &str, format: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "cmd/{id}/fmt/{format}")
}

/// Whether a command can be declared so: one level of a topic, or the wildcard for it.
pub(crate) fn is_declarable(level: &str) -> bool {
    level == ANY || is_level(level)
}

/// One level of a topic name as MQTT has it, and not empty (`docs/connect/commands.md`).
fn is_level(level: &str) -> bool {
    !level.is_empty() && level.len() <= MAX_LEVEL_BYTES && !level.contains(['/', '+', '#', '\0'])
}

/// MQTT's wildcard for one level.
pub(crate) const ANY: &str = "+";

/// The longest id, and the longest format, in bytes of UTF-8. MQTT would allow 65 535 for the whole topic; the topic of
/// each waiting command is kept.
const MAX_LEVEL_BYTES: usize = 1024;

/// The longest time that the acknowledgement of a command may wait for its handler. Everything that the broker sent
/// behind it is acknowledged after it, and a broker with a small window sends nothing meanwhile.
pub const LONGEST_HANDLED: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
