//! `[events]`, and the facts as an event.

use std::time::Duration;

use iotdm_agent::{DropPolicy, EventLimits};

use super::{Place, load, with_device};

#[test]
fn the_store_of_events_has_its_bounds_and_its_policy_from_the_file() {
    let events = |text: &str| load(text).config.limits.events;
    assert_eq!(events(""), EventLimits::default());
    assert_eq!(
        events("[events]\nstore_bytes = 65_536\nstore_count = 500\ndrop = \"newest\"\n"),
        EventLimits { bytes: 65_536, count: 500, policy: DropPolicy::Newest }
    );
}

#[test]
fn the_facts_are_published_only_where_an_interval_is_given() {
    let interval = |text: &str| {
        let text = format!("[actions.diagnostics.facts]\n{text}");
        load(&text).actions.diagnostics.unwrap().facts.unwrap().event_interval
    };
    assert_eq!(interval(""), None);
    assert_eq!(interval("event_interval = \"0\"\n"), None);
    assert_eq!(interval("event_interval = \"10m\"\n"), Some(Duration::from_secs(600)));
}

#[track_caller]
fn check(rest: &str, expected: &str) {
    assert_eq!(Place::with(&with_device(rest)).load().unwrap_err(), expected);
}

#[test]
fn mistakes_are_told_with_what_would_be_right() {
    check(
        "[events]\nstore_bytes = 10\n",
        "agent.toml:6:15: events.store_bytes: 10 is out of range; a size of the store of events in bytes is 1024 to \
         1073741824",
    );
    check(
        "[events]\nstore_count = 0\n",
        "agent.toml:6:15: events.store_count: 0 is out of range; a number of stored events is 1 to 1000000",
    );
    check(
        "[events]\ndrop = \"random\"\n",
        "agent.toml:6:8: events.drop: \"random\" is not one of the choices; write \"oldest\" or \"newest\"",
    );
    check(
        "[actions.diagnostics.facts]\nevent_interval = \"1s\"\n",
        "agent.toml:6:18: actions.diagnostics.facts.event_interval: 1s is out of range; an interval of events is 10s to \
         1d, or 0 for \"none\"",
    );
}
