//! A mosquitto of the test's own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;

use tempfile::TempDir;

/// A mosquitto process on a free port of 127.0.0.1, killed when this is dropped.
#[derive(Debug)]
pub struct Mosquitto {
    folder: TempDir,
    port: u16,
    second: Option<u16>,
    process: Option<Child>,
}

impl Mosquitto {
    /// Starts one that forgets everything when it ends.
    ///
    /// # Panics
    /// There is no mosquitto, or it does not start.
    pub fn start() -> Self {
        Self::with_config("")
    }

    /// Starts one that keeps sessions and messages on disk, across [`stop`](Self::stop) and [`resume`](Self::resume).
    ///
    /// # Panics
    /// There is no mosquitto, or it does not start.
    pub fn persistent() -> Self {
        Self::with_config("persistence true\nautosave_on_changes true\nautosave_interval 1\n")
    }

    /// Starts one that forgets everything when it ends, with another listener on [`second_port`](Self::second_port) that
    /// has these options.
    ///
    /// # Panics
    /// There is no mosquitto, or it does not start.
    pub fn with_listener(options: &str) -> Self {
        let second = free_port();
        let mut mosquitto = Self::with_config(&format!("listener {second} 127.0.0.1\n{options}"));
        mosquitto.second = Some(second);
        mosquitto
    }

    /// Starts one with further lines of its configuration.
    ///
    /// # Panics
    /// There is no mosquitto, or it does not start.
    pub fn with_config(more: &str) -> Self {
        // Between finding the port free and listening on it, somebody else may take it.
        for _ in 0..START_ATTEMPTS {
            let folder = tempfile::tempdir().expect("the temporary folder can be written");
            let port = free_port();
            let place = folder.path().display();
            // The user counts only where mosquitto is started by root: it could not write its folder as another one.
            let config = format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 5000\n\
                 user root\nlog_dest stderr\nlog_type information\nlog_type error\npersistence_location {place}/\n{more}"
            );
            fs::write(folder.path().join(CONFIG), config).expect("the temporary folder can be written");
            let mut mosquitto = Self { folder, port, second: None, process: None };
            if mosquitto.launch() {
                return mosquitto;
            }
        }
        panic!("mosquitto did not start in {START_ATTEMPTS} attempts");
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens, too.
    ///
    /// # Panics
    /// It was not started by [`with_listener`](Self::with_listener).
    pub fn second_port(&self) -> u16 {
        self.second.expect("there is a second listener")
    }

    /// Ends it as `kill -9` does; its port stays known.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Ends it as SIGTERM does: a persistent one saves what it holds.
    ///
    /// # Panics
    /// It does not run, or does not end.
    pub fn terminate(&mut self) {
        let mut process = self.process.take().expect("the test has not stopped it");
        let pid = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the process is ours");
        process.wait().expect("the process is ours");
    }

    /// Starts it again, on its port and its disk.
    ///
    /// # Panics
    /// It does not start.
    pub fn resume(&mut self) {
        self.stop();
        assert!(self.launch(), "mosquitto did not start again on port {}", self.port);
    }

    /// Waits until it says that it runs; `false` when it ends before.
    #[expect(clippy::disallowed_methods, reason = "a broker is started; no handler runs here")]
    fn launch(&mut self) -> bool {
        let path = format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default());
        let started = Command::new("mosquitto")
            .env("PATH", path)
            .arg("-c")
            .arg(self.folder.path().join(CONFIG))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut process = match started {
            Ok(process) => process,
            Err(error) => {
                panic!(
                    "mosquitto cannot be started: {error}; install it (for instance apt install mosquitto)"
                )
            }
        };
        let mut log = BufReader::new(process.stderr.take().expect("the pipe was asked for")).lines();
        let runs = log.by_ref().map_while(Result::ok).any(|line| line.ends_with(" running"));
        self.process = Some(process);
        if runs {
            // A full pipe would stop the broker.
            thread::spawn(move || log.for_each(drop));
        }
        runs
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port of 127.0.0.1 that nobody listens on at this moment.
///
/// # Panics
/// There is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port of 127.0.0.1 is free");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Its configuration, in its folder.
const CONFIG: &str = "mosquitto.conf";

/// How often another port is tried.
const START_ATTEMPTS: usize = 5;
