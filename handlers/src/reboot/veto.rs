use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use iotdm_core::{ChildExit, ChildOutput, ChildProcess, Context, Restart};

/// The application's word before a restart.
///
/// It is asked twice: before the 202, where it may refuse; and when the restart is about to begin, where it may also
/// ask for a delay, and is asked again at its end. What it is asked it may be asked again after a crash.
///
/// ```
/// use std::time::Duration;
///
/// use iotdm_core::Context;
/// use iotdm_handlers::reboot::{Question, Verdict, Veto};
///
/// struct Charging;
///
/// #[async_trait::async_trait]
/// impl Veto for Charging {
///     async fn ask(&self, _: &Context, question: Question) -> Verdict {
///         match question.moment {
///             iotdm_handlers::reboot::Moment::Request => Verdict::Refuse("a vehicle is being charged".into()),
///             iotdm_handlers::reboot::Moment::Restart => Verdict::Delay(Duration::from_secs(10)),
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Veto: Send + Sync + 'static {
    /// May the device restart? An answer that takes longer than 10 s counts as a failed veto, and the restart is
    /// refused.
    async fn ask(&self, cx: &Context, question: Question) -> Verdict;
}

#[async_trait]
impl<F> Veto for F
where
    F: Fn(Question) -> Verdict + Send + Sync + 'static,
{
    async fn ask(&self, _: &Context, question: Question) -> Verdict {
        self(question)
    }
}

/// What the application is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// What kind of restart it is.
    pub kind: Restart,
    /// When it is asked.
    pub moment: Moment,
}

/// When the application is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the answer: a delay means the same as a yes here.
    Request,
    /// The platform has the 202 and the restart is about to begin: a refusal is a failed restart.
    Restart,
}

/// What the application says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allow,
    /// Not at present, for this reason; the platform is told it, with 409.
    Refuse(String),
    /// Not before this time; then the application is asked again. All delays of one restart together are bounded by
    /// [`Rules::max_delay`](super::Rules::max_delay); at the bound the restart begins.
    Delay(Duration),
    /// It cannot be said: the restart is refused with 500, and the reason goes to the log.
    Failed(String),
}

/// A program that is asked before a restart, for an application in another process.
///
/// # Flow
/// It gets `IOTDM_RESTART`, `reboot` or `factory-reset`, and `IOTDM_MOMENT`, `request` or `restart`, in its
/// environment. What it says:
///
/// | exit status | first line of its output | meaning |
/// |---|---|---|
/// | 0 | `delay 15`, a number of seconds | ask again then |
/// | 0 | anything else | it may |
/// | 75 | the reason, or nothing | not at present |
/// | any other, a signal, or later than its time limit | | the program is broken: refused |
#[derive(Clone, Debug)]
pub struct VetoCommand {
    program: PathBuf,
    args: Vec<String>,
    time_limit: Duration,
}

impl VetoCommand {
    /// A program and its arguments, with 5 s to answer.
    pub fn new(program: impl Into<PathBuf>, args: Vec<String>) -> Self {
        Self { program: program.into(), args, time_limit: VETO_COMMAND_LIMIT }
    }

    /// With another time to answer; at most 8 s are of use.
    #[must_use]
    pub fn time_limit(self, time_limit: Duration) -> Self {
        Self { time_limit: time_limit.min(VETO_COMMAND_LIMIT_MOST), ..self }
    }

    fn child(&self, question: Question) -> ChildProcess {
        let kind = match question.kind {
            Restart::Reboot => "reboot",
            Restart::FactoryReset => "factory-reset",
        };
        let moment = match question.moment {
            Moment::Request => "request",
            Moment::Restart => "restart",
        };
        ChildProcess {
            args: self.args.clone(),
            env: BTreeMap::from([
                ("IOTDM_RESTART".to_owned(), kind.to_owned()),
                ("IOTDM_MOMENT".to_owned(), moment.to_owned()),
            ]),
            time_limit: self.time_limit,
            output_limit: OUTPUT_LIMIT_BYTES,
            ..ChildProcess::new(self.program.clone())
        }
    }
}

#[async_trait]
impl Veto for VetoCommand {
    async fn ask(&self, cx: &Context, question: Question) -> Verdict {
        match cx.system().run(self.child(question)).await {
            Ok(output) => verdict(&output),
            Err(error) => Verdict::Failed(error.to_string()),
        }
    }
}

fn verdict(output: &ChildOutput) -> Verdict {
    let line = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned();
    match output.exit {
        ChildExit::Status(0) => {
            let seconds = line.strip_prefix("delay ").map(|rest| rest.trim().parse::<u32>());
            match seconds {
                None => Verdict::Allow,
                Some(Ok(seconds)) => Verdict::Delay(Duration::from_secs(seconds.into())),
                Some(Err(_)) => Verdict::Failed(format!("{line:?} is no delay in whole seconds")),
            }
        }
        ChildExit::Status(EXIT_NOT_NOW) => Verdict::Refuse(line),
        _ => Verdict::Failed(format!("it ended with {}", output.reason())),
    }
}

/// Asks within the limit.
pub(super) async fn ask(veto: &Arc<dyn Veto>, cx: &Context, question: Question) -> Verdict {
    match tokio::time::timeout(VETO_LIMIT, veto.ask(cx, question)).await {
        Ok(verdict) => verdict,
        Err(_) => Verdict::Failed(format!("no answer came within {VETO_LIMIT:?}")),
    }
}

/// How long an application may think: a decision on a reboot has 30 s in all, and logind may need some of them.
const VETO_LIMIT: Duration = Duration::from_secs(10);

/// How long a program may take unless told otherwise.
const VETO_COMMAND_LIMIT: Duration = Duration::from_secs(5);

/// Below [`VETO_LIMIT`] by the time in which a program can be ended.
const VETO_COMMAND_LIMIT_MOST: Duration = Duration::from_secs(8);

/// `EX_TEMPFAIL` of sysexits.h: not at present, ask again later.
const EXIT_NOT_NOW: i32 = 75;

/// How much of a program's output is kept, in bytes: one line, and what it says of its failure.
const OUTPUT_LIMIT_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeServices, FakeSystem, context, output};
    use iotdm_core::ChildError;

    const QUESTION: Question = Question { kind: Restart::FactoryReset, moment: Moment::Restart };

    async fn said(result: Result<ChildOutput, ChildError>) -> Verdict {
        let system = FakeSystem::new();
        system.next_run(result);
        let veto = VetoCommand::new("/usr/bin/may", vec!["--now".into()]);
        let verdict = veto.ask(&context(&system, &FakeServices::new()), QUESTION).await;
        let run = &system.runs()[0];
        assert_eq!(
            (run.program.to_str(), run.args.as_slice()),
            (Some("/usr/bin/may"), &["--now".to_owned()][..])
        );
        assert_eq!(run.env["IOTDM_RESTART"], "factory-reset");
        assert_eq!(run.env["IOTDM_MOMENT"], "restart");
        assert_eq!(run.time_limit, VETO_COMMAND_LIMIT);
        verdict
    }

    #[tokio::test]
    async fn a_program_allows_refuses_and_delays_by_its_status_and_first_line() {
        assert_eq!(said(Ok(output(0, "", ""))).await, Verdict::Allow);
        assert_eq!(said(Ok(output(0, "as you like\n", ""))).await, Verdict::Allow);
        assert_eq!(said(Ok(output(0, "delay 15\nmore", ""))).await, Verdict::Delay(Duration::from_secs(15)));
        assert_eq!(said(Ok(output(75, "charging\nsecret", ""))).await, Verdict::Refuse("charging".into()));
        assert_eq!(said(Ok(output(75, "", ""))).await, Verdict::Refuse(String::new()));
    }

    #[tokio::test]
    async fn a_program_that_does_not_work_has_allowed_nothing() {
        let late = ChildError::TimedOut { program: "may".into(), limit: Duration::from_secs(5) };
        let missing = ChildError::NotStarted { program: "may".into(), reason: "it is not there".into() };
        let killed = ChildOutput { exit: ChildExit::Signal(9), ..output(0, "", "") };
        for result in [
            Err(late),
            Err(missing),
            Ok(output(1, "", "broken")),
            Ok(killed),
            Ok(output(0, "delay soon", "")),
        ] {
            let verdict = said(result.clone()).await;
            assert!(matches!(verdict, Verdict::Failed(_)), "{result:?}: {verdict:?}");
        }
    }
}
