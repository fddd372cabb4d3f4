//! What the tour shows, in order.

use std::time::Duration;

use iotdm_core::ReqId;
use rumqttc::QoS;
use tokio::time::{Instant, sleep};

use super::super::machine::INSTALLER;
use super::super::world::REBOOT_IS_LATE_AFTER;
use super::{Row, SandboxError, Tour, failed};
use crate::{FirmwareRequest, Image, Outcome, Request, RequestHandle};

impl Tour {
    /// The whole tour.
    pub(in super::super) async fn play(&mut self) -> Result<(), SandboxError> {
        let address = self.world.broker.local_addr();
        let hello = format!(
            "A broker on {address}, the platform, and the device {} share this process.",
            self.world.device
        );
        self.screen.plain(hello)?;
        self.manage().await?;
        let reboot = self.reboot().await?;
        self.firmware().await?;
        self.observe().await?;
        self.replay(&reboot).await?;
        self.late().await?;
        self.malformed().await?;
        self.overrun().await
    }

    async fn manage(&mut self) -> Result<(), SandboxError> {
        self.chapter("Manage", "the device connects and says what it can be asked for").await?;
        self.world.machine.on();
        let (platform, device) = (self.platform(), self.world.device.clone());
        self.during("manage", async move { platform.managed(&device).await }).await
    }

    async fn reboot(&mut self) -> Result<RequestHandle, SandboxError> {
        self.chapter("Reboot", "202 first; then the device goes down, and its next manage completes it")
            .await?;
        let boot = self.world.system.boot();
        let reboot = self.ask("reboot", &Request::reboot()).await?;
        self.evidence.reboot_took_boots = self.world.system.boot() - boot;
        self.evidence.reboot = Some(reboot.clone());
        Ok(reboot)
    }

    async fn firmware(&mut self) -> Result<(), SandboxError> {
        self.chapter("Firmware", "5 MB that break in the middle, go on, are verified, and are installed")
            .await?;
        let image = Image {
            version: "2.0.0".into(),
            name: "lamp".into(),
            uri: self.world.images.uri(),
            verifier: self.world.images.sha256(),
        };
        let request =
            FirmwareRequest { image: Some(image), timeout: Some(FIRMWARE_TIMEOUT), overriding: false };
        let (platform, device, began) = (self.platform(), self.world.device.clone(), Instant::now());
        let download = async move { platform.firmware_download(&device, &request).await };
        let download = self.during("firmware/download", download).await?;
        self.screen.end_progress();
        let download = download.map_err(|error| self.step_failed("firmware/download", &error))?;
        // What counts as a run of a download: an image fetched from its first byte.
        let fetched = self.world.images.transfers().iter().filter(|transfer| transfer.from == 0).count();
        self.firmware_row("firmware/download", &download, fetched, began);

        let request = FirmwareRequest { timeout: Some(FIRMWARE_TIMEOUT), ..FirmwareRequest::default() };
        let (platform, device, began) = (self.platform(), self.world.device.clone(), Instant::now());
        let update = async move { platform.firmware_update(&device, &request).await };
        let update = self.during("firmware/update", update).await?;
        let update = update.map_err(|error| self.step_failed("firmware/update", &error))?;
        let installed = self.world.system.played(INSTALLER) as usize;
        self.firmware_row("firmware/update", &update, installed, began);
        Ok(())
    }

    fn firmware_row(&mut self, step: &str, handle: &RequestHandle, runs: usize, began: Instant) {
        let tracked = handle.snapshot();
        self.rows.push(Row {
            request: step.into(),
            rc: tracked.answer.as_ref().map(|answer| answer.rc),
            outcome: tracked.stage.to_string(),
            runs: u32::try_from(runs).unwrap_or(u32::MAX),
            time: began.elapsed(),
        });
    }

    fn step_failed(&self, step: &'static str, error: &crate::FirmwareError) -> SandboxError {
        SandboxError::Failed { step, reason: error.to_string() }
    }

    async fn observe(&mut self) -> Result<(), SandboxError> {
        self.chapter(
            "Custom actions, observe, notify",
            "work first, then 200; changes of an observed attribute are told",
        )
        .await?;
        self.ask("lamp/dim 40", &dim("40")).await?;
        self.ask("observe lamp", &Request::observe(&["lamp"])).await?;
        self.ask("lamp/dim 80", &dim("80")).await?;
        let (platform, device) = (self.platform(), self.world.device.clone());
        let notified = async move {
            let known = || platform.device(&device).is_some_and(|view| view.notified.contains_key("lamp"));
            platform.wait_until(|_| known()).await;
        };
        self.during("notify lamp", notified).await?;
        self.ask("cancel lamp", &Request::cancel(&["lamp"])).await?;
        self.ask("lamp/dim 20", &dim("20")).await?;
        Ok(())
    }

    async fn replay(&mut self, reboot: &RequestHandle) -> Result<(), SandboxError> {
        self.chapter("A replay", "the executed reboot arrives once more: it is answered, and not executed")
            .await?;
        let (began, runs, boot) =
            (Instant::now(), self.world.runs.of(reboot.req_id()), self.world.system.boot());
        self.platform().replay(reboot).map_err(failed("the same reboot again"))?;
        let answered = reboot.answered_times(2);
        self.during("the same reboot again", answered).await?;
        let time = began.elapsed();
        // A device that took it for another request would go down now.
        self.during("the same reboot again", sleep(WATCHING_TIME)).await?;
        let tracked = reboot.snapshot();
        let same = tracked.answers == 2 && tracked.differing_answers == 0;
        self.rows.push(Row {
            request: "the same reboot again".into(),
            rc: tracked.answer.map(|answer| answer.rc),
            outcome: if same { "the stored answer".into() } else { "another answer".into() },
            runs: self.world.runs.of(reboot.req_id()) - runs,
            time,
        });
        self.evidence.replay_took_boots = self.world.system.boot() - boot;
        Ok(())
    }

    async fn late(&mut self) -> Result<(), SandboxError> {
        self.chapter(
            "A late request",
            "a reboot waits on the broker for three hours while the device is off",
        )
        .await?;
        let (platform, device) = (self.platform(), self.world.device.clone());
        let manages = platform.device(&device).map_or(0, |view| view.manages);
        let off = self.world.machine.off();
        self.during("the device is switched off", off).await?;
        let began = Instant::now();
        let late = self.initiate("reboot, 3 h late", &Request::reboot())?;
        self.during("reboot, 3 h late", sleep(SETTLING_TIME)).await?;
        self.world.system.skip(AWAY);
        let away = format!(
            "three hours pass; this device refuses a reboot that may be older than {} minutes",
            REBOOT_IS_LATE_AFTER.as_secs() / 60
        );
        self.screen.line(super::Who::Machine, &away)?;
        self.world.machine.on();
        let outcome = self.during("reboot, 3 h late", late.completed()).await?;
        self.row("reboot, 3 h late", &late, outcome, began);
        self.evidence.late = Some(late);
        let back = async move { platform.managed_times(&device, manages + 1).await };
        self.during("manage", back).await
    }

    async fn malformed(&mut self) -> Result<(), SandboxError> {
        self.chapter(
            "Malformed and unknown",
            "each gets its reason, and nothing runs; a handler may also refuse by itself",
        )
        .await?;
        let platform = self.platform();
        let raw =
            platform.send_raw(&self.world.device, "mgmt/custom/lamp/dim", "{oops", QoS::AtLeastOnce, false);
        raw.map_err(failed("unreadable bytes"))?;
        self.evidence.after_unreadable = Some(self.ask("lamp/dim 60", &dim("60")).await?);
        let raw = |suffix: &str, id: &str, d: &str| {
            Request::raw(suffix, ReqId::from_text(id), format!("{{\"reqId\":\"{id}\",\"d\":{d}}}"))
        };
        for (step, request) in [
            ("lamp/dim, malformed", raw("mgmt/custom/lamp/dim", "tour-malformed", r#"{"fields":"all"}"#)),
            ("an unknown topic", raw("mgmt/teleport", "tour-unknown", "{}")),
            ("lamp/fly, unknown", Request::custom("lamp", "fly")),
            ("factory reset, not offered", Request::factory_reset()),
        ] {
            let handle = self.ask(step, &request).await?;
            self.evidence.refused.push(handle);
        }
        self.evidence.own_refusal = Some(self.ask("lamp/dim 400", &dim("400")).await?);
        Ok(())
    }

    async fn overrun(&mut self) -> Result<(), SandboxError> {
        self.chapter(
            "A handler that overruns",
            "a self test has 1 s and wants an hour; others do not wait for it",
        )
        .await?;
        let began = Instant::now();
        let test = self.initiate("lamp/selfTest", &Request::custom("lamp", "selfTest"))?;
        let beside = self.ask("lamp/dim 70, beside it", &dim("70")).await?;
        let went_on = beside.snapshot().outcome() == Some(Outcome::Complete) && test.snapshot().is_open();
        self.evidence.went_on_beside = went_on.then(|| began.elapsed());
        let outcome = self.during("lamp/selfTest", test.completed()).await?;
        self.evidence.overrun_took = Some(began.elapsed());
        self.row("lamp/selfTest", &test, outcome, began);
        self.evidence.overrun = Some(test);
        Ok(())
    }
}

fn dim(level: &str) -> Request {
    Request::custom("lamp", "dim").field("level", level)
}

/// How long a firmware step may take.
const FIRMWARE_TIMEOUT: Duration = Duration::from_secs(25);

/// How long nothing may happen after a replay: a reboot would begin within a few milliseconds.
const WATCHING_TIME: Duration = Duration::from_millis(500);

/// Until the broker holds what was sent while the device is off.
const SETTLING_TIME: Duration = Duration::from_millis(200);

/// How long the device is away, as its clocks have it.
const AWAY: Duration = Duration::from_secs(3 * 60 * 60);
