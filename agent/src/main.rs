//! `iotdm-agent`, the reference agent: one TOML file, no Rust.

use std::process::ExitCode;

mod program;

fn main() -> ExitCode {
    program::main()
}
