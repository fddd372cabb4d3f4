//! An action of the product's own: a few lines declare it, and routing, decoding, a schema and exact refusals follow.
//!
//! ```sh
//! cargo run -p iotdm-examples --bin custom_action
//! ```

use std::io::{Write, stdout};

use iotdm_core::{Action, Context, Finished, Handler, Interrupted, Refusal, Route, Table};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

/// `lamp/setColour`.
struct SetColour;

/// What the platform sends, as `{field, value}` pairs.
#[derive(Deserialize, JsonSchema)]
struct Request {
    colour: Colour,
    /// How long the change takes, in seconds.
    #[serde(default)]
    fade_seconds: u16,
}

#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Colour {
    White,
    Amber,
}

/// What it gets back.
#[derive(Serialize, JsonSchema)]
struct Shown {
    colour: Colour,
}

impl Action for SetColour {
    const ROUTE: Route = Route::custom("lamp", "setColour");
    const INTERRUPTED: Interrupted = Interrupted::RunAgain; // the same colour twice is no harm
    type Request = Request;
    type Reply = Finished<Shown>;
}

struct Lamp;

impl Handler<SetColour> for Lamp {
    async fn handle(&self, _: &Context, request: &Request) -> Result<Finished<Shown>, Refusal> {
        if request.fade_seconds > 60 {
            return Err(Refusal::bad_request("fade_seconds: this lamp fades within a minute"));
        }
        Ok(Finished(Shown { colour: request.colour }))
    }
}

/// What a request with this `d` is answered before the handler sees it; 400 with the place, or nothing.
fn refused(d: &RawValue) -> Option<String> {
    let refusal = Table::decode::<SetColour>(Some(d)).err()?;
    Some(format!("{} {}", refusal.rc().as_u16(), refusal.message()))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut table = Table::new();
    table.on::<SetColour>(Lamp)?;
    let mut out = stdout().lock();
    writeln!(out, "{:#}\n", table.schemas())?;
    for d in [
        json!({"fields": [{"field": "colour", "value": "amber"}]}),
        json!({"fields": [{"field": "colour", "value": "mauve"}]}),
        json!({"fields": [{"field": "colour", "value": "white"}, {"field": "fade_seconds", "value": "3"}]}),
        json!({"fields": [{"field": "color", "value": "white"}]}),
        json!({"fields": "amber"}),
        json!("amber"),
    ] {
        let outcome = refused(&to_raw_value(&d)?).unwrap_or_else(|| "reaches the handler".into());
        writeln!(out, "{d}\n  {outcome}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use iotdm_agent::testing::{MemoryDisk, Platform, TestSystem, start};
    use serde_json::{Value, json};

    use super::*;

    async fn answer(d: Value) -> Value {
        let (platform, disk, system) = (Platform::new(), MemoryDisk::new(), TestSystem::new());
        let _agent = start(&platform, &disk, &system, |builder| builder.on::<SetColour>(Lamp));
        platform.managed(1).await;
        platform.send(SetColour::ROUTE, json!({"d": d, "reqId": "1"}));
        platform.response("1").await
    }

    fn field(name: &str, value: &str) -> Value {
        json!({"field": name, "value": value})
    }

    #[tokio::test(start_paused = true)]
    async fn a_colour_is_shown_and_given_back() {
        let answer = answer(json!({"fields": [field("colour", "amber")]})).await;
        assert_eq!(answer, json!({"rc": 200, "d": {"colour": "amber"}, "reqId": "1"}));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_request_is_answered_400_with_its_place() {
        let fields = json!({"fields": [field("colour", "mauve")]});
        let refusal = answer(fields.clone()).await;
        assert_eq!(refusal["rc"], 400);
        assert_eq!(refusal["message"], "d.colour: unknown variant `mauve`, expected `white` or `amber`");
        let printed = refused(&to_raw_value(&fields).unwrap()).unwrap();
        assert_eq!(printed, format!("400 {}", refusal["message"].as_str().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_refuses_what_only_it_can_judge() {
        let fields = json!({"fields": [field("colour", "white"), {"field": "fade_seconds", "value": 61}]});
        let refusal = answer(fields).await;
        assert_eq!(refusal["message"], "fade_seconds: this lamp fades within a minute");
    }
}
