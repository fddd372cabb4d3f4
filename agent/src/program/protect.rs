use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Keeps the token out of core dumps, and the process's memory and environment out of reach of other processes of the
/// same user: `/proc/<pid>/environ` and `mem` belong to root from here on, and only root may attach a debugger.
///
/// A kernel that refuses leaves the process as it was: the agent is of use without it.
pub(crate) fn protect() {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // A pipe to a crash collector does not look at the limit, and some systems reset the behaviour: both, then. The
    // upper limit stays, so that programs that the agent starts may choose for themselves.
    let maximum = getrlimit(Resource::Core).maximum;
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn a_protected_process_leaves_no_core_dump_and_is_closed_to_its_own_user() {
        protect();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
    }
}
