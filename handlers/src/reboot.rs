//! Reboot and factory reset, under the rules of the operator and of the application (`docs/protocol.md` §5.4, §6.2).
//!
//! ```
//! use std::time::Duration;
//!
//! use iotdm_core::{FactoryReset, Reboot, Table};
//! use iotdm_handlers::reboot::{
//!     FactoryResets, MaintenanceWindows, Reboots, RestartLimit, Rules, VetoCommand, Wipe,
//! };
//!
//! # fn build() -> Result<Table, Box<dyn std::error::Error>> {
//! let rules = Rules::new()
//!     .within(MaintenanceWindows::new(["Mon-Fri 01:00-04:00"])?)
//!     .at_most(RestartLimit::new(3, Duration::from_secs(24 * 3600)))
//!     .veto(VetoCommand::new("/usr/lib/product/may-restart", Vec::new()));
//! let kept = [("the journal", "/var/lib/iotdm-agent/journal".into())];
//! let wipe = Wipe::new(["/var/lib/product"], &kept)?;
//! let mut table = Table::new();
//! table.on::<Reboot>(Reboots::new().under(rules.clone()))?;
//! table.on::<FactoryReset>(FactoryResets::wiping(wipe).under(rules))?;
//! # Ok(table)
//! # }
//! # build().unwrap();
//! ```

mod keep;
mod limit;
mod logind;
mod reset;
mod rules;
mod stage;
mod veto;
mod window;
mod wipe;

use iotdm_core::{
    Accepted, Bundle, Context, Empty, FactoryReset, Failure, Handler, Performed, Reboot, Recovery, Refusal,
    Restart, Table, TableError,
};

pub use keep::WipeError;
pub use limit::RestartLimit;
pub use logind::Logind;
pub use reset::FactoryResets;
pub use rules::Rules;
pub use veto::{Moment, Question, Verdict, Veto, VetoCommand};
pub use window::{MaintenanceWindows, WindowError};
pub use wipe::Wipe;

/// Restarts the machine, or returns it to its delivery state, through [`System::restart`](iotdm_core::System::restart):
/// [`Reboots`] and [`FactoryResets::by_command`], both without rules.
///
/// As a [`Bundle`] it takes both actions. A device that can do only one registers that one, and the other is answered
/// 501: `table.on::<Reboot>(Restarts)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restarts;

impl Bundle for Restarts {
    fn register(self, table: &mut Table) -> Result<(), TableError> {
        table.on::<Reboot>(self)?;
        table.on::<FactoryReset>(self)
    }
}

impl Handler<Reboot> for Restarts {
    async fn handle(&self, cx: &Context, request: &Empty) -> Result<Accepted, Refusal> {
        Reboots::new().handle(cx, request).await
    }

    async fn after_ack(&self, cx: &Context, request: &Empty) -> Result<Performed, Failure> {
        Reboots::new().after_ack(cx, request).await
    }

    async fn recover(&self, cx: &Context, request: &Empty) -> Recovery {
        Reboots::new().recover(cx, request).await
    }
}

impl Handler<FactoryReset> for Restarts {
    async fn handle(&self, cx: &Context, request: &Empty) -> Result<Accepted, Refusal> {
        FactoryResets::by_command().handle(cx, request).await
    }

    async fn after_ack(&self, cx: &Context, request: &Empty) -> Result<Performed, Failure> {
        FactoryResets::by_command().after_ack(cx, request).await
    }

    async fn recover(&self, cx: &Context, request: &Empty) -> Recovery {
        FactoryResets::by_command().recover(cx, request).await
    }
}

/// Restarts the machine through [`System::restart`](iotdm_core::System::restart).
///
/// # Flow
/// 1. `handle` accepts when the [`Rules`] allow it: whether the command works shows only when it runs.
/// 2. Once the broker has the 202, the rules are asked again, and the system's restart is begun. In a dry run that is
///    already the end.
/// 3. After the restart `recover` judges: the machine was restarted, by whatever, so it is done; it was not, so the
///    restart is begun again, within the action's attempts, and the rules are asked again.
///
/// # Errors
/// A refusal by the rules. A command that is missing or does not work is a [`Failure`]: the platform has its 202 by
/// then, and learns of it by a log entry and an error code.
#[derive(Clone, Debug, Default)]
pub struct Reboots {
    rules: Rules,
}

impl Reboots {
    /// Restarts whenever it is asked to.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Under these rules.
    #[must_use]
    pub fn under(self, rules: Rules) -> Self {
        Self { rules }
    }
}

impl Handler<Reboot> for Reboots {
    async fn handle(&self, cx: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        self.rules.admit(cx, Restart::Reboot).await?;
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        self.rules.ready(cx, Restart::Reboot).await?;
        self.rules.restart(cx, Restart::Reboot, Vec::new()).await
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        if cx.rebooted() { Recovery::Done } else { Recovery::RunAgain }
    }
}

#[cfg(test)]
mod tests;
