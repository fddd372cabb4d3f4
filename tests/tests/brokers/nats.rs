use std::path::Path;

use async_trait::async_trait;
use iotdm_tests::mosquitto::free_port;
use tempfile::TempDir;

use super::process::{Log, Process, START_ATTEMPTS, command, put};
use super::server::{Server, Who};

/// `docs/brokers/nats`.
pub(crate) struct Nats {
    folder: TempDir,
    port: u16,
    process: Option<Process>,
}

impl Nats {
    pub(crate) async fn start() -> Self {
        for _ in 0..START_ATTEMPTS {
            let folder = tempfile::tempdir().expect("the temporary folder can be written");
            let (own, port) = (free_port(), free_port());
            put(
                "nats/nats.conf",
                &folder.path().join("nats.conf"),
                &[
                    ("port: 4222", &format!("port: {own}")),
                    ("port: 1883", &format!("port: {port}")),
                    ("/var/lib/nats", &folder.path().join("jetstream").display().to_string()),
                ],
            );
            let process = launch(folder.path()).await;
            if process.is_some() {
                return Self { folder, port, process };
            }
        }
        panic!("nats-server did not start in {START_ATTEMPTS} attempts");
    }
}

async fn launch(folder: &Path) -> Option<Process> {
    let mut nats = command("nats-server");
    nats.arg("-c").arg(folder.join("nats.conf"));
    Process::start(nats, Log::Errors, "Server is ready").await
}

#[async_trait]
impl Server for Nats {
    fn name(&self) -> &'static str {
        "NATS"
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn user(&self, who: Who) -> String {
        who.path()
    }

    async fn restart(&mut self) {
        self.process.take().expect("it runs").terminate().await;
        self.process = launch(self.folder.path()).await;
        assert!(self.process.is_some(), "nats-server did not start again");
    }
}
