//! The request has neither of its derives.

use iotdm_core::{Action, Finished, Route};

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
