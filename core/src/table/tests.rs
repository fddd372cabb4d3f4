use schemars::JsonSchema;
use serde::Deserialize;

use super::*;
use crate::action::Empty;
use crate::actions::{FactoryReset, Observe, Reboot};
use crate::reply::{Accepted, Finished};

mod bounds;
mod commands;

struct Device;

impl Handler<Reboot> for Device {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, _: &Context, _: &Empty) -> Result<Performed, Failure> {
        Ok(Performed::Complete)
    }
}

impl Handler<Observe> for Device {
    async fn handle(
        &self,
        _: &Context,
        _: &crate::ObserveRequest,
    ) -> Result<Finished<crate::actions::ObserveReply>, Refusal> {
        Err(Refusal::failed("never asked"))
    }
}

struct Dim;

#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
struct Level {
    percent: String,
    room: Option<String>,
}

impl Action for Dim {
    const ROUTE: Route = Route::custom("lamp", "dim");
    type Request = Level;
    type Reply = Finished<()>;
}

impl Handler<Dim> for Device {
    async fn handle(&self, _: &Context, _: &Level) -> Result<Finished<()>, Refusal> {
        Ok(Finished(()))
    }
}

fn check(d: &str, expected: Result<Level, &str>) {
    let raw = RawValue::from_string(d.into()).unwrap();
    let decoded = Table::decode::<Dim>(Some(&raw));
    assert_eq!(decoded.as_ref().map_err(Refusal::message), expected.as_ref().map_err(|text| *text), "{d}");
    if let Err(refusal) = decoded {
        assert_eq!(refusal.rc(), crate::Code::BAD_REQUEST);
    }
}

#[test]
fn the_parameters_of_a_custom_action_become_one_body() {
    check(
        r#"{"fields":[{"field":"percent","value":"40"},{"field":"other","value":1}]}"#,
        Ok(Level { percent: "40".into(), room: None }),
    );
}

/// Found by fuzzing: the refusal quoted all of a long text, escaped, and the answer was larger than a payload may be. The
/// platform got 500 "the answer is larger than 131072 bytes" for its own mistake.
#[test]
fn a_refusal_quotes_the_beginning_of_a_long_body() {
    let long = "é\u{7f}".repeat(10_000);
    for d in [
        format!("\"{long}\""),
        format!(r#"{{"fields":[{{"field":"percent","value":["{long}"]}}]}}"#),
        format!(r#"{{"fields":[{{"field":"{long}","value":1}}]}}"#),
    ] {
        let raw = RawValue::from_string(d).unwrap();
        for refusal in [
            body(&Dim::ROUTE, Some(&raw)).and_then(read::<BTreeMap<String, String>>).unwrap_err(),
            body(&Route::Reboot, Some(&raw)).and_then(read::<Vec<u8>>).unwrap_err(),
        ] {
            assert_eq!(refusal.rc(), crate::Code::BAD_REQUEST);
            assert!(refusal.message().starts_with('d'), "{refusal}");
            assert!(refusal.message().len() <= MAX_REASON_BYTES + '…'.len_utf8(), "{refusal}");
        }
    }
}

#[test]
fn a_body_that_does_not_fit_is_refused_with_its_place() {
    check("{}", Err("d: missing field `percent`"));
    check(r#""x""#, Err("d: expected an object with the list `fields`"));
    check(r#"{"fields":"x"}"#, Err("d.fields: expected a list of {field, value}"));
    check(r#"{"fields":[null]}"#, Err("d.fields[0]: expected {field, value}"));
    check(r#"{"fields":[{"field":"percent"}]}"#, Err("d.fields[0]: expected a text `field` and a `value`"));
    check(
        r#"{"fields":[{"field":"percent","value":40}]}"#,
        Err("d.percent: invalid type: integer `40`, expected a string"),
    );
    check(
        r#"{"fields":[{"field":"a","value":1},{"field":"a","value":2}]}"#,
        Err("d.fields[1]: this field stands twice"),
    );
}

#[test]
fn a_body_deeper_than_the_decoder_goes_is_refused() {
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let raw = RawValue::from_string(deep).unwrap();
    let refusal = body(&Route::Reboot, Some(&raw)).unwrap_err();
    assert!(refusal.message().contains("recursion limit"), "{refusal}");
}

#[test]
fn a_second_handler_for_a_route_is_refused() {
    let mut table = Table::new();
    table.on::<Reboot>(Device).unwrap();
    assert_eq!(table.on::<Reboot>(Device), Err(TableError::Duplicate(Route::Reboot)));
}

#[test]
fn the_routes_of_the_device_model_cannot_be_taken() {
    assert_eq!(Table::new().on::<Observe>(Device), Err(TableError::OwnRoute(Route::Observe)));
}

#[test]
fn an_action_with_ids_outside_the_grammar_is_refused() {
    let route = Route::Custom { bundle: "my lamp".into(), action: "dim".into() };
    let result = Table::new().on_route::<Dim>(route.clone(), Policy::of::<Dim>(), Device);
    assert_eq!(result, Err(TableError::Malformed(route)));
}

#[test]
fn supports_is_what_the_table_can_do() {
    let mut table = Table::new();
    assert_eq!(table.supports(), Supports::default());
    table.on::<Reboot>(Device).unwrap();
    table.on::<Dim>(Device).unwrap();
    let supports = table.supports();
    assert!(supports.device_actions && !supports.firmware_actions);
    assert_eq!(supports.bundles, BTreeMap::from([("lamp".to_owned(), true)]));
    assert!(table.handler(&FactoryReset::ROUTE).is_none());
}

#[test]
fn every_action_has_a_schema() {
    let mut table = Table::new();
    table.on::<Dim>(Device).unwrap();
    let schemas = table.schemas();
    let level = &schemas["mgmt/custom/lamp/dim"]["$defs"]["Level"];
    assert_eq!(level["properties"]["percent"]["type"], "string", "{schemas:#}");
}

#[test]
fn what_is_put_around_the_handlers_is_put_around_each_of_them() {
    let mut table = Table::new();
    table.on::<Reboot>(Device).unwrap();
    table.on::<Dim>(Device).unwrap();
    let seen = std::cell::RefCell::new(Vec::new());
    table.wrap(|route, handler| {
        seen.borrow_mut().push(route.clone());
        handler
    });
    assert_eq!(seen.into_inner(), [Route::Reboot, Dim::ROUTE]);
}

/// Bundles as a product has them: actions of the lamp, and one that cannot be replaced.
struct Lamp(&'static [&'static str]);

impl Bundle for Lamp {
    fn register(self, table: &mut Table) -> Result<(), TableError> {
        for action in self.0 {
            table.on_route::<Dim>(Route::custom("lamp", action), Policy::of::<Dim>(), Device)?;
        }
        Ok(())
    }
}

struct Restarting;

impl Bundle for Restarting {
    fn register(self, table: &mut Table) -> Result<(), TableError> {
        table.on::<Reboot>(Device)
    }
}

#[test]
fn replacing_takes_away_what_was_replaceable_and_nothing_else() {
    let mut table = Table::new();
    table.on::<Reboot>(Device).unwrap();
    table.with(Lamp(&["fixed"])).unwrap();
    table.replace(Lamp(&["dim", "blink"])).unwrap();
    table.replace(Lamp(&["dim", "glow"])).unwrap();
    let routes: Vec<String> = table.policies().map(|(route, _)| route.to_string()).collect();
    assert_eq!(
        routes,
        [
            "mgmt/initiate/device/reboot",
            "mgmt/custom/lamp/dim",
            "mgmt/custom/lamp/fixed",
            "mgmt/custom/lamp/glow"
        ]
    );
}

#[test]
fn a_replacement_that_cannot_be_registered_changes_nothing() {
    let mut table = Table::new();
    table.with(Lamp(&["fixed"])).unwrap();
    table.replace(Lamp(&["dim"])).unwrap();
    let before = format!("{table:?}");
    let route = |action| Route::custom("lamp", action);
    assert_eq!(table.replace(Lamp(&["glow", "fixed"])), Err(TableError::Duplicate(route("fixed"))));
    assert_eq!(table.replace(Lamp(&["glow", "glow"])), Err(TableError::Duplicate(route("glow"))));
    assert_eq!(table.replace(Restarting), Err(TableError::NotReplaceable(Route::Reboot)));
    assert_eq!(format!("{table:?}"), before);
}
