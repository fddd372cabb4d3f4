//! Reboot and factory reset through the machine's own commands (`docs/protocol.md` §5.4, §6.2).

use iotdm_core::{
    Accepted, Bundle, Context, Empty, FactoryReset, Failure, Handler, Performed, Reboot, Recovery, Refusal,
    Restart, Table, TableError,
};

/// Restarts the machine, or returns it to its delivery state, through [`System::restart`](iotdm_core::System::restart).
///
/// As a [`Bundle`] it takes both actions. A device that can do only one registers that one, and the other is answered
/// 501: `table.on::<Reboot>(Restarts)`.
///
/// # Flow
/// 1. `handle` accepts: whether the command works shows only when it runs.
/// 2. Once the broker has the 202, the system's restart is begun. In a dry run that is already the end.
/// 3. After the restart `recover` judges: the machine was restarted, so it is done; it was not, so the restart is
///    begun again, within the action's attempts.
///
/// # Assumptions
/// * The factory reset command may be run again after it was interrupted.
/// * What the factory reset command began is finished by the machine's own start, whatever interrupts it: a restart in
///   the middle of it, such as a power cut, cannot be told from the one at its end, and counts as done.
///
/// # Errors
/// A command that is missing or does not work is a [`Failure`]: the platform has its 202 by then, and learns of it by
/// a log entry and an error code.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restarts;

impl Bundle for Restarts {
    fn register(self, table: &mut Table) -> Result<(), TableError> {
        table.on::<Reboot>(self)?;
        table.on::<FactoryReset>(self)
    }
}

impl Handler<Reboot> for Restarts {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        restart(cx, Restart::Reboot).await
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        judge(cx)
    }
}

impl Handler<FactoryReset> for Restarts {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        restart(cx, Restart::FactoryReset).await
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        judge(cx)
    }
}

async fn restart(cx: &Context, kind: Restart) -> Result<Performed, Failure> {
    tracing::info!(%kind, attempt = cx.attempt(), "restarting");
    cx.system().restart(kind).await.map_err(|error| Failure::new(error.to_string()))
}

fn judge(cx: &Context) -> Recovery {
    if cx.rebooted() { Recovery::Done } else { Recovery::RunAgain }
}

#[cfg(test)]
mod tests {
    use iotdm_core::{Action, Code, Decision, RestartError, Route};
    use serde_json::json;

    use super::*;
    use crate::fake::{FakeServices, FakeSystem, ask, context, parts};

    const KINDS: [(Route, Restart); 2] =
        [(Reboot::ROUTE, Restart::Reboot), (FactoryReset::ROUTE, Restart::FactoryReset)];

    fn table() -> Table {
        let mut table = Table::new();
        table.with(Restarts).unwrap();
        table
    }

    #[tokio::test]
    async fn nothing_restarts_before_the_answer_is_out() {
        for (route, kind) in KINDS {
            let system = FakeSystem::new();
            let cx = context(&system, &FakeServices::new());
            let decision = ask(&table(), &route, &cx, json!({})).await;
            let Decision::Replied(parts) = decision else { panic!("{decision:?}") };
            assert_eq!(parts.rc, Code::ACCEPTED);
            assert_eq!(system.restarts(), []);

            let performed = table().handler(&route).unwrap().after_ack(&cx, None).await;
            assert_eq!((performed, system.restarts()), (Ok(Performed::Restarting), vec![kind]));
        }
    }

    #[tokio::test]
    async fn a_dry_run_is_complete_at_once() {
        let system = FakeSystem::new();
        system.next_restart(Ok(Performed::Complete));
        let cx = context(&system, &FakeServices::new());
        let performed = table().handler(&Reboot::ROUTE).unwrap().after_ack(&cx, None).await;
        assert_eq!(performed, Ok(Performed::Complete));
    }

    #[tokio::test]
    async fn a_command_that_does_not_work_is_a_failure_with_its_reason() {
        let system = FakeSystem::new();
        let reason = "exit status 1: not permitted".to_owned();
        system.next_restart(Err(RestartError::Command { kind: Restart::Reboot, reason }));
        system.next_restart(Err(RestartError::NotConfigured(Restart::FactoryReset)));
        let cx = context(&system, &FakeServices::new());
        for (route, text) in [
            (Reboot::ROUTE, "the reboot command failed: exit status 1: not permitted"),
            (FactoryReset::ROUTE, "no way to carry out a factory reset is configured"),
        ] {
            let failure = table().handler(&route).unwrap().after_ack(&cx, None).await.unwrap_err();
            assert_eq!(failure.to_string(), text);
        }
    }

    #[tokio::test]
    async fn a_restart_is_done_when_the_machine_was_restarted_and_begun_again_when_not() {
        for (route, _) in KINDS {
            for (rebooted, expected) in [(true, Recovery::Done), (false, Recovery::RunAgain)] {
                let parts =
                    iotdm_core::ContextParts { rebooted, ..parts(&FakeSystem::new(), &FakeServices::new()) };
                let judged = table().handler(&route).unwrap().recover(&Context::new(parts), None).await;
                assert_eq!(judged, expected, "{route}");
            }
        }
    }

    #[test]
    fn a_device_with_one_of_both_actions_still_says_so_in_manage() {
        let mut table = Table::new();
        table.on::<Reboot>(Restarts).unwrap();
        assert!(table.supports().device_actions && table.handler(&FactoryReset::ROUTE).is_none());
    }
}
