//! Other actions while the agent runs.

use super::Engine;
use super::event::{Effect, Offer, Ticket};

impl Engine {
    /// From here on other actions are offered. A task that runs keeps the rules it was started with; a request that
    /// waits meets the gate, which answers 501 where its action has gone.
    ///
    /// The offer is not durable: after a crash the agent starts with what it is then configured with, and judges what
    /// it finds by that.
    pub(super) fn replace(&mut self, offer: Offer, ticket: Ticket) {
        self.settings.policies = offer.policies;
        let claimed = std::mem::replace(&mut self.settings.manage.supports, offer.supports);
        if claimed != self.settings.manage.supports {
            self.claim_anew();
        }
        // Among the effects, so that tasks before it find the handlers that they were started for.
        self.effect(Effect::Replaced(ticket));
    }
}
