//! Whether facts differ by enough to be told.

use serde_json::Value;

use super::{Disk, Facts, Space, Temperature};

/// By how much facts have to differ from those told last. One of them is enough, and so is a disk, a temperature or
/// another fact that came or went. Time and uptime alone are never told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Available memory, in percent of all of it.
    pub memory_percent: u8,
    /// Available space of a disk, in percent of all of it.
    pub disk_percent: u8,
    /// The load of the last five minutes.
    pub load: f64,
    /// A temperature, in degrees Celsius.
    pub celsius: f64,
}

impl Default for Thresholds {
    /// 10 % of memory, 5 % of a disk, a load of 1, 5 °C.
    fn default() -> Self {
        Self { memory_percent: 10, disk_percent: 5, load: 1.0, celsius: 5.0 }
    }
}

impl Thresholds {
    /// `known` is what was told last; whatever else stands in its place is to be replaced.
    pub(super) fn are_passed(&self, known: &Value, now: &Facts) -> bool {
        let Ok(known) = serde_json::from_value::<Facts>(known.clone()) else { return true };
        let memory = match (known.memory, now.memory) {
            (Some(known), Some(now)) => differs(known, now, self.memory_percent),
            (known, now) => known.is_some() != now.is_some(),
        };
        let load = match (known.load, now.load) {
            (Some(known), Some(now)) => (known[FIVE_MINUTES] - now[FIVE_MINUTES]).abs() >= self.load,
            (known, now) => known.is_some() != now.is_some(),
        };
        memory
            || load
            || self.disks(&known.disks, &now.disks)
            || self.heat(&known.temperatures, &now.temperatures)
    }

    fn disks(&self, known: &[Disk], now: &[Disk]) -> bool {
        known.len() != now.len()
            || known.iter().zip(now).any(|(known, now)| {
                known.path != now.path || differs(known.space, now.space, self.disk_percent)
            })
    }

    fn heat(&self, known: &[Temperature], now: &[Temperature]) -> bool {
        known.len() != now.len()
            || known.iter().zip(now).any(|(known, now)| {
                known.zone != now.zone || (known.celsius - now.celsius).abs() >= self.celsius
            })
    }
}

fn differs(known: Space, now: Space, percent: u8) -> bool {
    let change = u128::from(known.available_bytes.abs_diff(now.available_bytes));
    known.total_bytes != now.total_bytes || change * 100 >= u128::from(now.total_bytes) * u128::from(percent)
}

/// Which of the three means is compared: the first is as restless as the machine, the third a quarter of an hour late.
const FIVE_MINUTES: usize = 1;
