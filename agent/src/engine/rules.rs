//! What attributes may hold, and which of their changes are notified: what the engine is told of them once.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::catch_unwind;

use iotdm_core::{Location, Refusal, attribute};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::thresholds::Threshold;

/// What attributes may hold, and which of their changes are notified.
#[derive(Clone, Debug, Default)]
pub struct AttributeRules {
    /// The type of each attribute that has one.
    pub declared: BTreeMap<String, Declared>,
    /// When changes are worth a notification.
    pub thresholds: BTreeMap<String, Threshold>,
}

impl AttributeRules {
    /// Whether these values fit the types that the product declared.
    ///
    /// # Errors
    /// 400 with the place for one that does not fit; 500 when its type panics.
    pub fn check(&self, changes: &[(String, Value)]) -> Result<(), Refusal> {
        changes.iter().try_for_each(|(name, value)| match self.declared.get(name) {
            Some(declared) => declared.check(name, value),
            None => Ok(()),
        })
    }

    /// The same for what the product sets by itself; its location is checked too.
    pub(super) fn check_own(&self, changes: &[(String, Value)]) -> Result<(), Refusal> {
        for (name, value) in changes.iter().filter(|(name, _)| name == attribute::LOCATION) {
            Location::deserialize(value).map_err(|error| Refusal::bad_request(format!("{name}: {error}")))?;
        }
        self.check(changes)
    }
}

/// The type that an attribute's values must have.
#[derive(Clone, Copy)]
pub struct Declared(fn(&str, &Value) -> Result<(), Misfit>);

impl Declared {
    /// This type.
    pub fn of<T: DeserializeOwned>() -> Self {
        Self(|name, value| decode::<T>(name, value).map(|_| ()))
    }

    /// Whether a value fits.
    ///
    /// # Errors
    /// 400 with the place, or 500 when the type panics while it is read.
    pub fn check(&self, name: &str, value: &Value) -> Result<(), Refusal> {
        let check = self.0;
        // What arrives from outside must not end the process, whatever a product's type makes of it.
        match catch_unwind(|| check(name, value)) {
            Ok(result) => result.map_err(|misfit| Refusal::bad_request(misfit.to_string())),
            Err(_) => Err(Refusal::failed(format!("{name}: reading this value failed"))),
        }
    }
}

impl fmt::Debug for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Declared")
    }
}

/// A value that does not fit the type that somebody wants to read it as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct Misfit {
    /// The attribute and the path of the member in it.
    pub place: String,
    /// What is wrong there.
    pub reason: String,
}

/// Reads an attribute's value as a type.
///
/// # Errors
/// The place that does not fit.
pub(crate) fn decode<T: DeserializeOwned>(name: &str, value: &Value) -> Result<T, Misfit> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { name.to_owned() } else { format!("{name}.{path}") };
        let mut reason = error.inner().to_string();
        // It may quote the value: all of it, escaped, would not fit into an answer.
        if reason.len() > MAX_REASON_BYTES {
            reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
            reason.push('…');
        }
        Misfit { place, reason }
    })
}

/// How much is told of why a value does not fit, in bytes.
const MAX_REASON_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Deserialize)]
    struct Lamp {
        #[expect(dead_code, reason = "it is only read")]
        poles: Vec<Pole>,
    }

    #[derive(Deserialize)]
    struct Pole {
        #[expect(dead_code, reason = "it is only read")]
        height: u16,
    }

    struct Bomb;

    impl<'de> Deserialize<'de> for Bomb {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            panic!("as it was told to")
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused_with_its_place() {
        let refusal =
            Declared::of::<Lamp>().check("metadata", &json!({"poles": [{"height": 8}, {"height": "tall"}]}));
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal.rc(), iotdm_core::Code::BAD_REQUEST);
        assert_eq!(
            refusal.message(),
            "metadata.poles[1].height: invalid type: string \"tall\", expected u16"
        );
        let refusal = Declared::of::<Lamp>().check("metadata", &json!([7])).unwrap_err();
        assert!(refusal.message().starts_with("metadata"), "{}", refusal.message());
    }

    #[test]
    fn a_long_value_is_quoted_in_part() {
        let refusal = Declared::of::<u8>().check("level", &json!("x".repeat(100_000))).unwrap_err();
        assert!(refusal.message().len() < 2000);
    }

    #[test]
    fn a_type_that_panics_refuses_the_value_and_nothing_else_happens() {
        let refusal = Declared::of::<Bomb>().check("metadata", &json!({})).unwrap_err();
        assert_eq!(refusal.rc(), iotdm_core::Code::FAILED);
    }
}
