//! Users of the machine, as `/etc/passwd` has them: a program without C libraries knows no others.

use std::fs::File;
use std::io::{self, Read};

use iotdm_core::RunAs;

use super::declaration::UserName;

/// Finds who a script is to run as. `own` is the user of this process: only root may choose another one.
///
/// # Errors
/// What is wrong, and what would be right.
pub(super) fn find(user: &UserName, own: u32, passwd: io::Result<String>) -> Result<RunAs, String> {
    let passwd = passwd.map_err(|reason| format!("{PASSWD} cannot be read: {reason}; leave user out"))?;
    let run_as = passwd.lines().find_map(|line| entry(line, user)).ok_or_else(|| match user {
        UserName::Name(name) => {
            format!("{PASSWD} has no user {name:?}; add one, such as: useradd --system {name}")
        }
        UserName::Number(uid) => {
            format!("{PASSWD} has no user with number {uid}, so that its group is not known; add one")
        }
    })?;
    if own != 0 && run_as.uid != own {
        return Err(format!(
            "only root may run a script as another user, and this process is user {own}; start the agent as root, or \
             leave user out"
        ));
    }
    Ok(run_as)
}

/// The machine's users.
pub(super) fn passwd() -> io::Result<String> {
    let mut text = String::new();
    File::open(PASSWD)?.take(MAX_PASSWD_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// `name:password:uid:gid:…`, if it is this user's.
fn entry(line: &str, wanted: &UserName) -> Option<RunAs> {
    let mut parts = line.split(':');
    let (name, _, uid, gid) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let run_as = RunAs { uid: uid.parse().ok()?, gid: gid.parse().ok()? };
    let is_wanted = match wanted {
        UserName::Name(wanted) => wanted == name,
        UserName::Number(wanted) => *wanted == run_as.uid,
    };
    is_wanted.then_some(run_as)
}

const PASSWD: &str = "/etc/passwd";

/// Far more users than a device has.
const MAX_PASSWD_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "root:x:0:0:root:/:/bin/sh\n\nbroken\nlamp:x:998:997::/:/bin/false\n";

    #[track_caller]
    fn check(user: UserName, own: u32, expected: Result<RunAs, &str>) {
        let found = find(&user, own, Ok(TEXT.into()));
        assert_eq!(found.as_ref().map_err(String::as_str), expected.as_ref().map_err(|text| *text));
    }

    #[test]
    fn a_user_is_found_by_name_and_by_number_with_its_group() {
        let lamp = RunAs { uid: 998, gid: 997 };
        check(UserName::Name("lamp".into()), 0, Ok(lamp));
        check(UserName::Number(998), 0, Ok(lamp));
        check(UserName::Number(998), 998, Ok(lamp));
    }

    #[test]
    fn who_is_not_root_is_told_before_the_first_request() {
        check(
            UserName::Name("lamp".into()),
            1000,
            Err(
                "only root may run a script as another user, and this process is user 1000; start the agent as root, \
                 or leave user out",
            ),
        );
    }

    #[test]
    fn a_user_that_is_not_there_is_named() {
        check(
            UserName::Name("lam".into()),
            0,
            Err("/etc/passwd has no user \"lam\"; add one, such as: useradd --system lam"),
        );
        check(
            UserName::Number(7),
            0,
            Err("/etc/passwd has no user with number 7, so that its group is not known; add one"),
        );
    }
}
