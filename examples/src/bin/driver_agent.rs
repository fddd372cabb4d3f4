//! An agent to measure: real but for the restarts and the installation, which are dry runs.
//!
//!     cargo run --release --bin driver_agent -- --port 1883 --journal /tmp/driver-agent
//!
//! It is `d:org001:bench:dev1` on 127.0.0.1. The custom actions `bench/echo` (may run again after a crash) and
//! `bench/once` (may not) append `start <reqId>` and `end <reqId>` to the file named by `DM_EXEC_LOG` and sleep
//! `DM_HANDLER_DELAY_MS` in between, so that a driver can tell handler runs from answers.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use iotdm_agent::system::LinuxSystem;
use iotdm_agent::{Agent, Broker, Config, Limits};
use iotdm_core::{Action, Context, DeviceInfo, Finished, Handler, Identity, Interrupted, Refusal, Route};
use iotdm_handlers::Restarts;
use iotdm_handlers::firmware::{Firmware, FirmwareOptions, HttpFetcher, InstallOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;

/// An agent to measure with a driver that plays the platform.
#[derive(Parser)]
struct Options {
    /// Port of the broker on 127.0.0.1.
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// Folder of the journal; its parent must exist.
    #[arg(long)]
    journal: PathBuf,
}

/// `bench/echo`: harmless to repeat.
struct Echo;

/// `bench/once`: never to be started twice.
struct Once;

/// What both are asked, and answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
struct Parameters {
    #[serde(flatten)]
    parameters: BTreeMap<String, serde_json::Value>,
}

impl Action for Echo {
    const ROUTE: Route = Route::custom("bench", "echo");
    const INTERRUPTED: Interrupted = Interrupted::RunAgain;
    const ATTEMPTS: u32 = 100;
    type Request = Parameters;
    type Reply = Finished<Parameters>;
}

impl Action for Once {
    const ROUTE: Route = Route::custom("bench", "once");
    type Request = Parameters;
    type Reply = Finished<Parameters>;
}

/// Writes down each start and end.
#[derive(Clone)]
struct Bench {
    log: Option<Arc<Mutex<File>>>,
    delay: Duration,
}

impl Bench {
    fn from_environment() -> std::io::Result<Self> {
        let log = match std::env::var_os("DM_EXEC_LOG") {
            Some(path) => {
                Some(Arc::new(Mutex::new(OpenOptions::new().create(true).append(true).open(path)?)))
            }
            None => None,
        };
        let delay = std::env::var("DM_HANDLER_DELAY_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Self { log, delay: Duration::from_millis(delay) })
    }

    async fn run(&self, cx: &Context, request: &Parameters) -> Result<Finished<Parameters>, Refusal> {
        self.note("start", cx).await?;
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        self.note("end", cx).await?;
        Ok(Finished(request.clone()))
    }

    async fn note(&self, what: &str, cx: &Context) -> Result<(), Refusal> {
        let (Some(log), Some(req_id)) = (&self.log, cx.req_id()) else { return Ok(()) };
        let line = format!("{what} {req_id}\n");
        // One write in append mode: lines of several runs never mix.
        let written = log.lock().await.write_all(line.as_bytes());
        written.map_err(|error| Refusal::failed("the execution log cannot be written").log(error.to_string()))
    }
}

impl Handler<Echo> for Bench {
    async fn handle(&self, cx: &Context, request: &Parameters) -> Result<Finished<Parameters>, Refusal> {
        self.run(cx, request).await
    }
}

impl Handler<Once> for Bench {
    async fn handle(&self, cx: &Context, request: &Parameters) -> Result<Finished<Parameters>, Refusal> {
        self.run(cx, request).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();

    let config = Config {
        identity: Identity::device("org001", "bench", "dev1")?,
        broker: Broker {
            host: "127.0.0.1".into(),
            port: options.port,
            tls: None,
            keep_alive: Duration::from_secs(60),
            durable_session: true,
        },
        token: None,
        lifetime: Duration::from_secs(3600),
        device_info: DeviceInfo {
            serial_number: Some("SN-0001".into()),
            model: Some("lamp".into()),
            fw_version: Some("1.0.0".into()),
            ..DeviceInfo::default()
        },
        metadata: None,
        limits: Limits::default(),
    };
    let command = || vec!["/sbin/reboot".to_owned()];
    let system = LinuxSystem::new()?.reboot_command(command()).factory_reset_command(command()).dry_run(true);
    let staging = options.journal.with_extension("staging");
    let mut install = InstallOptions::new(["/usr/bin/true", "{image}"]);
    install.dry_run = true;
    let firmware =
        FirmwareOptions { install: Some(install), ..FirmwareOptions::new(std::path::absolute(staging)?) };
    let bench = Bench::from_environment()?;

    let agent = Agent::builder(config)
        .journal(&options.journal)
        .system(Arc::new(system))
        .with(Restarts)
        .with(Firmware::new(firmware, Arc::new(HttpFetcher::new()))?)
        .on::<Echo>(bench.clone())
        .on::<Once>(bench)
        .build()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    agent
        .run_until(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await?;
    Ok(())
}
