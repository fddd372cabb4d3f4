use std::path::Path;

use async_trait::async_trait;
use iotdm_tests::mosquitto::free_port;
use tempfile::TempDir;

use super::process::{Log, Process, START_ATTEMPTS, command, put};
use super::server::{Server, Who};

/// `docs/brokers/mosquitto`.
pub(crate) struct Mosquitto {
    folder: TempDir,
    port: u16,
    process: Option<Process>,
}

impl Mosquitto {
    pub(crate) async fn start() -> Self {
        for _ in 0..START_ATTEMPTS {
            let folder = tempfile::tempdir().expect("the temporary folder can be written");
            let port = free_port();
            write(folder.path(), port).await;
            let process = launch(folder.path()).await;
            if process.is_some() {
                return Self { folder, port, process };
            }
        }
        panic!("mosquitto did not start in {START_ATTEMPTS} attempts");
    }
}

async fn write(folder: &Path, port: u16) {
    let path = |name: &str| folder.join(name).display().to_string();
    put("mosquitto/acl", &folder.join("acl"), &[]);
    let changes = [
        ("listener 1883 127.0.0.1", format!("listener {port} 127.0.0.1")),
        ("password_file /etc/mosquitto/passwords", format!("password_file {}", path("passwords"))),
        ("acl_file /etc/mosquitto/acl", format!("acl_file {}", path("acl"))),
        // The user counts only where mosquitto is started by root: it could not write its folder as another one.
        (
            "persistence_location /var/lib/mosquitto/",
            format!("persistence_location {}/\nuser root\nlog_dest stderr", folder.display()),
        ),
    ];
    let changes: Vec<(&str, &str)> = changes.iter().map(|(from, to)| (*from, to.as_str())).collect();
    put("mosquitto/mosquitto.conf", &folder.join("mosquitto.conf"), &changes);
    for who in [Who::Platform, Who::Lamp(1), Who::Lamp(2), Who::Gateway] {
        let mut passwd = command("mosquitto_passwd");
        passwd.arg("-b");
        if who == Who::Platform {
            passwd.arg("-c");
        }
        let status = passwd.arg(path("passwords")).arg(who.path()).arg(who.password()).status().await;
        assert!(status.expect("mosquitto_passwd comes with mosquitto").success());
    }
}

async fn launch(folder: &Path) -> Option<Process> {
    let mut mosquitto = command("mosquitto");
    mosquitto.arg("-c").arg(folder.join("mosquitto.conf"));
    Process::start(mosquitto, Log::Errors, " running").await
}

#[async_trait]
impl Server for Mosquitto {
    fn name(&self) -> &'static str {
        "mosquitto"
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
        assert!(self.process.is_some(), "mosquitto did not start again");
    }
}
