//! Topics of both directions: any text is parsed or declined, what was parsed is built back to the same text, and what
//! was built is parsed back to the same topic.
#![no_main]

use std::borrow::Cow;
use std::fmt::Debug;

use iotdm_core::{Direction, Route, Subject, Topic, UpRoute};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    parse_then_build::<Route>(text);
    parse_then_build::<UpRoute>(text);
    build_then_parse(text);
});

fn parse_then_build<R: Direction>(text: &str) {
    if let Some(topic) = Topic::<R>::parse(text) {
        assert_eq!(topic.to_string(), text);
    } else {
        assert!(R::from_suffix("nonsense").is_none() || !text.starts_with(R::ROOT), "unknown is a value");
    }
}

/// A topic of four lines: type, device, bundle and action.
fn build_then_parse(text: &str) {
    let mut lines = text.lines();
    let mut line = || lines.next().unwrap_or_default();
    let subject = match (line().parse(), line().parse()) {
        (Ok(type_id), Ok(device_id)) => Subject::Named { type_id, device_id },
        _ => Subject::Connected,
    };
    let (bundle, action) = (Cow::Owned(line().to_owned()), Cow::Owned(line().to_owned()));
    let route = Route::Custom { bundle, action };
    if route.is_well_formed() {
        same(&Topic { subject: subject.clone(), route });
    }
    same(&Topic { subject, route: UpRoute::Notify });
}

fn same<R: Direction + PartialEq + Debug>(topic: &Topic<R>) {
    assert_eq!(Topic::parse(&topic.to_string()).as_ref(), Some(topic));
}
