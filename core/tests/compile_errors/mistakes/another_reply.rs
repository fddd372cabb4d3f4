//! The handler answers with another code than the action declares, or with an error of its own.

use iotdm_core::{Action, Changed, Context, Empty, Finished, Handler, Refusal, Route};

struct SetColour;

impl Action for SetColour {
    const ROUTE: Route = Route::custom("lamp", "setColour");
    type Request = Empty;
    type Reply = Finished<()>;
}

struct Lamp;

impl Handler<SetColour> for Lamp {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Changed, Refusal> {
        Ok(Changed)
    }
}

struct Dimmer;

impl Handler<SetColour> for Dimmer {
    async fn handle(&self, _: &Context, _: &Empty) -> std::io::Result<()> {
        std::fs::write("/dev/null", "amber")
    }
}

fn main() {}
