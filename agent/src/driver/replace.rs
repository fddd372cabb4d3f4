//! Other actions for a device while its agent runs.

use std::sync::Arc;

use iotdm_core::{Subject, Table};

use crate::engine::{Input, Offer, Ticket};

use super::run::Run;
use super::services::Replaced;

impl Run<'_> {
    pub(super) fn replace(&mut self, of: &Subject, actions: Table, done: Replaced) {
        let attached = self.driver.attached.get(of);
        let mut table = Table::clone(attached.map_or(&self.driver.table, |member| &member.table));
        if let Err(error) = table.replace(actions) {
            // Whoever waited may have gone, here as below.
            let _ = done.send(Err(error));
            return;
        }
        let offer = offer(&table);
        let ticket = self.next_ticket();
        self.replacements.insert(ticket, (Arc::new(table), done));
        self.input(of, Input::Replace(offer, ticket));
    }

    /// Tasks from here on, and the next engine, have the other handlers.
    pub(super) fn replaced(&mut self, of: &Subject, ticket: Ticket) {
        let Some((table, done)) = self.replacements.remove(&ticket) else { return };
        let Offer { policies, supports } = offer(&table);
        let settings = match self.driver.attached.get_mut(of) {
            Some(member) => {
                member.table = table;
                &mut member.settings
            }
            None => {
                self.driver.table = table.clone();
                self.tasks.replace(table);
                &mut self.driver.settings
            }
        };
        settings.policies = policies;
        settings.manage.supports = supports;
        let _ = done.send(Ok(()));
    }
}

/// What the engine is told of a table.
fn offer(table: &Table) -> Offer {
    Offer {
        policies: table.policies().map(|(route, policy)| (route.clone(), *policy)).collect(),
        supports: table.supports(),
    }
}
