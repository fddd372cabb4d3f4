//! Prints a JSON schema of every action: what the platform may send, and what it gets back.
//!
//! ```sh
//! cargo run -p iotdm-examples --bin schemas
//! ```
//!
//! The schemas come from the table that requests are routed by, so that they cannot differ from what is decoded.

use std::io::{Write, stdout};
use std::path::Path;
use std::sync::Arc;

use iotdm_core::Table;
use iotdm_examples::bench::{Bench, Echo, Once};
use iotdm_handlers::Restarts;
use iotdm_handlers::firmware::{Firmware, FirmwareOptions, HttpFetcher, InstallOptions, RaucInstaller};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let install = InstallOptions::new(RaucInstaller::new());
    let firmware = FirmwareOptions {
        install: Some(install),
        ..FirmwareOptions::new(Path::new("/var/lib/iotdm/firmware"))
    };
    let mut table = Table::new();
    table.with(Restarts)?;
    table.with(Firmware::new(firmware, Arc::new(HttpFetcher::new()))?)?;
    table.on::<Echo>(Bench::default())?;
    table.on::<Once>(Bench::default())?;
    writeln!(stdout().lock(), "{:#}", table.schemas())?;
    Ok(())
}
