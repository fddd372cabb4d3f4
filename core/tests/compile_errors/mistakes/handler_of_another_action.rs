//! The handler is registered for an action that it does not implement.

use iotdm_core::{Action, Empty, Finished, Route, Table};

struct SetColour;

impl Action for SetColour {
    const ROUTE: Route = Route::custom("lamp", "setColour");
    type Request = Empty;
    type Reply = Finished<()>;
}

struct Lamp;

fn main() {
    let _ = Table::new().on::<SetColour>(Lamp);
}
