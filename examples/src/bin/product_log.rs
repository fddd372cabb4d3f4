//! A product that logs with `tracing`: its warnings reach the platform, merged, and the platform fetches its log.
//!
//! ```sh
//! cargo run -p iotdm-examples --bin product_log
//! ```
//!
//! Broker and platform are in this process. The product knows nothing of them: it logs, into a file of its own. A layer
//! beside that file's tells the platform of warnings and errors; the file itself comes when the platform asks.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write, stdout};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use iotdm_agent::system::LinuxSystem;
use iotdm_agent::{Agent, Device};
use iotdm_core::Report;
use iotdm_examples::Options;
use iotdm_handlers::Diagnostics;
use iotdm_handlers::diagnostics::{HttpUploader, LogSource, LogUpload, UploadOptions};
use iotdm_platform::broker::{Broker, BrokerOptions};
use iotdm_platform::{DeviceName, Platform, PlatformOptions, Request};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = stdout().lock();
    timeout(PATIENCE, story(&mut out)).await?
}

async fn story(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let log_file = folder.path().join("lamp.log");
    let broker = Broker::start(BrokerOptions::default()).await?;
    let platform = Platform::connect(PlatformOptions::new(broker.local_addr())).await?;
    let lamp = DeviceName::new("example", "lamp")?;

    // What the product writes itself, and beside it what the platform is told.
    let system = Arc::new(LinuxSystem::new()?);
    let diagnostics = Diagnostics::new(system.clone());
    let file = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(Mutex::new(File::create(&log_file)?))
        .with_filter(filter_fn(|line| line.target().starts_with("product_log")));
    let _log = tracing_subscriber::registry().with(file).with(diagnostics.layer()).set_default();

    // The one log that a request may name; without hosts it comes in answers only.
    let logs = UploadOptions::new([LogSource::file("lamp", &log_file)]);
    let upload = LogUpload::new(diagnostics.clone(), logs, Arc::new(HttpUploader::new()))?;
    let options = Options {
        host: broker.local_addr().ip().to_string(),
        port: broker.local_addr().port(),
        journal: folder.path().join("journal"),
        for_seconds: None,
    };
    let agent = Agent::builder(options.config("example", "lamp")?)
        .journal(&options.journal)
        .system(system)
        .with(diagnostics.clone())
        .with(upload)
        .build()?;
    tokio::spawn(report(diagnostics, agent.device()));
    let (stop, stopped) = oneshot::channel::<()>();
    let running = agent.run_until(async {
        let _ = stopped.await;
    });
    let told = async {
        let told = tell(out, &platform, &lamp).await;
        // The agent may have ended by itself.
        let _ = stop.send(());
        told
    };
    let (ran, told) = tokio::join!(running, told);
    told?;
    Ok(ran?)
}

/// What the platform sees.
async fn tell(out: &mut impl Write, platform: &Platform, lamp: &DeviceName) -> Result<(), Box<dyn Error>> {
    platform.managed(lamp).await;
    product();
    let view = || platform.device(lamp).unwrap_or_default();
    platform.wait_until(|_| view().log.len() == 2 && view().error_codes.len() == 1).await;
    writeln!(out, "The product has logged 502 lines. The platform's log of this device: 2 entries")?;
    for entry in view().log {
        writeln!(out, "  severity {}: {}", u8::from(entry.severity), entry.message)?;
        let data = STANDARD.decode(entry.data.unwrap_or_default())?;
        writeln!(out, "    {}", String::from_utf8(data)?)?;
    }
    writeln!(out, "Its error codes: {:?}", view().error_codes)?;

    let request = Request::custom("iotdm", "uploadLog")
        .field("source", "lamp")
        .field("lines", "3")
        .field("clear", "true");
    let answer = platform.initiate(lamp, &request)?.answered().await.ok_or("it has no time limit")?;
    let answer: Value = serde_json::from_slice(&answer.payload)?;
    let gzip = STANDARD.decode(answer["d"]["data"].as_str().ok_or("the answer has data")?)?;
    let mut text = String::new();
    GzDecoder::new(&gzip[..]).read_to_string(&mut text)?;
    writeln!(out, "The last 3 lines of its own log, {} bytes as {} of gzip:", text.len(), gzip.len())?;
    for line in text.lines() {
        writeln!(out, "  {line}")?;
    }

    platform.wait_until(|_| view().log.is_empty()).await;
    writeln!(out, "The platform's log of this device: 0 entries")?;
    Ok(())
}

/// The product at work.
fn product() {
    tracing::info!("the lamp is on");
    for duty in 0..500 {
        tracing::warn!(duty, "the lamp is hotter than 80 °C");
    }
    tracing::error!(iotdm.code = 17, pairing_token = "never sent", "the lamp does not answer");
}

/// Hands over what is to be reported, for as long as the agent runs.
async fn report(diagnostics: Diagnostics, device: Device) {
    let send = |report: Report| {
        let device = device.clone();
        async move { device.report(report).await }
    };
    diagnostics.run(send).await;
}

/// Far above what all of it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_platform_hears_of_500_warnings_once_and_fetches_the_log() {
        let mut out = Vec::new();
        timeout(PATIENCE, story(&mut out)).await.unwrap().unwrap();
        let told = String::from_utf8(out).unwrap();
        for text in [
            "severity 1: the lamp is hotter than 80 °C (500 times, last at ",
            "severity 2: the lamp does not answer\n",
            r#""pairing_token":"withheld""#,
            "Its error codes: [17]\n",
            "WARN product_log: the lamp is hotter than 80 °C duty=499\n",
            "ERROR product_log: the lamp does not answer",
            "The platform's log of this device: 0 entries\n",
        ] {
            assert!(told.contains(text), "{text} in {told}");
        }
        let of_layer = told.split("The last 3 lines").next().unwrap();
        assert!(!of_layer.contains("never sent"), "{told}");
    }
}
