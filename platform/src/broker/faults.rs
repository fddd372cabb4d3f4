//! What a broker does wrong when it is told to.

use std::collections::BTreeSet;

/// What tests switch on and off.
#[derive(Debug)]
pub(super) struct Faults {
    pub(super) refuse: bool,
    pub(super) dup_flag: bool,
    pub(super) renumber: bool,
    pub(super) duplicate: bool,
    /// The clients whose messages are not acknowledged.
    pub(super) held: BTreeSet<String>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { refuse: false, dup_flag: true, renumber: false, duplicate: false, held: BTreeSet::new() }
    }
}
