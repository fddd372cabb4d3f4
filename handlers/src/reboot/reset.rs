use std::time::Duration;

use iotdm_core::{
    Accepted, ChildExit, ChildProcess, Context, Empty, FactoryReset, Failure, Handler, Performed, Recovery,
    Refusal, Restart,
};

use super::rules::Rules;
use super::stage::{Stage, Step};
use super::wipe::{Unwiped, Wipe};

/// Returns the machine to its delivery state: by a command of its own, or by wiping declared paths.
///
/// ```
/// use std::time::Duration;
///
/// use iotdm_core::{FactoryReset, Table};
/// use iotdm_handlers::reboot::{FactoryResets, Wipe};
///
/// # fn build() -> Result<Table, Box<dyn std::error::Error>> {
/// let kept = [("the journal", "/var/lib/iotdm-agent/journal".into())];
/// let wipe = Wipe::new(["/var/lib/product", "/var/lib/product.conf"], &kept)?;
/// let after = vec!["/usr/lib/product/make-defaults".to_owned()];
/// let mut table = Table::new();
/// table.on::<FactoryReset>(FactoryResets::wiping(wipe).then(after, Duration::from_secs(60)))?;
/// # Ok(table)
/// # }
/// # build().unwrap();
/// ```
///
/// # Flow
/// ```text
///  by command:  202 ─▶ resetting ─▶ the command ─▶ restarting ─▶ (the command's restart) ─▶ judged
///  by wiping:   202 ─▶ resetting ─▶ wiped [─▶ the command that follows] ─▶ restarting ─▶ restart ─▶ judged
/// ```
/// Each step is durable in the journal, beside the request, before what it names begins.
///
/// # Guarantees
/// * A power cut before `restarting` is told from the restart at the end: the reset goes on.
/// * What was wiped is wiped again when that was interrupted, in the same order; the rules are not asked again then.
/// * What was begun in time comes to its end, however late that is: a half-wiped device is of no use.
/// * The journal, and with it the request and its answer, outlives the reset.
///
/// # Assumptions
/// * The command, and the one that follows the wiping, may be run again when they were interrupted.
/// * Each interruption costs one of the action's attempts: give a reset that takes long more than three, by its
///   [`Policy`](iotdm_core::Policy).
///
/// # Caveats
/// A command that takes the machine down before the agent could record that it ended is run again after the restart.
/// One that only resets, as [`then`](Self::then) with or without paths to wipe, and leaves the restart to the agent,
/// has no such doubt.
///
/// # Errors
/// What fails after the 202 leaves the device as it is then, without a restart; the platform learns of it by a log entry
/// and an error code.
#[derive(Clone, Debug)]
pub struct FactoryResets {
    way: Way,
    rules: Rules,
}

#[derive(Clone, Debug)]
enum Way {
    /// The system's command resets and restarts.
    Command,
    Staged(Staged),
}

/// What the agent does by itself, before it restarts the machine.
#[derive(Clone, Debug)]
struct Staged {
    wipe: Option<Wipe>,
    then: Option<Then>,
    dry_run: bool,
}

#[derive(Clone)]
struct Then {
    command: Vec<String>,
    time_limit: Duration,
}

impl std::fmt::Debug for Then {
    // Arguments may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Then").field("program", &self.command.first()).finish_non_exhaustive()
    }
}

impl FactoryResets {
    /// By the [`System`](iotdm_core::System)'s own command for it, which ends with a restart.
    #[must_use]
    pub fn by_command() -> Self {
        Self { way: Way::Command, rules: Rules::new() }
    }

    /// By wiping paths and restarting the machine as a reboot does.
    #[must_use]
    pub fn wiping(wipe: Wipe) -> Self {
        Self::staged(Some(wipe), None)
    }

    /// By a program, and its arguments, that resets without restarting; the machine is then restarted as a reboot does.
    #[must_use]
    pub fn running(command: Vec<String>, time_limit: Duration) -> Self {
        Self::staged(None, Some(Then { command, time_limit }))
    }

    /// With a program, and its arguments, that runs when the paths are wiped, before the restart. A reset by the
    /// system's command has no such program.
    #[must_use]
    pub fn then(mut self, command: Vec<String>, time_limit: Duration) -> Self {
        if let Way::Staged(staged) = &mut self.way {
            staged.then = Some(Then { command, time_limit });
        }
        self
    }

    /// With a wiping, and a program that follows it, that are only logged.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        if let Way::Staged(staged) = &mut self.way {
            staged.dry_run = dry_run;
        }
        self
    }

    /// Under these rules. They are asked before anything is wiped, and not again once it has begun.
    #[must_use]
    pub fn under(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    fn staged(wipe: Option<Wipe>, then: Option<Then>) -> Self {
        Self { way: Way::Staged(Staged { wipe, then, dry_run: false }), rules: Rules::new() }
    }
}

impl Handler<FactoryReset> for FactoryResets {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        if let Way::Staged(Staged { wipe: Some(wipe), .. }) = &self.way {
            let wipe = wipe.clone();
            let looked = cx.blocking(move |_| wipe.look()).await;
            looked.map_err(|log| Refusal::failed("what is to be wiped cannot be reached").log(log))?;
        }
        self.rules.admit(cx, Restart::FactoryReset).await?;
        Stage::forget(cx).await?;
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        let step = match Stage::of(cx) {
            Some(stage) if stage.step == Step::Restarting && stage.is_of_an_earlier_boot(cx) => {
                return Ok(Performed::Complete);
            }
            stage => stage.map(|stage| stage.step),
        };
        if step.is_none() {
            self.rules.ready(cx, Restart::FactoryReset).await?;
        } else {
            tracing::warn!(?step, attempt = cx.attempt(), "an interrupted factory reset goes on");
        }
        match &self.way {
            Way::Command => self.by_its_command(cx).await,
            Way::Staged(staged) if staged.dry_run => {
                staged.tell();
                Ok(Performed::Complete)
            }
            Way::Staged(staged) => {
                staged.reset(cx, step).await?;
                let restarting = vec![Stage::at(cx, Step::Restarting)];
                self.rules.restart(cx, Restart::Reboot, restarting).await
            }
        }
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        let Some(stage) = Stage::of(cx) else { return Recovery::RunAgain };
        let ended = match (stage.step, &self.way) {
            (Step::Restarting, _) => true,
            // Nothing was missing but the restart, and that has happened.
            (Step::Wiped, Way::Staged(staged)) => staged.then.is_none(),
            (Step::Resetting | Step::Wiped, _) => false,
        };
        if ended && stage.is_of_an_earlier_boot(cx) { Recovery::Done } else { Recovery::Resume }
    }
}

impl FactoryResets {
    async fn by_its_command(&self, cx: &Context) -> Result<Performed, Failure> {
        let resetting = vec![Stage::at(cx, Step::Resetting)];
        let performed = self.rules.restart(cx, Restart::FactoryReset, resetting).await?;
        if performed == Performed::Restarting {
            // When the machine is faster, the command runs once more after the restart.
            Stage::reach(cx, Step::Restarting).await?;
        }
        Ok(performed)
    }
}

impl Staged {
    /// From where it was interrupted to the restart.
    async fn reset(&self, cx: &Context, step: Option<Step>) -> Result<(), Failure> {
        if matches!(step, None | Some(Step::Resetting)) {
            Stage::reach(cx, Step::Resetting).await?;
            if let Some(wipe) = &self.wipe {
                tracing::warn!(paths = ?wipe.paths(), "wiping");
                let wipe = wipe.clone();
                let wiped = cx.blocking(move |cancellation| wipe.carry_out(cancellation)).await;
                wiped.map_err(|unwiped| failure(&unwiped))?;
            }
            Stage::reach(cx, Step::Wiped).await?;
        }
        match &self.then {
            Some(then) if step != Some(Step::Restarting) => then.run(cx).await,
            _ => Ok(()),
        }
    }

    fn tell(&self) {
        let paths = self.wipe.as_ref().map_or(&[][..], Wipe::paths);
        let program = self.then.as_ref().and_then(|then| then.command.first());
        tracing::warn!(?paths, program, "dry run: this would be wiped and run, then the machine restarted");
    }
}

impl Then {
    async fn run(&self, cx: &Context) -> Result<(), Failure> {
        let [program, args @ ..] = self.command.as_slice() else { return Ok(()) };
        tracing::info!(%program, args = args.len(), "running the program of the factory reset");
        let child = ChildProcess {
            args: args.to_vec(),
            time_limit: self.time_limit.min(cx.remaining().saturating_sub(CLOSING_TIME)),
            output_limit: OUTPUT_LIMIT_BYTES,
            ..ChildProcess::new(program)
        };
        let output = cx.system().run(child).await.map_err(|error| Failure::new(error.to_string()))?;
        if output.exit == ChildExit::Status(0) {
            return Ok(());
        }
        // What the program wrote stays on the device.
        tracing::warn!(exit = %output.exit, stderr = output.stderr_start(), "the program of the factory reset failed");
        Err(Failure::new(format!("the program of the factory reset ended with {}", output.exit)))
    }
}

/// The paths stay on the device.
fn failure(unwiped: &Unwiped) -> Failure {
    tracing::error!("{unwiped}");
    match unwiped {
        Unwiped::Cancelled => Failure::new("the wiping was interrupted"),
        Unwiped::Left { count, .. } => Failure::new(format!("{count} files or folders could not be wiped")),
    }
}

/// Kept back from the budget to restart the machine, or to report a failure.
const CLOSING_TIME: Duration = Duration::from_secs(30);

/// How much of the program's output is kept for the log, in bytes.
const OUTPUT_LIMIT_BYTES: usize = 4 * 1024;
