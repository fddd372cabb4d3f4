//! Programs of the operator's choice as custom actions (`docs/protocol.md` §5.6, §6.5).

use std::sync::Arc;

use async_trait::async_trait;
use iotdm_core::{
    Action, Bundle, ChildExit, ChildProcess, Code, Context, Decision, Erased, ExtensionAction, Failure,
    Finished, Performed, Recovery, Refusal, Reply, Route, Table, TableError,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

mod answer;
mod arguments;
mod command;
mod package;
mod parameters;
mod progress;
mod spec;

pub use self::command::CommandScript;
pub use self::parameters::{Misfit, Parameter, ParameterError, ParameterKind, Pattern, PatternError};
pub use self::spec::{ScriptSpec, SpecError};

/// Scripts, each one custom action.
///
/// # Flow
/// 1. The parameters of the request are judged by what the script's [`ScriptSpec`] declares: what does not fit is
///    answered 400, which names the parameter and says what would be right, and nothing runs. A script that declares
///    none gets all there are and judges for itself.
/// 2. The script is started with the arguments of its specification, in which `{name}` becomes the value of a declared
///    parameter. There is no shell: a value stays within its argument.
/// 3. The request comes on standard input, one JSON object, with values of the declared types:
///    `{"reqId": …, "bundle": "lamp", "action": "dim", "parameters": {"percent": 40}}`.
/// 4. A line `progress 40 half way` on its standard error becomes a log entry at the platform, the first one at once,
///    then the newest one at most every 10 s and 50 times in a run.
/// 5. Its exit status is the answer, unless [`ScriptSpec::exit`] says otherwise:
///
/// | exit status | answer |
/// |---|---|
/// | 0 | 200 |
/// | 64 (`EX_USAGE`) | 400: the parameters are wrong |
/// | 69 (`EX_UNAVAILABLE`), 75 (`EX_TEMPFAIL`) | 409: not at the moment, the platform may ask again |
/// | another, a signal, the time limit | 500 |
///
/// * With 200, a JSON object on standard output is the answer's `d`. Anything else there, or an object that is larger
///   than 64 KiB, becomes `{"output": "<text>"}`, with `"truncated": true` where it was cut.
/// * With any other, the platform is told `message` of `{"message": "…"}` in the first line of standard output, else
///   the exit status. Standard error goes to the device's own log only.
///
/// # Guarantees
/// * At its time limit the script and all it started get TERM, and KILL a little later.
/// * A replay of the request never runs the script again.
///
/// # Errors
/// Registering fails where two scripts have the same bundle and action, one of these is outside the grammar, or a
/// specification contradicts itself ([`ScriptSpec::check`]).
#[derive(Clone, Debug, Default)]
pub struct Scripts {
    specs: Vec<ScriptSpec>,
}

impl Scripts {
    /// No script.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one script more.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "a script is added to a list, not to a number")]
    pub fn add(mut self, spec: ScriptSpec) -> Self {
        self.specs.push(spec);
        self
    }
}

impl Bundle for Scripts {
    fn register(self, table: &mut Table) -> Result<(), TableError> {
        for spec in self.specs {
            let route = spec.route();
            if let Err(error) = spec.check() {
                return Err(TableError::Unusable { route, reason: error.to_string() });
            }
            table.on_erased(route, spec.policy(), Arc::new(Script { spec }))?;
        }
        Ok(())
    }
}

/// What every script has in common; routes and rules are each [`ScriptSpec`]'s own.
struct RunScript;

impl Action for RunScript {
    /// Stands for all: a script is registered under its own.
    const ROUTE: Route = Route::custom("script", "run");
    type Request = Parameters;
    type Reply = Finished<Results>;
}

/// The parameters of a request: as they came, or as they are declared.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Parameters(Map<String, Value>);

/// What a script answers with.
#[derive(Serialize, JsonSchema)]
#[serde(transparent)]
struct Results(Map<String, Value>);

struct Script {
    spec: ScriptSpec,
}

#[async_trait]
impl Erased for Script {
    async fn handle(&self, cx: &Context, d: Option<&RawValue>) -> Decision {
        let child = match self.child(cx, d) {
            Ok(child) => child,
            // Nothing has run: such answers are not kept, so that a flood of them makes nothing forgotten that has.
            Err(refusal) => return Decision::Undecodable(refusal),
        };
        match self.run(cx, child).await.and_then(Reply::into_parts) {
            Ok(parts) => Decision::Replied(parts),
            Err(refusal) => Decision::Refused(refusal),
        }
    }

    async fn after_ack(&self, _: &Context, _: Option<&RawValue>) -> Result<Performed, Failure> {
        Err(Failure::new("a script works before it is answered"))
    }

    async fn recover(&self, _: &Context, _: Option<&RawValue>) -> Recovery {
        Recovery::Abandon
    }

    fn check(&self, d: Option<&RawValue>) -> Result<(), Refusal> {
        self.arguments(d).map(drop)
    }

    fn describe(&self, _: &str) -> ExtensionAction {
        package::action(&self.spec)
    }

    fn schemas(&self, generator: &mut SchemaGenerator) -> (Schema, Option<Schema>) {
        let request = match &self.spec.parameters {
            None => generator.subschema_for::<Parameters>(),
            Some(declared) => schema(declared),
        };
        (request, <Finished<Results> as Reply>::schema(generator))
    }
}

impl Script {
    /// The parameters as they are declared, and the arguments with them in place.
    fn arguments(&self, d: Option<&RawValue>) -> Result<(Parameters, Vec<String>), Refusal> {
        let spec = &self.spec;
        let Parameters(given) = Table::decode::<RunScript>(d)?;
        let declared = spec.parameters.as_deref();
        let values = match declared {
            None => given,
            Some(declared) => parameters::convert(declared, given).map_err(Refusal::bad_request)?,
        };
        let args = arguments::fill(&spec.args, declared.unwrap_or_default(), &values)
            .map_err(Refusal::bad_request)?;
        Ok((Parameters(values), args))
    }

    fn child(&self, cx: &Context, d: Option<&RawValue>) -> Result<ChildProcess, Refusal> {
        let spec = &self.spec;
        let (values, args) = self.arguments(d)?;
        Ok(ChildProcess {
            args,
            stdin: self.standard_input(cx, &values)?,
            env: spec.env.clone(),
            directory: spec.directory.clone(),
            time_limit: spec.time_limit,
            output_limit: spec.output_limit,
            user: spec.user,
            ..ChildProcess::new(&spec.program)
        })
    }

    async fn run(&self, cx: &Context, child: ChildProcess) -> Result<Finished<Results>, Refusal> {
        let (spec, route) = (&self.spec, self.spec.route());
        let output = progress::run(cx, &route, child).await.map_err(answer::refusal_of_error)?;
        let code = match output.exit {
            ChildExit::Status(status) => {
                spec.exit.get(&status).copied().unwrap_or_else(|| answer::code_of(status))
            }
            ChildExit::Signal(_) => Code::FAILED,
        };
        if code != Code::OK {
            return Err(answer::refusal(code, &output, &spec.program));
        }
        tracing::debug!(script = %route, stderr = output.stderr_start(), "the script finished");
        Ok(Finished(Results(answer::results(&output, spec.output_limit))))
    }

    fn standard_input(&self, cx: &Context, parameters: &Parameters) -> Result<Vec<u8>, Refusal> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Input<'a> {
            req_id: Option<Box<RawValue>>,
            bundle: &'a str,
            action: &'a str,
            parameters: &'a Parameters,
        }
        let input = Input {
            req_id: cx.req_id().map(iotdm_core::ReqId::to_raw),
            bundle: &self.spec.bundle,
            action: &self.spec.action,
            parameters,
        };
        serde_json::to_vec(&input).map_err(|error| Refusal::failed(error.to_string()))
    }
}

/// The schema of declared parameters.
fn schema(declared: &[Parameter]) -> Schema {
    let mut properties = Map::new();
    for parameter in declared {
        let mut schema = parameter.kind.schema();
        if let Some(default) = &parameter.default {
            schema["default"] = default.clone();
        }
        properties.insert(parameter.name.clone(), schema);
    }
    let required: Vec<&str> =
        declared.iter().filter(|one| one.required).map(|one| one.name.as_str()).collect();
    let schema = json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    schema.try_into().expect("a JSON object is a schema")
}

#[cfg(test)]
mod tests;
