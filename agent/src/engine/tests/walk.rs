//! Random histories of crashes, flaps, replays, power cuts, full disks and long absences, and what must hold after them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use iotdm_core::{Decision, Failure, Performed, Recovery, ReqId, Route};
use serde_json::{Value, json};

use crate::engine::{Input, KeyHash, Task, TaskMoment};

use super::world::*;

const SEEDS: u64 = 300;
const STEPS: usize = 150;

/// `IOTDM_SEED=n` walks one seed, `IOTDM_SEEDS=n` the first n.
#[test]
fn the_promises_hold_over_random_histories() {
    let seeds = match std::env::var("IOTDM_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).unwrap(),
        Err(_) => {
            let number =
                |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
            let first = number("IOTDM_FIRST_SEED", 0);
            first..first + number("IOTDM_SEEDS", SEEDS)
        }
    };
    for seed in seeds {
        let walked = std::panic::catch_unwind(|| Walk::new(seed).run());
        let failure = match walked {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => failure,
            Err(_) => "it panicked".to_owned(),
        };
        panic!("IOTDM_SEED={seed}: {failure}");
    }
}

struct Walk {
    rng: fastrand::Rng,
    world: World,
    next: u32,
    /// What was asked, by reqId.
    asked: BTreeMap<String, Ask>,
    /// When the last copy of it was sent.
    sent_at: BTreeMap<String, Duration>,
    /// Restarts of the machine that are on their way.
    restart_due: bool,
    /// Reboots that were told to have ended otherwise.
    ended_otherwise: BTreeSet<ReqId>,
    /// How much of what the platform received was looked at.
    seen: usize,
    promised: BTreeMap<String, u64>,
    is_calm: bool,
    failure: Option<String>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut world = World::new();
        world.settings.seed = seed;
        Self {
            rng: fastrand::Rng::with_seed(seed),
            world,
            next: 0,
            asked: BTreeMap::new(),
            sent_at: BTreeMap::new(),
            restart_due: false,
            ended_otherwise: BTreeSet::new(),
            seen: 0,
            promised: BTreeMap::new(),
            is_calm: false,
            failure: None,
        }
    }

    fn run(mut self) -> Result<(), String> {
        let steps = self.rng.usize(STEPS / 5..=STEPS);
        for _ in 0..steps {
            self.step();
            self.look();
        }
        self.calm_down();
        self.judge();
        match self.failure {
            None => Ok(()),
            Some(failure) => Err(format!("{failure}\n{}", self.world.story.join("\n"))),
        }
    }

    fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..=11 => self.ask(),
            12..=16 => self.replay(),
            17..=34 => drop(self.world.broker_down()),
            35..=52 => drop(self.world.broker_up()),
            53..=66 => drop(self.world.take_input()),
            67..=78 => self.let_a_handler_return(),
            79..=81 => self.world.cut(),
            82..=83 => self.world.crash_at = Some(self.world.points + self.rng.u64(1..12)),
            84 => self.world.power_off(),
            85 => self.world.disk.disk_full(true),
            86..=87 => self.world.disk.disk_full(false),
            88 => {
                let outcomes = [crate::store::CrashOutcome::Applied, crate::store::CrashOutcome::NotApplied];
                self.world.disk.crash_at_commit(self.rng.u64(1..5), outcomes[self.rng.usize(0..2)]);
            }
            89 => self.world.broker.pubacks = !self.world.broker.pubacks,
            90 => drop(
                self.world
                    .broker
                    .rc
                    .insert("mgmt/manage", *self.rng.choice([&None, &Some(409), &Some(200)]).unwrap()),
            ),
            91 => self.world.clock_lost = !self.world.clock_lost,
            92 => self.world.pass(secs(self.rng.u64(300..20_000))),
            93 => self.world.broker.reachable = !self.world.broker.reachable,
            94..=95 => self.restart_machine(),
            _ => self.world.pass(secs(self.rng.u64(0..25))),
        }
        if self.world.agent.is_none() && self.rng.u32(0..3) > 0 {
            self.world.boot_up();
        }
    }

    fn ask(&mut self) {
        let kinds = [reboot(), reset(), download(), once(), once(), again(), again(), after(), fresh()];
        let mut ask = kinds[self.rng.usize(0..kinds.len())].clone();
        if self.rng.u32(0..6) == 0 {
            ask = [
                Ask::new("nonsense"),
                observe("level"),
                cancel("level"),
                update("metadata", json!({"a": 1})),
            ][self.rng.usize(0..4)]
            .clone();
        }
        let id = format!("r{}", self.next);
        self.next += 1;
        self.world.send(&id, ask.clone());
        self.sent_at.insert(id.clone(), self.world.elapsed);
        self.asked.insert(id, ask);
    }

    fn replay(&mut self) {
        let chosen = self.rng.choice(self.asked.iter());
        if let Some((id, ask)) = chosen.map(|(id, ask)| (id.clone(), ask.clone())) {
            self.world.send(&id, ask);
            self.sent_at.insert(id, self.world.elapsed);
        }
    }

    fn let_a_handler_return(&mut self) {
        let tasks: Vec<Task> =
            self.world.agent.iter().flat_map(|agent| agent.tasks.values().cloned()).collect();
        let Some(task) = self.rng.choice(tasks) else { return };
        let restarts = matches!(task.route, Route::Reboot | Route::FactoryReset);
        let mut luck = self.rng.u32(0..10);
        if self.is_calm {
            luck = 9;
        }
        let input = match task.moment {
            TaskMoment::Handle => Input::Decided(task.key, decision(&task, luck)),
            TaskMoment::AfterAck if restarts && luck > 2 => {
                self.restart_due |= luck > 3;
                Input::Performed(task.key, Ok(Performed::Restarting))
            }
            TaskMoment::AfterAck => {
                self.ended_otherwise.insert(task.req_id.clone());
                let result = if luck == 0 { Err(Failure::new("broken")) } else { Ok(Performed::Complete) };
                Input::Performed(task.key, result)
            }
            TaskMoment::Recover if task.rebooted => Input::Recovered(task.key, Recovery::Done),
            TaskMoment::Recover => {
                let recovery = if luck > 4 { Recovery::RunAgain } else { Recovery::Abandon };
                if recovery == Recovery::Abandon {
                    self.ended_otherwise.insert(task.req_id.clone());
                }
                Input::Recovered(task.key, recovery)
            }
        };
        self.world.input(input);
        self.end(task.key);
    }

    fn end(&mut self, key: KeyHash) {
        if self.world.agent.is_some() {
            self.world.end_task(key);
        }
    }

    /// The machine is restarted, if a handler has asked for it.
    fn restart_machine(&mut self) {
        if std::mem::take(&mut self.restart_due) {
            self.world.power_off();
        }
    }

    /// Looks at what reached the platform since: no manage between a promise to restart and the restart (P5).
    fn look(&mut self) {
        while self.seen < self.world.broker.received.len() {
            let received = self.world.broker.received[self.seen].clone();
            self.seen += 1;
            let message = received.json();
            match received.topic.as_str() {
                "iotdevice-1/response" if message["rc"] == 202 => {
                    let id = message["reqId"].as_str().unwrap_or_default().to_owned();
                    if [reboot().topic, reset().topic].contains(&self.asked[&id].topic) {
                        self.promised.entry(id).or_insert(self.world.boot);
                    }
                }
                "iotdevice-1/mgmt/manage" => self.look_at_manage(),
                _ => {}
            }
        }
    }

    fn look_at_manage(&mut self) {
        let boot = self.world.boot;
        for (id, promised_in) in std::mem::take(&mut self.promised) {
            let key = key(&id);
            let is_open =
                self.world.agent.as_ref().is_some_and(|agent| agent.engine.requests.contains_key(&key));
            if promised_in == boot && is_open && !self.ended_otherwise.contains(&ReqId::from_text(&id)) {
                self.fail(format!("P5: manage between the 202 of {id} and the restart"));
            }
        }
    }

    fn fail(&mut self, failure: String) {
        self.failure.get_or_insert(failure);
    }

    /// Everything works again, and there is time.
    fn calm_down(&mut self) {
        self.is_calm = true;
        self.world.tell("calm");
        self.world.disk.disk_full(false);
        self.world.broker.reachable = true;
        self.world.broker.rc.clear();
        self.world.clock_lost = false;
        self.world.crash_at = None;
        // A crash that was planned may still come.
        for _ in 0..20 {
            self.settle();
            if self.world.agent.is_some() {
                return;
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            if self.world.agent.is_none() {
                self.world.boot_up();
            }
            self.world.run();
            self.world.puback();
            self.look();
            self.let_a_handler_return();
            self.restart_machine();
            self.world.pass(secs(5));
            self.look();
        }
        self.world.pass(secs(1000));
        self.look();
    }

    fn judge(&mut self) {
        let Some(agent) = &self.world.agent else { return self.fail("the agent does not run".into()) };
        if !agent.engine.is_managed() {
            return self.fail("it is not managed".into());
        }
        if !agent.engine.requests.is_empty() {
            let left = format!("P1: unfinished: {:?}", agent.engine.requests);
            return self.fail(left);
        }
        let received: Vec<Value> = self
            .world
            .broker
            .received
            .iter()
            .map(|r| if r.topic == "iotdevice-1/response" { r.json() } else { Value::Null })
            .collect();
        let copies: Vec<_> = self.world.broker.copies.values().cloned().collect();
        for copy in copies.iter().filter(|copy| copy.topic != "iotdm-1/response") {
            let id = serde_json::from_slice::<Value>(&copy.payload).unwrap()["reqId"].clone();
            if !copy.acked {
                self.fail(format!("P1: {id} is not acknowledged"));
            }
            let after = copy.delivered_at.unwrap_or(usize::MAX).min(received.len());
            if !received[after..].iter().any(|answer| answer["reqId"] == id) {
                self.fail(format!("P3: a delivery of {id} was not answered"));
            }
        }
        for (id, ask) in self.asked.clone() {
            if id.ends_with('7') {
                continue;
            }
            let answers: BTreeSet<_> = self.world.answers(&id).into_iter().collect();
            if answers.len() > 1 && ask.topic != observe("level").topic {
                self.fail(format!("P2: {id} was answered differently: {answers:?}"));
            }
            let (runs, performs) = (self.world.runs(&id), self.world.performs(&id));
            let limit = if [once().topic, fresh().topic].contains(&ask.topic) { 1 } else { 3 };
            if runs > limit || performs > 3 || self.world.recovers(&id) > 3 {
                self.fail(format!("P2, P6: {id} ran {runs} times and was worked on {performs} times"));
            }
            // A copy that was sent after the start proves nothing about the one that was started.
            let started = self.world.starts.iter().find(|start| start.req_id == ReqId::from_text(&id));
            if ask.topic == fresh().topic
                && started.is_some_and(|start| start.at > self.sent_at[&id] + minutes(15))
            {
                self.fail(format!("P9: {id} was started late"));
            }
            if performs > 0 && !self.world.codes(&id).contains(&202) {
                self.fail(format!("P5: {id} was worked on and never promised"));
            }
        }
    }
}

fn decision(task: &Task, luck: u32) -> Decision {
    let works_after = !matches!(&task.route, Route::Custom { action, .. } if *action != "after");
    // Whether a body can be decoded is no matter of luck.
    if task.req_id.to_string().ends_with('7') {
        return Decision::Undecodable(iotdm_core::Refusal::bad_request("d: what is that?"));
    }
    match luck {
        0 => no(iotdm_core::Refusal::busy("not now")),
        1 => no(iotdm_core::Refusal::failed("broken")),
        _ if works_after => yes(202),
        _ => yes(200),
    }
}
