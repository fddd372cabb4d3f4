use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use async_trait::async_trait;
use iotdm_tests::mosquitto::free_port;
use tempfile::TempDir;
use tokio::process::Child;

use super::process::{Log, Process, command, put};
use super::server::{Server, Who};

/// `docs/brokers/rabbitmq`, one node or a cluster.
pub(crate) struct Rabbitmq {
    // In the order in which they end: nodes before the port mapper that they are registered with.
    nodes: Vec<Node>,
    _port_mapper: Child,
    folder: TempDir,
    port_mapper_port: u16,
}

struct Node {
    number: usize,
    mqtt_port: u16,
    distribution_port: u16,
    process: Option<Process>,
}

impl Rabbitmq {
    pub(crate) async fn start(nodes: usize) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let cookie = folder.path().join(".erlang.cookie");
        fs::write(&cookie, "OF-THIS-TEST-ALONE").expect("the temporary folder can be written");
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400)).expect("the file is ours");
        put("rabbitmq/definitions.json", &folder.path().join("definitions.json"), &[]);
        put("rabbitmq/enabled_plugins", &folder.path().join("enabled_plugins"), &[]);
        let port_mapper_port = free_port();
        let mut port_mapper = command("epmd");
        port_mapper.args(["-address", "127.0.0.1", "-port", &port_mapper_port.to_string()]);
        let _port_mapper = port_mapper.kill_on_drop(true).spawn().expect("epmd comes with Erlang");
        let mut broker = Self { nodes: Vec::new(), _port_mapper, folder, port_mapper_port };
        for number in 1..=nodes {
            let mut node =
                Node { number, mqtt_port: free_port(), distribution_port: free_port(), process: None };
            node.write(broker.folder.path(), nodes > 1);
            node.launch(broker.folder.path(), broker.port_mapper_port).await;
            broker.nodes.push(node);
        }
        broker
    }
}

impl Node {
    fn write(&self, folder: &Path, in_cluster: bool) {
        let own = folder.join(self.number.to_string());
        fs::create_dir(&own).expect("the temporary folder can be written");
        let target = own.join("rabbitmq.conf");
        let definitions = folder.join("definitions.json").display().to_string();
        put(
            "rabbitmq/rabbitmq.conf",
            &target,
            &[
                ("127.0.0.1:1883", &format!("127.0.0.1:{}", self.mqtt_port)),
                ("/etc/rabbitmq/definitions.json", &definitions),
            ],
        );
        if in_cluster {
            let more = own.join("cluster.conf");
            put("rabbitmq/cluster.conf", &more, &[]);
            let both = [target.clone(), more].map(|path| fs::read_to_string(path).expect("it was written"));
            fs::write(target, both.concat()).expect("the temporary folder can be written");
        }
    }

    async fn launch(&mut self, folder: &Path, port_mapper_port: u16) {
        let own = folder.join(self.number.to_string());
        let mut server = command("/usr/lib/rabbitmq/bin/rabbitmq-server");
        server
            .env("HOME", folder)
            .env("ERL_EPMD_PORT", port_mapper_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // Then the script becomes the node, and is ended with it.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env("RABBITMQ_NODENAME", format!("iotdm-{}@localhost", self.number))
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", own.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", own.join("log"))
            .env("RABBITMQ_CONFIG_FILE", own.join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2");
        self.process = Process::start(server, Log::Output, "completed with").await;
        assert!(self.process.is_some(), "node {} of RabbitMQ did not start", self.number);
    }
}

#[async_trait]
impl Server for Rabbitmq {
    fn name(&self) -> &'static str {
        if self.nodes.len() == 1 { "RabbitMQ" } else { "three nodes" }
    }

    fn port(&self) -> u16 {
        self.nodes[0].mqtt_port
    }

    fn platform_port(&self) -> u16 {
        self.nodes.get(1).unwrap_or(&self.nodes[0]).mqtt_port
    }

    fn user(&self, who: Who) -> String {
        who.path().replace('/', ".")
    }

    async fn restart(&mut self) {
        let (folder, port_mapper_port) = (self.folder.path(), self.port_mapper_port);
        let node = &mut self.nodes[0];
        node.process.take().expect("it runs").terminate().await;
        node.launch(folder, port_mapper_port).await;
    }

    fn restart_cuts_platform(&self) -> bool {
        self.nodes.len() == 1
    }
}
