//! A topic would not hold it, and the platform would not take the package.

use iotdm_core::{Action, Context, Empty, Finished, Handler, Refusal, Route, Table};

struct SetColour;

impl Action for SetColour {
    const ROUTE: Route = Route::custom("my lamp", "set colour");
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
    let _ = Table::new().on::<SetColour>(Lamp);
}
