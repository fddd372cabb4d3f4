//! The sample that ships cannot rot: it is read as it is, and with everything in it switched on.

use std::time::Duration;

use iotdm_core::Late;

use super::{Place, Settings, load};

const SAMPLE: &str = include_str!("../../../../agent.toml");

/// Switches on every key but those that exclude another: of a file and a variable with the same secret, one.
fn switched_on(except: &str) -> String {
    let excluded = [format!("token_{except}"), format!("proxy_credentials_{except}")];
    let mut text = String::new();
    for line in SAMPLE.lines() {
        let key = line
            .strip_prefix('#')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['));
        let key = key.filter(|key| !excluded.iter().any(|excluded| key.starts_with(excluded)));
        text.push_str(key.unwrap_or(line));
        text.push('\n');
    }
    text
}

fn load_switched_on(except: &str) -> Settings {
    let place = Place::with(&switched_on(except))
        .variable("IOTDM_TOKEN", "t0k3n")
        .variable("IOTDM_PROXY", "lamp-17:s3cr3t");
    place.write("proxy-credentials", "lamp-17:s3cr3t\n", 0o600);
    place.write("token", "t0k3n\n", 0o600);
    place.write("device-key.pem", KEY, 0o600);
    for name in ["broker-ca.pem", "images-ca.pem", "device.pem"] {
        place.write(name, CERTIFICATE, 0o644);
    }
    place.load().unwrap()
}

#[test]
fn the_sample_is_good_as_it_ships_and_enables_nothing() {
    let settings = Place::with(SAMPLE).load().unwrap();
    let actions = settings.actions;
    assert!(actions.reboot.is_none() && actions.factory_reset.is_none() && actions.firmware.is_none());
    assert!(actions.diagnostics.is_none() && actions.scripts.is_empty());
}

#[test]
fn the_sample_is_good_with_every_key_switched_on() {
    for except in ["env", "file"] {
        let settings = load_switched_on(except);
        assert_eq!(settings.config.token.unwrap().expose(), "t0k3n");
        let actions = settings.actions;
        assert!(actions.reboot.is_some() && actions.factory_reset.is_some() && actions.firmware.is_some());
        assert!(actions.diagnostics.is_some() && actions.scripts.len() == 1);
    }
}

#[test]
fn the_sample_refuses_late_reboots_and_resets() {
    let actions = load_switched_on("env").actions;
    for action in [actions.reboot, actions.factory_reset] {
        assert_eq!(action.unwrap().late, Late::RefuseAfter(Duration::from_secs(900)));
    }
}

#[test]
fn the_sample_shows_the_defaults() {
    let (shown, default) = (load_switched_on("env"), Place::with(SAMPLE).load().unwrap());
    assert_eq!(shown.config.limits, default.config.limits);
    assert_eq!(shown.config.lifetime, default.config.lifetime);
    assert_eq!((shown.log, &shown.journal), (default.log, &default.journal));
    let broker = |settings: &Settings| {
        let broker = settings.config.broker.clone();
        (broker.host, broker.port, broker.tls.is_some(), broker.keep_alive, broker.durable_session)
    };
    assert_eq!(broker(&shown), broker(&default));
}

#[test]
fn the_sample_shows_the_actions_defaults() {
    let shown = load_switched_on("env").actions;
    let default = load(
        "[actions.reboot]\ncommand = [\"systemctl\", \"reboot\"]\n\
         [actions.factory_reset]\ncommand = [\"/usr/lib/iotdm-agent/factory-reset\"]\n\
         [actions.firmware]\nstaging_dir = \"/var/lib/iotdm-agent/images\"\n\
         install_command = [\"/usr/lib/iotdm-agent/install-firmware\", \"{image}\"]\n\
         [actions.diagnostics]\n\
         [[actions.script]]\nbundle = \"acme-lamp\"\naction = \"dim\"\nprogram = \"/usr/lib/iotdm-agent/dim\"\n",
    )
    .actions;
    let without_late = |action: Option<super::super::RestartAction>| {
        format!("{:?}", super::super::RestartAction { late: Late::Run, ..action.unwrap() })
    };
    assert_eq!(without_late(shown.reboot), without_late(default.reboot));
    assert_eq!(without_late(shown.factory_reset), without_late(default.factory_reset));
    let without_authorities = |action: Option<super::super::FirmwareAction>| {
        format!(
            "{:?}",
            super::super::FirmwareAction {
                ca_pem: None,
                client_pem: None,
                proxy: None,
                bytes_per_second: None,
                ..action.unwrap()
            }
        )
    };
    assert_eq!(without_authorities(shown.firmware), without_authorities(default.firmware));
    assert_eq!(format!("{:?}", shown.diagnostics), format!("{:?}", default.diagnostics));
    let (shown, default) = (&shown.scripts[0], &default.scripts[0]);
    assert_eq!((shown.time_limit, shown.output_limit), (default.time_limit, default.output_limit));
    assert_eq!((shown.interrupted, shown.late), (default.interrupted, default.late));
}

/// A key's armour; what is in it is never looked at.
pub(super) const KEY: &str = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";

/// Self-signed, `CN=test`; its key is gone.
pub(super) const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBdDCCARugAwIBAgIUOAUseBa7XqmnIoYKSRD8G3CviDowCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjIyMjE5MDRaGA8yMTI2MTAyOTIyMTkw
NFowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKFd
a9yviSpRRE/27OxEc9/9QjkrSTZivHzccQzrhrsfwJQRz+2EUdBmC8LpsYwDlf+9
+Fqly9wcaFOArnzPgw6jUzBRMB0GA1UdDgQWBBTktawaXYcuGRd1El0xha+MUJ3n
VTAfBgNVHSMEGDAWgBTktawaXYcuGRd1El0xha+MUJ3nVTAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0cAMEQCIHLRXqKlo3qcuXIqcJKnIqetPEU3wAvXTwYq
y0T+Cje9AiBCohV+MH5i8ZXr5vNUiB24v5vhDNB/+OqSe3wfhEbVQA==
-----END CERTIFICATE-----
";
