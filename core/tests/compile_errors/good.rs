//! What the mistakes are made from.

use iotdm_core::{
    Accepted, Action, Context, Failure, Finished, Handler, Performed, Recovery, Refusal, Route, Table, TableError,
};

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Colour {
    name: String,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Shown {
    name: String,
}

struct SetColour;

impl Action for SetColour {
    const ROUTE: Route = Route::custom("lamp", "setColour");
    type Request = Colour;
    type Reply = Finished<Shown>;
}

struct Calibrate;

impl Action for Calibrate {
    const ROUTE: Route = Route::custom("lamp", "calibrate");
    type Request = iotdm_core::Empty;
    type Reply = Accepted;
}

struct Lamp;

impl Handler<SetColour> for Lamp {
    async fn handle(&self, _: &Context, request: &Colour) -> Result<Finished<Shown>, Refusal> {
        Ok(Finished(Shown { name: request.name.clone() }))
    }
}

impl Handler<Calibrate> for Lamp {
    async fn handle(&self, _: &Context, _: &iotdm_core::Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, _: &Context, _: &iotdm_core::Empty) -> Result<Performed, Failure> {
        Ok(Performed::Complete)
    }

    async fn recover(&self, _: &Context, _: &iotdm_core::Empty) -> Recovery {
        Recovery::RunAgain
    }
}

fn main() -> Result<(), TableError> {
    let mut table = Table::new();
    table.on::<SetColour>(Lamp)?;
    table.on::<Calibrate>(Lamp)
}
