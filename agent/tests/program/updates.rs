//! Updates by what an operator has configured, from the download to the last word, over the end of the program and over
//! restarts of the machine.

use std::fs;
use std::path::PathBuf;

use iotdm_core::{FirmwareState, UpdateStatus};
use iotdm_platform::images::ImageServer;
use iotdm_platform::{FirmwareError, FirmwareRequest, RequestHandle};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::downloads::{request, told};
use crate::harness::{Place, Program, World, lamp, until, within};

/// A lamp's own folder: its firmware, and the programs of its operator. Each writes down that it was called.
struct Lamp {
    world: World,
    server: ImageServer,
    folder: TempDir,
    place: Place,
}

impl Lamp {
    async fn new(sections: impl Fn(&str) -> String) -> Self {
        let (world, server) = (World::start().await, ImageServer::start(100_000).await.expect("a free port"));
        let folder = TempDir::new().expect("a folder for temporary files");
        let path = folder.path().canonicalize().expect("the folder is ours").display().to_string();
        let place = Place::new(world.broker.local_addr(), &sections(&path));
        let lamp = Self { world, server, folder, place };
        lamp.write("firmware", "the old one");
        lamp.write("booted", "A\n");
        lamp.write("next", "A\n");
        lamp
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("the folder is ours");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_default()
    }

    /// Which programs were called, in their order.
    fn calls(&self) -> String {
        String::from_utf8(self.read("calls")).expect("programs write text").replace('\n', " ")
    }

    fn image(&self) -> Vec<u8> {
        let mut image = Vec::new();
        self.server.write_to(&mut image).expect("memory takes it");
        image
    }

    async fn download(&self) {
        within(self.world.platform.managed(&lamp())).await;
        let (lamp, request) = (lamp(), request(&self.server));
        let downloaded = self.world.platform.firmware_download(&lamp, &request);
        within(downloaded).await.expect("the image is there");
    }

    async fn update(&self) -> Result<RequestHandle, FirmwareError> {
        within(self.world.platform.firmware_update(&lamp(), &FirmwareRequest::default())).await
    }

    /// The machine goes down once the program has told it to, and its boot loader starts what comes next.
    async fn restart(&self, mut agent: Program, boot: u8) -> Program {
        agent.line("the device is about to restart").await;
        agent.signal(Signal::KILL);
        agent.ended().await;
        fs::copy(self.path("next"), self.path("booted")).expect("the folder is ours");
        self.place.start_in_boot(boot, &["run"])
    }

    /// What the platform has of an update that failed: the reason of it, from the log.
    async fn check_failed(&self, reason: &str) {
        assert_eq!(told(&self.world), (FirmwareState::Idle, UpdateStatus::UnsupportedImage));
        let log = || self.world.platform.device(&lamp()).map(|device| device.log).unwrap_or_default();
        within(self.world.platform.wait_until(|_| !log().is_empty())).await;
        assert!(log().iter().any(|entry| entry.message.ends_with(reason)), "{:?}", log());
    }
}

/// A command of the configuration: writes down its name and `$0`, and does something.
fn program(path: &str, key: &str, does: &str, argument: &str) -> String {
    let script = format!("echo {key} $0 >> {path}/calls; {does}");
    format!("{key} = [\"/bin/sh\", \"-c\", \"{script}\", \"{argument}\"]\n")
}

/// One file, put to use by a program and not by a restart of the machine. The health check waits until it may end.
fn file(path: &str) -> String {
    let check = format!("while [ ! -e {path}/go ]; do sleep 0.02; done; sh {path}/verdict");
    [
        "[actions.firmware]\nstaging_dir = \"images\"\ninstaller = \"file\"\nmanaged_within = \"1m\"\n"
            .into(),
        program(path, "health_check", &check, "{version}"),
        format!("[actions.firmware.file]\ntarget = \"{path}/firmware\"\n"),
        program(path, "activate_command", "true", "{version}"),
    ]
    .concat()
}

/// The same file, and a restart of the machine to put it to use.
fn file_and_restart(path: &str) -> String {
    [
        "[actions.firmware]\nstaging_dir = \"images\"\ninstaller = \"file\"\nmanaged_within = \"1m\"\n"
            .into(),
        "restart_after_install = true\n".into(),
        program(path, "health_check", &format!("sh {path}/verdict"), "{version}"),
        format!("[actions.firmware.file]\ntarget = \"{path}/firmware\"\n"),
        "[actions.reboot]\n".into(),
        program(path, "command", "true", "reboot"),
    ]
    .concat()
}

/// Two slots that the operator's programs know of.
fn slots(path: &str) -> String {
    let install = format!("cp $0 {path}/B; echo B > {path}/next; echo install $1 >> {path}/calls");
    [
        "[actions.firmware]\nstaging_dir = \"images\"\ninstaller = \"command\"\nmanaged_within = \"1m\"\n"
            .into(),
        "restart_after_install = true\n".into(),
        format!("install_command = [\"/bin/sh\", \"-c\", \"{install}\", \"{{image}}\", \"{{version}}\"]\n"),
        format!("running_command = [\"/bin/cat\", \"{path}/booted\"]\n"),
        program(path, "commit_command", "true", "{version}"),
        program(path, "rollback_command", &format!("echo $0 > {path}/next"), "{before}"),
        program(path, "health_check", &format!("sh {path}/verdict"), "{version}"),
        "[actions.reboot]\n".into(),
        program(path, "command", "true", "reboot"),
    ]
    .concat()
}

/// The program is killed in the middle of its judgement, which the next one makes again.
#[tokio::test]
async fn a_file_is_swapped_and_judged_by_the_program_that_comes_after_a_kill() {
    let lamp = Lamp::new(file).await;
    let first = lamp.place.start(&["run"]);
    lamp.download().await;
    lamp.write("verdict", "exit 0");
    let killing = async {
        until(|| lamp.calls().contains("health_check")).await;
        assert_eq!(lamp.read("firmware"), lamp.image());
        assert_eq!(lamp.read(".firmware.old"), b"the old one");
        first.signal(Signal::KILL);
        first.ended().await;
        lamp.write("go", "");
        lamp.place.start(&["run"])
    };
    let (updated, _second) = tokio::join!(lamp.update(), killing);
    updated.unwrap();
    assert_eq!(told(&lamp.world), (FirmwareState::Idle, UpdateStatus::Success));
    assert_eq!(lamp.calls(), "activate_command 2.0 health_check 2.0 health_check 2.0 ");
    assert_eq!(lamp.read("firmware"), lamp.image());
    assert!(!lamp.path(".firmware.old").exists());
}

#[tokio::test]
async fn a_file_that_is_not_healthy_is_swapped_back_and_put_to_use_again() {
    let lamp = Lamp::new(file).await;
    let _agent = lamp.place.start(&["run"]);
    lamp.download().await;
    lamp.write("verdict", "exit 3");
    lamp.write("go", "");
    lamp.update().await.unwrap_err();
    lamp.check_failed("failed: the health check ended with exit status 3; rolled back").await;
    assert_eq!(lamp.calls(), "activate_command 2.0 health_check 2.0 activate_command 2.0 ");
    assert_eq!(lamp.read("firmware"), b"the old one");
    assert!(!lamp.path(".firmware.old").exists());
}

#[tokio::test]
#[ignore = "gives the program another boot id by a mount of its own: needs unshare and root, or user namespaces"]
async fn slots_that_are_healthy_after_the_restart_are_committed() {
    let lamp = Lamp::new(slots).await;
    let agent = lamp.place.start(&["run"]);
    lamp.download().await;
    lamp.write("verdict", "exit 0");
    let (updated, _agent) = tokio::join!(lamp.update(), lamp.restart(agent, 2));
    updated.unwrap();
    assert_eq!(told(&lamp.world), (FirmwareState::Idle, UpdateStatus::Success));
    assert_eq!(lamp.calls(), "install 2.0 command reboot health_check 2.0 commit_command 2.0 ");
    assert_eq!((lamp.read("B"), lamp.read("booted")), (lamp.image(), b"B\n".to_vec()));
}

#[tokio::test]
#[ignore = "gives the program another boot id by a mount of its own: needs unshare and root, or user namespaces"]
async fn slots_that_are_not_healthy_after_the_restart_are_rolled_back_with_another() {
    let lamp = Lamp::new(slots).await;
    let agent = lamp.place.start(&["run"]);
    lamp.download().await;
    lamp.write("verdict", "exit 3");
    let restarting = async {
        let agent = lamp.restart(agent, 2).await;
        lamp.restart(agent, 3).await
    };
    let (updated, _agent) = tokio::join!(lamp.update(), restarting);
    updated.unwrap_err();
    lamp.check_failed("failed: the health check ended with exit status 3; rolled back to A").await;
    let calls = "install 2.0 command reboot health_check 2.0 rollback_command A command reboot ";
    assert_eq!((lamp.calls().as_str(), lamp.read("booted")), (calls, b"A\n".to_vec()));
}

#[tokio::test]
#[ignore = "gives the program another boot id by a mount of its own: needs unshare and root, or user namespaces"]
async fn a_file_stays_or_goes_by_what_is_found_after_the_restart() {
    for healthy in [true, false] {
        let lamp = Lamp::new(file_and_restart).await;
        let agent = lamp.place.start(&["run"]);
        lamp.download().await;
        lamp.write("verdict", if healthy { "exit 0" } else { "exit 3" });
        let restarting = async {
            let agent = lamp.restart(agent, 2).await;
            if healthy { agent } else { lamp.restart(agent, 3).await }
        };
        let (updated, _agent) = tokio::join!(lamp.update(), restarting);
        assert_eq!(updated.is_ok(), healthy);
        if healthy {
            assert_eq!(lamp.calls(), "command reboot health_check 2.0 ");
            assert_eq!(lamp.read("firmware"), lamp.image());
        } else {
            lamp.check_failed("failed: the health check ended with exit status 3; rolled back").await;
            assert_eq!(lamp.calls(), "command reboot health_check 2.0 command reboot ");
            assert_eq!(lamp.read("firmware"), b"the old one");
        }
    }
}
