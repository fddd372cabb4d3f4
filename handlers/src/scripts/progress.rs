//! What a script says of itself while it runs.

use std::pin::pin;
use std::time::Duration;

use iotdm_core::{
    ChildError, ChildOutput, ChildProcess, Context, LineListener, LogEntry, Report, Route, Severity, iso8601,
};
use tokio::sync::watch;

/// How far a script is: a line `progress <percent> [<text>]` of its standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Progress {
    percent: u8,
    text: String,
}

impl Progress {
    fn parse(line: &str) -> Option<Self> {
        let (percent, text) = match line.trim_end().strip_prefix("progress ")?.split_once(' ') {
            Some((percent, text)) => (percent, text.trim()),
            None => (line.trim_end().strip_prefix("progress ")?, ""),
        };
        let is_number = !percent.is_empty() && percent.bytes().all(|byte| byte.is_ascii_digit());
        let percent = percent.parse().ok().filter(|percent| is_number && *percent <= 100)?;
        let text = text.chars().filter(|c| !c.is_control()).take(MAX_TEXT_CHARS).collect();
        Some(Self { percent, text })
    }

    fn told(&self, route: &Route, req_id: &str) -> String {
        let name = route.to_string();
        let name = name.strip_prefix("mgmt/custom/").unwrap_or(&name);
        let req_id: String = req_id.chars().take(MAX_REQ_ID_CHARS).collect();
        let text = if self.text.is_empty() { String::new() } else { format!(": {}", self.text) };
        format!("{name} {req_id} {} %{text}", self.percent)
    }
}

/// Runs a script and tells the platform of its progress: the first line at once, then the newest one now and then, as
/// log entries of severity 0. Nothing else of the protocol shows a custom action before its answer
/// (`docs/protocol.md` §5.6).
pub(super) async fn run(
    cx: &Context,
    route: &Route,
    mut child: ChildProcess,
) -> Result<ChildOutput, ChildError> {
    let pause = SHORTEST_PAUSE.max(child.time_limit / MOST_ENTRIES);
    let (newest, heard) = watch::channel(None);
    child.lines = Some(LineListener::new(move |line| {
        if let Some(progress) = Progress::parse(line) {
            newest.send_replace(Some(progress));
        }
    }));
    let mut run = pin!(cx.system().run(child));
    tokio::select! {
        biased;
        result = &mut run => result,
        never = tell(cx, route, heard, pause) => match never {},
    }
}

/// Tells of what is heard, without end.
async fn tell(
    cx: &Context,
    route: &Route,
    mut heard: watch::Receiver<Option<Progress>>,
    pause: Duration,
) -> std::convert::Infallible {
    let req_id = cx.req_id().map(ToString::to_string).unwrap_or_default();
    loop {
        if heard.changed().await.is_err() {
            // The listener has gone with its child.
            return std::future::pending().await;
        }
        let Some(progress) = heard.borrow_and_update().clone() else { continue };
        let message = progress.told(route, &req_id);
        tracing::info!(script = %route, percent = progress.percent, text = progress.text, "progress");
        let timestamp = iso8601(cx.system().wall_clock());
        let entry = LogEntry { message, timestamp, data: None, severity: Severity::Information };
        if let Err(declined) = cx.report(Report::AddLog(entry)).await {
            tracing::debug!(script = %route, "the progress is not reported: {declined}");
        }
        tokio::time::sleep(pause).await;
    }
}

/// The shortest pause between two entries: a person looks at a log no more often.
const SHORTEST_PAUSE: Duration = Duration::from_secs(10);

/// How many entries a run may make at most: the platform keeps a hundred or so, of everything.
const MOST_ENTRIES: u32 = 50;

/// How much text of a progress line is told, in characters: a sentence.
const MAX_TEXT_CHARS: usize = 200;

/// How much of a reqId is told, in characters: IBM's have 36.
const MAX_REQ_ID_CHARS: usize = 64;

#[cfg(test)]
mod tests;
