//! Attributes: where the device is, and which changes are notified.

use std::collections::BTreeMap;
use std::fmt;

use iotdm_agent::Threshold;
use iotdm_core::{Location, attribute};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::resolve::Resolver;
use super::values::{MinInterval, Span};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [device.location]")]
pub(super) struct Place {
    latitude: Number,
    longitude: Number,
    elevation: Option<Number>,
    accuracy: Option<Number>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of its own")]
pub(super) struct Attribute {
    min_change: Option<MinChange>,
    ignore: Vec<String>,
    min_metres: Option<Number>,
    min_interval: Option<Span<MinInterval>>,
}

impl Resolver<'_> {
    /// Where the device is; `None` when nobody has said so, or it is nowhere on Earth.
    pub(super) fn location(&mut self, place: Option<Place>) -> Option<Location> {
        let place = place?;
        let number = |number: Option<Number>| number.map(|Number(number)| number);
        let location = Location {
            elevation: number(place.elevation),
            accuracy: number(place.accuracy),
            ..Location::at(place.latitude.0, place.longitude.0)
        };
        let checked = location.check().map_err(|error| error.to_string());
        self.keep("device.location", checked).map(|()| location)
    }

    pub(super) fn thresholds(
        &mut self,
        attributes: BTreeMap<String, Attribute>,
    ) -> BTreeMap<String, Threshold> {
        let thresholds = attributes.into_iter().map(|(name, section)| (name, section.into()));
        let thresholds: BTreeMap<String, Threshold> = thresholds.collect();
        for (name, threshold) in &thresholds {
            if let Err(reason) = threshold.check(name) {
                self.problem(&format!("attributes.{name}"), reason);
            } else if !ATTRIBUTES.contains(&name.split('.').next().unwrap_or_default()) {
                self.warnings.push(format!(
                    "attributes.{name}: is of no use; the attributes of this agent are {}",
                    ATTRIBUTES.join(", ")
                ));
            }
        }
        thresholds
    }
}

impl From<Attribute> for Threshold {
    fn from(section: Attribute) -> Self {
        let mut threshold = Self::new();
        for (member, Number(amount)) in
            section.min_change.map(|MinChange(members)| members).unwrap_or_default()
        {
            threshold = threshold.min_change_of(member, amount);
        }
        for member in section.ignore {
            threshold = threshold.ignore(member);
        }
        if let Some(Number(metres)) = section.min_metres {
            threshold = threshold.min_metres(metres);
        }
        match section.min_interval {
            Some(interval) => threshold.min_interval(interval.get()),
            None => threshold,
        }
    }
}

/// What there is to observe beside `mgmt.firmware`; a product that links the library may have others.
const ATTRIBUTES: [&str; 3] = [attribute::DEVICE_INFO, attribute::LOCATION, attribute::METADATA];

/// A number, with a fraction or without.
#[derive(Clone, Copy, Debug)]
struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;

        impl Visitor<'_> for Numbers {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number such as 25 or 0.5")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
                Ok(Number(number))
            }
        }

        deserializer.deserialize_any(Numbers)
    }
}

/// The least change of the attribute itself, under an empty name, or of its members.
#[derive(Debug, Default)]
struct MinChange(BTreeMap<String, Number>);

impl<'de> Deserialize<'de> for MinChange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = MinChange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or one for each member as in { \"inside.celsius\" = 0.5 }")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<MinChange, E> {
                self.visit_f64(number as f64)
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<MinChange, E> {
                Ok(MinChange(BTreeMap::from([(String::new(), Number(number))])))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MinChange, A::Error> {
                BTreeMap::deserialize(MapAccessDeserializer::new(map)).map(MinChange)
            }
        }

        deserializer.deserialize_any(Forms)
    }
}
