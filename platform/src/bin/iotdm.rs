//! `iotdm`: the platform's side on the command line.

use std::error::Error;
use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use iotdm_platform::sandbox::{self, SandboxEnd, SandboxOptions};
use tokio::runtime::Builder;

/// The platform's side of the Device Management Protocol.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows a device being managed, in this process and nowhere else.
    ///
    /// Starts a broker, the platform and a device with the real agent on loopback, on free ports, with a temporary
    /// folder, and plays a tour: manage, reboot, a firmware download that breaks and goes on, observe and notify, custom
    /// actions; then what is hard: a replay, a late request, malformed and unknown ones, a handler that overruns. It ends
    /// with a table of all requests and the promises that were shown.
    ///
    /// Nothing on this machine is rebooted, installed or left behind.
    #[command(after_help = "Exit status: 0 every promise was shown, 1 one was not, 130 interrupted.")]
    Sandbox {
        /// Stay up after the tour and print how to send requests with any MQTT client; Ctrl-C ends it.
        #[arg(long)]
        stay: bool,
        /// Plain lines without colours, symbols and a moving bar, as when the output is not a terminal or NO_COLOR is set.
        #[arg(long)]
        plain: bool,
        /// Also write the agent's own log to standard error.
        #[arg(long, short)]
        verbose: bool,
    },
}

fn main() -> ExitCode {
    let Command::Sandbox { stay, plain, verbose } = Arguments::parse().command;
    if verbose {
        tracing_subscriber::fmt().with_writer(stderr).with_ansi(false).init();
    }
    let mut options = SandboxOptions::plain();
    options.stay = stay;
    options.terminal = !plain && stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match run(options) {
        Ok(SandboxEnd::Shown) => ExitCode::SUCCESS,
        Ok(SandboxEnd::Interrupted) => ExitCode::from(EXIT_INTERRUPTED),
        // Whoever read along, such as `head`, has read enough.
        Err(reason) if is_broken_pipe(&*reason) => ExitCode::from(EXIT_NOBODY_READS),
        Err(reason) => {
            // With nowhere to write to, the exit status has to do.
            let _ = writeln!(stderr(), "iotdm: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: SandboxOptions) -> Result<SandboxEnd, Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let end = runtime.block_on(async {
        let interrupted = interrupted()?;
        Ok(sandbox::run(options, Box::new(stdout()), interrupted).await?)
    });
    // A thread that still waits for a socket holds nobody up.
    runtime.shutdown_timeout(STOP_WITHIN);
    end
}

fn is_broken_pipe(reason: &(dyn Error + 'static)) -> bool {
    let io = reason.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
        || reason.source().is_some_and(is_broken_pipe)
}

/// Done at Ctrl-C, or when the process is told to end.
fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// 128 + SIGPIPE, as shells have it.
const EXIT_NOBODY_READS: u8 = 141;

/// 128 + SIGINT, as shells have it.
const EXIT_INTERRUPTED: u8 = 130;

/// How long threads may take to end after everything else has.
const STOP_WITHIN: Duration = Duration::from_millis(500);
