//! What a factory reset must not wipe, judged when it is configured.

use std::path::{Component, Path, PathBuf};

use super::wipe::Identity;

/// Why paths cannot be wiped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WipeError {
    /// There is none.
    #[error("no path is declared; write the folders that hold the product's data")]
    None,
    /// There are too many.
    #[error("more than {MAX_PATHS} paths are declared; declare the folders around them")]
    TooMany,
    /// It is relative, or has `.` or `..` in it.
    #[error("{0} is no plain absolute path; write it from / on, without . and ..")]
    NotPlain(PathBuf),
    /// A part of it is a symbolic link.
    #[error("{path} leads through the link {link}, and the wiping follows none; write where it leads to")]
    Link {
        /// The declared path.
        path: PathBuf,
        /// The part that is a link.
        link: PathBuf,
    },
    /// The system, or other programs, live there.
    #[error("{0} belongs to the system; declare the folders of the product below it")]
    System(PathBuf),
    /// Nothing below it may be wiped either.
    #[error("{path} is below {system}, which holds the system itself; a factory reset wipes data")]
    BelowSystem {
        /// The declared path.
        path: PathBuf,
        /// The system's folder.
        system: &'static str,
    },
    /// Something that is kept is in it.
    #[error("{path} holds {what} ({kept}), which a factory reset keeps; declare the folders beside it")]
    Holds {
        /// The declared path.
        path: PathBuf,
        /// What is kept.
        what: String,
        /// Where that is.
        kept: PathBuf,
    },
    /// It is in something that is kept.
    #[error("{path} is in {what} ({kept}), which a factory reset keeps; leave it out")]
    Inside {
        /// The declared path.
        path: PathBuf,
        /// What is kept.
        what: String,
        /// Where that is.
        kept: PathBuf,
    },
}

pub(super) fn check(paths: &[PathBuf], kept: &[(&str, PathBuf)]) -> Result<(), WipeError> {
    match paths.len() {
        0 => return Err(WipeError::None),
        1..=MAX_PATHS => {}
        _ => return Err(WipeError::TooMany),
    }
    for path in paths {
        check_form(path)?;
        check_system(path)?;
        check_links(path)?;
        for (what, place) in kept {
            check_kept(path, what, place)?;
        }
    }
    Ok(())
}

fn check_form(path: &Path) -> Result<(), WipeError> {
    let is_plain = path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        // `components` leaves a dot in the middle out.
        && !path.as_os_str().as_encoded_bytes().split(|byte| *byte == b'/').any(|part| part == b".");
    if is_plain { Ok(()) } else { Err(WipeError::NotPlain(path.into())) }
}

fn check_system(path: &Path) -> Result<(), WipeError> {
    if SHARED.iter().any(|shared| path == Path::new(shared)) {
        return Err(WipeError::System(path.into()));
    }
    let system = SYSTEM.iter().copied().find(|system| path.starts_with(system));
    match system {
        Some(system) if path == Path::new(system) => Err(WipeError::System(path.into())),
        Some(system) => Err(WipeError::BelowSystem { path: path.into(), system }),
        None => Ok(()),
    }
}

/// As it is at this moment; the wiping looks again.
fn check_links(path: &Path) -> Result<(), WipeError> {
    // A slash at the end would have the link followed.
    let path: PathBuf = path.components().collect();
    let link = path.ancestors().find(|part| part.is_symlink());
    link.map_or(Ok(()), |link| Err(WipeError::Link { path: path.clone(), link: link.into() }))
}

/// Both as it is written and as it is found, by name and by what it is: a kept path may lead through links, and either
/// may be bound to its place from elsewhere.
fn check_kept(path: &Path, what: &str, kept: &Path) -> Result<(), WipeError> {
    for place in [kept.to_owned(), found(kept)] {
        let (path, what, kept) = (path.to_owned(), what.to_owned(), kept.to_owned());
        if place.starts_with(&path) || is_on_the_way(&path, &place) {
            return Err(WipeError::Holds { path, what, kept });
        }
        if path.starts_with(&place) || is_on_the_way(&place, &path) {
            return Err(WipeError::Inside { path, what, kept });
        }
    }
    Ok(())
}

/// Whether a folder is one of those that lead to a place, under whatever name.
fn is_on_the_way(folder: &Path, place: &Path) -> bool {
    let Ok(folder) = Identity::of_place(folder) else { return false };
    place.ancestors().any(|part| Identity::of_place(part).is_ok_and(|part| part == folder))
}

/// A path with the links of its part that is there resolved.
fn found(path: &Path) -> PathBuf {
    let resolved = path.ancestors().find_map(|part| {
        let resolved = part.canonicalize().ok()?;
        let rest = path.strip_prefix(part).expect("an ancestor is a prefix");
        Some(resolved.join(rest))
    });
    resolved.unwrap_or_else(|| path.to_owned())
}

/// How many paths may be declared: a product's data is in some folders.
const MAX_PATHS: usize = 64;

/// Folders of several programs: they are not one product's to wipe; what is below them may be.
const SHARED: [&str; 16] = [
    "/",
    "/etc",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/srv",
    "/tmp",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/spool",
    "/var/tmp",
];

/// The system itself, the kernel's own file systems, and what starts the machine.
const SYSTEM: [&str; 11] =
    ["/bin", "/boot", "/dev", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sbin", "/sys", "/usr"];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn refused(path: &str) -> String {
        let kept = [
            ("the journal", "/var/lib/agent/journal".into()),
            ("the configuration", "/etc/agent/agent.toml".into()),
            ("the device's token", "/data/secrets/token".into()),
        ];
        check(&[path.into()], &kept).unwrap_err().to_string()
    }

    #[test]
    fn the_system_is_never_wiped() {
        for path in SHARED.iter().chain(&SYSTEM) {
            assert_eq!(
                refused(path),
                format!("{path} belongs to the system; declare the folders of the product below it")
            );
            // However it is written.
            assert!(refused(&format!("{path}/")).contains("belongs to the system"));
        }
        for path in ["/usr/share/product", "/boot/firmware", "/proc/1", "/dev/mapper"] {
            assert!(refused(path).contains("which holds the system itself"), "{path}");
        }
        for path in ["", "data", "./data", "/var/lib/../../etc", "/data/./x", "/.", "/.."] {
            assert!(refused(path).contains("no plain absolute path"), "{path}");
        }
    }

    #[test]
    fn what_is_kept_and_the_path_that_holds_it_are_both_named() {
        assert_eq!(
            refused("/var/lib/agent"),
            "/var/lib/agent holds the journal (/var/lib/agent/journal), which a factory reset keeps; declare the \
             folders beside it"
        );
        assert_eq!(
            refused("/var/lib/agent/journal/db"),
            "/var/lib/agent/journal/db is in the journal (/var/lib/agent/journal), which a factory reset keeps; leave \
             it out"
        );
        assert!(refused("/var/lib/agent/journal").contains("holds the journal"));
        assert!(refused("/etc/agent").contains("holds the configuration (/etc/agent/agent.toml)"));
        assert!(refused("/data").contains("holds the device's token (/data/secrets/token)"));
    }

    #[test]
    fn a_folder_beside_what_is_kept_may_be_wiped_also_when_it_has_a_similar_name() {
        let kept = [("the journal", PathBuf::from("/var/lib/agent/journal"))];
        let paths = ["/var/lib/product", "/var/lib/agent/journal-old", "/var/lib/agen", "/etc/product"];
        assert_eq!(check(&paths.map(PathBuf::from), &kept), Ok(()));
    }

    #[test]
    fn links_do_not_hide_what_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        fs::create_dir_all(home.join("data/journal")).unwrap();
        symlink(home.join("data"), home.join("link")).unwrap();
        // The journal is configured by a link, and the wiping by where that leads to.
        let kept = [("the journal", home.join("link/journal/not-yet-there"))];
        let error = check(&[home.join("data")], &kept).unwrap_err();
        assert!(matches!(error, WipeError::Holds { .. }), "{error}");
        // And the other way round.
        let error = check(&[home.join("link")], &[]).unwrap_err();
        assert_eq!(error, WipeError::Link { path: home.join("link"), link: home.join("link") });
        let error = check(&[home.join("link/")], &[]).unwrap_err();
        assert!(matches!(error, WipeError::Link { .. }), "{error}");
        let error = check(&[home.join("link/x")], &[]).unwrap_err();
        assert_eq!(error, WipeError::Link { path: home.join("link/x"), link: home.join("link") });
    }

    #[test]
    fn none_and_too_many_are_refused() {
        assert_eq!(check(&[], &[]), Err(WipeError::None));
        assert_eq!(check(&vec!["/data".into(); 65], &[]), Err(WipeError::TooMany));
    }
}
