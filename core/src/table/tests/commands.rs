//! Commands in the table: who takes which, what is refused at registration, what is subscribed to.

use std::time::Duration;

use super::*;
use crate::command::{Acknowledge, Command, CommandMessage, Json, LONGEST_HANDLED, OnCommand, Received};

/// A command that is declared by its type parameters alone.
struct Any;
struct Colour;
struct AnyText;

#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
struct Wanted {
    #[schemars(range(max = 100))]
    percent: u8,
}

impl Command for Any {
    const ID: &str = "+";
    const FORMAT: &str = "+";
    type Payload = Vec<u8>;
}

impl Command for AnyText {
    const ID: &str = "+";
    const FORMAT: &str = "text";
    type Payload = String;
}

impl Command for Colour {
    const ID: &str = "colour";
    type Payload = Json<Wanted>;
}

impl<C: Command> OnCommand<C> for Device {
    async fn on_command(&self, _: &Context, _: &Received<C::Payload>) -> Result<(), Failure> {
        Ok(())
    }
}

fn told(id: &str, format: &str, payload: &[u8]) -> (Route, Box<RawValue>) {
    let message = CommandMessage { id: id.into(), format: format.into(), payload: payload.into() };
    (Route::command(id, format), message.to_raw())
}

fn checked(table: &Table, id: &str, format: &str, payload: &[u8]) -> Result<(), String> {
    let (route, d) = told(id, format, payload);
    table.check(&route, Some(&d)).map_err(|refusal| refusal.message().to_owned())
}

#[test]
fn the_most_specific_handler_takes_a_command() {
    let mut table = Table::new();
    table.on_command::<Any>(Device).unwrap();
    table.on_command::<AnyText>(Device).unwrap();
    table.on_command::<Colour>(Device).unwrap();
    let not_text = [0xff];
    assert_eq!(
        checked(&table, "colour", "json", &not_text).unwrap_err(),
        "expected value at line 1 column 1"
    );
    assert!(checked(&table, "x", "text", &not_text).unwrap_err().starts_with("no UTF-8"));
    assert_eq!(checked(&table, "x", "json", &not_text), Ok(()));
    assert_eq!(checked(&table, "colour", "raw", &not_text), Ok(()));
}

#[test]
fn a_command_that_nobody_declared_has_no_handler() {
    let mut table = Table::new();
    table.on_command::<Colour>(Device).unwrap();
    assert!(table.handler(&Route::command("colour", "text")).is_none());
    assert!(table.handler(&Route::command("other", "json")).is_none());
}

#[test]
fn what_the_schema_of_a_payload_says_is_enforced() {
    let mut table = Table::new();
    table.on_command::<Colour>(Device).unwrap();
    assert_eq!(checked(&table, "colour", "json", br#"{"percent": 40}"#), Ok(()));
    let refused = checked(&table, "colour", "json", br#"{"percent": 140}"#).unwrap_err();
    assert!(refused.contains("140 is more than 100"), "{refused}");
    assert!(checked(&table, "colour", "json", b"{}").unwrap_err().contains("percent"));
}

#[test]
fn two_handlers_of_one_command_are_refused() {
    let mut table = Table::new();
    table.on_command::<Colour>(Device).unwrap();
    assert_eq!(
        table.on_command::<Colour>(Device),
        Err(TableError::Duplicate(Route::command("colour", "json")))
    );
}

fn refused(route: Route, change: impl FnOnce(&mut Policy)) -> String {
    let mut policy = Policy::of_command::<Any>();
    change(&mut policy);
    Table::new().on_command_route::<Any>(route, policy, Device).unwrap_err().to_string()
}

#[test]
fn a_registration_that_cannot_be_right_says_what_would_be() {
    for id in ["", "a/b", "a+", "#", "a#", &"x".repeat(1025)] {
        let error = refused(Route::command(id, "json"), |_| ());
        assert!(error.contains("one level of a topic"), "{error}");
    }
    let slow = |policy: &mut Policy| {
        policy.acknowledge = Acknowledge::Handled;
        policy.budget = LONGEST_HANDLED + Duration::from_millis(1);
    };
    let error = refused(Route::command("a", "json"), slow);
    assert!(error.contains("no longer than 60s"), "{error}");
    assert!(refused(Route::Reboot, |_| ()).contains("is no route"));
}

#[test]
fn no_more_commands_are_taken_than_one_subscription_may_have() {
    let mut table = Table::new();
    let mut one_more = |number: usize| {
        let route = Route::command(&format!("c{number}"), "json");
        table.on_command_route::<Any>(route, Policy::of_command::<Any>(), Device)
    };
    for number in 0..crate::MAX_COMMAND_FILTERS {
        one_more(number).unwrap();
    }
    let error = one_more(crate::MAX_COMMAND_FILTERS).unwrap_err().to_string();
    assert!(error.contains("64 commands at the most"), "{error}");
}

#[test]
fn each_command_is_subscribed_to_once() {
    let mut table = Table::new();
    assert_eq!(table.command_filters(), [""; 0]);
    table.on_command::<Colour>(Device).unwrap();
    table.on_command::<AnyText>(Device).unwrap();
    assert_eq!(table.command_filters(), ["iot-2/cmd/+/fmt/text", "iot-2/cmd/colour/fmt/json"]);
    table.on_command::<Any>(Device).unwrap();
    assert_eq!(table.command_filters(), ["iot-2/cmd/+/fmt/+"]);
}

#[test]
fn commands_claim_nothing_in_manage() {
    let mut table = Table::new();
    table.on_command::<Any>(Device).unwrap();
    let supports = table.supports();
    assert!(!supports.device_actions && !supports.firmware_actions && supports.bundles.is_empty());
    assert!(table.extension_packages().is_empty());
}

#[test]
fn commands_are_not_replaced_while_the_agent_runs() {
    struct Commands;
    impl Bundle for Commands {
        fn register(self, table: &mut Table) -> Result<(), TableError> {
            table.on_command::<Colour>(Device)
        }
    }
    let error = Table::new().replace(Commands).unwrap_err();
    assert_eq!(error, TableError::NotReplaceable(Route::command("colour", "json")));
}
