use std::io;
use std::process;
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first Ctrl-C or SIGTERM cancels. The second one ends the process at once, with 128 and the
/// signal's number: what was accepted stands in the journal, which is made for an end at any moment.
///
/// Signals are received on a thread of their own, so that the second one works even while a handler holds up the
/// agent's thread.
pub(crate) fn stop_on_signal() -> io::Result<CancellationToken> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let stop = CancellationToken::new();
    let token = stop.clone();
    thread::Builder::new().name("signals".into()).stack_size(STACK_BYTES).spawn(move || {
        runtime.block_on(async {
            loop {
                let number = tokio::select! {
                    _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
                    _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
                };
                if token.is_cancelled() {
                    process::exit(SIGNAL_EXIT + number);
                }
                token.cancel();
            }
        });
    })?;
    Ok(stop)
}

/// What a shell adds to a signal's number to say which one ended a process.
const SIGNAL_EXIT: i32 = 128;

/// Bytes of the thread's stack: it waits and does nothing else, and a small device keeps the rest.
const STACK_BYTES: usize = 128 * 1024;
