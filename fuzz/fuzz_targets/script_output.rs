//! What a script leaves: any output becomes an answer that fits its payload, with the code that the exit status stands
//! for; what the script is given is the request.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use iotdm_core::{
    ChildExit, ChildOutput, Code, Context, Decision, MAX_PAYLOAD_BYTES, ReqId, Response, Route, Table,
};
use iotdm_fuzz::{Machine, at_once};
use iotdm_handlers::{ScriptSpec, Scripts};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Arbitrary, Debug)]
struct Left<'a> {
    exit: Option<i32>,
    truncated: bool,
    /// How often the output stands there: long outputs out of short inputs.
    times: u8,
    stderr: &'a [u8],
    stdout: &'a [u8],
}

fuzz_target!(|left: Left<'_>| {
    let status = left.exit.unwrap_or(0);
    let long =
        if left.times == 255 { left.stdout.repeat(70_000 / left.stdout.len().max(1)) } else { Vec::new() };
    let stdout = if long.is_empty() { left.stdout.repeat(1 + usize::from(left.times % 4)) } else { long };
    let exit = if left.times == 77 { ChildExit::Signal(status) } else { ChildExit::Status(status) };
    DEVICE.machine.next_output(Some(ChildOutput {
        exit,
        stdout,
        stderr: left.stderr.to_vec(),
        truncated: left.truncated,
    }));
    let handler = DEVICE.table.handler(&ROUTE).expect("it is registered");
    let decision = at_once(handler.handle(&DEVICE.context, Some(&DEVICE.d)));
    let child = DEVICE.machine.last_child().expect("it was run");
    assert_eq!((child.args.len(), child.stdin.ends_with(b"}")), (0, true));
    let raw = ReqId::from_text("r").to_raw();
    let answer = match decision {
        Decision::Replied(parts) => {
            assert_eq!((exit, parts.rc), (ChildExit::Status(0), Code::OK));
            Response::new(&raw, parts.rc).data(parts.d.as_deref()).to_bytes()
        }
        Decision::Refused(refusal) => {
            assert_eq!(refusal.rc(), code(exit));
            assert!(!refusal.message().is_empty() || !left.stdout.is_empty());
            Response::new(&raw, refusal.rc()).message(Some(refusal.message())).to_bytes()
        }
        Decision::Undecodable(refusal) => panic!("{refusal}"),
    };
    let limit = if exit == ChildExit::Status(0) { MAX_PAYLOAD_BYTES / 2 } else { 1024 };
    assert!(answer.len() <= limit + ENVELOPE_BYTES, "an answer of {} bytes", answer.len());
    let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
    assert!(exit != ChildExit::Status(0) || answer["d"].is_object(), "{answer}");
});

/// The members of an answer beside what the script said.
const ENVELOPE_BYTES: usize = 100;

fn code(exit: ChildExit) -> Code {
    match exit {
        ChildExit::Status(64) => Code::BAD_REQUEST,
        ChildExit::Status(69 | 75) => Code::CONFLICT,
        ChildExit::Status(_) | ChildExit::Signal(_) => Code::FAILED,
    }
}

const ROUTE: Route = Route::custom("lamp", "dim");

static DEVICE: LazyLock<Device> = LazyLock::new(|| {
    let mut table = Table::new();
    table
        .with(Scripts::new().add(ScriptSpec::new("lamp", "dim", "/bin/dim")))
        .expect("the script is well-formed");
    let d = r#"{"fields":[{"field":"percent","value":"40"}]}"#.to_owned();
    let machine = Machine::default();
    let context = machine.context();
    Device { table, machine, context, d: RawValue::from_string(d).expect("it is JSON") }
});

struct Device {
    table: Table,
    machine: Machine,
    context: Context,
    d: Box<RawValue>,
}
