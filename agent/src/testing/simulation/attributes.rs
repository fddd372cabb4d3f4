//! What becomes of the attributes: the product sets them, and the platform does.

use iotdm_core::{Location, Report};
use serde::Deserialize;
use serde_json::json;

use crate::engine::Input;

use super::ask::{Ask, Kind, location, place};
use super::life::Life;

impl Life<'_> {
    /// One of the attributes changes, on one of the ways that there are.
    pub(super) fn change_attribute(&mut self, a: u8) {
        match a {
            ..160 => self.input(Input::SetAttributes(vec![("level".into(), json!(a % 8))], None)),
            160..180 => {
                let location = location(self.next_place());
                self.input(Input::SetAttributes(vec![("location".into(), location)], None));
            }
            180..200 => {
                let location =
                    Location::deserialize(location(self.next_place())).expect("the place is in range");
                self.input(Input::Report(Report::Location(location), None));
            }
            200.. => self.move_by_platform(a.is_multiple_of(2)),
        }
    }

    /// The platform moves the device; usually it wants no answer (`docs/protocol.md` §5.1).
    fn move_by_platform(&mut self, wants_answer: bool) {
        let number = self.next_place();
        if self.world.broker.keeps_messages() {
            self.world.laws.attributes.believed_place = Some(number);
        }
        if wants_answer {
            return self.send(&format!("place{number}"), place(number), Kind::Place);
        }
        let Ask { topic, d } = place(number);
        self.world.tell(|| format!("the platform moves the device to place {number}"));
        self.world.broker.route(&topic, json!({ "d": d }).to_string().into_bytes());
    }

    fn next_place(&mut self) -> u64 {
        self.places += 1;
        self.places
    }
}
