//! `[events]`: the store of events.

use iotdm_agent::EventLimits;

use super::super::file;
use super::Resolver;

impl Resolver<'_> {
    pub(super) fn events(&self, section: &file::Events) -> EventLimits {
        let default = EventLimits::default();
        EventLimits {
            bytes: section.store_bytes.as_ref().map_or(default.bytes, |bytes| bytes.get_usize()),
            count: section.store_count.as_ref().map_or(default.count, |count| count.get_usize()),
            policy: section.drop.into(),
        }
    }
}
