//! Where the sources of the protocol disagree: what is accepted, and the one form that is emitted.
//!
//! One row for each point of `docs/protocol.md` §9, with the tests that show it. A name after `::` alone is a test in
//! this module.
//!
//! | point | tests |
//! |---|---|
//! | 1 | `core/src/actions.rs::observe_takes_texts_and_objects_also_mixed`, `platform/src/platform/request.rs::requests_have_the_documented_bodies` |
//! | 2 | `core/src/actions.rs::cancel_takes_fields_and_data` |
//! | 3 | `::a_notify_is_an_array_with_a_req_id_so_that_a_404_is_noticed`, `platform/src/platform/tests.rs::requests_of_devices_are_answered_by_the_book` |
//! | 4 | `::a_code_is_taken_as_a_decimal_string_and_sent_as_an_integer` |
//! | 5 | `::zero_is_taken_as_success_and_never_sent` |
//! | 6 | `::firmware_that_is_not_supported_is_501` |
//! | 7 | `::the_answer_to_observe_always_has_the_true_value` |
//! | 8 | `::the_observe_before_an_update_is_answered_with_state_2` |
//! | 9 | `::an_update_needs_state_2_also_after_a_restart` |
//! | 10 | `::parameters_of_an_update_keep_the_image_unless_they_name_another`, `agent/src/engine/model.rs::parameters_for_the_same_image_leave_its_state_alone` |
//! | 11 | `::without_a_uri_the_stored_one_counts_and_without_any_it_is_400` |
//! | 12 | `::device_update_is_answered_exactly_when_it_has_a_req_id` |
//! | 13 | `::an_update_that_changes_nothing_is_204` |
//! | 14 | `::a_gateways_topics_have_no_final_slash`, `agent/src/agent/gateway.rs::a_gateway_subscribes_once_for_all_of_its_devices` |
//! | 15 | `::a_device_subscribes_to_all_of_its_topics_once` |
//! | 16 | `tests/tests/pipeline/sessions.rs::a_product_leaves_management_and_comes_back` |
//! | 17 | `::a_reboot_is_answered_first_and_a_custom_action_worked_first` |
//! | 18 | `::the_wire_says_factory_reset` |
//! | 19 | `::url_is_taken_and_uri_is_sent` |
//! | 20 | `::log_data_is_sent_as_data` |
//! | 21 | `::how_sure_a_location_is_is_sent_as_accuracy` |
//! | 22 | `::what_is_supported_is_sent_as_booleans`, `platform/src/track/tests.rs::a_manage_is_read_as_tolerantly_as_the_sources_differ` |
//! | 23 | `::times_of_any_zone_are_taken`, `core/src/report.rs::times_are_utc_with_z_and_milliseconds` |
//! | 24 | `::log_data_is_shortened_until_the_message_fits`, `agent/src/engine/tests/model.rs::an_attribute_that_would_not_fit_a_message_is_refused` |
//! | 25 | a setting, no behaviour: `agent/src/program/config/tests.rs::the_port_follows_tls_unless_it_is_given` |
//! | 26 | a setting: `agent/src/program/config/tests.rs::an_identity_is_enough_and_the_rest_has_defaults`; what it is for: `tests/tests/network/main.rs::what_was_sent_during_an_outage_of_three_hours_is_answered_after_it` |
//! | 27 | `::a_duplicate_is_known_by_its_req_id_alone` |

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

mod firmware;
mod messages;
mod reports;

/// The rows of the table above: a point, and what stands beside it.
fn rows() -> Vec<(u32, &'static str)> {
    let rows = include_str!("disagreements.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
    let cells = rows.filter_map(|row| row.trim_end_matches(" |").split_once(" | "));
    cells.filter_map(|(point, tests)| Some((point.parse().ok()?, tests))).collect()
}

/// The points of §9, by number.
fn points() -> BTreeSet<u32> {
    let protocol = read("docs/protocol.md");
    let section = protocol.split_once("\n## 9.").expect("docs/protocol.md has a section 9").1;
    let section = section.split("\n## ").next().expect("a split has a first part");
    let numbers = section.lines().filter_map(|line| line.split_once(". **"));
    numbers.filter_map(|(number, _)| number.parse().ok()).collect()
}

fn read(path: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = tests.parent().expect("the tests have a folder of their own in the repository");
    fs::read_to_string(root.join(path)).unwrap_or_else(|reason| panic!("{path}: {reason}"))
}

#[test]
fn every_point_has_one_row_and_every_row_a_point() {
    let numbers: Vec<u32> = rows().iter().map(|(point, _)| *point).collect();
    assert!(numbers.len() >= 27, "the table was not found");
    assert_eq!(numbers, points().into_iter().collect::<Vec<u32>>());
}

#[test]
fn every_row_names_tests_that_exist_and_those_of_this_module_cite_their_point() {
    let here = ["firmware", "messages", "reports"]
        .map(|name| read(&format!("tests/tests/pipeline/disagreements/{name}.rs")))
        .concat();
    let mut problems = Vec::new();
    for (point, cell) in rows() {
        let mut named = 0;
        for test in cell.split('`').skip(1).step_by(2) {
            let Some((path, name)) = test.split_once("::") else { continue };
            named += 1;
            let definition = format!("fn {name}(");
            let found = if path.is_empty() {
                let mut tests = here.split("\n/// ").filter(|text| text.contains(&definition));
                tests.any(|text| text.starts_with(&format!("`docs/protocol.md` §9 point {point}.\n")))
            } else {
                read(path).contains(&definition)
            };
            if !found {
                problems.push(format!("point {point}: there is no {test} that cites it"));
            }
        }
        if named == 0 {
            problems.push(format!("point {point}: no test is named"));
        }
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}
