//! Lets a plan happen: the whole agent with its real link and journal, a broker, a proxy, a platform, and time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use iotdm_agent::testing::config;
use iotdm_agent::{Agent, Device, RunError, State};
use iotdm_platform::broker::{Broker, BrokerOptions, Mount, Observer, QoS, Seen};
use iotdm_platform::proxy::FaultProxy;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::chronicle::{Chronicle, Entry, What};
use super::plan::{Ask, Ends, Kind, Mood, Plan, Work};
use super::product::{Machine, Product, USUAL_FATE};

/// A life that was lived.
#[derive(Debug)]
pub struct Life {
    /// Everything that was seen.
    pub entries: Vec<Entry>,
    /// How much virtual time it took.
    pub lived: Duration,
    /// What was wrong at its end, with the world itself or with the device's last state.
    pub at_the_end: Vec<String>,
}

/// Lets it happen, on the current runtime, whose clock is paused.
pub(super) async fn live(plan: &Plan) -> Life {
    let begin = Instant::now();
    let mut world = World::new(plan.seed).await;
    world.start_agent();
    world.pass(SETTLING).await;
    for step in &plan.steps {
        world.pass(step.after).await;
        world.chronicle.write(What::Step(step.event.clone()));
        world.carry_out(&step.event).await;
    }
    world.calm_down();
    world.pass(CALMING).await;
    for (req_id, kind) in LAST_REQ_IDS.into_iter().zip([Kind::Once(AT_ONCE), Kind::Fresh(AT_ONCE)]) {
        world.ask(&Ask { req_id: req_id.into(), kind });
    }
    world.pass(SETTLING).await;
    world.chronicle.write(What::Quiet);
    world.pass(CALM_HOUR).await;
    let at_the_end = world.complaints();
    Life { entries: world.chronicle.entries(), lived: begin.elapsed(), at_the_end }
}

/// Everything that a life happens to.
pub(super) struct World {
    seed: u64,
    pub(super) chronicle: Chronicle,
    pub(super) broker: Broker,
    pub(super) proxy: FaultProxy,
    pub(super) machine: Arc<Machine>,
    folder: TempDir,
    pub(super) agent: Option<Running>,
    starts: u32,
    /// What the device asked of the platform.
    asked: mpsc::UnboundedReceiver<Value>,
    /// Restarts that are on their way.
    restarts: mpsc::UnboundedReceiver<Duration>,
    due: BTreeMap<(Instant, Due), ()>,
    pub(super) mood: Mood,
    /// The product's own calls that wait for the agent.
    pub(super) errands: JoinSet<()>,
    failures: Vec<String>,
}

pub(super) struct Running {
    pub(super) device: Device,
    pub(super) stop: Option<oneshot::Sender<()>>,
    /// How long after its end it is started again.
    pub(super) away: Duration,
    task: JoinHandle<Result<(), RunError>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    PowerOff,
    Start,
}

impl World {
    async fn new(seed: u64) -> Self {
        let chronicle = Chronicle::new();
        let (asks, asked) = mpsc::unbounded_channel();
        let written = chronicle.clone();
        let observer = Observer::new(move |sighting| {
            if let Seen::Published { topic, payload } = &sighting.what
                && topic != RESPONSES
            {
                // Nobody listens once the life is over.
                let _ = asks.send(serde_json::from_slice(payload).unwrap_or_default());
            }
            written.write(What::Wire(sighting));
        });
        let options =
            BrokerOptions { mount: Mount::Off, window: WINDOW, observer, ..BrokerOptions::default() };
        let broker = Broker::start(options).await.expect("loopback has a free port");
        let proxy = FaultProxy::start(broker.local_addr()).await.expect("loopback has a free port");
        let (machine, restarts) = Machine::new(chronicle.clone());
        Self {
            seed,
            chronicle,
            broker,
            proxy,
            machine: Arc::new(machine),
            folder: folder(),
            agent: None,
            starts: 0,
            asked,
            restarts,
            due: BTreeMap::new(),
            mood: Mood::Answers,
            errands: JoinSet::new(),
            failures: Vec::new(),
        }
    }

    fn start_agent(&mut self) {
        self.starts += 1;
        self.chronicle.write(What::Started(self.starts));
        let mut config = config();
        config.broker.host = "127.0.0.1".into();
        config.broker.port = self.proxy.local_addr().port();
        let agent = Agent::builder(config)
            .journal(self.folder.path().join("journal"))
            .system(self.machine.clone())
            .with(Product { chronicle: self.chronicle.clone() })
            .seed(self.seed.wrapping_mul(1_000_003).wrapping_add(self.starts.into()))
            .build()
            .expect("the agent can be built");
        let device = agent.device();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(agent.run_until(async {
            // Dropping the other end would stop it too.
            let _ = stopped.await;
        }));
        self.agent = Some(Running { device, stop: Some(stop), away: Duration::ZERO, task });
        if self.starts == 1 {
            self.set_attribute(0);
        }
    }

    /// Lets time pass, and everything that falls due in it happen.
    async fn pass(&mut self, span: Duration) {
        let end = Instant::now() + span;
        loop {
            let next = self.due.first_key_value().map(|((at, _), ())| *at).filter(|at| *at <= end);
            // First what has happened already, so that a moment always has the same order.
            tokio::select! {
                biased;
                Some(asked) = self.asked.recv() => self.answer(&asked),
                Some(after) = self.restarts.recv() => self.fall_due(after, Due::PowerOff),
                ended = ended(&mut self.agent) => self.agent_ended(ended),
                () = sleep_until(next.unwrap_or(end)) => match next {
                    Some(at) => self.happen(at).await,
                    None => return,
                },
            }
        }
    }

    pub(super) fn fall_due(&mut self, after: Duration, due: Due) {
        self.due.insert((Instant::now() + after, due), ());
    }

    async fn happen(&mut self, at: Instant) {
        let Some(((_, due), ())) = self.due.pop_first().filter(|((due, _), ())| *due == at) else { return };
        match due {
            Due::Start if self.agent.is_none() => self.start_agent(),
            Due::Start => {}
            Due::PowerOff => {
                self.kill_agent("the machine goes down").await;
                self.due.retain(|(_, due), ()| *due != Due::Start);
                self.machine.next_boot();
                self.fall_due(BOOT_TAKES, Due::Start);
            }
        }
    }

    fn answer(&self, asked: &Value) {
        let rc = match self.mood {
            Mood::Answers => 200,
            Mood::Busy => 409,
            Mood::Silent => return,
        };
        self.publish("iotdm-1/response", json!({"rc": rc, "reqId": asked["reqId"]}).to_string());
    }

    pub(super) fn publish(&self, topic: &str, payload: String) -> bool {
        let reached = self.broker.publish(topic, payload, QoS::AtLeastOnce, false);
        reached.expect("the broker takes what the test sends") > 0
    }

    pub(super) fn ask(&self, ask: &Ask) {
        // What is seen of the delivery comes after what is seen of the request.
        self.chronicle.write(What::Sent(ask.clone()));
        if !self.publish(&ask.kind.topic(), ask.payload()) {
            self.chronicle.write(What::Unreached(ask.req_id.clone()));
        }
    }

    /// Ends the agent as `kill -9` does; false when there was none.
    pub(super) async fn kill_agent(&mut self, how: &str) -> bool {
        let Some(agent) = self.agent.take() else { return false };
        agent.task.abort();
        // An aborted task gives an error, and that is what was asked for.
        let _ = agent.task.await;
        self.chronicle.write(What::Ended(how.into()));
        true
    }

    fn agent_ended(&mut self, ended: Result<Result<(), RunError>, JoinError>) {
        let Some(agent) = self.agent.take() else { return };
        if agent.stop.is_some() || !matches!(ended, Ok(Ok(()))) {
            self.failures.push(format!("the end: the agent ended by itself: {ended:?}"));
        }
        self.chronicle.write(What::Ended("as it was told".into()));
        self.fall_due(agent.away, Due::Start);
    }

    fn calm_down(&mut self) {
        self.chronicle.write(What::Calm);
        let client = config().identity.client_id();
        self.heal();
        self.broker.hold_pubacks(&client, false);
        self.broker.duplicate(false);
        self.broker.refuse_connections(false);
        self.mood = Mood::Answers;
        self.machine.set_fate(USUAL_FATE);
        self.machine.lose_clock(false);
        // Whoever is away comes back, and has the calm to itself.
        self.due.retain(|(_, due), ()| *due != Due::Start);
        match &mut self.agent {
            Some(agent) => agent.away = Duration::ZERO,
            None => self.fall_due(Duration::ZERO, Due::Start),
        }
    }

    fn complaints(&mut self) -> Vec<String> {
        let mut complaints = std::mem::take(&mut self.failures);
        let state = self.agent.as_ref().map(|agent| *agent.device.state().borrow());
        if state != Some(State::Managed) {
            complaints.push(format!("the end: not managed: {state:?}"));
        }
        let session = self.broker.session(&config().identity.client_id());
        if session.is_none_or(|session| session.queued + session.in_flight > 0 || !session.connected) {
            complaints.push(format!("P1: not everything is acknowledged: {session:?}"));
        }
        complaints
    }
}

/// Waits for the agent's end.
async fn ended(agent: &mut Option<Running>) -> Result<Result<(), RunError>, JoinError> {
    match agent {
        Some(agent) => (&mut agent.task).await,
        None => std::future::pending().await,
    }
}

/// A folder for a journal: in memory where there is such a thing, since these lives cut no power.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("the temporary folder can be written")
}

/// What is asked at the end, and must be done.
pub(super) const LAST_REQ_IDS: [&str; 2] = ["\"last-once\"", "\"last-fresh\""];

/// Where the device answers.
pub(super) const RESPONSES: &str = "iotdevice-1/response";

/// Unacknowledged deliveries: few enough that no burst waits for a TCP acknowledgement, see the broker's assumptions.
const WINDOW: u16 = 6;

/// How long an agent needs to be managed, or to answer, when everything works.
const SETTLING: Duration = Duration::from_secs(60);

/// How long a machine needs from going down to starting its agent.
const BOOT_TAKES: Duration = Duration::from_secs(30);

/// Longer than every pause and every patience of an agent together.
const CALMING: Duration = Duration::from_secs(45 * 60);

/// How long nothing may happen then but one or two manages.
const CALM_HOUR: Duration = Duration::from_secs(60 * 60);

/// Work that takes no time.
const AT_ONCE: Work = Work { takes: Duration::ZERO, ends: Ends::Well };
