use std::sync::Mutex;

use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready};

use super::*;
use crate::system::{BootId, ChildError, ChildOutput, ChildProcess, Restart, RestartError};

type Work = Box<dyn FnOnce() + Send>;

/// An agent whose threads are the test: it runs blocking work when the test says so.
#[derive(Default)]
struct Threads {
    waiting: Mutex<Vec<Work>>,
}

impl Threads {
    fn run(&self) {
        let work = self.waiting.lock().unwrap().pop().expect("blocking work was handed over");
        work();
    }
}

#[async_trait]
impl Services for Threads {
    fn attribute(&self, _: &str) -> Option<Value> {
        None
    }

    async fn set_attributes(&self, _: Vec<(String, Value)>) -> Result<(), Declined> {
        Err(Declined::Stopping)
    }

    async fn report(&self, _: Report) -> Result<(), Declined> {
        Err(Declined::Stopping)
    }

    fn spawn_blocking(&self, work: Work) {
        self.waiting.lock().unwrap().push(work);
    }
}

/// Blocking work asks nothing of the machine.
#[derive(Debug)]
struct NoMachine;

#[async_trait]
impl System for NoMachine {
    fn wall_clock(&self) -> Duration {
        Duration::ZERO
    }

    fn uptime(&self) -> Duration {
        Duration::ZERO
    }

    fn boot_id(&self) -> BootId {
        BootId("boot".into())
    }

    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError> {
        Err(RestartError::NotConfigured(kind))
    }

    async fn run(&self, child: ChildProcess) -> Result<ChildOutput, ChildError> {
        let program = child.program.display().to_string();
        Err(ChildError::NotStarted { program, reason: "there is no machine".into() })
    }
}

fn context(threads: &Arc<Threads>) -> Context {
    Context::new(ContextParts {
        req_id: None,
        subject: Subject::Connected,
        attempt: 1,
        deadline: Instant::now(),
        rebooted: false,
        cancellation: CancellationToken::new(),
        system: Arc::new(NoMachine),
        services: threads.clone(),
    })
}

/// A handler's future at work on `work`, polled once.
fn waiting<T: fmt::Debug + Send + 'static>(
    cx: Context,
    work: impl FnOnce(&CancellationToken) -> T + Send + 'static,
) -> Spawn<impl Future<Output = T>> {
    let mut task = spawn(async move { cx.blocking(work).await });
    assert_pending!(task.poll());
    task
}

#[test]
fn blocking_work_is_waited_for_and_wakes_its_handler() {
    let threads = Arc::new(Threads::default());
    let mut task = waiting(context(&threads), |_| 7);
    assert!(!task.is_woken());
    threads.run();
    assert!(task.is_woken());
    assert_eq!(assert_ready!(task.poll()), 7);
}

#[test]
fn a_panic_of_blocking_work_is_the_handlers() {
    let threads = Arc::new(Threads::default());
    let mut task = waiting(context(&threads), |_| panic!("the disk is gone"));
    threads.run();
    let panic = catch_unwind(AssertUnwindSafe(|| task.poll())).map(|_| ()).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"the disk is gone"));
}

#[test]
fn blocking_work_outlives_the_handler_that_was_cancelled() {
    let threads = Arc::new(Threads::default());
    let cx = context(&threads);
    let (sender, receiver) = std::sync::mpsc::channel();
    let task = waiting(cx.clone(), move |cancellation| sender.send(cancellation.is_cancelled()).unwrap());
    drop(task);
    cx.cancellation().cancel();
    threads.run();
    assert_eq!(receiver.recv(), Ok(true), "the work sees that it is to stop");
}
