//! A platform that means harm, as far as it shows in the log, in files and in processes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use iotdm_platform::broker::QoS;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::harness::{CLIENT_ID, Place, World, lamp, until, within};

/// Texts that would break a log line, steer a terminal, or leave a folder.
const HOSTILE: [&str; 6] = [
    "r\n2026-11-09T00:00:00Z  INFO iotdm_agent: managed as d:x:y:z at forged",
    "r\u{1b}]0;title\u{7}\u{1b}[2J",
    "r\u{9b}31m\u{202e}\u{2028}\u{85}\u{7f}",
    "../../../../../../tmp/iotdm-escaped",
    "/etc/iotdm-escaped",
    "r\0r",
];

/// Where the broker mounts the lamp: what is published to it begins with this.
const MOUNT: &str = "devices/lamp/lamp-17/";

fn send(world: &World, topic: &str, payload: Vec<u8>) {
    let sent = world.broker.publish(topic, payload, QoS::AtLeastOnce, false);
    assert_eq!(sent.expect("the broker takes it"), 1);
}

#[tokio::test]
async fn hostile_identifiers_topics_and_bodies_break_no_log_line_and_name_no_file() {
    let world = World::start().await;
    let place = Place::new(
        world.broker.local_addr(),
        "[actions.reboot]\ndry_run = true\n\
         [[actions.script]]\nbundle = \"acme\"\naction = \"say\"\nprogram = \"sh\"\n\
         args = [\"-c\", \"cat; cat >&2 <&-; printf 'one\\\\ntwo\\\\033[2J' >&2; exit 1\"]\n",
    );
    for format in ["human", "json"] {
        let mut agent = place.start(&["run", "--log-level", "trace", "--log-format", format]);
        agent.line("managed as").await;
        let long = "\u{1}".repeat(150);
        for hostile in HOSTILE.into_iter().chain([long.as_str()]) {
            let body = json!({"reqId": format!("{hostile}{format}"), "message": hostile, "rc": hostile, "d": {"fields": [{"field": hostile, "value": hostile}]}});
            let payload = body.to_string().into_bytes();
            for route in [
                "mgmt/custom/acme/say",
                "mgmt/initiate/device/reboot",
                "mgmt/custom/acme/../x",
                "device/update",
                "observe",
                "response",
            ] {
                send(&world, &format!("{MOUNT}iotdm-1/{route}"), payload.clone());
            }
            if !hostile.contains('\0') {
                send(&world, &format!("{MOUNT}iotdm-1/{hostile}"), payload.clone());
            }
            // Neither JSON nor text.
            send(&world, &format!("{MOUNT}iotdm-1/observe"), [hostile.as_bytes(), b"\xff\n"].concat());
        }
        within(world.broker.drained(CLIENT_ID)).await;
        let ended = agent.stop().await;
        assert_eq!(ended.code, Some(0));
        for line in ended.log.lines() {
            let first = line.strip_prefix("{\"timestamp\":\"").unwrap_or(line);
            assert!(first.starts_with(|c: char| c.is_ascii_digit()), "a line of somebody else's: {line:?}");
            assert!(
                !line.contains("INFO iotdm_agent: managed as d:x:y:z") || line.contains("\\n"),
                "{line:?}"
            );
            let steers = |c: char| {
                c.is_control()
                    || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            };
            assert!(!line.contains(steers), "{line:?}");
            assert!(format == "human" || serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
    }
    assert_eq!(names(&place.path("")), ["agent.toml", "journal"].map(Into::into).into());
    assert_eq!(names(&place.path("journal")), ["db.sled", "lock"].map(Into::into).into());
    for name in names(&place.path("journal/db.sled")) {
        assert!(["blobs", "commits", "conf", "db"].contains(&&*name) || name.starts_with("snap."), "{name}");
    }
    assert!(!Path::new("/tmp/iotdm-escaped").exists() && !Path::new("/etc/iotdm-escaped").exists());
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    entries
        .map(|entry| entry.expect("it can be read").file_name().into_string().expect("names are text"))
        .collect()
}

#[tokio::test]
async fn the_token_is_in_no_argument_no_child_and_no_core_dump() {
    let token = "s3cr3t-t0k3n";
    let world = World::start_with_token(token).await;
    let place = Place::new(
        world.broker.local_addr(),
        "[auth]\ntoken_file = \"token\"\n\
         [[actions.script]]\nbundle = \"acme\"\naction = \"look\"\nprogram = \"sh\"\n\
         args = [\"-c\", \"cat >/dev/null; env; ls -l /proc/self/fd; tr '\\\\0' '\\\\n' </proc/self/environ\"]\n",
    );
    place.write("token", token);
    // As generous as a developer's machine: the program inherits it.
    let maximum = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: maximum, maximum })
        .expect("up to its maximum a limit can be raised");
    let mut agent = place.start(&["run"]);
    agent.line("managed as").await;
    let of_agent = |name: &str| fs::read(format!("/proc/{}/{name}", agent.pid())).expect("Linux tells");
    let text = |name: &str| String::from_utf8_lossy(&of_agent(name)).into_owned();
    assert!(!text("cmdline").contains(token) && !text("environ").contains(token));
    let limits = text("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("Linux tells");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");

    let request = world.platform.initiate(&lamp(), &iotdm_platform::Request::custom("acme", "look")).unwrap();
    let answer = within(request.answered()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    let output = answer["d"]["output"].as_str().expect("the script says something");
    assert!(output.contains("PATH=") && !output.contains(token), "{output}");
    // Neither journal, nor lock, nor connection: only pipes, what `ls` opens itself, and what the agent was born with.
    for line in output.lines().filter(|line| line.contains(" -> ")) {
        let target = line.rsplit(" -> ").next().expect("there is one");
        assert!(["pipe:", "/proc/", "/dev/null"].iter().any(|start| target.starts_with(start)), "{line}");
    }
    for file in journal_files(&place.path("journal")) {
        let bytes = fs::read(&file).expect("it is ours");
        let found = bytes.windows(token.len()).any(|window| window == token.as_bytes());
        assert!(!found, "the token is in {}", file.display());
    }
}

fn journal_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries =
        fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("readable").path());
    entries.flat_map(|path| if path.is_dir() { journal_files(&path) } else { vec![path] }).collect()
}

/// What the platform sends is one text of JSON on standard input, whatever it would mean to a shell or as an option.
#[tokio::test]
async fn parameters_are_never_arguments_and_never_meet_a_shell() {
    let world = World::start().await;
    let place = Place::new(
        world.broker.local_addr(),
        "[[actions.script]]\nbundle = \"acme\"\naction = \"keep\"\nprogram = \"./keep.sh\"\ndirectory = \".\"\n\
         args = [\"first\"]\n",
    );
    place.write("keep.sh", "#!/bin/sh\nprintf '%s|' \"$#\" \"$1\" >arguments\ncat >input\n");
    fs::set_permissions(place.path("keep.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let _agent = place.start(&["run"]);
    within(world.platform.managed(&lamp())).await;
    let values =
        ["--help", "-rf /", "$(touch escaped)", "`touch escaped`", "; touch escaped", "\n\0\u{1b}[2J", "*"];
    let mut request = iotdm_platform::Request::custom("acme", "keep");
    for (n, value) in values.iter().enumerate() {
        request = request.field(&format!("p{n}"), *value);
    }
    let request = world.platform.initiate(&lamp(), &request).unwrap();
    assert_eq!(within(request.answered()).await.unwrap().rc, iotdm_core::Code::OK);
    until(|| place.path("input").exists()).await;
    assert_eq!(fs::read_to_string(place.path("arguments")).unwrap(), "1|first|");
    let input: Value = serde_json::from_slice(&fs::read(place.path("input")).unwrap()).unwrap();
    for (n, value) in values.iter().enumerate() {
        assert_eq!(input["parameters"][format!("p{n}")], *value);
    }
    assert!(!place.path("escaped").exists());
}

#[tokio::test]
async fn what_a_restart_command_is_given_stays_out_of_the_log() {
    let world = World::start().await;
    let place = Place::new(
        world.broker.local_addr(),
        "[actions.reboot]\ncommand = [\"sh\", \"-c\", \"exit 1\", \"s3cr3t-word\"]\n\
         [actions.factory_reset]\ncommand = [\"sh\", \"s3cr3t-word\"]\ndry_run = true\n",
    );
    let mut agent = place.start(&["run", "--log-level", "trace"]);
    within(world.platform.managed(&lamp())).await;
    let reset = world.platform.initiate(&lamp(), &iotdm_platform::Request::factory_reset()).unwrap();
    assert_eq!(within(reset.completed()).await, iotdm_platform::Outcome::Complete);
    world.platform.initiate(&lamp(), &iotdm_platform::Request::reboot()).unwrap();
    agent.line("the reboot command failed").await;
    let ended = agent.stop().await;
    assert!(!ended.log.contains("s3cr3t"), "{}", ended.log);
}
