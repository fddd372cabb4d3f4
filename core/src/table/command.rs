use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Decision, Erased, Table, TableError, misfit};
use crate::action::Policy;
use crate::command::{
    Acknowledge, Command, CommandMessage, LONGEST_HANDLED, MAX_COMMAND_FILTERS, OnCommand, Payload, Received,
    joined,
};
use crate::extension::ExtensionAction;
use crate::handler::{Context, Recovery};
use crate::reply::{Failure, Performed, Refusal, ReplyParts};
use crate::response::Code;
use crate::topic::{Route, Subject, Topic};
use crate::validate::Rules;

impl Table {
    /// Registers a handler for a command.
    ///
    /// # Errors
    /// [`TableError::Duplicate`]; [`TableError::Unusable`] for an id or a format that is no level of a topic, a budget
    /// that an acknowledgement may not wait for, a schema that cannot be enforced, or more commands than one
    /// subscription may have.
    pub fn on_command<C: Command>(&mut self, handler: impl OnCommand<C>) -> Result<(), TableError> {
        self.on_command_route::<C>(Route::command(C::ID, C::FORMAT), Policy::of_command::<C>(), handler)
    }

    /// Registers a handler for a command whose id, format and rules are known only at run time.
    ///
    /// # Errors
    /// As [`on_command`](Self::on_command) has them; [`TableError::Malformed`] for a route of something else.
    pub fn on_command_route<C: Command>(
        &mut self,
        route: Route,
        policy: Policy,
        handler: impl OnCommand<C>,
    ) -> Result<(), TableError> {
        if !matches!(route, Route::Command { .. }) {
            return Err(TableError::Malformed(route));
        }
        let unusable = |reason: String| Err(TableError::Unusable { route: route.clone(), reason });
        if !route.is_well_formed() {
            return unusable(
                "write id and format as one level of a topic each, of at most 1024 bytes, or as + for any"
                    .into(),
            );
        }
        if policy.acknowledge == Acknowledge::Handled && policy.budget > LONGEST_HANDLED {
            return unusable(format!(
                "an acknowledgement waits for a handler no longer than {LONGEST_HANDLED:?}: give it that budget, or acknowledge the command once it is durable"
            ));
        }
        if self.command_routes().count() >= MAX_COMMAND_FILTERS {
            return unusable(format!(
                "a device takes {MAX_COMMAND_FILTERS} commands at the most: use + for many"
            ));
        }
        let mut is_json = false;
        let rules = Rules::of(|generator| {
            let schema = C::Payload::schema(generator);
            is_json = schema.is_some();
            schema.unwrap_or_else(|| true.into())
        });
        let rules = match rules {
            Ok(rules) => is_json.then_some(rules),
            Err(reason) => return unusable(format!("the schema of its payload: {reason}")),
        };
        self.on_erased(route, policy, Arc::new(Typed::<C, _> { rules, handler, command: PhantomData }))
    }

    /// The filters of all commands, no two of which match one topic.
    pub fn command_filters(&self) -> Vec<String> {
        let filter = |(id, format)| {
            Topic { subject: Subject::Connected, route: Route::command(id, format) }.to_string()
        };
        joined(self.command_routes()).into_iter().map(filter).collect()
    }

    fn command_routes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.keys().filter_map(|route| match route {
            Route::Command { id, format } => Some((&**id, &**format)),
            _ => None,
        })
    }
}

/// A handler of a command without its types. What the engine calls the body is the [`CommandMessage`].
struct Typed<C, H> {
    rules: Option<Rules>,
    handler: H,
    command: PhantomData<fn() -> C>,
}

#[async_trait]
impl<C: Command, H: OnCommand<C>> Erased for Typed<C, H> {
    async fn handle(&self, cx: &Context, d: Option<&RawValue>) -> Decision {
        let command = match self.decode(d) {
            Ok(command) => command,
            Err(refusal) => return Decision::Undecodable(refusal),
        };
        match self.handler.on_command(cx, &command).await {
            Ok(()) => Decision::Replied(ReplyParts { rc: Code::OK, d: None }),
            Err(failure) => Decision::Refused(Refusal::failed(failure.to_string())),
        }
    }

    async fn after_ack(&self, _: &Context, _: Option<&RawValue>) -> Result<Performed, Failure> {
        Ok(Performed::Complete)
    }

    async fn recover(&self, _: &Context, _: Option<&RawValue>) -> Recovery {
        Recovery::Abandon
    }

    fn check(&self, d: Option<&RawValue>) -> Result<(), Refusal> {
        self.decode(d).map(drop)
    }

    fn describe(&self, id: &str) -> ExtensionAction {
        ExtensionAction::new(id)
    }

    fn schemas(&self, generator: &mut SchemaGenerator) -> (Schema, Option<Schema>) {
        (C::Payload::schema(generator).unwrap_or_else(|| true.into()), None)
    }
}

impl<C: Command, H> Typed<C, H> {
    /// Bounds come first, then the decoding, then the rest of the schema, as for a request.
    fn decode(&self, d: Option<&RawValue>) -> Result<Received<C::Payload>, Refusal> {
        let kept = d.and_then(CommandMessage::from_raw);
        let Some(CommandMessage { id, format, payload: bytes }) = kept else {
            return Err(misfit("it is not a command as the journal keeps them".into()));
        };
        let found = match &self.rules {
            None => None,
            Some(rules) => {
                let value: Value =
                    serde_json::from_slice(&bytes).map_err(|error| misfit(error.to_string()))?;
                Some(rules.check(&value))
            }
        };
        let (bound, shape) = found.map_or((None, None), |found| (found.bound, found.shape));
        if let Some(bound) = bound {
            return Err(misfit(bound));
        }
        let payload = C::Payload::decode(&bytes).map_err(misfit)?;
        shape.map_or(Ok(Received { id, format, payload }), |shape| Err(misfit(shape)))
    }
}
