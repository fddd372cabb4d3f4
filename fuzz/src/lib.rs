//! What the targets that run handlers share: a machine and an agent that do nothing, and a future that ends at once.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use iotdm_core::{
    BootId, ChildError, ChildOutput, ChildProcess, Context, ContextParts, Declined, Performed, Report, ReqId,
    Restart, RestartError, Services, Subject, System,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// A machine that gives each child process the output that was set, and keeps what the child was given.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    output: Arc<Mutex<Option<ChildOutput>>>,
    child: Arc<Mutex<Option<ChildProcess>>>,
}

impl Machine {
    /// What the next child process leaves; none: it cannot be started.
    pub fn next_output(&self, output: Option<ChildOutput>) {
        *self.output.lock().unwrap_or_else(PoisonError::into_inner) = output;
    }

    /// The last child process.
    pub fn last_child(&self) -> Option<ChildProcess> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A handler's context on this machine.
    pub fn context(&self) -> Context {
        Context::new(ContextParts {
            req_id: Some(ReqId::from_text("r")),
            subject: Subject::Connected,
            attempt: 1,
            deadline: tokio::time::Instant::now() + Duration::from_secs(3600),
            rebooted: false,
            cancellation: CancellationToken::new(),
            system: Arc::new(self.clone()),
            services: Arc::new(Nothing),
        })
    }
}

#[async_trait]
impl System for Machine {
    fn wall_clock(&self) -> Duration {
        Duration::from_secs(1_794_182_400)
    }

    fn uptime(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn boot_id(&self) -> BootId {
        BootId("boot".into())
    }

    async fn restart(&self, _: Restart) -> Result<Performed, RestartError> {
        Ok(Performed::Restarting)
    }

    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        let program = child.program.display().to_string();
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner).take();
        output.ok_or(ChildError::NotStarted { program, reason: "there is none".into() })
    }
}

/// An agent without attributes that takes every report.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Services for Nothing {
    fn attribute(&self, _: &str) -> Option<Value> {
        None
    }

    async fn set_attributes(&self, _: Vec<(String, Value)>) -> Result<(), Declined> {
        Ok(())
    }

    async fn report(&self, _: Report) -> Result<(), Declined> {
        Ok(())
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}

/// The result of a future that waits for nothing.
///
/// # Panics
/// When it does.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut std::task::Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("the future waits"),
    }
}
