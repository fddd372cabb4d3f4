//! One history: the steps of a plan, done to an agent that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use iotdm_core::{Code, Route, Topic, UpRoute};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep, sleep_until};

use crate::journal::JournalError;
use crate::store::StoreError;
use crate::testing::platform::Witness;
use crate::testing::system::WALL_CLOCK_AT_START;
use crate::testing::{MemoryDisk, Platform, Running, start_on};
use crate::{RunError, State};

use super::Histories;
use super::machine::{Machine, Signal};
use super::plan::Step;
use super::record::{Asked, End, Entries, Event, Log, Record};
use super::watch::watch;

/// A device in its surroundings.
pub(super) struct World<'a, W> {
    histories: &'a Histories<W>,
    hardware: W,
    platform: Platform,
    disk: MemoryDisk,
    machine: Machine,
    signals: mpsc::UnboundedReceiver<Signal>,
    log: Log,
    record: Record,
    running: Option<Running>,
    beside: Option<JoinHandle<()>>,
    /// What happens by itself, and when.
    due: Vec<(Instant, Due)>,
    /// Which request was sent under which number.
    sent: BTreeMap<u32, usize>,
}

/// What happens by itself after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Online,
    Pubacks,
    ManageAnswered,
    DiskFree,
    ClockRight,
    /// The machine restarts, because it was asked to.
    Restart,
    /// The machine starts after a power cut.
    PowerBack {
        clock_lost: bool,
    },
    /// The process starts after its end.
    Process,
}

impl<'a, W> World<'a, W> {
    /// Runs a whole history: the steps, then a calm in which everything has to come to its end.
    pub(super) async fn run(
        histories: &'a Histories<W>,
        seed: u64,
        steps: &[Step],
        entries: Entries,
    ) -> (Record, W) {
        let log = Log::new(entries);
        let (machine, signals) = Machine::new(seed, &log);
        let platform = Platform::new();
        let witness = log.clone();
        platform.witness(Witness(Arc::new(move |passed| witness.passed(passed))));
        let mut world = Self {
            histories,
            hardware: (histories.hardware)(&machine),
            platform,
            disk: MemoryDisk::new(),
            machine,
            signals,
            log,
            record: Record::default(),
            running: None,
            beside: None,
            due: Vec::new(),
            sent: BTreeMap::new(),
        };
        world.start();
        world.pass(Duration::from_millis(1)).await;
        for step in steps {
            world.log.push(Event::Step(step.to_string()));
            world.step(step).await;
            world.pass(Duration::ZERO).await;
        }
        world.calm_down().await;
        world.end().await
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Send { id, what } => self.send(id, what),
            Step::Replay { id } => {
                if let Some(what) = self.sent.get(&id) {
                    self.send(id, *what);
                }
            }
            Step::Reuse { id, what } => {
                if self.sent.contains_key(&id) {
                    let (route, d) = self.histories.request_of(what);
                    self.ask(id, route, d);
                }
            }
            Step::Junk { id, which } => self.send_junk(id, which),
            Step::Pause(time) => self.pass(time).await,
            Step::Turns(turns) => {
                for _ in 0..turns {
                    yield_now().await;
                }
            }
            Step::Flap => self.platform.cut(),
            Step::SessionLost => self.platform.lose_session(),
            Step::Outage(time) => {
                self.platform.offline(true);
                self.fall_due(time, Due::Online);
            }
            Step::PubacksHeld(time) => {
                self.platform.hold_pubacks(true);
                self.fall_due(time, Due::Pubacks);
            }
            Step::ManageUnanswered { time, silent } => {
                self.platform.answer(UpRoute::Manage, (!silent).then_some(Code::CONFLICT));
                self.fall_due(time, Due::ManageAnswered);
            }
            Step::Kill { down } => self.crash(down).await,
            Step::PowerCut { down, clock_lost } => self.power_off(down, clock_lost).await,
            Step::NextRestart(fate) => self.machine.next_restart(fate),
            Step::DiskFull(time) => {
                self.disk.disk_full(true);
                self.fall_due(time, Due::DiskFree);
            }
            Step::FailedCommit(n) => self.disk.fail_commit(n),
            Step::CrashAtCommit(n, outcome) => self.disk.crash_at_commit(n, outcome),
            Step::JournalDamaged => {
                self.crash(Duration::from_secs(1)).await;
                self.disk.damage();
                self.log.push(Event::Damaged);
            }
        }
    }

    fn send(&mut self, id: u32, what: usize) {
        let (route, d) = self.histories.request_of(what);
        self.ask(id, route, d);
        self.sent.insert(id, what);
    }

    fn ask(&self, id: u32, route: Route, d: Value) {
        let mut body = json!({ "reqId": req_id(id) });
        if !d.is_null() {
            body["d"] = d.clone();
        }
        self.log.push(Event::Sent(Asked { req_id: req_id(id).to_string(), route: route.clone(), d }));
        self.platform.send(route, body);
    }

    fn send_junk(&self, id: u32, which: usize) {
        let reboot = Topic::own(Route::Reboot).to_string();
        match which % 7 {
            0 => self.ask(id, Route::Unknown("nonsense".into()), Value::Null),
            1 => self.ask(id, Route::custom("nobody", "nothing"), json!({"fields": []})),
            2 => self.ask(id, self.histories.request_of(which).0, json!("no body of any action")),
            3 => self.platform.send_raw(&reboot, "{\"reqId\": \"cut o"),
            4 => self.platform.send_raw(&reboot, "{}"),
            5 => self.platform.send_raw(&reboot, json!({"reqId": {"id": id}}).to_string()),
            // What a broker retained is nobody's wish at this moment.
            _ => self.platform.send_oddly(&reboot, json!({"reqId": req_id(id)}).to_string(), true, true),
        }
    }

    /// Lets time pass, and everything that falls due in it happen.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let next = self.due.iter().map(|(at, _)| *at).min().filter(|at| *at < end).unwrap_or(end);
            tokio::select! {
                biased;
                Some(signal) = self.signals.recv() => self.signal(signal).await,
                result = ended(&mut self.running) => self.ended(result),
                () = sleep_until(next) => {
                    if !self.happen().await && Instant::now() >= end {
                        return;
                    }
                }
            }
        }
    }

    async fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Restart(pause) => self.fall_due(pause, Due::Restart),
            Signal::PowerCut => self.power_off(Duration::ZERO, false).await,
            Signal::Crash => self.crash(Duration::ZERO).await,
        }
    }

    fn fall_due(&mut self, time: Duration, due: Due) {
        // What is due already is put off.
        self.due.retain(|(_, other)| *other != due);
        self.due.push((Instant::now() + time, due));
    }

    /// Does the first thing that is due; whether there was one.
    async fn happen(&mut self) -> bool {
        let now = Instant::now();
        let first = (0..self.due.len()).min_by_key(|index| self.due[*index].0);
        let Some(index) = first.filter(|index| self.due[*index].0 <= now) else { return false };
        let (_, due) = self.due.remove(index);
        self.relieve(due).await;
        true
    }

    async fn relieve(&mut self, due: Due) {
        match due {
            Due::Online => self.platform.offline(false),
            Due::Pubacks => self.platform.hold_pubacks(false),
            Due::ManageAnswered => self.platform.answer(UpRoute::Manage, Some(Code::OK)),
            Due::DiskFree => self.disk.disk_full(false),
            Due::ClockRight => self.set_clock(WALL_CLOCK_AT_START + self.log.elapsed()),
            Due::Restart => self.power_off(RESTART_TAKES, false).await,
            Due::PowerBack { clock_lost } => {
                self.machine.boot();
                if clock_lost {
                    self.set_clock(Duration::ZERO);
                    self.fall_due(CLOCK_WRONG_FOR, Due::ClockRight);
                }
                self.start();
            }
            Due::Process => self.start(),
        }
    }

    fn set_clock(&self, wall: Duration) {
        self.machine.system().set_wall_clock(wall);
    }

    async fn crash(&mut self, down: Duration) {
        if self.running.is_some() {
            self.kill().await;
            self.fall_due(down, Due::Process);
        }
    }

    async fn power_off(&mut self, down: Duration, clock_lost: bool) {
        self.kill().await;
        while self.signals.try_recv().is_ok() {}
        let of_machine = |due: &Due| matches!(due, Due::Restart | Due::PowerBack { .. } | Due::Process);
        self.due.retain(|(_, due)| !of_machine(due));
        self.fall_due(down, Due::PowerBack { clock_lost });
    }

    fn start(&mut self) {
        if self.running.is_some() {
            return;
        }
        self.log.push(Event::Process);
        self.machine.revive();
        let machine = Arc::new(self.machine.clone());
        let seed = self.machine.system().next_seed();
        let (log, own, policies) = (&self.log, &self.machine, &mut self.record.policies);
        let product = |builder| (self.histories.product)(&self.hardware, builder);
        let running = start_on(&self.platform, &self.disk, machine, seed, product, |table| {
            *policies = table.policies().map(|(route, policy)| (route.clone(), *policy)).collect();
            watch(table, own, log);
        });
        let beside = self.histories.beside.as_ref();
        self.beside = beside.map(|beside| tokio::spawn(beside(&self.hardware, running.device().clone())));
        self.running = Some(running);
    }

    /// The process ended by itself; whoever supervises it starts it again.
    fn ended(&mut self, result: Result<(), RunError>) {
        self.running = None;
        if let Some(beside) = self.beside.take() {
            beside.abort();
        }
        self.log.push(match result {
            Err(RunError::Journal(JournalError::Store(reason @ StoreError::Io { .. }))) => {
                Event::StartFailed(reason.to_string())
            }
            Err(reason) => Event::Ended(reason.to_string()),
            Ok(()) => Event::Ended("nobody had told it to".into()),
        });
        self.fall_due(SUPERVISOR_PAUSE, Due::Process);
    }

    async fn kill(&mut self) {
        let Some(running) = self.running.take() else { return };
        if let Some(beside) = self.beside.take() {
            beside.abort();
        }
        self.log.push(Event::Killed);
        running.kill().await;
        // Handlers are dropped.
        sleep(Duration::from_millis(1)).await;
    }

    /// Everything works again, and there is time.
    async fn calm_down(&mut self) {
        self.log.push(Event::Calm);
        self.machine.calm_down();
        let relieved = [Due::Online, Due::Pubacks, Due::ManageAnswered, Due::DiskFree, Due::ClockRight];
        self.due.retain(|(_, due)| !relieved.contains(due));
        for due in relieved {
            self.relieve(due).await;
        }
        for _ in 0..MAX_CALM_HOURS {
            self.pass(HOUR).await;
            if self.is_quiet() {
                break;
            }
        }
        self.log.push(Event::Quiet);
        self.pass(3 * HOUR).await;
    }

    /// Whether nobody waits for anything.
    fn is_quiet(&self) -> bool {
        if self.running.is_none() {
            return false;
        }
        let mut waiting: BTreeSet<String> = BTreeSet::new();
        let mut running = 0_i64;
        for entry in self.log.entries().iter() {
            match &entry.event {
                Event::Acknowledged(asked) => drop(waiting.insert(asked.req_id.clone())),
                Event::Confirmed(published) if published.route == Some(UpRoute::Response) => {
                    waiting.remove(&published.body["reqId"].to_string());
                }
                Event::Damaged => waiting.clear(),
                Event::Started(_) => running += 1,
                Event::Returned(..) | Event::Dropped(_) => running -= 1,
                _ => {}
            }
        }
        waiting.is_empty() && running == 0 && self.platform.unacknowledged() == 0
    }

    async fn end(mut self) -> (Record, W) {
        let managed = |running: &Running| *running.device().state().borrow() == State::Managed;
        let entries = self.disk.entries();
        self.record.end = End {
            managed: self.running.as_ref().is_some_and(managed),
            unacknowledged: self.platform.unacknowledged(),
            journal_bytes: entries.iter().map(|(key, value)| key.len() + value.len()).sum(),
        };
        self.record.entries = std::mem::take(&mut *self.log.entries());
        self.kill().await;
        (self.record, self.hardware)
    }
}

/// How the process ended by itself; waits for ever while there is none.
async fn ended(running: &mut Option<Running>) -> Result<(), RunError> {
    match running {
        Some(running) => (&mut running.task).await.expect("the agent does not panic"),
        None => std::future::pending().await,
    }
}

/// Texts and numbers: the device gives back what it got.
fn req_id(id: u32) -> Value {
    if id % 5 == 4 { json!(id) } else { json!(format!("r{id}")) }
}

const HOUR: Duration = Duration::from_secs(3600);

/// How long everything may take to come to its end once nothing goes wrong any more, in hours: longer than the budgets
/// and attempts of any action of the protocol together.
const MAX_CALM_HOURS: u32 = 72;

/// How long whoever supervises the process waits before starting it again.
const SUPERVISOR_PAUSE: Duration = Duration::from_secs(5);

/// How long a restart of the machine takes, from the end of the process to its next start.
const RESTART_TAKES: Duration = Duration::from_secs(20);

/// How long the wall clock is wrong after a start without a battery for it.
const CLOCK_WRONG_FOR: Duration = Duration::from_secs(10 * 60);
