//! RAUC and SWUpdate as Debian packages them, below their installers.
//!
//! What no machine without a boot loader can show is played by a script: RAUC's "custom" boot loader back end, which
//! keeps the primary slot and the slots' states in files. Slots are files, a restart is a new start of RAUC's service
//! that is told another booted slot. Needs root (RAUC mounts bundles by loop devices), and the packages
//! `rauc squashfs-tools dbus swupdate cpio openssl`.

#![expect(clippy::disallowed_methods, reason = "the machine below the installers is made of real programs")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use iotdm_agent::system::LinuxSystem;
use iotdm_core::{Context, ContextParts, Declined, Report, ReqId, Services, Subject};
use iotdm_handlers::firmware::{Activation, InstallError, Installer, Job, RaucInstaller, SwupdateInstaller};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// An agent that keeps nothing: installers ask it for a thread, and no more.
struct Threads;

#[async_trait]
impl Services for Threads {
    fn attribute(&self, _: &str) -> Option<Value> {
        None
    }

    async fn set_attributes(&self, _: Vec<(String, Value)>) -> Result<(), Declined> {
        Ok(())
    }

    async fn report(&self, _: Report) -> Result<(), Declined> {
        Ok(())
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(work);
    }
}

fn context() -> Context {
    // What a program wrote that failed is in the log, and nowhere else.
    let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    Context::new(ContextParts {
        req_id: Some(ReqId::from_text("r1")),
        subject: Subject::Connected,
        attempt: 1,
        deadline: Instant::now() + Duration::from_secs(120),
        rebooted: false,
        cancellation: CancellationToken::new(),
        system: Arc::new(LinuxSystem::new().expect("this is Linux")),
        services: Arc::new(Threads),
    })
}

/// Runs a program to its good end.
async fn run(folder: &Path, program: &str, args: &[&str]) {
    let child = Command::new(program).args(args).current_dir(folder).output();
    let output = timeout(GENEROUS, child).await.expect("it ends").expect("it is installed");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).expect("the temporary folder can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .expect("the temporary folder can be written");
}

/// A key that is thrown away, and its certificate.
async fn make_key(folder: &Path) {
    let words = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 3650 -subj /CN=test \
                 -addext extendedKeyUsage=emailProtection";
    run(folder, "openssl", &words.split_whitespace().collect::<Vec<_>>()).await;
}

/// A machine with two slots in files, a bus of its own, and RAUC's service on it.
struct RaucMachine {
    folder: TempDir,
    _bus: Child,
    service: Child,
}

impl RaucMachine {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let path = folder.path();
        let here = path.display();
        make_key(path).await;
        fs::create_dir(path.join("mnt")).expect("the temporary folder can be written");
        for slot in ["slotA", "slotB"] {
            fs::write(path.join(slot), vec![0; 1024 * 1024]).expect("the temporary folder can be written");
        }
        fs::write(path.join("primary"), "A\n").expect("the temporary folder can be written");
        script(&path.join("boot"), &BOOT_LOADER.replace("HERE", &here.to_string()));
        fs::write(path.join("system.conf"), SYSTEM_CONF.replace("HERE", &here.to_string()))
            .expect("the temporary folder can be written");
        fs::write(path.join("bus.conf"), BUS_CONF.replace("HERE", &here.to_string()))
            .expect("the temporary folder can be written");
        let rauc = format!(
            "#!/bin/sh\nexport DBUS_SYSTEM_BUS_ADDRESS=unix:path={here}/bus\nexec /usr/bin/rauc \"$@\"\n"
        );
        script(&path.join("rauc"), &rauc);
        let bus = Command::new("dbus-daemon")
            .args(["--config-file=bus.conf", "--nofork", "--nopidfile"])
            .current_dir(path)
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("dbus-daemon is installed");
        while !path.join("bus").exists() {
            sleep(A_MOMENT).await;
        }
        let service = Self::service(path, "A");
        let machine = Self { folder, _bus: bus, service };
        machine.until_booted("A").await;
        machine
    }

    fn service(folder: &Path, booted: &str) -> Child {
        Command::new(folder.join("rauc"))
            .args(["--conf", "system.conf", "service", &format!("--override-boot-slot={booted}")])
            .current_dir(folder)
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("rauc is installed")
    }

    /// What the boot loader and the kernel would do.
    async fn restart_into(&mut self, slot: &str) {
        self.service.kill().await.expect("it runs");
        self.service = Self::service(self.folder.path(), slot);
        self.until_booted(slot).await;
    }

    async fn until_booted(&self, slot: &str) {
        let cx = context();
        let job = Job::new(&cx, Path::new("/none"), self.folder.path());
        let booted = async {
            while self.installer().running(&job).await != Ok(Some(slot.to_owned())) {
                sleep(A_MOMENT).await;
            }
        };
        timeout(GENEROUS, booted).await.expect("the service starts");
    }

    fn installer(&self) -> RaucInstaller {
        RaucInstaller { program: self.folder.path().join("rauc") }
    }

    /// A bundle with this in its root file system.
    async fn bundle(&self, content: &[u8]) -> PathBuf {
        let input = self.folder.path().join("input");
        fs::create_dir(&input).expect("the temporary folder can be written");
        fs::write(input.join("rootfs.img"), content).expect("the temporary folder can be written");
        let manifest = "[update]\ncompatible=test\nversion=2.0\n[image.rootfs]\nfilename=rootfs.img\n";
        fs::write(input.join("manifest.raucm"), manifest).expect("the temporary folder can be written");
        let args = ["--cert", "cert.pem", "--key", "key.pem", "bundle", "input", "image.raucb"];
        run(self.folder.path(), "rauc", &args).await;
        self.folder.path().join("image.raucb")
    }

    fn state(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default().trim().to_owned()
    }
}

#[tokio::test]
#[ignore = "needs rauc"]
async fn rauc_installs_a_bundle_into_the_other_slot_and_marks_it_good() {
    let mut machine = RaucMachine::new().await;
    let content = vec![7; 100 * 1024];
    let image = machine.bundle(&content).await;
    let cx = context();
    let folder = machine.folder.path().to_owned();
    let job = Job::new(&cx, &image, &folder).with_before(Some("A"));
    let rauc = machine.installer();
    assert_eq!(rauc.running(&job).await, Ok(Some("A".into())));
    assert_eq!(rauc.install(&job).await, Ok(Activation::AfterRestart));
    assert_eq!(fs::read(folder.join("slotB")).unwrap()[..content.len()], content, "the other slot has it");
    assert_eq!((machine.state("primary"), machine.state("state.B")), ("B".into(), "bad".into()));
    machine.restart_into("B").await;
    assert_eq!(rauc.commit(&job).await, Ok(()));
    assert_eq!(rauc.commit(&job).await, Ok(()), "it may be repeated");
    assert_eq!((machine.state("primary"), machine.state("state.B")), ("B".into(), "good".into()));
}

#[tokio::test]
#[ignore = "needs rauc"]
async fn rauc_marks_the_booted_slot_bad_or_the_running_one_active_again() {
    let mut machine = RaucMachine::new().await;
    let image = machine.bundle(&[7; 4096]).await;
    let cx = context();
    let folder = machine.folder.path().to_owned();
    let job = Job::new(&cx, &image, &folder).with_before(Some("A"));
    let rauc = machine.installer();
    rauc.install(&job).await.unwrap();
    // Never booted.
    assert_eq!(rauc.rollback(&job).await, Ok(Some(Activation::Immediate)));
    assert_eq!(machine.state("primary"), "A");
    rauc.install(&job).await.unwrap();
    machine.restart_into("B").await;
    assert_eq!(rauc.rollback(&job).await, Ok(Some(Activation::AfterRestart)));
    assert_eq!(machine.state("state.B"), "bad");
    machine.restart_into("A").await;
    assert_eq!(rauc.running(&job).await, Ok(Some("A".into())));
}

#[tokio::test]
#[ignore = "needs rauc"]
async fn rauc_refuses_what_is_no_bundle_and_one_of_an_unknown_signer() {
    let machine = RaucMachine::new().await;
    let image = machine.bundle(&[7; 4096]).await;
    let cx = context();
    let folder = machine.folder.path().to_owned();
    let rauc = machine.installer();
    let cut = folder.join("cut.raucb");
    fs::write(&cut, &fs::read(&image).unwrap()[..2000]).unwrap();
    let other = RaucMachine::new().await;
    let foreign = other.bundle(&[7; 4096]).await;
    for image in [&cut, &foreign] {
        let job = Job::new(&cx, image, &folder).with_before(Some("A"));
        let refused = rauc.install(&job).await;
        assert_eq!(refused, Err(InstallError::Failed("rauc install ended with exit status 1".into())));
        assert_eq!((machine.state("primary"), machine.state("state.B")), ("A".into(), String::new()));
    }
}

/// An image for two copies of a file, signed or not.
async fn swu(folder: &Path, signed: bool) -> PathBuf {
    fs::write(folder.join("lamp.bin"), "the new one").expect("the temporary folder can be written");
    let sum = Command::new("sha256sum")
        .arg("lamp.bin")
        .current_dir(folder)
        .output()
        .await
        .expect("coreutils are installed");
    let sum = String::from_utf8_lossy(&sum.stdout).split(' ').next().unwrap_or_default().to_owned();
    let copy = |name: &str| {
        format!(
            "{name}: {{ files: ( {{ filename = \"lamp.bin\"; path = \"{}/{name}\"; sha256 = \"{sum}\"; }} ); }};",
            folder.display()
        )
    };
    let description = format!(
        "software = {{ version = \"2.0\"; hardware-compatibility: [ \"1.0\" ]; stable = {{ {} {} }}; }}\n",
        copy("copy1"),
        copy("copy2")
    );
    fs::write(folder.join("sw-description"), description).expect("the temporary folder can be written");
    let sign = "cms -sign -in sw-description -out sw-description.sig -signer cert.pem -inkey key.pem -outform DER \
                -nosmimecap -binary";
    run(folder, "openssl", &sign.split_whitespace().collect::<Vec<_>>()).await;
    let names = if signed {
        "sw-description\\nsw-description.sig\\nlamp.bin\\n"
    } else {
        "sw-description\\nlamp.bin\\n"
    };
    run(folder, "sh", &["-c", &format!("printf '{names}' | cpio -o -H crc > image.swu")]).await;
    folder.join("image.swu")
}

#[tokio::test]
#[ignore = "needs swupdate"]
async fn swupdate_installs_the_copy_beside_the_one_that_runs_and_refuses_what_is_not_signed() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path();
    make_key(folder).await;
    fs::write(folder.join("copy"), "1\n").unwrap();
    let words = |text: &str| {
        Some(text.replace("HERE", &folder.display().to_string()).split(' ').map(str::to_owned).collect())
    };
    let swupdate = SwupdateInstaller {
        key: Some(folder.join("cert.pem")),
        select: BTreeMap::from([("1".into(), "stable,copy2".into()), ("2".into(), "stable,copy1".into())]),
        // The board, and no boot loader whose environment could be written.
        args: ["-H", "board:1.0", "-M", "-m"].map(str::to_owned).into(),
        running: words("/bin/cat HERE/copy"),
        ..SwupdateInstaller::new()
    };
    let cx = context();
    let before = swupdate.running(&Job::new(&cx, Path::new("/none"), folder)).await.unwrap();
    assert_eq!(before.as_deref(), Some("1"));

    let image = swu(folder, true).await;
    let job = Job::new(&cx, &image, folder).with_before(before.as_deref());
    assert_eq!(swupdate.install(&job).await, Ok(Activation::AfterRestart));
    assert_eq!(fs::read_to_string(folder.join("copy2")).unwrap(), "the new one");
    assert!(!folder.join("copy1").exists(), "the copy that runs is left alone");

    // The last: SWUpdate now and then fails when it is started right after itself.
    let image = swu(folder, false).await;
    let job = Job::new(&cx, &image, folder).with_before(before.as_deref());
    fs::remove_file(folder.join("copy2")).unwrap();
    let refused = swupdate.install(&job).await;
    assert_eq!(refused, Err(InstallError::Failed("swupdate ended with exit status 1".into())));
    assert!(!folder.join("copy2").exists(), "nothing is installed");
}

/// A boot loader as RAUC's custom back end wants it.
const BOOT_LOADER: &str = "#!/bin/sh
cd HERE
case $1 in
get-primary) cat primary ;;
set-primary) echo $2 >primary ;;
get-state) cat state.$2 2>/dev/null || echo good ;;
set-state) echo $3 >state.$2 ;;
esac
";

const SYSTEM_CONF: &str = "[system]
compatible=test
bootloader=custom
mountprefix=HERE/mnt
statusfile=HERE/status.raucs

[keyring]
path=HERE/cert.pem

[handlers]
bootloader-custom-backend=HERE/boot

[slot.rootfs.0]
device=HERE/slotA
type=raw
bootname=A

[slot.rootfs.1]
device=HERE/slotB
type=raw
bootname=B
";

const BUS_CONF: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=HERE/bus</listen><policy context="default"><allow user="*"/>
<allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow receive_sender="*" eavesdrop="true"/></policy>
</busconfig>
"#;

/// Longer than any of these programs takes on a busy machine.
const GENEROUS: Duration = Duration::from_secs(60);

/// Between two looks.
const A_MOMENT: Duration = Duration::from_millis(50);
