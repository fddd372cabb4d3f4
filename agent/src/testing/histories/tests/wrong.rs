//! Products that break a law, each in the way of an ordinary mistake: a law that cannot fail proves nothing.

use iotdm_core::Handler;
use tokio::time::sleep;

use super::*;

/// Must be found within so many seeds.
const SEEDS: u64 = 40;

/// A handler that is wrong on purpose.
#[derive(Clone)]
struct Wrong<T>(T);

fn check<W>(histories: &Histories<W>, law: &str) -> Violation {
    let violation =
        histories.find(0..SEEDS).unwrap_or_else(|| panic!("{law} was not broken within {SEEDS} seeds"));
    assert_eq!(violation.law, law, "{violation}");
    assert!(violation.steps.len() <= 6, "it is not short:\n{violation}");
    violation
}

fn reboots<H: Handler<Reboot> + Clone>(handler: H) -> Histories<()> {
    Histories::of(|_| (), move |(), builder| builder.on::<Reboot>(handler.clone())).request(
        1,
        Reboot::ROUTE,
        Value::Null,
    )
}

#[derive(Clone)]
struct BeforeTheAnswer;

impl Handler<Reboot> for Wrong<BeforeTheAnswer> {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        restart(cx, Restart::Reboot).await.map_err(|failure| Refusal::failed(failure.to_string()))?;
        Ok(Accepted)
    }

    async fn after_ack(&self, _: &Context, _: &Empty) -> Result<Performed, Failure> {
        Ok(Performed::Complete)
    }
}

#[test]
fn a_restart_before_the_answer_is_found() {
    let violation = check(&reboots(Wrong(BeforeTheAnswer)), "P5");
    assert!(violation.what.ends_with("restarts the machine before the broker has its 202"), "{violation}");
    assert_eq!(violation.steps.len(), 1, "{violation}");
}

#[derive(Clone)]
struct IgnoresTheBoot;

impl Handler<Reboot> for Wrong<IgnoresTheBoot> {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        restart(cx, Restart::Reboot).await
    }

    async fn recover(&self, _: &Context, _: &Empty) -> Recovery {
        Recovery::RunAgain
    }
}

#[test]
fn a_restart_that_is_repeated_after_it_happened_is_found() {
    let violation = check(&reboots(Wrong(IgnoresTheBoot)), "P5");
    assert!(violation.what.ends_with("restarts the machine again"), "{violation}");
}

impl Handler<FactoryReset> for Wrong<IgnoresTheBoot> {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        restart(cx, Restart::FactoryReset).await
    }

    async fn recover(&self, _: &Context, _: &Empty) -> Recovery {
        Recovery::RunAgain
    }
}

/// One that is cut short goes on; one whose handler has said that it is done does not.
#[test]
fn a_reset_that_is_repeated_after_it_was_done_is_found() {
    let product = |(): &(), builder: Builder| builder.on::<FactoryReset>(Wrong(IgnoresTheBoot));
    let histories = Histories::of(|_| (), product).request(1, FactoryReset::ROUTE, Value::Null);
    let violation = check(&histories, "P5");
    assert!(violation.what.ends_with("restarts the machine again"), "{violation}");
}

#[derive(Clone)]
struct SaysItIsDone;

impl Handler<Reboot> for Wrong<SaysItIsDone> {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        restart(cx, Restart::Reboot).await?;
        Ok(Performed::Complete)
    }
}

/// The agent takes the word of the handler, and manages again before the machine goes down.
#[test]
fn a_reboot_that_is_called_complete_before_it_came_is_found() {
    let violation = check(&reboots(Wrong(SaysItIsDone)), "P5");
    assert!(violation.what.starts_with("manage between the 202 of"), "{violation}");
}

/// Says that it may be repeated, and pours another glass each time.
struct PourAgain;

impl Action for PourAgain {
    const ROUTE: Route = Route::custom("bar", "pour");
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    type Request = Empty;
    type Reply = Finished<usize>;
}

impl Handler<PourAgain> for Wrong<Bar> {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<usize>, Refusal> {
        let glass = self.0.pour(cx);
        sleep(Duration::from_secs(2)).await;
        Ok(Finished(glass))
    }
}

#[test]
fn work_that_is_falsely_called_repeatable_is_found_by_a_law_of_the_product() {
    let product = |bar: &Bar, builder: Builder| builder.on::<PourAgain>(Wrong(bar.clone()));
    let histories = Histories::of(|_| Bar::default(), product)
        .request(1, PourAgain::ROUTE, Value::Null)
        .law("a glass is poured once", once);
    let violation = check(&histories, "a glass is poured once");
    assert!(violation.story.contains("(attempt 2) begins"), "{violation}");
}

/// Never ends, and has no budget to speak of.
struct Ponder;

impl Action for Ponder {
    const ROUTE: Route = Route::custom("bar", "ponder");
    const BUDGET: Duration = Duration::from_secs(365 * 24 * 3600);
    type Request = Empty;
    type Reply = Finished<()>;
}

impl Handler<Ponder> for Wrong<Bar> {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        std::future::pending().await
    }
}

#[test]
fn a_handler_that_never_ends_is_found() {
    let product = |bar: &Bar, builder: Builder| builder.on::<Ponder>(Wrong(bar.clone()));
    let histories = Histories::of(|_| Bar::default(), product).request(1, Ponder::ROUTE, Value::Null);
    check(&histories, "P3");
}

/// A journal that begins empty with each life of the process, as on a disk in memory.
fn forgetful() -> Histories<Bar> {
    let product = |bar: &Bar, builder: Builder| {
        builder.store(crate::testing::MemoryDisk::new()).on::<Pour>(bar.clone()).on::<Reboot>(bar.clone())
    };
    Histories::of(|_| Bar::default(), product)
}

#[test]
fn a_journal_that_forgets_is_found_by_a_lost_answer() {
    check(&forgetful().request(1, Pour::ROUTE, Value::Null), "P3");
}

#[test]
fn a_journal_that_forgets_is_found_by_a_second_restart() {
    let histories = forgetful().request(1, Reboot::ROUTE, Value::Null);
    let violation =
        (0..400).find_map(|seed| histories.find(seed..seed + 1).filter(|violation| violation.law == "P5"));
    let violation = violation.expect("P5 is broken within 400 seeds");
    assert!(violation.what.contains("again") || violation.what.starts_with("manage between"), "{violation}");
}

/// Writes to its attributes for ever.
#[test]
fn a_product_that_fills_the_journal_is_found() {
    let grow = |_: &Bar, device: Device| async move {
        for number in 0.. {
            sleep(Duration::from_secs(60)).await;
            let name = format!("reading {}", number % 200);
            let _ = device.set_attribute(&name, &"x".repeat(2000)).await;
        }
    };
    let product = |bar: &Bar, builder: Builder| builder.on::<Dim>(bar.clone());
    let histories =
        Histories::of(|_| Bar::default(), product).request(1, Dim::ROUTE, Value::Null).beside(grow);
    check(&histories, "P8");
}

/// Reboots by itself, long after everybody has gone.
#[test]
fn a_product_that_does_not_come_to_rest_is_found() {
    let restless = |machine: &Machine, device: Device| {
        let (machine, _device) = (machine.clone(), device);
        async move {
            sleep(Duration::from_secs(2 * 3600)).await;
            machine.crash();
        }
    };
    let histories = Histories::of(Machine::clone, |_, builder| builder.on::<Dim>(Bar::default()))
        .request(1, Dim::ROUTE, Value::Null)
        .beside(restless);
    check(&histories, "quiet");
}

#[derive(Clone)]
struct Panics;

impl Handler<Reboot> for Wrong<Panics> {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        panic!("as it was told to")
    }

    async fn after_ack(&self, _: &Context, _: &Empty) -> Result<Performed, Failure> {
        Ok(Performed::Complete)
    }
}

/// The agent catches it: it is an answer like any other.
#[test]
fn a_handler_that_panics_breaks_no_law() {
    assert_eq!(reboots(Wrong(Panics)).find(0..10), None);
}

#[test]
fn a_product_that_cannot_be_built_is_found() {
    let twice = |_: &Bar, builder: Builder| builder.on::<Dim>(Bar::default()).on::<Dim>(Bar::default());
    let violation = check(&Histories::of(|_| Bar::default(), twice), "panic");
    assert!(violation.what.contains("Duplicate"), "{violation}");
    assert_eq!((violation.steps.len(), violation.story.contains("agent begins")), (0, true), "{violation}");
}
