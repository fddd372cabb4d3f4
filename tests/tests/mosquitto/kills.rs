//! The real program under load, ended a hundred times at any moment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use iotdm_tests::application::Application;
use iotdm_tests::mosquitto::Mosquitto;
use iotdm_tests::within;
use tokio::process::{Child, Command};
use tokio::time::sleep;

/// How often the program is killed.
const KILLS: usize = 100;

/// How many requests are unanswered at each moment.
const WINDOW: usize = 64;

/// The longest life of the program, in milliseconds after its manage.
const LONGEST_LIFE_MS: u64 = 400;

/// How long a handler pauses between the start and the end of its side effect: so that some are killed in between.
const HANDLER_DELAY_MS: &str = "5";

/// Of each request there is one outcome, and of `bench/once` at most one start.
#[tokio::test]
#[ignore = "needs mosquitto"]
async fn on_mosquitto_a_hundred_kills_lose_nothing_and_start_nothing_twice() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mosquitto = Mosquitto::start();
    let folder = tempfile::tempdir().unwrap();
    let program = Program { folder: folder.path().into(), port: mosquitto.port() };
    let mut load = Load { application: Application::connect(mosquitto.port()).await, asked: Vec::new() };

    // In its first life the journal is absent, and until the platform has answered its manage what must not run twice
    // is refused.
    let mut process = program.start();
    load.application.attend(|seen| seen.manages == 1).await;
    load.application.bench("echo", "first", "");
    load.application.response("first").await;
    for kill in 1..=KILLS {
        load.serve_for(Duration::from_millis(random.u64(0..=LONGEST_LIFE_MS))).await;
        within("end of the process", process.kill()).await.unwrap();
        process = program.start();
        load.application.attend(|seen| seen.manages > kill).await;
    }
    load.all_answered().await;
    within("end of the process", process.kill()).await.unwrap();
    load.judge(&program.runs());
}

struct Program {
    folder: PathBuf,
    port: u16,
}

/// Starts and ends by reqId.
type Runs = BTreeMap<String, (usize, usize)>;

impl Program {
    #[expect(clippy::disallowed_methods, reason = "the program under test is started; no handler runs here")]
    fn start(&self) -> Child {
        let path = program_path();
        Command::new(&path)
            .args(["--port", &self.port.to_string(), "--journal"])
            .arg(self.folder.join("journal"))
            .env("DM_EXEC_LOG", self.log())
            .env("DM_HANDLER_DELAY_MS", HANDLER_DELAY_MS)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}; {HOW_TO_BUILD}", path.display()))
    }

    fn log(&self) -> PathBuf {
        self.folder.join("executions")
    }

    fn runs(&self) -> Runs {
        let mut runs = Runs::new();
        for line in std::fs::read_to_string(self.log()).expect("the program made it").lines() {
            match line.split_once(' ') {
                Some(("start", req_id)) => runs.entry(req_id.into()).or_default().0 += 1,
                Some(("end", req_id)) => runs.entry(req_id.into()).or_default().1 += 1,
                _ => panic!("not a line of the execution log: {line:?}"),
            }
        }
        runs
    }
}

/// Beside the folder of this test, where cargo puts the programs of the workspace.
fn program_path() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let folder =
        test.parent().and_then(Path::parent).expect("cargo runs tests in a folder below the programs");
    folder.join("driver_agent")
}

const HOW_TO_BUILD: &str = "build it first: cargo build -p iotdm-examples --bin driver_agent";

struct Load {
    application: Application,
    /// The reqIds, and whether the request may run again.
    asked: Vec<(String, bool)>,
}

impl Load {
    /// Keeps the window full for a while.
    async fn serve_for(&mut self, time: Duration) {
        let elapsed = sleep(time);
        tokio::pin!(elapsed);
        loop {
            self.top_up();
            tokio::select! {
                () = &mut elapsed => return,
                () = self.application.take() => {}
            }
        }
    }

    fn top_up(&mut self) {
        let answered = self.application.seen().responses.len() - 1;
        for number in self.asked.len()..answered + WINDOW {
            let may_repeat = number % 2 == 0;
            let (action, req_id) =
                if may_repeat { ("echo", format!("e{number}")) } else { ("once", format!("o{number}")) };
            self.application.bench(action, &req_id, "0123456789");
            self.asked.push((req_id, may_repeat));
        }
    }

    async fn all_answered(&mut self) {
        let expected = self.asked.len() + 1;
        self.application.attend(|seen| seen.responses.len() == expected).await;
    }

    fn judge(&self, runs: &Runs) {
        let (mut interrupted, mut repeated) = (0, 0);
        for (req_id, may_repeat) in &self.asked {
            let answers = &self.application.seen().responses[req_id];
            let rc = &answers[0]["rc"];
            assert!(
                answers.iter().all(|answer| answer == &answers[0]),
                "{req_id}: two outcomes in {answers:?}"
            );
            let (starts, ends) = runs.get(req_id).copied().unwrap_or_default();
            if *may_repeat {
                assert!(rc == 200 && ends >= 1, "{req_id}: {rc} after {ends} ends");
                repeated += usize::from(starts > 1);
            } else {
                assert!(starts <= 1, "{req_id} was started {starts} times");
                assert!(rc == 500 || rc == 200 && ends == 1, "{req_id}: {rc} after {ends} ends");
                interrupted += usize::from(rc == 500);
            }
        }
        eprintln!(
            "{} requests over {KILLS} kills: {interrupted} interrupted and refused, {repeated} run again",
            self.asked.len()
        );
        assert!(interrupted > 0 && repeated > 0, "no kill met a handler at work, so nothing was proved");
    }
}
