//! An agent to measure, and to end at any moment: real but for the restarts and the installation, which are dry runs.
//!
//! ```sh
//! cargo run --release -p iotdm-examples --bin driver_agent -- --port 1883 --journal /tmp/driver-agent
//! ```
//!
//! It is `d:org001:bench:dev1`, and has all actions of the protocol beside the two of [`iotdm_examples::bench`].

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use iotdm_agent::journal::JournalError;
use iotdm_agent::link::MqttLink;
use iotdm_agent::store::{SledSource, StoreError};
use iotdm_agent::system::LinuxSystem;
use iotdm_agent::{Agent, Builder, RunError};
use iotdm_core::{FactoryReset, Reboot, Route};
use iotdm_examples::Options;
use iotdm_examples::bench::{Bench, Echo, ExecutionLog, Once};
use iotdm_examples::crash::Crash;
use iotdm_examples::machine::Machine;
use iotdm_handlers::Restarts;
use iotdm_handlers::firmware::{CommandInstaller, Firmware, FirmwareOptions, HttpFetcher, InstallOptions};

/// An agent to measure with a driver that plays the platform.
///
/// The custom actions bench/echo (may run again after a crash) and bench/once (may not) take the texts `seq` and `pad`.
/// Each run appends the lines `start <reqId>` and `end <reqId>` to the file that DM_EXEC_LOG names, and pauses for
/// DM_HANDLER_DELAY_MS milliseconds in between. Restarts and installations are dry runs.
///
/// DM_CRASH_AT=POINT:N aborts the process when it meets a point for the Nth time: message-arrived, before-commit,
/// after-commit, before-puback, after-puback, handler-started, handler-ended, before-publish, after-publish,
/// publish-acknowledged, perform-started, perform-ended or recover-started.
///
/// Exit codes: 0 stopped as asked, 1 failed, 3 restarted, 75 another process has the journal.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// How often the connection shows a sign of life, in seconds; 5 is the least.
    #[arg(long, value_name = "N", default_value_t = 60)]
    keep_alive: u64,
    /// Carry reboots out: append `start <reqId>` and `boot <reqId>` to the file that DM_EXEC_LOG names, and end the
    /// process with code 3. Each `boot` line begins another boot.
    #[arg(long)]
    restarts: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();

    match builder(&arguments)?.build()?.run_until(arguments.options.ended()).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(RunError::Journal(JournalError::Store(reason @ StoreError::Locked { .. }))) => {
            eprintln!("{reason}");
            Ok(EXIT_LOCKED.into())
        }
        Err(reason) => Err(reason.into()),
    }
}

fn builder(Arguments { options, keep_alive, restarts }: &Arguments) -> Result<Builder, Box<dyn Error>> {
    let crash = Crash::from_environment()?;
    let bench = crash.handler(Bench::from_environment()?);
    let mut config = options.config("bench", "dev1")?;
    config.broker.keep_alive = Duration::from_secs(*keep_alive);

    let staging = std::path::absolute(options.journal.with_extension("staging"))?;
    let install = InstallOptions {
        dry_run: true,
        ..InstallOptions::new(CommandInstaller::new(["/usr/bin/true", "{image}"]))
    };
    let firmware = FirmwareOptions { install: Some(install), ..FirmwareOptions::new(staging) };

    let command = || vec!["/sbin/reboot".to_owned()];
    let system = LinuxSystem::new()?.reboot_command(command()).factory_reset_command(command()).dry_run(true);

    let link = crash.link(MqttLink::new(&config)?);
    let builder = Agent::builder(config)
        .store(crash.store(SledSource::new(&options.journal)))
        .link(link)
        .with(Firmware::new(firmware, Arc::new(HttpFetcher::new()))?)
        .on::<Echo>(bench.clone())
        .on::<Once>(bench);
    if !restarts {
        return Ok(builder.system(Arc::new(system)).with(Restarts));
    }
    let machine = Machine::new(ExecutionLog::from_environment()?, system)?;
    Ok(builder
        .system(Arc::new(machine.clone()))
        .on::<Reboot>(crash.handler(machine))
        .on::<FactoryReset>(Restarts)
        .policy(Route::Reboot, |policy| policy.attempts = REBOOT_ATTEMPTS))
}

/// As of `iotdm-agent`: another process has the journal, and it is named.
const EXIT_LOCKED: u8 = 75;

/// A driver that kills the agent time and again must not meet the limit.
const REBOOT_ATTEMPTS: u32 = 1000;
