//! The real program under load, ended at any moment and at every moment that has a name; its broker, too.
//!
//! Whatever is done to them, each request has one outcome, what must not run twice does not, and each delivery has its
//! answer. Each test prints how much it has seen. The closing run, about a quarter of an hour:
//!
//! ```sh
//! cargo build -p iotdm-examples --bin driver_agent
//! IOTDM_KILLS=1000 IOTDM_STILL_SECONDS=180 \
//!     cargo test -p iotdm-tests --test mosquitto kills -- --ignored --nocapture --test-threads 1
//! ```
//!
//! `IOTDM_KILLS_SEED` makes the random choices of a run come again; when they meet the agent is up to the machine.

mod agent;
mod requests;
mod scene;

use std::time::Duration;

use iotdm_core::Action;
use iotdm_examples::bench::Echo;
use iotdm_examples::crash::CrashPoint;
use iotdm_tests::mosquitto::Mosquitto;
use iotdm_tests::within;
use rustix::process::Signal;
use tokio::time::sleep;

use self::agent::KEEP_ALIVE_SECONDS;
use self::requests::Verdict;
use self::scene::Scene;

/// The longest life of a process, in milliseconds.
const LONGEST_LIFE_MS: u64 = 400;

/// The longest absence of the broker, in milliseconds.
const LONGEST_ABSENCE_MS: u64 = 300;

/// One request of so many is a reboot: often enough to be met by a kill, too rare to end most processes.
const REBOOT_ONE_OF: usize = 300;

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_kills_at_any_moment_lose_nothing_and_start_nothing_twice() {
    let kills = setting("IOTDM_KILLS", 100);
    let mosquitto = Mosquitto::start();
    let mut scene = Scene::start(mosquitto.port(), REBOOT_ONE_OF, true).await;
    while scene.agent.ends.killed < kills {
        // Every other process may end before it is connected.
        if scene.random.bool() {
            scene.serve_until_managed().await;
        }
        let life = Duration::from_millis(scene.random.u64(0..=LONGEST_LIFE_MS));
        scene.serve_for(life).await;
        scene.kill_agent().await;
    }
    let verdict = judge("kills at any moment", &mut scene, 0).await;
    assert_eq!(verdict.overran, 0, "a handler takes milliseconds");
    assert!(
        verdict.interrupted > 0 && verdict.run_again > 0 && verdict.boots > 0,
        "no kill met a handler at work, so nothing was proved"
    );
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_a_crash_at_any_named_point_loses_nothing_and_starts_nothing_twice() {
    // About half as many crashes as kills, in whole rounds.
    let rounds = setting("IOTDM_KILLS", 100).div_ceil(100);
    let mosquitto = Mosquitto::start();
    let mut scene = Scene::start(mosquitto.port(), REBOOT_ONE_OF, true).await;
    scene.agent.kill().await;
    let mut plan = Vec::new();
    for point in CrashPoint::ALL {
        // A process sees one reboot at the most.
        let occurrences: &[usize] = match point {
            CrashPoint::PerformStarted | CrashPoint::PerformEnded | CrashPoint::RecoverStarted => &[1, 1],
            _ => &[1, 2, 5, 12],
        };
        plan.extend(occurrences.iter().map(|occurrence| (point, *occurrence)));
    }
    let mut missed = None;
    'rounds: for _ in 0..rounds {
        scene.random.shuffle(&mut plan);
        for at in &plan {
            if !scene.crash_at(*at).await {
                missed = Some(*at);
                break 'rounds;
            }
        }
    }
    if missed.is_some() {
        scene.agent.kill().await;
    }
    scene.start_agent();
    // What was lost may be why a point was missed, and is told first.
    let what = format!("{} crashes at {} named points", scene.agent.ends.crashed, CrashPoint::ALL.len());
    judge(&what, &mut scene, 0).await;
    assert_eq!(missed, None, "each point is met");
}

/// mosquitto writes its sessions down behind its acknowledgements: what it forgets, the platform asks for again.
#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_kills_of_broker_and_agent_lose_nothing_and_start_nothing_twice() {
    let rounds = setting("IOTDM_KILLS", 100).div_ceil(8);
    let mut mosquitto = Mosquitto::persistent();
    let mut scene = Scene::start(mosquitto.port(), REBOOT_ONE_OF, false).await;
    let mut broker_kills = 0;
    for round in 0..rounds {
        let life = Duration::from_millis(scene.random.u64(0..=LONGEST_LIFE_MS));
        scene.serve_for(life).await;
        let (agent_too, broker_too) = (round % 3 != 1, round % 3 != 0);
        if broker_too {
            mosquitto.stop();
            broker_kills += 1;
        }
        if agent_too {
            scene.kill_agent().await;
        }
        if broker_too {
            let subscriptions = scene.application.subscriptions();
            let absence = Duration::from_millis(scene.random.u64(0..=LONGEST_ABSENCE_MS));
            scene.serve_for(absence).await;
            mosquitto.resume();
            scene.application.subscribed(subscriptions + 1).await;
            scene.ask_again();
        }
        scene.serve_until_managed().await;
    }
    judge("kills of broker and agent", &mut scene, broker_kills).await;
}

/// A broker gives a client up after one and a half keep-alives, and keeps for it what comes then.
#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_an_agent_that_stood_still_takes_its_session_back() {
    // mosquitto looks every five seconds only.
    let still = Duration::from_secs(setting("IOTDM_STILL_SECONDS", 15) as u64);
    assert!(
        still > Duration::from_secs(5) + Duration::from_secs(KEEP_ALIVE_SECONDS) * 3 / 2,
        "nobody would notice"
    );
    let mosquitto = Mosquitto::start();
    let mut scene = Scene::start(mosquitto.port(), usize::MAX, true).await;
    scene.serve_for(Duration::from_millis(LONGEST_LIFE_MS)).await;
    scene.agent.signal(Signal::STOP);
    sleep(still).await;
    // The broker keeps these for the session alone: there is no connection any more that it could give them to.
    scene.ask_beyond_the_window();
    scene.application.acknowledged().await;
    scene.agent.signal(Signal::CONT);
    scene.serve_until_managed().await;
    assert_eq!(scene.application.seen().manages, 2, "the broker had given it up");
    scene.serve_for(Duration::from_millis(LONGEST_LIFE_MS)).await;
    let verdict = judge(&format!("{still:?} of standing still"), &mut scene, 0).await;
    assert_eq!(verdict.run_again, 0, "it was never ended");
    // Time goes on for who stands still: what ran then is over its budget when the process is continued.
    let overran = verdict.interrupted + verdict.overran;
    assert!(overran == 0 || still > Echo::BUDGET, "{overran} were over their budget of {:?}", Echo::BUDGET);
}

#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_a_second_agent_is_refused_and_the_first_goes_on() {
    let attempts = setting("IOTDM_KILLS", 100).div_ceil(10);
    let mosquitto = Mosquitto::start();
    let mut scene = Scene::start(mosquitto.port(), usize::MAX, true).await;
    let first = scene.agent.pid();
    for _ in 0..attempts {
        let life = Duration::from_millis(scene.random.u64(0..=LONGEST_LIFE_MS / 4));
        scene.serve_for(life).await;
        let second = scene.agent.another();
        let second = tokio::spawn(within_output(second));
        scene.serve_until(|_| second.is_finished()).await;
        let (code, told) = second.await.expect("it does not panic");
        let names = format!(" is in use by process {first}\n");
        assert!(code == Some(EXIT_LOCKED) && told.ends_with(&names), "{code:?}: {told}");
    }
    assert_eq!(scene.application.seen().manages, 1, "the first one's connection held");
    assert_eq!(scene.agent.pid(), first);
    for _ in 0..attempts {
        scene.agent.kill().await;
        let refused = scene.agent.start_two().await;
        assert_eq!(refused.code(), Some(EXIT_LOCKED), "{refused}");
        scene.serve_until_managed().await;
    }
    judge(&format!("{attempts} second agents and {attempts} of two refused"), &mut scene, 0).await;
}

async fn within_output(process: tokio::process::Child) -> (Option<i32>, String) {
    let output =
        within("end of the second agent", process.wait_with_output()).await.expect("it is our child");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Prints what was seen, and takes nothing but zeros.
async fn judge(what: &str, scene: &mut Scene, broker_kills: usize) -> Verdict {
    let verdict = scene.judge().await;
    let Verdict { requests, lost, twice, unanswered, interrupted, run_again, overran, boots, problems } =
        &verdict;
    let ends = &scene.agent.ends;
    eprintln!(
        "{what}: {} kills of the agent, {} crashes, {broker_kills} kills of the broker, {} ends by reboot; \
         {requests} requests, lost {lost}, twice {twice}, unanswered {unanswered} \
         ({interrupted} interrupted and refused, {run_again} run again, {overran} over their budget, {boots} reboots, \
         {} asked again)",
        ends.killed, ends.crashed, ends.rebooted, scene.asked_again
    );
    assert!((lost, twice, unanswered) == (&0, &0, &0), "\n{}\n", problems.join("\n"));
    verdict
}

/// A number from the environment, or what CI can afford.
fn setting(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// As the program says in its help.
const EXIT_LOCKED: i32 = 75;
