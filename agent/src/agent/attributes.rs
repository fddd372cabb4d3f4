//! Attributes, as a product declares and follows them.

use iotdm_core::{Failure, Location, Report, Table, attribute};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::Config;
use crate::engine::{AttributeRules, Declared, Threshold};
use crate::subscription::Subscription;

use super::{BuildError, Builder, Device};

impl Device {
    /// Follows an attribute: the stored value first, then each newer one. Whatever the subscriber sees is durable, and
    /// seen again after a restart.
    ///
    /// The platform may set `metadata`, `deviceInfo` and `location`; declare the type with [`Builder::attribute`], so
    /// that it is answered 400 when it sets what does not fit.
    pub fn subscribe<T: DeserializeOwned>(&self, name: impl Into<String>) -> Subscription<T> {
        Subscription::new(name.into(), self.handle.clone())
    }

    /// Sets where the device is, durably, and reports it to the platform (`docs/protocol.md` §4.3); whoever observes
    /// `location` is notified besides. Reports that wait are one, which carries the newest location.
    ///
    /// # Errors
    /// What of it is out of its range, or that the agent is stopping.
    pub async fn set_location(&self, location: &Location) -> Result<(), Failure> {
        location.check().map_err(|error| Failure::new(error.to_string()))?;
        Ok(self.handle.report(Report::Location(location.clone())).await?)
    }
}

impl Builder {
    /// Declares the type of an attribute: an update of the platform that does not fit is answered 400 with the place,
    /// before anything of it is stored, and a value of the product's own that does not fit is declined.
    ///
    /// The type's `Deserialize` runs before the request is recorded. It only reads: whatever else it did would be done
    /// again for each copy of the request, and nothing is answered until it returns. A panic in it is answered 500.
    #[must_use]
    pub fn attribute<T: DeserializeOwned>(mut self, name: impl Into<String>) -> Self {
        self.attributes.declared.insert(name.into(), Declared::of::<T>());
        self
    }

    /// Says when a change of an observed attribute is worth a notification; every change is unless this is called. It
    /// holds for the attribute's members, too.
    #[must_use]
    pub fn threshold(mut self, name: impl Into<String>, threshold: Threshold) -> Self {
        self.attributes.thresholds.insert(name.into(), threshold);
        self
    }

    /// Where the device is, when nobody has said otherwise since it was configured so: it is reported when it is
    /// configured otherwise than before.
    #[must_use]
    pub fn location(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }
}

/// The attributes as they are configured, where an agent can keep to them and to their rules.
pub(super) fn configured(
    config: &Config,
    table: &Table,
    location: Option<&Location>,
    rules: &AttributeRules,
) -> Result<Vec<(String, Value)>, BuildError> {
    for (attribute, threshold) in &rules.thresholds {
        let attribute = attribute.clone();
        threshold.check(&attribute).map_err(|reason| BuildError::Threshold { attribute, reason })?;
    }
    let place = location.map_or(Ok(()), Location::check);
    place.map_err(|error| BuildError::Attribute(format!("location: {error}")))?;
    let mut configured: Vec<(String, Value)> =
        vec![(attribute::DEVICE_INFO.into(), json!(config.device_info))];
    configured.extend(config.metadata.clone().map(|metadata| (attribute::METADATA.to_owned(), metadata)));
    let firmware = table.supports().firmware_actions;
    configured
        .extend(firmware.then(|| (attribute::FIRMWARE.to_owned(), json!(iotdm_core::Firmware::default()))));
    configured.extend(location.map(|location| (attribute::LOCATION.to_owned(), json!(location))));
    rules.check(&configured).map_err(|refusal| BuildError::Attribute(refusal.message().into()))?;
    Ok(configured)
}
