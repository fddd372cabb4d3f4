use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the device is, WGS84 (`docs/protocol.md` §4.3). Each update is complete: an optional value left out is
/// deleted on the other side.
///
/// What arrives is checked while it is read; what a product makes is checked by the agent, which declines one that does
/// not pass [`check`](Self::check).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", try_from = "LocationFields")]
pub struct Location {
    /// Decimal degrees, -180 to 180.
    pub longitude: f64,
    /// Decimal degrees, -90 to 90.
    pub latitude: f64,
    /// Metres, -12 000 to 100 000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elevation: Option<f64>,
    /// Metres, 0 to 20 040 000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// When it was measured, ISO 8601; see [`iso8601`](crate::iso8601).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_date_time: Option<String>,
    /// When it was set, ISO 8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_date_time: Option<String>,
}

impl Location {
    /// A place, and nothing more about it.
    pub fn at(latitude: f64, longitude: f64) -> Self {
        Self {
            longitude,
            latitude,
            elevation: None,
            accuracy: None,
            measured_date_time: None,
            updated_date_time: None,
        }
    }

    /// Whether every value is within its range, and every time is ISO 8601.
    ///
    /// # Errors
    /// The first value that is not.
    pub fn check(&self) -> Result<(), LocationError> {
        let within = |member, value: f64, least: f64, most: f64| {
            // NaN is in no range.
            let is_within = (least..=most).contains(&value);
            is_within.then_some(()).ok_or(LocationError::OutOfRange { member, value, least, most })
        };
        within("longitude", self.longitude, -180.0, 180.0)?;
        within("latitude", self.latitude, -90.0, 90.0)?;
        self.elevation.map_or(Ok(()), |metres| within("elevation", metres, LOWEST_METRES, HIGHEST_METRES))?;
        self.accuracy.map_or(Ok(()), |metres| within("accuracy", metres, 0.0, FARTHEST_METRES))?;
        let times =
            [("measuredDateTime", &self.measured_date_time), ("updatedDateTime", &self.updated_date_time)];
        for (member, time) in times {
            if time.as_deref().is_some_and(|text| !is_iso8601(text)) {
                return Err(LocationError::NoTime { member });
            }
        }
        Ok(())
    }

    /// How far another place is, in metres along the surface of a sphere; elevations do not count. Wrong by half a
    /// percent at the most, because the Earth is no sphere.
    pub fn metres_to(&self, other: &Self) -> f64 {
        let (from, to) = (self.latitude.to_radians(), other.latitude.to_radians());
        let half = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
        let (north, east) = (half(other.latitude - self.latitude), half(other.longitude - self.longitude));
        let haversine = north + from.cos() * to.cos() * east;
        2.0 * EARTH_RADIUS_METRES * haversine.clamp(0.0, 1.0).sqrt().asin()
    }
}

/// What is wrong with a location.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LocationError {
    /// A number is outside its range, or none at all.
    #[error("{member} {value} is not within {least} to {most}")]
    OutOfRange {
        /// Which.
        member: &'static str,
        /// What it is.
        value: f64,
        /// The least that it may be.
        least: f64,
        /// The most that it may be.
        most: f64,
    },
    /// A time cannot be read.
    #[error("{member} is no ISO 8601 time such as 2026-01-15T08:30:00Z")]
    NoTime {
        /// Which.
        member: &'static str,
    },
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct LocationFields {
    longitude: f64,
    latitude: f64,
    elevation: Option<f64>,
    accuracy: Option<f64>,
    measured_date_time: Option<String>,
    updated_date_time: Option<String>,
}

impl TryFrom<LocationFields> for Location {
    type Error = LocationError;

    fn try_from(fields: LocationFields) -> Result<Self, LocationError> {
        // Samples of the protocol write a time that is not known as an empty text.
        let time = |text: Option<String>| text.filter(|text| !text.is_empty());
        let location = Self {
            longitude: fields.longitude,
            latitude: fields.latitude,
            elevation: fields.elevation,
            accuracy: fields.accuracy,
            measured_date_time: time(fields.measured_date_time),
            updated_date_time: time(fields.updated_date_time),
        };
        location.check().map(|()| location)
    }
}

/// A date, or a date and a time with or without a zone, in the extended form or the basic one
/// (`docs/protocol.md` §9 point 23).
fn is_iso8601(text: &str) -> bool {
    let (date, time) = text.split_once('T').map_or((text, None), |(date, time)| (date, Some(time)));
    is_date(date) && time.is_none_or(is_time_with_zone)
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let numbers = match parts.as_slice() {
        [basic] => number(basic, 8).map(|date| (date / 10_000, date / 100 % 100, date % 100)),
        [year, month, day] => number(year, 4)
            .zip(number(month, 2))
            .zip(number(day, 2))
            .map(|((year, month), day)| (year, month, day)),
        _ => None,
    };
    let Some((year, month, day)) = numbers else { return false };
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 => 28 + u32::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    (1..=days).contains(&day)
}

fn is_time_with_zone(text: &str) -> bool {
    if let Some(time) = text.strip_suffix('Z') {
        return is_time(time);
    }
    let Some(sign) = text.rfind(['+', '-']) else { return is_time(text) };
    is_time(&text[..sign]) && is_clock(&text[sign + 1..], 1..=2)
}

fn is_time(text: &str) -> bool {
    let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let is_fraction = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    is_fraction && is_clock(whole, 2..=3)
}

/// Hours, minutes and seconds, as many of them as `parts` allows, with colons or without.
fn is_clock(text: &str, parts: RangeInclusive<usize>) -> bool {
    let pairs: Vec<&str> = if text.contains(':') {
        text.split(':').collect()
    } else {
        (0..text.len().div_ceil(2)).map(|pair| text.get(2 * pair..2 * pair + 2).unwrap_or_default()).collect()
    };
    // A leap second is the sixty-first.
    let is_within = |(pair, most)| number(pair, 2).is_some_and(|number| number <= most);
    parts.contains(&pairs.len()) && pairs.into_iter().zip([23, 59, 60]).all(is_within)
}

/// So many digits, as a number.
fn number(text: &str, digits: usize) -> Option<u32> {
    let is_one = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is_one.then(|| text.parse().ok())?
}

/// Below the deepest place of the sea, in metres.
const LOWEST_METRES: f64 = -12_000.0;

/// Where the air ends, in metres.
const HIGHEST_METRES: f64 = 100_000.0;

/// The farthest that two places of the Earth's surface are apart, in metres: who is less sure does not know anything.
const FARTHEST_METRES: f64 = 20_040_000.0;

/// The mean radius of the Earth, in metres.
const EARTH_RADIUS_METRES: f64 = 6_371_008.8;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn a_location_needs_both_coordinates_within_range() {
        assert!(from_value::<Location>(json!({"longitude": 180, "latitude": -90})).is_ok());
        for value in [
            json!({"longitude": 1}),
            json!({"longitude": 181, "latitude": 0}),
            json!({"longitude": 0, "latitude": 90.5}),
            json!({"longitude": 0, "latitude": 0, "accuracy": -1}),
            json!({"longitude": 0, "latitude": 0, "elevation": 1e6}),
        ] {
            assert!(from_value::<Location>(value.clone()).is_err(), "{value}");
        }
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_range() {
        let error = from_value::<Location>(json!({"longitude": 0, "latitude": 90.5})).unwrap_err();
        assert_eq!(error.to_string(), "latitude 90.5 is not within -90 to 90");
    }

    #[test]
    fn what_is_no_number_is_in_no_range() {
        assert!(Location::at(f64::NAN, 0.0).check().is_err());
        assert!(Location { accuracy: Some(f64::INFINITY), ..Location::at(0.0, 0.0) }.check().is_err());
    }

    #[test]
    fn any_form_of_iso_8601_is_a_time() {
        let check = |text: &str| {
            let measured_date_time = Some(text.to_owned());
            Location { measured_date_time, ..Location::at(0.0, 0.0) }.check().is_ok()
        };
        for text in [
            "2026-01-15T08:30:00Z",
            "2026-01-15T08:30:00.123456+00:00",
            "2026-01-15T08:30:00+0130",
            "2026-01-15T08:30-05",
            "2026-01-15T08:30:00",
            "2024-02-29",
            "20260115T0830Z",
            "20260115T083000,5+01",
        ] {
            assert!(check(text), "{text}");
        }
        for text in [
            "yesterday",
            "2026-02-29",
            "2026-13-01",
            "2026-01-15T24:00:00Z",
            "2026-01-15T08:30:00.Z",
            "2026-01-15T08:30:00+99:00",
            "2026-1-5",
            "2026-01-15T",
            "2026-01-15T08",
            "2026-01-15T083Z",
            "２０２６-01-15",
        ] {
            assert!(!check(text), "{text}");
        }
    }

    #[test]
    fn an_empty_time_is_none() {
        let value = json!({"longitude": 0, "latitude": 0, "updatedDateTime": ""});
        assert_eq!(from_value::<Location>(value).unwrap(), Location::at(0.0, 0.0));
    }

    #[test]
    fn distances_are_those_of_the_earth() {
        let check = |from: (f64, f64), to: (f64, f64), metres: f64| {
            let found = Location::at(from.0, from.1).metres_to(&Location::at(to.0, to.1));
            assert!((found - metres).abs() <= metres * 0.006, "{found}");
        };
        check((0.0, 0.0), (0.0, 1.0), 111_195.0);
        check((48.1374, 11.5755), (52.52, 13.405), 504_000.0);
        check((0.0, 179.999_5), (0.0, -179.999_5), 111.195);
        check((0.0, 0.0), (0.0, 180.0), 20_015_000.0);
        assert!(Location::at(12.0, 7.0).metres_to(&Location::at(12.0, 7.0)) < 1e-9);
    }
}
