//! What an operator may get wrong, and what is said then.

use super::{Place, with_device};

/// The whole file, and everything that is said.
fn check_file(text: &str, said: &str) {
    assert_eq!(Place::with(text).load().map(|_| ()), Err(said.to_owned()), "{text}");
}

/// Lines from line 5 on, and everything that is said.
fn check(rest: &str, said: &str) {
    check_file(&with_device(rest), said);
}

#[test]
fn a_file_that_is_no_configuration() {
    let sections =
        "it needs at least a [device] section with org, type and id (the sample agent.toml shows every key)";
    check_file("", &format!("agent.toml: is empty; {sections}"));
    check_file("# nothing\n", &format!("agent.toml: is empty; {sections}"));
    check_file(
        &"#\n".repeat(200_000),
        "agent.toml: has more than 256 KiB; is it the configuration? name the configuration with --config",
    );
    let place = Place::with("");
    place.write("agent.toml", b"[device]\norg = \"gr\xfcn\"\n", 0o644);
    assert_eq!(place.load().unwrap_err(), "agent.toml:2:10: byte 0xfc is not UTF-8; save the file as UTF-8");
    std::fs::remove_file(place.path("agent.toml")).unwrap();
    assert_eq!(
        place.load().unwrap_err(),
        "agent.toml: cannot be read: No such file or directory (os error 2); name the configuration with --config"
    );
    std::fs::create_dir(place.path("agent.toml")).unwrap();
    assert_eq!(
        place.load().unwrap_err(),
        "agent.toml: cannot be read: it is a folder, not a file; name the configuration with --config"
    );
}

#[test]
fn syntax_and_keys_given_twice() {
    check("[broker\n", "agent.toml:5:8: is not TOML here: unclosed table, expected `]`");
    check(
        "[broker]\nhost = example\n",
        "agent.toml:6:8: is not TOML here: a text needs quotes, as in key = \"text\"",
    );
    check(
        "[broker]\nhost = 127.0.0.1\n",
        "agent.toml:6:13: is not TOML here: this is no number; a text, such as an address or \"90s\", needs quotes",
    );
    check("[broker]\nport = 1\nport = 2\n", "agent.toml:7:1: port: is given twice; keep one of the two");
    check("[device]\n", "agent.toml:5:2: device: is given twice; keep one of the two");
}

#[test]
fn keys_that_are_missing() {
    check_file(
        "[broker]\nport = 1\n",
        "agent.toml: device: is missing; add a [device] section with org, type and id",
    );
    check_file(
        "[broker]\n[device]\norg = \"abc123\"\ntype = \"lamp\"\n",
        "agent.toml:2:1: device.id: is missing; add the device's id as it is registered, such as id = \"lamp-17\"",
    );
    check(
        "[[actions.script]]\nbundle = \"b\"\nprogram = \"sh\"\n",
        "agent.toml:5:1: actions.script[0].action: is missing; add the action's id as the extension bundle has it",
    );
    check(
        "[actions.firmware]\nstaging_dir = \"x\"\n",
        "agent.toml:5:1: actions.firmware.install_command: is missing; add the program that installs an image and its \
         arguments, such as install_command = [\"/usr/lib/iotdm-agent/install\", \"{image}\"]",
    );
    check(
        "[actions.reboot]\nbudget = \"10s\"\n",
        "agent.toml:5:1: actions.reboot.command: is missing; write a list of the program and its arguments, such as \
         [\"systemctl\", \"reboot\"], or dry_run = true to try without one, or method = \"logind\"",
    );
}

#[test]
fn an_install_command_that_would_be_searched() {
    check(
        "[actions.firmware]\nstaging_dir = \"x\"\ninstall_command = [\"rauc\", \"install\"]\n",
        "agent.toml:7:19: actions.firmware.install_command: \"rauc\" is a name alone; write the program's path: no search \
         decides what installs firmware",
    );
}

#[test]
fn an_installer_that_lacks_what_it_needs_or_has_what_it_ignores() {
    let firmware = "[actions.firmware]\nstaging_dir = \"x\"\n";
    check(
        &format!("{firmware}installer = \"rauc\"\n"),
        "agent.toml:7:13: actions.firmware.installer: needs a command to restart with; add an [actions.reboot] section",
    );
    check(
        &format!(
            "{firmware}installer = \"file\"\ncommit_command = [\"/bin/true\"]\n[actions.firmware.file]\ntarget = \"/x\"\n"
        ),
        "agent.toml:8:18: actions.firmware.commit_command: is of no use with installer = \"file\"; remove it, or name its \
         installer",
    );
    check(
        &format!(
            "{firmware}installer = \"file\"\nmanaged_within = \"5s\"\n[actions.firmware.file]\ntarget = \"/x\"\n"
        ),
        "agent.toml:8:18: actions.firmware.managed_within: 5s is out of range; a time to be managed is 10s to 1h",
    );
}

#[test]
fn a_script_for_an_action_that_is_served_already() {
    let script = "[[actions.script]]\nbundle = \"iotdm\"\naction = \"clearLog\"\nprogram = \"sh\"\n";
    check(
        &format!("[actions.diagnostics]\n{script}"),
        "agent.toml:8:10: actions.script[0].action: iotdm/clearLog is served by [actions.diagnostics]; keep one of the \
         two",
    );
    let place = Place::with(&with_device(script));
    assert!(place.load().is_ok(), "without [actions.diagnostics] the action is free");
}

#[test]
fn logs_and_facts() {
    let log = "[[actions.diagnostics.log]]\nname = \"lamp\"\n";
    let three = "is one of three: file = \"/var/log/lamp.log\", unit = \"lamp.service\" for what that unit wrote to the \
                 journal, or journal = true for all of the journal";
    check(log, &format!("agent.toml:5:1: actions.diagnostics.log[0]: {three}"));
    check(
        &format!("{log}file = \"a\"\nunit = \"a.service\"\n"),
        &format!("agent.toml:5:1: actions.diagnostics.log[0]: {three}"),
    );
    check(
        "[[actions.diagnostics.log]]\nfile = \"a\"\n",
        "agent.toml:5:1: actions.diagnostics.log[0].name: is missing; add what a request calls this log, such as \
         name = \"lamp\"",
    );
    check(
        &format!("{log}unit = \"lamp\"\n"),
        "agent.toml:5:1: actions.diagnostics.log[0]: \"lamp\" is no unit of systemd: write its whole name, such as \
         \"lamp.service\"",
    );
    check(
        &format!("{log}file = \"a\"\n{log}journal = true\n"),
        "agent.toml:9:8: actions.diagnostics.log[1].name: a log is called \"lamp\" already; give each its own name",
    );
    check(
        "[actions.diagnostics.log]\nname = \"lamp\"\n",
        "agent.toml:5:1: actions.diagnostics.log: there may be several; write [[actions.diagnostics.log]], with two \
         brackets on each side",
    );
    check(
        "[actions.diagnostics.upload]\n",
        "agent.toml:5:1: actions.diagnostics.upload: has no log to send; add an [[actions.diagnostics.log]] section for \
         each log that may be asked for",
    );
    let upload = format!("{log}journal = true\n[actions.diagnostics.upload]\n");
    check(
        &format!("{upload}hosts = [\"a\", \"https://b/\"]\n"),
        "agent.toml:9:15: actions.diagnostics.upload.hosts[1]: \"https://b/\" is no host: write its name alone, or its \
         name and port, such as \"logs.example.com:8443\"",
    );
    check(
        &format!("{upload}allow_http = true\n"),
        "agent.toml:9:14: actions.diagnostics.upload.allow_http: is of no use without hosts; add the servers that logs \
         may be sent to, such as hosts = [\"logs.example.com\"]",
    );
    check(
        &format!("{upload}max_bytes = 10\n"),
        "agent.toml:9:13: actions.diagnostics.upload.max_bytes: 10 is out of range; a size of a log in bytes is 1024 to \
         16777216",
    );
    let facts = "[actions.diagnostics.facts]\n";
    check(
        &format!("{facts}interval = \"1s\"\n"),
        "agent.toml:6:12: actions.diagnostics.facts.interval: 1s is out of range; an interval of facts is 10s to 1d, or \
         0 for \"only when asked\"",
    );
    check(
        &format!("{facts}celsius = 0\n"),
        "agent.toml:6:11: actions.diagnostics.facts.celsius: 0 is no threshold; write a number above 0, such as 5",
    );
    check(
        &format!("{facts}disks = [{}]\n", "\"/\", ".repeat(17)),
        "agent.toml:6:9: actions.diagnostics.facts.disks: at most 16 disks are told of",
    );
    let script = "[[actions.script]]\nbundle = \"iotdm\"\naction = \"facts\"\nprogram = \"sh\"\n";
    check(
        &format!("{facts}{script}"),
        "agent.toml:8:10: actions.script[0].action: iotdm/facts is served by [actions.diagnostics]; keep one of the two",
    );
}

#[test]
fn keys_that_are_not_known() {
    check("[broker]\n prot = 1\n", "agent.toml:6:2: broker.prot: is not a known key; did you mean `port`?");
    check(
        "[broker]\nkeep-alive = 1\n",
        "agent.toml:6:1: broker.keep-alive: is not a known key; did you mean `keep_alive`?",
    );
    check(
        "[broker]\ntoken = \"t0k3n\"\n",
        "agent.toml:6:1: broker.token: is not a known key; the token stands in a file or a variable, which [auth] names \
         with token_file or token_env",
    );
    check("[borker]\n", "agent.toml:5:2: borker: is not a known key; did you mean `broker`?");
    check(
        "[metrics]\n",
        "agent.toml:5:2: metrics: is not a known key; the sections are device, gateway, attached, attributes, broker, auth, management, journal, \
         limits, events, actions, commands, log",
    );
    check(
        "[management]\nbundles = []\n",
        "agent.toml:6:1: management.bundles: is not a known key; [management] has lifetime",
    );
    check(
        "[[actions.script]]\nbundle = \"b\"\naction = \"a\"\nprogram = \"sh\"\ntimelimit = \"1s\"\n",
        "agent.toml:9:1: actions.script[0].timelimit: is not a known key; did you mean `time_limit`?",
    );
}

#[test]
fn values_out_of_range() {
    check(
        "[broker]\nport = 70000\n",
        "agent.toml:6:8: broker.port: 70000 is out of range; a TCP port is 1 to 65535",
    );
    check(
        "[broker]\nport = -1\n",
        "agent.toml:6:8: broker.port: -1 is out of range; a TCP port is 1 to 65535",
    );
    check(
        "[broker]\nkeep_alive = \"2s\"\n",
        "agent.toml:6:14: broker.keep_alive: 2s is out of range; a keep-alive time is 5s to 65535s",
    );
    check(
        "[management]\nlifetime = \"30m\"\n",
        "agent.toml:6:12: management.lifetime: 30m is out of range; a lifetime is 1h to 365d, or 0 for \"for ever\"",
    );
    check(
        "[journal]\nkept_executed = 3\n",
        "agent.toml:6:17: journal.kept_executed: 3 is out of range; a number of kept requests is 16 to 1000000",
    );
    check(
        "[limits]\npending = 10\n",
        "agent.toml:6:11: limits.pending: pending counts the running ones too: pending 10 cannot be below running 64",
    );
    check(
        "[device.metadata]\na = 1\nb = { c = [1.0, nan] }\n",
        "agent.toml:7:17: device.metadata.b.c[1]: NaN has no form in JSON; write a finite number or a text",
    );
}

#[test]
fn values_of_another_type() {
    check(
        "[broker]\nport = \"8883\"\n",
        "agent.toml:6:8: broker.port: found the text \"8883\", expected a TCP port, a whole number from 1 to 65535",
    );
    check(
        "[broker]\ntls = \"yes\"\n",
        "agent.toml:6:7: broker.tls: found the text \"yes\", expected true or false",
    );
    check(
        "broker = 1\n",
        "agent.toml:5:1: device.broker: is not a known key; [device] has org, type, id, info, metadata, \
         location",
    );
    check_file("device = 1\n", "agent.toml:1:10: device: found the number 1, expected a section, [device]");
    check(
        "[broker]\nkeep_alive = 60\n",
        "agent.toml:6:14: broker.keep_alive: 60 has no unit; write a text such as \"90s\", \"15m\" or \"1h 30m\"",
    );
    check(
        "[broker]\nkeep_alive = \"1 fortnight\"\n",
        "agent.toml:6:14: broker.keep_alive: \"1 fortnight\" is not a duration; write numbers with units, such as \
         \"90s\", \"15m\" or \"1h 30m\"",
    );
    check(
        "[auth]\ntoken_file = 5\n",
        "agent.toml:6:14: auth.token_file: has a value of another type; expected a path in quotes",
    );
    check(
        "[actions.reboot]\ncommand = \"systemctl reboot\"\n",
        "agent.toml:6:11: actions.reboot.command: found the text \"systemctl reboot\", expected a list of the program \
         and its arguments, such as [\"systemctl\", \"reboot\"]",
    );
    check(
        "[actions.reboot]\ncommand = []\n",
        "agent.toml:6:11: actions.reboot.command: is empty; write a list of the program and its arguments, such as \
         [\"systemctl\", \"reboot\"]",
    );
    check("[log]\nlevel = 3\n", "agent.toml:6:9: log.level: expected a text in quotes");
    check(
        "[actions]\nscript = 1\n",
        "agent.toml:6:10: actions.script: found the number 1, expected a list in [ ]",
    );
    check(
        "[actions.script]\nbundle = \"b\"\n",
        "agent.toml:5:1: actions.script: there may be several; write [[actions.script]], with two brackets on each side",
    );
}

#[test]
fn choices_that_do_not_exist() {
    check(
        "[log]\nformat = \"xml\"\n",
        "agent.toml:6:10: log.format: \"xml\" is not one of the choices; write \"human\" or \"json\"",
    );
    let late = "write \"run\" or { refuse_after = \"15m\" }";
    check(
        "[actions.reboot]\ndry_run = true\nlate = \"never\"\n",
        &format!("agent.toml:7:8: actions.reboot.late: \"never\" is not one of the choices; {late}"),
    );
    check(
        "[actions.reboot]\ndry_run = true\nlate = {}\n",
        &format!("agent.toml:7:8: actions.reboot.late.refuse_after: is missing; {late}"),
    );
    check(
        "[actions.reboot]\ndry_run = true\nlate = { refuse_after = \"15\" }\n",
        "agent.toml:7:25: actions.reboot.late.refuse_after: \"15\" is not a duration; write numbers with units, such \
         as \"90s\", \"15m\" or \"1h 30m\"",
    );
    check(
        "[actions.reboot]\ndry_run = true\nlate = { refuse-after = \"15m\" }\n",
        "agent.toml:7:10: actions.reboot.late.refuse-after: is not a known key; did you mean `refuse_after`?",
    );
}

#[test]
fn names_and_hosts() {
    check_file(
        "[device]\norg = \"abc123\"\ntype = \"street light\"\nid = \"1\"\n",
        "agent.toml:3:8: device.type: `street light` has ' ' as character 7; only a-z A-Z 0-9 - _ . are allowed",
    );
    for (host, said) in [
        (
            "mqtts://b:8883",
            "\"mqtts://b:8883\" is a URL; write the host name alone, and the port as broker.port",
        ),
        ("b.example:1883", "\"b.example:1883\" holds a port; write host = \"b.example\" and port = 1883"),
        ("[::1]:1883", "\"[::1]:1883\" holds a port; write host = \"[::1]\" and port = 1883"),
        ("", "is empty; write the broker's host name, or leave the key out to derive it from device.org"),
        ("a b", "\"a b\" is no host name; letters, digits, - and . are allowed, 253 at most"),
    ] {
        check(&format!("[broker]\nhost = \"{host}\"\n"), &format!("agent.toml:6:8: broker.host: {said}"));
    }
    check(
        "[[actions.script]]\nbundle = \"a/b\"\naction = \"a\"\nprogram = \"sh\"\n",
        "agent.toml:6:10: actions.script[0].bundle: \"a/b\" is no id; write 1 to 255 characters of a-z A-Z 0-9 - _ .",
    );
}

#[test]
fn keys_that_do_not_go_together_are_all_told_in_the_file_s_order() {
    check(
        "[auth]\ntoken_file = \"t\"\ntoken_env = \"T\"\ntoken = \"x\"\n\
         [broker]\ntls = false\nca_file = \"ca.pem\"\n\
         [actions.firmware]\nstaging_dir = \"i\"\ninstall_command = [\"/bin/sh\"]\nrestart_after_install = true\n\
         [[actions.script]]\nbundle = \"b\"\naction = \"a\"\nprogram = \"sh\"\n\
         [[actions.script]]\nbundle = \"b\"\naction = \"a\"\nprogram = \"sh\"\n",
        "agent.toml:7:13: auth.token_env: token_file is given too; keep one of the two\n\
         agent.toml:8:9: auth.token: the token itself does not belong here, where backups and colleagues read it; put \
         it into a file with mode 0600 and name that with token_file, or into an environment variable and name that \
         with token_env. Change the token if this file has been shared\n\
         agent.toml:11:11: broker.ca_file: is of no use with tls = false; remove it, or set tls = true\n\
         agent.toml:15:25: actions.firmware.restart_after_install: needs a command to restart with; add an \
         [actions.reboot] section\n\
         agent.toml:22:10: actions.script[1].action: b/a has a script already at agent.toml:18:10; keep one of the two",
    );
    check(
        "[broker]\nclient_key = \"k.pem\"\n",
        "agent.toml:6:14: broker.client_key: k.pem cannot be read: No such file or directory (os error 2); put a \
         private key in PEM there, or name another file\n\
         agent.toml:6:14: broker.client_key: has no certificate; add client_certificate with the path of its chain",
    );
}

#[test]
fn files_that_cannot_be_used() {
    check(
        "[auth]\ntoken_file = \"gone\"\n",
        "agent.toml:6:14: auth.token_file: gone cannot be read: No such file or directory (os error 2); put the \
         device's token there, or name another file",
    );
    check(
        "[auth]\ntoken_env = \"IOTDM_TOKEN\"\n",
        "agent.toml:6:13: auth.token_env: the environment has no variable IOTDM_TOKEN; set it to the device's token",
    );
    for (content, said) in [
        (
            "",
            "ca.pem holds no certificate in PEM; convert a DER one with: openssl x509 -inform der -in <it> -out <new>",
        ),
        (
            "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
            "ca.pem holds a damaged certificate (base64 decode error: InvalidCharacter(33)); fetch it anew",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "ca.pem holds a damaged certificate (invalid peer certificate: BadEncoding); fetch it anew",
        ),
    ] {
        let place = Place::with(&with_device("[broker]\nca_file = \"ca.pem\"\n"));
        place.write("ca.pem", content, 0o644);
        assert_eq!(place.load().unwrap_err(), format!("agent.toml:6:11: broker.ca_file: {said}"));
    }
}

#[test]
fn a_topic_prefix_and_a_user_name() {
    let level = "a level is `{type}`, `{id}`, or text without `+`, `#`, `{`, `}` and control characters";
    for (prefix, said) in [
        ("", "is empty; a topic prefix is a row of levels, such as `devices/{type}/{id}/`".to_owned()),
        ("devices/{type}/{id}", "`devices/{type}/{id}` does not end in `/`; write `devices/{type}/{id}/`".into()),
        ("devices/#/", format!("has `#` as a level, with '#' in it; {level}")),
        ("{org}/{type}/{id}/", format!("has `{{org}}` as a level, with '{{' in it; {level}")),
        (
            "devices/{id}/",
            "has `{type}` 0 times and `{id}` 1 times; write each once, or neither for a prefix of one device alone".into(),
        ),
    ] {
        check(
            &format!("[broker]\ntopic_prefix = \"{prefix}\"\n"),
            &format!("agent.toml:6:16: broker.topic_prefix: {said}"),
        );
    }
    check(
        "[auth]\nuser_name = \"lamp/17\"\n",
        "agent.toml:6:13: auth.user_name: is of no use without a password; name the file that holds it with token_file, or \
         the variable with token_env",
    );
    check(
        "[auth]\nuser_name = \"\"\n",
        "agent.toml:6:13: auth.user_name: is empty; write the name that the broker knows this device by, or leave the key \
         out",
    );
}
