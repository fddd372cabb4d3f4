use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::{Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::action::{Action, Phases, Policy, RequestBody};
use crate::extension::ExtensionAction;
use crate::handler::{Bundle, Context, Handler, Recovery};
use crate::reply::{Failure, Performed, Refusal, Reply, ReplyParts};
use crate::report::Supports;
use crate::topic::{Route, is_custom_id};
use crate::validate::Rules;

mod command;
mod print;

/// The dispatch table: typed where handlers are registered, erased where requests are routed.
///
/// Architecture invariant: request bodies of handlers are decoded here and nowhere else.
///
/// A copy shares the handlers.
#[derive(Clone, Default)]
pub struct Table {
    entries: BTreeMap<Route, Entry>,
}

#[derive(Clone)]
struct Entry {
    policy: Policy,
    handler: Arc<dyn Erased>,
    /// Whether [`Table::replace`] takes it away.
    replaceable: bool,
}

impl Table {
    /// An empty table: every request is answered 404 or 501.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a handler where its action is asked for.
    pub fn on<A: Action>(&mut self, handler: impl Handler<A>) -> Result<(), TableError> {
        self.on_route::<A>(A::ROUTE, Policy::of::<A>(), handler)
    }

    /// Registers a handler for a route and rules that are known only at run time, such as a script's.
    pub fn on_route<A: Action>(
        &mut self,
        route: Route,
        policy: Policy,
        handler: impl Handler<A>,
    ) -> Result<(), TableError> {
        let unenforceable = |reason| TableError::Unusable {
            route: route.clone(),
            reason: format!("the schema of its request: {reason}"),
        };
        let rules = Rules::of(A::Request::schema).map_err(unenforceable)?;
        if matches!(route, Route::Custom { .. }) {
            check_names(&rules).map_err(unenforceable)?;
        }
        let handler = Typed::<A, _> { route: route.clone(), rules, handler, action: PhantomData };
        self.on_erased(route, policy, Arc::new(handler))
    }

    /// Registers what judges bodies by more than a type, such as a script's declared parameters. It decodes them by
    /// [`decode`](Self::decode).
    pub fn on_erased(
        &mut self,
        route: Route,
        policy: Policy,
        handler: Arc<dyn Erased>,
    ) -> Result<(), TableError> {
        if matches!(route, Route::Response | Route::DeviceUpdate | Route::Observe | Route::Cancel) {
            return Err(TableError::OwnRoute(route));
        }
        if !route.is_well_formed() {
            return Err(TableError::Malformed(route));
        }
        if self.entries.contains_key(&route) {
            return Err(TableError::Duplicate(route));
        }
        self.entries.insert(route, Entry { policy, handler, replaceable: false });
        Ok(())
    }

    /// Registers several actions that share state.
    pub fn with(&mut self, bundle: impl Bundle) -> Result<(), TableError> {
        bundle.register(self)
    }

    /// Puts these actions in the place of those that the last call has put there; the others stay. On an error nothing
    /// is changed.
    ///
    /// # Errors
    /// As [`on_route`](Self::on_route) has them; and [`TableError::NotReplaceable`] for what is no custom action, or
    /// answers before it works: its second half would find nobody.
    pub fn replace(&mut self, bundle: impl Bundle) -> Result<(), TableError> {
        let mut actions = Self::new();
        bundle.register(&mut actions)?;
        let mut next = self.clone();
        next.entries.retain(|_, entry| !entry.replaceable);
        for (route, entry) in actions.entries {
            let is_custom = matches!(route, Route::Custom { .. });
            if !is_custom || entry.policy.phases != Phases::WorkThenAnswer {
                return Err(TableError::NotReplaceable(route));
            }
            if next.entries.contains_key(&route) {
                return Err(TableError::Duplicate(route));
            }
            next.entries.insert(route, Entry { replaceable: true, ..entry });
        }
        *self = next;
        Ok(())
    }

    /// The handler of a route; of those that take a command, the one that is declared most specifically.
    pub fn handler(&self, route: &Route) -> Option<Arc<dyn Erased>> {
        let mut declared = route.declarations();
        declared.find_map(|route| self.entries.get(&route)).map(|entry| entry.handler.clone())
    }

    /// The rules of every route.
    pub fn policies(&self) -> impl Iterator<Item = (&Route, &Policy)> {
        self.entries.iter().map(|(route, entry)| (route, &entry.policy))
    }

    /// A route's rules, to be overridden by the configuration.
    pub fn policy_mut(&mut self, route: &Route) -> Option<&mut Policy> {
        self.entries.get_mut(route).map(|entry| &mut entry.policy)
    }

    /// Puts something around every handler that is registered so far, such as what counts its starts. Rules stay.
    pub fn wrap(&mut self, around: impl Fn(&Route, Arc<dyn Erased>) -> Arc<dyn Erased>) {
        for (route, entry) in &mut self.entries {
            entry.handler = around(route, entry.handler.clone());
        }
    }

    /// The `supports` flags of manage: one of the two actions of a pair is enough, the other answers 501.
    pub fn supports(&self) -> Supports {
        let has = |route: &Route| self.entries.contains_key(route);
        let bundles = self.entries.keys().filter_map(|route| match route {
            Route::Custom { bundle, .. } => Some((bundle.to_string(), true)),
            _ => None,
        });
        Supports {
            device_actions: has(&Route::Reboot) || has(&Route::FactoryReset),
            firmware_actions: has(&Route::FirmwareDownload) || has(&Route::FirmwareUpdate),
            bundles: bundles.collect(),
        }
    }

    /// A JSON Schema of every action: `{ "<topic suffix>": { "request": …, "reply": … } }`.
    pub fn schemas(&self) -> Value {
        let schema = |(route, entry): (&Route, &Entry)| {
            let mut generator = SchemaGenerator::default();
            let (request, reply) = entry.handler.schemas(&mut generator);
            let definitions = generator.take_definitions(true);
            (route.to_string(), json!({ "request": request, "reply": reply, "$defs": definitions }))
        };
        Value::Object(self.entries.iter().map(schema).collect())
    }

    /// Decodes a body: of an action that the agent's device model carries out, or of a handler that is registered erased.
    pub fn decode<A: Action>(d: Option<&RawValue>) -> Result<A::Request, Refusal> {
        A::Request::decode(body(&A::ROUTE, d)?)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys().map(ToString::to_string)).finish()
    }
}

/// Why a handler cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Two handlers for one route.
    #[error("two handlers are registered for {0}")]
    Duplicate(Route),
    /// A custom action's ids are outside the grammar, or the route is not one.
    #[error("{0} is no route: bundle and action have 1 to 255 characters of a-z A-Z 0-9 - _ .")]
    Malformed(Route),
    /// The agent's own device model answers these.
    #[error("{0} is answered by the agent's device model")]
    OwnRoute(Route),
    /// It is no custom action that works before it answers: it cannot be replaced while the agent runs.
    #[error(
        "{0} cannot be replaced while the agent runs: only custom actions that work before they answer can"
    )]
    NotReplaceable(Route),
    /// What is registered for it contradicts itself, such as a schema that says what would not be enforced.
    #[error("{route}: {reason}")]
    Unusable {
        /// Where it was to be registered.
        route: Route,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// The actions of one table in another, with their rules.
impl Bundle for Table {
    fn register(self, table: &mut Table) -> Result<(), TableError> {
        for (route, entry) in self.entries {
            if table.entries.contains_key(&route) {
                return Err(TableError::Duplicate(route));
            }
            table.entries.insert(route, entry);
        }
        Ok(())
    }
}

/// What a handler decided.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It said yes.
    Replied(ReplyParts),
    /// It said no.
    Refused(Refusal),
    /// The body does not fit the action: the handler never saw it.
    Undecodable(Refusal),
}

/// A handler without its types: the one seam between typed actions and the engine.
#[async_trait]
pub trait Erased: Send + Sync {
    /// Decodes, then [`Handler::handle`].
    async fn handle(&self, cx: &Context, d: Option<&RawValue>) -> Decision;
    /// Decodes, then [`Handler::after_ack`].
    async fn after_ack(&self, cx: &Context, d: Option<&RawValue>) -> Result<Performed, Failure>;
    /// Decodes, then [`Handler::recover`].
    async fn recover(&self, cx: &Context, d: Option<&RawValue>) -> Recovery;
    /// Decodes only; the refusal is what [`handle`](Self::handle) would give.
    fn check(&self, d: Option<&RawValue>) -> Result<(), Refusal>;
    /// What the platform is told of the action with this id.
    fn describe(&self, id: &str) -> ExtensionAction;
    /// The schemas of request and reply.
    fn schemas(&self, generator: &mut SchemaGenerator) -> (Schema, Option<Schema>);
}

struct Typed<A, H> {
    route: Route,
    rules: Rules,
    handler: H,
    action: PhantomData<fn() -> A>,
}

#[async_trait]
impl<A: Action, H: Handler<A>> Erased for Typed<A, H> {
    async fn handle(&self, cx: &Context, d: Option<&RawValue>) -> Decision {
        let request = match self.decode(d) {
            Ok(request) => request,
            Err(refusal) => return Decision::Undecodable(refusal),
        };
        let reply = self.handler.handle(cx, &request).await;
        reply.and_then(Reply::into_parts).map_or_else(Decision::Refused, Decision::Replied)
    }

    async fn after_ack(&self, cx: &Context, d: Option<&RawValue>) -> Result<Performed, Failure> {
        let request = self.decode(d).map_err(|refusal| Failure::new(refusal.to_string()))?;
        self.handler.after_ack(cx, &request).await
    }

    async fn recover(&self, cx: &Context, d: Option<&RawValue>) -> Recovery {
        match self.decode(d) {
            Ok(request) => self.handler.recover(cx, &request).await,
            // The request was taken by an older program and means nothing to this one.
            Err(_) => Recovery::Abandon,
        }
    }

    fn check(&self, d: Option<&RawValue>) -> Result<(), Refusal> {
        self.decode(d).map(drop)
    }

    fn describe(&self, id: &str) -> ExtensionAction {
        let action = ExtensionAction {
            parameters: self.rules.parameters(),
            ..ExtensionAction::new(if A::TITLE.is_empty() { id } else { A::TITLE })
        };
        if A::DESCRIPTION.is_empty() { action } else { action.description(A::DESCRIPTION) }
    }

    fn schemas(&self, generator: &mut SchemaGenerator) -> (Schema, Option<Schema>) {
        (A::Request::schema(generator), <A::Reply as Reply>::schema(generator))
    }
}

impl<A: Action, H> Typed<A, H> {
    /// Decodes a body that keeps the schema; the refusal says where it does not.
    ///
    /// Bounds come first: that 300 is more than 100 says more than that it does not fit into a `u8`. Then decoding, which
    /// tells best what the shape of a body lacks. What neither has refused has the shape that the schema describes.
    fn decode(&self, d: Option<&RawValue>) -> Result<A::Request, Refusal> {
        let mut body = body(&self.route, d)?;
        if let (Route::Custom { .. }, Value::Object(parameters)) = (&self.route, &mut body) {
            self.rules.read_texts(parameters);
        }
        let found = self.rules.check(&body);
        if let Some(bound) = found.bound {
            return Err(misfit(bound));
        }
        let request = A::Request::decode(body)?;
        found.shape.map_or(Ok(request), |shape| Err(misfit(shape)))
    }
}

/// The platform has a grammar for the names of parameters.
fn check_names(rules: &Rules) -> Result<(), String> {
    let odd = rules.members().map(|(name, _)| name).find(|name| !is_custom_id(name));
    odd.map_or(Ok(()), |name| {
        Err(format!("the parameter {name:?}: a name has 1 to 255 characters of a-z A-Z 0-9 - _ ."))
    })
}

/// The body as one value.
fn body(route: &Route, d: Option<&RawValue>) -> Result<Value, Refusal> {
    let body: Value = match d {
        None => Value::Object(Map::new()),
        Some(raw) => serde_json::from_str(raw.get()).map_err(|error| misfit(format!("d: {error}")))?,
    };
    match route {
        Route::Custom { .. } => parameters(body),
        _ => Ok(body),
    }
}

/// The refusal says where a body does not fit.
pub(crate) fn read<T: DeserializeOwned>(body: Value) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(body).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { "d".to_owned() } else { format!("d.{path}") };
        misfit(format!("{place}: {}", error.inner()))
    })
}

/// The reason may quote what was sent: all of it, escaped, would not fit into an answer.
fn misfit(mut reason: String) -> Refusal {
    if reason.len() > MAX_REASON_BYTES {
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        reason.push('…');
    }
    Refusal::bad_request(reason)
}

/// The parameters of a custom action: `d.fields` as one object (`docs/protocol.md` §5.6).
fn parameters(body: Value) -> Result<Value, Refusal> {
    let Value::Object(mut body) = body else {
        return Err(Refusal::bad_request("d: expected an object with the list `fields`"));
    };
    let fields = match body.remove("fields") {
        None => return Ok(Value::Object(Map::new())),
        Some(Value::Array(fields)) => fields,
        Some(_) => return Err(Refusal::bad_request("d.fields: expected a list of {field, value}")),
    };
    let mut parameters = Map::new();
    for (index, field) in fields.into_iter().enumerate() {
        let Value::Object(mut pair) = field else {
            return Err(Refusal::bad_request(format!("d.fields[{index}]: expected {{field, value}}")));
        };
        let (Some(Value::String(name)), Some(value)) = (pair.remove("field"), pair.remove("value")) else {
            return Err(Refusal::bad_request(format!(
                "d.fields[{index}]: expected a text `field` and a `value`"
            )));
        };
        if parameters.insert(name, value).is_some() {
            return Err(Refusal::bad_request(format!("d.fields[{index}]: this field stands twice")));
        }
    }
    Ok(Value::Object(parameters))
}

/// How much is told of why a body does not fit, in bytes: a place, a reason, and the beginning of what was sent.
const MAX_REASON_BYTES: usize = 1024;

#[cfg(test)]
mod tests;
