//! The program `iotdm sandbox` as a person starts it, in real time.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The program with a temporary folder of its own, so that what it leaves is seen.
#[expect(clippy::disallowed_methods, reason = "the program itself is tested")]
fn start(arguments: &[&str]) -> (Child, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let child = Command::new(env!("CARGO_BIN_EXE_iotdm"))
        .args(arguments)
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is built with the test");
    (child, folder)
}

#[track_caller]
fn check_nothing_is_left(folder: &TempDir) {
    let left: Vec<_> = fs::read_dir(folder.path()).expect("the folder is the test's own").collect();
    assert!(left.is_empty(), "{left:?}");
}

fn interrupt(child: &Child) {
    let pid = Pid::from_child(child);
    kill_process(pid, Signal::INT).expect("the child is not waited for yet");
}

#[test]
fn the_tour_shows_every_promise() {
    let (child, folder) = start(&["sandbox"]);
    let output = child.wait_with_output().unwrap();
    let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{errors}\n{text}");
    for promise in [
        "the device manages itself at every start",
        "a reboot is complete only when the device is back",
        "a replayed request is answered and not executed",
        "the replay gets the stored answer, byte for byte",
        "a broken download goes on where it broke",
        "exactly the image that the platform named is installed, once",
        "the new version is told after the restart",
        "an observed attribute is notified, and no longer after cancel",
        "a request that arrives too late is refused and does not run",
        "malformed, unknown and unsupported requests get their reason and do not run",
        "a handler's own refusal reaches the platform with its reason",
        "bytes that cannot be read stop nothing",
        "a handler that overruns its budget is ended and answered",
        "meanwhile other requests are carried out",
        "every request with a reqId is answered",
        "nothing is left on the host",
    ] {
        assert!(text.contains(&format!("[shown] {promise}")), "{promise}\n{text}");
    }
    assert!(!text.contains("NOT SHOWN") && !text.contains('\x1b') && text.is_ascii(), "{text}");
    assert!(text.contains("reboot, 3 h late            409  refused"), "{text}");
    check_nothing_is_left(&folder);
}

#[test]
fn an_interrupt_in_the_middle_of_a_download_ends_it_and_leaves_nothing() {
    let (mut child, folder) = start(&["sandbox", "--plain"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("download 20%")));
    interrupt(&child);
    assert!(lines.any(|line| line.unwrap() == "stopped"));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    check_nothing_is_left(&folder);
}

#[test]
fn a_sandbox_that_stays_says_how_to_send_requests() {
    let (mut child, folder) = start(&["sandbox", "--stay"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("mosquitto_pub -h 127.0.0.1 -p ")));
    assert!(lines.any(|line| line.unwrap().starts_with("Send the same reqId twice")));
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    check_nothing_is_left(&folder);
}

#[test]
fn the_help_names_what_is_shown_and_how_it_ends() {
    let (mut child, _folder) = start(&["sandbox", "--help"]);
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    for word in ["--stay", "--plain", "Exit status", "left behind"] {
        assert!(text.contains(word), "{word}\n{text}");
    }
}
