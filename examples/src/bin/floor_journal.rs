//! The second floor: each batch of requests is on disk before it is answered, and never read again.
//!
//! ```sh
//! cargo run --release -p iotdm-examples --bin floor_journal -- --port 1883 --journal /tmp/floor.log
//! ```

use std::path::PathBuf;

use clap::Parser;
use iotdm_examples::floor;

/// Answers every request with 200 after one append and one fdatasync per batch: what durability alone costs.
#[derive(Parser)]
struct Options {
    /// Port of the broker on 127.0.0.1.
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// File that requests are appended to; it grows without bound.
    #[arg(long, value_name = "FILE")]
    journal: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), floor::Error> {
    let options = Options::parse();
    floor::serve(options.port, Some(&options.journal)).await
}
