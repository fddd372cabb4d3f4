use super::*;

const KEY: KeyHash = KeyHash([1; 16]);

fn sent_answer() -> (Outbox, PublishId, u64) {
    let mut outbox = Outbox::default();
    let place = outbox.answer_due(KEY).unwrap();
    let id = outbox.mark_sent(place, None);
    (outbox, id, place)
}

#[test]
fn an_unsent_answer_is_not_queued_twice() {
    let mut outbox = Outbox::default();
    assert!(outbox.answer_due(KEY).is_some());
    assert!(outbox.answer_due(KEY).is_none());
    assert_eq!(outbox.answers(), 1);
}

#[test]
fn an_answer_that_becomes_due_on_its_way_goes_once_more() {
    let (mut outbox, id, place) = sent_answer();
    assert!(outbox.answer_due(KEY).is_none());
    assert_eq!(outbox.acknowledged(id), Sent::Other);
    assert_eq!(outbox.next_unsent(false), Some(place));
    let again = outbox.mark_sent(place, None);
    assert_eq!(outbox.acknowledged(again), Sent::Answer(KEY, place));
}

#[test]
fn an_acknowledgement_of_an_old_connection_ends_nothing() {
    let (mut outbox, id, place) = sent_answer();
    outbox.disconnected();
    assert_eq!(outbox.acknowledged(id), Sent::Other);
    assert_eq!(outbox.next_unsent(false), Some(place));
}

#[test]
fn a_notification_takes_the_newest_place_and_keeps_one_on_its_way_apart() {
    let mut outbox = Outbox::default();
    let (first, _) = outbox.notify_due("a".into(), 1);
    let (second, left) = outbox.notify_due("a".into(), 1);
    assert_eq!(left, [first]);
    outbox.remove(first);
    outbox.mark_sent(second, Some(ReqId::from_text("x")));
    let (third, left) = outbox.notify_due("a".into(), 1);
    assert!(left.is_empty());
    outbox.disconnected();
    assert_eq!(outbox.superseded(), [second]);
    assert_eq!(outbox.unsent_notify("a"), Some(third));
}

#[test]
fn own_requests_wait_and_answers_do_not() {
    let mut outbox = Outbox::default();
    let own = outbox.push(Item::Report(Report::ClearLog));
    let answer = outbox.answer_due(KEY).unwrap();
    assert_eq!(outbox.next_unsent(false), Some(answer));
    assert_eq!(outbox.next_unsent(true), Some(own));
}

#[test]
fn the_window_is_counted_from_the_oldest() {
    let mut outbox = Outbox::default();
    let ids: Vec<_> = (0..WINDOW).map(|_| outbox.publish_other()).collect();
    assert!(!outbox.window_open());
    outbox.acknowledged(ids[5]);
    assert!(!outbox.window_open());
    outbox.acknowledged(ids[0]);
    assert!(outbox.window_open());
}
