use std::collections::BTreeMap;
use std::time::Duration;

use iotdm_core::{
    ChildError, ChildOutput, ContextParts, ExtensionAction, ExtensionPackage, ExtensionParameter,
    Interrupted, Late, MAX_PAYLOAD_BYTES, ReqId, RunAs,
};

use super::answer::{MAX_MESSAGE_BYTES, MAX_RESULT_BYTES};
use super::*;
use crate::fake::{FakeServices, FakeSystem, ask, context, output, parts, raw};

const DIM: Route = Route::custom("lamp", "dim");

fn table(spec: ScriptSpec) -> Table {
    let mut table = Table::new();
    table.with(Scripts::new().add(spec)).unwrap();
    table
}

fn dim() -> ScriptSpec {
    ScriptSpec::new("lamp", "dim", "/usr/lib/lamp/dim")
}

async fn decide(spec: ScriptSpec, result: Result<ChildOutput, ChildError>) -> Decision {
    let system = FakeSystem::new();
    system.next_run(result);
    ask(&table(spec), &DIM, &context(&system, &FakeServices::new()), json!({})).await
}

async fn d_of(spec: ScriptSpec, result: ChildOutput) -> Value {
    match decide(spec, Ok(result)).await {
        Decision::Replied(parts) => {
            assert_eq!(parts.rc, Code::OK);
            serde_json::from_str(parts.d.unwrap().get()).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

async fn refusal_of(result: Result<ChildOutput, ChildError>) -> Refusal {
    match decide(dim(), result).await {
        Decision::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_request_is_on_standard_input_and_the_arguments_stand_as_configured() {
    let system = FakeSystem::new();
    let spec = ScriptSpec {
        args: vec!["--level".into(), "$HOME $(id) { x }".into()],
        directory: Some("/var/lib/lamp".into()),
        time_limit: Duration::from_secs(7),
        output_limit: 99,
        env: BTreeMap::from([("ROOM".into(), "hall".into())]),
        ..dim()
    };
    let cx = context(&system, &FakeServices::new());
    let fields =
        json!({"fields": [{"field": "percent", "value": "40; reboot"}, {"field": "n", "value": [1]}]});
    ask(&table(spec.clone()), &DIM, &cx, fields).await;

    let [child] = &system.runs()[..] else { panic!("it runs once") };
    assert_eq!((&child.program, &child.args), (&spec.program, &spec.args));
    assert_eq!((&child.directory, &child.env), (&spec.directory, &spec.env));
    assert_eq!((child.time_limit, child.output_limit), (spec.time_limit, spec.output_limit));
    assert_eq!(
        serde_json::from_slice::<Value>(&child.stdin).unwrap(),
        json!({
            "reqId": "r1",
            "bundle": "lamp",
            "action": "dim",
            "parameters": {"percent": "40; reboot", "n": [1]}
        })
    );
}

#[tokio::test]
async fn a_req_id_reaches_the_script_as_it_came() {
    for req_id in ["7", "\"7\"", "1.50"] {
        let system = FakeSystem::new();
        let req_id = serde_json::value::RawValue::from_string(req_id.into()).unwrap();
        let cx = Context::new(ContextParts {
            req_id: ReqId::from_raw(&req_id),
            ..parts(&system, &FakeServices::new())
        });
        ask(&table(dim()), &DIM, &cx, json!({})).await;
        let stdin = String::from_utf8(system.runs()[0].stdin.clone()).unwrap();
        assert!(stdin.starts_with(&format!("{{\"reqId\":{req_id},")), "{stdin}");
    }
}

#[tokio::test]
async fn a_json_object_on_standard_output_is_the_answer() {
    let d = d_of(dim(), output(0, "\n {\"percent\": 40, \"message\": \"ok\"}\n", "some noise")).await;
    assert_eq!(d, json!({"percent": 40, "message": "ok"}));
}

#[tokio::test]
async fn any_other_output_is_the_answer_as_text() {
    for (stdout, text) in [("", ""), ("done\n", "done\n"), ("[1]", "[1]"), ("{\"a\":1} {}", "{\"a\":1} {}")] {
        assert_eq!(d_of(dim(), output(0, stdout, "")).await, json!({ "output": text }));
    }
    let binary = ChildOutput { stdout: vec![b'a', 0xff, b'b'], ..output(0, "", "") };
    assert_eq!(d_of(dim(), binary).await, json!({"output": "a\u{fffd}b"}));
}

#[tokio::test]
async fn output_that_was_cut_says_so() {
    let spec = ScriptSpec { output_limit: 3, ..dim() };
    let cut = ChildOutput { truncated: true, ..output(0, "abc", "") };
    assert_eq!(d_of(spec.clone(), cut).await, json!({"output": "abc", "truncated": true}));
    let noisy = ChildOutput { truncated: true, ..output(0, "ab", "abc") };
    assert_eq!(d_of(spec, noisy).await, json!({"output": "ab"}), "only standard error was cut");
}

#[tokio::test]
async fn an_answer_fits_into_a_message_whatever_the_script_writes() {
    // The longest reqId that is kept stands in the answer as well.
    const ENVELOPE_BYTES: usize = 1024 + 64;
    let object = json!({ "blob": "x".repeat(200_000) }).to_string();
    for stdout in
        [&"x".repeat(200_000), &"\u{1}".repeat(200_000), &"\"\n".repeat(90_000), &"é".repeat(90_000), &object]
    {
        let spec = ScriptSpec { output_limit: 1_000_000, ..dim() };
        let d = d_of(spec, output(0, stdout, "")).await;
        assert_eq!(d["truncated"], true);
        let bytes = d.to_string().len();
        assert!(bytes + ENVELOPE_BYTES <= MAX_PAYLOAD_BYTES, "{bytes}");
        assert!(bytes > MAX_RESULT_BYTES - 10, "no more is cut than must be: {bytes}");
        assert!(stdout.starts_with(d["output"].as_str().unwrap()));
    }
}

#[tokio::test]
async fn the_exit_status_is_the_code() {
    for (status, rc) in [
        (64, Code::BAD_REQUEST),
        (69, Code::CONFLICT),
        (75, Code::CONFLICT),
        (1, Code::FAILED),
        (70, Code::FAILED),
        (127, Code::FAILED),
    ] {
        let refusal = refusal_of(Ok(output(status, "", ""))).await;
        let message = format!("the script failed with exit status {status}");
        assert_eq!((refusal.rc(), refusal.message()), (rc, message.as_str()));
    }
    let killed = ChildOutput { exit: ChildExit::Signal(9), ..output(0, "{\"message\":", "") };
    let refusal = refusal_of(Ok(killed)).await;
    assert_eq!((refusal.rc(), refusal.message()), (Code::FAILED, "the script failed with signal 9"));
}

#[tokio::test]
async fn a_failing_script_may_tell_the_platform_why() {
    let refusal =
        refusal_of(Ok(output(64, "{\"message\": \"percent is 0 to 100\", \"x\": 1}\nmore", ""))).await;
    assert_eq!(refusal.message(), "percent is 0 to 100");
    for stdout in
        ["percent is wrong", "\n{\"message\": \"second line\"}", "{\"message\": 1}", "[\"message\"]"]
    {
        assert_eq!(
            refusal_of(Ok(output(1, stdout, ""))).await.message(),
            "the script failed with exit status 1"
        );
    }
    let long = json!({ "message": "\u{1}".repeat(9_000) }).to_string();
    assert_eq!(refusal_of(Ok(output(1, &long, ""))).await.message().len(), MAX_MESSAGE_BYTES / 6);
}

#[tokio::test]
async fn standard_error_is_for_the_log_and_bounded() {
    let refusal = refusal_of(Ok(output(1, "", "/etc/secret: denied\n"))).await;
    assert_eq!(refusal.log_message(), Some("/usr/lib/lamp/dim: exit status 1: /etc/secret: denied"));
    assert!(!refusal.message().contains("secret"));

    let refusal = refusal_of(Ok(output(1, "", &"e".repeat(100_000)))).await;
    assert!(refusal.log_message().unwrap().len() < ChildOutput::MAX_TOLD_BYTES + 100);
}

#[tokio::test]
async fn a_script_that_takes_too_long_or_cannot_start_is_a_500_without_its_path() {
    let program = || "/usr/lib/lamp/dim".to_owned();
    let limit = Duration::from_secs(30);
    for (error, message) in [
        (ChildError::TimedOut { program: program(), limit }, "the script was ended after its limit of 30s"),
        (
            ChildError::NotStarted { program: program(), reason: "no such file".into() },
            "the script could not be started",
        ),
    ] {
        let refusal = refusal_of(Err(error.clone())).await;
        assert_eq!((refusal.rc(), refusal.message()), (Code::FAILED, message));
        assert_eq!(refusal.log_message(), Some(error.to_string().as_str()));
    }
}

#[tokio::test]
async fn parameters_of_another_shape_never_reach_the_script() {
    let system = FakeSystem::new();
    let cx = context(&system, &FakeServices::new());
    let decision = ask(&table(dim()), &DIM, &cx, json!({"fields": "x"})).await;
    assert!(matches!(decision, Decision::Undecodable(_)), "{decision:?}");
    assert_eq!(system.runs().len(), 0);
}

#[tokio::test]
async fn a_script_that_needs_no_parameters_needs_no_body() {
    let system = FakeSystem::new();
    system.on_run(|child| {
        let input: Value = serde_json::from_slice(&child.stdin).unwrap();
        Ok(output(0, &json!({ "got": input["parameters"] }).to_string(), ""))
    });
    let handler = table(dim()).handler(&DIM).unwrap();
    let decision = handler.handle(&context(&system, &FakeServices::new()), None).await;
    let Decision::Replied(parts) = decision else { panic!("{decision:?}") };
    assert_eq!(parts.d.unwrap().get(), raw(json!({"got": {}})).get());
}

#[test]
fn each_script_has_its_route_and_its_rules() {
    let late = Late::RefuseAfter(Duration::from_secs(60));
    let slow = ScriptSpec {
        time_limit: Duration::from_secs(600),
        interrupted: Interrupted::RunAgain,
        late,
        ..ScriptSpec::new("door", "open", "/bin/open")
    };
    let mut table = Table::new();
    table.with(Scripts::new().add(dim()).add(slow)).unwrap();
    let policies: Vec<_> = table.policies().map(|(route, policy)| (route.to_string(), *policy)).collect();
    let [(door, slow), (lamp, plain)] = &policies[..] else { panic!("{policies:?}") };
    assert_eq!((door.as_str(), lamp.as_str()), ("mgmt/custom/door/open", "mgmt/custom/lamp/dim"));
    assert_eq!((slow.interrupted, slow.late), (Interrupted::RunAgain, late));
    assert_eq!((plain.interrupted, plain.late), (Interrupted::Refuse, Late::Run));
    assert!(slow.budget > Duration::from_secs(605), "the script's own limit comes first");
    assert!(table.supports().bundles["door"] && table.supports().bundles["lamp"]);
}

#[test]
fn two_scripts_for_one_action_and_ids_outside_the_grammar_are_refused() {
    let twice = Scripts::new().add(dim()).add(dim());
    assert_eq!(Table::new().with(twice), Err(TableError::Duplicate(DIM)));
    let spaced = Scripts::new().add(ScriptSpec::new("my lamp", "dim", "/bin/true"));
    assert!(matches!(Table::new().with(spaced), Err(TableError::Malformed(_))));
}

#[test]
fn secrets_of_a_script_stay_out_of_debug_output() {
    let spec = ScriptSpec {
        args: vec!["--token=hunter2".into()],
        env: BTreeMap::from([("TOKEN".into(), "hunter2".into())]),
        ..dim()
    };
    assert!(!format!("{:?}", Scripts::new().add(spec)).contains("hunter2"));
}

/// A script with declared parameters and a template.
fn declared() -> ScriptSpec {
    let percent = Parameter::new("percent", ParameterKind::Integer { min: 0, max: 100 });
    let fade = Parameter::new("fade", ParameterKind::Number { min: 0.0, max: 60.0 }).default(1.5);
    let curve =
        Parameter::new("curve", ParameterKind::Choice(vec!["linear".into(), "log".into()])).optional();
    ScriptSpec {
        args: ["--percent", "{percent}", "--fade={fade}"].map(str::to_owned).to_vec(),
        parameters: Some(vec![percent, fade, curve]),
        ..dim()
    }
}

fn fields(values: Value) -> Value {
    let fields = values.as_object().unwrap().iter();
    json!({"fields": fields.map(|(field, value)| json!({"field": field, "value": value})).collect::<Vec<_>>()})
}

#[tokio::test]
async fn a_script_gets_typed_values_on_standard_input_and_their_texts_as_arguments() {
    let system = FakeSystem::new();
    let cx = context(&system, &FakeServices::new());
    ask(&table(declared()), &DIM, &cx, fields(json!({"percent": "40"}))).await;
    let [child] = &system.runs()[..] else { panic!("it runs once") };
    assert_eq!(child.args, ["--percent", "40", "--fade=1.5"]);
    let input: Value = serde_json::from_slice(&child.stdin).unwrap();
    assert_eq!(input["parameters"], json!({"percent": 40, "fade": 1.5}));
}

#[tokio::test]
async fn what_does_not_fit_the_declaration_is_a_400_that_is_not_kept_and_runs_nothing() {
    for (values, message) in [
        (json!({}), "percent: is missing; write a whole number from 0 to 100"),
        (json!({"percent": null}), "percent: is missing; write a whole number from 0 to 100"),
        (json!({"percnt": 40}), "percnt: is no parameter of this action; it has percent, fade, curve"),
        (json!({"percent": "101"}), "percent: is out of range; write a whole number from 0 to 100"),
        (json!({"percent": "40 "}), "percent: has another type; write a whole number from 0 to 100"),
        (json!({"percent": 4, "fade": "-1"}), "fade: is out of range; write a number from 0 to 60"),
        (json!({"percent": 4, "curve": "x"}), "curve: is out of range; write one of \"linear\", \"log\""),
        (
            json!({"percent": 4, "pro\u{7}cent": 4}),
            "pro\\u{7}cent: is no parameter of this action; it has percent, fade, curve",
        ),
    ] {
        let system = FakeSystem::new();
        let cx = context(&system, &FakeServices::new());
        match ask(&table(declared()), &DIM, &cx, fields(values)).await {
            Decision::Undecodable(refusal) => {
                assert_eq!((refusal.rc(), refusal.message()), (Code::BAD_REQUEST, message));
            }
            other => panic!("{other:?}"),
        }
        assert!(system.runs().is_empty());
    }
}

#[tokio::test]
async fn a_value_that_could_be_taken_for_an_option_is_a_400() {
    let spec = ScriptSpec {
        args: vec!["{room}".into()],
        parameters: Some(vec![Parameter::new("room", ParameterKind::text())]),
        ..dim()
    };
    let system = FakeSystem::new();
    let cx = context(&system, &FakeServices::new());
    let decision = ask(&table(spec), &DIM, &cx, fields(json!({"room": "--help"}))).await;
    let Decision::Undecodable(refusal) = decision else { panic!("{decision:?}") };
    assert!(refusal.message().starts_with("room: begins with a hyphen"), "{refusal}");
    assert!(system.runs().is_empty());
}

#[tokio::test]
async fn user_folder_and_variables_reach_the_child() {
    let user = RunAs { uid: 7, gid: 8 };
    let system = FakeSystem::new();
    let spec = ScriptSpec { user: Some(user), ..dim() };
    ask(&table(spec), &DIM, &context(&system, &FakeServices::new()), json!({})).await;
    assert_eq!(system.runs()[0].user, Some(user));
}

#[tokio::test]
async fn an_exit_status_means_what_its_script_declares() {
    let spec = || ScriptSpec {
        exit: BTreeMap::from([
            (3, Code::CONFLICT),
            (4, Code::BAD_REQUEST),
            (5, Code::OK),
            (6, Code::UNSUPPORTED),
            (64, Code::FAILED),
        ]),
        ..dim()
    };
    for (status, rc) in [
        (3, Code::CONFLICT),
        (4, Code::BAD_REQUEST),
        (6, Code::UNSUPPORTED),
        (64, Code::FAILED),
        (75, Code::CONFLICT),
    ] {
        let decision = decide(spec(), Ok(output(status, "", ""))).await;
        let Decision::Refused(refusal) = decision else { panic!("{decision:?}") };
        assert_eq!(refusal.rc(), rc, "{status}");
    }
    assert_eq!(d_of(spec(), output(5, "{\"was\": \"done\"}", "")).await, json!({"was": "done"}));
}

#[test]
fn a_declaration_that_contradicts_itself_is_refused_when_it_is_registered() {
    let parameter = |name: &str| Parameter::new(name, ParameterKind::Boolean);
    let with = |args: &[&str], parameters: Vec<Parameter>| ScriptSpec {
        args: args.iter().map(|text| (*text).to_owned()).collect(),
        parameters: Some(parameters),
        ..dim()
    };
    for (spec, reason) in [
        (
            with(&["{a}"], vec![]),
            "{a} in an argument is no declared parameter; declare it, or write {{a}} for this text",
        ),
        (ScriptSpec { args: vec!["{a}".into()], ..dim() }, "{a} in an argument is no declared parameter"),
        (with(&["{a}"], vec![parameter("a").optional()]), "{a} in an argument may be missing"),
        (with(&[], vec![parameter("a"), parameter("a")]), "parameter a is declared twice"),
        (with(&[], vec![parameter("a b")]), "parameter a b is no name"),
        (
            with(&[], vec![parameter("a").default("maybe")]),
            "parameter a has a default that has another type; write true or false",
        ),
        (
            with(&[], vec![Parameter::new("n", ParameterKind::Integer { min: 2, max: 1 })]),
            "parameter n has an empty range",
        ),
        (
            with(&[], (0..65).map(|n| parameter(&format!("p{n}"))).collect()),
            "there are more than 64 parameters",
        ),
        (
            ScriptSpec { exit: BTreeMap::from([(0, Code::OK)]), ..dim() },
            "0 is no exit status that can be given",
        ),
        (
            ScriptSpec { exit: BTreeMap::from([(3, Code::ACCEPTED)]), ..dim() },
            "exit status 3 cannot become 202",
        ),
    ] {
        match Table::new().with(Scripts::new().add(spec)) {
            Err(TableError::Unusable { route, reason: found }) => {
                assert_eq!(route, DIM);
                assert!(found.starts_with(reason), "{found}");
            }
            other => panic!("{reason}: {other:?}"),
        }
    }
}

#[test]
fn the_package_has_every_script_of_a_bundle_with_its_parameters() {
    let spec =
        ScriptSpec { title: Some("Dim the lamp".into()), description: Some("Fades.".into()), ..declared() };
    let scripts = Scripts::new()
        .add(spec)
        .add(ScriptSpec::new("lamp", "blink", "/b"))
        .add(ScriptSpec::new("door", "open", "/o"));
    let mut table = Table::new();
    table.with(scripts).unwrap();
    let packages = table.extension_packages();
    let [door, lamp] = &packages[..] else { panic!("{packages:?}") };
    assert_eq!(door.bundle_id, "door");
    let dim = ExtensionAction::new("Dim the lamp")
        .description("Fades.")
        .parameter(ExtensionParameter::required("percent").value("[0-9]{1,3}"))
        .parameter(
            ExtensionParameter::optional("fade")
                .value("[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]+)?")
                .default_value("1.5"),
        )
        .parameter(ExtensionParameter::optional("curve").value("linear|log"));
    let expected = ExtensionPackage::new("lamp", "lamp")
        .action("dim", dim)
        .action("blink", ExtensionAction::new("blink"));
    assert_eq!(*lamp, expected);
}

#[test]
fn the_schema_of_a_script_is_that_of_its_declared_parameters() {
    let schemas = table(declared()).schemas();
    let request = &schemas["mgmt/custom/lamp/dim"]["request"];
    assert_eq!(request["properties"]["percent"], json!({"type": "integer", "minimum": 0, "maximum": 100}));
    assert_eq!(request["properties"]["fade"]["default"], 1.5);
    assert_eq!(
        (&request["required"], &request["additionalProperties"]),
        (&json!(["percent"]), &json!(false))
    );
}
