use std::collections::BTreeSet;

use super::ANY;

/// How many commands a table may have, so that all their filters fit into one SUBSCRIBE of any broker.
pub const MAX_COMMAND_FILTERS: usize = 64;

/// The pairs of id and format to subscribe to, so that no two of them match one topic: a broker may deliver a message
/// once for each filter that matches it (MQTT 3.1.1 §3.3.5), and a command would be carried out twice.
pub(crate) fn joined<'a>(declared: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeSet<(&'a str, &'a str)> {
    let mut filters: BTreeSet<_> = declared.collect();
    while let Some((one, other)) = overlapping(&filters) {
        filters.remove(&one);
        filters.remove(&other);
        filters.insert((join(one.0, other.0), join(one.1, other.1)));
    }
    filters
}

type Filter<'a> = (&'a str, &'a str);

fn overlapping<'a>(filters: &BTreeSet<Filter<'a>>) -> Option<(Filter<'a>, Filter<'a>)> {
    let meet = |one: &str, other: &str| one == other || one == ANY || other == ANY;
    filters.iter().enumerate().find_map(|(at, one)| {
        let other = filters.iter().skip(at + 1).find(|other| meet(one.0, other.0) && meet(one.1, other.1))?;
        Some((*one, *other))
    })
}

fn join<'a>(one: &'a str, other: &str) -> &'a str {
    if one == other { one } else { ANY }
}
