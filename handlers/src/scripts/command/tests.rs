use iotdm_core::{ChildError, ChildOutput, CommandMessage, Decision, Refusal};

use super::*;
use crate::fake::{FakeServices, FakeSystem, context, output};

fn table(script: CommandScript) -> Table {
    let mut table = Table::new();
    table.with(script).unwrap();
    table
}

async fn send(script: CommandScript, system: &FakeSystem, payload: &[u8]) -> Decision {
    let (id, format) = ("colour", "json");
    let message = CommandMessage { id: id.into(), format: format.into(), payload: payload.into() };
    let route = Route::command(&script.id, &script.format);
    let table = table(script);
    let handler = table.handler(&route).unwrap();
    handler.handle(&context(system, &FakeServices::new()), Some(&message.to_raw())).await
}

async fn refusal_of(result: Result<ChildOutput, ChildError>) -> Refusal {
    let system = FakeSystem::new();
    system.next_run(result);
    match send(CommandScript::new("colour", "/usr/lib/lamp/colour"), &system, b"{}").await {
        Decision::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_payload_is_on_standard_input_and_nothing_of_a_command_is_an_argument() {
    let system = FakeSystem::new();
    let script = CommandScript {
        format: "+".into(),
        args: vec!["--quiet".into()],
        time_limit: Duration::from_secs(7),
        ..CommandScript::new("+", "/usr/lib/lamp/any")
    };
    let payload = b"$(reboot)\0\xff";
    assert!(matches!(send(script, &system, payload).await, Decision::Replied(_)));
    let [child] = &system.runs()[..] else { panic!("it runs once") };
    assert_eq!((child.stdin.as_slice(), child.args.as_slice()), (&payload[..], &["--quiet".to_owned()][..]));
    assert_eq!(child.time_limit, Duration::from_secs(7));
    let variables: Vec<(&str, &str)> = child.env.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(variables, [("IOTDM_COMMAND_FORMAT", "json"), ("IOTDM_COMMAND_ID", "colour")]);
}

#[tokio::test]
async fn another_exit_status_than_0_is_a_failure_that_keeps_standard_error_to_the_device() {
    let refusal = refusal_of(Ok(output(3, "out", "the bus is stuck"))).await;
    assert_eq!(refusal.message(), "the script failed with exit status 3");
    let limit = Duration::from_secs(30);
    let refusal = refusal_of(Err(ChildError::TimedOut { program: "/usr/lib/lamp".into(), limit })).await;
    assert_eq!(refusal.message(), "the script was ended after its limit of 30s");
}

#[test]
fn the_engine_waits_for_a_script_longer_than_its_own_limit() {
    let longest = CommandScript::LONGEST_HANDLED_SCRIPT;
    let script = |time_limit, acknowledge| CommandScript {
        time_limit,
        acknowledge,
        ..CommandScript::new("colour", "/usr/lib/lamp/colour")
    };
    let mut handled = table(script(longest, Acknowledge::Handled));
    let policy = *handled.policy_mut(&Route::command("colour", "json")).unwrap();
    assert_eq!((policy.budget, policy.interrupted), (LONGEST_HANDLED, Interrupted::RunAgain));
    let longer = longest + Duration::from_secs(1);
    Table::new().with(script(longer, Acknowledge::Handled)).unwrap_err();
    table(script(longer, Acknowledge::Durable));
}
