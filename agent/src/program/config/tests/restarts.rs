//! Reboot and factory reset: their rules, and what an operator may get wrong there.

use std::time::Duration;

use super::super::{RebootMeans, ResetMeans};
use super::{Place, load, with_device};
use crate::program::check as program_check;

/// Lines from line 5 on, and everything that is said.
fn check(rest: &str, said: &str) {
    assert_eq!(Place::with(&with_device(rest)).load().map(|_| ()), Err(said.to_owned()), "{rest}");
}

const REBOOT: &str = "[actions.reboot]\ncommand = [\"true\"]\n";

#[test]
fn the_rules_of_a_restart() {
    let reboot = load(
        "[actions.reboot]\nmethod = \"logind\"\nwindow = [\"Mon-Fri 01:00-04:00\"]\nmax_restarts = 3\n\
         max_restarts_within = \"2d\"\nveto_command = [\"true\", \"-x\"]\nveto_time_limit = \"2s\"\nmax_delay = 0\n",
    )
    .actions
    .reboot
    .unwrap();
    assert!(matches!(reboot.means, RebootMeans::Logind) && reboot.rules.windows.is_some());
    assert_eq!(reboot.rules.limit, Some((3, Duration::from_secs(172_800))));
    let (veto, time) = reboot.rules.veto.unwrap();
    assert_eq!((veto.args.as_slice(), time), (&["-x".to_owned()][..], Duration::from_secs(2)));
    assert_eq!(reboot.rules.max_delay, Duration::ZERO);
}

#[test]
fn a_reset_by_wiping_restarts_as_the_reboot_does() {
    let reset = load(&format!("{REBOOT}[actions.factory_reset]\nwipe = [\"/var/lib/product\"]\n"));
    let reset = reset.actions.factory_reset.unwrap();
    assert!(matches!(reset.means, ResetMeans::Staged { wipe: Some(_), then: None }), "{reset:?}");
    check(
        "[actions.factory_reset]\nwipe = [\"/var/lib/product\"]\n",
        "agent.toml:5:1: actions.factory_reset: needs a way to restart at its end; add an [actions.reboot] section",
    );
    let place = Place::with(&with_device(
        "[actions.reboot]\ndry_run = true\n[actions.factory_reset]\nwipe = [\"/var/lib/product\"]\n",
    ));
    let warnings = place.load().unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("[actions.reboot] is a dry run")), "{warnings:?}");
}

#[test]
fn two_ways_at_once() {
    check(
        "[actions.reboot]\nmethod = \"logind\"\ncommand = [\"true\"]\n",
        "agent.toml:7:11: actions.reboot.command: is of no use with method = \"logind\"; remove it, or write method = \
         \"command\"",
    );
    check(
        "[actions.reboot]\nmethod = \"dbus\"\n",
        "agent.toml:6:10: actions.reboot.method: \"dbus\" is not one of the choices; write \"command\" or \"logind\"",
    );
    check(
        &format!("{REBOOT}[actions.factory_reset]\ncommand = [\"true\"]\nwipe = [\"/data\"]\n"),
        "agent.toml:9:8: actions.factory_reset.wipe: command does the whole reset by itself; keep command, or wipe and \
         then",
    );
    check(
        "[actions.factory_reset]\nbudget = \"1m\"\n",
        "agent.toml:5:1: actions.factory_reset.command: is missing; write wipe with a list of the folders to empty, such \
         as [\"/var/lib/product\"], or a command that does it all, or dry_run = true to try without one",
    );
}

#[test]
fn rules_that_rule_nothing() {
    check(
        "[actions.reboot]\ncommand = [\"true\"]\nmax_restarts_within = \"1d\"\n",
        "agent.toml:7:23: actions.reboot.max_restarts_within: limits nothing alone; add max_restarts, such as \
         max_restarts = 3",
    );
    check(
        "[actions.reboot]\ncommand = [\"true\"]\nmax_delay = \"1m\"\n",
        "agent.toml:7:13: actions.reboot.max_delay: is of no use without a program that is asked; add veto_command, or \
         remove it",
    );
    check(
        "[actions.reboot]\ncommand = [\"true\"]\nmax_restarts = 0\n",
        "agent.toml:7:16: actions.reboot.max_restarts: 0 is out of range; a number of restarts is 1 to 100",
    );
    check(
        "[actions.reboot]\ncommand = [\"true\"]\nwindow = [\"nights\"]\n",
        "agent.toml:7:10: actions.reboot.window: \"nights\" is no maintenance window; write days and times in UTC, such \
         as \"Mon-Fri 01:00-04:00\"",
    );
}

/// Whatever the reset would take of what the agent needs to be itself afterwards.
#[test]
fn a_reset_that_would_wipe_the_agent() {
    let refused = |section: &str, wipe: &str| {
        let rest = format!("{section}{REBOOT}[actions.factory_reset]\nwipe = [\"{wipe}\"]\n");
        let place = Place::with(&with_device(&rest)).variable("T", "t");
        place.write("token", "t0k3n\n", 0o600);
        place
            .load()
            .map(|_| ())
            .unwrap_err()
            .split_once(": actions.factory_reset.wipe: ")
            .unwrap()
            .1
            .to_owned()
    };
    let journal = "[journal]\npath = \"/var/lib/agent/journal\"\n";
    assert_eq!(
        refused(journal, "/var/lib/agent"),
        "/var/lib/agent holds the journal (/var/lib/agent/journal), which a factory reset keeps; declare the folders \
         beside it"
    );
    assert!(refused("", "/var/lib/iotdm-agent").contains("holds the journal (/var/lib/iotdm-agent/journal)"));
    assert!(refused("", "/").contains("belongs to the system"));
    assert!(refused("", "product").contains("is no plain absolute path"));

    let place = Place::with("");
    let home = place.path("agent.toml").canonicalize().unwrap().parent().unwrap().to_owned();
    place.write("token", "t0k3n\n", 0o600);
    for (name, wipe) in
        [("the configuration", home.join("agent.toml")), ("auth.token_file", home.join("token"))]
    {
        let rest = format!(
            "[auth]\ntoken_file = \"token\"\n{REBOOT}[actions.factory_reset]\nwipe = [\"{}\"]\n",
            wipe.display()
        );
        place.write("agent.toml", with_device(&rest).as_bytes(), 0o644);
        let said = place.load().map(|_| ()).unwrap_err();
        let file = wipe.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(&format!("{file} holds {name} (")), "{said}");
    }
    let then =
        format!("{REBOOT}[actions.factory_reset]\nwipe = [\"/data\"]\nthen = [\"/data/bin/defaults\"]\n");
    let said = Place::with(&with_device(&then)).load().map(|_| ()).unwrap_err();
    assert!(said.contains("/data holds the program of then (/data/bin/defaults)"), "{said}");
}

/// What proves, stages and installs an image, what scripts are declared in, and the programs that are asked.
#[test]
fn a_reset_that_would_wipe_what_the_actions_need() {
    let firmware = "[actions.firmware]\nstaging_dir = \"/data/staging\"\n";
    let installed = "install_command = [\"/bin/true\", \"{image}\"]\n";
    let scripts = "[[actions.script]]\nbundle = \"b\"\naction = \"a\"\nprogram = \"/data/bin/run\"\n";
    for (name, section) in [
        ("actions.firmware.staging_dir (/data/staging)", format!("{firmware}{installed}")),
        ("actions.firmware.client_key (/data/key)", format!("{firmware}client_key = \"/data/key\"\n")),
        (
            "actions.firmware.client_certificate (/data/chain)",
            format!("{firmware}client_certificate = \"/data/chain\"\n"),
        ),
        (
            "actions.firmware.proxy_credentials_file (/data/proxy)",
            format!("{firmware}proxy_credentials_file = \"/data/proxy\"\n"),
        ),
        ("actions.firmware.install_command (/data/install)", {
            format!("{firmware}install_command = [\"/data/install\"]\n")
        }),
        ("actions.firmware.health_check (/data/check)", {
            format!("{firmware}{installed}health_check = [\"/data/check\"]\n")
        }),
        ("actions.firmware.file.target (/data/product)", {
            format!("{firmware}installer = \"file\"\n[actions.firmware.file]\ntarget = \"/data/product\"\n")
        }),
        ("actions.scripts_dir (/data/scripts)", "[actions]\nscripts_dir = \"/data/scripts\"\n".to_owned()),
        ("the program of a script (/data/bin/run)", scripts.to_owned()),
    ] {
        // Of a firmware section the staging folder is named first: only what is asked for is wiped.
        let path = name.split(['(', ')']).nth(1).unwrap();
        let rest = format!("{section}{REBOOT}[actions.factory_reset]\nwipe = [\"{path}\"]\n");
        let said = Place::with(&with_device(&rest)).load().map(|_| ()).unwrap_err();
        assert!(said.contains(&format!("{path} holds {name}, which a factory reset keeps")), "{said}");
    }
    for section in ["reboot", "factory_reset"] {
        let veto = "veto_command = [\"/data/bin/may\"]\n";
        let of = |name| if name == section { veto } else { "" };
        let rest = format!(
            "{REBOOT}{}[actions.factory_reset]\nwipe = [\"/data\"]\n{}",
            of("reboot"),
            of("factory_reset")
        );
        let said = Place::with(&with_device(&rest)).load().map(|_| ()).unwrap_err();
        assert!(said.contains("/data holds the program of veto_command (/data/bin/may)"), "{said}");
    }
    let own = std::env::current_exe().unwrap().canonicalize().unwrap();
    let wipe = own.parent().unwrap().display();
    let rest = format!("{REBOOT}[actions.factory_reset]\nwipe = [\"{wipe}\"]\n");
    let said = Place::with(&with_device(&rest)).load().map(|_| ()).unwrap_err();
    assert!(said.contains("holds the agent ("), "{said}");
}

#[test]
fn check_says_that_a_dry_run_restarts_nothing_and_is_not_counted() {
    let rest = "[actions.reboot]\ncommand = [\"true\"]\ndry_run = true\nmax_restarts = 2\n";
    let text = program_check::describe("agent.toml".as_ref(), &load(rest));
    let expected =
        "reboot: this is a dry run instead of `true`, at most 2 in 1d (a dry run is not counted)\n";
    assert!(text.contains(expected), "{text}");
}
