//! Lives thousands of device lives in a model world and checks every promise at every step.
//!
//! ```sh
//! cargo run --release --features iotdm-agent/testing --bin simulate -- --seeds 1000000
//! cargo run --release --features iotdm-agent/testing --bin simulate -- --seed 4711
//! ```
//!
//! The first command lives that many lives on all cores and ends at the first that breaks a promise: it prints the
//! seed, the shortest plan that it found to break it, and its story. The second one tells the story of one seed.

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::io::Write;
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use iotdm_agent::testing::simulation::{Counts, Law, Outcome, Plan};
use tokio::time::Instant;

#[derive(Parser)]
#[command(
    about = "Lives thousands of device lives in a model world and checks every promise at every step.",
    after_help = "Exit status: 0 every law held, 1 one did not, 2 the options are wrong."
)]
struct Options {
    /// How many lives.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..), allow_negative_numbers = true)]
    seeds: u64,
    /// The first seed; each life has the next one.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    first: u64,
    /// Tell the story of this seed instead.
    #[arg(long, conflicts_with_all = ["seeds", "first"], allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Tell the story of this plan, as a report prints it, instead.
    #[arg(long, conflicts_with_all = ["seeds", "first", "seed"])]
    plan: Option<String>,
    /// How many threads; one for each core where it is not given.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // A panic is a violation like others, and shrinking repeats it many times.
    std::panic::set_hook(Box::new(|_| {}));
    // A line of the corpus goes on after the plan.
    let plan = options.plan.as_deref().map(|line| Plan::from_hex(line.split(' ').next().unwrap_or_default()));
    match plan.or(options.seed.map(|seed| Some(Plan::from_seed(seed)))) {
        Some(Some(plan)) => tell(&plan),
        Some(None) => {
            eprintln!(
                "--plan: that is no plan as a report prints it: 8 hexadecimal digits and 6 for each step"
            );
            ExitCode::from(2)
        }
        None => live(&options),
    }
}

fn tell(plan: &Plan) -> ExitCode {
    let Outcome { violation, story, counts, .. } = plan.tell();
    println!("{}", story.join("\n"));
    println!("\n{}", summary(&counts));
    match violation {
        None => {
            println!("all {} laws held", Law::ALL.len());
            ExitCode::SUCCESS
        }
        Some(_) => report(plan),
    }
}

fn live(options: &Options) -> ExitCode {
    let jobs = options.jobs.or(std::thread::available_parallelism().ok()).map_or(1, NonZero::get);
    // Seeds end where their type does.
    let seeds = options.seeds.min(u64::MAX - options.first);
    let (taken, finished) = (AtomicU64::new(0), AtomicU64::new(0));
    let broken = Mutex::new(None);
    let total = Mutex::new(Counts::default());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let mut counts = Counts::default();
                while broken.lock().expect("no holder panics").is_none() {
                    let from = taken.fetch_add(PORTION, Ordering::Relaxed);
                    if from >= seeds {
                        break;
                    }
                    for seed in options.first + from..options.first + seeds.min(from + PORTION) {
                        let life = Plan::from_seed(seed).run();
                        counts += life.counts;
                        if life.violation.is_some() {
                            broken.lock().expect("no holder panics").get_or_insert(seed);
                            break;
                        }
                    }
                    progress(finished.fetch_add(PORTION, Ordering::Relaxed) + PORTION, seeds, began);
                }
                *total.lock().expect("no holder panics") += counts;
            });
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    let lived = taken.into_inner().min(seeds);
    eprint!("\r");
    println!(
        "{lived} lives from seed {} on {jobs} threads in {seconds:.1} s: {:.0} a second and thread",
        options.first,
        lived as f64 / seconds / jobs as f64
    );
    println!("{}", summary(&total.into_inner().expect("no holder panics")));
    match broken.into_inner().expect("no holder panics") {
        Some(seed) => {
            println!("\nseed {seed}");
            report(&Plan::from_seed(seed))
        }
        None => {
            println!("all {} laws held", Law::ALL.len());
            ExitCode::SUCCESS
        }
    }
}

fn report(plan: &Plan) -> ExitCode {
    let short = plan.shrink(SHRINK_RUNS);
    let Outcome { violation, story, .. } = short.tell();
    if let Some(violation) = &violation {
        println!("BROKEN {violation}\n\nThe shortest life that was found to break it:\n");
    }
    println!("{}", story.join("\n"));
    println!("\n{} of {} steps: {:?}", short.steps.len(), plan.steps.len(), short.steps);
    if let Some(violation) = violation {
        println!(
            "\nBROKEN {violation}\nits story again: cargo run --release --features iotdm-agent/testing --bin simulate -- --plan {short}"
        );
    }
    ExitCode::FAILURE
}

fn summary(counts: &Counts) -> String {
    format!(
        "{} steps, {} hours of device life, {} requests sent, {} handlers started, {} commits, {} processes, {} journals set aside",
        counts.steps,
        counts.seconds / 3600,
        counts.requests,
        counts.starts,
        counts.commits,
        counts.processes,
        counts.set_aside
    )
}

/// Shown where a person looks.
fn progress(lived: u64, seeds: u64, began: Instant) {
    use std::io::IsTerminal;
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let rate = lived as f64 / began.elapsed().as_secs_f64().max(0.001);
        // Nobody needs progress that cannot be written.
        let _ = write!(stderr, "\r{lived} of {seeds} lives, {rate:.0} a second ");
    }
}

/// Lives that a thread takes at once.
const PORTION: u64 = 250;

/// Lives spent on a shorter story.
const SHRINK_RUNS: usize = 5000;
