//! The exchanges of `docs/vectors`, each on a broker of its own.

use std::path::PathBuf;

use iotdm_tests::device::Device;
use iotdm_tests::mosquitto::Mosquitto;
use iotdm_tests::vectors::play;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/vectors"))
}

macro_rules! exchanges {
    ($($test:ident: $file:literal, $configure:expr;)*) => {
        $(
            #[tokio::test]
            #[ignore = "needs mosquitto"]
            async fn $test() {
                let text = std::fs::read_to_string(folder().join($file)).unwrap();
                let mosquitto = Mosquitto::start();
                let device: Device = $configure(Device::new(mosquitto.port()));
                play(&text, mosquitto.port(), device).await;
            }
        )*

        const PLAYED: &[&str] = &[$($file),*];
    };
}

exchanges! {
    on_mosquitto_custom_action: "custom_action.json", std::convert::identity;
    on_mosquitto_diagnostics: "diagnostics.json", std::convert::identity;
    on_mosquitto_factory_reset: "factory_reset.json", std::convert::identity;
    on_mosquitto_firmware_download: "firmware_download.json", std::convert::identity;
    on_mosquitto_firmware_update: "firmware_update.json", std::convert::identity;
    on_mosquitto_location: "location.json", std::convert::identity;
    on_mosquitto_manage: "manage.json", std::convert::identity;
    on_mosquitto_observe_notify_cancel: "observe_notify_cancel.json", std::convert::identity;
    on_mosquitto_reboot: "reboot.json", std::convert::identity;
    on_mosquitto_refusals: "refusals.json", Device::without_firmware;
    on_mosquitto_unmanage: "unmanage.json", std::convert::identity;
}

#[test]
fn every_exchange_is_played() {
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    files.sort();
    let mut named: Vec<&str> = PLAYED.to_vec();
    named.sort_unstable();
    assert_eq!(files, named);
}
