use std::path::Path;

use async_trait::async_trait;
use iotdm_tests::mosquitto::free_port;
use iotdm_tests::within;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use super::process::{Log, Process, START_ATTEMPTS, command, put};
use super::server::{Server, Who};

/// `docs/brokers/nats`.
pub(crate) struct Nats {
    folder: TempDir,
    port: u16,
    /// Where it speaks its own protocol.
    own: u16,
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
                return Self { folder, port, own, process };
            }
        }
        panic!("nats-server did not start in {START_ATTEMPTS} attempts");
    }

    /// What it answers to a user who speaks its own protocol, and wants to hear what MQTT delivers to others.
    pub(crate) async fn answer_to(&self, who: Who) -> String {
        let stream = TcpStream::connect(("127.0.0.1", self.own)).await.expect("it listens there");
        let mut stream = BufStream::new(stream);
        let mut answer = String::new();
        stream.read_line(&mut answer).await.expect("it says who it is");
        let (user, password) = (who.path(), who.password());
        let connect = format!(
            "CONNECT {{\"verbose\":true,\"user\":\"{user}\",\"pass\":\"{password}\"}}\r\nSUB $MQTT.sub.> 1\r\n"
        );
        stream.write_all(connect.as_bytes()).await.expect("it reads");
        stream.flush().await.expect("it reads");
        answer.clear();
        within("answer of NATS", stream.read_line(&mut answer)).await.expect("it answers");
        answer.trim_end().to_owned()
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
