//! After the restart: what was installed is committed, or rolled back.

use std::path::PathBuf;
use std::time::Duration;

use iotdm_core::{Performed, Restart};
use tokio::time::timeout;

use super::super::state::Fault;
use super::installer::{Activation, Conclusion, InstallError, Job};
use super::marker::{Marker, Recorded, Since, Step};
use super::{CLOSING_TIME, MAX_STARTS, Stop, Work, fault, unusable};

impl Work<'_> {
    /// Is what was installed in use, and healthy?
    pub(super) async fn judge(&self, marker: Marker) -> Result<Performed, Stop> {
        let marker = self.judging(marker);
        // What cannot be judged in steps that survive a crash is not kept.
        if let Err(fault) = self.write(&marker).await {
            return self.give_up(marker, fault).await;
        }
        if marker.starts > MAX_STARTS {
            let reason = format!("after the update the device died {MAX_STARTS} times before it was judged");
            return self.give_up(marker, unusable(reason)).await;
        }
        let verdict = self.verdict(&marker).await;
        self.decide(marker, verdict).await
    }

    /// The machine was restarted after it had been judged healthy. It may be committed already, which no later judgement
    /// takes back; where it is not, a boot loader may have let go of it.
    pub(super) async fn commit_after_restart(&self, marker: Marker) -> Result<Performed, Stop> {
        let verdict = self.is_not_what_ran_before(&marker).await;
        self.decide(marker, verdict).await
    }

    async fn decide(&self, marker: Marker, verdict: Result<(), Verdict>) -> Result<Performed, Stop> {
        match verdict {
            Ok(()) => {
                let marker = marker.at(Step::Healthy, self.boot_id());
                match self.write(&marker).await {
                    Ok(()) => self.commit(marker).await,
                    Err(fault) => self.give_up(marker, fault).await,
                }
            }
            Err(Verdict::FellBack(fault)) => Err(self.failed(marker, fault).await),
            Err(Verdict::Unhealthy(fault)) => self.give_up(marker, fault).await,
            Err(Verdict::Interrupted) => Err(Stop::Interrupted),
        }
    }

    /// Counts this judgement: one that kills the device must not go on for ever.
    fn judging(&self, marker: Marker) -> Marker {
        let boot_id = self.boot_id();
        let same_boot = marker.judged_since.as_ref().filter(|since| since.boot_id == boot_id).cloned();
        let starts = if marker.judged_since.is_some() { marker.starts + 1 } else { 1 };
        let since = same_boot.unwrap_or(Since { boot_id, uptime_s: self.cx.system().uptime().as_secs() });
        Marker { starts, judged_since: Some(since), ..marker }
    }

    async fn verdict(&self, marker: &Marker) -> Result<(), Verdict> {
        self.is_not_what_ran_before(marker).await?;
        let version = self.version().await;
        let job = self.job(marker, version.as_deref(), STEP_LIMIT);
        self.install.installer.verify(&job.job()).await?;
        if let Some(check) = &self.install.health_check {
            let job = self.job(marker, version.as_deref(), HEALTH_CHECK_LIMIT);
            let job = job.job();
            job.run("the health check", job.command(check)).await?;
        }
        self.wait_until_managed(marker).await
    }

    async fn is_not_what_ran_before(&self, marker: &Marker) -> Result<(), Verdict> {
        if marker.activation == Activation::AfterRestart
            && let Some(before) = &marker.before
        {
            let runs = self.running_now(marker).await?;
            tracing::info!(runs, before, "firmware: the device was restarted");
            if runs.as_ref() == Some(before) {
                let reason = format!(
                    "{before} runs, as it did before the update: the device fell back from what was installed"
                );
                return Err(Verdict::FellBack(unusable(reason)));
            }
        }
        Ok(())
    }

    async fn wait_until_managed(&self, marker: &Marker) -> Result<(), Verdict> {
        let Some(within) = self.install.managed_within else { return Ok(()) };
        let since = marker.judged_since.as_ref().map_or(0, |since| since.uptime_s);
        let passed = self.cx.system().uptime().saturating_sub(Duration::from_secs(since));
        let left = within.saturating_sub(passed).min(self.cx.remaining().saturating_sub(CLOSING_TIME));
        tokio::select! {
            biased;
            () = self.cx.cancellation().cancelled() => Err(Verdict::Interrupted),
            managed = timeout(left, self.cx.managed()) => managed.map_err(|_| {
                Verdict::Unhealthy(unusable(format!("the device was not managed within {within:?}")))
            }),
        }
    }

    /// Makes it permanent, and tells the platform.
    pub(super) async fn commit(&self, marker: Marker) -> Result<Performed, Stop> {
        let version = self.version().await;
        let job = self.job(&marker, version.as_deref(), STEP_LIMIT);
        match self.install.installer.commit(&job.job()).await {
            Ok(()) => {}
            Err(InstallError::Interrupted) => return Err(Stop::Interrupted),
            Err(error) => return self.give_up(marker, fault(&error)).await,
        }
        if let Err(error) = self.install.installer.conclude(&job.job(), Conclusion::Committed).await {
            tracing::warn!(%error, "firmware: committed, but not tidied up");
        }
        self.finish().await
    }

    /// It has failed: what was installed is taken back.
    pub(super) async fn give_up(&self, marker: Marker, fault: Fault) -> Result<Performed, Stop> {
        tracing::warn!(reason = fault.reason, "firmware: rolling back");
        let failure = Some(Recorded::new(fault));
        let boot_id = self.boot_id();
        let marker = Marker { step: Step::RollingBack, boot_id, starts: 0, failure, ..marker };
        if self.only_judges {
            self.record(&marker).await?;
            return Err(Stop::Interrupted);
        }
        self.roll_back(marker).await
    }

    pub(super) async fn roll_back(&self, marker: Marker) -> Result<Performed, Stop> {
        let marker = Marker { starts: marker.starts + 1, ..marker };
        if marker.starts > MAX_STARTS {
            let told = format!("; the roll-back was interrupted {MAX_STARTS} times");
            return Err(self.failed_besides(marker, &told).await);
        }
        if let Err(problem) = self.write(&marker).await {
            // What does not work is taken back all the same.
            tracing::warn!(reason = problem.reason, "firmware: the roll-back itself is not recorded");
        }
        let version = self.version().await;
        let job = self.job(&marker, version.as_deref(), STEP_LIMIT);
        match self.install.installer.rollback(&job.job()).await {
            Err(InstallError::Interrupted) => Err(Stop::Interrupted),
            Err(error) => {
                let told = format!("; the roll-back failed: {error}");
                Err(self.failed_besides(marker, &told).await)
            }
            // It was never in use: there is nothing to say of it.
            Ok(None | Some(Activation::Immediate)) if marker.judged_since.is_none() => {
                Err(self.failed_besides(marker, "").await)
            }
            Ok(None) => Err(self.failed_besides(marker, "; there is no way back").await),
            Ok(Some(Activation::Immediate)) => Err(self.failed_besides(marker, "; rolled back").await),
            Ok(Some(Activation::AfterRestart)) => {
                let marker = marker.at(Step::RolledBack, self.boot_id());
                if let Err(problem) = self.write(&marker).await {
                    // A restart that is on no record would have it judged, and rolled back, once more.
                    tracing::warn!(reason = problem.reason, "firmware: the roll-back is not recorded");
                    let told = "; rolled back, and in use with the next restart";
                    return Err(self.failed_besides(marker, told).await);
                }
                self.restart_back(marker).await
            }
        }
    }

    /// The restart into what ran before.
    pub(super) async fn restart_back(&self, marker: Marker) -> Result<Performed, Stop> {
        match self.cx.system().restart(Restart::Reboot).await {
            Ok(Performed::Restarting) => Ok(Performed::Restarting),
            Ok(Performed::Complete) => Err(self.failed_besides(marker, "; rolled back").await),
            Err(error) => {
                let told = format!("; rolled back, but not in use: {error}");
                Err(self.failed_besides(marker, &told).await)
            }
        }
    }

    /// After that restart.
    pub(super) async fn rolled_back(&self, marker: Marker) -> Result<Performed, Stop> {
        let told = match (&marker.before, self.running_now(&marker).await) {
            (_, Err(InstallError::Interrupted)) => return Err(Stop::Interrupted),
            (Some(before), Ok(Some(runs))) if runs == *before => format!("; rolled back to {before}"),
            (Some(_), Ok(Some(runs))) => format!("; rolled back, but {runs} still runs"),
            (Some(_), Err(error)) => format!("; rolled back, but what runs is not known: {error}"),
            _ => "; rolled back".to_owned(),
        };
        Err(self.failed_besides(marker, &told).await)
    }

    /// The agent gives up an update whose restart does not come. What that left in place is not what this one, should it
    /// fail, may go back to.
    pub(super) async fn take_back_what_never_ran(&self) -> Result<(), Stop> {
        let staging = self.shared.staging.clone();
        let boot_id = self.boot_id();
        let marker = self.cx.blocking(move |_| staging.marker()).await;
        let Some(marker) = marker.filter(|marker| marker.is_in_place_unused(&boot_id)) else { return Ok(()) };
        tracing::warn!(reqId = marker.req_id, "firmware: rolling back an update whose restart never came");
        let job = self.job(&marker, None, STEP_LIMIT);
        match self.install.installer.rollback(&job.job()).await {
            Ok(_) => Ok(()),
            Err(InstallError::Interrupted) => Err(Stop::Interrupted),
            Err(error) => {
                let reason = format!("an earlier update, which never ran, could not be taken back: {error}");
                Err(unusable(reason).into())
            }
        }
    }

    async fn failed_besides(&self, marker: Marker, told: &str) -> Stop {
        let cause = marker.fault();
        let fault = Fault::new(cause.status, format!("{}{told}", cause.reason));
        self.failed(marker, fault).await
    }

    /// The last step of an update that failed: durable before the platform is told, so that a crash in between does
    /// not lose the reason.
    pub(super) async fn failed(&self, marker: Marker, fault: Fault) -> Stop {
        let marker = Marker { failure: Some(Recorded::new(fault.clone())), ..marker };
        let marker = marker.at(Step::Failed, self.boot_id());
        if let Err(problem) = self.write(&marker).await {
            tracing::warn!(reason = problem.reason, "firmware: the failure itself is not recorded");
        }
        let version = self.version().await;
        let job = self.job(&marker, version.as_deref(), STEP_LIMIT);
        if let Err(error) = self.install.installer.conclude(&job.job(), Conclusion::Failed).await {
            tracing::warn!(%error, "firmware: failed, and not tidied up");
        }
        Stop::Fault(fault)
    }

    pub(super) async fn running_now(&self, marker: &Marker) -> Result<Option<String>, InstallError> {
        let job = self.job(marker, None, STEP_LIMIT);
        self.install.installer.running(&job.job()).await
    }

    pub(super) fn job<'b>(
        &'b self,
        marker: &'b Marker,
        version: Option<&'b str>,
        limit: Duration,
    ) -> JobParts<'b> {
        let staging = &self.shared.staging;
        JobParts { work: self, marker, version, limit, image: staging.image(), folder: staging.work() }
    }
}

/// What a [`Job`] borrows.
pub(super) struct JobParts<'a> {
    work: &'a Work<'a>,
    marker: &'a Marker,
    version: Option<&'a str>,
    limit: Duration,
    image: PathBuf,
    folder: PathBuf,
}

impl JobParts<'_> {
    pub(super) fn job(&self) -> Job<'_> {
        Job::new(self.work.cx, &self.image, &self.folder)
            .with_version(self.version)
            .with_before(self.marker.before.as_deref())
            .within(self.limit)
    }
}

/// Why it is not committed.
enum Verdict {
    /// What ran before runs again: there is nothing to take back.
    FellBack(Fault),
    Unhealthy(Fault),
    Interrupted,
}

impl From<InstallError> for Verdict {
    fn from(error: InstallError) -> Self {
        match error {
            InstallError::Interrupted => Self::Interrupted,
            error => Self::Unhealthy(fault(&error)),
        }
    }
}

/// How long the health check may take.
const HEALTH_CHECK_LIMIT: Duration = Duration::from_secs(20);

/// How long a step beside the installation may take: asking what runs, committing, rolling back.
const STEP_LIMIT: Duration = Duration::from_secs(5 * 60);
