//! Which changes of observed attributes are notified, and when.

use serde_json::Value;
use tracing::debug;

use crate::journal::Write;

use super::Engine;
use super::answers::Body;
use super::event::Timer;
use super::outbox::Item;
use super::thresholds::{Thresholds, Verdict, rule_of};

impl Engine {
    /// An observed attribute may be another than its observer was told: notifies, waits until it may, or leaves it.
    pub(super) fn notify_due(&mut self, field: String) {
        if self.model.generation(&field).is_none() {
            return;
        }
        let value = self.model.read(&field).unwrap_or(&Value::Null);
        match self.thresholds.judge(&field, value, self.now) {
            Verdict::Notify => self.queue_notify(field),
            Verdict::Later(at) => self.timers.set(Timer::Notify(field), at),
            Verdict::TooSmall => debug!("{field} changed by less than what is notified"),
        }
    }

    /// At start: who observes, what they were told, and what they were still to be told.
    pub(super) fn watch_observed(&mut self) {
        // What was on its way when the process died may stand beside what was to follow it.
        self.outbox.merge_notifies();
        for place in self.outbox.superseded() {
            self.drop_from_outbox(place);
        }
        let observed: Vec<String> = self.model.observations().map(|(field, _)| field.clone()).collect();
        for field in observed {
            let stale = !self.watch(&field);
            let value = self.model.read(&field).unwrap_or(&Value::Null);
            let is_owed = if stale {
                let told = self.thresholds.take_stale(&field);
                if told.is_some() {
                    self.out.writes.push(Write::Unset(Thresholds::stored_as(&field)));
                }
                told.is_some_and(|told| told.differs(value))
            } else {
                self.outbox.unsent_notify(&field).is_none()
            };
            if is_owed {
                self.notify_due(field);
            }
        }
        for field in self.thresholds.take_forgotten() {
            self.out.writes.push(Write::Unset(Thresholds::stored_as(&field)));
        }
    }

    /// An attribute is observed. Whether there is a rule for it.
    pub(super) fn watch(&mut self, field: &str) -> bool {
        let rule = rule_of(&self.settings.attributes.thresholds, field);
        rule.map(|rule| self.thresholds.watch(field, rule, self.now, self.settings.clock())).is_some()
    }

    pub(super) fn watch_no_longer(&mut self, field: &str) {
        self.timers.clear(&Timer::Notify(field.to_owned()));
        if self.thresholds.forget(field) {
            self.out.writes.push(Write::Unset(Thresholds::stored_as(field)));
        }
    }

    /// This leaves now: whoever observes knows the values that it carries.
    pub(super) fn tell_observers(&mut self, item: &Item) {
        match item {
            Item::Notify { field, .. } => {
                let value = self.model.read(field).unwrap_or(&Value::Null);
                let notified = Some((self.now, self.settings.clock()));
                let told = self.thresholds.told(field, value, notified);
                self.remember(told);
            }
            Item::Answer(key) => {
                let Some(Body::Observed { fields, .. }) = self.answers.get(key).map(|answer| &answer.body)
                else {
                    return;
                };
                let fields: Vec<String> =
                    fields.iter().filter(|field| self.thresholds.watches(field)).cloned().collect();
                for field in fields {
                    let value = self.model.read(&field).unwrap_or(&Value::Null);
                    let told = self.thresholds.told(&field, value, None);
                    self.remember(told);
                }
            }
            Item::Report(_) => {}
        }
    }

    /// A report or a notification has not reached the platform, and is given up. What follows is not compared with a
    /// value that nobody was told; least intervals go on.
    pub(super) fn give_up(&mut self, place: u64, item: &Item) {
        if let Item::Notify { field, .. } = item
            && self.thresholds.not_told(field)
        {
            self.out.writes.push(Write::Unset(Thresholds::stored_as(field)));
        }
        self.drop_from_outbox(place);
    }

    /// Lazily: what leaves stays in the queue until this is durable, and would be sent again.
    fn remember(&mut self, told: Option<(String, Value)>) {
        self.out.writes.extend(told.map(|(name, value)| Write::Attribute(name, value)));
    }
}
