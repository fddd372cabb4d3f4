//! `[actions.diagnostics]`: what is warned of, since it may be there later.

use std::fs;
use std::os::unix::fs::symlink;

use super::{Place, with_device};

#[test]
fn what_could_not_be_sent_as_a_log_is_warned_of() {
    let place = Place::with(&with_device(
        "[[actions.diagnostics.log]]\nname = \"a\"\nfile = \"logs/a.log\"\n[actions.diagnostics.facts]\ndisks = [\"disk\"]\n",
    ));
    let told = |expected: &str| {
        let warnings = place.load().unwrap().warnings;
        warnings
            .iter()
            .any(|warning| warning.starts_with("actions.diagnostics.") && warning.contains(expected))
    };
    assert!(!told("logs/a.log"), "it may be written later");
    assert!(told("facts.disks[0]: the folder ") && told("/disk is not there"));
    fs::create_dir_all(place.path("logs/a.log")).unwrap();
    assert!(told("log[0].file: ") && told("logs/a.log is no file"));
    fs::remove_dir(place.path("logs/a.log")).unwrap();
    symlink("b.log", place.path("logs/a.log")).unwrap();
    assert!(told("logs/a.log is a link, which is not followed; name the file that it leads to"));
    fs::remove_file(place.path("logs/a.log")).unwrap();
    place.write("logs/a.log", "", 0o000);
    let is_root = rustix::process::geteuid().is_root();
    assert_eq!(told("logs/a.log cannot be read: "), !is_root);
}
