//! P8: everything is bounded.

use serde_json::json;

use super::world::*;

#[test]
fn the_request_after_1024_that_wait_is_answered_409_and_acknowledged() {
    let mut world = World::new();
    for n in 0..1024 {
        world.deliver(&format!("r{n}"), once());
    }
    assert!(world.is_acked("r1023"));
    world.assert_unanswered("r1023");
    world.deliver("r1024", once());
    world.assert_answer("r1024", 409);
    assert!(world.is_acked("r1024"));
    world.decide("r0", yes(200));
    world.deliver("r1025", once());
    world.assert_unanswered("r1025");
    world.deliver("r1024", once());
    world.assert_same_answers("r1024", 2);
}

#[test]
fn at_the_bound_of_the_outbox_nothing_is_acknowledged_and_the_window_closes() {
    let mut world = World::with(|settings| settings.limits.outbox = 4);
    world.broker.pubacks = false;
    for n in 0..40 {
        world.send(&format!("r{n}"), Ask::new("nonsense"));
    }
    world.run();
    assert!(world.is_acked("r3") && !world.is_acked("r4"));
    assert_eq!(world.broker.unacknowledged(), 36);
    world.puback();
    for n in 0..40 {
        let id = format!("r{n}");
        assert!(world.is_acked(&id));
        world.assert_answer(&id, 404);
    }
    let order: Vec<_> =
        world.broker.on("response").iter().map(|r| r["reqId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(order, (0..40).map(|n| format!("r{n}")).collect::<Vec<_>>());
}

#[test]
fn what_was_deferred_comes_again_on_the_next_connection() {
    let mut world = World::with(|settings| settings.limits.outbox = 4);
    world.broker.pubacks = false;
    for n in 0..30 {
        world.send(&format!("r{n}"), once());
    }
    for n in 0..5 {
        world.send(&format!("x{n}"), Ask::new("nonsense"));
    }
    world.send("last", once());
    world.run();
    assert_eq!(world.runs("last"), 0);
    world.restart();
    world.broker.pubacks = true;
    world.flap();
    assert_eq!(world.runs("last"), 1);
    assert!(world.is_acked("last"));
}

/// The device's own requests need responses, which arrive in the same queue as everything else.
#[test]
fn own_requests_alone_never_close_the_window() {
    let mut world = World::with(|settings| settings.limits.outbox = 4);
    world.go_offline();
    for code in 0..20 {
        world.input(crate::engine::Input::Report(iotdm_core::Report::AddErrorCode(code), None));
    }
    world.reconnect();
    assert!(world.engine().is_managed());
    assert_eq!(world.engine().outbox.len(), 0);
}

#[test]
fn a_flood_of_garbage_is_counted_and_writes_nothing() {
    let mut world = World::new();
    let commits = world.commits;
    for _ in 0..5000 {
        world.deliver_raw("iotdm-1/observe", "hello");
    }
    assert_eq!(world.engine().counters()["unreadable payload"], 5000);
    assert_eq!(world.commits, commits);
}

#[test]
fn attributes_of_the_product_are_bounded() {
    let mut world = World::new();
    for n in 0..400 {
        let change = vec![(format!("a{n}"), serde_json::json!(n))];
        world.input(crate::engine::Input::SetAttributes(change, None));
    }
    assert_eq!(world.engine().model().attributes().count(), 256);
}

#[test]
fn the_journal_shrinks_when_its_answers_are_pruned() {
    let mut world = World::with(|settings| settings.limits.kept_executed = 10);
    for n in 0..100 {
        world.deliver(&format!("r{n}"), once());
        world.decide(&format!("r{n}"), yes(200));
    }
    assert_eq!(world.engine().kept(), 10);
    let requests = world.disk.entries().keys().filter(|key| key[0] == b'r').count();
    assert!(requests <= 12, "{requests}");
}

#[test]
fn publishes_on_their_way_are_bounded() {
    let mut world = World::new();
    world.broker.pubacks = false;
    let before = world.broker.received.len();
    for n in 0..200 {
        world.deliver(&format!("r{n}"), Ask::new("nonsense"));
    }
    assert_eq!(world.broker.received.len() - before, 64);
    world.puback();
    assert_eq!(world.broker.received.len() - before, 200);
}

/// What cannot be read back would count as damage at the next start, and cost the whole journal.
#[test]
fn an_attribute_too_deep_to_be_read_back_is_not_kept() {
    let mut world = World::new();
    let deep = (0..130).fold(serde_json::json!(1), |inner, _| serde_json::json!([inner]));
    world.input(crate::engine::Input::SetAttributes(vec![("deep".into(), deep)], None));
    world.restart();
    assert_eq!(world.disk.set_aside_names().len(), 0);
    assert!(world.engine().model().read("deep").is_none());
}

/// Each answer may have 128 KiB, and 4096 of them may wait.
#[test]
fn answers_that_wait_are_bounded_in_bytes_and_not_only_in_number() {
    let mut world = World::new();
    world.broker.window = 1000;
    world.broker.pubacks = false;
    let fields: Vec<String> = (0..3000).map(|n| format!("{{\"field\":\"nothing{n:020}\"}}")).collect();
    for n in 0..200 {
        world.deliver_raw("iotdm-1/nonsense", format!("{{\"reqId\":[{n},\"{}\"]}}", "x".repeat(120_000)));
        let body = format!("{{\"reqId\":\"o{n}\",\"d\":{{\"fields\":[{}]}}}}", fields.join(","));
        world.deliver_raw("iotdm-1/observe", body);
    }
    assert!(world.disk.bytes() < 9 << 20, "{} bytes in the journal", world.disk.bytes());
    assert!(world.broker.unacknowledged() > 0);
    // The bound outlives a restart, and ends with the acknowledgements.
    world.restart();
    world.pass(minutes(2));
    assert!(world.disk.bytes() < 9 << 20, "{} bytes in the journal", world.disk.bytes());
    world.puback();
    world.pass(minutes(10));
    assert_eq!(world.broker.unacknowledged(), 0);
}

/// A session that is resumed delivers before SUBACK, and answers leave after it: a connection that were ended for what
/// a window holds would be ended for ever.
#[test]
fn a_window_of_large_messages_gets_through_while_the_outbox_is_full() {
    let mut world = World::with(|settings| settings.limits.outbox = 4);
    world.broker.pubacks = false;
    world.broker.window = 40;
    for n in 0..4 {
        world.deliver(&format!("r{n}"), Ask::new("nonsense"));
    }
    world.go_offline();
    for n in 0..40 {
        world.send(&format!("large{n}"), once().body(json!("x".repeat(131_000))));
    }
    world.reconnect();
    let connections = world.broker.connections;
    world.puback();
    world.pass(minutes(10));
    assert_eq!((world.broker.unacknowledged(), world.broker.connections), (0, connections));
}
