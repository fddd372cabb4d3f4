//! The smallest agent: it can be rebooted, and that is all.
//!
//! ```sh
//! cargo run -p iotdm-examples --bin hello -- --port 1883 --journal /tmp/hello
//! ```
//!
//! It is `d:org001:example:hello`. Ask it for a reboot, and ask again with the same reqId: there is one reboot.
//!
//! ```sh
//! mosquitto_pub -q 1 -t iotdm-1/mgmt/initiate/device/reboot -m '{"reqId":"7f0c"}'
//! ```

use std::sync::Arc;

use clap::Parser;
use iotdm_agent::Agent;
use iotdm_agent::system::LinuxSystem;
use iotdm_core::Reboot;
use iotdm_examples::Options;
use iotdm_handlers::Restarts;

/// The smallest agent; its reboots are dry runs.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { options } = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    // A dry run: without it, this command is run.
    let system = LinuxSystem::new()?.reboot_command(vec!["/sbin/reboot".into()]).dry_run(true);

    let agent = Agent::builder(options.config("example", "hello")?)
        .journal(&options.journal)
        .system(Arc::new(system))
        .on::<Reboot>(Restarts)
        .build()?;
    Ok(agent.run_until(options.ended()).await?)
}
