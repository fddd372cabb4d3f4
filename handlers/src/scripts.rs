//! Programs of the operator's choice as custom actions (`docs/protocol.md` §5.6, §6.5).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use iotdm_core::{
    Action, Bundle, ChildError, ChildExit, ChildOutput, ChildProcess, Context, Finished, Handler,
    Interrupted, Late, MAX_PAYLOAD_BYTES, Policy, Refusal, Route, Table, TableError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Scripts, each one custom action.
///
/// # Flow
/// 1. The script is started with the arguments of its [`ScriptSpec`], as they stand there: no shell, and nothing of
///    the request is put into them.
/// 2. The request comes on standard input, one JSON object:
///    `{"reqId": …, "bundle": "lamp", "action": "dim", "parameters": {"percent": "40"}}`.
/// 3. Its exit status is the answer:
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
/// Registering fails where two scripts have the same bundle and action, or one of these is outside the grammar.
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
            table.on_route::<RunScript>(spec.route(), spec.policy(), Script { spec })?;
        }
        Ok(())
    }
}

/// A script and its bounds.
#[derive(Clone)]
pub struct ScriptSpec {
    /// The bundle it belongs to; manage claims it in `supports`.
    pub bundle: String,
    /// The action in it.
    pub action: String,
    /// The executable, with its whole path.
    pub program: PathBuf,
    /// Its arguments, without the program's own name.
    pub args: Vec<String>,
    /// Where it runs; the root folder when absent.
    pub directory: Option<PathBuf>,
    /// How long it may take.
    pub time_limit: Duration,
    /// How much of standard output and of standard error each is kept, in bytes.
    pub output_limit: usize,
    /// Variables it gets beside `PATH`.
    pub env: BTreeMap<String, String>,
    /// What a crash of the agent in the middle of it means.
    pub interrupted: Interrupted,
    /// What becomes of a request that waited while the device was away.
    pub late: Late,
}

impl ScriptSpec {
    /// A script without arguments that may take 30 s, is not started again after a crash, and runs late.
    pub fn new(bundle: impl Into<String>, action: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            bundle: bundle.into(),
            action: action.into(),
            program: program.into(),
            args: Vec::new(),
            directory: None,
            time_limit: RunScript::BUDGET,
            output_limit: DEFAULT_OUTPUT_LIMIT_BYTES,
            env: BTreeMap::new(),
            interrupted: RunScript::INTERRUPTED,
            late: RunScript::LATE,
        }
    }

    fn route(&self) -> Route {
        Route::Custom { bundle: self.bundle.clone().into(), action: self.action.clone().into() }
    }

    fn policy(&self) -> Policy {
        Policy {
            budget: self.time_limit.saturating_add(BUDGET_MARGIN),
            interrupted: self.interrupted,
            late: self.late,
            ..Policy::of::<RunScript>()
        }
    }
}

impl fmt::Debug for ScriptSpec {
    // Arguments and environment may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptSpec")
            .field("route", &self.route())
            .field("program", &self.program)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

/// What every script has in common; routes and rules are each [`ScriptSpec`]'s own.
struct RunScript;

impl Action for RunScript {
    /// Stands for all: [`Table::on_route`] gets the script's own.
    const ROUTE: Route = Route::custom("script", "run");
    type Request = Parameters;
    type Reply = Finished<Results>;
}

/// The parameters of a request, whatever they are: the script judges them.
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

impl Handler<RunScript> for Script {
    async fn handle(&self, cx: &Context, request: &Parameters) -> Result<Finished<Results>, Refusal> {
        let spec = &self.spec;
        let child = ChildProcess {
            program: spec.program.clone(),
            args: spec.args.clone(),
            stdin: self.standard_input(cx, request)?,
            env: spec.env.clone(),
            directory: spec.directory.clone(),
            time_limit: spec.time_limit,
            output_limit: spec.output_limit,
        };
        let output = cx.system().run(child).await.map_err(refusal_of_error)?;
        match output.exit {
            ChildExit::Status(0) => {
                let stderr = start_of(&output.stderr, MAX_STDERR_BYTES);
                tracing::debug!(script = %spec.route(), %stderr, "the script finished");
                Ok(Finished(Results(results(&output, spec.output_limit))))
            }
            exit => Err(refusal(exit, &output, spec)),
        }
    }
}

impl Script {
    fn standard_input(&self, cx: &Context, request: &Parameters) -> Result<Vec<u8>, Refusal> {
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
            parameters: request,
        };
        serde_json::to_vec(&input).map_err(|error| Refusal::failed(error.to_string()))
    }
}

fn refusal_of_error(error: ChildError) -> Refusal {
    let message = match &error {
        ChildError::TimedOut { limit, .. } => format!("the script was ended after its limit of {limit:?}"),
        _ => "the script could not be started".to_owned(),
    };
    Refusal::failed(message).log(error.to_string())
}

fn refusal(exit: ChildExit, output: &ChildOutput, spec: &ScriptSpec) -> Refusal {
    let message = own_message(&output.stdout).unwrap_or_else(|| format!("the script failed with {exit}"));
    let refusal = match exit {
        ChildExit::Status(EX_USAGE) => Refusal::bad_request(message),
        ChildExit::Status(EX_UNAVAILABLE | EX_TEMPFAIL) => Refusal::busy(message),
        _ => Refusal::failed(message),
    };
    let stderr = start_of(&output.stderr, MAX_STDERR_BYTES);
    refusal.log(format!("{}: {exit}: {}", spec.program.display(), stderr.trim_end()))
}

/// The `message` that a failing script has for the platform, on the first line of its output.
fn own_message(stdout: &[u8]) -> Option<String> {
    let line = stdout.split(|byte| *byte == b'\n').next()?;
    let told: Map<String, Value> = serde_json::from_slice(line).ok()?;
    Some(cut(told.get("message")?.as_str()?, MAX_MESSAGE_BYTES).to_owned())
}

/// The `d` of a script that worked.
fn results(output: &ChildOutput, output_limit: usize) -> Map<String, Value> {
    if let Ok(object) = serde_json::from_slice::<Map<String, Value>>(&output.stdout)
        && serde_json::to_vec(&object).is_ok_and(|json| json.len() <= MAX_RESULT_BYTES)
    {
        return object;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let kept = cut(&text, MAX_RESULT_BYTES);
    // Only one of the two streams may have been cut: the other cannot have reached its limit.
    let truncated = kept.len() < text.len() || (output.truncated && output.stdout.len() >= output_limit);
    let mut results = Map::from_iter([("output".to_owned(), Value::from(kept))]);
    if truncated {
        results.insert("truncated".into(), true.into());
    }
    results
}

/// The start of a text that takes at most so many bytes as JSON, where a control character takes six.
fn cut(text: &str, limit: usize) -> &str {
    let mut json_bytes = 0;
    for (at, c) in text.char_indices() {
        json_bytes += match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..='\u{1f}' => 6,
            _ => c.len_utf8(),
        };
        if json_bytes > limit {
            return &text[..at];
        }
    }
    text
}

fn start_of(bytes: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(limit)]).into_owned()
}

/// How much longer than the script the action may take: the script's group gets 5 s between TERM and KILL, and a busy
/// machine a little more. Past this the engine would answer instead of the script's own time limit.
const BUDGET_MARGIN: Duration = Duration::from_secs(15);

/// How much of each output stream is kept unless configured, in bytes: as much as an answer can carry.
const DEFAULT_OUTPUT_LIMIT_BYTES: usize = MAX_RESULT_BYTES;

/// Largest `d` of a script's answer, in bytes of JSON: half of what fits, so that envelope and reqId always do.
const MAX_RESULT_BYTES: usize = MAX_PAYLOAD_BYTES / 2;

/// Longest message of a script to the platform, in bytes of JSON: a few sentences.
const MAX_MESSAGE_BYTES: usize = 1024;

/// How much of standard error goes to the log, in bytes: the lines around an error, not a transcript.
const MAX_STDERR_BYTES: usize = 2048;

/// `sysexits.h`: the command was used incorrectly.
const EX_USAGE: i32 = 64;

/// `sysexits.h`: a service is not available.
const EX_UNAVAILABLE: i32 = 69;

/// `sysexits.h`: a temporary failure; the user is invited to try again.
const EX_TEMPFAIL: i32 = 75;

#[cfg(test)]
mod tests;
