//! The sample that ships cannot rot: it is read as it is, and with everything in it switched on.

use std::time::Duration;

use iotdm_core::Late;
use iotdm_handlers::CommandScript;

use super::super::{Actions, HttpSettings, ResetMeans};
use super::{Place, Settings, load};

const SAMPLE: &str = include_str!("../../../../agent.toml");

/// Switches on every key but those that exclude another: of a file and a variable with the same secret, one; of the two
/// ways to reset, one; of the ways to a broker, the one that has defaults.
fn switched_on(except: &str, reset: &[&str]) -> String {
    let secrets = [format!("token_{except}"), format!("proxy_credentials_{except}")];
    let mut text = String::new();
    // What is switched on is a gateway, and takes no commands.
    let (but_commands, _) = SAMPLE.split_once(COMMANDS).unwrap();
    for line in but_commands.lines() {
        let key = line
            .strip_prefix('#')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['));
        let excluded = |key: &&str| {
            secrets.iter().any(|secret| key.starts_with(secret))
                || reset.iter().chain(&OTHER_BROKERS).any(|other| key.starts_with(other))
        };
        text.push_str(key.filter(|key| !excluded(key)).unwrap_or(line));
        text.push('\n');
    }
    text
}

/// Excludes the keys of a reset by wiping.
const BY_COMMAND: [&str; 2] = ["wipe =", "then ="];

/// Excludes what the host, the transport and the pins of the sample exclude.
const OTHER_BROKERS: [&str; 3] = ["domain =", "path =", "insecure_skip_verify ="];

/// What stands before the commands.
const COMMANDS: &str = "# ---- Commands of applications";

/// Excludes the command of a reset.
const BY_WIPING: [&str; 1] = ["command = [\"/usr/lib/iotdm-agent/factory-reset\"]"];

fn load_switched_on(except: &str) -> Settings {
    load_one_way(except, &BY_COMMAND)
}

fn load_one_way(except: &str, reset: &[&str]) -> Settings {
    let place = Place::with(&switched_on(except, reset))
        .variable("IOTDM_TOKEN", "t0k3n")
        .variable("IOTDM_PROXY", "lamp-17:s3cr3t");
    place.write("proxy-credentials", "lamp-17:s3cr3t\n", 0o600);
    place.write("token", "t0k3n\n", 0o600);
    std::fs::create_dir(place.path("scripts.d")).unwrap();
    place.write("device-key.pem", KEY, 0o600);
    for name in ["broker-ca.pem", "images-ca.pem", "logs-ca.pem", "device.pem"] {
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
        let diagnostics = actions.diagnostics.unwrap();
        assert_eq!(diagnostics.upload.unwrap().options.sources.len(), 3);
        assert!(diagnostics.facts.is_some() && actions.scripts.len() == 1);
    }
}

/// The keys that [`OTHER_BROKERS`] leaves out.
#[test]
fn the_sample_is_good_on_maximo_by_websocket_and_on_a_test_bench() {
    let others = ["host =", "transport =", "pins ="];
    let text: String = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if OTHER_BROKERS.iter().any(|other| key.starts_with(other)) => format!("{key}\n"),
            Some(key) if key.starts_with("transport =") => "transport = \"websocket\"\n".into(),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(others.iter().all(|other| SAMPLE.contains(&format!("\n#{other}"))));
    let broker = Place::with(&text).load().unwrap().config.broker;
    assert_eq!((&*broker.host, broker.port), ("abc123.messaging.iot.mas.example.com", 443));
    assert_eq!(broker.transport, iotdm_agent::Transport::websocket());
    assert!(broker.tls.unwrap().insecure_skip_verify);
}

#[test]
fn the_sample_shows_a_command_with_its_defaults() {
    let (rest, commands) = SAMPLE.split_once(COMMANDS).unwrap();
    let switched_on = commands.replace("\n#", "\n").replace("\n ", "\n# ").replace("\n\n", "\n#\n");
    let shown = Place::with(&format!("{rest}#{switched_on}")).load().unwrap().commands;
    let default = load("[commands.colour]\nrun = [\"/usr/lib/iotdm-agent/colour\"]\n").commands;
    let ([shown], [default]) = (&shown[..], &default[..]) else { panic!("{shown:?}") };
    let of = |script: &CommandScript| {
        let kept = (script.acknowledge, script.interrupted, script.late, script.time_limit);
        (script.id.clone(), script.format.clone(), script.program.clone(), kept)
    };
    assert_eq!(of(shown), of(default));
    assert!(shown.user.is_some());
}

#[test]
fn the_sample_refuses_late_reboots_and_resets() {
    let actions = load_switched_on("env").actions;
    let late = [actions.reboot.unwrap().late, actions.factory_reset.unwrap().late];
    assert_eq!(late, [Late::RefuseAfter(Duration::from_secs(900)); 2]);
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

/// The other of the two ways.
#[test]
fn the_sample_is_good_with_a_reset_by_wiping() {
    let action = load_one_way("env", &BY_WIPING).actions.factory_reset.unwrap();
    let ResetMeans::Staged { wipe: Some(wipe), then: Some(_) } = action.means else { panic!("{action:?}") };
    assert_eq!(wipe.paths(), ["/var/lib/product", "/etc/product/user.conf"].map(std::path::Path::new));
}

#[test]
fn the_sample_shows_the_actions_defaults() {
    let shown = load_switched_on("env").actions;
    let default = load(
        "[actions.reboot]\ncommand = [\"systemctl\", \"reboot\"]\n\
         [actions.factory_reset]\ncommand = [\"/usr/lib/iotdm-agent/factory-reset\"]\n\
         [actions.firmware]\nstaging_dir = \"/var/lib/iotdm-agent/images\"\n\
         install_command = [\"/usr/lib/iotdm-agent/install-firmware\", \"{image}\"]\n\
         [actions.diagnostics]\n[actions.diagnostics.facts]\n\
         [[actions.diagnostics.log]]\nname = \"lamp\"\nfile = \"/var/log/lamp.log\"\n\
         [[actions.diagnostics.log]]\nname = \"agent\"\nunit = \"iotdm-agent.service\"\n\
         [[actions.diagnostics.log]]\nname = \"all\"\njournal = true\n\
         [[actions.script]]\nbundle = \"acme-lamp\"\naction = \"dim\"\nprogram = \"/usr/lib/iotdm-agent/dim\"\n",
    )
    .actions;
    // Late requests are refused, and rules have no defaults but those that stand beside them.
    let of_reboot = |action: &Actions| {
        let action = action.reboot.clone().unwrap();
        (format!("{:?}", action.means), action.dry_run, action.budget, action.rules.max_delay)
    };
    assert_eq!(of_reboot(&shown), of_reboot(&default));
    let of_reset = |action: &Actions| {
        let action = action.factory_reset.clone().unwrap();
        (format!("{:?}", action.means), action.dry_run, action.budget, action.rules.max_delay)
    };
    assert_eq!(of_reset(&shown), of_reset(&default));
    let with_program = "[actions.reboot]\ndry_run = true\nmax_restarts = 3\nveto_command = [\"true\"]\n";
    let rules = |actions: Actions| {
        let rules = actions.reboot.unwrap().rules;
        (rules.limit, rules.veto.unwrap().1, rules.max_delay)
    };
    assert_eq!(rules(shown.clone()), rules(load(with_program).actions));
    let without_authorities = |action: Option<super::super::FirmwareAction>| {
        format!(
            "{:?}",
            super::super::FirmwareAction {
                http: HttpSettings::default(),
                bytes_per_second: None,
                ..action.unwrap()
            }
        )
    };
    assert_eq!(without_authorities(shown.firmware), without_authorities(default.firmware));
    let without_servers = |action: Option<super::super::DiagnosticsAction>| {
        let mut action = action.unwrap();
        let upload = action.upload.as_mut().unwrap();
        (upload.options.hosts, upload.http) = (Vec::new(), HttpSettings::default());
        format!("{action:?}")
    };
    assert_eq!(without_servers(shown.diagnostics), without_servers(default.diagnostics));
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
