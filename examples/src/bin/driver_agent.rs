//! An agent to measure: real but for the restarts and the installation, which are dry runs.
//!
//! ```sh
//! cargo run --release -p iotdm-examples --bin driver_agent -- --port 1883 --journal /tmp/driver-agent
//! ```
//!
//! It is `d:org001:bench:dev1`, and has all actions of the protocol beside the two of [`iotdm_examples::bench`].

use std::sync::Arc;

use clap::Parser;
use iotdm_agent::Agent;
use iotdm_agent::system::LinuxSystem;
use iotdm_examples::Options;
use iotdm_examples::bench::{Bench, Echo, Once};
use iotdm_handlers::Restarts;
use iotdm_handlers::firmware::{Firmware, FirmwareOptions, HttpFetcher, InstallOptions};

/// An agent to measure with a driver that plays the platform.
///
/// The custom actions bench/echo (may run again after a crash) and bench/once (may not) take the texts `seq` and `pad`.
/// Each run appends the lines `start <reqId>` and `end <reqId>` to the file that DM_EXEC_LOG names, and pauses for
/// DM_HANDLER_DELAY_MS milliseconds in between. Restarts and installations are dry runs.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { options } = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();

    let command = || vec!["/sbin/reboot".to_owned()];
    let system = LinuxSystem::new()?.reboot_command(command()).factory_reset_command(command()).dry_run(true);
    let staging = std::path::absolute(options.journal.with_extension("staging"))?;
    let install = InstallOptions { dry_run: true, ..InstallOptions::new(["/usr/bin/true", "{image}"]) };
    let firmware = FirmwareOptions { install: Some(install), ..FirmwareOptions::new(staging) };
    let bench = Bench::from_environment()?;

    let agent = Agent::builder(options.config("bench", "dev1")?)
        .journal(&options.journal)
        .system(Arc::new(system))
        .with(Restarts)
        .with(Firmware::new(firmware, Arc::new(HttpFetcher::new()))?)
        .on::<Echo>(bench.clone())
        .on::<Once>(bench)
        .build()?;
    Ok(agent.run_until(options.ended()).await?)
}
