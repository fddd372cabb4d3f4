use std::collections::BTreeMap;

use iotdm_core::{Command, Declined, Direction, OnCommand, Route, Table};

use super::{Builder, Device};

impl Builder {
    /// Registers a handler for a command of applications.
    #[must_use]
    pub fn on_command<C: Command>(mut self, handler: impl OnCommand<C>) -> Self {
        let result = self.table.on_command::<C>(handler);
        self.note(result);
        self
    }
}

impl Device {
    /// How often each kind of thing occurred that nobody is answered for, since the journal was opened last: commands
    /// that do not fit, were dropped or failed, unreadable requests, and the like. The names are those of the log lines.
    ///
    /// # Errors
    /// The agent has ended.
    pub async fn counters(&self) -> Result<BTreeMap<&'static str, u64>, Declined> {
        self.handle.counters().await
    }
}

/// What is subscribed to: requests first, whose filter the session cannot do without.
pub(super) fn filters(table: &Table) -> Vec<String> {
    let requests = format!("{}#", <Route as Direction>::ROOT);
    std::iter::once(requests).chain(table.command_filters()).collect()
}
