//! The sequences of `docs/protocol.md` §6.3.

use iotdm_core::UpdateStatus;

use super::*;

fn image() -> Image {
    Image {
        version: "2.0.0".into(),
        name: "pump".into(),
        uri: "http://127.0.0.1/x".into(),
        verifier: "sha256:00".into(),
    }
}

async fn both<A, B>(device: impl Future<Output = A>, platform: impl Future<Output = B>) -> (A, B) {
    soon(async { tokio::join!(device, platform) }).await
}

impl Device {
    async fn notify(&mut self, state: u8, status: u8) {
        let value = json!({"version": "2.0.0", "state": state, "updateStatus": status});
        let d = json!({"fields": [{"field": "mgmt.firmware", "value": value}]});
        assert_eq!(self.ask("notify", d).await, Some(200));
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_and_an_update_run_their_whole_sequences() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::managed(&broker, "p-1").await;
    let device_side = async {
        let described = device.answer("device/update", 204).await;
        assert_eq!(described["d"]["fields"][0]["value"]["verifier"], json!("sha256:00"));
        device.answer("observe", 200).await;
        device.answer("mgmt/initiate/firmware/download", 202).await;
        device.notify(1, 0).await;
        device.notify(2, 0).await;
        device.answer("cancel", 200).await;
        device.answer("observe", 200).await;
        device.answer("mgmt/initiate/firmware/update", 202).await;
        device.notify(2, 1).await;
        device.notify(0, 0).await;
        device.answer("cancel", 200).await;
    };
    let platform_side = async {
        let request = FirmwareRequest { image: Some(image()), ..FirmwareRequest::default() };
        let download = platform.firmware_download(&pump(), &request).await.unwrap();
        assert_eq!(download.completed().await, Outcome::Complete);
        platform.firmware_update(&pump(), &FirmwareRequest::default()).await.unwrap()
    };
    let (_, update) = both(device_side, platform_side).await;
    assert_eq!(update.snapshot().outcome(), Some(Outcome::Complete));
}

#[tokio::test(start_paused = true)]
async fn a_failed_verification_ends_the_download_and_the_observation() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::managed(&broker, "p-1").await;
    let device_side = async {
        device.answer("observe", 200).await;
        device.answer("mgmt/initiate/firmware/download", 202).await;
        device.notify(0, 4).await;
        device.answer("cancel", 200).await;
    };
    let request = FirmwareRequest::default();
    let (_, error) = both(device_side, platform.firmware_download(&pump(), &request)).await;
    let Err(FirmwareError::Ended { step, outcome, .. }) = error else { panic!("{error:?}") };
    assert_eq!(step, FirmwareStep::Act);
    assert_eq!(outcome, Outcome::Failed(Failure::Firmware(UpdateStatus::VerificationFailed)));
}

#[tokio::test(start_paused = true)]
async fn a_refused_step_stops_the_sequence() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::managed(&broker, "p-1").await;
    let request = FirmwareRequest { image: Some(image()), ..FirmwareRequest::default() };
    let refuse = async { device.answer("device/update", 400).await };
    let (_, error) = both(refuse, platform.firmware_download(&pump(), &request)).await;
    assert_eq!(error.unwrap_err().to_string(), "device/update refused with 400");
    device.client.expect_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_download_that_takes_too_long_has_timed_out() {
    let broker = broker().await;
    let platform = platform(&broker).await;
    let mut device = Device::managed(&broker, "p-1").await;
    let request = FirmwareRequest { timeout: Some(10 * MINUTE), ..FirmwareRequest::default() };
    let device_side = async {
        device.answer("observe", 200).await;
        device.answer("mgmt/initiate/firmware/download", 202).await;
        device.notify(1, 0).await;
        device.answer("cancel", 200).await;
    };
    let start = Instant::now();
    let (_, error) = both(device_side, platform.firmware_download(&pump(), &request)).await;
    assert!(matches!(error, Err(FirmwareError::Ended { outcome: Outcome::TimedOut, .. })), "{error:?}");
    assert_eq!(start.elapsed().as_secs(), 600);
}
