//! Laws that no product can break, because the agent keeps them: judged on records that were tampered with.

use std::time::Duration;

use iotdm_core::{Action, Empty, Finished, Handler, Interrupted, Late, Policy, Recovery, Refusal, Route};
use serde_json::{Value, json};

use crate::testing::Published;
use crate::testing::histories::Histories;
use crate::testing::histories::laws::work;
use crate::testing::histories::record::{Entry, Outcome, Part, Work};

use super::*;

struct Open;

impl Action for Open {
    const ROUTE: Route = Route::custom("door", "open");
    type Request = Empty;
    type Reply = Finished<()>;
}

struct Door;

impl Handler<Open> for Door {
    async fn handle(&self, _: &iotdm_core::Context, _: &Empty) -> Result<Finished<()>, Refusal> {
        Ok(Finished(()))
    }
}

/// A device that was managed and asked for nothing, and what happened then.
fn check(policy: impl FnOnce(&mut Policy), events: Vec<(u64, Event)>, law: &str) {
    let mut rules = Policy::of::<Open>();
    policy(&mut rules);
    let entry = |(minute, event)| Entry { at: Duration::from_secs(60 * minute), event };
    let record = Record {
        entries: events.into_iter().map(entry).collect(),
        policies: BTreeMap::from([(Open::ROUTE, rules)]),
        end: super::super::record::End { managed: true, ..Default::default() },
    };
    let found = judge(&record).map_err(|broken| broken.law);
    let expected = if law.is_empty() { Ok(()) } else { Err(law.to_owned()) };
    assert_eq!(found, expected, "{record}");
}

fn asked() -> Asked {
    Asked { req_id: "1".into(), route: Open::ROUTE, d: Value::Null }
}

fn began(attempt: u32) -> Event {
    Event::Started(Work { req_id: "1".into(), route: Open::ROUTE, part: Part::Handle, attempt })
}

fn ended() -> Event {
    let work = Work { req_id: "1".into(), route: Open::ROUTE, part: Part::Handle, attempt: 1 };
    Event::Returned(work, Outcome::Replied(200))
}

fn response(rc: u16) -> Published {
    Published {
        route: Some(UpRoute::Response),
        topic: "iotdevice-1/response".into(),
        body: json!({"rc": rc, "reqId": 1}),
        payload: bytes::Bytes::new(),
        qos: iotdm_core::Qos::AtLeastOnce,
    }
}

fn as_it_is(_: &mut Policy) {}

fn delivered() -> Vec<(u64, Event)> {
    vec![(0, Event::Sent(asked())), (0, Event::Delivered(asked())), (0, Event::Acknowledged(asked()))]
}

fn answered() -> Vec<(u64, Event)> {
    let rest = [began(1), ended(), Event::Published(response(200)), Event::Confirmed(response(200))];
    [delivered(), rest.map(|event| (0, event)).into()].concat()
}

fn and(mut events: Vec<(u64, Event)>, more: impl IntoIterator<Item = (u64, Event)>) -> Vec<(u64, Event)> {
    events.extend(more);
    events
}

#[test]
fn a_request_that_was_answered_breaks_no_law() {
    check(as_it_is, answered(), "");
}

#[test]
fn p1_p3_and_p4_want_an_answer_that_the_broker_has() {
    check(as_it_is, delivered(), "P3");
    check(as_it_is, and(delivered(), [(0, Event::Published(response(200)))]), "P3");
    // Another copy, and no answer after it.
    check(as_it_is, and(answered(), delivered()), "P3");
    // What a lost journal owed is owed no more.
    check(as_it_is, and(delivered(), [(1, Event::Damaged)]), "");
}

#[test]
fn p2_wants_the_same_answer_and_one_start() {
    let other = [Event::Published(response(500)), Event::Confirmed(response(500))].map(|event| (1, event));
    check(as_it_is, and(answered(), other.clone()), "P2");
    check(as_it_is, and(answered(), [(1, Event::Damaged)].into_iter().chain(other)), "");
    check(as_it_is, and(answered(), [(1, began(1))]), "P2");
    check(as_it_is, vec![(0, began(1))], "P2");
}

/// An action that appears while the broker has not acknowledged that it was missing: both answers may come again.
#[test]
fn p2_lets_an_answer_of_what_did_not_run_be_sent_again() {
    let missing = (0, Event::Published(response(501)));
    let late = and(and(delivered(), [missing.clone()]), answered());
    check(as_it_is, and(late.clone(), [missing, (0, Event::Published(response(200)))]), "");
    check(as_it_is, and(late, [(0, Event::Published(response(404)))]), "P2");
    // It ran before the journal was lost, and is missing after that.
    let lost = and(answered(), [(1, Event::Damaged), (1, Event::Published(response(501)))]);
    check(as_it_is, and(lost, answered()), "");
}

#[test]
fn p6_wants_no_more_starts_than_attempts() {
    let again = |policy: &mut Policy| policy.interrupted = Interrupted::RunAgain;
    let attempts = |count| (2..=count).map(|attempt| (0, began(attempt)));
    check(again, and(answered(), attempts(3)), "");
    check(again, and(answered(), attempts(4)), "P6");
}

#[test]
fn p8_wants_a_journal_that_follows_from_what_was_asked() {
    let end = super::super::record::End { managed: true, journal_bytes: 1_000_000, unacknowledged: 0 };
    let record = Record { end, ..Record::default() };
    assert_eq!(judge(&record).unwrap_err().law, "P8");
}

#[test]
fn p9_wants_nothing_to_begin_late() {
    let late = |policy: &mut Policy| policy.late = Late::RefuseAfter(Duration::from_secs(600));
    let begun = |minute| and(delivered(), [began(1), ended()].map(|event| (minute, event)));
    let whole = |minute| {
        let answer = [Event::Published(response(200)), Event::Confirmed(response(200))];
        and(begun(minute), answer.map(|event| (minute, event)))
    };
    check(late, whole(10), "");
    check(late, whole(11), "P9");
    check(as_it_is, whole(11), "");
}

/// What began in time may be brought to its end at any time, and nothing else may.
#[test]
fn p9_lets_work_end_that_its_handler_resumes() {
    let late = |policy: &mut Policy| {
        policy.late = Late::RefuseAfter(Duration::from_secs(600));
        policy.attempts = 3;
    };
    let the = |part, attempt| Work { req_id: "1".into(), route: Open::ROUTE, part, attempt };
    let judged = |recovery| Event::Returned(the(Part::Recover, 1), Outcome::Judged(recovery));
    let resumed = |recovery| {
        let interrupted = [(1, Event::Started(the(Part::AfterAck, 1))), (60, judged(recovery))];
        let resumed = [(60, Event::Started(the(Part::AfterAck, 2)))];
        and(and(delivered(), interrupted), resumed)
    };
    let found = |recovery| {
        let mut record = Record::default();
        let mut rules = Policy::of::<Open>();
        late(&mut rules);
        record.policies = BTreeMap::from([(Open::ROUTE, rules)]);
        let entry = |(minute, event)| Entry { at: Duration::from_secs(60 * minute), event };
        record.entries = resumed(recovery).into_iter().map(entry).collect();
        work::judge(&record).map_err(|broken| broken.law)
    };
    assert_eq!(found(Recovery::Resume), Ok(()));
    assert_eq!(found(Recovery::RunAgain), Err("P9".to_owned()));
}

#[test]
fn p10_wants_an_agent_that_lives_and_repeats_nothing_it_may_have_done() {
    check(as_it_is, and(answered(), [(1, Event::Ended("of itself".into()))]), "P10");
    assert_eq!(judge(&Record::default()).unwrap_err().law, "P10", "it is not managed");
    let again = and(answered(), [(1, Event::Damaged)]);
    check(as_it_is, and(again.clone(), [(1, began(1))]), "P10");
    // Sent again after the loss, it is another request.
    check(as_it_is, and(again, answered()), "");
}

#[test]
fn a_quiet_device_is_quiet() {
    check(as_it_is, and(answered(), [(1, Event::Quiet), (2, Event::Connected)]), "quiet");
    check(as_it_is, and(answered(), [(1, Event::Connected), (2, Event::Quiet)]), "");
}

#[test]
fn what_was_asked_of_a_right_product_leaves_a_record_that_can_be_read() {
    let histories =
        Histories::of(|_| (), |(), builder| builder.on::<Open>(Door)).request(1, Open::ROUTE, Value::Null);
    let record = histories.record(3);
    let text = record.to_string();
    assert!(text.contains("platform: mgmt/custom/door/open") && text.contains("--- calm"), "{text}");
    assert_eq!(judge(&record), Ok(()));
}
