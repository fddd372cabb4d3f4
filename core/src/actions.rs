//! The actions the protocol itself has.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::action::{Action, Empty};
use crate::reply::{Accepted, Changed, Finished};
use crate::topic::Route;

/// Restart the device (`docs/protocol.md` §5.4). The platform takes the next manage as "done".
#[derive(Clone, Copy, Debug)]
pub struct Reboot;

impl Action for Reboot {
    const ROUTE: Route = Route::Reboot;
    const PERFORM_BUDGET: Duration = Duration::from_secs(5 * 60);
    type Request = Empty;
    type Reply = Accepted;
}

/// Return the device to its delivery state and restart it (`docs/protocol.md` §5.4). Identity and journal stay.
#[derive(Clone, Copy, Debug)]
pub struct FactoryReset;

impl Action for FactoryReset {
    const ROUTE: Route = Route::FactoryReset;
    const PERFORM_BUDGET: Duration = Duration::from_secs(15 * 60);
    type Request = Empty;
    type Reply = Accepted;
}

/// Fetch the image that `mgmt.firmware` describes (`docs/protocol.md` §6.3).
#[derive(Clone, Copy, Debug)]
pub struct Download;

impl Action for Download {
    const ROUTE: Route = Route::FirmwareDownload;
    const PERFORM_BUDGET: Duration = Duration::from_secs(2 * 60 * 60);
    // A download goes on where it stopped, so that many restarts may be part of one.
    const ATTEMPTS: u32 = 20;
    type Request = Empty;
    type Reply = Accepted;
}

/// Install the image that was fetched (`docs/protocol.md` §6.3).
#[derive(Clone, Copy, Debug)]
pub struct Update;

impl Action for Update {
    const ROUTE: Route = Route::FirmwareUpdate;
    // An installation, its judgement and its roll-back are each bounded by their handler; restarts lie between them.
    const ATTEMPTS: u32 = 12;
    type Request = Empty;
    type Reply = Accepted;
}

/// Set attributes (`docs/protocol.md` §5.1). Carried out by the agent's device model.
#[derive(Clone, Copy, Debug)]
pub struct DeviceUpdate;

impl Action for DeviceUpdate {
    const ROUTE: Route = Route::DeviceUpdate;
    type Request = UpdateRequest;
    type Reply = Changed;
}

/// Start observing attributes (`docs/protocol.md` §5.2). Carried out by the agent's device model.
#[derive(Clone, Copy, Debug)]
pub struct Observe;

impl Action for Observe {
    const ROUTE: Route = Route::Observe;
    type Request = ObserveRequest;
    type Reply = Finished<ObserveReply>;
}

/// Stop observing attributes (`docs/protocol.md` §5.3). Carried out by the agent's device model.
#[derive(Clone, Copy, Debug)]
pub struct Cancel;

impl Action for Cancel {
    const ROUTE: Route = Route::Cancel;
    type Request = CancelRequest;
    type Reply = Finished<()>;
}

/// The body of device/update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateRequest {
    /// The attributes and what they become.
    pub fields: Vec<AttributeValue>,
}

/// One attribute and its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AttributeValue {
    /// The attribute's name.
    pub field: String,
    /// Its value.
    pub value: Value,
}

/// The body of observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObserveRequest {
    /// The attributes to observe.
    pub fields: Vec<FieldName>,
}

/// The answer to observe.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ObserveReply {
    /// The attributes and their current values.
    pub fields: Vec<AttributeValue>,
}

/// The body of cancel. Older documents call the list `data` (`docs/protocol.md` §9 point 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CancelRequest {
    /// The attributes to observe no longer.
    #[serde(alias = "data")]
    pub fields: Vec<FieldName>,
}

/// An attribute's name, as a text or as `{"field": name}`: both are in use (`docs/protocol.md` §9 point 1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Value")]
pub struct FieldName {
    /// The name.
    pub field: String,
}

impl TryFrom<Value> for FieldName {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let name = match value {
            Value::String(name) => Some(name),
            Value::Object(mut members) => match members.remove("field") {
                Some(Value::String(name)) => Some(name),
                _ => None,
            },
            _ => None,
        };
        name.map(|field| Self { field }).ok_or("expected an attribute's name or {\"field\": name}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use serde_json::{from_value, json};

    fn names(fields: &[FieldName]) -> Vec<&str> {
        fields.iter().map(|name| name.field.as_str()).collect()
    }

    /// `docs/protocol.md` §9 point 1.
    #[test]
    fn observe_takes_texts_and_objects_also_mixed() {
        let request: ObserveRequest =
            from_value(json!({"fields": ["a", {"field": "b", "more": 1}]})).unwrap();
        assert_eq!(names(&request.fields), ["a", "b"]);
    }

    /// `docs/protocol.md` §9 point 2.
    #[test]
    fn cancel_takes_fields_and_data() {
        for key in ["fields", "data"] {
            let request: CancelRequest = from_value(json!({key: [{"field": "mgmt.firmware"}]})).unwrap();
            assert_eq!(names(&request.fields), ["mgmt.firmware"]);
        }
    }

    #[test]
    fn a_field_of_another_shape_is_refused() {
        for field in [json!(null), json!(1), json!({}), json!({"field": 1}), json!(["a"])] {
            assert!(from_value::<ObserveRequest>(json!({"fields": [field]})).is_err());
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// As the dispatch table gives it to a handler.
    fn decoded<A: Action>(request: &A::Request) -> A::Request
    where
        A::Request: Serialize,
    {
        let raw = serde_json::value::to_raw_value(request).unwrap();
        crate::Table::decode::<A>(Some(&raw)).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_body_is_decoded_as_it_was_written(
            pairs in prop::collection::vec((any::<String>(), value()), 0..5)
        ) {
            let fields: Vec<FieldName> =
                pairs.iter().map(|(field, _)| FieldName { field: field.clone() }).collect();
            let pairs = pairs.into_iter().map(|(field, value)| AttributeValue { field, value }).collect();
            let update = UpdateRequest { fields: pairs };
            prop_assert_eq!(decoded::<DeviceUpdate>(&update), update);
            let observe = ObserveRequest { fields: fields.clone() };
            prop_assert_eq!(decoded::<Observe>(&observe), observe);
            let cancel = CancelRequest { fields };
            prop_assert_eq!(decoded::<Cancel>(&cancel), cancel);
        }

        #[test]
        fn any_body_is_decoded_or_refused_with_400(d in value()) {
            let raw = serde_json::value::to_raw_value(&d).unwrap();
            let refusals = [
                crate::Table::decode::<DeviceUpdate>(Some(&raw)).err(),
                crate::Table::decode::<Observe>(Some(&raw)).err(),
                crate::Table::decode::<Cancel>(Some(&raw)).err(),
                crate::Table::decode::<Reboot>(Some(&raw)).err(),
            ];
            for refusal in refusals.into_iter().flatten() {
                prop_assert_eq!(refusal.rc(), crate::Code::BAD_REQUEST);
                prop_assert!(refusal.message().starts_with('d'), "{}", refusal);
            }
        }
    }
}
