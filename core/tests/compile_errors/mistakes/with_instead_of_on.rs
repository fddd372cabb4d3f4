//! `with` is for bundles of several actions.

use iotdm_core::{Action, Context, Empty, Finished, Handler, Refusal, Route, Table};

struct SetColour;

impl Action for SetColour {
    const ROUTE: Route = Route::custom("lamp", "setColour");
    type Request = Empty;
    type Reply = Finished<()>;
}

struct Lamp;

impl Handler<SetColour> for Lamp {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        Ok(Finished(()))
    }
}

fn main() {
    let _ = Table::new().with(Lamp);
}
