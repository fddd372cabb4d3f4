use iotdm_core::{Manage, System, Table};

use crate::config::Config;
use crate::engine::{AttributeRules, Settings};

/// What an engine is told of a configuration; what attributes are, it is told besides.
pub(super) fn settings(config: &Config, table: &Table, system: &dyn System, seed: Option<u64>) -> Settings {
    Settings {
        subject: config.identity.subject(),
        gateway: None,
        policies: table.policies().map(|(route, policy)| (route.clone(), *policy)).collect(),
        manage: Manage {
            lifetime: u32::try_from(config.lifetime.as_secs()).unwrap_or(u32::MAX),
            supports: table.supports(),
            ..Manage::default()
        },
        configured: Vec::new(),
        attributes: AttributeRules::default(),
        limits: config.limits,
        unnoticed: config.broker.keep_alive * 2,
        events_only: config.identity.is_quickstart(),
        boot: system.boot_id(),
        seed: seed.unwrap_or_else(|| fastrand::u64(..)),
    }
}
