use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use iotdm_core::{BootId, ChildExit, ContextParts, Performed, Restart, RestartError, System};
use tokio::time::{Instant, sleep};

use super::*;
use crate::fake::{FakeServices, FakeSystem, parts};

const DIM: Route = Route::custom("lamp", "dim");

#[track_caller]
fn check(line: &str, expected: Option<(u8, &str)>) {
    let found = Progress::parse(line);
    assert_eq!(found.as_ref().map(|found| (found.percent, found.text.as_str())), expected, "{line:?}");
}

#[test]
fn a_progress_line_is_a_percentage_and_a_text_that_may_be_missing() {
    check("progress 40 half way", Some((40, "half way")));
    check("progress 0", Some((0, "")));
    check("progress 100 \r", Some((100, "")));
    check("progress 7   lines\u{7} and \u{e9}", Some((7, "lines and \u{e9}")));
    for other in [
        "",
        "progress",
        "progress ",
        "progress x",
        "progress 101",
        "progress -1",
        "progress +1",
        "Progress 1",
        " progress 1",
        "progress: 1",
        "progress 1.5",
        "progress 99999999999",
        "progress  1",
    ] {
        check(other, None);
    }
    let long = format!("progress 1 {}", "\u{e9}".repeat(500));
    assert_eq!(Progress::parse(&long).unwrap().text.chars().count(), MAX_TEXT_CHARS);
}

/// A machine on which a script says something every so often.
struct Chatty {
    pauses: Mutex<VecDeque<(Duration, String)>>,
}

impl fmt::Debug for Chatty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chatty")
    }
}

#[async_trait]
impl System for Chatty {
    fn wall_clock(&self) -> Duration {
        crate::fake::WALL_CLOCK_AT_START
    }

    fn uptime(&self) -> Duration {
        Duration::ZERO
    }

    fn boot_id(&self) -> BootId {
        BootId("boot-1".into())
    }

    async fn restart(&self, _: Restart) -> Result<Performed, RestartError> {
        unreachable!("a script restarts nothing")
    }

    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        let lines = child.lines.expect("somebody listens");
        loop {
            let next = self.pauses.lock().unwrap().pop_front();
            let Some((pause, line)) = next else { break };
            sleep(pause).await;
            lines.hear(&line);
        }
        Ok(ChildOutput {
            exit: ChildExit::Status(0),
            stdout: Vec::new(),
            stderr: Vec::new(),
            truncated: false,
        })
    }
}

async fn told(
    time_limit: Duration,
    said: impl IntoIterator<Item = (Duration, String)>,
    services: &FakeServices,
) -> Vec<String> {
    let system = Chatty { pauses: Mutex::new(said.into_iter().collect()) };
    let parts = ContextParts { system: Arc::new(system), ..parts(&FakeSystem::new(), services) };
    let child = ChildProcess { time_limit, ..ChildProcess::new("/bin/true") };
    run(&Context::new(parts), &DIM, child).await.expect("it runs to its end");
    let entries = services.reports().into_iter().map(|report| match report {
        Report::AddLog(entry) => {
            assert_eq!(
                (entry.severity, entry.timestamp.as_str()),
                (Severity::Information, "2017-07-14T02:40:00.000Z")
            );
            entry.message
        }
        other => panic!("{other:?}"),
    });
    entries.collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_line_is_told_at_once_and_then_the_newest_one_every_ten_seconds() {
    let said = (1..=100).map(|n| (Duration::from_millis(250), format!("progress {n} step {n}")));
    let entries = told(Duration::from_secs(60), said, &FakeServices::new()).await;
    let shown: Vec<&str> = entries.iter().map(String::as_str).collect();
    assert_eq!(shown, ["lamp/dim r1 1 %: step 1", "lamp/dim r1 41 %: step 41", "lamp/dim r1 81 %: step 81"]);
}

#[tokio::test(start_paused = true)]
async fn other_lines_are_no_progress_and_are_told_to_nobody() {
    let said = ["hello", "progress is slow"].map(|line| (Duration::from_secs(20), line.to_owned()));
    assert!(told(Duration::from_secs(60), said, &FakeServices::new()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_of_a_day_makes_no_more_entries_than_one_of_an_hour() {
    let day = Duration::from_secs(24 * 60 * 60);
    let said = (0..day.as_secs() / 60).map(|n| (Duration::from_secs(60), format!("progress {}", n % 101)));
    let entries = told(day, said, &FakeServices::new()).await;
    assert!((45..=50).contains(&entries.len()), "{}", entries.len());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_takes_no_report_does_not_hold_up_the_script() {
    let services = FakeServices::new();
    services.stop();
    let before = Instant::now();
    let said = (0..9).map(|n| (Duration::from_secs(1), format!("progress {n}")));
    assert!(told(Duration::from_secs(60), said, &services).await.is_empty());
    assert_eq!(before.elapsed(), Duration::from_secs(9));
}
