//! The first floor: answers at once and remembers nothing.
//!
//! ```sh
//! cargo run --release -p iotdm-examples --bin floor_echo -- --port 1883
//! ```

use clap::Parser;
use iotdm_examples::floor;

/// Answers every request with 200, without a journal: what MQTT alone costs.
#[derive(Parser)]
struct Options {
    /// Port of the broker on 127.0.0.1.
    #[arg(long, default_value_t = 1883)]
    port: u16,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), floor::Error> {
    floor::serve(Options::parse().port, None).await
}
