//! Where the device is: set by the product and reported, or set by the platform.
//!
//! The device is where both meet, and whoever comes there last wins. A report carries the location as it is when it
//! leaves, so that reports that wait are one. What the platform set is not reported back, with one exception: while a
//! report may be on its way, nobody knows which of the two the platform heard last, so the winner is reported once more.

use iotdm_core::{Location, Report, attribute};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Engine;
use super::event::Ticket;

impl Engine {
    /// The product says where the device is.
    pub(super) fn set_location(&mut self, location: &Location, ticket: Option<Ticket>) {
        self.set_attributes(vec![(attribute::LOCATION.to_owned(), json!(location))], ticket);
    }

    /// The platform is about to make these changes.
    pub(super) fn moved_by_platform(&mut self, changes: &[(String, Value)]) {
        let newest = changes.iter().rev().find(|(name, _)| name == attribute::LOCATION);
        let Some((_, value)) = newest.filter(|(name, value)| self.model.read(name) != Some(value)) else {
            return;
        };
        let (reports, _) = self.outbox.locations();
        if reports > 0 {
            self.location_due(value);
        }
    }

    /// The location is to be reported.
    pub(super) fn location_due(&mut self, value: &Value) {
        let Ok(location) = Location::deserialize(value) else { return };
        let (_, needless) = self.outbox.locations();
        for place in needless {
            self.drop_from_outbox(place);
        }
        self.report(Report::Location(location), None);
    }

    /// What a location report says by the time it leaves.
    pub(super) fn newest_location(&self, report: &Report) -> Option<Value> {
        let is_location = matches!(report, Report::Location(_));
        self.model.read(attribute::LOCATION).filter(|_| is_location).cloned()
    }
}
