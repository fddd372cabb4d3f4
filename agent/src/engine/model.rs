use std::collections::{BTreeMap, BTreeSet};

use iotdm_core::{
    AttributeValue, DeviceInfo, Firmware, FirmwareState, Location, Refusal, UpdateStatus, attribute,
};
use serde_json::{Value, json};

/// The device's attributes, who observes them, and the notifications a change owes.
#[derive(Debug, Default)]
pub struct Model {
    attributes: BTreeMap<String, Value>,
    /// The generation of each observation: a late refusal of a notification removes only the one it belonged to.
    observations: BTreeMap<String, u64>,
}

impl Model {
    /// Takes an attribute as it was stored.
    pub(super) fn restore_attribute(&mut self, name: String, value: Value) {
        self.attributes.insert(name, value);
    }

    /// Takes an observation as it was stored.
    pub(super) fn restore_observation(&mut self, field: String, generation: u64) {
        self.observations.insert(field, generation);
    }

    /// An attribute, or a member of one: `mgmt.firmware`, `mgmt.firmware.state`, `location.latitude`.
    pub fn read(&self, field: &str) -> Option<&Value> {
        if let Some(value) = self.attributes.get(field) {
            return Some(value);
        }
        let (name, path) = field.match_indices('.').rev().find_map(|(dot, _)| {
            let value = self.attributes.get(&field[..dot])?;
            Some((value, &field[dot + 1..]))
        })?;
        path.split('.').try_fold(name, |value, member| value.get(member))
    }

    /// All attributes.
    pub fn attributes(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.attributes.iter()
    }

    /// The observed attributes and the generation of each observation.
    pub fn observations(&self) -> impl Iterator<Item = (&String, u64)> {
        self.observations.iter().map(|(field, generation)| (field, *generation))
    }

    /// Sets attributes and says which observed ones changed with that; each is owed one notification.
    pub fn set(&mut self, changes: Vec<(String, Value)>) -> BTreeSet<String> {
        let before: Vec<(String, Option<Value>)> =
            self.observations.keys().map(|field| (field.clone(), self.read(field).cloned())).collect();
        self.attributes.extend(changes);
        let changed = before.into_iter().filter(|(field, value)| self.read(field) != value.as_ref());
        changed.map(|(field, _)| field).collect()
    }

    /// Whether another attribute may come into being.
    pub fn has_room_for<'a>(&self, names: impl Iterator<Item = &'a String>) -> bool {
        let added = names.filter(|name| !self.attributes.contains_key(*name)).count();
        self.attributes.len() + added <= MAX_ATTRIBUTES
    }

    /// Observes an attribute. Observing it again is the same observation.
    pub fn observe(&mut self, field: &str, generation: u64) -> Result<(), Refusal> {
        if self.read(field).is_none() {
            return Err(Refusal::not_found(format!("{field} is not an attribute of this device")));
        }
        if self.observations.len() >= MAX_OBSERVATIONS && !self.observations.contains_key(field) {
            return Err(Refusal::failed(format!("at most {MAX_OBSERVATIONS} attributes can be observed")));
        }
        self.observations.entry(field.to_owned()).or_insert(generation);
        Ok(())
    }

    /// Observes an attribute no longer.
    pub fn cancel(&mut self, field: &str) -> bool {
        self.observations.remove(field).is_some()
    }

    /// The generation of an observation.
    pub fn generation(&self, field: &str) -> Option<u64> {
        self.observations.get(field).copied()
    }

    /// What a device/update of the platform makes of the attributes: all of it or, refused, nothing.
    ///
    /// `transferring` says whether a firmware request is under way, so that its image cannot be exchanged.
    pub fn update(
        &self,
        fields: Vec<AttributeValue>,
        transferring: bool,
    ) -> Result<Vec<(String, Value)>, Refusal> {
        if fields.is_empty() {
            return Err(Refusal::bad_request("d.fields names no attribute"));
        }
        fields
            .into_iter()
            .map(|AttributeValue { field, value }| {
                let wrong = |error: serde_json::Error| Refusal::bad_request(format!("{field}: {error}"));
                let value = match field.as_str() {
                    attribute::LOCATION => {
                        serde_json::from_value::<Location>(value).map(|l| json!(l)).map_err(wrong)?
                    }
                    attribute::DEVICE_INFO => {
                        serde_json::from_value::<DeviceInfo>(value).map(|info| json!(info)).map_err(wrong)?
                    }
                    attribute::METADATA if value.is_object() => value,
                    attribute::METADATA => return Err(Refusal::bad_request("metadata: expected an object")),
                    attribute::FIRMWARE => {
                        let image = serde_json::from_value::<Firmware>(value).map_err(wrong)?;
                        json!(merge_firmware(self.firmware(), image, transferring)?)
                    }
                    _ => return Err(Refusal::not_found(format!("{field} cannot be set on this device"))),
                };
                Ok((field, value))
            })
            .collect()
    }

    /// The stored `mgmt.firmware`.
    pub fn firmware(&self) -> Firmware {
        let stored = self.attributes.get(attribute::FIRMWARE).cloned();
        stored.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default()
    }
}

/// What the platform says of an image, laid over what is known of it. State and status are the device's own and are
/// not taken; another image starts idle, so that an abandoned one cannot lock the device out
/// (`docs/protocol.md` §6.3, §9 points 10 and 11).
fn merge_firmware(stored: Firmware, image: Firmware, transferring: bool) -> Result<Firmware, Refusal> {
    let differs = |new: &Option<String>, old: &Option<String>| new.is_some() && new != old;
    let another = differs(&image.uri, &stored.uri)
        || differs(&image.version, &stored.version)
        || differs(&image.verifier, &stored.verifier);
    if another && transferring {
        return Err(Refusal::busy("another firmware image is being transferred or installed"));
    }
    let (state, update_status) = if another {
        (FirmwareState::Idle, UpdateStatus::Success)
    } else {
        (stored.state, stored.update_status)
    };
    let text = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(Firmware {
        version: image.version.or(stored.version),
        name: image.name.or(stored.name),
        uri: image.uri.or(stored.uri),
        // A verifier belongs to its image: another image does not inherit it.
        verifier: if another { image.verifier } else { image.verifier.or(stored.verifier) },
        state,
        update_status,
        updated_date_time: text(image.updated_date_time).or(stored.updated_date_time),
    })
}

/// How many attributes a device may have.
const MAX_ATTRIBUTES: usize = 256;

/// How many of them may be observed at once.
const MAX_OBSERVATIONS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use iotdm_core::Code;

    fn model() -> Model {
        let mut model = Model::default();
        model.set(vec![
            (
                "mgmt.firmware".into(),
                json!({"version": "1", "uri": "http://a/1", "state": 2, "updateStatus": 0}),
            ),
            ("location".into(), json!({"longitude": 1.0, "latitude": 2.0})),
        ]);
        model
    }

    fn update(model: &Model, field: &str, value: Value, transferring: bool) -> Result<Value, Code> {
        let fields = vec![AttributeValue { field: field.into(), value }];
        let changes = model.update(fields, transferring).map_err(|refusal| refusal.rc())?;
        Ok(changes[0].1.clone())
    }

    #[test]
    fn a_member_of_an_attribute_can_be_read() {
        let model = model();
        assert_eq!(model.read("mgmt.firmware.state"), Some(&json!(2)));
        assert_eq!(model.read("location.latitude"), Some(&json!(2.0)));
        for field in ["mgmt", "mgmt.firmware.", "location.altitude", "", "."] {
            assert_eq!(model.read(field), None, "{field}");
        }
    }

    #[test]
    fn a_change_of_several_members_owes_one_notification() {
        let mut model = model();
        model.observe("mgmt.firmware", 1).unwrap();
        model.observe("location", 2).unwrap();
        let owed = model.set(vec![("mgmt.firmware".into(), json!({"state": 0, "updateStatus": 4}))]);
        assert_eq!(owed, BTreeSet::from(["mgmt.firmware".to_owned()]));
    }

    #[test]
    fn a_member_that_did_not_change_owes_nothing() {
        let mut model = model();
        model.observe("mgmt.firmware.state", 1).unwrap();
        let owed = model.set(vec![("mgmt.firmware".into(), json!({"state": 2, "updateStatus": 1}))]);
        assert!(owed.is_empty());
    }

    #[test]
    fn an_unknown_attribute_cannot_be_observed() {
        assert_eq!(model().observe("nonsense", 1).unwrap_err().rc(), Code::NOT_FOUND);
    }

    #[test]
    fn observing_again_is_the_same_observation() {
        let mut model = model();
        model.observe("location", 1).unwrap();
        model.observe("location", 2).unwrap();
        assert_eq!(model.generation("location"), Some(1));
    }

    /// `docs/protocol.md` §9 point 10.
    #[test]
    fn parameters_for_the_same_image_leave_its_state_alone() {
        let merged = update(&model(), "mgmt.firmware", json!({"version": "1", "state": 0}), false).unwrap();
        assert_eq!((merged["state"].as_u64(), merged["uri"].as_str()), (Some(2), Some("http://a/1")));
    }

    #[test]
    fn another_image_starts_idle_and_not_while_one_is_transferred() {
        let other = json!({"version": "2", "uri": "http://a/2"});
        let merged = update(&model(), "mgmt.firmware", other.clone(), false).unwrap();
        assert_eq!(merged["state"], 0);
        assert_eq!(update(&model(), "mgmt.firmware", other, true), Err(Code::CONFLICT));
    }

    #[test]
    fn an_update_is_checked_as_a_whole() {
        let bad = [
            ("location", json!({"longitude": 1}), Code::BAD_REQUEST),
            ("location", json!("here"), Code::BAD_REQUEST),
            ("metadata", json!([]), Code::BAD_REQUEST),
            ("deviceInfo", json!({"model": 7}), Code::BAD_REQUEST),
            ("mgmt.firmware", json!({"state": 9}), Code::BAD_REQUEST),
            ("nonsense", json!(1), Code::NOT_FOUND),
        ];
        for (field, value, rc) in bad {
            assert_eq!(update(&model(), field, value, false), Err(rc), "{field}");
        }
        assert_eq!(model().update(vec![], false).unwrap_err().rc(), Code::BAD_REQUEST);
    }
}
