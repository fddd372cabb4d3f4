//! An action of the product's own: a few lines declare it, and routing, decoding, bounds, exact refusals, a schema and
//! the extension package that the platform imports follow.
//!
//! ```sh
//! cargo run -p iotdm-examples --bin custom_action
//! ```

use std::io::{Write, stdout};

use iotdm_core::{Action, Context, Finished, Handler, Interrupted, Late, Refusal, Route, Table};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

/// `lamp/setColour`.
struct SetColour;

/// What the platform sends, as `{field, value}` pairs. What stands in `schemars(…)` is enforced before the handler runs.
#[derive(Deserialize, JsonSchema)]
struct Request {
    colour: Colour,
    #[schemars(range(min = 1, max = 100))]
    percent: u8,
    /// How long the change takes, in seconds: this lamp fades within a minute.
    #[serde(default)]
    #[schemars(range(max = 60))]
    fade_seconds: u16,
    #[schemars(length(max = 16), regex(pattern = "^[a-z]+$"))]
    room: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Colour {
    White,
    Amber,
}

/// What it gets back.
#[derive(Serialize, JsonSchema)]
struct Shown {
    colour: Colour,
    percent: u8,
}

impl Action for SetColour {
    const ROUTE: Route = Route::custom("lamp", "setColour");
    const TITLE: &'static str = "Set the colour";
    const DESCRIPTION: &'static str = "Fades to a colour and a brightness.";
    const INTERRUPTED: Interrupted = Interrupted::RunAgain; // the same colour twice is no harm
    const LATE: Late = Late::RefuseAfter(std::time::Duration::from_secs(15 * 60)); // nobody waits for it so long
    type Request = Request;
    type Reply = Finished<Shown>;
}

/// A lamp whose amber needs power that not every room has.
struct Lamp;

impl Handler<SetColour> for Lamp {
    async fn handle(&self, _: &Context, request: &Request) -> Result<Finished<Shown>, Refusal> {
        if request.colour == Colour::Amber && request.room.as_deref() == Some("cellar") {
            return Err(Refusal::busy("the cellar has no power for amber").log("breaker 4 is open"));
        }
        tokio::time::sleep(std::time::Duration::from_secs(request.fade_seconds.into())).await;
        Ok(Finished(Shown { colour: request.colour, percent: request.percent }))
    }
}

fn table() -> Result<Table, iotdm_core::TableError> {
    let mut table = Table::new();
    table.on::<SetColour>(Lamp)?;
    Ok(table)
}

/// What a request with this `d` is answered before the handler sees it; 400 with the place, or nothing.
fn refused(table: &Table, d: &RawValue) -> Option<String> {
    let refusal = table.check(&SetColour::ROUTE, Some(d)).err()?;
    Some(format!("{} {}", refusal.rc().as_u16(), refusal.message()))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let table = table()?;
    let mut out = stdout().lock();
    writeln!(out, "The schema:\n{:#}\n", table.schemas())?;
    let packages = serde_json::to_value(table.extension_packages())?;
    writeln!(out, "What the platform imports:\n{packages:#}\n")?;
    for parameters in [
        json!({"colour": "amber", "percent": "40"}),
        json!({"colour": "amber", "percent": "40", "fade_seconds": "3", "room": "hall"}),
        json!({"colour": "mauve", "percent": "40"}),
        json!({"colour": "white", "percent": "140"}),
        json!({"colour": "white", "percent": "forty"}),
        json!({"colour": "white", "percent": "40", "room": "Room 7"}),
        json!({"color": "white", "percent": "40"}),
    ] {
        let pairs = parameters.as_object().into_iter().flatten();
        let fields: Vec<_> = pairs.map(|(field, value)| json!({"field": field, "value": value})).collect();
        let d = to_raw_value(&json!({"fields": fields}))?;
        let outcome = refused(&table, &d).unwrap_or_else(|| "reaches the handler".into());
        writeln!(out, "{parameters}\n  {outcome}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use iotdm_agent::testing::action::action;
    use iotdm_agent::testing::{MemoryDisk, Platform, TestSystem, start};
    use serde_json::{Value, json};

    use super::*;

    /// The test that a product writes.
    #[test]
    fn set_colour_does_what_it_declares() {
        action::<SetColour, _>(|| Lamp).proves(json!({"colour": "amber", "percent": 40, "fade_seconds": 3}));
    }

    async fn answer(d: Value) -> Value {
        let (platform, disk, system) = (Platform::new(), MemoryDisk::new(), TestSystem::new());
        let _agent = start(&platform, &disk, &system, |builder| builder.on::<SetColour>(Lamp));
        platform.managed(1).await;
        platform.send(SetColour::ROUTE, json!({"d": d, "reqId": "1"}));
        platform.response("1").await
    }

    fn fields(colour: &str, percent: &str, room: &str) -> Value {
        let field = |name: &str, value: &str| json!({"field": name, "value": value});
        json!({"fields": [field("colour", colour), field("percent", percent), field("room", room)]})
    }

    #[tokio::test(start_paused = true)]
    async fn a_colour_is_shown_and_given_back() {
        let answer = answer(fields("amber", "40", "hall")).await;
        assert_eq!(answer, json!({"rc": 200, "d": {"colour": "amber", "percent": 40}, "reqId": "1"}));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_request_is_answered_400_with_its_place() {
        for (d, message) in [
            (fields("mauve", "40", "hall"), "d.colour: unknown variant `mauve`, expected `white` or `amber`"),
            (fields("white", "140", "hall"), "d.percent: 140 is more than 100 (the maximum)"),
            (fields("white", "40", "Room 7"), "d.room: \"Room 7\" does not match ^[a-z]+$"),
        ] {
            let printed = refused(&table().unwrap(), &to_raw_value(&d).unwrap()).unwrap();
            assert_eq!(printed, format!("400 {message}"));
            let refusal = answer(d).await;
            assert_eq!((&refusal["rc"], &refusal["message"]), (&400.into(), &message.into()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_refuses_what_only_it_can_judge() {
        let refusal = answer(fields("amber", "40", "cellar")).await;
        let expected = json!({"rc": 409, "message": "the cellar has no power for amber", "reqId": "1"});
        assert_eq!(refusal, expected);
    }

    #[test]
    fn the_package_asks_people_for_what_the_device_takes() {
        let packages = serde_json::to_value(table().unwrap().extension_packages()).unwrap();
        let parameters = &packages[0]["actions"]["setColour"]["parameters"];
        assert_eq!(parameters[0]["value"], "^(white|amber)$", "{packages:#}");
        assert_eq!(parameters[1]["value"], "^(0|[1-9][0-9]{0,2})$", "{packages:#}");
    }
}
