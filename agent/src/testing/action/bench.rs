//! A device with one action, its platform, and what can be done to them.

use std::time::Duration;

use iotdm_core::{Performed, Phases, Policy, Recovery, Route, UpRoute};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::as_sent;
use super::probe::{Hold, Probe};
use crate::Builder;
use crate::testing::histories::record::{Asked, Entries, Event, Log, Outcome, Part, Record};
use crate::testing::platform::Witness;
use crate::testing::{MemoryDisk, Platform, Running, TestSystem, start_on};

/// One device in one situation.
pub(super) struct Bench<'a> {
    pub(super) route: Route,
    pub(super) policy: Policy,
    /// The code of the action's reply.
    pub(super) code: u16,
    /// A request that the handler takes.
    pub(super) example: &'a Value,
    /// The schemas of the action.
    pub(super) schemas: Value,
    pub(super) platform: Platform,
    register: &'a dyn Fn(Builder) -> Builder,
    disk: MemoryDisk,
    system: TestSystem,
    probe: Probe,
    entries: Entries,
    log: Log,
    running: Option<Running>,
}

/// What was found instead of what was expected.
pub(super) type Found = String;

impl<'a> Bench<'a> {
    /// A device that is managed. Needs a tokio runtime.
    pub(super) async fn new(
        (route, policy, code): (Route, Policy, u16),
        register: &'a dyn Fn(Builder) -> Builder,
        example: &'a Value,
    ) -> Self {
        let entries = Entries::default();
        let log = Log::new(entries.clone());
        let platform = Platform::new();
        let witness = log.clone();
        platform.witness(Witness(std::sync::Arc::new(move |passed| witness.passed(passed))));
        let mut bench = Self {
            route,
            policy,
            code,
            example,
            schemas: Value::Null,
            platform,
            register,
            disk: MemoryDisk::new(),
            system: TestSystem::new(),
            probe: Probe::new(log.clone()),
            entries,
            log,
            running: None,
        };
        bench.start();
        bench.platform.managed(1).await;
        bench.platform.drained().await;
        bench
    }

    /// Starts the agent.
    pub(super) fn start(&mut self) {
        self.log.push(Event::Process);
        let machine = std::sync::Arc::new(self.system.clone());
        let (probe, schemas) = (&self.probe, &mut self.schemas);
        let seed = self.system.next_seed();
        self.running = Some(start_on(&self.platform, &self.disk, machine, seed, self.register, |table| {
            *schemas = table.schemas();
            table.wrap(|route, handler| probe.around(route, handler));
        }));
    }

    /// Ends the process as `kill -9` does.
    pub(super) async fn kill(&mut self) {
        self.log.push(Event::Killed);
        if let Some(running) = self.running.take() {
            running.kill().await;
        }
    }

    /// Ends the process, with the machine where there is to be another boot, and starts it again.
    pub(super) async fn restart(&mut self, machine: bool) {
        self.kill().await;
        if machine {
            let boot = self.count(|event| matches!(event, Event::Boot(_)));
            self.log.push(Event::Boot(boot as u64 + 2));
            self.system.next_boot();
        }
        self.start();
    }

    /// The device is away, or back.
    pub(super) fn offline(&self, offline: bool) {
        self.log.push(Event::Step(if offline { "the device is away" } else { "the device is back" }.into()));
        self.platform.offline(offline);
    }

    /// Sends the example under this reqId.
    pub(super) fn send(&self, req_id: &str) {
        self.send_body(req_id, as_sent(&self.route, self.example));
    }

    pub(super) fn send_body(&self, req_id: &str, d: Value) {
        let mut body = json!({ "reqId": req_id });
        if !d.is_null() {
            body["d"] = d.clone();
        }
        let asked = Asked { req_id: format!("{req_id:?}"), route: self.route.clone(), d };
        self.log.push(Event::Sent(asked));
        self.platform.send(self.route.clone(), body);
    }

    /// The next answer under this reqId.
    pub(super) async fn answer(&self, req_id: &str) -> Result<Value, Found> {
        let patience = self.patience();
        let answer = timeout(patience, self.platform.response(req_id)).await;
        answer.map_err(|_| format!("no answer within {patience:?}"))
    }

    /// Sends the example, and expects this code.
    pub(super) async fn expect(&self, req_id: &str, code: u16) -> Result<Value, Found> {
        self.send(req_id);
        self.expect_answer(req_id, code).await
    }

    /// Expects this code in the next answer.
    pub(super) async fn expect_answer(&self, req_id: &str, code: u16) -> Result<Value, Found> {
        let answer = self.answer(req_id).await?;
        if answer["rc"] == code {
            Ok(answer)
        } else {
            Err(format!("answered {answer}, and {code} is expected"))
        }
    }

    /// How often a part of the handler has been started.
    pub(super) fn begun(&self, part: Part) -> usize {
        self.count(|event| matches!(event, Event::Started(work) if work.part == part))
    }

    /// Expects so many starts.
    pub(super) fn expect_begun(&self, part: Part, times: usize) -> Result<(), Found> {
        let begun = self.begun(part);
        if begun == times {
            Ok(())
        } else {
            Err(format!("{part:?} was started {begun} times, and {times} are expected"))
        }
    }

    fn count(&self, is: impl Fn(&Event) -> bool) -> usize {
        self.log.entries().iter().filter(|entry| is(&entry.event)).count()
    }

    /// Stops the next part that comes there, when it comes there.
    pub(super) fn hold(&self, hold: Hold) {
        self.log.push(Event::Step(format!("the handler will be held: {hold:?}")));
        self.probe.hold(hold);
    }

    /// Waits until a part is held.
    pub(super) async fn until_held(&self) -> Result<(), Found> {
        self.until(Probe::is_held).await.map_err(|patience| {
            format!("within {patience:?} the handler did not come to where it was to be held")
        })
    }

    /// Waits for the end of the work that follows a 202: after `after_ack`, and after `recover` where the machine was
    /// restarted for it.
    pub(super) async fn until_performed(&mut self) -> Result<(), Found> {
        if self.policy.phases == Phases::WorkThenAnswer {
            return Ok(());
        }
        let seen = self.ends().len();
        self.until_ends(seen.max(1)).await?;
        let ends = self.ends();
        match ends.last() {
            Some(Outcome::Failed(reason)) => return Err(format!("after_ack failed: {reason}")),
            Some(Outcome::Performed(Performed::Restarting)) => {}
            _ => return Ok(()),
        }
        self.restart(true).await;
        self.until_ends(ends.len() + 1).await?;
        match &self.ends()[ends.len()] {
            Outcome::Judged(Recovery::Done) => Ok(()),
            other => Err(format!(
                "after_ack restarted the machine, and after the restart recover says {other:?}: Done is expected"
            )),
        }
    }

    /// The same, where something follows at all.
    pub(super) async fn until_performed_if(&mut self, follows: bool) -> Result<(), Found> {
        if follows { self.until_performed().await } else { Ok(()) }
    }

    /// What the platform was told of work that failed after its answer: a log entry of severity 2.
    pub(super) fn reported_failure(&self) -> Option<String> {
        let entries = self.platform.published(UpRoute::AddLog);
        let failure = entries.iter().find(|entry| entry["d"]["severity"] == 2)?;
        Some(failure["d"]["message"].as_str().unwrap_or_default().to_owned())
    }

    /// How `after_ack` and `recover` have ended so far.
    pub(super) fn ends(&self) -> Vec<Outcome> {
        let of_work = |event: &Event| match event {
            Event::Returned(work, outcome) if work.part != Part::Handle => Some(outcome.clone()),
            _ => None,
        };
        self.log.entries().iter().filter_map(|entry| of_work(&entry.event)).collect()
    }

    /// Waits until `after_ack` and `recover` have ended so often in all.
    pub(super) async fn until_ends(&self, times: usize) -> Result<(), Found> {
        self.until(|_| self.ends().len() >= times)
            .await
            .map_err(|patience| format!("the work did not end within {patience:?}"))
    }

    async fn until(&self, holds: impl Fn(&Probe) -> bool) -> Result<(), Duration> {
        let mut changes = self.probe.changes();
        let patience = self.patience();
        let waiting = async {
            while !holds(&self.probe) {
                changes.changed().await.expect("the bench has the sender");
            }
        };
        timeout(patience, waiting).await.map_err(|_| patience)
    }

    /// How long anything may take: what the budgets allow, attempts included, and the waits for connections.
    fn patience(&self) -> Duration {
        (self.policy.budget + self.policy.perform_budget) * self.policy.attempts + Duration::from_secs(3600)
    }

    /// What happened.
    pub(super) fn story(&self) -> Record {
        Record::of(&self.entries)
    }
}
