//! The body of each action: the first byte picks the action, the rest is `d`. It is decoded, or refused with 400 and a
//! bounded message that says where.
#![no_main]

use std::sync::LazyLock;

use iotdm_core::{
    Accepted, Action, Cancel, Changed, Code, Context, Decision, DeviceUpdate, Download, Empty, FactoryReset,
    Failure, Finished, Handler, Observe, Performed, Reboot, Refusal, Route, Table, Update,
};
use iotdm_fuzz::{Machine, at_once};
use libfuzzer_sys::fuzz_target;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;

fuzz_target!(|input: &[u8]| {
    let Some((which, body)) = input.split_first() else { return };
    // Bodies come out of an envelope: raw JSON, or nothing.
    let raw: Option<&RawValue> = match body {
        [] => None,
        _ => match serde_json::from_slice(body) {
            Ok(raw) => Some(raw),
            Err(_) => return,
        },
    };
    match which % 10 {
        0 => check(Table::decode::<DeviceUpdate>(raw).err()),
        1 => check(Table::decode::<Observe>(raw).err()),
        2 => check(Table::decode::<Cancel>(raw).err()),
        other => {
            let handler = DEVICE.table.handler(&ROUTES[usize::from(other) - 3]).expect("it is registered");
            match at_once(handler.handle(&DEVICE.context, raw)) {
                Decision::Replied(_) => {}
                Decision::Undecodable(refusal) => check(Some(refusal)),
                Decision::Refused(refusal) => panic!("{refusal}"),
            }
        }
    }
});

fn check(refusal: Option<Refusal>) {
    let Some(refusal) = refusal else { return };
    assert_eq!(refusal.rc(), Code::BAD_REQUEST);
    assert!(refusal.message().starts_with('d'), "{refusal}");
    assert!(refusal.message().len() <= MAX_MESSAGE_BYTES, "{} bytes", refusal.message().len());
    assert!(refusal.log_message().is_none(), "{refusal}");
}

/// Room for a place, a reason, and some of what was sent: an answer that quotes all of it would not fit its payload.
const MAX_MESSAGE_BYTES: usize = 1100;

const ROUTES: [Route; 7] = [
    Reboot::ROUTE,
    FactoryReset::ROUTE,
    Download::ROUTE,
    Update::ROUTE,
    Dim::ROUTE,
    Route::custom("lamp", "program"),
    Route::custom("lamp", "again"),
];

static DEVICE: LazyLock<Device> = LazyLock::new(|| {
    let mut table = Table::new();
    table.on::<Reboot>(Lamp).expect("each route is registered once");
    table.on::<FactoryReset>(Lamp).expect("each route is registered once");
    table.on::<Download>(Lamp).expect("each route is registered once");
    table.on::<Update>(Lamp).expect("each route is registered once");
    table.on::<Dim>(Lamp).expect("each route is registered once");
    for route in &ROUTES[5..] {
        let policy = iotdm_core::Policy::of::<Program>();
        table.on_route::<Program>(route.clone(), policy, Lamp).expect("each route is registered once");
    }
    Device { table, context: Machine::default().context() }
});

struct Device {
    table: Table,
    context: Context,
}

struct Lamp;

macro_rules! accepts {
    ($($action:ty),*) => { $(
        impl Handler<$action> for Lamp {
            async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
                Ok(Accepted)
            }

            async fn after_ack(&self, _: &Context, _: &Empty) -> Result<Performed, Failure> {
                Ok(Performed::Complete)
            }
        }
    )* };
}

accepts!(Reboot, FactoryReset, Download, Update);

/// A custom action with the shapes of parameters that products have, and bounds of each kind.
struct Dim;

#[derive(Deserialize, JsonSchema)]
#[allow(dead_code, reason = "what matters is whether it can be made")]
struct Level {
    #[schemars(range(max = 100))]
    percent: u8,
    #[schemars(length(min = 1, max = 16), regex(pattern = "^[a-z]*$"))]
    room: Option<String>,
    #[serde(default)]
    fade: Fade,
    #[serde(default)]
    #[schemars(length(max = 4), extend("uniqueItems" = true))]
    points: Vec<(f64, i64)>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[allow(dead_code, reason = "what matters is whether it can be made")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Fade {
    #[default]
    AtOnce,
    Seconds(u32),
}

impl Action for Dim {
    const ROUTE: Route = Route::custom("lamp", "dim");
    type Request = Level;
    type Reply = Changed;
}

impl Handler<Dim> for Lamp {
    async fn handle(&self, _: &Context, _: &Level) -> Result<Changed, Refusal> {
        Ok(Changed)
    }
}

/// A custom action that takes whatever comes.
struct Program;

impl Action for Program {
    const ROUTE: Route = Route::custom("lamp", "program");
    type Request = serde_json::Map<String, serde_json::Value>;
    type Reply = Finished<()>;
}

impl Handler<Program> for Lamp {
    async fn handle(
        &self,
        _: &Context,
        _: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Finished<()>, Refusal> {
        Ok(Finished(()))
    }
}
