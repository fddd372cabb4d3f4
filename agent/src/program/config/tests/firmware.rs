//! `[actions.firmware]`: the keys of a download.

use std::time::Duration;

use super::sample::{CERTIFICATE, KEY};
use super::{Place, load, with_device};
use crate::program::check;
use crate::program::config::{FirmwareAction, Verify};

/// A public key of minisign.
const PUBLIC_KEY: &str = "RWQiIBfklrKsRlsto5FOL4KB0F9OCBXTkNsgqO7jpi87yIxuLAyk1fZa";

fn place(rest: &str) -> Place {
    Place::with(&with_device(&format!(
        "[actions.firmware]\nstaging_dir = \"images\"\ninstall_command = [\"/bin/true\", \"{{image}}\"]\n{rest}"
    )))
}

fn firmware(place: &Place) -> FirmwareAction {
    place.load().unwrap().actions.firmware.unwrap()
}

/// The one error, without the place in the file.
fn error(place: &Place) -> String {
    let error = place.load().unwrap_err();
    let (_, message) = error.split_once(": actions.firmware.").unwrap_or_else(|| panic!("{error}"));
    message.to_owned()
}

#[test]
fn whoever_names_keys_wants_signatures_unless_the_file_says_otherwise() {
    let keys = format!("public_keys = [\"{PUBLIC_KEY}\"]\n");
    for (rest, expected, warned) in [
        (String::new(), Verify::Required, false),
        (keys.clone(), Verify::Signature, false),
        (format!("{keys}verify = \"signature\"\n"), Verify::Signature, false),
        (format!("{keys}verify = \"required\"\n"), Verify::Required, true),
        (format!("{keys}verify = \"if-given\"\n"), Verify::IfGiven, true),
    ] {
        let settings = place(&rest).load().unwrap();
        assert_eq!(settings.actions.firmware.as_ref().unwrap().verify, expected, "{rest}");
        let told = settings.warnings.iter().any(|warning| warning.contains("without a signature"));
        assert_eq!(told, warned, "{rest}");
    }
    let message = error(&place("verify = \"signature\"\n"));
    assert!(message.ends_with("needs a key to check it with; add public_keys = [\"RW...\"]"), "{message}");
    for text in ["RWQ", "untrusted comment: x", ""] {
        let message = error(&place(&format!("public_keys = [\"{text}\"]\n")));
        assert!(message.starts_with("public_keys"), "{message}");
        assert!(message.contains("the 56 characters that begin with RW"), "{message}");
    }
}

#[test]
fn a_proxy_gets_its_credentials_from_a_file_or_a_variable_and_nobody_sees_them() {
    for rest in ["proxy_credentials_file = \"pass\"\n", "proxy_credentials_env = \"IOTDM_PROXY\"\n"] {
        let text = format!("proxy = \"http://proxy:3128\"\nno_proxy = [\"images.local\"]\n{rest}");
        let place = place(&text).variable("IOTDM_PROXY", "lamp:s3cr3t");
        place.write("pass", "lamp:s3cr3t\n", 0o600);
        let settings = place.load().unwrap();
        let proxy = settings.actions.firmware.as_ref().unwrap().http.proxy.as_ref().unwrap();
        assert!(format!("{proxy:?}").contains("has_credentials: true"), "{proxy:?}");
        let shown = format!("{settings:?}") + &check::describe("agent.toml".as_ref(), &settings);
        assert!(shown.contains(", through proxy:3128") && !shown.contains("s3cr3t"), "{shown}");
    }
}

#[test]
fn a_proxy_that_cannot_be_used_is_told_without_its_password() {
    let address = "proxy = \"http://p:1\"\n";
    let given_twice = "proxy_credentials_file = \"word\"\nproxy_credentials_env = \"IOTDM_PROXY\"\n";
    for (rest, expected) in [
        (
            "proxy = \"http://lamp:s3cr3t@p:1\"\n".to_owned(),
            "into a file with mode 0600 that proxy_credentials_file names",
        ),
        ("proxy = \"socks5://lamp:s3cr3t@p\"\n".into(), "write \"http://HOST:PORT\", or \"environment\""),
        (format!("{address}proxy_credentials_file = \"open\"\n"), "run: chmod 600 open"),
        (format!("{address}proxy_credentials_file = \"word\"\n"), "have to be USER:PASSWORD on one line"),
        (format!("{address}proxy_credentials_env = \"IOTDM_NONE\"\n"), "set it to USER:PASSWORD"),
        (format!("{address}proxy_credentials_env = \"s3cr3tValue\"\n"), "is not the name of an environment"),
        (format!("{address}{given_twice}"), "keep one of the two"),
        (format!("{address}no_proxy = [\"a b\"]\n"), "a host without the proxy is NAME, .DOMAIN"),
        ("no_proxy = [\"a\"]\n".into(), "is of no use without a proxy"),
        ("proxy = \"environment\"\nno_proxy = [\"a\"]\n".into(), "is of no use with proxy = \"environment\""),
    ] {
        let place = place(&rest).variable("IOTDM_PROXY", "lamp:s3cr3t");
        place.write("open", "lamp:s3cr3t", 0o644);
        place.write("word", "s3cr3t", 0o600);
        let message = error(&place);
        assert!(message.contains(expected) && !message.contains("s3cr3t"), "{rest}{message}");
    }
}

#[test]
fn the_environments_proxy_is_taken_only_when_it_is_asked_for() {
    for (rest, expected) in [("", None), ("proxy = \"environment\"\n", Some("p:3128"))] {
        let place = place(rest).variable("https_proxy", "http://lamp:s3cr3t@p:3128");
        assert_eq!(firmware(&place).http.proxy.map(|proxy| proxy.place()).as_deref(), expected);
    }
    let place = place("proxy = \"environment\"\n").variable("https_proxy", "socks5://lamp:s3cr3t@p");
    let message = error(&place);
    assert!(message.contains("has to be http://HOST:PORT") && !message.contains("s3cr3t"), "{message}");
}

#[test]
fn a_client_certificate_has_a_key_that_nobody_else_may_read() {
    let both = "client_certificate = \"c.pem\"\nclient_key = \"k.pem\"\n";
    for (rest, mode, expected) in [
        (both, 0o644, Some("run: chmod 600 k.pem")),
        (both, 0o640, Some("run: chmod 600 k.pem")),
        ("client_certificate = \"c.pem\"\n", 0o600, Some("has no key")),
        ("client_key = \"k.pem\"\n", 0o600, Some("has no certificate")),
        (both, 0o600, None),
    ] {
        let place = place(rest);
        place.write("c.pem", CERTIFICATE, 0o644);
        place.write("k.pem", KEY, mode);
        match expected {
            Some(expected) => {
                let message = error(&place);
                assert!(message.contains(expected) && !message.contains("c2VjcmV0"), "{message}");
            }
            None => {
                let action = firmware(&place);
                assert!(action.http.client_pem.is_some() && !format!("{action:?}").contains("c2VjcmV0"));
            }
        }
    }
}

/// What is told of a proxy's and a certificate's mistakes is told of both sections; here it is that each is read.
#[test]
fn logs_go_the_way_that_images_come() {
    let rest = "[actions.diagnostics]\n[[actions.diagnostics.log]]\nname = \"lamp\"\njournal = true\n\
         [actions.diagnostics.upload]\nhosts = [\"logs.example.com\"]\n";
    let keys = "client_certificate = \"c.pem\"\nclient_key = \"k.pem\"\nproxy = \"http://proxy:3128\"\n";
    let place = Place::with(&with_device(&format!("{rest}{keys}")));
    place.write("c.pem", CERTIFICATE, 0o644);
    place.write("k.pem", KEY, 0o600);
    let settings = place.load().unwrap();
    let shown = check::describe("agent.toml".as_ref(), &settings);
    assert!(shown.contains("with a client certificate, through proxy:3128"), "{shown}");
    let upload = settings.actions.diagnostics.unwrap().upload.unwrap();
    assert!(upload.http.client_pem.is_some() && upload.http.proxy.is_some());

    let place = Place::with(&with_device(&format!("{rest}no_proxy = [\"a\"]\n")));
    let message = place.load().unwrap_err();
    assert!(
        message.contains("actions.diagnostics.upload.no_proxy: is of no use without a proxy"),
        "{message}"
    );
}

#[test]
fn a_rate_and_patience_are_read_in_their_ranges() {
    let rest = "bytes_per_second = 65536\nstall_limit = \"90s\"\nfruitless_attempts = 3\n";
    let action = firmware(&place(rest));
    assert_eq!(action.bytes_per_second.unwrap().get(), 65_536);
    assert_eq!((action.stall_limit, action.fruitless_attempts), (Duration::from_secs(90), 3));
    for (rest, expected) in [
        ("bytes_per_second = 0\n", "a rate in bytes per second is 1024 to 1073741824"),
        ("stall_limit = \"1s\"\n", "a stall limit is 5s to 1h"),
        ("fruitless_attempts = 0\n", "a number of attempts is 1 to 10000"),
    ] {
        let message = error(&place(rest));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn an_installation_with_a_restart_that_is_a_dry_run_is_warned_of() {
    let settings = |dry_run: bool| {
        load(&format!(
            "[actions.reboot]\ncommand = [\"true\"]\ndry_run = {dry_run}\n[actions.firmware]\nstaging_dir = \"x\"\n\
             installer = \"rauc\"\n"
        ))
    };
    let told = |dry_run| {
        settings(dry_run)
            .warnings
            .iter()
            .any(|text| text.starts_with("actions.firmware: [actions.reboot] is a dry run"))
    };
    assert!(told(true) && !told(false));
}

#[test]
fn a_firmware_file_is_a_file_in_a_folder_that_is_there() {
    let section = |target: &str| {
        with_device(&format!(
            "[actions.firmware]\nstaging_dir = \"x\"\ninstaller = \"file\"\n[actions.firmware.file]\ntarget = \"{target}\"\n"
        ))
    };
    let said = Place::with(&section("/usr")).load().map(|_| ()).unwrap_err();
    let expected = "agent.toml:9:10: actions.firmware.file.target: /usr is a folder; write the path of the file that is the firmware";
    assert_eq!(said, expected);
    let warnings = Place::with(&section("/nowhere/lamp")).load().unwrap().warnings;
    assert!(warnings.iter().any(|text| text.contains("the folder /nowhere is not there")), "{warnings:?}");
}

#[test]
fn check_tells_what_an_installed_image_has_to_show_to_stay() {
    let settings = load(
        "[actions.firmware]\nstaging_dir = \"/x\"\ninstaller = \"file\"\nhealth_check = [\"/bin/true\", \"s3cr3t\"]\n\
         managed_within = \"5m\"\n[actions.firmware.file]\ntarget = \"/usr/bin/lamp\"\nactivate_command = [\"/bin/true\"]\n",
    );
    let text = check::describe("agent.toml".as_ref(), &settings);
    let expected = "install with a swap of `/usr/bin/lamp` and `/bin/true` within 30m, and roll back unless `/bin/true` \
                    with 1 argument ends with 0 and managed within 5m\n";
    assert!(text.contains(expected), "{text}");
}
