//! Prints what passes between a device and its broker, packet by packet, beside the sections of `docs/protocol.md`.

use std::io::{self, Write};

use iotdm_tests::wire::record;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> io::Result<()> {
    let mut output = io::stdout().lock();
    for frame in record().await {
        writeln!(output, "{frame}")?;
    }
    Ok(())
}
