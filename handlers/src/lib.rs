//! Handlers that most devices need, on top of [`iotdm_core`]: restart, firmware, scripts, diagnostics.
//!
//! ```no_run
//! use iotdm_core::{Table, TableError};
//! use iotdm_handlers::{Restarts, ScriptSpec, Scripts};
//!
//! # fn build() -> Result<Table, TableError> {
//! let dim = ScriptSpec { args: vec!["--quiet".into()], ..ScriptSpec::new("lamp", "dim", "/usr/lib/lamp/dim") };
//! let mut table = Table::new();
//! table.with(Restarts)?;
//! table.with(Scripts::new().add(dim))?;
//! # Ok(table)
//! # }
//! ```
//!
//! * **Restart**: [`Restarts`] answers 202 and lets the [`System`](iotdm_core::System) restart the machine, or return
//!   it to its delivery state; [`reboot`] has both under rules, and a reset that wipes declared paths.
//! * **Firmware**: [`firmware`] fetches an image, verifies it and has it installed.
//! * **Scripts**: [`Scripts`] lets the platform run programs of the operator's choice as custom actions, with
//!   arguments that stand in the configuration, never in a request; [`CommandScript`] carries out a command of
//!   applications so.
//! * **Diagnostics**: [`Diagnostics`] sends error codes and log entries, merged and at a bounded rate, and lets the
//!   platform have them cleared; [`LogUpload`](diagnostics::LogUpload) gives it the end of a log when it asks,
//!   and [`SystemFacts`](diagnostics::SystemFacts) tells it of memory, disks, load and temperatures.
//!
//! What firmware and logs travel through is set up by [`http`].
//!
//! Architecture invariant: no handler here reads a clock, starts a process or opens a socket by itself. Clocks and
//! processes are the `System`'s, downloads a fetcher's, so that a test can put its own in their place.

pub mod diagnostics;
pub mod firmware;
pub mod http;
pub mod reboot;
pub mod scripts;

pub use diagnostics::Diagnostics;
pub use reboot::Restarts;
pub use scripts::{CommandScript, ScriptSpec, Scripts};

#[cfg(test)]
mod fake;
