//! Where the device is: set by the product and reported, or set by the platform.
//!
//! The device is where both meet, and whoever comes there last wins. A report carries the location as it is when it
//! leaves, so that reports that wait are one. What the platform set is not reported back, with one exception: while a
//! report may be on its way, nobody knows which of the two the platform heard last, so the winner is reported once more.

use iotdm_core::{Location, Report, attribute};
use serde::Deserialize;
use serde_json::Value;

use super::Engine;

impl Engine {
    /// Whether the platform's changes put the device elsewhere than it is.
    pub(super) fn is_moved_by(&self, changes: &[(String, Value)]) -> bool {
        let is_another = |(name, value): &&(String, Value)| {
            name == attribute::LOCATION && self.model.read(name) != Some(value)
        };
        changes.iter().filter(is_another).count() > 0
    }

    /// The platform has put the device elsewhere.
    pub(super) fn location_set_by_platform(&mut self) {
        let (reports, _) = self.outbox.locations();
        if reports > 0 {
            self.location_due();
        }
    }

    /// The location is to be reported.
    pub(super) fn location_due(&mut self) {
        let current =
            self.model.read(attribute::LOCATION).and_then(|value| Location::deserialize(value).ok());
        let Some(location) = current else { return };
        let (_, needless) = self.outbox.locations();
        for place in needless {
            self.drop_from_outbox(place);
        }
        self.queue_report(Report::Location(location));
    }

    /// What a location report says by the time it leaves.
    pub(super) fn newest_location(&self, report: &Report) -> Option<Value> {
        let is_location = matches!(report, Report::Location(_));
        self.model.read(attribute::LOCATION).filter(|_| is_location).cloned()
    }
}
