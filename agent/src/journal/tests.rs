use std::time::Duration;

use iotdm_core::{BootId, LogEntry, Report, Severity};
use proptest::prelude::*;
use serde_json::json;
use serde_json::value::RawValue;

use crate::engine::{Age, Now};
use crate::store::{CrashOutcome, MemoryDisk, StoreSource};

use super::*;

const IDENTITY: &str = "d:org:type:id";

fn key(n: u8) -> KeyHash {
    KeyHash([n; 16])
}

fn raw(text: impl Into<String>) -> Box<RawValue> {
    RawValue::from_string(text.into()).unwrap()
}

fn moment() -> Moment {
    let now = Now {
        monotonic: Duration::ZERO,
        uptime: Duration::from_millis(1500),
        wall: Duration::from_secs(1_794_182_400),
    };
    Moment::at(now, &BootId("boot".into()))
}

fn open_request(d: Option<Box<RawValue>>, stage: StageRecord) -> Box<OpenRequest> {
    Box::new(OpenRequest {
        sequence: 7,
        subject: String::new(),
        req_id: raw("\"r1\""),
        route: "mgmt/initiate/device/reboot".into(),
        d,
        fingerprint: [3; 16],
        attempt: 2,
        arrived: moment(),
        age: Age::AtMostMs(5),
        works: false,
        stage,
    })
}

fn done_request(answer: AnswerRecord) -> Box<DoneRequest> {
    Box::new(DoneRequest {
        sequence: 9,
        subject: "type/T/id/d/".into(),
        fingerprint: [4; 16],
        class: Class::Executed,
        answer,
        failure: Some("broken".into()),
    })
}

fn stored(bytes: usize) -> Write {
    Write::Done(key(1), done_request(AnswerRecord::Stored(raw(format!("\"{}\"", "x".repeat(bytes))))))
}

/// One of everything that can stand in a journal.
fn one_of_each() -> Vec<Write> {
    let response = || raw(r#"{"rc":202,"reqId":"r1"}"#);
    let entry =
        LogEntry { message: "m".into(), timestamp: "t".into(), data: None, severity: Severity::Error };
    vec![
        Write::Open(key(1), open_request(None, StageRecord::Recorded { started: false })),
        Write::Open(key(2), open_request(Some(raw("[ 1.50 ]")), StageRecord::Recorded { started: true })),
        Write::Open(
            key(3),
            open_request(None, StageRecord::Settled { response: response(), boot: "b".into() }),
        ),
        Write::Open(
            key(4),
            open_request(None, StageRecord::Performing { response: response(), boot: "b".into() }),
        ),
        Write::Done(key(5), done_request(AnswerRecord::Stored(response()))),
        Write::Done(
            key(6),
            done_request(AnswerRecord::Observed { req_id: raw("7"), fields: vec!["a".into()] }),
        ),
        Write::Queue(1, Queued::Answer([5; 16])),
        Write::Queue(2, Queued::Notify { field: "a".into(), generation: 3 }),
        Write::Queue(3, Queued::Report(Report::AddLog(entry))),
        Write::Attribute("metadata".into(), json!({"a": [null, 1.5, "x"]})),
        Write::Observe("level".into(), 12),
        Write::Quarantine(false),
        Write::Mark(moment()),
    ]
}

fn open(disk: &MemoryDisk) -> Result<(Journal, Found, Vec<String>), JournalError> {
    let mut entries = Vec::new();
    let store = disk.clone().open()?;
    let (journal, found) = Journal::open(store, IDENTITY, |entry| entries.push(format!("{entry:?}")))?;
    entries.sort();
    Ok((journal, found, entries))
}

fn written(writes: &[Write]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let (mut journal, _, _) = open(&disk).unwrap();
    journal.commit(writes).unwrap();
    disk
}

fn shown(writes: &[Write]) -> Vec<String> {
    let mut shown: Vec<String> = writes.iter().map(|write| format!("{write:?}")).collect();
    shown.sort();
    shown
}

/// What stands in the journal after these commits, besides the quarantine of a fresh one.
fn check_content(commits: &[&[Write]], expected: &[Write]) {
    let disk = MemoryDisk::new();
    let (mut journal, _, _) = open(&disk).unwrap();
    for writes in commits {
        journal.commit(writes).unwrap();
    }
    let expected: Vec<Write> = expected.iter().cloned().chain([Write::Quarantine(true)]).collect();
    assert_eq!(open(&disk).unwrap().2, shown(&expected));
    assert!(disk.entries().values().all(|value| value.len() <= MAX_VALUE_BYTES));
}

#[test]
fn every_kind_of_record_is_read_back_as_it_was_written() {
    let (_, found, entries) = open(&written(&one_of_each())).unwrap();
    assert_eq!((found, entries), (Found::Journal, shown(&one_of_each())));
}

fn event(payload: &[u8], at_most_once: bool) -> Box<EventRecord> {
    let payload = bytes::Bytes::copy_from_slice(payload);
    Box::new(EventRecord { topic: "iot-2/evt/e/fmt/f".into(), payload, at_most_once })
}

#[test]
fn events_of_any_bytes_are_read_back_as_they_were_written_and_go_when_they_are_taken_away() {
    let bytes: Vec<u8> = (0..=255).cycle().take(131_072).collect();
    let payloads: [&[u8]; 5] = [b"", br#"{"a":[1.50, "\u00e9"]}"#, "é\n".as_bytes(), b"\x00\xff", &bytes];
    let writes: Vec<Write> =
        (7..).zip(payloads).map(|(place, p)| Write::Event(place, event(p, place == 8))).collect();
    check_content(&[&writes], &writes);
    let gone: Vec<Write> = (7..12).map(Write::EventGone).collect();
    check_content(&[&writes, &gone], &[]);
}

/// A firmware that is rolled back still reads the journal, and leaves the events in it alone.
#[test]
fn an_event_stands_in_the_journal_as_an_attribute_of_format_1() {
    let disk = written(&[Write::Event(7, event(b"21.5", false))]);
    let key = numbered(&named(space::ATTRIBUTE, "agent.event/7"), 0);
    let entries = disk.entries();
    let value = &entries[&key];
    assert_eq!(value[0], 1);
    let (name, value) = parsed::<(String, Value)>(checked(value).unwrap()).unwrap();
    assert_eq!(name, "agent.event/7");
    assert_eq!(value, json!({"t": "iot-2/evt/e/fmt/f", "p": {"t": "21.5"}}));
}

#[test]
fn an_attribute_that_is_named_like_an_event_and_is_none_stays_an_attribute() {
    for (name, value) in [
        ("agent.event/7", json!({"t": "x"})),
        ("agent.event/7", json!({"t": "x", "p": {"b": "no base64"}})),
        ("agent.event/x", json!({"t": "x", "p": {"t": "x"}})),
    ] {
        let writes = [Write::Attribute(name.into(), value)];
        check_content(&[&writes], &writes);
    }
}

#[test]
fn a_fresh_journal_is_in_quarantine_durably() {
    let disk = MemoryDisk::new();
    let quarantine = shown(&[Write::Quarantine(true)]);
    let (_, found, entries) = open(&disk).unwrap();
    assert_eq!((found, &entries), (Found::Nothing, &quarantine));
    let (_, found, entries) = open(&disk).unwrap();
    assert_eq!((found, &entries), (Found::Journal, &quarantine));
}

#[test]
fn opening_proves_that_the_disk_can_be_written() {
    let disk = written(&one_of_each());
    disk.disk_full(true);
    assert!(matches!(open(&disk), Err(JournalError::Store(_))));
    disk.disk_full(false);
    assert_eq!(open(&disk).unwrap().2, shown(&one_of_each()));
}

#[test]
fn what_is_taken_away_is_gone() {
    let taken_away = [
        Write::Forget(key(1)),
        Write::Forget(key(2)),
        Write::Forget(key(3)),
        Write::Forget(key(4)),
        Write::Forget(key(5)),
        Write::Forget(key(6)),
        Write::Unqueue(1),
        Write::Unqueue(2),
        Write::Unqueue(3),
        Write::Unobserve("level".into()),
    ];
    let left = [Write::Attribute("metadata".into(), json!({"a": [null, 1.5, "x"]})), Write::Mark(moment())];
    let mut all = one_of_each();
    all.retain(|write| !matches!(write, Write::Quarantine(_)));
    check_content(&[&all, &taken_away], &left);
    // What is not there can be taken away, too.
    check_content(&[&taken_away], &[]);
    let long = Write::Attribute("gone".into(), json!("x".repeat(9000)));
    check_content(&[&[long], &[Write::Unset("gone".into())]], &[]);
}

#[test]
fn a_record_may_grow_beyond_one_value_and_shrink_again() {
    let sizes = [10, 4000, 4096, 4097, 9000, 130_000, 9000, 8000, 4000, 10];
    for pair in sizes.windows(2) {
        check_content(&[&[stored(pair[0])], &[stored(pair[1])]], &[stored(pair[1])]);
        check_content(&[&[stored(pair[0]), stored(pair[1])]], &[stored(pair[1])]);
    }
}

#[test]
fn a_record_that_shrinks_after_reopening_leaves_no_part_behind() {
    let disk = written(&[stored(50_000)]);
    let parts = disk.entries().len();
    let (mut journal, _, _) = open(&disk).unwrap();
    journal.commit(&[stored(5000)]).unwrap();
    assert!(disk.entries().len() < parts - 8);
    assert!(open(&disk).unwrap().2.contains(&format!("{:?}", stored(5000))));
}

#[test]
fn forgetting_removes_every_part() {
    for reopened in [false, true] {
        let disk = MemoryDisk::new();
        let (mut journal, _, _) = open(&disk).unwrap();
        let before = disk.entries();
        journal.commit(&[stored(100_000)]).unwrap();
        if reopened {
            journal = open(&disk).unwrap().0;
        }
        journal.commit(&[Write::Forget(key(1))]).unwrap();
        assert_eq!(disk.entries(), before);
    }
}

#[test]
fn a_part_that_is_missing_is_damage() {
    for lost in 0..4_u16 {
        let disk = written(&[stored(15_000)]);
        let part = numbered(&keyed(space::OPEN_OR_DONE, &key(1).0), lost);
        disk.clone().open().unwrap().commit(&[Change::Remove { key: part }]).unwrap();
        assert!(open(&disk).unwrap_err().is_damage(), "part {lost}");
    }
}

#[test]
fn damage_to_any_byte_of_a_record_is_noticed() {
    let disk = written(&[Write::Mark(moment())]);
    let mark = numbered(&[space::MARK], 0);
    let good = disk.entries()[&mark].clone();
    for index in 0..good.len() {
        for flip in [1, 0x80] {
            let mut value = good.clone();
            value[index] ^= flip;
            disk.clone().open().unwrap().commit(&[Change::Put { key: mark.clone(), value }]).unwrap();
            let error = open(&disk).unwrap_err();
            assert!(error.is_damage(), "byte {index}: {error}");
        }
    }
    for length in 0..good.len() {
        let value = good[..length].to_vec();
        disk.clone().open().unwrap().commit(&[Change::Put { key: mark.clone(), value }]).unwrap();
        assert!(open(&disk).unwrap_err().is_damage(), "{length} bytes");
    }
}

#[test]
fn a_key_of_no_known_kind_is_damage() {
    for key in [&b"z\0\0"[..], b"q\0\0", b"m", b"rxx\0\0"] {
        let disk = written(&[]);
        let change = Change::Put { key: key.to_vec(), value: encode(&7) };
        disk.clone().open().unwrap().commit(&[change]).unwrap();
        assert!(open(&disk).unwrap_err().is_damage(), "{key:?}");
    }
}

#[test]
fn a_newer_format_is_refused_by_name_and_left_alone() {
    let disk = written(&one_of_each());
    let mut value = vec![FORMAT + 1, 0, 0, 0, 0];
    value.extend_from_slice(b"what a newer program writes");
    let checksum = checksum(&value);
    value[1..HEADER_BYTES].copy_from_slice(&checksum);
    let change = Change::Put { key: numbered(&[space::MARK], 0), value };
    disk.clone().open().unwrap().commit(&[change]).unwrap();
    let before = disk.entries();
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, JournalError::NewerFormat { found: 2 }), "{error}");
    assert!(!error.is_damage() && error.to_string().contains("format 2"));
    assert_eq!(disk.entries(), before);
}

#[test]
fn the_journal_of_another_device_is_refused_and_left_alone() {
    let disk = written(&one_of_each());
    let before = disk.entries();
    let error = Journal::open(disk.clone().open().unwrap(), "d:org:type:other", |_| {}).unwrap_err();
    assert!(matches!(&error, JournalError::Identity { found, .. } if found == IDENTITY), "{error}");
    assert!(!error.is_damage());
    assert_eq!(disk.entries(), before);
}

#[test]
fn a_failed_commit_leaves_all_or_nothing() {
    for (outcome, expected) in [
        (CrashOutcome::Applied, vec![stored(9000), Write::Observe("a".into(), 1)]),
        (CrashOutcome::NotApplied, vec![stored(10)]),
    ] {
        let disk = written(&[stored(10)]);
        let (mut journal, _, _) = open(&disk).unwrap();
        disk.crash_at_commit(1, outcome);
        assert!(journal.commit(&[stored(9000), Write::Observe("a".into(), 1)]).is_err());
        assert!(journal.commit(&[stored(20)]).is_err(), "it must be opened again");
        let expected: Vec<Write> = expected.into_iter().chain([Write::Quarantine(true)]).collect();
        assert_eq!(open(&disk).unwrap().2, shown(&expected));
    }
}

#[test]
fn a_torn_commit_is_damage() {
    let disk = written(&[stored(10)]);
    let (mut journal, _, _) = open(&disk).unwrap();
    disk.crash_at_commit(1, CrashOutcome::Torn);
    assert!(journal.commit(&[stored(9000), Write::Observe("a".into(), 1)]).is_err());
    assert!(open(&disk).unwrap_err().is_damage());
}

#[test]
fn a_rotten_bit_anywhere_is_damage() {
    let mut all = one_of_each();
    all.push(stored(20_000));
    for seed in 0..500 {
        let disk = written(&all);
        disk.rot(seed);
        assert!(open(&disk).unwrap_err().is_damage(), "seed {seed}");
    }
}

#[test]
fn a_commit_of_nothing_costs_nothing() {
    let disk = MemoryDisk::new();
    let (mut journal, _, _) = open(&disk).unwrap();
    let commits = disk.commits();
    journal.commit(&[]).unwrap();
    assert_eq!(disk.commits(), commits);
}

/// A device is updated with its journal full: these bytes must open for ever.
#[test]
fn a_journal_of_format_1_opens() {
    let disk = MemoryDisk::new();
    let pairs = FORMAT_1.iter().map(|(key, value)| Change::Put { key: unhex(key), value: unhex(value) });
    disk.clone().open().unwrap().commit(&pairs.collect::<Vec<_>>()).unwrap();
    let (_, found, entries) = open(&disk).unwrap();
    assert_eq!((found, entries), (Found::Journal, shown(&one_of_each())));
}

#[test]
fn the_fixture_is_what_this_program_writes() {
    let disk = written(&one_of_each());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines: Vec<String> = disk
        .entries()
        .iter()
        .map(|(key, value)| format!("(\"{}\", \"{}\"),", hex(key), hex(value)))
        .collect();
    let fixture: Vec<String> =
        FORMAT_1.iter().map(|(key, value)| format!("(\"{key}\", \"{value}\"),")).collect();
    assert_eq!(
        lines,
        fixture,
        "the fixture of a released format stays; write one of the next:\n{}",
        lines.join("\n")
    );
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// Keys and values of [`one_of_each`].
#[rustfmt::skip]
const FORMAT_1: &[(&str, &str)] = &[
    ("6145447b7afbd5e544f7d0f1df0fccd2600000", "01e80c11405b226d65746164617461222c7b2261223a5b6e756c6c2c312e352c2278225d7d5d"),
    ("630000", "019771ed2b66616c7365"),
    ("690000", "018842183a7b226964656e74697479223a22643a6f72673a747970653a6964227d"),
    ("6d0000", "01db0f22577b2262223a22626f6f74222c2275223a313530302c2277223a313739343138323430303030307d"),
    ("6f0081779c287d567d9ca622f4c0cc2ede0000", "01dcb5d90f5b226c6576656c222c31325d"),
    ("7100000000000000010000", "014b0c3d357b2261223a223035303530353035303530353035303530353035303530353035303530353035227d"),
    ("7100000000000000020000", "0150357cbe7b226e223a7b2266223a2261222c2267223a337d7d"),
    ("7100000000000000030000", "01fd7a72357b2272223a7b224164644c6f67223a7b226d657373616765223a226d222c2274696d657374616d70223a2274222c227365766572697479223a327d7d7d"),
    ("72010101010101010101010101010101010000", "01c032fdca7b226f223a7b226e223a372c2269223a227231222c2272223a226d676d742f696e6974696174652f6465766963652f7265626f6f74222c2266223a223033303330333033303330333033303330333033303330333033303330333033222c2261223a322c226d223a7b2262223a22626f6f74222c2275223a313530302c2277223a313739343138323430303030307d2c2267223a7b2241744d6f73744d73223a357d2c2273223a7b2272223a7b2273223a66616c73657d7d7d7d"),
    ("72020202020202020202020202020202020000", "015a0d4bae7b226f223a7b226e223a372c2269223a227231222c2272223a226d676d742f696e6974696174652f6465766963652f7265626f6f74222c2264223a5b20312e3530205d2c2266223a223033303330333033303330333033303330333033303330333033303330333033222c2261223a322c226d223a7b2262223a22626f6f74222c2275223a313530302c2277223a313739343138323430303030307d2c2267223a7b2241744d6f73744d73223a357d2c2273223a7b2272223a7b2273223a747275657d7d7d7d"),
    ("72030303030303030303030303030303030000", "01962a2cd17b226f223a7b226e223a372c2269223a227231222c2272223a226d676d742f696e6974696174652f6465766963652f7265626f6f74222c2266223a223033303330333033303330333033303330333033303330333033303330333033222c2261223a322c226d223a7b2262223a22626f6f74222c2275223a313530302c2277223a313739343138323430303030307d2c2267223a7b2241744d6f73744d73223a357d2c2273223a7b2273223a7b2272223a7b227263223a3230322c227265714964223a227231227d2c2262223a2262227d7d7d7d"),
    ("72040404040404040404040404040404040000", "015f1e37dc7b226f223a7b226e223a372c2269223a227231222c2272223a226d676d742f696e6974696174652f6465766963652f7265626f6f74222c2266223a223033303330333033303330333033303330333033303330333033303330333033222c2261223a322c226d223a7b2262223a22626f6f74222c2275223a313530302c2277223a313739343138323430303030307d2c2267223a7b2241744d6f73744d73223a357d2c2273223a7b2270223a7b2272223a7b227263223a3230322c227265714964223a227231227d2c2262223a2262227d7d7d7d"),
    ("72050505050505050505050505050505050000", "018f9f0ae27b2264223a7b226e223a392c2270223a22747970652f542f69642f642f222c2266223a223034303430343034303430343034303430343034303430343034303430343034222c2263223a2265222c2272223a7b2273223a7b227263223a3230322c227265714964223a227231227d7d2c226f223a2262726f6b656e227d7d"),
    ("72060606060606060606060606060606060000", "018dc513987b2264223a7b226e223a392c2270223a22747970652f542f69642f642f222c2266223a223034303430343034303430343034303430343034303430343034303430343034222c2263223a2265222c2272223a7b226f223a7b2269223a372c2266223a5b2261225d7d7d2c226f223a2262726f6b656e227d7d"),
];

/// A body, of a length that may need several chunks.
fn json_text() -> impl Strategy<Value = Box<RawValue>> {
    let long = (0..3 * MAX_VALUE_BYTES).prop_map(|bytes| format!("\"{}\"", "x".repeat(bytes)));
    let text = any::<String>().prop_map(|text| json!([text, {"a": 1}]).to_string());
    prop_oneof![long, text, Just("[ 1.50 , -0.0e1 ]".to_owned())].prop_map(raw)
}

fn moments() -> impl Strategy<Value = Moment> {
    (any::<String>(), any::<u64>(), any::<u64>()).prop_map(|(boot, uptime_ms, wall_ms)| Moment {
        boot: boot.into(),
        uptime_ms,
        wall_ms,
    })
}

fn stages() -> impl Strategy<Value = StageRecord> {
    prop_oneof![
        any::<bool>().prop_map(|started| StageRecord::Recorded { started }),
        (json_text(), any::<String>())
            .prop_map(|(response, boot)| StageRecord::Settled { response, boot: boot.into() }),
        (json_text(), any::<String>())
            .prop_map(|(response, boot)| StageRecord::Performing { response, boot: boot.into() }),
    ]
}

prop_compose! {
    fn open_requests()(
        (sequence, attempt, works) in any::<(u64, u32, bool)>(),
        (subject, route) in any::<(String, String)>(),
        (req_id, d) in (json_text(), prop::option::of(json_text())),
        fingerprint in any::<[u8; 16]>(),
        arrived in moments(),
        age in prop_oneof![any::<u64>().prop_map(Age::AtMostMs), Just(Age::Unknown)],
        stage in stages(),
    ) -> OpenRequest {
        OpenRequest { sequence, subject, req_id, route, d, fingerprint, attempt, arrived, age, works, stage }
    }
}

prop_compose! {
    fn done_requests()(
        sequence in any::<u64>(),
        subject in any::<String>(),
        fingerprint in any::<[u8; 16]>(),
        class in prop::sample::select(vec![Class::Executed, Class::Refused, Class::Passing]),
        answer in prop_oneof![
            json_text().prop_map(AnswerRecord::Stored),
            (json_text(), any::<Vec<String>>())
                .prop_map(|(req_id, fields)| AnswerRecord::Observed { req_id, fields }),
        ],
        failure in any::<Option<String>>(),
    ) -> DoneRequest {
        DoneRequest { sequence, subject, fingerprint, class, answer, failure }
    }
}

fn records() -> impl Strategy<Value = Write> {
    let queued = prop_oneof![
        any::<[u8; 16]>().prop_map(Queued::Answer),
        any::<(String, u64)>().prop_map(|(field, generation)| Queued::Notify { field, generation }),
        any::<i32>().prop_map(|code| Queued::Report(Report::AddErrorCode(code))),
    ];
    let key = any::<u8>().prop_map(key);
    prop_oneof![
        (key.clone(), open_requests()).prop_map(|(key, request)| Write::Open(key, Box::new(request))),
        (key, done_requests()).prop_map(|(key, request)| Write::Done(key, Box::new(request))),
        (any::<u64>(), queued).prop_map(|(place, queued)| Write::Queue(place, queued)),
        any::<(String, String)>().prop_map(|(name, text)| Write::Attribute(name, json!({"a": text}))),
        any::<(String, u64)>().prop_map(|(field, generation)| Write::Observe(field, generation)),
        moments().prop_map(Write::Mark),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_record_is_read_back_as_it_was_written(record in records(), before in records()) {
        // What stood there before leaves nothing behind, however many chunks it had.
        let disk = written(&[before]);
        let (mut journal, ..) = open(&disk).unwrap();
        journal.commit(std::slice::from_ref(&record)).unwrap();
        let text = format!("{record:?}");
        prop_assert!(open(&disk).unwrap().2.contains(&text), "{}", text);
    }

    #[test]
    fn a_record_with_one_bit_changed_is_damage(record in records(), at in any::<prop::sample::Index>()) {
        let disk = written(&[record]);
        let pairs: Vec<_> = disk.entries().into_iter().collect();
        let (key, mut value) = pairs[at.index(pairs.len())].clone();
        let bit = at.index(value.len() * 8);
        value[bit / 8] ^= 1 << (bit % 8);
        disk.clone().open().unwrap().commit(&[Change::Put { key, value }]).unwrap();
        prop_assert!(open(&disk).is_err_and(|error| error.is_damage()));
    }

    #[test]
    fn any_pairs_are_read_or_damage(pairs in prop::collection::vec(any::<(Vec<u8>, Vec<u8>)>(), 0..4)) {
        let disk = written(&one_of_each());
        let mut store = disk.clone().open().unwrap();
        for (mut key, value) in pairs {
            key.truncate(100);
            key.insert(0, b"irqaocm"[value.len() % 7]);
            store.commit(&[Change::Put { key, value }]).unwrap();
        }
        prop_assert!(open(&disk).map_or_else(|error| error.is_damage(), |_| true));
    }
}
