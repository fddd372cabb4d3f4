//! A product: a street light that reboots when it may, takes firmware, and dims.
//!
//! ```sh
//! cargo run -p iotdm-examples --bin street_light -- --port 1883 --journal /tmp/street-light
//! ```
//!
//! It is `d:org001:example:street-light`. Its tests, at the end, need neither broker nor disk nor time.

use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use iotdm_agent::system::LinuxSystem;
use iotdm_agent::{Agent, Builder};
use iotdm_core::{
    Accepted, Action, Context, Empty, Failure, Finished, Handler, Interrupted, Performed, Reboot, Recovery,
    Refusal, Restart, Route,
};
use iotdm_examples::Options;
use iotdm_examples::lamp::{Lamp, Percent};
use iotdm_handlers::firmware::{
    Firmware, FirmwareOptions, FirmwareOptionsError, HttpFetcher, InstallOptions, RaucInstaller,
};

/// A street light; its reboots and installations are dry runs.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

struct Luminaire {
    lamp: Arc<Lamp>,
}

impl Handler<Reboot> for Luminaire {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        if self.lamp.is_calibrating() {
            return Err(Refusal::busy("lamp calibration is running"));
        }
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        self.lamp.park().await;
        cx.system().restart(Restart::Reboot).await.map_err(|error| Failure::new(error.to_string()))
    }

    async fn recover(&self, cx: &Context, _: &Empty) -> Recovery {
        if cx.rebooted() { Recovery::Done } else { Recovery::RunAgain }
    }
}

/// `lamp/dim`: how bright it is from here on.
struct Dim;

impl Action for Dim {
    const ROUTE: Route = Route::custom("lamp", "dim");
    const INTERRUPTED: Interrupted = Interrupted::RunAgain; // the same brightness twice is no harm
    type Request = Percent;
    type Reply = Finished<Percent>;
}

impl Handler<Dim> for Luminaire {
    async fn handle(&self, _: &Context, request: &Percent) -> Result<Finished<Percent>, Refusal> {
        Ok(Finished(self.lamp.dim(*request)))
    }
}

/// What makes an agent a street light.
fn street_light(builder: Builder, lamp: Arc<Lamp>, staging: &Path) -> Result<Builder, FirmwareOptionsError> {
    let install = InstallOptions { dry_run: true, ..InstallOptions::new(RaucInstaller::new()) };
    let firmware = FirmwareOptions { install: Some(install), ..FirmwareOptions::new(staging) };
    Ok(builder
        .on::<Reboot>(Luminaire { lamp: lamp.clone() })
        .on::<Dim>(Luminaire { lamp })
        .with(Firmware::new(firmware, Arc::new(HttpFetcher::new()))?))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { options } = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let system = LinuxSystem::new()?.reboot_command(vec!["/sbin/reboot".into()]).dry_run(true);
    let staging = std::path::absolute(options.journal.with_extension("staging"))?;

    let builder = Agent::builder(options.config("example", "street-light")?)
        .journal(&options.journal)
        .system(Arc::new(system));
    let agent = street_light(builder, Arc::new(Lamp::default()), &staging)?.build()?;
    Ok(agent.run_until(options.ended()).await?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use iotdm_agent::Builder;
    use iotdm_agent::testing::{MemoryDisk, Platform, TestSystem, start};
    use iotdm_core::{Action, Reboot, Restart};
    use serde_json::json;

    use super::{Dim, Lamp, street_light};

    fn product(lamp: &Arc<Lamp>) -> impl FnOnce(Builder) -> Builder + use<> {
        let lamp = lamp.clone();
        move |builder| {
            street_light(builder, lamp, Path::new("/nowhere")).expect("the options are in their ranges")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replayed_reboot_is_answered_each_time_and_performed_once() {
        let (platform, disk, system) = (Platform::new(), MemoryDisk::new(), TestSystem::new());
        let lamp = Arc::new(Lamp::default());
        let agent = start(&platform, &disk, &system, product(&lamp));
        platform.managed(1).await;

        platform.send(Reboot::ROUTE, json!({"reqId": "7f0c"}));
        assert_eq!(platform.response("7f0c").await["rc"], 202);
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(system.restarts(), [Restart::Reboot]);

        platform.send(Reboot::ROUTE, json!({"reqId": "7f0c"}));
        assert_eq!(platform.response("7f0c").await["rc"], 202);

        agent.kill().await;
        system.next_boot();
        let _agent = start(&platform, &disk, &system, product(&lamp));
        platform.managed(2).await;
        platform.send(Reboot::ROUTE, json!({"reqId": "7f0c"}));
        assert_eq!(platform.response("7f0c").await["rc"], 202);
        platform.drained().await;
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(system.restarts(), [Restart::Reboot]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lamp_is_dark_before_the_restart_begins() {
        let (platform, disk, system) = (Platform::new(), MemoryDisk::new(), TestSystem::new());
        let lamp = Arc::new(Lamp::default());
        let _agent = start(&platform, &disk, &system, product(&lamp));
        platform.managed(1).await;

        let level = json!({"fields": [{"field": "level", "value": "70"}]});
        platform.send(Dim::ROUTE, json!({"d": level, "reqId": "dim"}));
        let answer = platform.response("dim").await;
        assert_eq!((&answer["rc"], &answer["d"]), (&json!(200), &json!({"level": "70"})));
        assert_eq!(lamp.level(), 70);

        platform.send(Reboot::ROUTE, json!({"reqId": "7f0c"}));
        platform.response("7f0c").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(system.restarts().is_empty(), "it fades first");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((lamp.level(), system.restarts()), (0, vec![Restart::Reboot]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lamp_that_calibrates_is_not_restarted() {
        let (platform, disk, system) = (Platform::new(), MemoryDisk::new(), TestSystem::new());
        let lamp = Arc::new(Lamp::default());
        lamp.calibrate(true);
        let _agent = start(&platform, &disk, &system, product(&lamp));
        platform.managed(1).await;

        platform.send(Reboot::ROUTE, json!({"reqId": "7f0c"}));
        let answer = platform.response("7f0c").await;
        assert_eq!((&answer["rc"], &answer["message"]), (&json!(409), &json!("lamp calibration is running")));
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert!(system.restarts().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_level_that_is_none_is_refused_with_its_place() {
        let (platform, disk, system) = (Platform::new(), MemoryDisk::new(), TestSystem::new());
        let lamp = Arc::new(Lamp::default());
        let _agent = start(&platform, &disk, &system, product(&lamp));
        platform.managed(1).await;

        let level = json!({"fields": [{"field": "level", "value": "101"}]});
        platform.send(Dim::ROUTE, json!({"d": level, "reqId": "dim"}));
        let answer = platform.response("dim").await;
        assert_eq!(answer["rc"], 400);
        assert_eq!(answer["message"], "d.level: expected a number from 0 to 100");
    }
}
