//! The platform, its broker's port and the agent under load.

use std::time::Duration;

use iotdm_examples::crash::CrashPoint;
use iotdm_tests::application::Application;
use iotdm_tests::{PATIENCE, within};
use tokio::time::{Instant, timeout};

use super::agent::Agent;
use super::requests::{Kind, Request, Verdict};

/// How many requests are unanswered at each moment.
const WINDOW: usize = 64;

/// One request of so many is sent a second time, whether answered or not.
const REPLAY_ONE_OF: usize = 16;

/// How far back a request is that is sent a second time: some have been answered by then, some not.
const REPLAY_FROM: usize = 2 * WINDOW;

/// After this time without an answer a platform asks again.
const ASKS_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// A platform that keeps the window of an agent full.
pub(super) struct Scene {
    pub(super) application: Application,
    pub(super) agent: Agent,
    pub(super) random: fastrand::Rng,
    asked: Vec<Request>,
    /// How often a request was sent again because no answer had come.
    pub(super) asked_again: usize,
    /// All before this one have their answers.
    answered_before: usize,
    /// One request of so many is a reboot.
    reboot_one_of: usize,
    /// Whether the broker forgets nothing that it acknowledged; if not, the platform asks again.
    broker_keeps: bool,
    /// Where the next process is to crash.
    crash: Option<(CrashPoint, usize)>,
    at_rest: bool,
}

impl Scene {
    /// An agent that has been managed once: until then it refuses what must not run twice, because its journal may
    /// have been lost.
    pub(super) async fn start(port: u16, reboot_one_of: usize, broker_keeps: bool) -> Self {
        let seed = std::env::var(SEED_VARIABLE).map_or_else(
            |_| fastrand::u64(..),
            |text| text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE}={text} is no number")),
        );
        eprintln!("{SEED_VARIABLE}={seed}");
        let mut scene = Self {
            application: Application::connect(port).await,
            agent: Agent::new(port),
            random: fastrand::Rng::with_seed(seed),
            asked: Vec::new(),
            asked_again: 0,
            answered_before: 0,
            reboot_one_of,
            broker_keeps,
            crash: None,
            at_rest: false,
        };
        scene.application.attend(|seen| seen.manages == 1).await;
        scene.ask(Kind::Echo);
        let first = scene.asked[0].req_id.clone();
        scene.application.response(&first).await;
        scene
    }

    /// Keeps the window full for a while; an agent that ends is started again.
    pub(super) async fn serve_for(&mut self, span: Duration) {
        // That the time is over is what it waits for.
        let _ = timeout(span, self.serve_until(|_| false)).await;
    }

    /// Keeps the window full until something holds; an agent that ends is started again.
    pub(super) async fn serve_until(&mut self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            self.step().await;
        }
    }

    /// Starts the next process so that it crashes there, and serves until it has; `false` when it does not come there.
    /// Whatever ends it before that, its successor has the same task.
    pub(super) async fn crash_at(&mut self, at: (CrashPoint, usize)) -> bool {
        let crashed = self.agent.ends.crashed;
        self.crash = Some(at);
        self.agent.start(self.crash);
        let crash = self.serve_until(|scene| scene.agent.ends.crashed > crashed);
        timeout(PATIENCE / 2, crash).await.is_ok()
    }

    /// Starts the next process, which is to live.
    pub(super) fn start_agent(&mut self) {
        self.crash = None;
        self.agent.start(None);
    }

    /// Serves until the agent is connected once more.
    pub(super) async fn serve_until_managed(&mut self) {
        let manages = self.application.seen().manages;
        within("manage", self.serve_until(|scene| scene.application.seen().manages > manages)).await;
    }

    async fn step(&mut self) {
        if !self.at_rest {
            self.top_up();
        }
        tokio::select! {
            () = self.application.take() => {}
            status = self.agent.ended() => {
                let crashed = self.agent.ends.crashed;
                self.agent.count(status);
                if self.agent.ends.crashed == crashed {
                    self.agent.start(self.crash);
                }
            }
        }
    }

    /// Kills the agent and starts it again.
    pub(super) async fn kill_agent(&mut self) {
        self.agent.kill().await;
        self.start_agent();
    }

    /// Asks for more than the window, while nobody answers.
    pub(super) fn ask_beyond_the_window(&mut self) {
        for _ in 0..WINDOW {
            self.ask(kind(self.asked.len(), self.reboot_one_of));
        }
    }

    fn top_up(&mut self) {
        while self.asked.get(self.answered_before).is_some_and(|request| self.has_answers(request)) {
            self.answered_before += 1;
        }
        for _ in self.asked.len()..self.application.seen().responses.len() + WINDOW {
            let number = self.asked.len();
            self.ask(kind(number, self.reboot_one_of));
            if self.broker_keeps && self.random.usize(..REPLAY_ONE_OF) == 0 {
                let back = self.random.usize(..REPLAY_FROM);
                self.replay(number.saturating_sub(back));
            }
        }
    }

    fn ask(&mut self, kind: Kind) {
        let request = Request::new(self.asked.len(), kind);
        self.application.publish(request.topic(), request.payload());
        self.asked.push(request);
    }

    fn replay(&mut self, number: usize) {
        let request = &mut self.asked[number];
        self.application.publish(request.topic(), request.payload());
        let answers = self.application.seen().responses.get(&request.req_id);
        request.answers_before_replay = Some(answers.map_or(0, Vec::len));
        self.answered_before = self.answered_before.min(number);
    }

    /// Asks again for everything that was not answered, as a platform does whose broker may have lost it.
    pub(super) fn ask_again(&mut self) {
        for request in &self.asked[self.answered_before..] {
            if !self.application.seen().responses.contains_key(&request.req_id) {
                self.application.publish(request.topic(), request.payload());
                self.asked_again += 1;
            }
        }
    }

    /// Asks for nothing more, gives the agent time to come to the end of everything, and judges.
    pub(super) async fn judge(&mut self) -> Verdict {
        self.at_rest = true;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && !self.is_done() {
            let done = self.serve_until(Self::is_answered);
            if timeout(ASKS_AGAIN_AFTER, done).await.is_err() && !self.broker_keeps {
                self.ask_again();
            }
            self.serve_for(AFTERWARDS).await;
        }
        self.serve_for(AFTERWARDS).await;
        self.agent.check_log();
        Verdict::new(&self.asked, self.application.seen(), &self.agent.runs())
    }

    /// Whether every request has its answers, and every promise of a restart is kept.
    fn is_done(&mut self) -> bool {
        self.is_answered() && Verdict::new(&self.asked, self.application.seen(), &self.agent.runs()).lost == 0
    }

    fn is_answered(&self) -> bool {
        self.asked[self.answered_before..].iter().all(|request| self.has_answers(request))
    }

    fn has_answers(&self, request: &Request) -> bool {
        let answers = self.application.seen().responses.get(&request.req_id).map_or(0, Vec::len);
        answers > request.answers_before_replay.unwrap_or(0)
    }
}

/// A mixture of everything, the same for the same number.
fn kind(number: usize, reboot_one_of: usize) -> Kind {
    if number % reboot_one_of == reboot_one_of - 1 {
        return Kind::Reboot;
    }
    match number % 16 {
        12 => Kind::Update,
        13 => Kind::Malformed,
        14 => Kind::UnknownTopic,
        15 => Kind::UnknownAction,
        even if even % 2 == 0 => Kind::Echo,
        _ => Kind::Once,
    }
}

/// How long messages may follow the last answer: what was promised by a 202, and answers that come twice.
const AFTERWARDS: Duration = Duration::from_millis(300);

/// Makes the random choices of a run come again.
const SEED_VARIABLE: &str = "IOTDM_KILLS_SEED";
