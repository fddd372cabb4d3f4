//! Has the reference agent fetch a gigabyte from a server that breaks, ends the agent by `kill -9` on the way, and says
//! what that cost.
//!
//! ```sh
//! cargo build --release -p iotdm-agent --bin iotdm-agent
//! cargo run --release -p iotdm-tests --bin large_image
//! ```
//!
//! Broker, platform and image server are in this process; the agent is the program that ships, with its journal and its
//! configuration file in a temporary folder. With `--write FILE` the image is written to a file, for `minisign -S`; with
//! `--public-key` and `--signature` the agent is configured to take nothing that is not signed.

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use fastrand::Rng;
use iotdm_platform::broker::{Broker, BrokerOptions};
use iotdm_platform::images::{ImageServer, Transfer};
use iotdm_platform::{DeviceName, FirmwareRequest, Image, Platform, PlatformOptions};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

/// Has the reference agent fetch a large image over a line that breaks, and ends it by kill -9 on the way.
#[derive(Debug, Parser)]
#[command(after_help = "Exit status: 0 the image is there and right, 1 it is not.")]
struct Arguments {
    /// Size of the image in MiB.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// How often the server closes the connection, at random offsets.
    #[arg(long, default_value_t = 10)]
    cuts: usize,
    /// How often the agent is ended by kill -9, at random offsets.
    #[arg(long, default_value_t = 2)]
    kills: usize,
    /// Makes the random offsets of a run come again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The agent; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Writes the image to this file, and does nothing else.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Require a signature by this key of minisign.
    #[arg(long, value_name = "KEY", requires = "signature")]
    public_key: Option<String>,
    /// The image's signature, a .minisig file.
    #[arg(long, value_name = "FILE", requires = "public_key")]
    signature: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments = Arguments::parse();
    let server = ImageServer::start(arguments.mib << 20).await?;
    if let Some(file) = &arguments.write {
        server.write_to(&mut File::create(file)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = timeout(PATIENCE, run(&arguments, &server)).await??;
    // Nobody may be reading.
    let _ = write!(stdout(), "{}", report.text);
    Ok(if report.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Report {
    text: String,
    good: bool,
}

async fn run(arguments: &Arguments, server: &ImageServer) -> Result<Report, Box<dyn Error>> {
    let total = arguments.mib << 20;
    let mut random = Rng::with_seed(arguments.seed);
    // Not at the very ends, where a cut cuts nothing and a kill comes too late.
    let mut offsets = |count: usize| {
        let mut offsets: Vec<u64> = (0..count).map(|_| random.u64(total / 50..total - total / 20)).collect();
        offsets.sort_unstable();
        offsets
    };
    let (cuts, kills) = (offsets(arguments.cuts), offsets(arguments.kills));
    cuts.iter().for_each(|cut| server.cut_at(*cut));

    let broker = Broker::start(BrokerOptions::default()).await?;
    let platform = Platform::connect(PlatformOptions::new(broker.local_addr())).await?;
    let mut agent = Agent::prepare(arguments, broker.local_addr().port())?;
    agent.start()?;
    let device = DeviceName::new("lamp", "lamp-17")?;
    platform.managed(&device).await;

    let sha256 = server.sha256();
    let verifier = match &arguments.signature {
        Some(file) => format!("minisign:{}", STANDARD.encode(fs::read(file)?)),
        None => sha256.clone(),
    };
    let image = Image { version: "2.0".into(), uri: server.uri(), verifier, ..Image::default() };
    let request = FirmwareRequest { image: Some(image), ..FirmwareRequest::default() };
    let begin = Instant::now();
    let killing = async {
        for kill in &kills {
            server.reached(*kill).await;
            agent.kill().await?;
            agent.start()?;
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let (downloaded, killed) = tokio::join!(platform.firmware_download(&device, &request), killing);
    killed?;
    let took = begin.elapsed();
    agent.note_memory()?;

    let firmware = platform.device(&device).and_then(|device| device.firmware).unwrap_or_default();
    let (state, status) = (u8::from(firmware.state), u8::from(firmware.update_status));
    let right = agent.image_digest()? == sha256;
    let transfers = server.transfers();
    let fetched: u64 = transfers.iter().map(|transfer| transfer.sent).sum();
    let text = format!(
        "image                {total} bytes, {}\n\
         disconnects          {} of {} at {cuts:?}\n\
         kill -9              {} at {kills:?}\n\
         requests             {} from {:?}\n\
         fetched in all       {fetched} bytes in {:.1} s\n\
         fetched twice        {} bytes\n\
         peak memory (VmHWM)  {:?} KiB, one for each life of the agent\n\
         platform             {}\n\
         at the end           state {state}, updateStatus {status}, digest {}\n",
        if arguments.signature.is_some() { "signed" } else { "with a checksum" },
        made(&cuts, &transfers),
        cuts.len(),
        kills.len(),
        transfers.len(),
        transfers.iter().map(|transfer| transfer.from).collect::<Vec<_>>(),
        took.as_secs_f64(),
        fetched.saturating_sub(total),
        agent.peaks,
        downloaded.as_ref().map_or_else(ToString::to_string, |_| "the download is complete".into()),
        if right { "right" } else { "WRONG" },
    );
    Ok(Report { text, good: right && downloaded.is_ok() && (state, status) == (2, 0) })
}

/// How many of the cuts were made: one that a kill came before by a buffer finds nothing to cut.
fn made(cuts: &[u64], transfers: &[Transfer]) -> usize {
    let ends: Vec<u64> = transfers.iter().map(|transfer| transfer.from + transfer.sent).collect();
    cuts.iter().filter(|cut| ends.contains(cut)).count()
}

/// The program that ships, and the folder it works in.
struct Agent {
    program: PathBuf,
    folder: TempDir,
    child: Option<Child>,
    /// Peak memory of each life, in KiB.
    peaks: Vec<u64>,
}

impl Agent {
    fn prepare(arguments: &Arguments, port: u16) -> Result<Self, Box<dyn Error>> {
        let beside = || std::env::current_exe().map(|program| program.with_file_name("iotdm-agent"));
        let program = arguments.agent.clone().map_or_else(beside, Ok)?;
        let folder = tempfile::tempdir()?;
        let keys = arguments.public_key.as_ref();
        let keys = keys.map_or_else(String::new, |key| format!("public_keys = [\"{key}\"]\n"));
        let configuration = format!(
            "[device]\norg = \"abc123\"\ntype = \"lamp\"\nid = \"lamp-17\"\n\
             [broker]\nhost = \"127.0.0.1\"\nport = {port}\ntls = false\n\
             [journal]\npath = \"journal\"\n\
             [actions.firmware]\nstaging_dir = \"images\"\nmax_image_bytes = {}\n\
             install_command = [\"/usr/bin/true\", \"{{image}}\"]\n{keys}",
            arguments.mib << 20
        );
        fs::write(folder.path().join("agent.toml"), configuration)?;
        Ok(Self { program, folder, child: None, peaks: Vec::new() })
    }

    #[expect(clippy::disallowed_methods, reason = "the program is started as an operator starts it")]
    fn start(&mut self) -> Result<(), Box<dyn Error>> {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log"))?;
        let mut command = Command::new(&self.program);
        command.args(["run", "--config"]).arg(self.folder.path().join("agent.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let started = command.spawn();
        self.child = Some(started.map_err(|error| format!("{}: {error}", self.program.display()))?);
        Ok(())
    }

    /// `kill -9`.
    async fn kill(&mut self) -> Result<(), Box<dyn Error>> {
        self.note_memory()?;
        let child = self.child.as_mut().ok_or("it runs")?;
        child.kill().await?;
        Ok(())
    }

    fn note_memory(&mut self) -> Result<(), Box<dyn Error>> {
        let pid = self.child.as_ref().and_then(Child::id).ok_or("the agent has ended by itself")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("a process has a peak")?;
        self.peaks.push(kib.trim().parse()?);
        Ok(())
    }

    fn image_digest(&self) -> Result<String, Box<dyn Error>> {
        digest(&self.folder.path().join("images/image"))
    }
}

fn digest(path: &Path) -> Result<String, Box<dyn Error>> {
    let mut digest = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => digest.update(&buffer[..count]),
        }
    }
    let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

/// How long all of it may take: a gigabyte over loopback takes seconds.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
