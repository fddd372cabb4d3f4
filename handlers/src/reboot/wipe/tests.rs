use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;

use super::*;

/// A folder with a product's data in it and something precious beside it.
fn product() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().canonicalize().unwrap();
    let data = path.join("data");
    fs::create_dir_all(data.join("a/b/c")).unwrap();
    for file in ["one", "a/two", "a/b/three", "a/b/c/four", ".hidden"] {
        fs::write(data.join(file), "user data").unwrap();
    }
    fs::create_dir(path.join("beside")).unwrap();
    fs::write(path.join("beside/precious"), "precious").unwrap();
    (home, path)
}

fn wipe(paths: &[PathBuf]) -> Result<(), Unwiped> {
    // As if the check had been long ago.
    Wipe { paths: paths.to_vec(), kept: Vec::new() }.carry_out(&CancellationToken::new())
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

fn precious(home: &Path) -> String {
    fs::read_to_string(home.join("beside/precious")).unwrap()
}

#[test]
fn a_folder_is_emptied_and_stays_as_it_was_and_a_file_is_removed() {
    let (_guard, home) = product();
    fs::set_permissions(home.join("data"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::write(home.join("state.db"), "user data").unwrap();
    wipe(&[home.join("data"), home.join("state.db")]).unwrap();
    assert_eq!(entries(&home.join("data")), 0);
    assert_eq!(fs::metadata(home.join("data")).unwrap().permissions().mode() & 0o7777, 0o2750);
    assert!(!home.join("state.db").exists());
    assert_eq!(precious(&home), "precious");
}

#[test]
fn it_may_be_done_again_and_what_is_not_there_is_wiped() {
    let (_guard, home) = product();
    for _ in 0..2 {
        wipe(&[home.join("data"), home.join("never/was/there"), home.join("gone")]).unwrap();
    }
    assert_eq!(entries(&home.join("data")), 0);
}

#[test]
fn a_link_below_a_declared_path_is_removed_and_what_it_leads_to_stays() {
    let (_guard, home) = product();
    symlink(home.join("beside"), home.join("data/a/folder")).unwrap();
    symlink(home.join("beside/precious"), home.join("data/file")).unwrap();
    symlink("/", home.join("data/root")).unwrap();
    symlink("nowhere", home.join("data/dangling")).unwrap();
    wipe(&[home.join("data")]).unwrap();
    assert_eq!(entries(&home.join("data")), 0);
    assert_eq!(precious(&home), "precious");
}

/// Whoever can write beside the declared path could otherwise have anything wiped.
#[test]
fn a_declared_path_that_has_become_a_link_is_not_followed() {
    let (_guard, home) = product();
    symlink(home.join("beside"), home.join("link")).unwrap();
    fs::create_dir(home.join("beside/data")).unwrap();
    for path in [home.join("link"), home.join("link/data"), home.join("link/precious"), home.join("link/a/b")]
    {
        let Err(Unwiped::Left { count: 1, first }) = wipe(std::slice::from_ref(&path)) else {
            panic!("{path:?}")
        };
        assert!(first.contains("link is a link or no folder"), "{first}");
        assert!(Wipe { paths: vec![path], kept: Vec::new() }.look().unwrap_err().contains("link is a link"));
    }
    assert_eq!((precious(&home).as_str(), entries(&home.join("beside"))), ("precious", 2));
}

#[test]
fn what_cannot_be_wiped_is_named_and_keeps_nothing_else() {
    let (_guard, home) = product();
    symlink(home.join("beside"), home.join("link")).unwrap();
    let error = wipe(&[home.join("link"), home.join("data")]).unwrap_err();
    let told = error.to_string();
    assert!(
        told.starts_with("1 files or folders could not be wiped; the first: ") && told.contains("/link: "),
        "{told}"
    );
    assert_eq!(entries(&home.join("data")), 0);
}

#[test]
fn a_cancelled_wiping_stops_and_goes_on_the_next_time() {
    let (_guard, home) = product();
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let whole = Wipe { paths: vec![home.join("data")], kept: Vec::new() };
    assert_eq!(whole.carry_out(&cancelled), Err(Unwiped::Cancelled));
    assert_eq!(entries(&home.join("data")), 3);
    assert_eq!(whole.carry_out(&CancellationToken::new()), Ok(()));
    assert_eq!(entries(&home.join("data")), 0);
}

#[test]
fn odd_names_are_wiped_too() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let (_guard, home) = product();
    for name in [&b"\xff\xfe"[..], b"new\nline", b"-rf", b"...", b" "] {
        fs::write(home.join("data").join(OsStr::from_bytes(name)), "").unwrap();
    }
    wipe(&[home.join("data")]).unwrap();
    assert_eq!(entries(&home.join("data")), 0);
}

/// More entries than one reading of a folder gives.
#[test]
fn a_crowded_folder_is_emptied() {
    let (_guard, home) = product();
    for number in 0..5000 {
        fs::write(home.join("data").join(format!("{number:0100}")), "").unwrap();
    }
    wipe(&[home.join("data")]).unwrap();
    assert_eq!(entries(&home.join("data")), 0);
}

#[test]
fn folders_that_are_nested_too_deeply_are_left_and_told() {
    let (_guard, home) = product();
    let deep: PathBuf = std::iter::repeat_n("d", MAX_DEPTH + 2).collect();
    fs::create_dir_all(home.join("data").join(&deep)).unwrap();
    let error = wipe(&[home.join("data")]).unwrap_err();
    assert!(error.to_string().ends_with("it is nested too deeply"), "{error}");
    assert_eq!(entries(&home.join("data")), 1);
    let most: PathBuf = std::iter::repeat_n("d", MAX_DEPTH - 1).collect();
    fs::create_dir_all(home.join("most").join(&most)).unwrap();
    assert_eq!(wipe(&[home.join("most")]), Ok(()));
}

/// The device's own folder on the data partition is bound to where the configuration names it.
#[test]
fn what_is_kept_stays_also_where_it_is_found_under_another_name() {
    let (_guard, home) = product();
    fs::hard_link(home.join("beside/precious"), home.join("data/a/known")).unwrap();
    let kept = vec![home.join("data/a/b"), home.join("beside/precious"), home.join("never/was/there")];
    let paths = vec![home.join("data")];
    Wipe { paths, kept: kept.clone() }.carry_out(&CancellationToken::new()).unwrap();
    assert_eq!(fs::read_to_string(home.join("data/a/b/c/four")).unwrap(), "user data");
    assert_eq!((precious(&home).as_str(), home.join("data/a/known").exists()), ("precious", true));
    assert_eq!((entries(&home.join("data")), entries(&home.join("data/a"))), (1, 2), "only what leads there");

    // Declared by itself, it fails the reset.
    for path in &kept[..2] {
        let result =
            Wipe { paths: vec![path.clone()], kept: kept.clone() }.carry_out(&CancellationToken::new());
        assert!(
            matches!(&result, Err(Unwiped::Left { count: 1, first }) if first.ends_with("it is kept")),
            "{result:?}"
        );
    }
    assert_eq!((entries(&home.join("data/a/b")), precious(&home).as_str()), (2, "precious"));
}

/// What is wiped is the data partition, and the journal is on it by the name that the system gave it.
#[test]
#[ignore = "only root may mount"]
fn what_is_kept_is_recognised_where_it_is_mounted_from() {
    let (_guard, home) = product();
    fs::create_dir(home.join("agent")).unwrap();
    run("mount", &["--bind".as_ref(), home.join("data/a").as_ref(), home.join("agent").as_ref()]);
    let _agent = Mounted(home.join("agent"));
    let kept = [("the journal", home.join("agent/b/journal"))];
    for path in ["data/a", "data/a/b"] {
        let error = Wipe::new([home.join(path)], &kept).unwrap_err();
        assert!(matches!(error, WipeError::Holds { .. }), "{error}");
    }
    fs::create_dir(home.join("agent/b/journal")).unwrap();
    let error = Wipe::new([home.join("data/a/b/journal/db")], &kept).unwrap_err();
    assert!(matches!(error, WipeError::Inside { .. }), "{error}");
    // Nothing that leads to the journal tells that it is below this one.
    let wipe = Wipe::new([home.join("data")], &kept).unwrap();
    wipe.carry_out(&CancellationToken::new()).unwrap();
    assert!(home.join("agent/b/journal").is_dir());
    assert_eq!((entries(&home.join("data")), entries(&home.join("data/a/b"))), (1, 1));
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[self.0.as_ref()]);
    }
}

/// A file system of its own, and the product's own folder a second time: the kernel knows both as mounts.
#[test]
#[ignore = "only root may mount"]
fn what_is_mounted_below_a_declared_path_stays() {
    let (_guard, home) = product();
    let mounts = [home.join("data/a/other"), home.join("data/a/again")];
    for point in &mounts {
        fs::create_dir(point).unwrap();
    }
    run("mount", &["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), mounts[0].as_ref()]);
    let _other = Mounted(mounts[0].clone());
    run("mount", &["--bind".as_ref(), home.join("beside").as_ref(), mounts[1].as_ref()]);
    let _again = Mounted(mounts[1].clone());
    fs::write(mounts[0].join("file"), "precious").unwrap();

    wipe(&[home.join("data")]).unwrap();
    assert_eq!(fs::read_to_string(mounts[0].join("file")).unwrap(), "precious");
    assert_eq!(precious(&home), "precious");
    assert_eq!(
        (entries(&home.join("data")), entries(&home.join("data/a"))),
        (1, 2),
        "only what leads to the mounts"
    );

    // Declared by itself it is emptied: it is then the product's.
    wipe(&[mounts[0].clone()]).unwrap();
    assert_eq!(entries(&mounts[0]), 0);
}

#[expect(clippy::disallowed_methods, reason = "the test mounts; no handler runs here")]
fn run(program: &str, args: &[&std::ffi::OsStr]) {
    assert!(std::process::Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
}
