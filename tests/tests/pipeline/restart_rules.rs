//! Reboots under rules and factory resets in steps, in the whole agent: what is answered, what survives a crash, and
//! what a restart is taken for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use iotdm_agent::Builder;
use iotdm_agent::testing::{CrashOutcome, MemoryDisk, Platform, Running, TestSystem, start};
use iotdm_core::{Action, Context, FactoryReset, Reboot, Restart, UpRoute};
use iotdm_handlers::reboot::{
    FactoryResets, MaintenanceWindows, Moment, Question, Reboots, RestartLimit, Rules, Verdict, Veto, Wipe,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, advance, sleep};

/// A device, and what its application says.
struct Device {
    platform: Platform,
    disk: MemoryDisk,
    system: TestSystem,
    application: Application,
    rules: Rules,
    data: TempDir,
    /// Whether the machine's own command resets it, and nothing is wiped here.
    by_command: bool,
}

/// Says yes, unless a test wants it otherwise, and counts.
#[derive(Clone, Default)]
struct Application {
    asked: Arc<AtomicUsize>,
    mood: Arc<std::sync::Mutex<Mood>>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Mood {
    #[default]
    Content,
    Busy,
    Silent,
    /// Silent when the restart is to begin.
    SilentLater,
    /// Wants the restart delayed by so many seconds, once.
    Writing(u64),
}

#[async_trait]
impl Veto for Application {
    async fn ask(&self, _: &Context, question: Question) -> Verdict {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mood = *self.mood.lock().expect("no holder of the lock panics");
        match (mood, question.moment) {
            (Mood::Busy, _) => Verdict::Refuse("a vehicle is being charged".into()),
            (Mood::Silent, _) | (Mood::SilentLater, Moment::Restart) => std::future::pending().await,
            (Mood::Writing(seconds), Moment::Restart) => {
                self.be(Mood::Content);
                Verdict::Delay(Duration::from_secs(seconds))
            }
            _ => Verdict::Allow,
        }
    }
}

impl Application {
    fn be(&self, mood: Mood) {
        *self.mood.lock().expect("no holder of the lock panics") = mood;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Device {
    fn under(rules: Rules) -> Self {
        let application = Application::default();
        let data = tempfile::tempdir().expect("the temporary folder can be written");
        let device = Self {
            platform: Platform::new(),
            disk: MemoryDisk::new(),
            system: TestSystem::new(),
            rules: rules.veto(application.clone()),
            application,
            data,
            by_command: false,
        };
        device.fill();
        device
    }

    fn folder(&self) -> PathBuf {
        self.data.path().canonicalize().expect("the folder is there")
    }

    /// The user has data.
    fn fill(&self) {
        std::fs::create_dir_all(self.folder().join("a/b")).expect("the folder can be read and written");
        std::fs::write(self.folder().join("a/b/file"), "user data")
            .expect("the folder can be read and written");
    }

    fn is_wiped(&self) -> bool {
        std::fs::read_dir(self.folder()).expect("the folder can be read and written").count() == 0
    }

    fn start_with(&self, change: impl FnOnce(Builder) -> Builder) -> Running {
        let wipe = Wipe::new([self.folder()], &[]).expect("a temporary folder may be wiped");
        let reset = if self.by_command { FactoryResets::by_command() } else { FactoryResets::wiping(wipe) };
        start(&self.platform, &self.disk, &self.system, |builder| {
            change(
                builder
                    .on::<Reboot>(Reboots::new().under(self.rules.clone()))
                    .on::<FactoryReset>(reset.under(self.rules.clone()))
                    .policy(FactoryReset::ROUTE, |policy| policy.attempts = 20),
            )
        })
    }

    /// Starts the agent, and waits until the platform knows and nothing old waits.
    async fn managed(&self) -> Running {
        let manages = self.platform.published(UpRoute::Manage).len();
        let running = self.start_with(|builder| builder);
        self.platform.managed(manages + 1).await;
        self.platform.drained().await;
        running
    }

    fn send<A: Action>(&self, req_id: &str) {
        self.platform.send(A::ROUTE, json!({ "reqId": req_id }));
    }

    async fn ask<A: Action>(&self, req_id: &str) -> Value {
        self.send::<A>(req_id);
        self.platform.response(req_id).await
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < Duration::from_secs(24 * 3600), "it never happens");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_restarts(&self, count: usize) {
        self.until(|device| device.system.restarts().len() == count).await;
    }

    async fn reported(&self) -> Value {
        self.platform.until(|platform| !platform.published(UpRoute::AddLog).is_empty()).await;
        self.platform.published(UpRoute::AddLog)[0]["d"].clone()
    }
}

fn hours(count: u64) -> Duration {
    Duration::from_secs(count * 3600)
}

#[tokio::test(start_paused = true)]
async fn outside_its_window_a_restart_is_refused_and_a_replay_gets_the_same_answer_when_it_is_open() {
    let device = Device::under(Rules::new().within(MaintenanceWindows::new(["01:00-04:00"]).unwrap()));
    let _running = device.managed().await;
    let refused = device.ask::<Reboot>("early").await;
    assert_eq!(refused["rc"], 409);
    assert_eq!(
        refused["message"],
        "no maintenance window is open; the next one opens at 2026-06-01T01:00:00.000Z"
    );
    advance(hours(2)).await;
    // A refusal is final for its reqId; the platform asks again with another one.
    assert_eq!(device.ask::<Reboot>("early").await, refused);
    assert_eq!(device.ask::<Reboot>("in time").await["rc"], 202);
    device.until_restarts(1).await;
}

/// The broker has the answer only when the window has closed.
#[tokio::test(start_paused = true)]
async fn an_answer_that_waits_until_the_window_has_closed_restarts_nothing_and_that_is_reported() {
    let device = Device::under(Rules::new().within(MaintenanceWindows::new(["00:00-01:00"]).unwrap()));
    let _running = device.managed().await;
    device.platform.hold_pubacks(true);
    assert_eq!(device.ask::<Reboot>("r").await["rc"], 202);
    advance(hours(3)).await;
    device.platform.cut();
    device.platform.hold_pubacks(false);
    let log = device.reported().await;
    assert_eq!(log["severity"], 2);
    assert!(log["message"].as_str().unwrap().contains("no maintenance window is open"), "{log}");
    assert!(device.system.restarts().is_empty());
    assert_eq!(device.platform.published(UpRoute::AddErrorCode).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_application_that_is_busy_refuses_both_and_is_not_asked_for_a_replay() {
    let device = Device::under(Rules::new());
    device.application.be(Mood::Busy);
    let _running = device.managed().await;
    let told = "the application refuses at present: a vehicle is being charged";
    let refused = device.ask::<Reboot>("r").await;
    assert_eq!((&refused["rc"], &refused["message"]), (&409.into(), &told.into()));
    assert_eq!(device.ask::<Reboot>("r").await, refused);
    assert_eq!(device.application.asked(), 1);
    assert_eq!(device.ask::<FactoryReset>("f").await["message"], told);
    assert!(device.system.restarts().is_empty() && !device.is_wiped());
}

#[tokio::test(start_paused = true)]
async fn an_application_that_does_not_answer_in_time_is_a_500_and_later_a_failure() {
    let device = Device::under(Rules::new());
    device.application.be(Mood::Silent);
    let _running = device.managed().await;
    let began = Instant::now();
    let refused = device.ask::<Reboot>("r").await;
    assert_eq!((&refused["rc"], began.elapsed().as_secs()), (&500.into(), 10));
    assert_eq!(refused["message"], "the application could not be asked");
    device.application.be(Mood::SilentLater);
    assert_eq!(device.ask::<FactoryReset>("f").await["rc"], 202);
    assert!(
        device.reported().await["message"].as_str().unwrap().contains("the application could not be asked")
    );
    assert!(device.system.restarts().is_empty() && !device.is_wiped());
}

#[tokio::test(start_paused = true)]
async fn a_delay_comes_after_the_answer_and_no_manage_is_sent_in_it() {
    let device = Device::under(Rules::new());
    device.application.be(Mood::Writing(40));
    let _running = device.managed().await;
    let (began, manages) = (Instant::now(), device.platform.published(UpRoute::Manage).len());
    assert_eq!(device.ask::<Reboot>("r").await["rc"], 202);
    assert_eq!(began.elapsed().as_secs(), 0);
    sleep(Duration::from_secs(20)).await;
    let connections = device.platform.connections();
    device.platform.cut();
    device.platform.until(|platform| platform.connections() > connections).await;
    device.until_restarts(1).await;
    assert_eq!(began.elapsed().as_secs(), 40);
    assert_eq!(device.platform.published(UpRoute::Manage).len(), manages);
    assert_eq!(device.application.asked(), 3, "before the answer, then, and at the end of the delay");
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_a_delay_asks_the_application_again_and_a_power_cut_in_it_is_the_restart() {
    for power_cut in [false, true] {
        let device = Device::under(Rules::new());
        device.application.be(Mood::Writing(50));
        let running = device.managed().await;
        assert_eq!(device.ask::<Reboot>("r").await["rc"], 202);
        sleep(Duration::from_secs(20)).await;
        assert!(device.system.restarts().is_empty());
        running.kill().await;
        if power_cut {
            device.system.next_boot();
        }
        let _running = device.start_with(|builder| builder);
        sleep(Duration::from_secs(120)).await;
        assert_eq!(device.system.restarts().len(), usize::from(!power_cut), "{power_cut}");
        assert_eq!(device.application.asked(), if power_cut { 2 } else { 3 });
        assert_eq!(device.ask::<Reboot>("r").await["rc"], 202, "the replay");
        assert_eq!(device.system.restarts().len(), usize::from(!power_cut));
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_beyond_the_budget_of_the_action_fails_and_is_reported() {
    for route in [Reboot::ROUTE, FactoryReset::ROUTE] {
        let device = Device::under(Rules::new().max_delay(hours(1)));
        device.application.be(Mood::Writing(3600));
        let manages = device.platform.published(UpRoute::Manage).len();
        let short = route.clone();
        let _running = device.start_with(|builder| {
            builder.policy(short, |policy| policy.perform_budget = Duration::from_secs(60))
        });
        device.platform.managed(manages + 1).await;
        device.platform.drained().await;
        device.platform.send(route, json!({"reqId": "r"}));
        assert_eq!(device.platform.response("r").await["rc"], 202);
        assert!(device.reported().await["message"].as_str().unwrap().contains("longer than its budget"));
        assert!(device.system.restarts().is_empty() && !device.is_wiped());
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_decision_asks_again_and_answers_once() {
    for restarted in [false, true] {
        let device = Device::under(Rules::new());
        device.application.be(Mood::Silent);
        let running = device.managed().await;
        device.send::<Reboot>("r");
        device.send::<FactoryReset>("f");
        device.until(|device| device.application.asked() > 0).await;
        running.kill().await;
        if restarted {
            device.system.next_boot();
        }
        device.application.be(Mood::Content);
        let _running = device.start_with(|builder| builder);
        assert_eq!(device.platform.response("r").await["rc"], 202);
        device.until(|device| !device.system.restarts().is_empty()).await;
        assert_eq!(device.system.restarts(), [Restart::Reboot]);
    }
}

/// The answer is stored, and the broker has not confirmed it.
#[tokio::test(start_paused = true)]
async fn a_crash_after_the_answer_sends_it_again_and_then_does_what_it_promises() {
    for restarted in [false, true] {
        for is_reset in [false, true] {
            let device = Device::under(Rules::new());
            let running = device.managed().await;
            device.platform.hold_pubacks(true);
            let answer = if is_reset {
                device.ask::<FactoryReset>("r").await
            } else {
                device.ask::<Reboot>("r").await
            };
            assert_eq!(answer["rc"], 202);
            running.kill().await;
            if restarted {
                device.system.next_boot();
            }
            device.platform.hold_pubacks(false);
            let _running = device.start_with(|builder| builder);
            sleep(Duration::from_secs(60)).await;
            // A reboot that has happened meanwhile is one; nothing of a reset has happened.
            let begun = is_reset || !restarted;
            assert_eq!(device.system.restarts().len(), usize::from(begun), "{restarted} {is_reset}");
            assert_eq!(device.is_wiped(), is_reset);
            assert!(device.platform.responses("r").iter().all(|other| *other == answer));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_holds_over_restarts_and_says_until_when() {
    let device = Device::under(Rules::new().at_most(RestartLimit::new(2, hours(24))));
    for req_id in ["one", "two"] {
        let running = device.managed().await;
        assert_eq!(device.ask::<Reboot>(req_id).await["rc"], 202);
        device.until(|device| !device.system.restarts().is_empty()).await;
        sleep(Duration::from_secs(5)).await;
        running.kill().await;
        device.system.next_boot();
    }
    assert_eq!(device.system.restarts().len(), 2);
    let _running = device.managed().await;
    let refused = device.ask::<Reboot>("three").await;
    assert_eq!(refused["rc"], 409);
    let message = refused["message"].as_str().unwrap();
    let told =
        "the limit of 2 restarts within 1d is reached; the next one is possible from 2026-06-02T00:00:";
    assert!(message.starts_with(told), "{message}");
    assert_eq!(device.ask::<FactoryReset>("reset").await["message"], message, "a reset restarts, too");
    advance(hours(24)).await;
    assert_eq!(device.ask::<Reboot>("four").await["rc"], 202);
    device.until_restarts(3).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_never_comes_is_reported_and_counts_against_the_limit() {
    let device = Device::under(Rules::new().at_most(RestartLimit::new(1, hours(1))));
    let _running = device.managed().await;
    assert_eq!(device.ask::<Reboot>("r").await["rc"], 202);
    let log = device.reported().await;
    assert!(log["message"].as_str().unwrap().contains("the restart did not come within"), "{log}");
    assert_eq!(device.ask::<Reboot>("again").await["rc"], 409);
    advance(hours(1)).await;
    assert_eq!(device.ask::<Reboot>("later").await["rc"], 202);
}

#[tokio::test(start_paused = true)]
async fn a_reset_wipes_after_its_answer_restarts_and_is_done_once() {
    let device = Device::under(Rules::new());
    let running = device.managed().await;
    let answer = device.ask::<FactoryReset>("r").await;
    assert_eq!(answer["rc"], 202);
    device.until_restarts(1).await;
    assert!(device.is_wiped());
    sleep(Duration::from_secs(1)).await;
    running.kill().await;
    device.system.next_boot();
    // The next user has data; the journal has outlived the reset, so that a replay takes nothing of it.
    device.fill();
    let running = device.managed().await;
    assert_eq!(device.ask::<FactoryReset>("r").await, answer);
    sleep(hours(1)).await;
    assert!(!device.is_wiped());
    assert_eq!(device.system.restarts(), [Restart::Reboot]);
    assert_eq!(device.platform.published(UpRoute::AddErrorCode), Vec::<Value>::new());
    running.stop().await.unwrap();
}

/// Whatever commit is the last one before the process dies, or the power goes: the reset is carried out to its end, and
/// only once it is the machine is said to have been restarted by it.
#[tokio::test(start_paused = true)]
async fn a_crash_or_a_power_cut_at_every_commit_of_a_reset_leaves_it_done() {
    let mut interrupted = 0;
    for power_cut in [false, true] {
        for after in 1..=8 {
            let device = Device::under(Rules::new().at_most(RestartLimit::new(10, hours(1))));
            let running = device.managed().await;
            let before = device.disk.commits();
            device.send::<FactoryReset>("r");
            // Everything but the wiping itself happens at one moment of the test's clock.
            for turn in 1..100_000 {
                if device.disk.commits() >= before + after {
                    break;
                }
                tokio::task::yield_now().await;
                if turn % 1000 == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            }
            running.kill().await;
            let restarts = device.system.restarts().len();
            interrupted += usize::from(restarts == 0);
            if power_cut {
                device.system.next_boot();
            }
            let running = device.start_with(|builder| builder);
            assert_eq!(device.platform.response("r").await["rc"], 202);
            sleep(Duration::from_secs(60)).await;
            assert!(device.is_wiped(), "{power_cut} {after}");
            let more = device.system.restarts().len() - restarts;
            assert!(more <= 1 && restarts + more >= 1, "{power_cut} {after}: {restarts} and {more}");
            if more > 0 {
                running.kill().await;
                device.system.next_boot();
                drop(device.start_with(|builder| builder));
                sleep(Duration::from_secs(60)).await;
                assert_eq!(device.system.restarts().len(), restarts + more, "it is done");
            }
        }
    }
    // How many depends on how soon the thread that wipes is done.
    assert!(interrupted >= 2, "some crashes come before the restart: {interrupted}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_in_a_reset_loses_nothing_and_wipes_to_the_end() {
    for outcome in [CrashOutcome::Applied, CrashOutcome::NotApplied] {
        for at in 1..=7 {
            let device = Device::under(Rules::new());
            let _running = device.managed().await;
            device.disk.crash_at_commit(at, outcome);
            assert_eq!(device.ask::<FactoryReset>("r").await["rc"], 202);
            device.until(|device| !device.system.restarts().is_empty()).await;
            assert!(device.is_wiped(), "{at} {outcome:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_by_command_that_crashes_around_its_answer_is_begun_when_the_answer_is_out() {
    for restarted in [false, true] {
        for before_the_answer in [false, true] {
            let device = Device { by_command: true, ..Device::under(Rules::new()) };
            device.application.be(if before_the_answer { Mood::Silent } else { Mood::Content });
            let running = device.managed().await;
            device.platform.hold_pubacks(true);
            device.send::<FactoryReset>("r");
            if before_the_answer {
                device.until(|device| device.application.asked() > 0).await;
            } else {
                device.platform.response("r").await;
            }
            running.kill().await;
            assert!(device.system.restarts().is_empty());
            if restarted {
                device.system.next_boot();
            }
            device.application.be(Mood::Content);
            device.platform.hold_pubacks(false);
            let _running = device.start_with(|builder| builder);
            assert_eq!(device.platform.response("r").await["rc"], 202);
            device.until_restarts(1).await;
            assert_eq!(device.system.restarts(), [Restart::FactoryReset], "{restarted} {before_the_answer}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_by_command_is_done_after_its_restart_and_a_replay_gets_its_answer() {
    let device = Device { by_command: true, ..Device::under(Rules::new()) };
    let running = device.managed().await;
    let answer = device.ask::<FactoryReset>("r").await;
    device.until_restarts(1).await;
    sleep(Duration::from_secs(1)).await;
    running.kill().await;
    // The process comes back before the machine has gone down: the command is run again.
    let running = device.start_with(|builder| builder);
    device.until_restarts(2).await;
    sleep(Duration::from_secs(1)).await;
    running.kill().await;
    device.system.next_boot();
    let _running = device.managed().await;
    assert_eq!(device.ask::<FactoryReset>("r").await, answer);
    sleep(hours(1)).await;
    assert_eq!(device.system.restarts(), [Restart::FactoryReset; 2]);
    assert!(device.platform.published(UpRoute::AddErrorCode).is_empty());
}

/// The device's own stage is nobody else's to set.
#[tokio::test(start_paused = true)]
async fn the_platform_cannot_set_what_a_reset_or_the_limit_remembers() {
    let device = Device::under(Rules::new().at_most(RestartLimit::new(1, hours(1))));
    let _running = device.managed().await;
    assert_eq!(device.ask::<Reboot>("r").await["rc"], 202);
    for field in ["agent.restarts", "agent.factory_reset"] {
        let d = json!({"fields": [{"field": field, "value": []}]});
        device.platform.send(iotdm_core::Route::DeviceUpdate, json!({"d": d, "reqId": field}));
        assert_eq!(device.platform.response(field).await["rc"], 404, "{field}");
    }
}
