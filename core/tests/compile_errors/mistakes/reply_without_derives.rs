//! The result has no derives.

use iotdm_core::{Action, Empty, Finished, Route};

struct Shown {
    name: String,
}

struct SetColour;

impl Action for SetColour {
    const ROUTE: Route = Route::custom("lamp", "setColour");
    type Request = Empty;
    type Reply = Finished<Shown>;
}

fn main() {}
