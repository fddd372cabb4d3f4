//! A product that keeps the laws, and for each law one that does not.

mod wrong;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use iotdm_core::{
    Accepted, Action, Context, Empty, FactoryReset, Failure, Finished, Handler, Interrupted, Late, Performed,
    Reboot, Recovery, Refusal, Restart, Route,
};
use serde_json::{Value, json};

use super::*;

/// May not be repeated; takes some seconds.
pub(super) struct Pour;
/// May be repeated.
pub(super) struct Dim;
/// Is of use only for a quarter of an hour.
pub(super) struct Open;

impl Action for Pour {
    const ROUTE: Route = Route::custom("bar", "pour");
    type Request = Empty;
    type Reply = Finished<usize>;
}

impl Action for Dim {
    const ROUTE: Route = Route::custom("lamp", "dim");
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    type Request = Empty;
    type Reply = Finished<()>;
}

impl Action for Open {
    const ROUTE: Route = Route::custom("door", "open");
    const LATE: Late = Late::RefuseAfter(Duration::from_secs(15 * 60));
    type Request = Empty;
    type Reply = Finished<()>;
}

/// Glasses that are full.
#[derive(Clone, Debug, Default)]
pub(super) struct Bar(Arc<Mutex<Vec<String>>>);

impl Bar {
    pub(super) fn pour(&self, cx: &Context) -> usize {
        let mut full = self.0.lock().unwrap();
        full.push(cx.req_id().map(ToString::to_string).unwrap_or_default());
        full.len()
    }

    pub(super) fn full(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Handler<Pour> for Bar {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Finished<usize>, Refusal> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let glass = self.pour(cx);
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(Finished(glass))
    }
}

impl Handler<Dim> for Bar {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(Finished(()))
    }
}

impl Handler<Open> for Bar {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        Ok(Finished(()))
    }
}

impl Handler<Reboot> for Bar {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        restart(cx, Restart::Reboot).await
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        if cx.rebooted() { Recovery::Done } else { Recovery::RunAgain }
    }
}

impl Handler<FactoryReset> for Bar {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        restart(cx, Restart::FactoryReset).await
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        if cx.rebooted() { Recovery::Done } else { Recovery::RunAgain }
    }
}

pub(super) async fn restart(cx: &Context, kind: Restart) -> Result<Performed, Failure> {
    cx.system().restart(kind).await.map_err(|error| Failure::new(error.to_string()))
}

fn right() -> Histories<Bar> {
    let product = |bar: &Bar, builder: Builder| {
        builder
            .on::<Pour>(bar.clone())
            .on::<Dim>(bar.clone())
            .on::<Open>(bar.clone())
            .on::<Reboot>(bar.clone())
            .on::<FactoryReset>(bar.clone())
    };
    let brightness = json!({"fields": [{"field": "percent", "value": 40}]});
    let observed = json!({"fields": [{"field": "metadata"}]});
    Histories::of(|_| Bar::default(), product)
        .request(4, Pour::ROUTE, Value::Null)
        .request(3, Dim::ROUTE, brightness)
        .request(2, Open::ROUTE, Value::Null)
        .request(3, Reboot::ROUTE, Value::Null)
        .request(1, FactoryReset::ROUTE, json!({}))
        .request(1, Route::Observe, observed)
        .law("a glass is poured once", once)
}

/// Of each journal's life: a damaged one may have forgotten a request that is sent again after it.
pub(super) fn once(record: &Record, bar: &Bar) -> Result<(), String> {
    let damaged = record.events().any(|event| *event == Event::Damaged);
    let mut full = bar.full();
    let poured = full.len();
    full.sort();
    full.dedup();
    if damaged || full.len() == poured { Ok(()) } else { Err("the same glass was poured twice".into()) }
}

#[test]
fn a_right_product_keeps_the_laws() {
    right().check(150);
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in 0..20 {
        let (one, other) = (right().record(seed), right().record(seed));
        assert_eq!(one.to_string(), other.to_string(), "seed {seed}");
    }
    assert_ne!(right().record(1).to_string(), right().record(2).to_string());
}

/// Laws that hold because nothing ever happens prove nothing.
#[test]
fn the_histories_are_eventful() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        for event in right().record(seed).events() {
            let shown = format!("{event:?}");
            seen.insert(shown.split(['(', ' ', '{']).next().unwrap().to_owned());
            if let Event::Returned(work, outcome) = event {
                seen.insert(format!("{:?} {outcome:?}", work.part));
            }
            if let Event::Published(message) = event {
                seen.insert(message.body["rc"].to_string());
            }
        }
    }
    for expected in [
        "Damaged",
        "Dropped",
        "Restart",
        "Boot",
        "Killed",
        "Handle Replied(202)",
        "Handle Undecodable",
        "AfterAck Performed(Restarting)",
        "Recover Judged(Done)",
        "Recover Judged(RunAgain)",
        "200",
        "202",
        "400",
        "404",
        "409",
        "500",
        "501",
    ] {
        assert!(seen.contains(expected), "no history has {expected}: {seen:?}");
    }
}
