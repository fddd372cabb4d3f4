//! What a handler lives through, and what has to come of it.

use std::fmt;
use std::time::Duration;

use iotdm_core::{Interrupted, Late, Phases, Recovery};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::bench::{Bench, Found};
use super::bodies::bad_bodies;
use super::probe::Hold;
use crate::testing::histories::record::{Outcome, Part};

/// A situation; the module's page says what has to come of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Situation {
    Asked,
    AskedBadly,
    AskedAgain,
    CrashInHandle(Hold),
    CrashAfterAnswer,
    CrashInWork { at: Hold, power: bool },
    HandleHangs,
    WorkHangs,
    Waited,
}

impl Situation {
    /// All that an action can come into.
    pub(super) const ALL: [Self; 12] = [
        Self::Asked,
        Self::AskedBadly,
        Self::AskedAgain,
        Self::CrashInHandle(Hold::Before(Part::Handle)),
        Self::CrashInHandle(Hold::After(Part::Handle)),
        Self::CrashAfterAnswer,
        Self::CrashInWork { at: Hold::Before(Part::AfterAck), power: false },
        Self::CrashInWork { at: Hold::After(Part::AfterAck), power: false },
        Self::CrashInWork { at: Hold::After(Part::AfterAck), power: true },
        Self::HandleHangs,
        Self::WorkHangs,
        Self::Waited,
    ];

    /// What differs from the declaration.
    pub(super) async fn prove(self, bench: &mut Bench<'_>) -> Result<(), Found> {
        match self {
            Self::Asked => asked(bench).await,
            Self::AskedBadly => asked_badly(bench).await,
            Self::AskedAgain => asked_again(bench).await,
            Self::CrashInHandle(at) => crash_in_handle(bench, at).await,
            Self::CrashAfterAnswer => crash_after_answer(bench).await,
            Self::HandleHangs => handle_hangs(bench).await,
            Self::Waited => waited(bench).await,
            Self::CrashInWork { .. } | Self::WorkHangs if bench.policy.phases == Phases::WorkThenAnswer => {
                Ok(())
            }
            Self::CrashInWork { at, power } => crash_in_work(bench, at, power).await,
            Self::WorkHangs => work_hangs(bench).await,
        }
    }
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "it is asked for",
            Self::AskedBadly => "it is asked for with a body that does not fit",
            Self::AskedAgain => "the same request comes again",
            Self::CrashInHandle(Hold::Before(_)) => "a crash when handle has begun",
            Self::CrashInHandle(Hold::After(_)) => "a crash when handle is through and its answer not stored",
            Self::CrashAfterAnswer => "a crash when the answer has been sent",
            Self::CrashInWork { at: Hold::Before(_), .. } => "a crash when after_ack has begun",
            Self::CrashInWork { power: false, .. } => "a crash when after_ack is through",
            Self::CrashInWork { power: true, .. } => "a power cut when after_ack is through",
            Self::HandleHangs => "handle does not end",
            Self::WorkHangs => "after_ack does not end",
            Self::Waited => "the request waited while the device was away",
        })
    }
}

async fn asked(bench: &mut Bench<'_>) -> Result<(), Found> {
    bench.expect("r", bench.code).await?;
    bench.until_performed().await?;
    if let Some(failed) = bench.reported_failure() {
        return Err(format!("the agent reports {failed:?}"));
    }
    bench.expect_begun(Part::Handle, 1)
}

async fn asked_badly(bench: &mut Bench<'_>) -> Result<(), Found> {
    for (index, (member, d)) in bad_bodies(bench).into_iter().enumerate() {
        let req_id = format!("bad{index}");
        bench.send_body(&req_id, d.clone());
        let refusal = bench.expect_answer(&req_id, 400).await.map_err(|found| format!("{d}: {found}"))?;
        let message = refusal["message"].as_str().unwrap_or_default();
        if !message.contains(&member) {
            return Err(format!("{d}: {message:?} does not name `{member}`"));
        }
    }
    Ok(())
}

async fn asked_again(bench: &mut Bench<'_>) -> Result<(), Found> {
    let first = bench.expect("r", bench.code).await?;
    bench.until_performed().await?;
    let work = bench.begun(Part::AfterAck);
    for restart in [false, true] {
        if restart {
            bench.restart(false).await;
        }
        bench.send("r");
        same(&first, &bench.answer("r").await?)?;
    }
    bench.expect_begun(Part::AfterAck, work)?;
    bench.expect_begun(Part::Handle, 1)
}

async fn crash_in_handle(bench: &mut Bench<'_>, at: Hold) -> Result<(), Found> {
    bench.hold(at);
    bench.send("r");
    bench.until_held().await?;
    bench.restart(false).await;
    let repeated = bench.policy.phases == Phases::AnswerThenWork
        || bench.policy.interrupted == Interrupted::RunAgain && bench.policy.attempts > 1;
    if !repeated {
        bench.expect_answer("r", 500).await?;
        return bench.expect_begun(Part::Handle, 1);
    }
    let second = |found| format!("the second start: {found}");
    bench.expect_answer("r", bench.code).await.map_err(second)?;
    bench.until_performed().await?;
    bench.expect_begun(Part::Handle, 2)
}

async fn crash_after_answer(bench: &mut Bench<'_>) -> Result<(), Found> {
    bench.platform.hold_pubacks(true);
    let first = bench.expect("r", bench.code).await?;
    bench.expect_begun(Part::AfterAck, 0)?;
    bench.kill().await;
    bench.platform.hold_pubacks(false);
    bench.start();
    same(&first, &bench.answer("r").await?)?;
    bench.until_performed().await?;
    bench.expect_begun(Part::Handle, 1)
}

async fn crash_in_work(bench: &mut Bench<'_>, at: Hold, power: bool) -> Result<(), Found> {
    bench.hold(at);
    bench.expect("r", bench.code).await?;
    bench.until_held().await?;
    let before = bench.ends().len();
    bench.restart(power).await;
    bench.until_ends(before + 1).await?;
    bench.expect_begun(Part::Recover, 1)?;
    if bench.ends().last() == Some(&Outcome::Judged(Recovery::RunAgain)) {
        bench.until_ends(before + 2).await?;
        bench.until_performed().await.map_err(|found| format!("the second start: {found}"))?;
    }
    bench.expect_begun(Part::Handle, 1)
}

async fn handle_hangs(bench: &mut Bench<'_>) -> Result<(), Found> {
    bench.hold(Hold::Before(Part::Handle));
    let began = Instant::now();
    let first = bench.expect("r", 500).await?;
    let (took, budget) = (began.elapsed(), bench.policy.budget);
    if took < budget || took > budget + PROMPT {
        return Err(format!("answered after {took:?}, and its budget is {budget:?}"));
    }
    bench.send("r");
    same(&first, &bench.answer("r").await?)?;
    bench.expect_begun(Part::Handle, 1)
}

async fn work_hangs(bench: &mut Bench<'_>) -> Result<(), Found> {
    bench.hold(Hold::Before(Part::AfterAck));
    bench.expect("r", bench.code).await?;
    bench.until_held().await?;
    sleep(bench.policy.perform_budget + PROMPT).await;
    if bench.reported_failure().is_none() {
        return Err("its failure was not reported as a log entry of severity 2".into());
    }
    bench.expect_begun(Part::AfterAck, 1)
}

async fn waited(bench: &mut Bench<'_>) -> Result<(), Found> {
    // The age is an upper bound: the device knows when it was last connected, to some minutes.
    let (away, code, starts) = match bench.policy.late {
        Late::Run => (LONG, bench.code, 1),
        Late::RefuseAfter(limit) => (limit + PROMPT, 409, 0),
    };
    bench.offline(true);
    bench.send("r");
    sleep(away).await;
    bench.offline(false);
    bench.expect_answer("r", code).await?;
    bench.until_performed_if(code == bench.code).await?;
    bench.expect_begun(Part::Handle, starts)
}

fn same(first: &Value, again: &Value) -> Result<(), Found> {
    if first == again { Ok(()) } else { Err(format!("answered {again}, and before {first}")) }
}

/// How much later than its time something may come: connections are made again with growing pauses.
const PROMPT: Duration = Duration::from_secs(60);

/// Longer than anything that a device decides by itself.
const LONG: Duration = Duration::from_secs(30 * 24 * 60 * 60);
