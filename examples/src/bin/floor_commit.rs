//! What a commit of the journal costs, beside an appended and synced line: the floor of every durable request.
//!
//! ```sh
//! cargo run --release -p iotdm-examples --bin floor_commit -- --commits 2000
//! ```
//!
//! A request that is carried out and answered costs two commits when it comes alone, and a share of two when many come
//! together.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;

use clap::Parser;
use iotdm_agent::store::{Change, SledSource, StoreSource};
use tokio::time::Instant;

/// Measures commits in a temporary folder.
#[derive(Parser)]
struct Options {
    /// How many of each.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    commits: u32,
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "the figures are the product of this program")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Options { commits } = Options::parse();
    let folder = tempfile::tempdir()?;

    let mut file = OpenOptions::new().create(true).append(true).open(folder.path().join("appended"))?;
    let append = measure(commits, |_| {
        file.write_all(&[b'x'; RECORD_BYTES])?;
        Ok(file.sync_data()?)
    })?;

    let mut store = SledSource::new(folder.path().join("journal")).open()?;
    let commit = measure(commits, |n| {
        let record = Change::Put { key: n.to_be_bytes().to_vec(), value: vec![b'x'; RECORD_BYTES] };
        let place =
            Change::Put { key: (n ^ u64::MAX).to_be_bytes().to_vec(), value: vec![b'x'; PLACE_BYTES] };
        Ok(store.commit(&[record, place])?)
    })?;

    println!("append and sync: {:6.1} us wall, {:6.1} us CPU", append.0, append.1);
    println!("journal commit:  {:6.1} us wall, {:6.1} us CPU", commit.0, commit.1);
    println!(
        "ratio:           {:6.1}    wall, {:6.1}    CPU",
        commit.0 / append.0,
        commit.1 / append.1.max(1.0)
    );
    Ok(())
}

/// Microseconds of wall clock and of CPU time, all threads together, that each call takes.
fn measure(
    times: u32,
    mut call: impl FnMut(u64) -> Result<(), Box<dyn Error>>,
) -> Result<(f64, f64), Box<dyn Error>> {
    let (began, cpu) = (Instant::now(), cpu_seconds()?);
    for n in 0..u64::from(times) {
        call(n)?;
    }
    let each = |seconds: f64| seconds * 1e6 / f64::from(times);
    Ok((each(began.elapsed().as_secs_f64()), each(cpu_seconds()? - cpu)))
}

/// User and system time of this process so far, which Linux counts in hundredths of a second.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').ok_or("an unknown form of /proc/self/stat")?.1;
    let times: Vec<f64> =
        fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(times.iter().sum::<f64>() / 100.0)
}

/// About the size of a request's record, in bytes.
const RECORD_BYTES: usize = 300;

/// About the size of a place in the outbox, in bytes.
const PLACE_BYTES: usize = 40;
