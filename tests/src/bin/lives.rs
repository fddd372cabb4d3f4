//! Lives random lives of a device and says how fast.
//!
//!     cargo run --release --features iotdm-agent/testing --bin lives -- --seeds 1000

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use iotdm_tests::lives::{Census, LAWS, Plan, check, difference, live, story};
use tokio::time::Instant;

/// Lives random lives of a device: the whole agent with its real link and journal, and hours of virtual time each.
#[derive(Debug, Parser)]
#[command(after_help = "Exit status: 0 every law held, 1 one did not.")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Tells the story of this one seed, and nothing else.
    #[arg(long)]
    seed: Option<u64>,
    /// Lives every life twice and compares the two to the byte.
    #[arg(long)]
    twice: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            // Nobody may be reading.
            let _ = writeln!(stdout(), "{text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    if let Some(seed) = arguments.seed {
        check(seed)?;
        return say(&story(seed, &Plan::from_seed(seed)));
    }
    let begin = Instant::now();
    let (mut lived, mut steps, mut census) = (Duration::ZERO, 0, Census::default());
    for seed in arguments.first..arguments.first.saturating_add(arguments.seeds) {
        let life = check(seed)?;
        if arguments.twice
            && let Some(difference) = difference(&life, &live(&Plan::from_seed(seed)))
        {
            return Err(format!("seed {seed} has two lives: {difference}"));
        }
        lived += life.lived;
        steps += Plan::from_seed(seed).steps.len();
        census.add(&life.entries);
    }
    if !census.missing().is_empty() {
        return Err(format!("what was to be tested did not happen: {:?}", census.missing()));
    }
    let minutes = begin.elapsed().as_secs_f64() / 60.0;
    let hours = lived.as_secs_f64() / 3600.0;
    let (seeds, rate) = (arguments.seeds, hours / minutes);
    say(&format!(
        "{seeds} seeds, {steps} steps, {hours:.0} hours of device life in {minutes:.2} minutes: {rate:.0} hours per \
         minute\n{census}\n{} laws held:\n  {}",
        LAWS.len(),
        LAWS.join("\n  ")
    ))
}

fn say(text: &str) -> Result<(), String> {
    writeln!(stdout(), "{text}").map_err(|error| error.to_string())
}
