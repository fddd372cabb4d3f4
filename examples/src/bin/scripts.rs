//! An operator's scripts as custom actions: accepted, refused with the parameter's name, progress, and others without a
//! restart. Broker, platform and device are in this process.
//!
//! ```sh
//! cargo run -p iotdm-examples --bin scripts
//! ```
//!
//! The same scripts are declared for `iotdm-agent` in `examples/scripts/*.toml`: name that folder as `scripts_dir` of
//! `[actions]`, and send SIGHUP after a change.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use iotdm_agent::system::LinuxSystem;
use iotdm_agent::{Agent, Broker as BrokerAddress, Config, Device, Limits};
use iotdm_core::{Code, DeviceInfo, Identity, Interrupted};
use iotdm_handlers::scripts::{Parameter, ParameterKind, Pattern};
use iotdm_handlers::{ScriptSpec, Scripts};
use iotdm_platform::broker::{Broker, BrokerOptions};
use iotdm_platform::{DeviceName, Platform, PlatformOptions, Request};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

type Error = Box<dyn std::error::Error>;

/// `acme-lamp/dim`: what `examples/scripts/dim.toml` declares.
fn dim(folder: &Path) -> ScriptSpec {
    let percent = Parameter::new("percent", ParameterKind::Integer { min: 0, max: 100 });
    let fade = Parameter::new("fade", ParameterKind::Number { min: 0.0, max: 60.0 }).default(0.5);
    ScriptSpec {
        title: Some("Dim the lamp".into()),
        args: ["{percent}", "{fade}"].map(str::to_owned).to_vec(),
        parameters: Some(vec![percent, fade]),
        exit: [(3, Code::CONFLICT)].into(),
        interrupted: Interrupted::RunAgain, // dimming twice does no harm
        ..ScriptSpec::new("acme-lamp", "dim", folder.join("dim.sh"))
    }
}

/// `acme-lamp/pair`: what `examples/scripts/pair.toml` declares.
fn pair(folder: &Path) -> Result<ScriptSpec, Error> {
    let name =
        ParameterKind::Text { min_length: 1, max_length: 32, pattern: Some(Pattern::new("[A-Za-z0-9 -]+")?) };
    Ok(ScriptSpec {
        args: ["--", "{remote}"].map(str::to_owned).to_vec(),
        parameters: Some(vec![Parameter::new("remote", name)]),
        ..ScriptSpec::new("acme-lamp", "pair", folder.join("pair.sh"))
    })
}

/// The platform's side of the story.
struct Operator {
    platform: Platform,
    lamp: DeviceName,
}

impl Operator {
    /// Asks, and says what was asked and answered.
    async fn ask(&self, out: &mut dyn Write, request: Request) -> Result<(), Error> {
        let asked = self.platform.initiate(&self.lamp, &request)?;
        let answer = asked.answered().await.ok_or("the request was given up")?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        let said = answer.get("message").or(answer.get("d")).map(ToString::to_string).unwrap_or_default();
        writeln!(out, "{}: {} {said}", asked.suffix(), answer["rc"])?;
        Ok(())
    }

    async fn story(&self, out: &mut dyn Write, device: &Device, folder: &Path) -> Result<(), Error> {
        self.platform.managed(&self.lamp).await;
        let request = |action| Request::custom("acme-lamp", action);
        // The platform sends texts; the script gets numbers.
        self.ask(out, request("dim").field("percent", "40")).await?;
        let is_told =
            |platform: &Platform| platform.device(&self.lamp).is_some_and(|lamp| !lamp.log.is_empty());
        self.platform.wait_until(is_told).await;
        let log = self.platform.device(&self.lamp).map(|lamp| lamp.log).unwrap_or_default();
        for entry in log {
            // The reqId in it differs from run to run.
            let told = entry.message.split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
            writeln!(out, "  while it ran: {told}")?;
        }
        self.ask(out, request("dim").field("percent", "140")).await?;
        self.ask(out, request("dim").field("percent", "40; reboot")).await?;
        self.ask(out, request("dim").field("percent", "40").field("colour", "red")).await?;
        self.ask(out, request("pair").field("remote", "kitchen")).await?;

        writeln!(out, "\nother scripts, without a restart:")?;
        device.replace(Scripts::new().add(pair(folder)?)).await?;
        self.ask(out, request("pair").field("remote", "kitchen")).await?;
        self.ask(out, request("dim").field("percent", "40")).await?;
        Ok(())
    }
}

/// Tells the story; the journal is in this folder.
async fn tell(out: &mut dyn Write, journal: PathBuf) -> Result<(), Error> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let broker = Broker::start(BrokerOptions::default()).await?;
    let platform = Platform::connect(PlatformOptions::new(broker.local_addr())).await?;
    let scripts = Scripts::new().add(dim(&folder));
    let agent = Agent::builder(config(broker.local_addr().port())?)
        .journal(journal)
        .system(Arc::new(LinuxSystem::new()?))
        .replaceable(scripts)
        .build()?;
    let packages = serde_json::to_string_pretty(&agent.extension_packages())?;
    writeln!(out, "to be imported in the platform:\n{packages}\n")?;
    let operator = Operator { platform, lamp: DeviceName::new("lamp", "lamp-1")? };
    let (device, stop) = (agent.device(), CancellationToken::new());
    let story = async {
        let told = operator.story(out, &device, &folder).await;
        stop.cancel();
        told
    };
    let (run, told) = tokio::join!(agent.run_until(stop.cancelled()), story);
    run?;
    told
}

fn config(port: u16) -> Result<Config, Error> {
    Ok(Config {
        identity: Identity::device("org001", "lamp", "lamp-1")?,
        broker: BrokerAddress::at("127.0.0.1", port),
        token: None,
        lifetime: Duration::from_secs(3600),
        device_info: DeviceInfo::default(),
        metadata: None,
        limits: Limits::default(),
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let folder = tempfile::tempdir()?;
    tell(&mut stdout().lock(), folder.path().join("journal")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_story_is_told_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut out = Vec::new();
        let told = tell(&mut out, folder.path().join("journal"));
        tokio::time::timeout(Duration::from_secs(60), told).await.expect("it ends").unwrap();
        let out = String::from_utf8(out).unwrap();
        let (_, told) = out.split_once("]\n\n").expect("the packages come first");
        let expected = "mgmt/custom/acme-lamp/dim: 200 {\"percent\":40}\n  \
            while it ran: 50 %: half way to 40 %\n\
            mgmt/custom/acme-lamp/dim: 400 \"percent: is out of range; write a whole number from 0 to 100\"\n\
            mgmt/custom/acme-lamp/dim: 400 \"percent: has another type; write a whole number from 0 to 100\"\n\
            mgmt/custom/acme-lamp/dim: 400 \"colour: is no parameter of this action; it has percent, fade\"\n\
            mgmt/custom/acme-lamp/pair: 501 \"this device does not offer that action\"\n\
            \nother scripts, without a restart:\n\
            mgmt/custom/acme-lamp/pair: 200 {";
        assert!(told.starts_with(expected), "{told}");
        assert!(told.ends_with("acme-lamp/dim: 501 \"this device does not offer that action\"\n"), "{told}");
    }
}
