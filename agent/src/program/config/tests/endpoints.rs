//! Where the broker is, how it is reached, and what the trial organization does not have.

use std::fs;

use iotdm_agent::Transport;
use iotdm_agent::config::TlsVersion;

use super::{Place, load, with_device};
use crate::program::check;

const DEVICE: [&str; 2] = [
    include_str!("../../../../../tests/tests/connect/certificates/device-17.pem"),
    include_str!("../../../../../tests/tests/connect/certificates/device-17.key"),
];

const PIN: &str = "sha256:8630d0d61c313f23d207075ad64757e29077636467f031a389ac0bb9cce07546";

fn error(rest: &str) -> String {
    Place::with(&with_device(rest)).load().unwrap_err()
}

#[test]
fn host_port_transport_and_tls_are_four_settings_and_each_default_follows_from_the_others() {
    let watson = "abc123.messaging.internetofthings.ibmcloud.com";
    let maximo = "abc123.messaging.iot.mas.example.com";
    for (text, host, port, websocket, tls) in [
        ("", watson, 8883, false, true),
        ("tls = false", watson, 1883, false, false),
        ("transport = \"websocket\"", watson, 443, true, true),
        ("transport = \"websocket\"\ntls = false", watson, 80, true, false),
        ("domain = \"mas.example.com\"", maximo, 443, false, true),
        ("domain = \"mas.example.com\"\ntransport = \"websocket\"", maximo, 443, true, true),
        ("domain = \"mas.example.com\"\ntls = false", maximo, 1883, false, false),
        ("domain = \"mas.example.com\"\nport = 8883", maximo, 8883, false, true),
        ("host = \"b\"\nport = 443", "b", 443, false, true),
        ("host = \"b\"\nport = 9001\ntransport = \"websocket\"\ntls = false", "b", 9001, true, false),
    ] {
        let broker = load(&format!("[broker]\n{text}\n")).config.broker;
        assert_eq!((&*broker.host, broker.port, broker.tls.is_some()), (host, port, tls), "{text}");
        assert_eq!(broker.transport == Transport::websocket(), websocket, "{text}");
    }
}

#[test]
fn a_path_a_version_and_pins_arrive() {
    let broker = load(&format!(
        "[broker]\ntransport = \"websocket\"\npath = \"/iot/ws?v=1\"\ntls_version = \"1.2\"\npins = [\"{PIN}\"]\n"
    ))
    .config
    .broker;
    assert_eq!(broker.transport, Transport::WebSocket { path: "/iot/ws?v=1".into() });
    let tls = broker.tls.unwrap();
    assert_eq!((tls.version, tls.pins[0].to_string()), (Some(TlsVersion::Tls12), PIN.into()));
}

#[test]
fn what_does_not_go_together_is_said() {
    for (text, said) in [
        (
            "path = \"/mqtt\"",
            "6:8: broker.path: is of no use with transport = \"tcp\"; remove it, or set transport = \"websocket\"",
        ),
        ("host = \"b\"\ndomain = \"a.b\"", "7:10: broker.domain: host is given too; keep one of the two"),
        (
            "tls = false\ninsecure_skip_verify = true\npins = []\ntls_version = \"1.3\"",
            "7:24: broker.insecure_skip_verify: is of no use with tls = false; remove it, or set tls = true\n\
             agent.toml:9:15: broker.tls_version: is of no use with tls = false; remove it, or set tls = true",
        ),
        (
            "host = \"::1\"\nproxy = \"http://p:3128\"",
            "6:8: broker.host: is an IPv6 address, which no proxy is asked for; write the broker's name",
        ),
        (
            "proxy_credentials_env = \"P\"",
            "6:25: broker.proxy_credentials_env: is of no use without a proxy; remove it, or add proxy = \
             \"http://HOST:PORT\"",
        ),
    ] {
        assert_eq!(error(&format!("[broker]\n{text}\n")), format!("agent.toml:{said}"), "{text}");
    }
    let text = format!("[broker]\npins = [\"{PIN}\"]\ninsecure_skip_verify = true\n");
    let said = error(&text);
    assert!(said.starts_with("agent.toml:7:24: broker.insecure_skip_verify: takes everybody"), "{said}");
}

#[test]
fn a_value_out_of_its_grammar_is_said_with_what_would_be_right() {
    for (text, said) in [
        (
            "transport = \"ws\"",
            "6:13: broker.transport: \"ws\" is not one of the choices; write \"tcp\" or \"websocket\"",
        ),
        (
            "tls_version = \"1.1\"",
            "6:15: broker.tls_version: \"1.1\" is not one of the choices; write \"1.2\" or \"1.3\"",
        ),
        (
            "transport = \"websocket\"\npath = \"mqtt\"",
            "7:8: broker.path: \"mqtt\" is no path of a WebSocket; write one that begins with /, such as \"/mqtt\"",
        ),
        (
            "domain = \"messaging.iot.x.y\"",
            "6:10: broker.domain: \"messaging.iot.x.y\" is no domain; write that of the suite, such as \"mas.example.com\", \
             without \"messaging.iot\" before it",
        ),
        (
            "domain = \"https://x\"",
            "6:10: broker.domain: \"https://x\" is no domain; write that of the suite, such as \"mas.example.com\", \
             without \"messaging.iot\" before it",
        ),
        (
            "pins = [\"md5:x\"]",
            "6:8: broker.pins[0]: a pin begins with sha256:; take it from: openssl x509 -in <certificate> -pubkey -noout \
             | openssl pkey -pubin -outform der | openssl dgst -sha256",
        ),
        (
            "proxy = \"http://me:s3cr3t@p:1\"",
            "6:9: broker.proxy: the proxy's user and password do not belong into its address, where logs and colleagues \
             read it; write \"http://HOST:PORT\", and put USER:PASSWORD into a file with mode 0600 that \
             proxy_credentials_file names",
        ),
    ] {
        assert_eq!(error(&format!("[broker]\n{text}\n")), format!("agent.toml:{said}"), "{text}");
    }
}

#[test]
fn a_proxy_has_its_credentials_from_a_variable_or_a_file_and_spares_the_hosts_of_no_proxy() {
    let text = with_device("[broker]\nproxy = \"http://p:3128\"\nproxy_credentials_env = \"P\"\n");
    let settings = Place::with(&text).variable("P", "lamp-17:s3cr3t").load().unwrap();
    let proxy = settings.config.broker.proxy.clone().unwrap();
    assert_eq!((&*proxy.host, proxy.port), ("p", 3128));
    let (user, password) = proxy.credentials.unwrap();
    assert_eq!((&*user, password.expose()), ("lamp-17", "s3cr3t"));
    assert!(!format!("{settings:?}").contains("s3cr3t"));
    let said = check::describe("agent.toml".as_ref(), &settings);
    assert!(said.contains("through the proxy p:3128") && !said.contains("s3cr3t"), "{said}");

    let text = with_device("[broker]\nhost = \"b.local\"\nproxy = \"environment\"\n");
    for (spared, goes) in [(".local", false), ("other", true)] {
        let place = Place::with(&text).variable("http_proxy", "http://p").variable("no_proxy", spared);
        assert_eq!(place.load().unwrap().config.broker.proxy.is_some(), goes, "{spared}");
    }
}

#[test]
fn insecure_skip_verify_is_warned_of_and_shown_by_check() {
    let settings = load("[broker]\ninsecure_skip_verify = true\n");
    assert!(
        settings.warnings.iter().any(|warning| warning.starts_with("broker.insecure_skip_verify is true"))
    );
    let said = check::describe("agent.toml".as_ref(), &settings);
    assert!(said.contains("TLS verified by nobody"), "{said}");
}

#[test]
fn a_renewed_certificate_is_read_by_the_rules_of_the_first_one() {
    let text = "[broker]\nclient_certificate = \"device.pem\"\nclient_key = \"device.key\"\n";
    let place = Place::with(&with_device(text));
    place.write("device.pem", DEVICE[0], 0o644);
    place.write("device.key", DEVICE[1], 0o600);
    let settings = place.load().unwrap();
    let said = check::describe("agent.toml".as_ref(), &settings);
    assert!(!said.contains("warning: broker.client_certificate"), "{said}");
    let tls = settings.config.broker.tls.unwrap();
    let files = tls.client_files.unwrap();
    assert_eq!(files.read().unwrap(), tls.client_pem.unwrap());
    place.write("device.key", DEVICE[1], 0o644);
    let reason = files.read().unwrap_err();
    assert!(reason.contains("is open to others than its owner"), "{reason}");
    fs::remove_file(place.path("device.pem")).unwrap();
    assert!(files.read().unwrap_err().contains("cannot be read"));
}

#[test]
fn a_certificate_of_another_device_is_shown_by_check() {
    let text = "[broker]\nclient_certificate = \"device.pem\"\nclient_key = \"device.key\"\n";
    let text = with_device(text).replace("lamp-17", "lamp-18");
    let place = Place::with(&text);
    place.write("device.pem", DEVICE[0], 0o644);
    place.write("device.key", DEVICE[1], 0o600);
    let said = check::describe("agent.toml".as_ref(), &place.load().unwrap());
    assert!(said.contains("warning: broker.client_certificate is that of d:lamp:lamp-17"), "{said}");
}

fn quickstart(rest: &str) -> Place {
    Place::with(&with_device(rest).replace("abc123", "quickstart")).variable("T", "t0k3n")
}

#[test]
fn quickstart_needs_nothing_and_keeps_no_session() {
    let settings = quickstart("[broker]\ntls = false\n").load().unwrap();
    let broker = &settings.config.broker;
    assert_eq!(broker.host, "quickstart.messaging.internetofthings.ibmcloud.com");
    assert!(!broker.durable_session && settings.config.token.is_none());
    assert_eq!(
        settings.warnings.len(),
        2,
        "the journal's folder, and what quickstart is: {:?}",
        settings.warnings
    );
    assert!(settings.warnings[1].starts_with("device.org is quickstart"));
}

#[test]
fn quickstart_refuses_proof_a_durable_session_and_every_kind_of_management() {
    let file = "\"/bin/true\"";
    for (text, key) in [
        ("[auth]\ntoken_env = \"T\"\n", "auth.token_env: quickstart knows no devices"),
        ("[broker]\ndurable_session = true\n", "broker.durable_session: quickstart keeps nothing"),
        (
            "[broker]\nmqtt_version = 5\nsession_expiry = \"1h\"\n",
            "broker.session_expiry: quickstart keeps nothing",
        ),
        ("[gateway]\n", "gateway: quickstart has no device management"),
        ("[management]\nlifetime = \"2h\"\n", "management.lifetime: quickstart has no device management"),
        ("[device.location]\nlatitude = 1.0\nlongitude = 1.0\n", "device.location: quickstart has no"),
        ("[actions.reboot]\ndry_run = true\n", "actions.reboot: quickstart has no device management"),
        ("[actions.factory_reset]\ndry_run = true\n", "actions.factory_reset: quickstart has no"),
        ("[actions.diagnostics]\n", "actions.diagnostics: quickstart has no"),
        ("[commands.colour]\nrun = [\"true\"]\n", "commands: quickstart has no commands"),
        (
            &format!("[[actions.script]]\nbundle = \"b\"\naction = \"a\"\nprogram = {file}\n"),
            "actions.script: quickstart has no",
        ),
    ] {
        let said = quickstart(text).load().unwrap_err();
        assert!(said.contains(key), "{text}: {said}");
    }
    let place = quickstart("[broker]\nclient_certificate = \"device.pem\"\nclient_key = \"device.key\"\n");
    place.write("device.pem", DEVICE[0], 0o644);
    place.write("device.key", DEVICE[1], 0o600);
    let said = place.load().unwrap_err();
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(
        said.starts_with("agent.toml:6:22: broker.client_certificate: quickstart knows no devices"),
        "{said}"
    );
}
