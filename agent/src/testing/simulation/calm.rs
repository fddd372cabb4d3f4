//! The end of a life: everything works again, and there is time.

use std::time::Duration;

use crate::engine::Input;

use super::Law;
use super::device::LUCK;
use super::laws::Laws;
use super::life::Life;
use super::settings::secs;
use super::world::World;

impl Life<'_> {
    pub(super) fn calm_down(&mut self) {
        self.is_calm = true;
        let world = &mut self.world;
        world.tell(|| "everything works again".into());
        world.disk.heal();
        world.broker.reachable = true;
        world.broker.rc.clear();
        world.broker.refuses_answers = false;
        world.clock_lost = false;
        world.crash_at = None;
        if world.agent.is_some() {
            world.input(Input::WantManaged(true));
        }
        for _ in 0..ROUNDS {
            self.settle();
            if self.world.laws.violation.is_some() || self.is_settled() {
                break;
            }
            let next = self.world.next_deadline().unwrap_or_default();
            let pause = next.saturating_sub(self.world.elapsed).clamp(secs(1), secs(600));
            self.pass(pause);
        }
        self.rest_an_hour();
        Laws::at_the_end(&mut self.world);
    }

    /// Handlers return, machines restart, commits that were to fail have failed.
    fn settle(&mut self) {
        for _ in 0..ROUNDS {
            self.world.boot_up();
            self.world.run();
            self.world.puback();
            Laws::at_rest(&mut self.world);
            self.restart_machine();
            if self.world.agent.as_ref().is_some_and(|agent| agent.tasks.is_empty()) {
                return;
            }
            self.let_a_handler_return(0, LUCK);
        }
    }

    fn is_settled(&self) -> bool {
        let Some(agent) = &self.world.agent else { return false };
        let engine = &agent.engine;
        let at_rest = engine.unfinished() == 0 && engine.is_quiet() && engine.events().waiting == 0;
        at_rest && engine.is_managed() && !self.world.broker.has_work()
    }

    /// A device that has nothing to do does nothing, but for renewing manage.
    fn rest_an_hour(&mut self) {
        self.pass(AFTERGLOW);
        let published = self.world.broker.received.len();
        let deadlines = self.world.pass(CALM);
        let published = self.world.broker.received.len() - published;
        let renewals = if self.world.settings.manage.lifetime > 0 { 2 } else { 0 };
        if deadlines > MOST_DEADLINES || published > renewals {
            let what = format!("in a calm hour it wakes {deadlines} times and publishes {published} times");
            self.world.laws.broken(Law::Quiet, what);
        }
    }
}

impl World {
    /// The broker acknowledges everything it has held back, and goes on doing so.
    pub(crate) fn puback(&mut self) {
        self.broker.pubacks = true;
        if let Some(agent) = &mut self.agent {
            self.broker.release_pubacks(&mut agent.inputs);
        }
        self.run();
    }
}

/// How often something is waited for.
const ROUNDS: usize = 200;

/// Repetitions that were due are over by then.
const AFTERGLOW: Duration = Duration::from_secs(20 * 60);

/// The hour in which nothing happens.
const CALM: Duration = Duration::from_secs(3600);

/// The online mark moves every ten minutes; what else wakes up is a margin.
const MOST_DEADLINES: u64 = 12;
