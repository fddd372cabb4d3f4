//! A plan, carried out.

use std::time::Duration;

use iotdm_core::{LogEntry, Report, ReqId, Severity};
use serde_json::json;

use crate::config::DropPolicy;
use crate::engine::{Fingerprint, Input, KeyHash, TaskMoment, Ticket};
use crate::store::CrashOutcome;

use super::ask::{Ask, Kind};
use super::device::{Device, LUCK, Work};
use super::laws::{Copy, Laws, topic_of};
use super::settings::{UNNOTICED, secs, threshold};
use super::story::Story;
use super::world::World;
use super::{Act, Counts, Law, Outcome, Plan, Step};

/// A device's life while it is lived.
pub(super) struct Life<'a> {
    plan: &'a Plan,
    pub(super) world: World,
    asked: Vec<(String, Ask, Kind)>,
    pub(super) tickets: u64,
    device: Device,
    pub(super) is_calm: bool,
    counts: Counts,
    /// How many places the device was put to.
    pub(super) places: u64,
    commands: u64,
}

impl<'a> Life<'a> {
    pub(super) fn new(plan: &'a Plan, told: bool) -> Self {
        let [bounds, window, order, seed] = plan.set_up;
        let mut world = World::off(|settings| {
            let limits = &mut settings.limits;
            // Small bounds are met more often; the order between them is that of the defaults.
            if bounds & 1 == 1 {
                (limits.kept_executed, limits.kept_refused) = (6, 3);
            }
            if bounds & 2 == 2 {
                (limits.pending, limits.running) = (8, 2);
            }
            if bounds & 4 == 4 {
                limits.outbox = 5;
            }
            if bounds & 8 == 8 {
                settings.manage.lifetime = LIFETIME;
            }
            if bounds & 16 == 16 {
                (limits.events.count, limits.events.bytes) = (4, 8 * 1024);
            }
            if bounds & 32 == 32 {
                limits.events.policy = DropPolicy::Newest;
            }
            if bounds & 128 == 128 {
                settings.attributes.thresholds.insert("level".into(), threshold());
            }
            settings.seed = seed.into();
        });
        world.story = if told { Story::told() } else { Story::default() };
        world.broker.window = usize::from(window % 20) + 1;
        world.laws.commands.may_be_full = bounds & 2 == 2;
        world.obeys_cancel = order & 2 == 0;
        if order & 12 == 12 {
            world.laws.ordered = false;
            world.broker.reorders = Some(fastrand::Rng::with_seed(seed.into()));
        }
        world.broker.counts_waiting = order & 96 == 96;
        let device = Device::default();
        Self {
            plan,
            world,
            asked: Vec::new(),
            tickets: 0,
            device,
            is_calm: false,
            counts: Counts::default(),
            places: 0,
            commands: 0,
        }
    }

    pub(super) fn go(&mut self) {
        self.world.boot_up();
        for step in &self.plan.steps {
            self.counts.steps += 1;
            self.take(*step);
            // A process that died is started again, as a service manager does it, while the next things happen.
            if self.world.agent.is_none() && step.b % 3 > 0 && self.world.boot_up() {
                self.counts.processes += 1;
            }
            if self.world.laws.violation.is_some() {
                return;
            }
        }
        self.calm_down();
    }

    pub(super) fn outcome(self) -> Outcome {
        let World { laws, story, starts, commits, elapsed, disk, .. } = self.world;
        let counts = Counts {
            starts: starts.len() as u64,
            commits,
            seconds: elapsed.as_secs(),
            set_aside: disk.set_aside_names().len() as u64,
            ..self.counts
        };
        Outcome { violation: laws.violation, story: story.lines, counts }
    }

    fn take(&mut self, Step { act, a, b }: Step) {
        let world = &mut self.world;
        match act {
            Act::Ask => self.ask(a),
            Act::Replay | Act::Reuse => self.repeat(act, a, b),
            Act::Flood => (0..FLOOD).for_each(|_| self.ask_for(Kind::UnknownTopic)),
            Act::Deliver => drop(world.broker_down()),
            Act::Redeliver => self.redeliver(a),
            Act::Arrive => drop(world.broker_up()),
            Act::Take => drop(world.take_input()),
            Act::Return => self.let_a_handler_return(a.into(), b),
            Act::Rest => self.rest(),
            Act::Cut => {
                (0..a % 8).for_each(|_| {
                    world.broker_up();
                });
                world.cut();
            }
            Act::Reach => world.broker.reachable = !world.broker.reachable,
            Act::LoseSession => self.lose_session(a),
            Act::Pubacks if world.broker.counts_waiting && b % 4 == 3 => self.refuse_answers(),
            Act::Pubacks if world.broker.pubacks => world.broker.pubacks = false,
            Act::Pubacks => world.puback(),
            Act::ManageCode => self.answer("mgmt/manage", a),
            Act::ReportCode if b < 128 => {
                world.laws.excuse_reports();
                self.answer("add/diag/log", a);
            }
            Act::ReportCode => {
                world.laws.attributes.misses_notifies = true;
                self.answer("notify", a);
            }
            Act::Crash => world.crash_at = Some(world.points + 1 + u64::from(a % 16)),
            Act::PowerOff => world.power_off(),
            Act::Restart => self.restart_machine(),
            Act::Stop => self.stop(),
            Act::DiskFull => world.disk.disk_full(a % 3 == 0),
            Act::CommitFails => match a % 8 {
                0 | 1 => world.disk.fail_commit(u64::from(b % 4) + 1),
                2..=4 => world.disk.crash_at_commit(u64::from(b % 4) + 1, CrashOutcome::Applied),
                5 | 6 => world.disk.crash_at_commit(u64::from(b % 4) + 1, CrashOutcome::NotApplied),
                _ => world.disk.crash_at_commit(u64::from(b % 4) + 1, CrashOutcome::Torn),
            },
            Act::Rot => {
                world.disk.rot(u64::from(a) << 8 | u64::from(b));
                world.tell(|| "a bit on the disk flips".into());
                world.crash();
            }
            Act::Clock => world.clock_lost = !world.clock_lost,
            Act::Seconds => self.pass(secs(u64::from(a % 25))),
            Act::Long if a < 8 => self.pass(NINE_DAYS),
            Act::Long => self.pass(secs(u64::from(a) * u64::from(b) / 4)),
            Act::Stall => self.stall(a),
            Act::SetAttribute => self.change_attribute(a),
            Act::Report => self.report(),
            Act::Event => self.publish(a, b, 1),
            Act::Events => self.publish(a, b, usize::from(b / 2)),
            Act::WantManaged => self.input(Input::WantManaged(a % 2 == 0)),
            Act::Garbage => {
                let (topic, payload) = GARBAGE[usize::from(a) % GARBAGE.len()];
                world.broker.route(topic, payload.into());
            }
            Act::Retained => self.retain(a),
            Act::Command => self.command(a),
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        if self.world.agent.is_some() {
            self.world.tell(|| format!("the product: {input:?}"));
            self.world.input(input);
        }
    }

    // --- the platform

    fn ask(&mut self, a: u8) {
        // Work that disrupts is what most can go wrong with.
        let kind = if a < 60 { Kind::Reboot } else { Kind::ALL[usize::from(a) % Kind::ALL.len()] };
        self.ask_for(kind);
    }

    fn ask_for(&mut self, kind: Kind) {
        let id = format!("r{}", self.asked.len());
        self.asked.push((id.clone(), kind.ask(), kind));
        self.send(&id, kind.ask(), kind);
    }

    fn repeat(&mut self, act: Act, a: u8, b: u8) {
        let Some(chosen) = usize::from(a).checked_rem(self.asked.len()) else { return };
        let (id, ask, kind) = self.asked[chosen].clone();
        if act == Act::Replay {
            return self.send(&id, ask, kind);
        }
        let other = Kind::ALL[usize::from(b) % Kind::ALL.len()];
        self.send(&id, other.ask(), other);
    }

    pub(super) fn send(&mut self, id: &str, ask: Ask, kind: Kind) {
        let world = &mut self.world;
        self.counts.requests += 1;
        let route =
            iotdm_core::Topic::<iotdm_core::Route>::parse(&ask.topic).expect("it is below iotdm-1/").route;
        let d = ask.d.as_ref().map(|d| serde_json::value::to_raw_value(d).expect("a value is JSON"));
        let copy = Copy {
            req_id: ReqId::from_text(id),
            fingerprint: Fingerprint::of(&route, d.as_deref()),
            sent_at: world.elapsed,
            delivered_at: None,
            acked: false,
            excused: false,
        };
        let is_kept = world.broker.keeps_messages();
        let number = world.send(id, ask);
        if is_kept {
            world.laws.sent(number, copy, kind);
        }
    }

    fn command(&mut self, a: u8) {
        let kinds = [Kind::CommandOnce, Kind::CommandAgain, Kind::CommandFresh, Kind::CommandHeld];
        let kind = kinds[usize::from(a) % kinds.len()];
        let world = &mut self.world;
        self.commands += 1;
        let number = self.commands;
        world.tell(|| format!("an application commands {kind:?} as number {number}"));
        let is_kept = world.broker.keeps_messages();
        let message = world.broker.route(&topic_of(kind), number.to_string().into_bytes());
        if is_kept {
            world.laws.commands.sent(message, number, kind, world.elapsed);
        }
    }

    fn answer(&mut self, topic: &'static str, a: u8) {
        let rc = [Some(200), Some(409), Some(403), None, Some(404)][usize::from(a) % 5];
        self.world.tell(|| format!("the platform answers {topic} with {rc:?}"));
        self.world.broker.rc.insert(topic, rc);
    }

    /// A retained message was not sent to be carried out when it comes.
    fn retain(&mut self, a: u8) {
        let ask = Kind::ALL[usize::from(a) % Kind::ALL.len()].ask();
        let payload = ask.payload(&json!(format!("retained{a}")));
        self.world.broker.route_as(&ask.topic, payload, true, false);
    }

    /// A broker that counts speaks MQTT 5, and may refuse.
    fn refuse_answers(&mut self) {
        self.world.broker.refuses_answers ^= true;
        let refuses = self.world.broker.refuses_answers;
        self.world.tell(|| format!("the broker refuses answers: {refuses}"));
    }

    fn redeliver(&mut self, a: u8) {
        while self.world.take_input() {}
        let again = self.world.agent.as_ref().and_then(|_| self.world.broker.deliver_again(a.into()));
        if let Some((number, delivered)) = again {
            self.world.tell(|| format!("a message on {} is delivered again", delivered.topic));
            self.world.arrive(number, delivered);
        }
    }

    fn lose_session(&mut self, a: u8) {
        let world = &mut self.world;
        world.cut();
        if !world.broker.is_connected() {
            world.tell(|| "the session is lost".into());
            let dropped = world.broker.lose_session();
            world.laws.dropped(&dropped);
            // Another client with the same name has begun one of its own.
            world.broker.has_session = a.is_multiple_of(4);
        }
    }

    // --- the device

    fn rest(&mut self) {
        self.world.run();
        Laws::at_rest(&mut self.world);
    }

    pub(super) fn pass(&mut self, span: Duration) {
        let deadlines = self.world.pass(span);
        if deadlines > MOST_DEADLINES + MOST_DEADLINES_A_MINUTE * span.as_secs() / 60 {
            let what = format!("it wakes {deadlines} times within {span:?}");
            self.world.laws.broken(Law::Quiet, what);
        }
        Laws::at_rest(&mut self.world);
    }

    /// Deadlines take effect, and nothing else does, for as long as a dead connection may go unnoticed in all.
    fn stall(&mut self, a: u8) {
        let world = &mut self.world;
        let noticed = world.elapsed.max(world.rested_at + UNNOTICED);
        let end = noticed.min(world.elapsed + secs(u64::from(a % 120)));
        while let Some(next) = world.next_deadline().filter(|next| *next <= end) {
            world.elapsed = next.max(world.elapsed);
            world.fire();
        }
        world.elapsed = end;
    }

    fn report(&mut self) {
        if self.world.agent.is_none() {
            return;
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let entry = LogEntry {
            message: format!("report number {}", ticket.0),
            timestamp: String::new(),
            data: None,
            severity: Severity::Warning,
        };
        self.world.laws.reported(ticket);
        self.input(Input::Report(Report::AddLog(entry), Some(ticket)));
    }

    fn stop(&mut self) {
        self.input(Input::Stop);
        for _ in 0..STOP_ROUNDS {
            self.world.run();
            if self.world.agent.as_ref().is_none_or(|agent| agent.engine.is_quiet()) {
                break;
            }
            self.let_a_handler_return(0, LUCK);
        }
        self.world.stop();
    }

    /// The machine is restarted, if a handler has asked for it.
    pub(super) fn restart_machine(&mut self) {
        let Some((req_id, journal)) = self.device.restart() else { return };
        self.world.laws.restarted(&req_id, journal);
        self.world.tell(|| format!("the machine restarts because of {req_id}"));
        self.world.power_off();
    }

    pub(super) fn let_a_handler_return(&mut self, which: usize, b: u8) {
        let luck = if self.is_calm { LUCK } else { b % 10 };
        let Some(agent) = &self.world.agent else { return };
        let Some(which) = which.checked_rem(agent.tasks.len()) else { return };
        let task = agent.tasks.values().nth(which).expect("it is one of them").clone();
        let input = match task.moment {
            TaskMoment::Handle => Input::Decided(task.key, Device::decide(&task, luck)),
            TaskMoment::AfterAck => match self.device.work(&task, luck, self.world.laws.journals) {
                Work::Ended(result) => Input::Performed(task.key, result),
                Work::Cut => return self.restart_machine(),
            },
            TaskMoment::Recover => Input::Recovered(task.key, self.device.judge(&task, luck)),
        };
        self.world.tell(|| format!("the handler of {} returns {input:?}", task.req_id));
        self.world.input(input);
        self.end(task.key);
    }

    fn end(&mut self, key: KeyHash) {
        if self.world.agent.is_some() {
            self.world.end_task(key);
        }
    }
}

/// How often the agent may wake while time passes: at once, for what is due or repeated, and for as long as it lasts.
const MOST_DEADLINES: u64 = 100;
const MOST_DEADLINES_A_MINUTE: u64 = 4;

/// How long the platform takes a device for managed without hearing of it, in seconds; or else for ever.
pub(super) const LIFETIME: u32 = 3600;

/// Requests of a flood.
const FLOOD: usize = 14;

/// How often a stop waits for a handler.
const STOP_ROUNDS: usize = 20;

/// Longer than brokers keep a session, and than the week for which other agents remember.
const NINE_DAYS: Duration = Duration::from_secs(9 * 24 * 3600);

/// Messages that are no requests.
const GARBAGE: [(&str, &str); 3] = [
    ("iotdm-1/mgmt/initiate/device/reboot", "{"),
    ("iotdm-1/mgmt/initiate/device/reboot", "{}"),
    ("iotdm-1/response", r#"{"rc":200,"reqId":"nobody's"}"#),
];
