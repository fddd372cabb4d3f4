//! A firmware download whose connection breaks on the way, with its progress: broker, platform, image server and device
//! in one process.
//!
//! ```sh
//! cargo run -p iotdm-examples --bin firmware_download
//! ```
//!
//! [`product`] is what a device maker writes. An image of two megabytes comes at half a megabyte a second, the server
//! closes the connection after a third of it, and the transfer goes on there.

use std::error::Error;
use std::io::{Write, stdout};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use iotdm_agent::{Agent, Builder};
use iotdm_examples::Options;
use iotdm_handlers::firmware::{Firmware, FirmwareOptions, FirmwareOptionsError, HttpFetcher, Progress};
use iotdm_platform::broker::{Broker, BrokerOptions};
use iotdm_platform::images::{ImageServer, Transfer};
use iotdm_platform::{DeviceName, FirmwareRequest, Image, Platform, PlatformOptions};
use tokio_util::sync::CancellationToken;

/// A device that fetches images and tells how far it has come; without an install command it takes no update.
fn product(builder: Builder, staging: &Path, on_progress: Progress) -> Result<Builder, FirmwareOptionsError> {
    let options = FirmwareOptions {
        max_image_bytes: 64 << 20,
        bytes_per_second: std::num::NonZeroU64::new(512 * 1024),
        on_progress: Some(on_progress),
        ..FirmwareOptions::new(staging)
    };
    Ok(builder.with(Firmware::new(options, Arc::new(HttpFetcher::new()))?))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let told = Mutex::new(0);
    let on_progress: Progress = Arc::new(move |bytes, total| {
        let percent = total.map_or(0, |total| bytes * 100 / total.max(1));
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        // Each piece of 64 KiB is told of; a line for each tenth is enough.
        if percent >= *told + 10 {
            *told = percent - percent % 10;
            let _ = writeln!(stdout(), "{percent:>4} %  {bytes:>9} bytes");
        }
    });
    for Transfer { from, sent } in download(on_progress).await? {
        writeln!(stdout(), "the server was asked from byte {from} on and sent {sent}")?;
    }
    writeln!(stdout(), "the platform was told: downloaded")?;
    Ok(())
}

/// Has a device download an image, over a connection that breaks; what the server saw.
async fn download(on_progress: Progress) -> Result<Vec<Transfer>, Box<dyn Error>> {
    let broker = Broker::start(BrokerOptions::default()).await?;
    let platform = Platform::connect(PlatformOptions::new(broker.local_addr())).await?;
    let server = ImageServer::start(IMAGE_BYTES).await?;
    server.cut_at(CUT_AT);

    let folder = tempfile::tempdir()?;
    let options = Options {
        host: broker.local_addr().ip().to_string(),
        port: broker.local_addr().port(),
        journal: folder.path().join("journal"),
        for_seconds: None,
    };
    let builder = Agent::builder(options.config("example", "lamp")?).journal(&options.journal);
    let agent = product(builder, &folder.path().join("staging"), on_progress)?.build()?;
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();

    let asking = async {
        let device = DeviceName::new("example", "lamp")?;
        platform.managed(&device).await;
        let (uri, verifier) = (server.uri(), server.sha256());
        let image = Image { version: "2.0".into(), uri, verifier, ..Image::default() };
        let request = FirmwareRequest { image: Some(image), ..FirmwareRequest::default() };
        let downloaded = platform.firmware_download(&device, &request).await;
        stop.cancel();
        downloaded?;
        Ok::<_, Box<dyn Error>>(())
    };
    let (ended, asked) = tokio::join!(agent.run_until(stopped), asking);
    ended?;
    asked?;
    Ok(server.transfers())
}

/// Four seconds at the rate of [`product`].
const IMAGE_BYTES: u64 = 2_000_000;

/// Where the connection breaks.
const CUT_AT: u64 = 700_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_transfer_goes_on_where_it_broke_and_progress_never_goes_back() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let record = told.clone();
        let transfers = download(Arc::new(move |bytes, total| record.lock().unwrap().push((bytes, total))));
        let transfers = transfers.await.unwrap();
        let expected =
            [Transfer { from: 0, sent: CUT_AT }, Transfer { from: CUT_AT, sent: IMAGE_BYTES - CUT_AT }];
        assert_eq!(transfers, expected);
        let told = told.lock().unwrap();
        assert!(told.is_sorted() && told.iter().all(|(_, total)| *total == Some(IMAGE_BYTES)));
        assert_eq!(told.last(), Some(&(IMAGE_BYTES, Some(IMAGE_BYTES))));
    }
}
