//! The laws of attributes: what the platform believes of them is so, it hears of them in time, and not too often.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::engine::{Delivered, Model, Settings};

use super::super::Law;
use super::super::ask::number_of;
use super::super::settings::{LEVEL_INTERVAL, LEVEL_LEAST};
use super::Laws;

/// What the platform believes of the device's attributes.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    /// This journal has answered an update of the metadata with 204.
    pub(super) is_updated: bool,
    /// What the platform was told of its notifications, so that it may have missed some.
    pub(crate) misses_notifies: bool,
    /// Whether `level` has a threshold.
    has_threshold: bool,
    /// The value of `level` that the platform has seen last.
    seen_level: Option<i64>,
    /// When it was notified last on this connection, under this observation.
    pub(super) notified_at: Option<Duration>,
    /// The number of the place that the platform believes the device to be at: where it has put it, or what was reported
    /// to it, whichever came later. None where it may have lost a message.
    pub(crate) believed_place: Option<u64>,
    /// The numbers of the updates that were delivered.
    updates: BTreeSet<u64>,
}

impl Attributes {
    pub(super) fn of(settings: &Settings) -> Self {
        Self { has_threshold: settings.attributes.thresholds.contains_key("level"), ..Self::default() }
    }

    pub(super) fn level_seen(&mut self, level: Option<i64>) {
        self.seen_level = level.or(self.seen_level);
    }

    pub(super) fn journal_is_empty(&mut self) {
        let (has_threshold, misses_notifies) = (self.has_threshold, self.misses_notifies);
        let updates = std::mem::take(&mut self.updates);
        *self = Self { has_threshold, misses_notifies, updates, ..Self::default() };
    }

    /// What has no reqId is carried out again when it is delivered again, after what came since.
    pub(super) fn delivered(&mut self, number: u64, delivered: &Delivered) {
        let is_update = delivered.topic.ends_with("device/update");
        if is_update && !self.updates.insert(number) {
            self.believed_place = None;
        }
    }
}

impl Laws {
    /// A notification leaves.
    pub(super) fn notified(&mut self) {
        let before = self.attributes.notified_at.replace(self.now);
        let is_early = before.is_some_and(|before| self.now < before + LEVEL_INTERVAL);
        // What the platform refuses is repeated sooner.
        if is_early && self.attributes.has_threshold && !self.attributes.misses_notifies {
            let what = format!("level is notified twice within {LEVEL_INTERVAL:?}");
            self.broken(Law::EverythingIsBounded, what);
        }
    }

    /// Everything has worked again for long enough: both sides know the same.
    pub(super) fn judge_attributes(&mut self, model: &Model) {
        let is_updated = model.read("metadata").is_some_and(|value| value["a"] == 1);
        if self.attributes.is_updated && !is_updated {
            self.broken(Law::AcceptedIsKept, "an update was answered 204, and is not there".into());
        }
        let level = model.generation("level").and_then(|_| model.read("level")?.as_i64());
        let seen = self.attributes.seen_level;
        let is_told = match level.zip(seen) {
            Some((level, seen)) if self.attributes.has_threshold => (level - seen).abs() < LEVEL_LEAST,
            _ => level == seen,
        };
        if level.is_some() && !is_told && !self.attributes.misses_notifies {
            let what = format!("level is {level:?}, and the platform believes {seen:?}");
            self.broken(Law::AnswersAreKept, what);
        }
        let (place, believed) = (model.read("location").and_then(number_of), self.attributes.believed_place);
        if self.ordered && believed.is_some() && place != believed {
            let what = format!("the device is at {place:?}, and the platform believes {believed:?}");
            self.broken(Law::AnswersAreKept, what);
        }
    }
}

/// The value of the attribute `level` in the fields of a message.
pub(super) fn level_in(d: Option<&Value>) -> Option<i64> {
    d?["fields"][0]["value"].as_i64()
}

/// The number of the place that a location report tells.
pub(super) fn place_in(payload: &Bytes) -> Option<u64> {
    let message: Value = serde_json::from_slice(payload).ok()?;
    number_of(&message["d"])
}
