//! Commands: requests without an answer. A durable one is recorded under a reqId of the agent's own and acknowledged; a
//! handled one is recorded nowhere, and acknowledged when its handler has ended.
//!
//! Both pass the same gate, take the same places and count towards the same bounds as every request.

use std::time::Duration;

use iotdm_core::{Acknowledge, CommandMessage, LONGEST_HANDLED, Policy, Refusal, Route, Subject};
use tracing::warn;

use crate::journal::Class;

use super::Engine;
use super::event::{Delivered, Delivery, Timer};
use super::key::{Fingerprint, KeyHash};
use super::request::{Request, Stage};
use super::time::Moment;

/// What a command has beside a request, when its acknowledgement waits for its handler.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handled {
    /// When it is given up; later while the device restarts.
    until: Duration,
    /// What is to be acknowledged; none for QoS 0.
    delivery: Option<Delivery>,
}

impl Engine {
    /// The rules of a route; of a command's, those of its most specific declaration.
    pub(super) fn policy(&self, route: &Route) -> Option<&Policy> {
        route.declarations().find_map(|route| self.settings.policies.get(&route))
    }

    /// Takes a command; whose handler its acknowledgement waits for.
    pub(super) fn take_command(
        &mut self,
        arrived: Moment,
        route: Route,
        subject: Subject,
        delivered: &Delivered,
    ) -> Option<KeyHash> {
        if subject != Subject::Connected {
            self.note("command for another device", "it is dropped");
            return None;
        }
        if delivered.retained {
            self.note(
                "retained command",
                &format!("{route} is dropped: it was not sent to be carried out now"),
            );
            return None;
        }
        let Some(policy) = self.policy(&route).copied() else {
            self.note("command that this device does not take", &format!("{route} is dropped"));
            return None;
        };
        let d = message(&route, &delivered.payload).to_raw();
        let req_id = self.fresh_req_id();
        let key = KeyHash::of_command(&req_id);
        let handled = (policy.acknowledge == Acknowledge::Handled).then(|| Handled {
            until: self.now.monotonic + policy.budget.min(LONGEST_HANDLED),
            delivery: delivered.delivery,
        });
        let request = Request {
            subject,
            req_id,
            fingerprint: Fingerprint::of(&route, Some(&d)),
            route,
            d: Some(d.into()),
            sequence: self.sequence(),
            attempt: 1,
            arrived,
            age: self.age_on_arrival(delivered.waited),
            works: false,
            handled,
            stage: Stage::Queued,
        };
        self.admit(key, request);
        let waits = handled.is_some() && self.requests.contains_key(&key);
        if let Some(handled) = handled.filter(|_| waits) {
            self.timers.set(Timer::Task(key), handled.until);
        }
        waits.then_some(key)
    }

    /// Drops a command that is neither recorded nor waited for: it is acknowledged, and counted.
    pub(super) fn drop_command(&mut self, request: &Request, refusal: &Refusal) {
        self.note("command dropped", &format!("{}: {}", request.route, refusal.message()));
    }

    /// Ends a command. Nobody is answered: what went wrong is logged and counted, and reported if it was started.
    pub(super) fn end_command(&mut self, key: KeyHash, refusal: Option<(Class, &Refusal)>) {
        let Some(request) = self.forget_open(key) else { return };
        match refusal {
            None => self.tell("carried out", &request.req_id, &request.route),
            Some((Class::Passing, refusal)) => {
                self.note("command that does not fit", &format!("{}: {}", request.route, refusal.message()));
            }
            Some((Class::Refused, refusal)) => self.drop_command(&request, refusal),
            Some((Class::Executed, refusal)) => {
                if let Some(held_back) = self.noise.count("command failed", self.now.monotonic) {
                    warn!(action = %request.route, held_back, "a command failed: {refusal}");
                }
                self.report_failure(&request, refusal.message());
            }
        }
        if request.handled.is_none() {
            self.write_due(key);
        }
        self.release(key);
    }

    /// The time of a handled command is over before it was started. While the device restarts nothing is started, and
    /// the broker sends it again afterwards.
    pub(super) fn handled_waited_too_long(&mut self, key: KeyHash) -> bool {
        let waits = self
            .requests
            .get(&key)
            .is_some_and(|request| request.handled.is_some() && matches!(request.stage, Stage::Queued));
        if waits && self.restarting.is_some() {
            self.wait_again(key);
        } else if waits {
            self.waiting.retain(|waiting| *waiting != key);
            let refusal = Refusal::busy("there was no place for it in its time");
            self.end_command(key, Some((Class::Refused, &refusal)));
        }
        waits
    }

    /// A task was cut short by a restart, and its request queues again.
    pub(super) fn wait_again(&mut self, key: KeyHash) {
        self.timers.clear(&Timer::Task(key));
        let until = self.now.monotonic + LONGEST_HANDLED;
        if let Some(Request { handled: Some(handled), .. }) = self.requests.get_mut(&key) {
            handled.until = until;
            self.timers.set(Timer::Task(key), until);
        }
    }

    /// How long a task may take that is started now.
    pub(super) fn time_left(&self, request: &Request, budget: Duration) -> Duration {
        let left = request.handled.map(|handled| handled.until.saturating_sub(self.now.monotonic));
        left.map_or(budget, |left| budget.min(left))
    }

    /// Handled commands of a connection that ended come again on the next one. Those that run already go on.
    pub(super) fn forget_unstarted_commands(&mut self) {
        let forgotten = self.requests.iter().filter(|(_, request)| {
            let comes_again = request.handled.is_some_and(|handled| handled.delivery.is_some());
            comes_again && matches!(request.stage, Stage::Queued)
        });
        let forgotten: Vec<KeyHash> = forgotten.map(|(key, _)| *key).collect();
        for key in forgotten {
            self.forget_open(key);
            self.waiting.retain(|waiting| *waiting != key);
        }
    }
}

impl Request {
    /// Whether nobody is answered.
    pub(super) fn is_command(&self) -> bool {
        matches!(self.route, Route::Command { .. })
    }
}

fn message(route: &Route, payload: &[u8]) -> CommandMessage {
    let Route::Command { id, format } = route else { unreachable!("only commands are taken here") };
    CommandMessage { id: id.to_string(), format: format.to_string(), payload: payload.to_vec() }
}
