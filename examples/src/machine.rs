//! A machine that is restarted as far as its agent can tell: a restart ends the process, and what is started next runs in
//! another boot.

use std::io;
use std::process;
use std::time::Duration;

use async_trait::async_trait;
use iotdm_agent::system::LinuxSystem;
use iotdm_core::{
    Accepted, BootId, ChildError, ChildOutput, ChildProcess, Context, Empty, Failure, Handler, Performed,
    Reboot, Recovery, Refusal, Restart, RestartError, System,
};

use crate::bench::ExecutionLog;

/// Counts its boots in the [`ExecutionLog`]: the line `boot <reqId>` is a restart.
///
/// That line is one write. A process that ends before it has not restarted the machine, one that ends behind it has.
#[derive(Clone, Debug)]
pub struct Machine {
    log: ExecutionLog,
    boot: usize,
    linux: LinuxSystem,
}

impl Machine {
    /// The machine whose restarts are in this log; for the rest it is the one that this program runs on.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn new(log: ExecutionLog, linux: LinuxSystem) -> io::Result<Self> {
        Ok(Self { boot: log.boots()?, log, linux })
    }
}

#[async_trait]
impl System for Machine {
    fn wall_clock(&self) -> Duration {
        self.linux.wall_clock()
    }

    fn uptime(&self) -> Duration {
        self.linux.uptime()
    }

    fn boot_id(&self) -> BootId {
        BootId(format!("boot-{}", self.boot).into())
    }

    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError> {
        self.linux.restart(kind).await
    }

    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        self.linux.run(child).await
    }
}

impl Handler<Reboot> for Machine {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        let req_id = cx.req_id().ok_or_else(|| Failure::new("a reboot has a reqId"))?;
        let not_noted = |error: io::Error| Failure::new(error.to_string());
        self.log.start(req_id).map_err(not_noted)?;
        self.log.boot(req_id).map_err(not_noted)?;
        tokio::spawn(async {
            // A machine takes a moment to go down, and its agent goes on until then.
            tokio::time::sleep(GOES_DOWN_AFTER).await;
            process::exit(EXIT_RESTARTED);
        });
        Ok(Performed::Restarting)
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        if cx.rebooted() { Recovery::Done } else { Recovery::RunAgain }
    }
}

/// The exit code of a process whose machine was restarted.
pub const EXIT_RESTARTED: i32 = 3;

/// From the restart to the end of the process.
const GOES_DOWN_AFTER: Duration = Duration::from_millis(20);
