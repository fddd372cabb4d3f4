//! What is wrong with a configuration, and what is right.

use std::fs;

use crate::harness::{Place, nowhere};

#[tokio::test]
async fn an_unknown_key_is_named_with_its_line_and_ends_with_78() {
    let place = Place::new(nowhere().await, "[limits]\nrunnning = 3\n");
    for command in ["run", "check"] {
        let ended = place.start(&[command]).ended().await;
        let line = format!(
            "{}:12:1: limits.runnning: is not a known key; did you mean `running`?\n",
            place.path("agent.toml").display()
        );
        assert_eq!((ended.code, ended.log), (Some(78), line), "{command}");
    }
}

#[tokio::test]
async fn check_says_what_run_would_do_and_touches_nothing() {
    let place = Place::new(
        nowhere().await,
        "[actions.reboot]\ncommand = [\"true\"]\n[actions.diagnostics]\n[actions.diagnostics.facts]\n\
         [[actions.diagnostics.log]]\nname = \"lamp\"\nunit = \"lamp.service\"\n\
         [actions.diagnostics.upload]\nhosts = [\"logs.example.com:8443\"]\n[auth]\ntoken_file = \"token\"\n",
    );
    place.write("token", "s3cr3t-t0k3n\n");
    let ended = place.start(&["check"]).ended().await;
    ended.check(0, "");
    let start = format!(
        "{} is good. `iotdm-agent run` would\n  connect   to 127.0.0.1:",
        place.path("agent.toml").display()
    );
    assert!(ended.answer.starts_with(&start), "{}", ended.answer);
    for line in [
        "  serve     reboot: `true`, within 5m\n",
        "  serve     iotdm/clearErrorCodes and iotdm/clearLog, and report each start of the agent\n",
        "  serve     iotdm/uploadLog: lamp (the journal of lamp.service), at most 1048576 bytes of it, in the answer or \
         put to logs.example.com:8443\n",
        "  serve     iotdm/facts: memory, load, temperatures, disks /; keep them in metadata, looked at every 5m\n",
        "  refuse    factory reset, firmware with 501: not enabled\n",
    ] {
        assert!(ended.answer.contains(line), "{line}{}", ended.answer);
    }
    assert!(!ended.answer.contains("s3cr3t"));
    let mut names: Vec<_> =
        fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["agent.toml", "token"]);
}

#[tokio::test]
async fn a_warning_about_the_configuration_is_in_the_log_and_the_agent_runs() {
    let place = Place::new(nowhere().await, "[actions.reboot]\ncommand = [\"./not-there\"]\n");
    let mut agent = place.start(&["run"]);
    agent.line("WARN iotdm_agent::program: actions.reboot.command: the program ").await;
    agent.line("trying again in").await;
    agent.stop().await.check(0, "");
}
