//! Something that must stay on its thread is held while the handler waits.

use std::rc::Rc;

use iotdm_core::{Action, Context, Empty, Finished, Handler, Refusal, Route};

struct SetColour;

impl Action for SetColour {
    const ROUTE: Route = Route::custom("lamp", "setColour");
    type Request = Empty;
    type Reply = Finished<()>;
}

struct Lamp;

impl Handler<SetColour> for Lamp {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        let shared = Rc::new(7);
        std::future::ready(()).await;
        drop(shared);
        Ok(Finished(()))
    }
}

fn main() {}
