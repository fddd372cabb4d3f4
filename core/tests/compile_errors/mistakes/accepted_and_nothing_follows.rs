//! The platform would be told that it will be done, and nothing would do it.

use iotdm_core::{Accepted, Action, Context, Empty, Handler, Refusal, Route, Table};

struct Calibrate;

impl Action for Calibrate {
    const ROUTE: Route = Route::custom("lamp", "calibrate");
    type Request = Empty;
    type Reply = Accepted;
}

struct Lamp;

impl Handler<Calibrate> for Lamp {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }
}

fn main() {
    let _ = Table::new().on::<Calibrate>(Lamp);
}
