//! A message arrives at the device.

use crate::engine::{Delivered, Input};

use super::world::World;

impl World {
    /// The engine has a message of the broker, with the broker's count of how long it waited where there is one.
    pub(crate) fn arrive(&mut self, number: u64, mut delivered: Delivered) {
        if self.broker.counts_waiting {
            delivered.waited = self.laws.counted(number, self.elapsed);
        }
        self.laws.delivered(number, &delivered, self.elapsed);
        self.input(Input::Delivered(delivered));
    }
}
