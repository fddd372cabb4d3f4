//! An agent in this process, with the handlers that `docs/vectors` speaks of, over a real connection and a real disk.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use iotdm_agent::testing::TestSystem;
use iotdm_agent::{Agent, Config, Protocol, RunError};
use iotdm_core::{
    BootId, ChildError, ChildExit, ChildOutput, ChildProcess, Performed, Restart, RestartError, System,
};
use iotdm_examples::Options;
use iotdm_examples::bench::{Bench, Echo};
use iotdm_handlers::Restarts;
use iotdm_handlers::firmware::{CommandInstaller, Firmware, FirmwareOptions, HttpFetcher, InstallOptions};
use tempfile::TempDir;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

use crate::within;

/// The device `d:org001:lamp:lamp1`; its journal outlives its agent.
#[derive(Debug)]
pub struct Device {
    options: Options,
    folder: TempDir,
    machine: Arc<Machine>,
    firmware: bool,
    change: Change,
    running: Option<Running>,
}

/// What a test changes of the configuration.
struct Change(Box<dyn Fn(&mut Config) + Send>);

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Change")
    }
}

#[derive(Debug)]
struct Running {
    device: iotdm_agent::Device,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), RunError>>,
}

impl Device {
    /// A device that is switched off, with an empty journal, for the broker on this port of 127.0.0.1.
    ///
    /// # Panics
    /// There is no room for its journal.
    pub fn new(port: u16) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let journal = folder.path().join("journal");
        let options = Options { host: "127.0.0.1".into(), port, journal, for_seconds: None };
        let (machine, change) = (Arc::new(Machine::new()), Change(Box::new(|_| ())));
        Self { options, folder, machine, firmware: true, change, running: None }
    }

    /// With another configuration than the broker's port alone.
    #[must_use]
    pub fn configured(self, change: impl Fn(&mut Config) + Send + 'static) -> Self {
        Self { change: Change(Box::new(change)), ..self }
    }

    /// Without a firmware handler.
    #[must_use]
    pub fn without_firmware(self) -> Self {
        Self { firmware: false, ..self }
    }

    /// With another version of MQTT than 3.1.1.
    #[must_use]
    pub fn speaking(self, protocol: Protocol) -> Self {
        self.configured(move |config| config.broker.protocol = protocol)
    }

    /// Its client id.
    pub fn client_id(&self) -> String {
        self.config().identity.client_id()
    }

    /// The machine it runs on.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The product's side of its agent.
    ///
    /// # Panics
    /// It does not run.
    pub fn product(&self) -> &iotdm_agent::Device {
        &self.running.as_ref().expect("the test has started it").device
    }

    /// Switches it on.
    ///
    /// # Panics
    /// The agent cannot be built.
    pub fn start(&mut self) {
        let mut builder = Agent::builder(self.config())
            .journal(&self.options.journal)
            .system(self.machine.clone())
            .with(Restarts)
            .on::<Echo>(Bench::default());
        if self.firmware {
            let install = Some(InstallOptions::new(CommandInstaller::new(["/install", "{image}"])));
            let options =
                FirmwareOptions { install, ..FirmwareOptions::new(self.folder.path().join("images")) };
            let firmware = Firmware::new(options, Arc::new(HttpFetcher::new()));
            builder = builder.with(firmware.expect("the options are in their ranges"));
        }
        let agent = builder.build().expect("the agent can be built");
        let device = agent.device();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(agent.run_until(async {
            // Dropping the other end stops it too.
            let _ = stopped.await;
        }));
        self.running = Some(Running { device, stop, task });
    }

    /// Ends its agent as `kill -9` does.
    ///
    /// # Panics
    /// It does not run.
    pub async fn kill(&mut self) {
        let running = self.running.take().expect("the test has started it");
        running.task.abort();
        // An aborted task gives an error, and that is what was asked for.
        let _ = running.task.await;
    }

    /// Ends its agent as SIGTERM does.
    ///
    /// # Panics
    /// It does not run, or ends with an error.
    pub async fn stop(&mut self) {
        let running = self.running.take().expect("the test has started it");
        drop(running.stop);
        let ended = within("orderly end of the agent", running.task).await;
        ended.expect("the agent does not panic").expect("the agent ends without an error");
    }

    /// Waits for the restart that the agent has promised, lets the machine restart, and switches the device on again.
    pub async fn restart(&mut self) {
        self.machine.restart_begun().await;
        self.kill().await;
        self.machine.clock.next_boot();
        self.start();
    }

    /// Waits until its agent ends by itself, and says why it did.
    ///
    /// # Panics
    /// It does not run, or goes on.
    pub async fn ended(&mut self) -> Result<(), RunError> {
        let running = self.running.take().expect("the test has started it");
        within("end of the agent", running.task).await.expect("the agent does not panic")
    }

    /// How its agent is set up.
    ///
    /// # Panics
    /// Never: the identity keeps the grammar.
    pub fn config(&self) -> Config {
        let mut config = self.options.config("lamp", "lamp1").expect("the identity keeps the grammar");
        (self.change.0)(&mut config);
        config
    }
}

/// A machine that restarts when the test says so, and installs when the test lets it.
#[derive(Debug)]
pub struct Machine {
    clock: TestSystem,
    restarts: watch::Sender<usize>,
    installations: Semaphore,
}

impl Machine {
    fn new() -> Self {
        Self { clock: TestSystem::new(), restarts: watch::Sender::new(0), installations: Semaphore::new(0) }
    }

    /// Lets one installation end; until then its command runs.
    pub fn let_install(&self) {
        self.installations.add_permits(1);
    }

    /// Waits until a restart was begun since this was last called.
    async fn restart_begun(&self) {
        let mut restarts = self.restarts.subscribe();
        within("restart", restarts.wait_for(|count| *count > 0))
            .await
            .expect("the sender is in this machine");
        self.restarts.send_modify(|count| *count -= 1);
    }

    /// How many restarts were begun in all.
    pub fn restarts(&self) -> usize {
        self.clock.restarts().len()
    }
}

#[async_trait]
impl System for Machine {
    fn wall_clock(&self) -> Duration {
        self.clock.wall_clock()
    }

    fn uptime(&self) -> Duration {
        self.clock.uptime()
    }

    fn boot_id(&self) -> BootId {
        self.clock.boot_id()
    }

    async fn restart(&self, kind: Restart) -> Result<Performed, RestartError> {
        let result = self.clock.restart(kind).await;
        self.restarts.send_modify(|count| *count += 1);
        result
    }

    async fn run(&self, _: ChildProcess) -> Result<ChildOutput, ChildError> {
        self.installations.acquire().await.expect("nobody closes the semaphore").forget();
        let nothing = Vec::new;
        Ok(ChildOutput { exit: ChildExit::Status(0), stdout: nothing(), stderr: nothing(), truncated: false })
    }
}
