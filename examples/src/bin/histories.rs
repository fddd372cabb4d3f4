//! A product proven over random histories: crashes, power cuts, outages, replays, a full disk, a damaged journal.
//!
//! ```sh
//! cargo run -p iotdm-examples --features histories --bin histories
//! ```
//!
//! A dispenser gives out a portion at a time and can be rebooted. First its handlers are right; then it claims that a
//! portion may be given out again after a crash, and the shortest story in which somebody gets two is printed. A
//! product has the first half as a `#[test]`. `IOTDM_SEED=n` runs one history, `IOTDM_SEEDS=n` so many.

use std::collections::BTreeSet;
use std::io::{Write, stdout};
use std::time::Duration;

use iotdm_agent::Builder;
use iotdm_agent::testing::histories::{Event, Histories, Machine, Record};
use iotdm_core::{Action, Context, Empty, Finished, Handler, Interrupted, Policy, Reboot, Refusal, Route};
use iotdm_handlers::Restarts;
use serde_json::Value;

/// `dispenser/dispense`: a portion. What an action does not declare is careful: a crash in it is answered 500.
struct Dispense;

impl Action for Dispense {
    const ROUTE: Route = Route::custom("dispenser", "dispense");
    type Request = Empty;
    type Reply = Finished<()>;
}

/// The dispenser. Its motor belongs to the hardware, and here it is the test's.
#[derive(Clone)]
struct Dispenser {
    motor: Machine,
}

impl Handler<Dispense> for Dispenser {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        let req_id = cx.req_id().map(ToString::to_string).unwrap_or_default();
        self.motor.note(format!("a portion for {req_id}"));
        tokio::time::sleep(TURN).await;
        Ok(Finished(()))
    }
}

/// How long the motor takes for a portion.
const TURN: Duration = Duration::from_secs(4);

/// What makes an agent a dispenser.
fn dispenser(machine: &Machine, builder: Builder) -> Builder {
    builder.on::<Dispense>(Dispenser { motor: machine.clone() }).on::<Reboot>(Restarts)
}

/// What the platform asks for, and what must hold beside the promises of the agent.
fn histories(product: impl Fn(&Machine, Builder) -> Builder + 'static) -> Histories<Machine> {
    Histories::of(Machine::clone, product)
        .request(3, Dispense::ROUTE, Value::Null)
        .request(1, Reboot::ROUTE, Value::Null)
        .law("one portion for one request", |record, _| one_portion_each(record))
}

fn one_portion_each(record: &Record) -> Result<(), String> {
    let mut given = BTreeSet::new();
    for event in record.events() {
        match event {
            // Who asks again after the journal was lost gets another one: nobody remembers the first.
            Event::Damaged => given.clear(),
            Event::Note(portion) if !given.insert(portion) => return Err(format!("{portion}, again")),
            _ => {}
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = stdout().lock();
    histories(dispenser).check(HISTORIES);
    writeln!(out, "{HISTORIES} histories, or those that the environment names: all laws hold")?;

    let careless = |policy: &mut Policy| policy.interrupted = Interrupted::RunAgain;
    let wrong =
        histories(move |machine, builder| dispenser(machine, builder).policy(Dispense::ROUTE, careless));
    let violation = wrong.find(0..HISTORIES).ok_or("the mistake was not found")?;
    writeln!(out, "\nWith a portion that is wrongly called repeatable:\n{violation}")?;
    Ok(())
}

/// A second or two in a debug build.
const HISTORIES: u64 = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dispenser_keeps_the_laws() {
        histories(dispenser).check(50);
    }
}
