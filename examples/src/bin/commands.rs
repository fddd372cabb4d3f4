//! Commands of applications: a typed one that is durable, and one whose acknowledgement waits for its handler.
//!
//! ```sh
//! cargo run -p iotdm-examples --features histories --bin commands
//! ```

use std::io::{Write, stdout};
use std::time::Duration;

use iotdm_agent::testing::{MemoryDisk, Platform, TestSystem, start};
use iotdm_core::{Acknowledge, Command, Context, Failure, Interrupted, Json, Late, OnCommand, Received};
use schemars::JsonSchema;
use serde::Deserialize;

/// `iot-2/cmd/colour/fmt/json`: recorded, acknowledged, then carried out.
struct Colour;

/// What stands in `schemars(…)` is enforced before the handler runs.
#[derive(Deserialize, JsonSchema)]
struct Wanted {
    name: String,
    #[schemars(range(max = 100))]
    percent: u8,
}

impl Command for Colour {
    const ID: &str = "colour";
    const INTERRUPTED: Interrupted = Interrupted::RunAgain; // the same colour twice is no harm
    const LATE: Late = Late::RefuseAfter(Duration::from_secs(15 * 60)); // nobody waits for it so long
    type Payload = Json<Wanted>;
}

/// `iot-2/cmd/+/fmt/text`: every other id. The broker keeps it until the handler has ended.
struct Note;

impl Command for Note {
    const ID: &str = "+";
    const FORMAT: &str = "text";
    const ACKNOWLEDGE: Acknowledge = Acknowledge::Handled;
    type Payload = String;
}

#[derive(Clone)]
struct Lamp;

impl OnCommand<Colour> for Lamp {
    async fn on_command(&self, _: &Context, command: &Received<Json<Wanted>>) -> Result<(), Failure> {
        let Wanted { name, percent } = &command.payload.0;
        say(&format!("colour {name} at {percent} %"))
    }
}

impl OnCommand<Note> for Lamp {
    async fn on_command(&self, _: &Context, command: &Received<String>) -> Result<(), Failure> {
        say(&format!("{}: {}", command.id, command.payload))
    }
}

fn say(what: &str) -> Result<(), Failure> {
    writeln!(stdout(), "{what}").map_err(|error| Failure::new(error.to_string()))
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let platform = Platform::new();
    let running = start(&platform, &MemoryDisk::new(), &TestSystem::new(), |builder| {
        builder.on_command::<Colour>(Lamp).on_command::<Note>(Lamp)
    });
    platform.managed(1).await;

    platform.command("colour", "json", r#"{"name":"amber","percent":40}"#);
    platform.command("colour", "json", r#"{"name":"amber","percent":140}"#);
    platform.command("door", "text", "open at eight");
    platform.command("door", "xml", "<open/>");
    platform.drained().await;
    // What has no handler, and what does not fit, is counted.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (cause, times) in running.device().counters().await? {
        say(&format!("{cause}: {times}"))?;
    }
    Ok(running.stop().await?)
}
