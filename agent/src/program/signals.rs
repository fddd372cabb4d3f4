use std::io;
use std::process;
use std::sync::Arc;
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What signals ask for.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    /// The first Ctrl-C or SIGTERM cancels it. The second one ends the process at once, with 128 and the signal's
    /// number: what was accepted stands in the journal, which is made for an end at any moment.
    pub(crate) stop: CancellationToken,
    /// SIGHUP notifies it; several before anybody looks count as one.
    pub(crate) reload: Arc<Notify>,
}

/// Receives signals from here on.
///
/// Signals are received on a thread of their own, so that the second one works even while a handler holds up the
/// agent's thread.
pub(crate) fn receive() -> io::Result<Signals> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    let signals = Signals { stop: CancellationToken::new(), reload: Arc::default() };
    let Signals { stop: token, reload } = signals.clone();
    thread::Builder::new().name("signals".into()).stack_size(STACK_BYTES).spawn(move || {
        runtime.block_on(async {
            loop {
                let number = tokio::select! {
                    _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
                    _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
                    _ = hangup.recv() => {
                        reload.notify_one();
                        continue;
                    }
                };
                if token.is_cancelled() {
                    process::exit(SIGNAL_EXIT + number);
                }
                token.cancel();
            }
        });
    })?;
    Ok(signals)
}

/// What a shell adds to a signal's number to say which one ended a process.
const SIGNAL_EXIT: i32 = 128;

/// Bytes of the thread's stack: it waits and does nothing else, and a small device keeps the rest.
const STACK_BYTES: usize = 128 * 1024;
