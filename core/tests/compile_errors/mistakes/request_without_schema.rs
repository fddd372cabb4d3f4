//! The request has one of its derives, as it had before it was an action's.

use iotdm_core::{Action, Finished, Route};

#[derive(serde::Deserialize)]
struct Colour {
    name: String,
}

struct SetColour;

impl Action for SetColour {
    const ROUTE: Route = Route::custom("lamp", "setColour");
    type Request = Colour;
    type Reply = Finished<()>;
}

fn main() {}
