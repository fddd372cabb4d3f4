use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::driver::Handle;
use crate::engine::{Misfit, decode};

/// Follows one attribute's values, as a product's type.
///
/// # Flow
/// The first [`next`](Self::next) gives the value that is stored, as soon as there is one; each further call waits for
/// another.
///
/// # Guarantees
/// * What it gives is durable: a crash never takes it back, and after a restart it is given again.
/// * It keeps no queue. A slow subscriber misses values in between, never the newest.
/// * A value that is set again to what it was is not given again.
///
/// # Errors
/// [`Misfit`] with the place, when a value does not fit the type. Of an attribute that is declared with
/// [`Builder::attribute`](crate::Builder::attribute) that can only be a value which an older program stored. The next
/// value may fit.
///
/// ```no_run
/// use iotdm_agent::Device;
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Metadata {
///     report_every_seconds: u32,
/// }
///
/// # async fn follow(device: Device) {
/// let mut metadata = device.subscribe::<Metadata>("metadata");
/// while let Some(value) = metadata.next().await {
///     match value {
///         Ok(metadata) => println!("every {} s from here on", metadata.report_every_seconds),
///         Err(misfit) => eprintln!("{misfit}"),
///     }
/// }
/// # }
/// ```
pub struct Subscription<T> {
    name: String,
    handle: Handle,
    changes: watch::Receiver<u64>,
    /// The change that made the value which was given last.
    given: Option<u64>,
    value: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Subscription<T> {
    pub(crate) fn new(name: String, handle: Handle) -> Self {
        let changes = handle.attributes.changes();
        Self { name, handle, changes, given: None, value: PhantomData }
    }

    /// Which attribute it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value as it was last made durable, whether it was given before or not; `None` while there is none.
    pub fn current(&self) -> Option<Result<T, Misfit>> {
        Some(decode(&self.name, &self.handle.attributes.get(&self.name)?))
    }

    /// The next value that was not given yet; `None` when the agent has ended and nothing is left to give. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> Option<Result<T, Misfit>> {
        loop {
            // Marked as seen before it is looked at: what changes in between wakes the next wait.
            self.changes.borrow_and_update();
            if let Some(value) = self.take() {
                return Some(value);
            }
            tokio::select! {
                biased;
                Ok(()) = self.changes.changed() => {}
                () = self.handle.ended() => return self.take(),
            }
        }
    }

    fn take(&mut self) -> Option<Result<T, Misfit>> {
        let newest = self.handle.attributes.versioned(&self.name)?;
        if self.given == Some(newest.version) {
            return None;
        }
        self.given = Some(newest.version);
        Some(decode(&self.name, &newest.value))
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("name", &self.name).finish_non_exhaustive()
    }
}
