//! Both actions over a machine of the test's own: each rule's word, and each step at which something may go wrong.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iotdm_core::{
    Action, ChildError, Code, ContextParts, Decision, FactoryReset, Performed, Reboot, RestartError, Route,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use super::*;
use crate::fake::{FakeServices, FakeSystem, ask, output, parts};

const KINDS: [(Route, Restart); 2] =
    [(Reboot::ROUTE, Restart::Reboot), (FactoryReset::ROUTE, Restart::FactoryReset)];

/// 2026-06-01T12:00:00Z, a Monday.
const MONDAY_NOON: Duration = Duration::from_secs(1_780_315_200);
const STAGE: &str = "agent.factory_reset";

/// A device and its handlers.
struct Device {
    system: FakeSystem,
    services: FakeServices,
    table: Table,
}

impl Device {
    fn of(bundle: impl FnOnce(&mut Table) -> Result<(), TableError>) -> Self {
        let system = FakeSystem::new();
        system.set_wall_clock(MONDAY_NOON);
        let mut table = Table::new();
        bundle(&mut table).unwrap();
        Self { system, services: FakeServices::new(), table }
    }

    fn under(rules: Rules) -> Self {
        Self::of(|table| {
            table.on::<Reboot>(Reboots::new().under(rules.clone()))?;
            table.on::<FactoryReset>(FactoryResets::by_command().under(rules))
        })
    }

    fn resetting(handler: FactoryResets) -> Self {
        Self::of(|table| table.on::<FactoryReset>(handler))
    }

    fn context(&self, change: impl FnOnce(&mut ContextParts)) -> Context {
        let mut parts = parts(&self.system, &self.services);
        change(&mut parts);
        Context::new(parts)
    }

    /// The code and the message.
    async fn ask(&self, route: &Route) -> (Code, String) {
        match ask(&self.table, route, &self.context(|_| {}), json!({})).await {
            Decision::Replied(parts) => (parts.rc, String::new()),
            Decision::Refused(refusal) | Decision::Undecodable(refusal) => {
                (refusal.rc(), refusal.message().to_owned())
            }
        }
    }

    async fn perform(&self, route: &Route) -> Result<Performed, Failure> {
        self.table.handler(route).unwrap().after_ack(&self.context(|_| {}), None).await
    }

    async fn recover(&self, route: &Route, rebooted: bool) -> Recovery {
        let cx = self.context(|parts| parts.rebooted = rebooted);
        self.table.handler(route).unwrap().recover(&cx, None).await
    }

    /// Another boot.
    fn boot(&self) {
        self.system.set_boot_id("boot-2");
    }

    fn step(&self) -> Value {
        self.context(|_| {}).attribute::<Value>(STAGE).unwrap_or_default()["step"].clone()
    }
}

/// Says these, one after the other; how often it was asked is how many are gone.
fn saying(verdicts: impl IntoIterator<Item = Verdict>) -> impl Veto {
    let mut verdicts: Vec<Verdict> = verdicts.into_iter().collect();
    verdicts.reverse();
    let left = Mutex::new(verdicts);
    move |_: Question| left.lock().unwrap().pop().expect("it is asked as often as the test expects")
}

mod rebooting {
    use super::*;

    fn both() -> Device {
        Device::of(|table| table.with(Restarts))
    }

    #[tokio::test]
    async fn nothing_restarts_before_the_answer_is_out() {
        for (route, kind) in KINDS {
            let device = both();
            assert_eq!(device.ask(&route).await.0, Code::ACCEPTED);
            assert_eq!(device.system.restarts(), []);
            assert_eq!(device.perform(&route).await, Ok(Performed::Restarting));
            assert_eq!(device.system.restarts(), [kind]);
        }
    }

    #[tokio::test]
    async fn a_dry_run_is_complete_at_once() {
        for (route, _) in KINDS {
            let device = both();
            device.system.next_restart(Ok(Performed::Complete));
            assert_eq!(device.perform(&route).await, Ok(Performed::Complete));
        }
    }

    #[tokio::test]
    async fn a_command_that_does_not_work_is_a_failure_with_its_reason() {
        let device = both();
        let reason = "exit status 1: not permitted".to_owned();
        device.system.next_restart(Err(RestartError::Command { kind: Restart::Reboot, reason }));
        device.system.next_restart(Err(RestartError::NotConfigured(Restart::FactoryReset)));
        for (route, text) in [
            (Reboot::ROUTE, "the reboot command failed: exit status 1: not permitted"),
            (FactoryReset::ROUTE, "no way to carry out a factory reset is configured"),
        ] {
            assert_eq!(device.perform(&route).await.unwrap_err().to_string(), text);
        }
    }

    #[tokio::test]
    async fn a_reboot_is_done_when_the_machine_was_restarted_and_begun_again_when_not() {
        for (rebooted, expected) in [(true, Recovery::Done), (false, Recovery::RunAgain)] {
            assert_eq!(both().recover(&Reboot::ROUTE, rebooted).await, expected);
        }
    }

    #[test]
    fn a_device_with_one_of_both_actions_still_says_so_in_manage() {
        let mut table = Table::new();
        table.on::<Reboot>(Restarts).unwrap();
        assert!(table.supports().device_actions && table.handler(&FactoryReset::ROUTE).is_none());
    }
}

mod under_rules {
    use super::*;

    fn windows(text: &str) -> Rules {
        Rules::new().within(MaintenanceWindows::new([text]).unwrap())
    }

    fn limited() -> Rules {
        Rules::new().at_most(RestartLimit::new(1, Duration::from_secs(3600)))
    }

    #[tokio::test]
    async fn outside_its_maintenance_windows_a_restart_is_refused_with_when_the_next_one_opens() {
        for (route, _) in KINDS {
            let device = Device::under(windows("Tue 01:00-04:00"));
            let told = "no maintenance window is open; the next one opens at 2026-06-02T01:00:00.000Z";
            assert_eq!(device.ask(&route).await, (Code::CONFLICT, told.into()));
            device.system.set_wall_clock(MONDAY_NOON + Duration::from_secs(14 * 3600));
            assert_eq!(device.ask(&route).await.0, Code::ACCEPTED);
        }
    }

    #[tokio::test]
    async fn a_clock_that_was_never_set_opens_no_window() {
        for clock in [Duration::ZERO, Duration::from_secs(1_767_225_599)] {
            let device = Device::under(windows("00:00-24:00"));
            device.system.set_wall_clock(clock);
            let (rc, message) = device.ask(&Reboot::ROUTE).await;
            assert_eq!(rc, Code::CONFLICT);
            assert!(message.starts_with("the clock is not set"), "{message}");
        }
    }

    /// The answer may have waited for the network until then.
    #[tokio::test]
    async fn a_window_that_has_closed_since_the_answer_fails_the_restart() {
        let device = Device::under(windows("Mon 11:00-13:00"));
        assert_eq!(device.ask(&Reboot::ROUTE).await.0, Code::ACCEPTED);
        device.system.set_wall_clock(MONDAY_NOON + Duration::from_secs(3600));
        let failure = device.perform(&Reboot::ROUTE).await.unwrap_err();
        assert!(failure.to_string().contains("opens at 2026-06-08T11:00:00.000Z"), "{failure}");
        assert_eq!(device.system.restarts(), []);
    }

    #[tokio::test]
    async fn a_restart_is_recorded_before_it_begins_and_one_too_many_is_refused() {
        let device = Device::under(limited());
        assert_eq!(device.perform(&Reboot::ROUTE).await, Ok(Performed::Restarting));
        device.boot();
        let other = device.context(|parts| parts.req_id = Some(iotdm_core::ReqId::from_text("r2")));
        for (route, _) in KINDS {
            let Decision::Refused(refusal) = ask(&device.table, &route, &other, json!({})).await else {
                panic!()
            };
            assert_eq!(refusal.rc(), Code::CONFLICT);
            assert!(
                refusal.message().starts_with("the limit of 1 restart within 1h is reached"),
                "{refusal}"
            );
            let after = device.table.handler(&route).unwrap().after_ack(&other, None).await;
            assert!(after.is_err(), "also when the answer is out already");
        }
        assert_eq!(device.system.restarts().len(), 1);
    }

    #[tokio::test]
    async fn a_restart_that_cannot_be_recorded_is_not_begun() {
        let device = Device::under(limited());
        device.services.stop();
        let failure = device.perform(&Reboot::ROUTE).await.unwrap_err();
        assert!(failure.to_string().starts_with("the restart could not be recorded"), "{failure}");
        assert_eq!(device.system.restarts(), []);
    }

    #[tokio::test]
    async fn a_dry_run_counts_against_no_limit() {
        let device = Device::under(limited());
        device.system.next_restart(Ok(Performed::Complete));
        assert_eq!(device.perform(&Reboot::ROUTE).await, Ok(Performed::Complete));
        let other = device.context(|parts| parts.req_id = Some(iotdm_core::ReqId::from_text("r2")));
        let decision = ask(&device.table, &Reboot::ROUTE, &other, json!({})).await;
        assert!(matches!(decision, Decision::Replied(_)), "{decision:?}");
    }

    #[tokio::test]
    async fn an_application_that_refuses_is_told_to_the_platform_within_bounds() {
        for (reason, told) in [
            (
                "a vehicle\nis charged",
                "the application refuses at present: a vehicle\\nis charged".to_owned(),
            ),
            ("  ", "the application refuses at present".to_owned()),
            (&"x".repeat(1000), format!("the application refuses at present: {}", "x".repeat(256))),
        ] {
            for (route, _) in KINDS {
                let device = Device::under(Rules::new().veto(saying([Verdict::Refuse(reason.into())])));
                assert_eq!(device.ask(&route).await, (Code::CONFLICT, told.clone()));
            }
        }
    }

    #[tokio::test]
    async fn an_application_that_cannot_be_asked_is_no_yes() {
        let device = Device::under(Rules::new().veto(saying([Verdict::Failed("secret path".into())])));
        assert_eq!(
            device.ask(&Reboot::ROUTE).await,
            (Code::FAILED, "the application could not be asked".into())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_does_not_answer_is_no_yes() {
        struct Silent;
        #[async_trait::async_trait]
        impl Veto for Silent {
            async fn ask(&self, _: &Context, _: Question) -> Verdict {
                std::future::pending().await
            }
        }
        let device = Device::under(Rules::new().veto(Silent));
        let began = Instant::now();
        assert_eq!(device.ask(&Reboot::ROUTE).await.0, Code::FAILED);
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        assert!(device.perform(&Reboot::ROUTE).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_is_waited_for_after_the_answer_and_the_application_is_asked_again() {
        let seconds = |seconds| Verdict::Delay(Duration::from_secs(seconds));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (heard, next) = (asked.clone(), saying([seconds(5), seconds(20), seconds(10), Verdict::Allow]));
        struct Both<F>(F, Arc<Mutex<Vec<Moment>>>);
        #[async_trait::async_trait]
        impl<F: Veto> Veto for Both<F> {
            async fn ask(&self, cx: &Context, question: Question) -> Verdict {
                self.1.lock().unwrap().push(question.moment);
                self.0.ask(cx, question).await
            }
        }
        let device = Device::under(Rules::new().veto(Both(next, heard)));
        let began = Instant::now();
        assert_eq!(device.ask(&Reboot::ROUTE).await.0, Code::ACCEPTED);
        assert_eq!(began.elapsed(), Duration::ZERO, "the answer is not delayed");
        assert_eq!(device.perform(&Reboot::ROUTE).await, Ok(Performed::Restarting));
        assert_eq!(began.elapsed(), Duration::from_secs(30));
        assert_eq!(
            *asked.lock().unwrap(),
            [Moment::Request, Moment::Restart, Moment::Restart, Moment::Restart]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_delays_for_ever_is_restarted_at_the_bound() {
        let rules = Rules::new().max_delay(Duration::from_secs(90));
        let device = Device::under(rules.veto(|_: Question| Verdict::Delay(Duration::MAX)));
        let began = Instant::now();
        assert_eq!(device.perform(&Reboot::ROUTE).await, Ok(Performed::Restarting));
        assert_eq!(began.elapsed(), Duration::from_secs(90));
        // Also one that wants no time at all, again and again.
        let device = Device::under(Rules::new().veto(|_: Question| Verdict::Delay(Duration::ZERO)));
        let began = Instant::now();
        assert_eq!(device.perform(&Reboot::ROUTE).await, Ok(Performed::Restarting));
        assert_eq!(began.elapsed(), Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_beyond_the_window_fails_the_restart() {
        let system = Arc::new(Mutex::new(None::<FakeSystem>));
        let clock = system.clone();
        // 2026-06-01T00:59:00Z; the window closes a minute later.
        let before = Duration::from_secs(1_780_275_540);
        let rules = Rules::new().within(MaintenanceWindows::new(["00:00-01:00"]).unwrap());
        let device = Device::under(rules.veto(move |_: Question| {
            let system = clock.lock().unwrap().clone().expect("it is set below");
            let is_first = iotdm_core::System::wall_clock(&system) == before;
            system.set_wall_clock(before + Duration::from_secs(50 * 60));
            if is_first { Verdict::Delay(Duration::from_secs(50)) } else { Verdict::Allow }
        }));
        device.system.set_wall_clock(before);
        *system.lock().unwrap() = Some(device.system.clone());
        let failure = device.perform(&Reboot::ROUTE).await.unwrap_err().to_string();
        assert!(failure.starts_with("no maintenance window is open"), "{failure}");
        assert_eq!(device.system.restarts(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_refuses_at_the_end_of_its_delay_fails_the_restart() {
        let verdicts = [Verdict::Delay(Duration::from_secs(5)), Verdict::Refuse("the write failed".into())];
        let device = Device::under(Rules::new().veto(saying(verdicts)));
        let failure = device.perform(&Reboot::ROUTE).await.unwrap_err();
        assert_eq!(failure.to_string(), "the application refuses at present: the write failed");
        assert_eq!(device.system.restarts(), []);
    }

    #[tokio::test]
    async fn logind_is_asked_before_the_answer_and_before_the_restart() {
        let device = Device::under(Rules::new().logind(Logind::new()));
        let blocked = r#"{"type":"a(ssssuu)","data":[[["shutdown","apt","upgrade","block",0,1]]]}"#;
        let free = || Ok(output(0, r#"{"type":"a(ssssuu)","data":[[]]}"#, ""));
        let yes = || Ok(output(0, r#"{"type":"s","data":["yes"]}"#, ""));
        device.system.next_run(Ok(output(0, blocked, "")));
        let told = "a shutdown is blocked by apt (upgrade)";
        assert_eq!(device.ask(&Reboot::ROUTE).await, (Code::CONFLICT, told.into()));
        device.system.next_run(free());
        device.system.next_run(yes());
        assert_eq!(device.ask(&Reboot::ROUTE).await.0, Code::ACCEPTED);
        device.system.next_run(Ok(output(0, blocked, "")));
        assert_eq!(device.perform(&Reboot::ROUTE).await.unwrap_err().to_string(), told);
        device.system.next_run(free());
        device.system.next_run(yes());
        assert_eq!(device.perform(&Reboot::ROUTE).await, Ok(Performed::Restarting));
    }
}

mod by_command {
    use super::*;

    #[tokio::test]
    async fn a_power_cut_in_the_middle_of_the_command_is_told_from_the_restart_at_its_end() {
        let device = Device::resetting(FactoryResets::by_command());
        // As the journal had it before the command ended: the power is cut.
        let cx = device.context(|_| {});
        stage::Stage::reach(&cx, stage::Step::Resetting).await.unwrap();
        device.boot();
        assert_eq!(device.recover(&FactoryReset::ROUTE, true).await, Recovery::Resume);
        assert_eq!(device.perform(&FactoryReset::ROUTE).await, Ok(Performed::Restarting));
        assert_eq!(device.step(), "restarting");
        device.system.set_boot_id("boot-3");
        assert_eq!(device.recover(&FactoryReset::ROUTE, true).await, Recovery::Done);
    }

    #[tokio::test]
    async fn a_crash_before_the_restart_runs_the_command_again() {
        let device = Device::resetting(FactoryResets::by_command());
        assert_eq!(
            device.recover(&FactoryReset::ROUTE, false).await,
            Recovery::RunAgain,
            "nothing had begun"
        );
        assert_eq!(device.recover(&FactoryReset::ROUTE, true).await, Recovery::RunAgain, "nor then");
        assert_eq!(device.perform(&FactoryReset::ROUTE).await, Ok(Performed::Restarting));
        assert_eq!(device.recover(&FactoryReset::ROUTE, false).await, Recovery::Resume);
        assert_eq!(device.perform(&FactoryReset::ROUTE).await, Ok(Performed::Restarting));
        assert_eq!(device.system.restarts(), [Restart::FactoryReset; 2]);
    }

    #[tokio::test]
    async fn a_command_that_cannot_be_recorded_is_not_run() {
        let device = Device::resetting(FactoryResets::by_command());
        device.services.stop();
        assert!(device.perform(&FactoryReset::ROUTE).await.is_err());
        assert_eq!(device.system.restarts(), []);
    }
}

mod by_wiping {
    use super::*;

    struct Product {
        _guard: TempDir,
        home: PathBuf,
        device: Device,
    }

    /// A device with a file in each of two folders and one that stays, and a program that follows.
    fn product(change: impl FnOnce(FactoryResets) -> FactoryResets) -> Product {
        let guard = tempfile::tempdir().unwrap();
        let home = guard.path().canonicalize().unwrap();
        for folder in ["one", "two", "stays"] {
            fs::create_dir(home.join(folder)).unwrap();
            fs::write(home.join(folder).join("file"), "user data").unwrap();
        }
        let kept = [("the journal", home.join("stays"))];
        // Not in a temporary folder of the system's, whatever that is called.
        let wipe = Wipe::new([home.join("one"), home.join("two")], &kept).unwrap();
        Product { device: Device::resetting(change(FactoryResets::wiping(wipe))), home, _guard: guard }
    }

    fn then(handler: FactoryResets) -> FactoryResets {
        handler.then(vec!["/usr/bin/defaults".into(), "--all".into()], Duration::from_secs(60))
    }

    impl Product {
        fn files(&self) -> Vec<&str> {
            ["one", "two", "stays"]
                .into_iter()
                .filter(|folder| self.home.join(folder).join("file").exists())
                .collect()
        }

        async fn reach(&self, step: stage::Step) {
            stage::Stage::reach(&self.device.context(|_| {}), step).await.unwrap();
        }
    }

    #[tokio::test]
    async fn declared_paths_are_wiped_after_the_answer_and_the_machine_restarts() {
        let product = product(then);
        assert_eq!(product.device.ask(&FactoryReset::ROUTE).await.0, Code::ACCEPTED);
        assert_eq!(product.files(), ["one", "two", "stays"]);
        assert_eq!(product.device.perform(&FactoryReset::ROUTE).await, Ok(Performed::Restarting));
        assert_eq!(product.files(), ["stays"]);
        assert_eq!(product.device.step(), "restarting");
        assert_eq!(product.device.system.restarts(), [Restart::Reboot]);
        let runs = product.device.system.runs();
        assert_eq!((runs.len(), runs[0].program.to_str()), (1, Some("/usr/bin/defaults")));
        product.device.boot();
        assert_eq!(product.device.recover(&FactoryReset::ROUTE, true).await, Recovery::Done);
    }

    /// What each step, found in the same boot or after another restart, means; and what then runs.
    #[tokio::test]
    async fn each_step_that_a_crash_left_is_gone_on_from() {
        use stage::Step::{Resetting, Restarting, Wiped};
        // step, restarted since, judged, what remains, whether the program runs (again), restarts
        let cases = [
            (None, false, Recovery::RunAgain, &["stays"][..], 1, 1),
            (None, true, Recovery::RunAgain, &["stays"], 1, 1),
            (Some(Resetting), false, Recovery::Resume, &["stays"], 1, 1),
            (Some(Resetting), true, Recovery::Resume, &["stays"], 1, 1),
            (Some(Wiped), false, Recovery::Resume, &["one", "two", "stays"], 1, 1),
            (Some(Wiped), true, Recovery::Resume, &["one", "two", "stays"], 1, 1),
            (Some(Restarting), false, Recovery::Resume, &["one", "two", "stays"], 0, 1),
            (Some(Restarting), true, Recovery::Done, &["one", "two", "stays"], 0, 0),
        ];
        for (step, rebooted, judged, left, runs, restarts) in cases {
            let product = product(then);
            if let Some(step) = step {
                product.reach(step).await;
            }
            if rebooted {
                product.device.boot();
            }
            let what = format!("{step:?} {rebooted}");
            assert_eq!(product.device.recover(&FactoryReset::ROUTE, rebooted).await, judged, "{what}");
            // Files that are there although the step says they are gone show that nothing is wiped twice.
            product.device.perform(&FactoryReset::ROUTE).await.unwrap();
            assert_eq!(product.files(), left, "{what}");
            assert_eq!(product.device.system.runs().len(), runs, "{what}");
            assert_eq!(product.device.system.restarts().len(), restarts, "{what}");
        }
    }

    #[tokio::test]
    async fn a_restart_right_after_the_wiping_ends_a_reset_that_has_nothing_more_to_do() {
        let product = product(|handler| handler);
        product.reach(stage::Step::Wiped).await;
        assert_eq!(product.device.recover(&FactoryReset::ROUTE, false).await, Recovery::Resume);
        product.device.boot();
        assert_eq!(product.device.recover(&FactoryReset::ROUTE, true).await, Recovery::Done);
    }

    #[tokio::test]
    async fn a_damaged_stage_or_one_of_another_request_begins_from_the_start() {
        for stage in [
            json!("torn"),
            json!({}),
            json!({"request": 1, "step": "restarting", "boot": "boot-1"}),
            json!({"request": "r", "step": "somewhere", "boot": "boot-1"}),
            json!({"request": "another", "step": "restarting", "boot": "boot-0"}),
        ] {
            let product = product(then);
            product.device.services.preset(STAGE, stage.clone());
            assert_eq!(
                product.device.recover(&FactoryReset::ROUTE, true).await,
                Recovery::RunAgain,
                "{stage}"
            );
            assert_eq!(product.device.perform(&FactoryReset::ROUTE).await, Ok(Performed::Restarting));
            assert_eq!(product.files(), ["stays"], "{stage}");
        }
    }

    /// ReqIds come back when the journal has forgotten them.
    #[tokio::test]
    async fn a_request_that_is_asked_anew_is_not_taken_for_the_one_long_ago() {
        let product = product(then);
        product.reach(stage::Step::Restarting).await;
        product.device.boot();
        assert_eq!(product.device.ask(&FactoryReset::ROUTE).await.0, Code::ACCEPTED);
        assert_eq!(product.device.perform(&FactoryReset::ROUTE).await, Ok(Performed::Restarting));
        assert_eq!(product.files(), ["stays"]);
    }

    #[tokio::test]
    async fn a_program_that_fails_restarts_nothing_and_the_platform_hears_no_path() {
        let missing = ChildError::NotStarted { program: "defaults".into(), reason: "not found".into() };
        for result in [Ok(output(1, "", "/secret/path")), Err(missing)] {
            let product = product(then);
            product.device.system.next_run(result);
            let failure = product.device.perform(&FactoryReset::ROUTE).await.unwrap_err();
            assert!(!failure.to_string().contains("secret"), "{failure}");
            assert_eq!((product.device.step(), product.device.system.restarts()), ("wiped".into(), vec![]));
        }
    }

    #[tokio::test]
    async fn a_restart_that_cannot_be_begun_is_a_failure() {
        let product = product(|handler| handler);
        product.device.system.next_restart(Err(RestartError::NotConfigured(Restart::Reboot)));
        let failure = product.device.perform(&FactoryReset::ROUTE).await.unwrap_err();
        assert_eq!(failure.to_string(), "no way to carry out a reboot is configured");
    }

    #[tokio::test]
    async fn progress_that_cannot_be_recorded_wipes_nothing() {
        let product = product(then);
        product.device.services.stop();
        let failure = product.device.perform(&FactoryReset::ROUTE).await.unwrap_err();
        assert!(failure.to_string().starts_with("the reset's progress could not be recorded"), "{failure}");
        assert_eq!(product.files(), ["one", "two", "stays"]);
    }

    #[tokio::test]
    async fn a_cancelled_wiping_restarts_nothing_and_goes_on_later() {
        let product = product(then);
        let cx = product.device.context(|_| {});
        cx.cancellation().cancel();
        let handler = product.device.table.handler(&FactoryReset::ROUTE).unwrap();
        assert_eq!(handler.after_ack(&cx, None).await.unwrap_err().to_string(), "the wiping was interrupted");
        assert_eq!((product.device.step(), product.files().len()), ("resetting".into(), 3));
        assert_eq!(product.device.perform(&FactoryReset::ROUTE).await, Ok(Performed::Restarting));
        assert_eq!(product.files(), ["stays"]);
    }

    #[tokio::test]
    async fn a_path_that_has_become_a_link_is_refused_before_the_answer() {
        let product = product(then);
        fs::remove_dir_all(product.home.join("two")).unwrap();
        std::os::unix::fs::symlink(product.home.join("stays"), product.home.join("two")).unwrap();
        let told = (Code::FAILED, "what is to be wiped cannot be reached".to_owned());
        assert_eq!(product.device.ask(&FactoryReset::ROUTE).await, told);
        // And when it becomes one later, nothing behind it is wiped.
        let failure = product.device.perform(&FactoryReset::ROUTE).await.unwrap_err();
        assert_eq!(failure.to_string(), "1 files or folders could not be wiped");
        assert_eq!(product.files(), ["two", "stays"], "two leads to what stays");
        assert_eq!(product.device.system.restarts(), []);
    }

    #[tokio::test]
    async fn a_dry_run_wipes_and_runs_nothing() {
        let product = product(|handler| then(handler).dry_run(true));
        assert_eq!(product.device.perform(&FactoryReset::ROUTE).await, Ok(Performed::Complete));
        assert_eq!(product.files(), ["one", "two", "stays"]);
        assert!(product.device.system.runs().is_empty() && product.device.system.restarts().is_empty());
    }

    /// A half-wiped device is of no use to anybody: once begun, it goes on outside the window, too.
    #[tokio::test]
    async fn an_interrupted_wiping_goes_on_without_asking_the_rules_again() {
        let rules = Rules::new().veto(|_: Question| Verdict::Refuse("charging".into()));
        let product = product(|handler| handler.under(rules));
        assert!(product.device.perform(&FactoryReset::ROUTE).await.is_err());
        assert_eq!(product.files(), ["one", "two", "stays"]);
        product.reach(stage::Step::Resetting).await;
        assert_eq!(product.device.perform(&FactoryReset::ROUTE).await, Ok(Performed::Restarting));
        assert_eq!(product.files(), ["stays"]);
    }

    #[tokio::test]
    async fn a_program_alone_resets_and_the_agent_restarts() {
        let handler = FactoryResets::running(vec!["/usr/bin/reset".into()], Duration::from_secs(60));
        let device = Device::resetting(handler);
        assert_eq!(device.perform(&FactoryReset::ROUTE).await, Ok(Performed::Restarting));
        assert_eq!(device.system.runs()[0].program.to_str(), Some("/usr/bin/reset"));
        assert_eq!(device.system.restarts(), [Restart::Reboot]);
    }
}
