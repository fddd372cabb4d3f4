//! Scripts in the whole agent: what each crash leaves, and other scripts while it runs (`docs/handlers/scripts.md`).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use iotdm_agent::ReplaceError;
use iotdm_agent::testing::{CrashOutcome, Running, TestSystem};
use iotdm_core::{
    BootId, ChildError, ChildExit, ChildOutput, ChildProcess, Code, Interrupted, Performed, Reboot, Restart,
    RestartError, Route, System, TableError, UpRoute,
};
use iotdm_handlers::scripts::{Parameter, ParameterKind};
use iotdm_handlers::{ScriptSpec, Scripts};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::product::{Once, Rig};

/// A machine with programs: `quick` ends at once, `slow` when the gate opens, `busy` with 75, `chatty` tells of itself.
#[derive(Clone, Debug)]
struct Workshop {
    system: TestSystem,
    runs: watch::Sender<Vec<String>>,
    gate: Arc<Notify>,
    stdin: Arc<Mutex<Vec<Value>>>,
}

#[async_trait]
impl System for Workshop {
    fn wall_clock(&self) -> Duration {
        self.system.wall_clock()
    }

    fn uptime(&self) -> Duration {
        self.system.uptime()
    }

    fn boot_id(&self) -> BootId {
        self.system.boot_id()
    }

    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError> {
        self.system.restart(kind).await
    }

    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        let input: Value = serde_json::from_slice(&child.stdin).expect("a script gets JSON");
        let program = child.program.display().to_string();
        self.runs
            .send_modify(|runs| runs.push(format!("{program} {}", input["reqId"].as_str().unwrap_or("?"))));
        self.stdin.lock().expect("no holder of the lock panics").push(input);
        let status = match program.as_str() {
            "quick" | "other" => 0,
            "busy" => 75,
            "chatty" => {
                let lines = child.lines.expect("somebody listens");
                for percent in [0, 50, 100] {
                    lines.hear(&format!("progress {percent} going on"));
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
                0
            }
            _ if timeout(child.time_limit, self.gate.notified()).await.is_ok() => 0,
            _ => return Err(ChildError::TimedOut { program, limit: child.time_limit }),
        };
        let stdout = format!("{{\"by\": \"{program}\"}}").into_bytes();
        Ok(ChildOutput { exit: ChildExit::Status(status), stdout, stderr: Vec::new(), truncated: false })
    }
}

struct Bench {
    rig: Rig,
    workshop: Workshop,
}

fn script(action: &str, program: &str) -> ScriptSpec {
    ScriptSpec::new("tool", action, program)
}

/// `quick`, `slow`, `again` (slow, and may run again), `busy`, `chatty`, and `set` with a declared parameter.
fn scripts() -> Scripts {
    let percent = Parameter::new("percent", ParameterKind::Integer { min: 0, max: 100 });
    Scripts::new()
        .add(script("quick", "quick"))
        .add(script("slow", "slow"))
        .add(ScriptSpec { interrupted: Interrupted::RunAgain, ..script("again", "slow") })
        .add(script("busy", "busy"))
        .add(script("chatty", "chatty"))
        .add(ScriptSpec { parameters: Some(vec![percent]), ..script("set", "quick") })
}

impl Bench {
    fn new() -> Self {
        let rig = Rig::new();
        let workshop = Workshop {
            system: rig.system.clone(),
            runs: watch::Sender::new(Vec::new()),
            gate: Arc::default(),
            stdin: Arc::default(),
        };
        Self { rig, workshop }
    }

    async fn managed(&self) -> Running {
        self.managed_with(scripts()).await
    }

    async fn managed_with(&self, scripts: Scripts) -> Running {
        let manages = self.manages();
        let running = self.start(scripts);
        self.rig.platform.managed(manages + 1).await;
        self.rig.platform.drained().await;
        running
    }

    fn start(&self, scripts: Scripts) -> Running {
        let workshop = Arc::new(self.workshop.clone());
        self.rig.start_with(|builder| builder.system(workshop).replaceable(scripts))
    }

    fn manages(&self) -> usize {
        self.rig.platform.published(UpRoute::Manage).len()
    }

    fn send(&self, action: &'static str, req_id: &str) {
        self.rig.platform.send(Route::custom("tool", action), json!({"reqId": req_id}));
    }

    async fn ask(&self, action: &'static str, req_id: &str) -> Value {
        self.send(action, req_id);
        self.rig.platform.response(req_id).await
    }

    async fn set(&self, req_id: &str, percent: Value) -> Value {
        let d = json!({"fields": [{"field": "percent", "value": percent}]});
        self.rig.platform.send(Route::custom("tool", "set"), json!({"reqId": req_id, "d": d}));
        self.rig.platform.response(req_id).await
    }

    fn runs(&self) -> Vec<String> {
        self.workshop.runs.borrow().clone()
    }

    async fn until_run(&self, run: &str) {
        let mut runs = self.workshop.runs.subscribe();
        runs.wait_for(|runs| runs.iter().any(|one| one == run)).await.expect("the workshop stays");
    }

    /// The gate opens for whoever waits and whoever comes.
    fn open_gate(&self) {
        self.workshop.gate.notify_waiters();
        self.workshop.gate.notify_one();
    }
}

#[tokio::test(start_paused = true)]
async fn a_script_is_answered_with_what_it_wrote_and_gets_typed_parameters() {
    let bench = Bench::new();
    let _running = bench.managed().await;
    let answer = bench.set("r", json!("40")).await;
    assert_eq!((&answer["rc"], &answer["d"]), (&json!(200), &json!({"by": "quick"})));
    assert_eq!(bench.workshop.stdin.lock().unwrap()[0]["parameters"], json!({"percent": 40}));
}

#[tokio::test(start_paused = true)]
async fn a_parameter_that_does_not_fit_is_named_and_nothing_runs() {
    let bench = Bench::new();
    let _running = bench.managed().await;
    let answer = bench.set("r", json!("140")).await;
    assert_eq!(
        (&answer["rc"], &answer["message"]),
        (&json!(400), &json!("percent: is out of range; write a whole number from 0 to 100"))
    );
    assert_eq!(bench.set("r", json!("140")).await, answer);
    assert!(bench.runs().is_empty());
    assert_eq!(bench.set("r2", json!("100")).await["rc"], 200);
}

/// They would otherwise take the places of those that ran, and a replay of these would run again.
#[tokio::test(start_paused = true)]
async fn a_flood_of_wrong_parameters_makes_nothing_forgotten_that_ran() {
    let bench = Bench::new();
    let _running = bench.managed().await;
    let answer = bench.ask("quick", "ran").await;
    for n in 0..11_000 {
        let d = json!({"fields": [{"field": "percent", "value": n + 101}]});
        bench.rig.platform.send(Route::custom("tool", "set"), json!({"reqId": n, "d": d}));
        if n % 100 == 99 {
            bench.rig.platform.drained().await;
        }
    }
    assert_eq!(bench.ask("quick", "ran").await, answer);
    assert_eq!(bench.runs(), ["quick ran"]);
}

#[tokio::test(start_paused = true)]
async fn a_script_that_is_busy_is_answered_409_and_not_asked_again() {
    let bench = Bench::new();
    let _running = bench.managed().await;
    let answer = bench.ask("busy", "b").await;
    assert_eq!(answer["rc"], 409);
    assert_eq!(bench.ask("busy", "b").await, answer);
    assert_eq!(bench.runs(), ["busy b"]);
}

#[tokio::test(start_paused = true)]
async fn a_script_that_takes_too_long_is_answered_500_and_the_next_one_runs() {
    let bench = Bench::new();
    let _running = bench.managed().await;
    let answer = bench.ask("slow", "s").await;
    assert_eq!(
        (&answer["rc"], &answer["message"]),
        (&json!(500), &json!("the script was ended after its limit of 30s"))
    );
    bench.open_gate();
    assert_eq!(bench.ask("slow", "t").await["rc"], 200);
}

#[tokio::test(start_paused = true)]
async fn a_script_that_waited_for_its_place_runs_once_after_a_crash() {
    let bench = Bench::new();
    let running = bench.managed().await;
    // As many as run at once.
    for n in 0..64 {
        bench.send("slow", &format!("s{n}"));
    }
    bench.until_run("slow s63").await;
    bench.send("quick", "waits");
    bench.rig.platform.drained().await;
    running.kill().await;
    let _running = bench.managed().await;
    assert_eq!(bench.rig.platform.response("waits").await["rc"], 200);
    assert_eq!(bench.rig.platform.response("s0").await["rc"], 500);
    assert_eq!(bench.runs().iter().filter(|run| *run == "quick waits").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_script_is_answered_500_or_run_again_as_it_declares() {
    let bench = Bench::new();
    let running = bench.managed().await;
    bench.send("slow", "s");
    bench.send("again", "a");
    bench.until_run("slow s").await;
    bench.until_run("slow a").await;
    running.kill().await;
    let _running = bench.managed().await;
    let answer = bench.rig.platform.response("s").await;
    assert_eq!(
        (&answer["rc"], &answer["message"]),
        (&json!(500), &json!("interrupted; it may have happened"))
    );
    bench.open_gate();
    assert_eq!(bench.rig.platform.response("a").await["rc"], 200);
    let count = |run: &str| bench.runs().iter().filter(|one| *one == run).count();
    assert_eq!((count("slow s"), count("slow a")), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_broker_did_not_take_goes_out_after_the_crash_and_nothing_runs_again() {
    let bench = Bench::new();
    let running = bench.managed().await;
    bench.rig.platform.hold_pubacks(true);
    let answer = bench.ask("quick", "q").await;
    running.kill().await;
    bench.rig.platform.hold_pubacks(false);
    let _running = bench.managed().await;
    assert_eq!(bench.rig.platform.response("q").await, answer);
    assert_eq!(bench.runs(), ["quick q"]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_gets_the_stored_answer_after_any_number_of_restarts() {
    let bench = Bench::new();
    let mut running = bench.managed().await;
    let answer = bench.ask("quick", "q").await;
    for _ in 0..3 {
        assert_eq!(bench.ask("quick", "q").await, answer);
        running.kill().await;
        bench.rig.system.next_boot();
        running = bench.managed().await;
    }
    assert_eq!(bench.runs(), ["quick q"]);
}

#[tokio::test(start_paused = true)]
async fn progress_is_seen_in_the_platform_s_log_while_the_script_runs() {
    let bench = Bench::new();
    let _running = bench.managed().await;
    bench.send("chatty", "c");
    let log = |platform: &iotdm_agent::testing::Platform| platform.published(UpRoute::AddLog).len();
    bench.rig.platform.until(|platform| log(platform) == 2).await;
    assert!(bench.rig.platform.responses("c").is_empty());
    assert_eq!(bench.rig.platform.response("c").await["rc"], 200);
    let entries = bench.rig.platform.published(UpRoute::AddLog);
    let told: Vec<&str> = entries.iter().filter_map(|entry| entry["d"]["message"].as_str()).collect();
    assert!(told.starts_with(&["tool/chatty c 0 %: going on", "tool/chatty c 50 %: going on"]), "{told:?}");
    assert_eq!(entries[0]["d"]["severity"], 0);
}

// --- other scripts while the agent runs

/// `quick` is another program now, `slow` and the others have gone, and `open` of another bundle has come.
fn others() -> Scripts {
    Scripts::new().add(script("quick", "other")).add(ScriptSpec::new("door", "open", "other"))
}

#[tokio::test(start_paused = true)]
async fn other_scripts_serve_at_once_and_the_platform_hears_of_other_bundles() {
    let bench = Bench::new();
    let running = bench.managed().await;
    running.device().replace(others()).await.expect("they can be registered");
    assert_eq!(bench.ask("quick", "q").await["d"]["by"], "other");
    assert_eq!(bench.ask("slow", "s").await["rc"], 501);
    bench.rig.platform.managed(2).await;
    let manage = bench.rig.platform.published(UpRoute::Manage)[1]["d"]["supports"].clone();
    assert_eq!((&manage["door"], &manage["tool"]), (&json!(true), &json!(true)));
    bench.rig.platform.send(Route::custom("door", "open"), json!({"reqId": "d"}));
    assert_eq!(bench.rig.platform.response("d").await["rc"], 200);

    // The same bundles once more: nothing is to be told.
    running.device().replace(others()).await.expect("they can be registered");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.manages(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_bad_replacement_leaves_all_as_it_was() {
    let bench = Bench::new();
    let running = bench.managed().await;
    let twice = others().add(script("quick", "third"));
    let quick = Route::custom("tool", "quick");
    assert_eq!(running.device().replace(twice).await, Err(ReplaceError::Table(TableError::Duplicate(quick))));
    let bad_exit = ScriptSpec { exit: [(3, Code::ACCEPTED)].into(), ..script("quick", "other") };
    let error = running.device().replace(Scripts::new().add(bad_exit)).await;
    assert!(matches!(error, Err(ReplaceError::Table(TableError::Unusable { .. }))), "{error:?}");
    let taken = Scripts::new().add(ScriptSpec::new("test", "once", "other"));
    let once = Route::custom("test", "once");
    assert_eq!(running.device().replace(taken).await, Err(ReplaceError::Table(TableError::Duplicate(once))));
    assert_eq!(bench.ask("quick", "q").await["d"]["by"], "quick");
    bench.rig.product.gate.notify_one();
    assert_eq!(bench.rig.ask::<Once>("o").await["rc"], 200);
    assert_eq!(bench.manages(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_script_that_runs_ends_as_it_began_though_its_declaration_has_gone() {
    let bench = Bench::new();
    let running = bench.managed().await;
    bench.send("slow", "s");
    bench.until_run("slow s").await;
    running.device().replace(others()).await.expect("they can be registered");
    assert!(bench.rig.platform.responses("s").is_empty());
    bench.open_gate();
    let answer = bench.rig.platform.response("s").await;
    assert_eq!(answer["rc"], 200);
    // Its action has gone; what it answered has not.
    assert_eq!(bench.ask("slow", "s").await, answer);
    running.kill().await;
    let _running = bench.managed_with(others()).await;
    assert_eq!(bench.ask("slow", "s").await, answer);
    assert_eq!(bench.runs(), ["slow s"]);
}

/// Both are there when the driver wakes: one batch starts the work and makes its handler go.
#[tokio::test(start_paused = true)]
async fn a_request_that_comes_with_the_replacement_is_carried_out_by_the_handler_it_was_started_for() {
    let bench = Bench::new();
    let running = bench.managed().await;
    bench.send("slow", "s");
    running.device().replace(others()).await.expect("they can be registered");
    bench.open_gate();
    assert_eq!(bench.rig.platform.response("s").await["d"]["by"], "slow");
}

#[tokio::test(start_paused = true)]
async fn a_script_whose_declaration_has_gone_still_has_its_time_limit() {
    let bench = Bench::new();
    let running = bench.managed().await;
    bench.send("slow", "s");
    bench.until_run("slow s").await;
    running.device().replace(others()).await.expect("they can be registered");
    assert_eq!(bench.rig.platform.response("s").await["rc"], 500);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_recorded_before_its_action_went_is_answered_501() {
    let bench = Bench::new();
    let running = bench.managed().await;
    for n in 0..64 {
        bench.send("slow", &format!("s{n}"));
    }
    bench.until_run("slow s63").await;
    bench.send("busy", "gone");
    bench.send("quick", "other");
    bench.rig.platform.drained().await;
    running.device().replace(others()).await.expect("they can be registered");
    bench.open_gate();
    assert_eq!(bench.rig.platform.response("gone").await["rc"], 501);
    // Its action is another program's now: what was recorded is carried out by what the operator declares.
    assert_eq!(bench.rig.platform.response("other").await["d"]["by"], "other");
    assert!(!bench.runs().contains(&"busy gone".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_crash_right_after_the_replacement_repeats_nothing_and_says_what_may_have_happened() {
    let bench = Bench::new();
    let running = bench.managed().await;
    bench.send("slow", "s");
    bench.send("again", "a");
    bench.until_run("slow a").await;
    running.device().replace(others()).await.expect("they can be registered");
    running.kill().await;
    let _running = bench.managed_with(others()).await;
    for req_id in ["s", "a"] {
        let answer = bench.rig.platform.response(req_id).await;
        assert_eq!(
            (&answer["rc"], &answer["message"]),
            (&json!(500), &json!("interrupted; it may have happened")),
            "{req_id}"
        );
    }
    assert_eq!(bench.runs().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_every_commit_around_a_replacement_loses_nothing_and_repeats_nothing() {
    for outcome in [CrashOutcome::Applied, CrashOutcome::NotApplied] {
        for at in 1..=8 {
            let bench = Bench::new();
            let running = bench.managed().await;
            bench.rig.disk.crash_at_commit(at, outcome);
            for n in 0..4 {
                bench.send("slow", &format!("s{n}"));
                bench.send("quick", &format!("q{n}"));
                tokio::time::advance(Duration::from_millis(1)).await;
                if n == 1 {
                    running.device().replace(others()).await.expect("they can be registered");
                }
                bench.open_gate();
            }
            for n in 0..4 {
                let slow = bench.rig.platform.response(&format!("s{n}")).await;
                assert!([200, 500, 501].map(Value::from).contains(&slow["rc"]), "{slow} at {at} {outcome:?}");
                let quick = bench.rig.platform.response(&format!("q{n}")).await;
                assert!([200, 500].map(Value::from).contains(&quick["rc"]), "{quick} at {at} {outcome:?}");
                for program in ["slow s", "quick q", "other q"] {
                    let run = format!("{program}{n}");
                    let starts = bench.runs().iter().filter(|one| **one == run).count();
                    assert!(starts <= 1, "{run} started {starts} times at {at} {outcome:?}");
                }
            }
            // The next engine offers the others, too.
            assert_eq!(bench.ask("quick", "last").await["d"]["by"], "other", "at {at} {outcome:?}");
            assert_eq!(bench.ask("slow", "gone").await["rc"], 501, "at {at} {outcome:?}");
            bench.rig.platform.drained().await;
        }
    }
}

/// The platform would take it as the end of the reboot (`docs/protocol.md` §6.2).
#[tokio::test(start_paused = true)]
async fn other_bundles_are_claimed_only_after_a_promised_reboot() {
    let bench = Bench::new();
    let running = bench.managed().await;
    assert_eq!(bench.rig.ask::<Reboot>("b").await["rc"], 202);
    bench.rig.until_run("restart b").await;
    running.device().replace(others()).await.expect("they can be registered");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.manages(), 1);
    running.kill().await;
    bench.rig.system.next_boot();
    let _running = bench.managed_with(others()).await;
    assert_eq!(bench.rig.platform.published(UpRoute::Manage)[1]["d"]["supports"]["door"], true);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_has_ended_takes_no_other_scripts() {
    let bench = Bench::new();
    let running = bench.managed().await;
    let device = running.device().clone();
    running.stop().await.expect("it was told to stop");
    assert_eq!(device.replace(others()).await, Err(ReplaceError::Stopping));
}
