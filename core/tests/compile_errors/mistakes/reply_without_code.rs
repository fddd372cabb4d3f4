//! The reply is the result itself: nothing says which code it is answered with.

use iotdm_core::{Action, Empty, Route};

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Shown {
    name: String,
}

struct SetColour;

impl Action for SetColour {
    const ROUTE: Route = Route::custom("lamp", "setColour");
    type Request = Empty;
    type Reply = Shown;
}

fn main() {}
